// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sockets that are opened because a worker asks for an address that is not the app's.

use super::super::bind;
use super::super::listeners::Line;
use super::places::Place;
use super::{Engine, Level};
use crate::config::{ListenAddress, Runner};
use crate::core::WorkerId;
use crate::protocol::node::message::{Kind, Query};
use nix::libc;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// Sockets that are opened because workers ask for them, at the most.
const MAX_EXTRAS: usize = 256;
/// A socket that was opened because a worker asked for it. All workers share it; it is closed
/// when no worker has it any more.
pub struct Extra {
    pub name: u64,
    /// What was asked; where the port is 0, workers with the same index share one.
    pub query: Query,
    pub line: Line,
    pub port: Option<u16>,
}

impl Engine {
    /// A socket of its own for an address that is not the app's.
    pub(super) fn extra_place(&mut self, worker: WorkerId, query: &Query) -> Result<Place, i32> {
        let same = |e: &&Extra| {
            let (a, b) = (&e.query, query);
            (&a.address, a.port, a.kind) == (&b.address, b.port, b.kind)
                && (a.port != Some(0) || a.index == b.index)
        };
        if let Some(known) = self.node.extras.iter().find(same) {
            return Ok(Place::Extra(known.name));
        }
        let strict = self.core.worker(worker).is_some_and(|w| {
            let release = self.releases.get(&w.generation);
            release.is_some_and(|r| r.config.node.strict_ports)
        });
        let own: Vec<String> = self.listeners.iter().map(|l| l.address.clone()).collect();
        let own = own.join(", ");
        if strict {
            let text = format!(
                "it listens on {query}, which is not one of the app's addresses ({own}): it gets \
                 EACCES (node.strict_ports)"
            );
            self.about_once(worker, Level::Error, &text);
            return Err(libc::EACCES);
        }
        if self.talk(worker).is_some_and(|t| t.runner == Runner::Deno) {
            let text = format!(
                "it listens on {query}, which is not one of the app's addresses ({own}), and Deno \
                 cannot accept from a socket that it is handed: put it into `listen`; it gets \
                 EACCES"
            );
            self.about_once(worker, Level::Error, &text);
            return Err(libc::EACCES);
        }
        if self.node.extras.len() >= MAX_EXTRAS {
            return Err(libc::EMFILE);
        }
        let (line, port) = open(query).map_err(|error| {
            let text = format!("it listens on {query}: {error:#}");
            self.about_once(worker, Level::Error, &text);
            errno_of(&error)
        })?;
        let hint = match query.kind {
            Kind::Path => "put it into `listen`, if it is to outlive the workers",
            _ => {
                "put it into `listen`, or let the app listen on process.env.PORT, if it is where \
                  its clients are"
            }
        };
        let text = format!(
            "it listens on {query}, which is not one of the app's addresses ({own}): opened for \
             all workers ({hint})"
        );
        self.about_once(worker, Level::Warning, &text);
        let name = self.node.next_extra;
        self.node.next_extra += 1;
        self.node.extras.push(Extra {
            name,
            query: query.clone(),
            line,
            port,
        });
        Ok(Place::Extra(name))
    }

    /// Closes sockets that no worker has any more: clients would wait in them for nobody.
    pub(super) fn drop_extras(&mut self) {
        let talks = self.held.values().filter_map(|h| h.talk.as_ref());
        let places = talks.flat_map(|t| t.servers.iter().map(|s| s.place));
        let used: Vec<Place> = places.collect();
        let is_used = |e: &Extra| used.contains(&Place::Extra(e.name));
        if !self.node.extras.iter().all(is_used) {
            self.node.extras.retain(is_used);
            self.recorder.outdate();
        }
    }
}

/// Opens the socket that Node's own primary would (lib/net.js, `createServerHandle`).
fn open(query: &Query) -> anyhow::Result<(Line, Option<u16>)> {
    let address = match query.kind {
        Kind::Path => ListenAddress::Unix(PathBuf::from(query.address.as_deref().unwrap_or(""))),
        _ => {
            let port = query.port.and_then(|p| u16::try_from(p).ok());
            let port = port.ok_or_else(|| anyhow::anyhow!("that is no port"))?;
            match query.address.as_deref() {
                None | Some("") => ListenAddress::Port(port),
                Some(text) => ListenAddress::Tcp(SocketAddr::new(text.parse()?, port)),
            }
        }
    };
    let only_v6 = query.flags & 1 != 0;
    let line = bind::open_one(&address, only_v6)?;
    if let (ListenAddress::Unix(path), true) = (&address, query.everybody != (false, false)) {
        let mode = std::fs::metadata(path)?.permissions().mode() & 0o777;
        let (read, write) = query.everybody;
        let more = if read { 0o444 } else { 0 } | if write { 0o222 } else { 0 };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode | more))?;
    }
    let port = line.port();
    Ok((line, port))
}

fn errno_of(error: &anyhow::Error) -> i32 {
    let known = error.downcast_ref::<bind::BindError>();
    known.map_or(libc::EINVAL, |found| found.errno as i32)
}
