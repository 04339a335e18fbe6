// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a worker listens: one of the app's listeners, or a socket that we open for it.

use super::super::listeners::{Line, Listener};
use super::{Engine, Event, Level, MAX_SERVERS, MAX_TICKET, MAX_TICKETS, Outgoing, Sent, Server};
use crate::config::{Runner, Spread};
use crate::core::{Notification, WorkerId};
use crate::protocol::node::message::{Kind, Query};
use nix::libc;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Sockets on their way to one worker, at the most: each is a descriptor of ours.
const MAX_ON_THEIR_WAY: usize = 128;
/// Where descriptors that systemd passes begin (sd_listen_fds(3)).
const FIRST_PASSED: i64 = 3;

/// Which socket a server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// A line of a listener.
    Line(usize, usize),
    /// An [`Extra`], by its name.
    Extra(u64),
}

impl Place {
    /// The listener.
    pub fn listener(self) -> Option<usize> {
        match self {
            Place::Line(listener, _) => Some(listener),
            Place::Extra(_) => None,
        }
    }
}

impl Engine {
    /// Answers a worker that wants to listen.
    pub(super) fn answer(&mut self, worker: WorkerId, seq: u64, query: Query) {
        if self.is_leaving(worker) {
            return; // It would serve nobody.
        }
        let key = query.key();
        let Some(talk) = self.talk(worker) else {
            return;
        };
        let known = talk.servers.iter().any(|s| s.key == key);
        let (spread, runner) = (talk.spread, talk.runner);
        let place = match () {
            () if known || talk.servers.len() >= MAX_SERVERS => Err(libc::EADDRINUSE),
            () if talk.handles.len().max(talk.channel.descriptors_waiting())
                >= MAX_ON_THEIR_WAY =>
            {
                Err(libc::EMFILE)
            }
            () => self.find_place(worker, &query),
        };
        let found = place.and_then(|place| {
            let line = self.line_at(place).ok_or(libc::EADDRNOTAVAIL)?;
            let copy = line.fd.try_clone().map_err(|_| libc::EMFILE)?;
            Ok((place, copy))
        });
        let (place, socket) = match found {
            Ok(found) => found,
            Err(errno) => {
                let ack = seq;
                self.say(worker, &Outgoing::Refused { key, ack, errno }, None);
                return;
            }
        };
        let data = self.tickets(&key, &query);
        let deno = runner == Runner::Deno;
        let common = |n: usize| deno || !self.listeners[n].per_slot;
        let dealt = spread == Spread::RoundRobin && place.listener().is_some_and(common);
        if let Some(talk) = self.talk(worker) {
            talk.servers.push(Server {
                key: key.clone(),
                query: query.clone(),
                place,
                listening: false,
            });
        }
        self.recorder.outdate();
        if dealt {
            let name = self.name_for(place, &query);
            let ack = seq;
            let answer = Outgoing::Dealt {
                key,
                ack,
                data,
                name,
            };
            self.say(worker, &answer, None);
            return;
        }
        let answer = Outgoing::Shared {
            key,
            ack: seq,
            data,
        };
        self.send_socket(worker, answer, Arc::new(socket));
    }

    fn send_socket(&mut self, worker: WorkerId, answer: Outgoing, socket: Arc<OwnedFd>) {
        self.say(worker, &answer, Some(Arc::clone(&socket)));
        if let Some(talk) = self.talk(worker) {
            talk.handles.push_back(Sent::Answer(answer, socket, 0));
        }
    }

    /// The `data` for all workers: that of the first. Node wants it back also where a worker
    /// has the very same already.
    fn tickets(&mut self, key: &str, query: &Query) -> Option<String> {
        let data = query.data.as_ref()?;
        if let Some(known) = self.node.tickets.get(key) {
            return Some(known.clone());
        }
        if data.len() <= MAX_TICKET && self.node.tickets.len() < MAX_TICKETS {
            self.node.tickets.insert(key.to_owned(), data.clone());
        }
        Some(data.clone())
    }

    pub(super) fn line_at(&self, place: Place) -> Option<&Line> {
        match place {
            Place::Line(listener, line) => self.listeners.get(listener)?.lines.get(line),
            Place::Extra(name) => {
                let found = self.node.extras.iter().find(|e| e.name == name);
                found.map(|extra| &extra.line)
            }
        }
    }

    /// What `server.address()` is to say of connections that are handed over.
    fn name_for(&self, place: Place, query: &Query) -> Option<(String, u16)> {
        let Place::Line(listener, _) = place else {
            return None;
        };
        let port = u16::try_from(query.port?).ok()?;
        let address: Option<SocketAddr> = self.listeners[listener].address.parse().ok();
        let ip = address.map_or(IpAddr::from([127, 0, 0, 1]), |a| a.ip());
        (query.kind != Kind::Path).then(|| (ip.to_string(), port))
    }

    /// The socket for a query; as an error, what the app sees as `error.errno`.
    pub(super) fn find_place(&mut self, worker: WorkerId, query: &Query) -> Result<Place, i32> {
        if query.kind == Kind::Udp {
            let text = "it wants to receive UDP, which is not supported yet: it gets EOPNOTSUPP";
            self.about_once(worker, Level::Error, text);
            return Err(libc::EOPNOTSUPP);
        }
        if query.index > 0 && query.port != Some(0) && query.fd.is_none() {
            return Err(libc::EADDRINUSE);
        }
        if let Some(place) = self.configured_place(worker, query) {
            return Ok(place);
        }
        if query.fd.is_some() {
            let text = format!(
                "it listens on {query}, but the app has {} socket(s), from descriptor 3 on: it \
                 gets EBADF",
                self.listeners.iter().filter(|l| !l.per_slot).count()
            );
            self.about_once(worker, Level::Error, &text);
            return Err(libc::EBADF);
        }
        self.extra_place(worker, query)
    }

    /// The listener that is meant. A program that asks for a TCP port gets the socket file of
    /// an app that has nothing else, as behind a proxy.
    fn configured_place(&self, worker: WorkerId, query: &Query) -> Option<Place> {
        let lines = &self.held.get(&worker)?.lines;
        let all = self.listeners.iter().enumerate();
        let mut place = all.clone().filter_map(|(n, listener)| {
            let line = (*lines.get(n)?)?;
            let meant = fit(listener, line, query)?;
            Some((meant, n, line))
        });
        if let Some(fd) = query.fd {
            let passed: Vec<usize> = all.filter(|(_, l)| !l.per_slot).map(|(n, _)| n).collect();
            let n = *passed.get(usize::try_from(fd - FIRST_PASSED).ok()?)?;
            return Some(Place::Line(n, (*lines.get(n)?)?));
        }
        let first = place.next();
        let best = first.into_iter().chain(place).min();
        if let Some((_, n, line)) = best {
            return Some(Place::Line(n, line));
        }
        let mut common = all.filter(|(_, l)| !l.per_slot);
        match (common.next(), common.next()) {
            (Some((n, only)), None) if only.port.is_none() && query.kind != Kind::Path => {
                Some(Place::Line(n, (*lines.get(n)?)?))
            }
            _ => None,
        }
    }

    /// It listens.
    pub(super) fn listens(&mut self, worker: WorkerId, said: &Query) {
        self.recall_server(worker, said);
        let extras: Vec<(u64, Option<u16>)> =
            self.node.extras.iter().map(|e| (e.name, e.port)).collect();
        let port_of = |place: Place| match place {
            Place::Extra(name) => extras.iter().find(|e| e.0 == name).and_then(|e| e.1),
            Place::Line(..) => None,
        };
        let Some(talk) = self.talk(worker) else {
            return;
        };
        let server = talk.servers.iter_mut().find(|server| {
            let asked = &server.query;
            // Of a port that we chose, the real number is told.
            let port = match asked.port {
                Some(0) => port_of(server.place).map(i64::from).or(asked.port),
                port => port,
            };
            let same_port = said.port == port || said.port == asked.port;
            !server.listening
                && said.index == asked.index
                && said.address == asked.address
                && (said.fd.is_some() || same_port)
                && said.fd == asked.fd
        });
        let Some(server) = server else {
            return;
        };
        server.listening = true;
        let place = server.place;
        self.recorder.outdate();
        if let Some(line) = self.line_at(place) {
            // The worker's own listen(2) has shortened the queue for all.
            let _ = line.restore_backlog();
        }
        if self.listens_everywhere(worker) {
            let what = Notification::Listening;
            self.feed(Event::Notified { worker, what });
        }
        self.steering.outdate();
        self.deal();
    }

    /// Whether a worker listens on each address of the app.
    pub(in super::super) fn listens_everywhere(&self, worker: WorkerId) -> bool {
        let Some(held) = self.held.get(&worker) else {
            return false;
        };
        let Some(talk) = &held.talk else {
            return false;
        };
        let mut all = self.listeners.iter().enumerate();
        let common = |(n, listener): (usize, &Listener)| {
            let given = held.lines.get(n).is_some_and(Option::is_some);
            listener.per_slot || !given || talk.server_for(n).is_some()
        };
        all.all(common)
    }
}

/// How well a listener is what a query means; less is better, `None`: it is not.
fn fit(listener: &Listener, line: usize, query: &Query) -> Option<u32> {
    if query.kind == Kind::Path {
        let path = format!("unix:{}", query.address.as_deref()?);
        return (listener.address == path).then_some(0);
    }
    let port = match listener.per_slot {
        true => listener.lines.get(line)?.port(),
        false => listener.port,
    };
    let asked = query.port.filter(|port| *port > 0)?;
    if port.map(i64::from) != Some(asked) {
        return None;
    }
    let own = listener.address.parse::<SocketAddr>().ok().map(|a| a.ip());
    let asked = query
        .address
        .as_deref()
        .and_then(|a| a.parse::<IpAddr>().ok());
    Some(
        match (own, asked) {
            (Some(own), Some(asked)) if own == asked => 0,
            (Some(own), None) if own.is_unspecified() => 0,
            (Some(own), _) if own.is_unspecified() => 1,
            _ => 2,
        } + u32::from(listener.per_slot),
    )
}
