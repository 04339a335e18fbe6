// SPDX-License-Identifier: MIT OR Apache-2.0
//! Handing the conversations with Node workers over to the next supervisor, and going on with
//! those of the one before.

use super::deal::{Flight, Parcel};
use super::keep::{ConnectionState, PrimaryState, SentState};
use super::places::Place;
use super::{Engine, Sent, Server, Start, Talk, now};
use crate::core::{Event, Notification, WorkerId, WorkerState};
use crate::engine::resume::Name;
use crate::protocol::node::channel::Channel;
use crate::protocol::node::message::Query;
use crate::protocol::node::outgoing::Outgoing;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

impl Engine {
    /// What is known in common; `exact`: nothing more will be accepted.
    pub(in super::super) fn node_state(&self, exact: bool) -> PrimaryState {
        let mut state = self.node.state();
        if exact {
            let all = self.parcels().filter_map(|(parcel, to)| {
                let line = self.listeners.get(parcel.listener)?;
                let inode = line.lines.get(parcel.line)?.inode;
                let number = parcel.number;
                Some(ConnectionState { number, inode, to })
            });
            state.connections = all.collect();
        }
        state
    }

    /// Connections that were accepted and have not been taken.
    fn parcels(&self) -> impl Iterator<Item = (&Parcel, Option<(WorkerId, u64)>)> {
        let waiting = self.node.dealer.waiting.iter();
        let talks = self.held.iter();
        let talks = talks.filter_map(|(id, held)| Some((*id, held.talk.as_ref()?)));
        let sent = talks.flat_map(|(id, talk)| {
            let flights = talk.flights.iter();
            flights.filter_map(move |(seq, flight)| match flight {
                Flight::Connection(parcel, _) => Some((parcel, Some((id, *seq)))),
                Flight::Question | Flight::Own => None,
            })
        });
        waiting.map(|parcel| (parcel, None)).chain(sent)
    }

    /// The same, as descriptors.
    pub(in super::super) fn connections(&self) -> impl Iterator<Item = (Name, BorrowedFd<'_>)> {
        let all = self.parcels();
        all.map(|(parcel, _)| (Name::Connection(parcel.number), parcel.connection.as_fd()))
    }

    /// Goes on with what was on its way, ahead of anything else that is said.
    pub(in super::super) fn restore_connections(&mut self) {
        for left in std::mem::take(&mut self.node.left) {
            let number = left.state.number;
            self.node.dealer.accepted = self.node.dealer.accepted.max(number);
            let Some((listener, line)) = self.line_with(left.state.inode) else {
                continue;
            };
            let parcel = Parcel {
                connection: Arc::new(left.connection),
                listener,
                line,
                number,
            };
            let to = left.state.to;
            let talk = to.and_then(|(worker, seq)| Some((self.talk(worker)?, seq)));
            match talk {
                Some((talk, seq)) => {
                    talk.flights.insert(seq, Flight::Connection(parcel, now()));
                }
                None if to.is_none() => self.node.dealer.waiting.push_back(parcel),
                // Of one that is gone; it may have read something of it.
                None => {}
            }
        }
        for worker in self.held.keys().copied().collect::<Vec<_>>() {
            self.restore_handles(worker);
        }
        self.deal_soon();
    }

    fn restore_handles(&mut self, worker: WorkerId) {
        let Some(talk) = self.talk(worker) else {
            return;
        };
        let mut handles = VecDeque::new();
        for sent in std::mem::take(&mut talk.left) {
            handles.push_back(match sent {
                SentState::Connection(seq) => Sent::Connection(seq),
                SentState::Answer {
                    key,
                    ack,
                    data,
                    tries,
                } => match self.socket_for(worker, &key) {
                    Some(socket) => {
                        Sent::Answer(Outgoing::Shared { key, ack, data }, socket, tries)
                    }
                    None => Sent::Connection(u64::MAX),
                },
            });
        }
        if let Some(talk) = self.talk(worker) {
            talk.handles = handles;
            talk.supply();
        }
        self.watch_channel(worker);
    }

    /// A copy of the socket of a worker's server.
    fn socket_for(&self, worker: WorkerId, key: &str) -> Option<Arc<OwnedFd>> {
        let talk = self.held.get(&worker)?.talk.as_ref()?;
        let server = talk.servers.iter().find(|server| server.key == key)?;
        let line = self.line_at(server.place)?;
        Some(Arc::new(line.fd.try_clone().ok()?))
    }

    /// Where the line with this inode is.
    fn line_with(&self, inode: u64) -> Option<(usize, usize)> {
        self.listeners.iter().enumerate().find_map(|(n, listener)| {
            let line = listener.lines.iter().position(|line| line.inode == inode)?;
            Some((n, line))
        })
    }

    /// The conversation with a worker that was about to be spawned when it was recorded: nothing
    /// has been said yet.
    pub(in super::super) fn first_talk(&self, worker: WorkerId, channel: Channel) -> Option<Talk> {
        let release = self.releases.get(&self.core.worker(worker)?.generation)?;
        let runner = release.launch.runner?;
        Some(Start::talk(channel, runner, release.config.spread()))
    }

    /// Sees to what workers may have said to a supervisor that did not live to act upon it, and
    /// asks whether they answer.
    pub(in super::super) fn catch_up_with(&mut self, worker: WorkerId) {
        let blocked = self
            .core
            .worker(worker)
            .is_some_and(|w| w.blocked.is_some());
        let Some(talk) = self.talk(worker) else {
            return;
        };
        talk.life.told = blocked;
        let may_listen = talk.unsettled && !talk.servers.is_empty();
        self.ask(worker);
        self.restore_backlogs(worker);
        if may_listen
            && self.is_in(worker, WorkerState::Starting)
            && self.listens_everywhere(worker)
        {
            let what = Notification::Listening;
            self.feed(Event::Notified { worker, what });
        }
    }

    /// A worker that says that it listens has been told that it may. If we do not know of it,
    /// the one before us was killed just then.
    pub(super) fn recall_server(&mut self, worker: WorkerId, said: &Query) {
        let same = |server: &Server| {
            let asked = &server.query;
            let same_port = asked.port == said.port || asked.port == Some(0);
            (&asked.address, asked.index, asked.fd) == (&said.address, said.index, said.fd)
                && same_port
        };
        let Some(talk) = self.talk(worker) else {
            return;
        };
        if !talk.unsettled || talk.servers.iter().any(same) {
            return;
        }
        let Ok(place) = self.find_place(worker, said) else {
            return;
        };
        if let Some(talk) = self.talk(worker) {
            talk.servers.push(Server {
                key: said.key(),
                query: said.clone(),
                place,
                listening: false,
            });
        }
    }

    fn restore_backlogs(&mut self, worker: WorkerId) {
        let servers = self.talk(worker).map(|talk| &talk.servers);
        let places: Vec<Place> = servers.into_iter().flatten().map(|s| s.place).collect();
        for line in places.into_iter().filter_map(|place| self.line_at(place)) {
            let _ = line.restore_backlog();
        }
    }

    /// Connections are left in the sockets from now on.
    pub(in super::super) fn rest(&mut self) {
        self.deal();
    }

    /// The opposite.
    pub(in super::super) fn node_goes_on(&mut self) {
        self.deal_soon();
        self.steering.outdate();
    }

    /// Whether a socket that a worker was sent has not arrived.
    pub(in super::super) fn has_sockets_on_their_way(&self) -> bool {
        let mut talks = self.held.values().filter_map(|held| held.talk.as_ref());
        let waits = |talk: &Talk| {
            let connection = |flight: &Flight| flight.since().is_some();
            !talk.handles.is_empty() || talk.flights.values().any(connection)
        };
        !self.node.dealer.is_empty() || talks.any(waits)
    }
}
