// SPDX-License-Identifier: MIT OR Apache-2.0
//! Our end of a worker's channel: lines in, lines out, descriptors with them.
//!
//! Nothing here blocks. What comes in is bounded by [`MAX_LINE`]; what waits to go out by
//! [`MAX_WAITING`], beyond which the worker is not read any more ([`Channel::is_clogged`]):
//! one that does not read hurts itself only.

mod look;
mod unfinished;

pub use unfinished::Unfinished;

use super::message::comes_with_a_descriptor;
use crate::sys::unread_by_peer;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    sockopt,
};
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Longest line that is taken, in bytes; a longer one is dropped and told of.
pub const MAX_LINE: usize = 1024 * 1024;
/// So much may wait to be sent, in bytes, before messages of users are refused.
pub const MAX_WAITING: usize = 1024 * 1024;
/// Bytes read at once, and how often in one turn of the loop. The first time less: most of what
/// is said is short, and room costs time, since it is filled with zeros.
const FIRST_PIECE: usize = 4 * 1024;
const PIECE: usize = 64 * 1024;
const PIECES: usize = 4;
/// When it is looked again whether lines have been read (at first), and whether the user's
/// descriptors that are on their way have become fewer.
const UNREAD: Duration = Duration::from_millis(1);
const TOO_MANY: Duration = Duration::from_millis(100);
/// Descriptors that a worker may have sent ahead of the line that names them.
const MAX_DESCRIPTORS: usize = 8;

/// One thing that was received.
#[derive(Debug)]
pub enum Received {
    /// A line, without its newline.
    Line(Vec<u8>),
    /// A line of so many bytes was dropped.
    TooLong {
        /// So many.
        length: usize,
        /// It came with a descriptor, which has to be acknowledged.
        handle: bool,
    },
    /// The worker has closed its end, or is gone; so many bytes of a line were left.
    End(usize),
}

struct Waiting {
    bytes: Vec<u8>,
    /// How many of them have been sent.
    sent: usize,
    handle: Option<Arc<OwnedFd>>,
    /// A part of it has been sent, perhaps by another supervisor.
    begun: bool,
    /// Its descriptor is still to be supplied.
    owes: bool,
}

/// Our end of a channel. Both descriptors of a pair are CLOEXEC.
pub struct Channel {
    socket: OwnedFd,
    /// The beginning of a line, and how much of it has been searched for its end.
    partial: Vec<u8>,
    searched: usize,
    /// So many bytes were acted upon, and are still to be taken.
    seen: usize,
    /// Bytes dropped so far of a line that is too long.
    dropping: Option<(usize, bool)>,
    descriptors: VecDeque<OwnedFd>,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    speaker: Option<i32>,
    ended: bool,
    /// Nothing can be sent now, though there is room; when it is to be tried again.
    stalled: Option<Duration>,
    /// How long it was waited last for lines to be read.
    pause: Duration,
    /// See [`Channel::part_handles`].
    parted: bool,
    /// Lines without a descriptor were sent that may not have been read.
    bare: bool,
    /// The next line may lack its beginning.
    torn: bool,
    /// See [`Channel::take_changed`].
    changed: bool,
}

impl Channel {
    /// A channel, and the worker's end of it.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn pair() -> io::Result<(Channel, OwnedFd)> {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        // Who speaks behind `sh -c` or npm.
        sockopt::set_socket_passcred(&ours, true)?;
        Ok((Channel::on(ours), theirs))
    }

    /// On our end of a channel that was made before, and is as it was.
    pub fn on(socket: OwnedFd) -> Channel {
        Channel {
            socket,
            partial: Vec::new(),
            searched: 0,
            seen: 0,
            dropping: None,
            descriptors: VecDeque::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            speaker: None,
            ended: false,
            stalled: None,
            pause: Duration::ZERO,
            parted: false,
            bare: false,
            torn: false,
            changed: false,
        }
    }

    /// From now on a descriptor is only sent when the lines without one before it have been
    /// read. One read of the socket yields lines up to the first descriptor and that (unix(7)),
    /// and there are programs that take it for the first line's.
    pub fn part_handles(&mut self) {
        self.parted = true;
    }

    /// The process that sent what was received last, if the kernel tells.
    pub fn speaker(&self) -> Option<i32> {
        self.speaker
    }

    /// Whether [`Received::End`] has been seen, or sending has failed.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether something waits to be sent.
    pub fn wants_to_send(&self) -> bool {
        !self.waiting.is_empty() && !self.ended && self.stalled.is_none()
    }

    /// After which time sending has to be tried again, if being writable says nothing.
    pub fn stalled_for(&self) -> Option<Duration> {
        self.stalled.filter(|_| !self.ended)
    }

    /// How many descriptors wait to be sent.
    pub fn descriptors_waiting(&self) -> usize {
        let waiting = self.waiting.iter();
        waiting.filter(|one| one.handle.is_some()).count()
    }

    /// Whether so much waits to be sent that nothing more should be taken from this worker.
    pub fn is_clogged(&self) -> bool {
        self.waiting_bytes > MAX_WAITING
    }

    /// Whether a message of a user, of so many bytes, may be sent: it goes out at once, or not
    /// too much waits already.
    pub fn has_room(&self, length: usize) -> bool {
        !self.ended && (self.waiting.is_empty() || self.waiting_bytes + length <= MAX_WAITING)
    }

    /// The descriptor that came with the line that was received last, if one did.
    pub fn take_descriptor(&mut self) -> Option<OwnedFd> {
        let descriptor = self.descriptors.pop_front()?;
        do_not_linger(&descriptor);
        Some(descriptor)
    }

    /// What has arrived, a bounded amount of it. To be called when it is readable.
    pub fn receive(&mut self) -> Vec<Received> {
        self.forget();
        let mut all = Vec::new();
        let mut room = FIRST_PIECE;
        for _ in 0..PIECES {
            if self.ended {
                break;
            }
            match self.receive_piece(room, RecvFlags::empty()) {
                Ok(Some(0)) | Err(_) => {
                    self.ended = true;
                    let left = self.partial.len() + self.dropping.map_or(0, |(count, _)| count);
                    self.partial = Vec::new();
                    all.push(Received::End(left));
                }
                Ok(Some(count)) => {
                    if count == room {
                        room = PIECE;
                    }
                    self.split(&mut all);
                }
                Ok(None) => break,
            }
        }
        all
    }

    /// Reads at most `room` bytes once; `None`: there is nothing. Descriptors that are only
    /// looked at (MSG_PEEK) come again.
    fn receive_piece(&mut self, room: usize, how: RecvFlags) -> Result<Option<usize>, Errno> {
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16), ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let length = self.partial.len();
        self.partial.resize(length + room, 0);
        let mut parts = [IoSliceMut::new(&mut self.partial[length..])];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT | how;
        let received = recvmsg(&self.socket, &mut parts, &mut control, flags);
        let count = received.as_ref().map_or(0, |r| r.bytes);
        self.partial.truncate(length + count);
        for message in control.drain() {
            match message {
                RecvAncillaryMessage::ScmCredentials(from) => {
                    self.speaker = Some(from.pid.as_raw_nonzero().get());
                }
                RecvAncillaryMessage::ScmRights(sent) => {
                    for descriptor in sent {
                        let room = self.descriptors.len() < MAX_DESCRIPTORS;
                        match room && !how.contains(RecvFlags::PEEK) {
                            true => self.descriptors.push_back(descriptor),
                            false => do_not_linger(descriptor),
                        }
                    }
                }
                _ => {}
            }
        }
        match received {
            Ok(_) => Ok(Some(count)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes whole lines out of what was read.
    fn split(&mut self, all: &mut Vec<Received>) {
        let mut begin = 0;
        while let Some(at) = self.partial[self.searched..]
            .iter()
            .position(|b| *b == b'\n')
        {
            let end = self.searched + at;
            match self.dropping.take() {
                Some((dropped, handle)) => all.push(Received::TooLong {
                    length: dropped + end - begin,
                    handle,
                }),
                None => all.push(Received::Line(self.partial[begin..end].to_vec())),
            }
            begin = end + 1;
            self.searched = begin;
        }
        self.partial.drain(..begin);
        self.searched = self.partial.len();
        if self.partial.len() > MAX_LINE || self.dropping.is_some() {
            let handle = comes_with_a_descriptor(&self.partial);
            self.dropping.get_or_insert((0, handle)).0 += self.partial.len();
            self.partial = Vec::new();
            self.searched = 0;
        }
        if self.partial.is_empty() && self.partial.capacity() > 2 * PIECE {
            self.partial = Vec::new();
        }
    }

    /// Sends a line, now or as soon as the worker reads. A copy of `handle` goes with it.
    pub fn send(&mut self, line: Vec<u8>, handle: Option<Arc<OwnedFd>>) {
        if self.ended {
            return;
        }
        self.waiting_bytes += line.len();
        self.waiting.push_back(Waiting {
            bytes: line,
            sent: 0,
            handle,
            begun: false,
            owes: false,
        });
        self.flush();
    }

    /// Sends what waits, as far as the worker reads. To be called when it is writable.
    pub fn flush(&mut self) {
        self.stalled = None;
        while let Some(first) = self.waiting.front_mut().filter(|first| !first.owes) {
            let bare = first.handle.is_none();
            if self.parted && !bare && self.bare && first.sent == 0 {
                self.bare = unread_by_peer(self.socket.as_fd()).is_ok_and(|unread| unread > 0);
                if self.bare {
                    self.pause = (self.pause * 2).clamp(UNREAD, TOO_MANY);
                    self.stalled = Some(self.pause);
                    return;
                }
            }
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let handle = first.handle.as_deref().map(OwnedFd::as_fd);
            let descriptors = [handle.unwrap_or(self.socket.as_fd())];
            if first.handle.is_some() && first.sent == 0 {
                control.push(SendAncillaryMessage::ScmRights(&descriptors));
            }
            let rest = [IoSlice::new(&first.bytes[first.sent..])];
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(&self.socket, &rest, &mut control, flags) {
                Ok(count) => {
                    self.bare |= bare;
                    self.pause = Duration::ZERO;
                    first.sent += count;
                    self.waiting_bytes -= count;
                    self.changed |= first.begun || first.sent < first.bytes.len();
                    first.begun = true;
                    if first.sent == first.bytes.len() {
                        self.waiting.pop_front();
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // Too many descriptors of this user are on their way (unix(7)): somebody has
                // to receive some first, which nothing tells.
                Err(Errno::TOOMANYREFS) => {
                    self.stalled = Some(TOO_MANY);
                    return;
                }
                Err(_) => {
                    self.waiting.clear();
                    self.waiting_bytes = 0;
                    return;
                }
            }
        }
    }
}

/// Closing `socket` is not to wait for what is unsent, whatever a worker has set (SO_LINGER,
/// socket(7)).
pub fn do_not_linger(socket: impl AsFd) {
    if let Ok(Some(wait)) = sockopt::socket_linger(&socket)
        && !wait.is_zero()
    {
        let _ = sockopt::set_socket_linger(&socket, None);
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.descriptors.iter().for_each(do_not_linger);
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
#[path = "channel_tests.rs"]
mod tests;
