// SPDX-License-Identifier: MIT OR Apache-2.0
//! What of the conversations with Node workers goes to the next supervisor.
//!
//! One that executes the program again leaves everything, connections too that it has accepted.
//! One that was killed leaves what was recorded last: what was said since, by either, is not
//! known, and is found out as far as it matters.

use super::deal::Flight;
use super::extras::Extra;
use super::places::Place;
use super::stop::Progress;
use super::{Primary, Sent, Server, Talk};
use crate::config::{Runner, Spread};
use crate::core::WorkerId;
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
    /// The process that has spoken last.
    #[serde(default)]
    speaker: Option<i32>,
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
    pub connections: Vec<ConnectionState>,
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
pub struct ConnectionState {
    pub number: u64,
    /// That of the line that it came from.
    pub inode: u64,
    /// Who has been sent it, as our message of which number.
    pub to: Option<(WorkerId, u64)>,
}

/// The same, with the connection.
pub struct Left {
    pub state: ConnectionState,
    pub connection: OwnedFd,
}

impl TalkState {
    /// Something may have been said and heard since.
    pub fn doubt(&mut self) {
        if std::mem::take(&mut self.exact) {
            self.handles.clear();
            self.unfinished = Unfinished::default();
        }
    }
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
            speaker: self.channel.speaker(),
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
        let mut channel = match channel {
            Some(channel) => channel,
            None if state.ended => Channel::ended().ok()?,
            None => return None,
        };
        channel.spoken_by(state.speaker);
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
    pub fn supply(&mut self) {
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
    pub fn state(&self) -> PrimaryState {
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
