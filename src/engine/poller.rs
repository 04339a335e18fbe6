// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the loop waits for: epoll(7), level-triggered.
//!
//! The contract: every source is registered once, under a [`Token`] that says
//! what it is; [`Poller::wait`] returns the ready ones sorted by rank, so that
//! one turn of the loop always goes: signs of life → exits → signals → requests
//! → the rest. The caller does a bounded amount of work for each; what is left
//! is reported again in the next turn. A descriptor is removed before it is
//! closed, so a token that is reported was valid when the turn began; whoever
//! closed it earlier in the same turn makes the later lookup find nothing.

use crate::core::WorkerId;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// What a descriptor is, in order of rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Token {
    /// A worker's notify socket.
    Notify(WorkerId),
    /// A Node worker's channel.
    Channel(WorkerId),
    /// The companion's channel.
    CompanionChannel,
    /// A worker's pidfd.
    Exit(WorkerId),
    /// The companion's pidfd.
    CompanionExit,
    /// The pidfd of a readiness command run for a worker.
    ProbeExit(WorkerId),
    /// What a question after a worker's health is put over: a connection, or the output of a
    /// command.
    Health(WorkerId),
    /// The pidfd of such a command.
    HealthExit(WorkerId),
    /// The signalfd.
    Signal,
    /// The eventfd of the front ends.
    Request,
    /// The eventfd of looks at workers' memory that have an answer.
    Measured,
    /// The pidfd of the program that is asked whether it can go on from here.
    Program,
    /// A pipe that hangs up when systemd knows that we are ready.
    Barrier,
    /// A listening socket, by the numbers of its listener and its line; what is reported
    /// depends on the [`Interest`].
    Line(usize, usize),
    /// `cgroup.events` of a worker that is gone but whose cgroup was not empty.
    Cgroup(WorkerId),
}

impl Token {
    fn encode(self) -> u64 {
        let (kind, id) = match self {
            Token::Notify(w) => (0, w.0),
            Token::Channel(w) => (8, w.0),
            Token::CompanionChannel => (9, 0),
            Token::CompanionExit => (10, 0),
            Token::Exit(w) => (1, w.0),
            Token::ProbeExit(w) => (2, w.0),
            Token::Health(w) => (11, w.0),
            Token::HealthExit(w) => (12, w.0),
            Token::Signal => (3, 0),
            Token::Request => (4, 0),
            Token::Barrier => (7, 0),
            Token::Line(listener, line) => (5, (listener as u64) << 32 | line as u64),
            Token::Cgroup(w) => (6, w.0),
            Token::Measured => (16, 0),
            Token::Program => (17, 0),
        };
        kind << 56 | id
    }

    fn decode(data: u64) -> Token {
        let worker = WorkerId(data & ((1 << 56) - 1));
        match data >> 56 {
            0 => Token::Notify(worker),
            1 => Token::Exit(worker),
            2 => Token::ProbeExit(worker),
            3 => Token::Signal,
            4 => Token::Request,
            5 => Token::Line((worker.0 >> 32) as usize, worker.0 as u32 as usize),
            6 => Token::Cgroup(worker),
            8 => Token::Channel(worker),
            9 => Token::CompanionChannel,
            10 => Token::CompanionExit,
            11 => Token::Health(worker),
            12 => Token::HealthExit(worker),
            16 => Token::Measured,
            17 => Token::Program,
            _ => Token::Barrier,
        }
    }
}

/// What is to be known of a listening socket or a channel. EPOLLHUP, that it has been shut
/// down, is always reported; connections are the workers' business.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Nothing else.
    Hangup,
    /// That a connection waits; of a channel, that a message does.
    Connection,
    /// Of a channel: that it can be written to.
    Room,
    /// Of a channel: both.
    Both,
}

impl Interest {
    fn flags(self) -> EpollFlags {
        match self {
            Interest::Hangup => EpollFlags::empty(),
            Interest::Connection => EpollFlags::EPOLLIN,
            Interest::Room => EpollFlags::EPOLLOUT,
            Interest::Both => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT,
        }
    }
}

/// The epoll instance.
pub struct Poller {
    epoll: Epoll,
    events: Vec<EpollEvent>,
}

impl Poller {
    /// An empty set.
    pub fn new() -> io::Result<Poller> {
        Ok(Poller {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            events: vec![EpollEvent::empty(); 256],
        })
    }

    /// Waits for `fd` to be readable (for `Cgroup`: to have an exceptional condition).
    /// The descriptor stays the caller's.
    pub fn add(&self, fd: impl AsFd, token: Token) -> io::Result<()> {
        let flags = match token {
            Token::Cgroup(_) => EpollFlags::EPOLLPRI,
            Token::Line(..) => Interest::Hangup.flags(),
            _ => EpollFlags::EPOLLIN,
        };
        let event = EpollEvent::new(flags, token.encode());
        Ok(self.epoll.add(fd, event)?)
    }

    /// Says what is to be known of a listening socket or channel that was added as `token`.
    pub fn change(&self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        let mut event = EpollEvent::new(interest.flags(), token.encode());
        Ok(self.epoll.modify(fd, &mut event)?)
    }

    /// Forgets `fd`; to be called before it is closed.
    pub fn remove(&self, fd: impl AsFd) {
        // It can only fail for a descriptor that was never added.
        let _ = self.epoll.delete(fd);
    }

    /// Sleeps until something is ready or `timeout` is over (`None`: for ever).
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<Vec<Token>> {
        let timeout = match timeout {
            // Rounded up: a deadline must have passed when its time is handled.
            Some(span) => {
                let millis = span.as_micros().div_ceil(1000);
                EpollTimeout::try_from(i32::try_from(millis).unwrap_or(i32::MAX))
                    .unwrap_or(EpollTimeout::MAX)
            }
            None => EpollTimeout::NONE,
        };
        let count = match self.epoll.wait(&mut self.events, timeout) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let ready = self.events[..count].iter();
        let mut tokens: Vec<Token> = ready.map(|e| Token::decode(e.data())).collect();
        tokens.sort();
        Ok(tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel_and_sort_by_rank() {
        let worker = WorkerId(1 << 55 | 3);
        let all = [
            Token::Notify(worker),
            Token::Channel(worker),
            Token::CompanionChannel,
            Token::Exit(worker),
            Token::CompanionExit,
            Token::ProbeExit(worker),
            Token::Health(worker),
            Token::HealthExit(worker),
            Token::Signal,
            Token::Request,
            Token::Measured,
            Token::Barrier,
            Token::Line(3, 255),
            Token::Cgroup(worker),
        ];
        for token in all {
            assert_eq!(Token::decode(token.encode()), token);
        }
        assert!(all.is_sorted());
    }
}
