// SPDX-License-Identifier: MIT OR Apache-2.0
//! A Node worker that cannot be taken over: nothing is known of it but its channel.
//!
//! That stays open, for Node ends a process at once whose channel is closed, whatever is in
//! flight. What it says is not believed, and forgotten; only what an end takes is answered. It
//! is asked to drain as the preload is. One that does not answer that has no preload, or is
//! blocked and will do one after the other: it is disconnected, or gets what the configuration
//! says that asks this app to finish. The signal comes when nothing is left to do, or shortly
//! before the process is killed (`resume::strangers`).

use super::stop::{GRACE, QUIET};
use super::{Engine, Interest, Outgoing, now};
use crate::core::{Time, WorkerId};
use crate::engine::poller::Token;
use crate::protocol::node::channel::{Channel, Received};
use crate::protocol::node::message::{Incoming, Preload, parse};
use nix::sys::signal::Signal;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// How long it is waited for the preload to answer.
const ANSWER: Duration = Duration::from_secs(1);

/// What asks the app to end, as the configuration of now has it.
#[derive(Debug, Clone)]
pub struct Wish {
    /// `stop_signal`.
    pub signal: Signal,
    /// `stop_message`, in place of the signal.
    pub message: Option<String>,
    /// Whether one of them was chosen, so that the app acts on it.
    pub chosen: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// To drain; it has not answered.
    Asked,
    /// It drains, by our preload.
    Draining,
    /// By the protocol.
    Disconnected,
    /// It has been told to end.
    Told,
}

/// One such worker.
pub struct Stray {
    channel: Channel,
    interest: Interest,
    seq: u64,
    wish: Wish,
    stage: Stage,
    /// Its preload has answered.
    preload: bool,
    /// Of SIGTERM and SIGINT, whether the app acts on it, as far as it was told.
    acts: [bool; 2],
    /// When the next step is due.
    due: Option<Time>,
    /// When it is told to end at the latest.
    last: Time,
}

impl Stray {
    /// Asks the worker at the other end to drain; it has until `last`.
    pub fn new(channel: OwnedFd, wish: Wish, last: Time) -> Stray {
        let now = now();
        let within = last.since(now);
        let mut stray = Stray {
            channel: Channel::on(channel),
            interest: Interest::Connection,
            seq: 0,
            wish,
            stage: Stage::Asked,
            preload: false,
            acts: [false; 2],
            due: Some(last.min(now + ANSWER)),
            last,
        };
        stray.say(&Outgoing::Drain {
            quiet: QUIET.min(within / 4),
            within,
            hurry: false,
        });
        stray
    }

    /// When something is to be done about it.
    pub fn due(&self) -> Option<Time> {
        self.due
    }

    /// Its channel, until the worker has closed it.
    pub fn channel(&self) -> Option<BorrowedFd<'_>> {
        (!self.channel.has_ended()).then(|| self.channel.as_fd())
    }

    fn say(&mut self, message: &Outgoing) {
        let line = message.line(self.seq);
        self.seq += 1;
        self.channel.send(line, None);
    }

    fn hear(&mut self) {
        self.channel.flush();
        if self.channel.is_clogged() {
            return;
        }
        for one in self.channel.receive() {
            match one {
                // The first one may lack its beginning.
                Received::Line(line) => self.heard(parse(&line).unwrap_or(Incoming::Other)),
                Received::TooLong { handle: true, .. } => self.heard(Incoming::Handle),
                Received::TooLong { .. } => {}
                Received::End(_) => self.ended(),
            }
        }
    }

    fn heard(&mut self, message: Incoming) {
        match message {
            // Its channel stands still until then.
            Incoming::Handle => {
                let answer = match self.channel.take_descriptor() {
                    Some(_) => Outgoing::HandleAck,
                    None => Outgoing::HandleNack,
                };
                self.say(&answer);
            }
            Incoming::Leaving { seq } => self.say(&Outgoing::MayLeave { ack: seq }),
            Incoming::Preload(Preload::Draining { signals }) => {
                self.preload = true;
                self.acts = ["SIGTERM", "SIGINT"].map(|name| signals.iter().any(|s| s == name));
                if matches!(self.stage, Stage::Asked | Stage::Disconnected) {
                    self.stage = Stage::Draining;
                    self.due = Some(self.last);
                }
            }
            Incoming::Preload(Preload::Drained) if self.stage == Stage::Draining => {
                let by_itself = !self.wish.chosen && self.acts == [false; 2];
                if by_itself {
                    self.say(&Outgoing::Release { after: None });
                }
                self.finish_within(if by_itself { GRACE } else { Duration::ZERO });
            }
            _ => {}
        }
    }

    fn ended(&mut self) {
        match self.stage {
            // Nothing was said of it.
            Stage::Asked => self.finish_within(Duration::ZERO),
            // It has no connection left.
            Stage::Disconnected => self.finish_within(GRACE),
            Stage::Draining | Stage::Told => {}
        }
    }

    /// It is told to end after `grace`.
    fn finish_within(&mut self, grace: Duration) {
        self.due = self.due.map(|at| at.min(now() + grace));
    }

    /// What is due; `Some`: the signal that the app is to get.
    fn go_on(&mut self) -> Option<Signal> {
        self.due.take_if(|at| *at <= now())?;
        let lost = self.channel.has_ended();
        match self.stage {
            Stage::Asked if !self.wish.chosen && !lost && now() < self.last => {
                self.stage = Stage::Disconnected;
                self.due = Some(self.last);
                self.say(&Outgoing::Disconnect);
                None
            }
            Stage::Told => {
                // By now it has closed what it closes by itself, and waits for the channel only.
                self.say(&Outgoing::Disconnect);
                None
            }
            before => {
                self.stage = Stage::Told;
                self.tell(before, lost)
            }
        }
    }

    fn tell(&mut self, before: Stage, lost: bool) -> Option<Signal> {
        let message = self.wish.message.clone().filter(|_| !lost);
        let signal = match self.acts {
            [false, true] if !self.wish.chosen => Signal::SIGINT,
            _ => self.wish.signal,
        };
        let told = message.is_some();
        if let Some(message) = message {
            self.say(&Outgoing::User(message));
        }
        if self.preload {
            let after = if told { "message" } else { signal.as_str() };
            self.say(&Outgoing::Release { after: Some(after) });
        } else if before != Stage::Disconnected {
            self.due = Some(now() + GRACE);
        }
        (!told).then_some(signal)
    }
}

impl Engine {
    /// Begins to listen to a stray.
    pub(in super::super) fn watch_stray(&mut self, worker: WorkerId, stray: &Stray) {
        let _ = self.poller.add(&stray.channel, Token::Channel(worker));
    }

    /// Something has happened on a stray's channel.
    pub(super) fn take_stray(&mut self, worker: WorkerId) {
        if let Some(stray) = self.stray(worker) {
            stray.hear();
            self.follow_stray(worker);
        }
    }

    /// What is due of strays.
    pub(in super::super) fn stray_turn(&mut self, worker: WorkerId) {
        let Some(stray) = self.stray(worker) else {
            return;
        };
        let signal = stray.go_on();
        let speaker = stray.channel.speaker();
        if let Some(signal) = signal {
            self.signal_stranger(worker, speaker, signal);
        }
        self.follow_stray(worker);
    }

    fn stray(&mut self, worker: WorkerId) -> Option<&mut Stray> {
        self.strangers.get_mut(&worker)?.stray.as_mut()
    }

    /// Says what is to be known of its channel now.
    fn follow_stray(&mut self, worker: WorkerId) {
        let known = self.strangers.get_mut(&worker);
        let Some(stray) = known.and_then(|stranger| stranger.stray.as_mut()) else {
            return;
        };
        if stray.channel.has_ended() {
            self.poller.remove(&stray.channel);
            return self.recorder.outdate();
        }
        let wanted = match (stray.channel.is_clogged(), stray.channel.wants_to_send()) {
            (true, _) => Interest::Room,
            (false, true) => Interest::Both,
            (false, false) => Interest::Connection,
        };
        let token = Token::Channel(worker);
        if wanted != stray.interest && self.poller.change(&stray.channel, token, wanted).is_ok() {
            stray.interest = wanted;
        }
    }

    /// It is gone, or will be at once.
    pub(in super::super) fn end_stray(&mut self, stray: &Stray) {
        // Others hold the socket, too: it has to be said.
        if stray.channel().is_some() {
            self.poller.remove(&stray.channel);
        }
        self.recorder.outdate();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn stray(chosen: bool) -> (Stray, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let wish = Wish {
            signal: Signal::SIGTERM,
            message: None,
            chosen,
        };
        theirs.set_nonblocking(true).expect("a flag");
        let last = now() + Duration::from_secs(600);
        (Stray::new(ours.into(), wish, last), theirs)
    }

    /// What the worker is told, and what it says then.
    fn exchange(stray: &mut Stray, theirs: &mut UnixStream, says: &str) -> String {
        theirs.write_all(says.as_bytes()).expect("room");
        stray.hear();
        told(theirs)
    }

    fn told(theirs: &mut UnixStream) -> String {
        let mut all = vec![0; 65_536];
        let count = theirs.read(&mut all).unwrap_or(0);
        String::from_utf8_lossy(&all[..count]).into_owned()
    }

    #[test]
    fn one_with_the_preload_is_told_to_end_when_it_has_drained() {
        let (mut stray, mut theirs) = stray(false);
        assert!(told(&mut theirs).contains("drain"));
        let draining = r#"{"cmd":"NODE_APP_CLUSTER","act":"draining","signals":["SIGTERM"]}"#;
        let answer = exchange(&mut stray, &mut theirs, &format!("{draining}\n"));
        assert_eq!((answer.as_str(), stray.due()), ("", Some(stray.last)));
        let drained = r#"{"cmd":"NODE_APP_CLUSTER","act":"drained"}"#;
        exchange(&mut stray, &mut theirs, &format!("{drained}\n"));
        assert!(stray.due().is_some_and(|at| at <= now()));
        assert_eq!(stray.go_on(), Some(Signal::SIGTERM));
        assert!(told(&mut theirs).contains("release"));
        assert_eq!((stray.go_on(), stray.due()), (None, None));
    }

    #[test]
    fn one_without_it_is_disconnected() {
        let (mut stray, mut theirs) = stray(false);
        told(&mut theirs);
        stray.due = Some(now());
        assert_eq!(stray.go_on(), None);
        assert!(told(&mut theirs).contains("disconnect"));
        assert_eq!(stray.due(), Some(stray.last));
        drop(theirs);
        stray.hear();
        assert!(stray.channel().is_none());
        assert!(stray.due().is_some_and(|at| at <= now() + GRACE));
    }

    #[test]
    fn one_that_knows_a_signal_gets_that_first() {
        let (mut stray, mut theirs) = stray(true);
        told(&mut theirs);
        stray.due = Some(now());
        assert_eq!(stray.go_on(), Some(Signal::SIGTERM));
        assert_eq!(told(&mut theirs), "");
        stray.due = Some(now());
        assert_eq!(stray.go_on(), None);
        assert!(told(&mut theirs).contains("disconnect"));
    }

    #[test]
    fn what_an_end_takes_is_answered_and_nothing_else() {
        let (mut stray, mut theirs) = stray(false);
        told(&mut theirs);
        let nothing = "nd of a line\n{\n\n{\"cmd\":\"NODE_CLUSTER\",\"act\":\"queryServer\",\
                       \"seq\":1}\n\"ready\"\n{\"cmd\":\"NODE_HANDLE_ACK\"}\n";
        assert_eq!(exchange(&mut stray, &mut theirs, nothing), "");
        let leaving = r#"{"cmd":"NODE_CLUSTER","act":"exitedAfterDisconnect","seq":5}"#;
        let answer = exchange(&mut stray, &mut theirs, &format!("{leaving}\n"));
        assert!(answer.contains("\"ack\":5"), "{answer}");
        let handle = r#"{"cmd":"NODE_HANDLE","type":"net.Socket"}"#;
        let answer = exchange(&mut stray, &mut theirs, &format!("{handle}\n"));
        assert!(answer.contains("NODE_HANDLE_NACK"), "{answer}");
    }
}
