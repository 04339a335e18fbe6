// SPDX-License-Identifier: MIT OR Apache-2.0
//! The primary of a `node:cluster`, for workers that are Node's.
//!
//! What a worker asks and is told is in here; where it may listen in [`places`], how it ends
//! in [`stop`], whether it answers in [`liveness`], and connections that are handed over in
//! [`deal`]. A worker's own listen(2) and accept(2) happen on our sockets: we are not in the
//! path of the data unless connections are dealt.

mod deal;
mod explain;
mod extras;
mod go_on;
mod handed;
mod heard;
mod keep;
pub mod learn;
mod liveness;
mod places;
mod start;
mod stop;
mod stray;
mod user;
mod vitals;

pub use handed::Handed;
pub use keep::{PrimaryState, TalkState};
pub use start::{Batch, Start};
pub use stray::{Stray, Wish};
pub use user::Told;

use super::poller::{Interest, Token};
use super::{Engine, Level, Record, fault, now};
use crate::config::{Runner, Spread};
use crate::core::{Event, SlotId, Time, WorkerId, WorkerState};
use crate::protocol::node::channel::{Channel, Received};
use crate::protocol::node::message::Query;
use crate::protocol::node::outgoing::Outgoing;
use deal::{Dealer, Flight};
use extras::Extra;
use places::Place;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Servers that a worker may have.
const MAX_SERVERS: usize = 1024;
/// Keys whose session ticket keys are kept, and how long these may be, in bytes.
const MAX_TICKETS: usize = 1024;
const MAX_TICKET: usize = 16 * 1024;
/// After which time is tried again what cannot be done for want of descriptors.
const RETRY: Duration = Duration::from_millis(100);
/// How often a socket is sent again that did not arrive.
const RESENDS: u32 = 3;
/// Longest part of a line that is shown in the log, in characters.
const SHOWN: usize = 100;

/// The conversation with one worker.
pub struct Talk {
    channel: Channel,
    runner: Runner,
    /// How its connections are spread; workers of another generation may do otherwise.
    spread: Spread,
    /// The number of our next message.
    seq: u64,
    servers: Vec<Server>,
    /// The version of Node that the preload has told; `None`: it is not in force.
    preload: Option<String>,
    /// Sockets on their way that have not been acknowledged, oldest first.
    handles: VecDeque<Sent>,
    /// Connections that it has been sent and has not answered for, by our number.
    flights: BTreeMap<u64, Flight>,
    stop: stop::Progress,
    life: liveness::Life,
    /// Which of all that were handed over was its last.
    dealt: u64,
    /// It is offered no connections until then.
    rests_until: Option<Time>,
    /// How many in a row it has not taken.
    refusals: u32,
    /// What it has said wrongly.
    wrong: u64,
    /// How often it was not heard, because it did not read.
    clogged: u64,
    interest: Interest,
    vitals: vitals::Vitals,
    /// It may acknowledge sockets that another supervisor has sent, which was killed.
    unsettled: bool,
    /// See [`keep`]: what the one before us had sent.
    left: Vec<keep::SentState>,
}

/// A server that a worker has, or wants.
struct Server {
    key: String,
    query: Query,
    place: Place,
    listening: bool,
}

/// A socket that has been sent.
enum Sent {
    /// The answer to a query; so many times.
    Answer(Outgoing, Arc<OwnedFd>, u32),
    /// A connection, or the question whether it answers, by our number.
    Connection(u64),
}

/// What is known beyond single workers.
#[derive(Default)]
pub struct Primary {
    extras: Vec<Extra>,
    next_extra: u64,
    /// Session ticket keys that the first worker has told, by key.
    tickets: BTreeMap<String, String>,
    dealer: Dealer,
    /// A socket that nobody listens to.
    dummy: Option<Arc<OwnedFd>>,
    /// What has been told once.
    pub told: Vec<String>,
    /// When is tried again what cannot be sent now.
    retry: Option<Time>,
    /// The file that workers load ahead of the app.
    preload: Option<PathBuf>,
    /// Connections that the one before us had accepted.
    left: Vec<keep::Left>,
}

impl Primary {
    /// Nothing is known yet. `preload`: the file that workers load ahead of the app.
    pub fn new(preload: Option<PathBuf>) -> Primary {
        Primary {
            preload,
            ..Primary::default()
        }
    }

    /// That file, if there is one.
    pub fn preload(&self) -> Option<&Path> {
        self.preload.as_deref()
    }
}

impl Talk {
    /// A conversation that begins.
    pub fn new(channel: Channel, runner: Runner, spread: Spread) -> Talk {
        Talk {
            channel,
            runner,
            spread,
            seq: 0,
            servers: Vec::new(),
            preload: None,
            handles: VecDeque::new(),
            flights: BTreeMap::new(),
            stop: stop::Progress::default(),
            life: liveness::Life::default(),
            dealt: 0,
            rests_until: None,
            refusals: 0,
            wrong: 0,
            clogged: 0,
            interest: Interest::Connection,
            vitals: vitals::Vitals::default(),
            unsettled: false,
            left: Vec::new(),
        }
    }

    /// Our end of the channel.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// What has arrived.
    fn receive(&mut self) -> Vec<Received> {
        self.channel.receive()
    }

    /// Takes away what was acted upon: it is recorded.
    pub fn forget(&mut self) {
        self.channel.forget();
    }

    /// Sends a message; returns its number.
    fn say(&mut self, message: &Outgoing, handle: Option<Arc<OwnedFd>>) -> u64 {
        let seq = self.seq;
        self.seq += 1;
        self.channel.send(message.line(seq), handle);
        seq
    }

    /// Whether it takes connections of `listener`.
    pub(super) fn serves(&self, listener: usize) -> bool {
        self.server_for(listener).is_some()
    }

    /// The server that takes connections of `listener`.
    fn server_for(&self, listener: usize) -> Option<&Server> {
        let of = |s: &&Server| s.listening && s.place.listener() == Some(listener);
        self.servers.iter().find(of)
    }
}

impl Engine {
    /// Whether the present generation's workers are spoken to in this protocol.
    pub(super) fn speaks_node(&self) -> bool {
        let release = self.releases.get(&self.core.generation());
        release.is_some_and(|release| release.launch.runner.is_some())
    }

    fn talk(&mut self, worker: WorkerId) -> Option<&mut Talk> {
        self.held.get_mut(&worker)?.talk.as_mut()
    }

    /// Sends a message to a worker, and sees that it gets out.
    fn say(
        &mut self,
        worker: WorkerId,
        message: &Outgoing,
        handle: Option<Arc<OwnedFd>>,
    ) -> Option<u64> {
        let seq = self.talk(worker)?.say(message, handle);
        self.watch_channel(worker);
        Some(seq)
    }

    /// Says what is to be known of a channel now.
    fn watch_channel(&mut self, worker: WorkerId) {
        let Some(talk) = self.held.get_mut(&worker).and_then(|h| h.talk.as_mut()) else {
            return;
        };
        if talk.channel.take_changed() {
            self.recorder.outdate();
            fault::point("half-line");
        }
        if talk.channel.has_ended() {
            return;
        }
        if let Some(pause) = talk.channel.stalled_for() {
            let (at, retry) = (now() + pause, &mut self.node.retry);
            *retry = Some(retry.map_or(at, |before| before.min(at)));
        }
        let wanted = match (talk.channel.is_clogged(), talk.channel.wants_to_send()) {
            (true, _) => Interest::Room,
            (false, true) => Interest::Both,
            (false, false) => Interest::Connection,
        };
        let token = Token::Channel(worker);
        if wanted == talk.interest || self.poller.change(&talk.channel, token, wanted).is_err() {
            return;
        }
        talk.interest = wanted;
        if wanted == Interest::Room {
            self.tell_that_it_does_not_read(worker);
        }
    }

    fn channel_ended(&mut self, worker: WorkerId) {
        let Some(held) = self.held.get_mut(&worker) else {
            return;
        };
        if let Some(talk) = &mut held.talk {
            self.poller.remove(&talk.channel);
        }
        self.nobody_answers(worker);
        self.deal_again(worker);
        self.deal_soon();
        self.drained(worker);
        self.steering.outdate();
        self.recorder.outdate();
    }

    /// What a worker that is gone leaves.
    pub(super) fn end_talk(&mut self, worker: WorkerId) {
        self.deal_again(worker);
        if let Some(talk) = self.held.get_mut(&worker).and_then(|h| h.talk.take())
            && !talk.channel.has_ended()
        {
            self.poller.remove(&talk.channel);
        }
        self.drop_extras();
        self.deal();
    }

    /// When something of this is due.
    pub(super) fn node_deadline(&self) -> Option<Time> {
        let asked = self.liveness_deadline().into_iter();
        asked
            .chain(self.dealing_deadline())
            .chain(self.node.retry)
            .min()
    }

    /// What is due.
    pub(super) fn node_turn(&mut self) {
        if self.node_deadline().is_some_and(|at| at <= now()) {
            self.look_for_blocked();
            self.try_again();
            self.deal_soon();
        }
        self.deal_if_due();
    }

    /// Sends what could not be sent.
    fn try_again(&mut self) {
        if self.node.retry.is_none_or(|at| at > now()) {
            return;
        }
        self.node.retry = None;
        let stalled = |(id, held): (&WorkerId, &mut super::Held)| {
            let talk = held
                .talk
                .as_mut()
                .filter(|t| t.channel.stalled_for().is_some())?;
            talk.channel.flush();
            Some(*id)
        };
        let all: Vec<WorkerId> = self.held.iter_mut().filter_map(stalled).collect();
        for worker in all {
            self.watch_channel(worker);
        }
    }
}
