// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connections that we accept and hand over (`newconn`): all of them with `round-robin`, and
//! those to the address of a slot (`slot_listen`), which the app knows nothing of; else
//! those that wait in a line whose worker is gone, starting or blocked.
//!
//! A worker gets the next one before it has answered for the last, but only so many, and only
//! as long as it answers quickly: what it has been sent cannot be given to another. Our copy
//! is kept until it has answered. What nobody can take waits in the kernel.

use super::super::poller::Interest;
use super::{Engine, Outgoing, Sent, Server, now};
use crate::config::{Runner, Spread};
use crate::core::{Time, WorkerId, WorkerState};
use crate::engine::fault;
use crate::protocol::node::channel::do_not_linger;
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// So many connections may be on their way to one worker, if it answers within [`QUICK`].
const MAX_FLIGHTS: usize = 4;
const QUICK: Duration = Duration::from_millis(20);
/// Connections accepted from one line in one turn.
const BATCH: usize = 64;
/// How long a worker is left alone that did not take a connection; twice as long each time.
const REST_MIN: Duration = Duration::from_millis(10);
const REST_MAX: Duration = Duration::from_secs(1);

/// A connection that we have accepted.
pub struct Parcel {
    pub connection: Arc<OwnedFd>,
    pub listener: usize,
    pub line: usize,
    /// What tells it from the others that we have.
    pub number: u64,
}

/// What a worker has been sent and has not answered for.
pub enum Flight {
    /// Whether it is there.
    Question,
    /// A connection of our own.
    Own,
    /// A connection, since when.
    Connection(Parcel, Time),
}

impl Flight {
    /// Since when it owes an answer for a connection.
    pub fn since(&self) -> Option<Time> {
        match self {
            Flight::Question | Flight::Own => None,
            Flight::Connection(_, at) => Some(*at),
        }
    }
}

/// What is known beyond single workers.
#[derive(Default)]
pub struct Dealer {
    /// Accepted, and taken by nobody so far: a worker has given it back.
    pub waiting: VecDeque<Parcel>,
    /// How many have been accepted.
    pub accepted: u64,
    /// How many have been handed over.
    count: u64,
    /// Somebody may take one now who did not before.
    due: bool,
}

impl Dealer {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl Engine {
    /// Hands over what waits if workers have answered: once for all answers of a turn.
    pub(super) fn deal_if_due(&mut self) {
        if self.node.dealer.due {
            self.deal();
        }
    }

    /// At the end of the turn it is seen whether somebody takes what nobody took.
    pub(in super::super) fn deal_soon(&mut self) {
        self.node.dealer.due = true;
    }

    /// Hands over what waits, as far as somebody takes it.
    pub(in super::super) fn deal(&mut self) {
        self.node.dealer.due = false;
        self.end_rests();
        if !self.held.values().any(|held| held.talk.is_some()) && !self.speaks_node() {
            // The app is no Node program any more.
            self.node.dealer.waiting.clear();
        }
        for _ in 0..self.node.dealer.waiting.len() {
            let Some(parcel) = self.node.dealer.waiting.pop_front() else {
                break;
            };
            match self.taker(parcel.listener, parcel.line) {
                Some(worker) => self.give(worker, parcel),
                None => self.node.dealer.waiting.push_back(parcel),
            }
        }
        for listener in 0..self.listeners.len() {
            let steered = self.listeners[listener].is_steered();
            for line in 0..self.listeners[listener].lines.len() {
                let dealt = self.is_dealt(listener, line);
                if steered && !dealt {
                    continue; // See `watch_lines`.
                }
                let more = dealt && self.deal_from(listener, line);
                let interest = match more && self.taker(listener, line).is_some() {
                    true => Interest::Connection,
                    false => Interest::Hangup,
                };
                self.set_interest(listener, line, interest);
            }
        }
    }

    /// Whether we accept from a line: that of a slot, and the first where workers were told that
    /// connections are handed over, as soon as one of them serves.
    pub(in super::super) fn is_dealt(&self, listener: usize, line: usize) -> bool {
        let per_slot = self.listeners[listener].per_slot;
        let expects = |(id, held): (&WorkerId, &super::super::Held)| {
            let serves = |talk: &super::Talk| {
                per_slot || talk.spread == Spread::RoundRobin && talk.serves(listener)
            };
            held.talk.as_ref().is_some_and(serves) && self.is_in(*id, WorkerState::Ready)
        };
        (per_slot || line == 0) && self.held.iter().any(expects)
    }

    /// Workers that have rested long enough may be asked again.
    fn end_rests(&mut self) {
        let now = now();
        for talk in self.held.values_mut().filter_map(|h| h.talk.as_mut()) {
            if talk.rests_until.is_some_and(|until| until <= now) {
                talk.rests_until = None;
            }
        }
    }

    /// Hands over what waits in a line. `false`: nobody takes anything now.
    pub(in super::super) fn deal_from(&mut self, listener: usize, line: usize) -> bool {
        if self.is_handing_over() {
            return false; // It is for the next supervisor.
        }
        for _ in 0..BATCH {
            let Some(worker) = self.taker(listener, line) else {
                return false;
            };
            let Some(socket) = self.listeners[listener].lines.get(line) else {
                return true;
            };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match accept_with(&socket.fd, flags) {
                Ok(connection) => {
                    self.node.dealer.accepted += 1;
                    let parcel = Parcel {
                        connection: Arc::new(connection),
                        listener,
                        line,
                        number: self.node.dealer.accepted,
                    };
                    self.give(worker, parcel);
                }
                Err(Errno::CONNABORTED | Errno::INTR) => {}
                Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS) => {
                    let text = "cannot accept connections: no descriptor or memory is left \
                                (raise LimitNOFILE=)";
                    self.about_once(worker, super::Level::Error, text);
                    self.node.retry.get_or_insert(now() + super::RETRY);
                    return false;
                }
                Err(_) => return true,
            }
        }
        true
    }

    fn give(&mut self, worker: WorkerId, parcel: Parcel) {
        let now = now();
        let server = self.server_for(worker, parcel.listener);
        let Some(key) = server.map(|server| server.key.clone()) else {
            self.node.dealer.waiting.push_back(parcel);
            return;
        };
        let connection = Arc::clone(&parcel.connection);
        fault::point("before-handing");
        let sent = self.say(worker, &Outgoing::Connection { key }, Some(connection));
        self.node.dealer.count += 1;
        fault::point("after-handing");
        let count = self.node.dealer.count;
        if let (Some(seq), Some(talk)) = (sent, self.talk(worker)) {
            talk.flights.insert(seq, Flight::Connection(parcel, now));
            talk.handles.push_back(Sent::Connection(seq));
            talk.dealt = count;
        }
    }

    /// The server of a worker that connections of `listener` are for. Those to the address of a
    /// slot are for the first listener, unless the app listens there itself.
    fn server_for(&self, worker: WorkerId, listener: usize) -> Option<&Server> {
        let talk = self.held.get(&worker)?.talk.as_ref()?;
        let own = talk.server_for(listener);
        match self.listeners.get(listener)?.per_slot {
            true if own.is_some() => own.filter(|_| talk.runner == Runner::Deno),
            true => (0..self.listeners.len()).find_map(|n| talk.server_for(n)),
            false => own,
        }
    }

    /// Who is to get the next connection: of those with the fewest on their way, the one whose
    /// last was longest ago. So nobody who was passed over loses its turn.
    fn taker(&self, listener: usize, line: usize) -> Option<WorkerId> {
        let now = now();
        let per_slot = self.listeners.get(listener)?.per_slot;
        let serves = |worker: &WorkerId| {
            let talk = self.held.get(worker)?.talk.as_ref()?;
            let known = self.core.worker(*worker)?;
            let serves = known.state == WorkerState::Ready
                && known.blocked.is_none()
                && !talk.channel.has_ended()
                && !talk.channel.is_clogged()
                && talk.rests_until.is_none()
                && (!per_slot || known.slot.0 as usize == line)
                && self.server_for(*worker, listener).is_some();
            serves.then_some((talk, known.not_ready.is_none()))
        };
        // Those that want no traffic get it only if all are such.
        let wanted = self.held.keys().filter_map(serves).any(|(_, wants)| wants);
        let takes = |worker: &WorkerId| {
            let (talk, _) = serves(worker).filter(|(_, wants)| *wants || !wanted)?;
            let since = talk.flights.values().filter_map(Flight::since);
            let flights = since.clone().count();
            let quick = since.min().is_none_or(|at| now.since(at) <= QUICK);
            let free = flights == 0 || (quick && flights < MAX_FLIGHTS);
            free.then_some((flights, talk.dealt, *worker))
        };
        let best = self.held.keys().filter_map(takes).min();
        best.map(|(_, _, worker)| worker)
    }

    /// A worker has answered for a connection, or the question whether it is there.
    pub(super) fn took(&mut self, worker: WorkerId, seq: u64, accepted: bool) {
        fault::point("taken");
        let now = now();
        let Some(talk) = self.talk(worker) else {
            return;
        };
        talk.settle(seq);
        match talk.flights.remove(&seq) {
            None => return,
            Some(Flight::Question) => self.answered(worker, true),
            Some(Flight::Own) => {
                self.answered(worker, false);
                return self.health_taken(worker, seq, accepted);
            }
            Some(Flight::Connection(parcel, _)) => {
                if accepted {
                    talk.refusals = 0;
                    do_not_linger(&*parcel.connection);
                } else {
                    let rest = (REST_MIN * (1 << talk.refusals.min(10))).min(REST_MAX);
                    talk.refusals += 1;
                    talk.rests_until = Some(now + rest);
                    self.node.dealer.waiting.push_front(parcel);
                }
                self.answered(worker, false);
            }
        }
        if !self.steering.is_idle() {
            self.steering.outdate();
        }
        self.node.dealer.due = true;
    }

    /// A worker is gone, or cannot be reached: what it has certainly not seen goes to others.
    /// Of the rest it may have read something already.
    pub(super) fn deal_again(&mut self, worker: WorkerId) {
        let Some(talk) = self.talk(worker) else {
            return;
        };
        let unseen: Vec<u64> = talk
            .handles
            .drain(..)
            .filter_map(|sent| match sent {
                Sent::Connection(seq) => Some(seq),
                Sent::Answer(..) => None,
            })
            .collect();
        let mut flights = std::mem::take(&mut talk.flights);
        for seq in unseen {
            if let Some(Flight::Connection(parcel, _)) = flights.remove(&seq) {
                self.node.dealer.waiting.push_back(parcel);
            }
        }
    }

    /// When somebody may take connections again who did not.
    pub(super) fn dealing_deadline(&self) -> Option<Time> {
        let talks = self.held.values().filter_map(|h| h.talk.as_ref());
        talks.filter_map(|talk| talk.rests_until).min()
    }
}
