// SPDX-License-Identifier: MIT OR Apache-2.0
//! What of a channel goes from one supervisor to the next: lines of which a part has been
//! received, or sent. A line that was begun is completed, never followed by another.

use super::{Channel, Waiting};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What goes from one supervisor to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfinished {
    /// The beginning of a line; `None`: not known.
    received: Option<Vec<u8>>,
    dropping: Option<(usize, bool)>,
    /// Lines; the first may be the rest of one.
    to_send: Vec<Vec<u8>>,
    begun: bool,
    /// Which of them are to be sent with a descriptor.
    with_descriptor: Vec<usize>,
}

impl Unfinished {
    /// Nothing more was to be said or heard when it was taken down.
    pub fn is_exact(&self) -> bool {
        self.received.is_some()
    }
}

impl Channel {
    /// A line of which a part has been sent; `exact`: also those that wait, and what has been
    /// received of a line, since nothing more will be.
    pub fn unfinished(&self, exact: bool) -> Unfinished {
        let lines = self.waiting.iter().filter(|one| exact || one.begun);
        let with = lines.clone().enumerate();
        let with = with.filter(|(_, one)| one.owes || (one.handle.is_some() && one.sent == 0));
        Unfinished {
            received: exact.then(|| self.partial.clone()),
            dropping: self.dropping.filter(|_| exact),
            begun: self.waiting.front().is_some_and(|one| one.begun),
            with_descriptor: with.map(|(n, _)| n).collect(),
            to_send: lines.map(|w| w.bytes[w.sent..].to_vec()).collect(),
        }
    }

    /// Goes on with it. Lines that are to be sent with a descriptor wait for
    /// [`Channel::supply`].
    pub fn go_on(&mut self, unfinished: Unfinished) {
        // Who was killed may have read the beginning of what comes first.
        self.torn = unfinished.received.is_none();
        self.partial = unfinished.received.unwrap_or_default();
        self.dropping = unfinished.dropping;
        // What was sent last may not have been read.
        self.bare = true;
        for (n, bytes) in unfinished.to_send.into_iter().enumerate() {
            self.waiting_bytes += bytes.len();
            self.waiting.push_back(Waiting {
                bytes,
                sent: 0,
                handle: None,
                begun: n == 0 && unfinished.begun,
                owes: unfinished.with_descriptor.contains(&n),
            });
        }
        self.flush();
    }

    /// One that has ended already.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn ended() -> io::Result<Channel> {
        let (mut channel, _) = Channel::pair()?;
        channel.ended = true;
        Ok(channel)
    }

    /// This process has spoken last.
    pub fn spoken_by(&mut self, speaker: Option<i32>) {
        self.speaker = speaker;
    }

    /// How many lines wait for their descriptors.
    pub fn owing(&self) -> usize {
        self.waiting.iter().filter(|one| one.owes).count()
    }

    /// Gives the first of them its descriptor; `None`: the line is not sent.
    pub fn supply(&mut self, handle: Option<Arc<OwnedFd>>) {
        let Some(at) = self.waiting.iter().position(|one| one.owes) else {
            return;
        };
        match handle {
            Some(handle) => {
                self.waiting[at].handle = Some(handle);
                self.waiting[at].owes = false;
            }
            None => {
                let one = self.waiting.remove(at);
                self.waiting_bytes -= one.map_or(0, |one| one.bytes.len());
            }
        }
        self.flush();
    }

    /// Whether something else of a line has been sent than what another supervisor would go on
    /// with ([`Channel::unfinished`]); once.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Whether the line that was received first may be the end of one; once.
    pub fn take_torn(&mut self) -> bool {
        std::mem::take(&mut self.torn)
    }
}
