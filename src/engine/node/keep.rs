// SPDX-License-Identifier: MIT OR Apache-2.0
//! What of the conversations with Node workers goes to the next supervisor.
//!
//! One that executes the program again leaves everything, connections too that it has accepted.
//! One that was killed leaves what was recorded last: what was said since, by either, is not
//! known, and is found out as far as it matters.

use super::deal::{Flight, Parcel};
use super::extras::Extra;
use super::places::Place;
use super::stop::Progress;
use super::{Engine, Primary, Sent, Server, Talk, now};
use crate::config::{Runner, Spread};
use crate::core::{Event, Notification, WorkerId, WorkerState};
use crate::engine::listeners::Line;
use crate::engine::resume::{Kept, Lines, MANY, Name};
use crate::protocol::node::channel::{Channel, Unfinished};
use crate::protocol::node::message::Query;
use crate::protocol::node::outgoing::Outgoing;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

/// Added to the number of our next message: answers to those that were sent since the snapshot
/// was written are not to be taken for answers to others. Numbers stay exact in JavaScript for
/// two million times.
const SKIPPED: u64 = 1 << 32;

/// The conversation with one worker.
#[derive(Serialize, Deserialize)]
pub struct TalkState {
    runner: Runner,
    spread: Spread,
    seq: u64,
    servers: Vec<ServerState>,
    preload: Option<String>,
    stop: Progress,
    /// The worker has closed its end.
    ended: bool,
    /// Lines of which a part has been received, or sent.
    #[serde(default)]
    unfinished: Unfinished,
    /// Nothing has been said since.
    #[serde(default)]
    exact: bool,
    /// Sockets that have not been acknowledged, if nothing has been said since.
    #[serde(default)]
    handles: Vec<SentState>,
}

impl TalkState {
    /// Whether its numbers are some that we may have come to.
    pub fn is_sane(&self) -> bool {
        self.seq < MANY * 32 // each supervisor skips some
    }
}

impl PrimaryState {
    /// See [`TalkState::is_sane`].
    pub fn is_sane(&self) -> bool {
        self.next_extra < MANY
    }
}

#[derive(Serialize, Deserialize)]
struct ServerState {
    key: String,
    query: Query,
    place: Place,
    listening: bool,
}

/// See [`Sent`].
#[derive(Serialize, Deserialize)]
pub enum SentState {
    Answer {
        key: String,
        ack: u64,
        data: Option<String>,
        tries: u32,
    },
    Connection(u64),
}

/// What is known in common.
#[derive(Default, Serialize, Deserialize)]
pub struct PrimaryState {
    tickets: BTreeMap<String, String>,
    next_extra: u64,
    extras: Vec<ExtraState>,
    told: Vec<String>,
    #[serde(default)]
    connections: Vec<ConnectionState>,
}

#[derive(Serialize, Deserialize)]
struct ExtraState {
    name: u64,
    query: Query,
    port: Option<u16>,
    file: Option<PathBuf>,
}

/// A connection that was accepted.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct ConnectionState {
    number: u64,
    /// That of the line that it came from.
    inode: u64,
    /// Who has been sent it, as our message of which number.
    to: Option<(WorkerId, u64)>,
}

/// The same, with the connection.
pub struct Left {
    state: ConnectionState,
    connection: OwnedFd,
}

impl Talk {
    /// What is to be kept. `exact`: nothing more will be said or heard.
    pub fn state(&self, exact: bool) -> TalkState {
        let servers = self.servers.iter().map(|server| ServerState {
            key: server.key.clone(),
            query: server.query.clone(),
            place: server.place,
            listening: server.listening,
        });
        TalkState {
            runner: self.runner,
            spread: self.spread,
            seq: self.seq,
            servers: servers.collect(),
            preload: self.preload.clone(),
            stop: self.stop.clone(),
            ended: self.channel.has_ended(),
            unfinished: self.channel.unfinished(exact),
            // Of one that was killed before it is not known either.
            exact: exact && !self.unsettled,
            handles: match exact {
                true => self.handles.iter().map(Sent::state).collect(),
                false => Vec::new(),
            },
        }
    }

    /// Goes on with a conversation. `lines`: where the lines of listeners are now.
    pub fn resume(state: TalkState, channel: Option<Channel>, lines: &Lines) -> Option<Talk> {
        let mut channel = channel?;
        if state.runner == Runner::Deno {
            channel.part_handles();
        }
        channel.go_on(state.unfinished);
        let servers = state.servers.into_iter().filter_map(|server| {
            Some(Server {
                key: server.key,
                query: server.query,
                place: match server.place {
                    Place::Line(listener, line) => {
                        let (listener, line) = lines.now(listener, line)?;
                        Place::Line(listener, line)
                    }
                    extra => extra,
                },
                // What it said of the others may have been lost with who had heard it.
                listening: server.listening || !state.exact,
            })
        });
        let skipped = if state.exact { 0 } else { SKIPPED };
        Some(Talk {
            seq: state.seq.saturating_add(skipped),
            servers: servers.collect(),
            preload: state.preload,
            stop: state.stop,
            unsettled: !state.exact,
            left: state.handles,
            ..Talk::new(channel, state.runner, state.spread)
        })
    }

    /// It has answered for the connection of this number, so all sockets up to that one have
    /// arrived. Until the first such answer acknowledgements may be for sockets that another
    /// supervisor has sent: which of them came after the last record is not known.
    pub(super) fn settle(&mut self, seq: u64) {
        if !self.unsettled {
            return;
        }
        let this = |sent: &Sent| matches!(sent, Sent::Connection(number) if *number == seq);
        if let Some(at) = self.handles.iter().position(this) {
            self.handles.drain(..=at);
            self.unsettled = false;
        }
    }

    /// The socket that belongs to a line that waits.
    fn socket_of(&self, sent: &Sent) -> Option<Arc<OwnedFd>> {
        match sent {
            Sent::Answer(_, socket, _) => Some(Arc::clone(socket)),
            Sent::Connection(seq) => match self.flights.get(seq)? {
                Flight::Connection(parcel, _) => Some(Arc::clone(&parcel.connection)),
                Flight::Question | Flight::Own => None,
            },
        }
    }

    /// Gives lines that wait the sockets that they are to be sent with: those of the newest
    /// [`Sent`]. Lines whose sockets were of use to the one before us only are not sent.
    fn supply(&mut self) {
        let owing = self.channel.owing();
        let first = self.handles.len().saturating_sub(owing);
        let mut kept = VecDeque::new();
        for (n, sent) in std::mem::take(&mut self.handles).into_iter().enumerate() {
            if n < first {
                kept.push_back(sent);
                continue;
            }
            let socket = self.socket_of(&sent);
            if socket.is_some() {
                kept.push_back(sent);
            }
            self.channel.supply(socket);
        }
        self.handles = kept;
        // A snapshot that makes no sense: nothing may stop the channel.
        for _ in 0..self.channel.owing() {
            self.channel.supply(None);
        }
    }
}

impl Sent {
    fn state(&self) -> SentState {
        match self {
            Sent::Answer(Outgoing::Shared { key, ack, data }, _, tries) => SentState::Answer {
                key: key.clone(),
                ack: *ack,
                data: data.clone(),
                tries: *tries,
            },
            // No other answer comes with a socket.
            Sent::Answer(..) => SentState::Connection(u64::MAX),
            Sent::Connection(seq) => SentState::Connection(*seq),
        }
    }
}

impl Primary {
    /// What is to be kept.
    fn state(&self) -> PrimaryState {
        let extras = self.extras.iter().map(|extra| ExtraState {
            name: extra.name,
            query: extra.query.clone(),
            port: extra.port,
            file: extra.line.file().map(ToOwned::to_owned),
        });
        PrimaryState {
            tickets: self.tickets.clone(),
            next_extra: self.next_extra,
            extras: extras.collect(),
            told: self.told.clone(),
            connections: Vec::new(),
        }
    }

    /// Goes on with what was kept.
    pub fn resume(state: PrimaryState, preload: Option<PathBuf>, kept: &mut Kept) -> Primary {
        let extras = state.extras.into_iter().filter_map(|extra| {
            let fd = kept.take(Name::Extra(extra.name))?;
            Some(Extra {
                name: extra.name,
                query: extra.query,
                line: Line::new(fd, extra.file).ok()?,
                port: extra.port,
            })
        });
        let extras = extras.collect();
        let left = state.connections.into_iter().filter_map(|state| {
            let connection = kept.take(Name::Connection(state.number))?;
            Some(Left { state, connection })
        });
        Primary {
            left: left.collect(),
            tickets: state.tickets,
            next_extra: state.next_extra,
            extras,
            told: state.told,
            ..Primary::new(preload)
        }
    }

    /// Descriptors that are to be kept.
    pub fn descriptors(&self) -> impl Iterator<Item = (Name, BorrowedFd<'_>)> {
        let extras = self.extras.iter();
        extras.map(|extra| (Name::Extra(extra.name), extra.line.fd.as_fd()))
    }
}

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
