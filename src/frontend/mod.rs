// SPDX-License-Identifier: MIT OR Apache-2.0
//! What others talk to the supervisor through. Each front end has threads of its own
//! with plain blocking code; they reach the loop through [`Desk`].

pub mod control;
pub mod varlink;

use crate::api;
use nix::sys::eventfd::EventFd;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

/// Answers that may wait for a slow client before it is given up.
const ANSWERS: usize = 1024;
/// Calls that may wait for the loop.
const CALLS: usize = 256;

/// What comes back for a call: any number of steps, then one final answer.
#[derive(Debug)]
pub enum Answer {
    /// Something has been done.
    Progress(api::Progress),
    /// The final answer to `GetStatus`.
    Status(Box<api::Status>),
    /// The final answer to anything else.
    Final(Result<api::Outcome, api::Error>),
}

/// A call on its way to the loop.
#[derive(Debug)]
pub struct Ask {
    /// What is wanted.
    pub call: api::Call,
    /// Where the answers go. A receiver that is gone or does not read loses them.
    pub answers: SyncSender<Answer>,
}

/// Where front ends put their calls. Cloned into every thread.
#[derive(Debug, Clone)]
pub struct Desk {
    calls: SyncSender<Ask>,
    bell: Arc<EventFd>,
}

impl Desk {
    /// A desk, and the loop's end of it: the calls, and an eventfd that is readable
    /// while there may be some.
    pub fn new() -> io::Result<(Desk, Receiver<Ask>, Arc<EventFd>)> {
        use nix::sys::eventfd::EfdFlags;
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let bell = Arc::new(bell);
        let (calls, inbox) = std::sync::mpsc::sync_channel(CALLS);
        let desk = Desk {
            calls,
            bell: Arc::clone(&bell),
        };
        Ok((desk, inbox, bell))
    }

    /// Puts a call to the loop. `None`: the loop has ended.
    pub fn ask(&self, call: api::Call) -> Option<Receiver<Answer>> {
        let (answers, inbox) = std::sync::mpsc::sync_channel(ANSWERS);
        self.calls.send(Ask { call, answers }).ok()?;
        self.bell.write(1).ok()?;
        Some(inbox)
    }
}
