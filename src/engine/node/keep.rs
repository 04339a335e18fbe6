// SPDX-License-Identifier: MIT OR Apache-2.0
//! What of the conversations with Node workers goes to the next supervisor.

use super::deal::Flight;
use super::extras::Extra;
use super::places::Place;
use super::stop::Progress;
use super::{Engine, Primary, Server, Talk};
use crate::config::{Runner, Spread};
use crate::core::{Event, Notification, WorkerId, WorkerState};
use crate::engine::listeners::Line;
use crate::engine::resume::{Kept, Lines, Name};
use crate::protocol::node::channel::{Channel, Unfinished};
use crate::protocol::node::message::Query;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

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
}

#[derive(Serialize, Deserialize)]
struct ServerState {
    key: String,
    query: Query,
    place: Place,
    listening: bool,
}

/// What is known in common.
#[derive(Default, Serialize, Deserialize)]
pub struct PrimaryState {
    tickets: BTreeMap<String, String>,
    next_extra: u64,
    extras: Vec<ExtraState>,
    told: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct ExtraState {
    name: u64,
    query: Query,
    port: Option<u16>,
    file: Option<PathBuf>,
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
                listening: true,
            })
        });
        Some(Talk {
            seq: state.seq + SKIPPED,
            servers: servers.collect(),
            preload: state.preload,
            stop: state.stop,
            ..Talk::new(channel, state.runner, state.spread)
        })
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
        Primary {
            tickets: state.tickets,
            next_extra: state.next_extra,
            extras: extras.collect(),
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
    /// Sees to what workers may have said to a supervisor that did not live to act upon it.
    pub(in super::super) fn catch_up_with(&mut self, worker: WorkerId) {
        if self.talk(worker).is_none() {
            return;
        }
        self.restore_backlogs(worker);
        if self.is_in(worker, WorkerState::Starting) && self.listens_everywhere(worker) {
            let what = Notification::Listening;
            self.feed(Event::Notified { worker, what });
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
