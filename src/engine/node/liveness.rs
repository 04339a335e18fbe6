// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether a worker's event loop turns.
//!
//! An unmodified worker answers a connection for a server that it does not have with
//! `accepted: false` (lib/internal/cluster/child.js, `onconnection`), as soon as its event
//! loop gets to it. So it is asked with a socket that nobody is at the other end of:
//! whenever a connection waits for it, and with each ping of systemd's watchdog.

use super::deal::Flight;
use super::{Engine, Outgoing, Sent, now};
use crate::core::{Event, Time, WorkerId, WorkerState};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use std::sync::Arc;
use std::time::Duration;

/// A key that no server has.
const NOBODY: &str = "app-cluster: are you there?";
/// A worker is not asked more often than this.
const PAUSE: Duration = Duration::from_millis(250);

/// What is known of one worker.
#[derive(Debug, Default)]
pub struct Life {
    /// It was asked then, and has not answered.
    pub asked: Option<Time>,
    /// When it was asked last.
    last: Option<Time>,
    /// How long it took to answer.
    pub lag: Option<Duration>,
    /// The core knows that it is blocked.
    pub told: bool,
    /// The core waits for its answer.
    on_trial: bool,
}

impl Engine {
    /// Asks a worker whether it is there, if it can be asked.
    pub(in super::super) fn ask(&mut self, worker: WorkerId) {
        let ready = |w: &crate::core::Worker| w.state == WorkerState::Ready;
        if !self.core.worker(worker).is_some_and(ready) || self.blocked_timeout(worker).is_none() {
            return;
        }
        let Some(dummy) = self.dummy() else {
            return;
        };
        let now = now();
        let Some(talk) = self.talk(worker) else {
            return;
        };
        let soon = talk.life.last.is_some_and(|at| at + PAUSE > now);
        // Only a worker of a cluster understands.
        let asked = talk.life.asked.is_some() || talk.channel.has_ended();
        if asked || soon || talk.servers.is_empty() {
            return;
        }
        (talk.life.asked, talk.life.last) = (Some(now), Some(now));
        let key = NOBODY.to_owned();
        let Some(seq) = self.say(worker, &Outgoing::Connection { key }, Some(dummy)) else {
            return;
        };
        if let Some(talk) = self.talk(worker) {
            talk.flights.insert(seq, Flight::Question);
            talk.handles.push_back(Sent::Connection(seq));
        }
    }

    /// [`crate::core::Action::Ask`]: answered at once for one that cannot be asked.
    pub(in super::super) fn try_worker(&mut self, worker: WorkerId) {
        if let Some(talk) = self.talk(worker) {
            talk.life.last = None;
        }
        self.ask(worker);
        match self.talk(worker).filter(|talk| talk.life.asked.is_some()) {
            Some(talk) => talk.life.on_trial = true,
            None => self.pending.push_back(Event::Alive { worker }),
        }
    }

    /// Its channel has ended. One that is on trial owes its answer all the same: it is gone in
    /// a moment, or counts as blocked and then as hung.
    pub(super) fn nobody_answers(&mut self, worker: WorkerId) {
        if let Some(talk) = self.talk(worker).filter(|talk| !talk.life.on_trial) {
            talk.life.asked = None;
        }
    }

    /// Another process speaks for it: whoever was asked is gone, and this one cannot be asked
    /// yet.
    pub(super) fn lives_anew(&mut self, worker: WorkerId) {
        let Some(talk) = self.talk(worker) else {
            return;
        };
        let before = std::mem::take(&mut talk.life);
        if before.on_trial {
            self.feed(Event::Alive { worker });
        }
        if before.told {
            self.feed(Event::Answered { worker });
        }
    }

    /// Asks all workers.
    pub(in super::super) fn ask_all(&mut self) {
        let all: Vec<WorkerId> = self.held.keys().copied().collect();
        for worker in all {
            self.ask(worker);
        }
    }

    fn dummy(&mut self) -> Option<Arc<std::os::fd::OwnedFd>> {
        if self.node.dummy.is_none() {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let pair = socketpair(AddressFamily::Unix, SockType::Stream, None, flags).ok()?;
            self.node.dummy = Some(Arc::new(pair.0));
        }
        self.node.dummy.clone()
    }

    fn blocked_timeout(&self, worker: WorkerId) -> Option<Duration> {
        let generation = self.core.worker(worker)?.generation;
        self.releases.get(&generation)?.config.blocked_timeout
    }

    /// It has answered a question, or taken a connection.
    pub(super) fn answered(&mut self, worker: WorkerId, question: bool) {
        let now = now();
        let Some(talk) = self.talk(worker) else {
            return;
        };
        if question && let Some(asked) = talk.life.asked.take() {
            talk.life.lag = Some(now.since(asked));
        } else if talk.life.asked.is_some() {
            // Its event loop turns: what it owes, it owes from now on.
            talk.life.asked = Some(now);
        }
        if question && std::mem::take(&mut talk.life.on_trial) {
            self.feed(Event::Alive { worker });
        }
        let Some(talk) = self.talk(worker) else {
            return;
        };
        if std::mem::take(&mut talk.life.told) {
            self.feed(Event::Answered { worker });
        }
    }

    /// Since when a worker owes an answer.
    fn owes_since(&self, worker: WorkerId) -> Option<Time> {
        let talk = self.held.get(&worker)?.talk.as_ref()?;
        if talk.life.told {
            return None;
        }
        let sent = talk.flights.values().filter_map(Flight::since).min();
        talk.life.asked.into_iter().chain(sent).min()
    }

    /// When a worker would count as blocked.
    pub(super) fn liveness_deadline(&self) -> Option<Time> {
        let due = |worker: &WorkerId| {
            let since = self.owes_since(*worker)?;
            Some(since + self.blocked_timeout(*worker)?)
        };
        self.held.keys().filter_map(due).min()
    }

    /// Tells the core of the workers that have not answered in time.
    pub(super) fn look_for_blocked(&mut self) {
        let now = now();
        let late = |worker: &WorkerId| {
            let since = self.owes_since(*worker)?;
            let limit = self.blocked_timeout(*worker)?;
            (since + limit <= now).then(|| (*worker, now.since(since)))
        };
        let late: Vec<(WorkerId, Duration)> = self.held.keys().filter_map(late).collect();
        for (worker, since) in late {
            if let Some(talk) = self.talk(worker) {
                talk.life.told = true;
            }
            self.feed(Event::Blocked { worker, since });
        }
    }
}
