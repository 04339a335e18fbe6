// SPDX-License-Identifier: MIT OR Apache-2.0
//! What others talk to the supervisor through. Each front end has threads of its own
//! with plain blocking code; they reach the loop through [`Desk`].

mod call;
mod caller;
pub mod control;
mod feed;
mod subscription;
pub mod varlink;

pub use feed::Feed;

use crate::api;
use nix::sys::eventfd::EventFd;
use std::io;
use std::sync::mpsc::{Receiver, Sender, SyncSender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Calls that may wait for the loop.
const CALLS: usize = 256;

/// What comes back for a call: any number of steps, then one final answer.
#[derive(Debug)]
pub enum Answer {
    /// Something has been done.
    Progress(api::Progress),
    /// The final answer to `GetStatus`.
    Status(Box<api::Status>),
    /// The final answer to `Plan`.
    Plan(Box<api::Plan>),
    /// The answer to `Subscribe`: where the messages will be.
    Messages(Arc<Feed>),
    /// The final answer to anything else.
    Final(Result<api::Outcome, api::Error>),
}

/// A call on its way to the loop.
#[derive(Debug)]
pub struct Ask {
    /// What is wanted.
    pub call: api::Call,
    /// Where the answers go. A receiver that is gone or does not read loses them.
    pub answers: Sender<Answer>,
}

/// Where front ends put their calls. Cloned into every thread.
#[derive(Debug, Clone)]
pub struct Desk {
    calls: SyncSender<Ask>,
    bell: Arc<EventFd>,
    open: OpenCalls,
}

/// How many calls are under way: put, and their last answer not yet written.
#[derive(Debug, Clone, Default)]
pub struct OpenCalls(Arc<(Mutex<usize>, Condvar)>);

impl OpenCalls {
    /// Blocks until there are none, at the longest `within`: the end of the process
    /// would take answers away that the loop has given already.
    pub fn settle(&self, within: Duration) {
        let (count, changed) = &*self.0;
        let count = count.lock().unwrap_or_else(PoisonError::into_inner);
        drop(changed.wait_timeout_while(count, within, |count| *count > 0));
    }

    fn begin(&self) -> OpenCall {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        OpenCall(self.clone())
    }
}

/// A call under way, until it is dropped.
#[derive(Debug)]
pub struct OpenCall(OpenCalls);

impl Drop for OpenCall {
    fn drop(&mut self) {
        let (count, changed) = &*self.0.0;
        *count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        changed.notify_all();
    }
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
            open: OpenCalls::default(),
        };
        Ok((desk, inbox, bell))
    }

    /// The calls that are under way.
    pub fn open(&self) -> OpenCalls {
        self.open.clone()
    }

    /// Puts a call to the loop. `None`: the loop has ended. The second part is to be kept
    /// until the last answer has been delivered.
    pub fn ask(&self, call: api::Call) -> Option<(Receiver<Answer>, OpenCall)> {
        let open = self.open.begin();
        let (answers, inbox) = std::sync::mpsc::channel();
        self.calls.send(Ask { call, answers }).ok()?;
        self.bell.write(1).ok()?;
        Some((inbox, open))
    }
}
