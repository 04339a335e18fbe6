// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keeping what the next supervisor would need, as long as there may be one.
//!
//! A record is written at the end of a turn in which something has been decided, and before a
//! process is spawned: never for a request, and none while nothing happens.

use super::state::{StateRef, Worker};
use super::{End, Identity, Name, Snapshot, boot_id};
use crate::core::{Action, Event, Notification, WorkerId};
use crate::engine::{Engine, Level, Record, SAY_AGAIN, fault};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// After which time systemd is given again what it had no room for.
const STORE_AGAIN: Duration = Duration::from_millis(20);

/// What has been put where the next supervisor finds it.
pub struct Recorder {
    snapshot: Option<Snapshot>,
    /// Something has changed since the last record.
    outdated: bool,
    /// systemd's store is not what it should be.
    incomplete: bool,
    /// How often something has changed.
    pub changes: u64,
    /// What systemd's store has.
    stored: BTreeSet<String>,
    /// What it has that is not what it should be.
    replaced: Vec<String>,
    /// This boot, and this process.
    boot: String,
    own: Option<Identity>,
    /// See [`crate::api::Status::incarnation`].
    pub incarnation: u64,
    /// How we took over, if we did.
    pub taken_over: Option<super::TakenOver>,
    /// It has been told that recording does not work.
    complained: bool,
}

impl Recorder {
    /// Nothing is recorded yet. `stored`: names that systemd's store has already.
    pub fn new(snapshot: Option<Snapshot>, stored: Vec<String>, incarnation: u64) -> Recorder {
        Recorder {
            snapshot,
            outdated: true,
            incomplete: true,
            changes: 0,
            stored: stored.into_iter().collect(),
            replaced: Vec::new(),
            boot: boot_id(),
            own: Identity::of(std::process::id() as i32),
            incarnation,
            taken_over: None,
            complained: false,
        }
    }

    /// Something has changed that the next supervisor has to know.
    pub fn outdate(&mut self) {
        self.outdated = true;
        self.changes += 1;
    }

    /// Takes note of what the core wants done: all but questions follow from something that it
    /// has decided.
    pub fn see(&mut self, actions: &[Action]) {
        let question = |action: &Action| {
            matches!(
                action,
                Action::Ask { .. }
                    | Action::Check { .. }
                    | Action::Hear { .. }
                    | Action::Probe { .. }
                    | Action::Measure { .. }
            )
        };
        if !actions.iter().all(question) {
            self.outdate();
        }
    }

    /// What a worker says once counts for ever: how long it may take, or how often it gives a
    /// sign of life. Signs of life and its status are said again.
    pub fn hear(&mut self, event: &Event) {
        if let Event::Notified { what, .. } = event {
            let again = matches!(what, Notification::Watchdog | Notification::Status(_));
            if !again {
                self.outdate();
            }
        }
    }

    /// Whether something is still to be recorded.
    fn owes(&self) -> bool {
        self.outdated || self.incomplete
    }

    /// Whether what has happened is not recorded yet.
    pub fn is_outdated(&self) -> bool {
        self.outdated
    }

    /// After which time it is to be tried again, if something is.
    pub fn again(&self) -> Option<Duration> {
        self.owes().then_some(match self.complained {
            true => SAY_AGAIN,
            false => STORE_AGAIN,
        })
    }

    /// What was stored under `name` is another descriptor now.
    pub fn replaced(&mut self, name: Name) {
        self.remove(name.to_string());
    }

    /// What is stored under `name` is to go.
    pub fn remove(&mut self, name: String) {
        self.replaced.push(name);
        self.incomplete = true;
    }

    /// What the next supervisor is given.
    pub fn snapshot(&mut self) -> io::Result<&mut Snapshot> {
        if self.snapshot.is_none() {
            self.snapshot = Some(Snapshot::create()?);
        }
        self.snapshot
            .as_mut()
            .ok_or_else(|| io::Error::other("no snapshot"))
    }
}

impl Engine {
    /// Whether there is somebody who would start another supervisor with what we leave.
    pub(in super::super) fn is_recorded(&self) -> bool {
        // Sockets of our own would be closed with us.
        let sockets = self.inherited || self.listeners.is_empty();
        self.unit.is_some() && self.systemd.is_there() && sockets
    }

    /// At the end of a turn.
    pub(in super::super) fn record_turn(&mut self) {
        if !self.recorder.owes() || !self.is_recorded() {
            return self.forget_notifications();
        }
        if self.recorder.outdated {
            let done = self.write_record(End::Killed);
            self.recorder.outdated = done.is_err();
            self.recorder.incomplete = true;
            self.recorded(done);
        }
        let done = self.store_all();
        self.recorder.incomplete = done.is_err();
        if done.is_ok() && !self.recorder.outdated {
            fault::recorded();
        }
        self.recorded(done);
        self.forget_notifications();
    }

    /// Ahead of a worker's process: it is never there without being known of, and what it is
    /// spoken to with outlives us.
    pub(in super::super) fn record_intent(&mut self, descriptors: &[(Name, BorrowedFd<'_>)]) {
        if !self.is_recorded() {
            return;
        }
        let snapshot = Name::Snapshot.to_string();
        let mut done = self.write_record(End::Killed);
        fault::point("after-intent");
        if done.is_ok() && !self.recorder.stored.contains(&snapshot) {
            done = self.store_all();
        }
        for (name, fd) in descriptors {
            let name = name.to_string();
            done = done.and_then(|()| self.systemd.store(&name, *fd));
            if done.is_ok() {
                self.recorder.stored.insert(name);
            }
        }
        self.recorded(done);
    }

    /// Nothing is left to go on with: the next start begins afresh.
    pub(in super::super) fn record_end(&mut self) {
        if !self.is_recorded() {
            return;
        }
        fault::point("before-end");
        let done = self.write_record(End::Stopped);
        self.recorded(done);
        fault::point("after-end");
        for name in std::mem::take(&mut self.recorder.stored) {
            self.systemd.unstore(&name);
        }
    }

    fn recorded(&mut self, done: io::Result<()>) {
        let Err(error) = done else {
            return;
        };
        self.recorder.incomplete = true;
        // systemd not reading for a moment is nothing to tell.
        if error.kind() != io::ErrorKind::WouldBlock && !self.recorder.complained {
            self.recorder.complained = true;
            let text = format!(
                "cannot keep what the next supervisor would need: {error}; if this one is \
                 killed, workers may be lost with it"
            );
            self.log(Record::plain(Level::Error, text));
        }
    }

    pub(super) fn write_record(&mut self, end: End) -> io::Result<()> {
        let text = serde_json::to_vec(&self.state(end))?;
        let snapshot = self.recorder.snapshot()?;
        snapshot.write(&text, || fault::point("mid-snapshot"))?;
        self.forget_notifications();
        Ok(())
    }

    /// Brings systemd's store up to date.
    pub(super) fn store_all(&mut self) -> io::Result<()> {
        while let Some(name) = self.recorder.replaced.pop() {
            if !self.systemd.unstore(&name) {
                self.recorder.replaced.push(name);
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.recorder.stored.remove(&name);
        }
        let wanted: BTreeSet<String> = self.kept_names();
        let new: Vec<(String, OwnedFd)> = self
            .kept_descriptors()
            .into_iter()
            .map(|(name, fd)| (name.to_string(), fd))
            .filter(|(name, _)| !self.recorder.stored.contains(name))
            .map(|(name, fd)| Ok((name, fd.try_clone_to_owned()?)))
            .collect::<io::Result<_>>()?;
        for (name, fd) in new {
            fault::point("before-store");
            self.systemd.store(&name, fd.as_fd())?;
            fault::point("after-store");
            self.recorder.stored.insert(name);
        }
        let gone: Vec<String> = self.recorder.stored.difference(&wanted).cloned().collect();
        for name in gone {
            if !self.systemd.unstore(&name) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.recorder.stored.remove(&name);
        }
        Ok(())
    }

    fn kept_names(&self) -> BTreeSet<String> {
        let all = self.kept_descriptors().into_iter();
        all.map(|(name, _)| name.to_string()).collect()
    }

    /// What the next supervisor is to have besides the listening sockets.
    pub(super) fn kept_descriptors(&self) -> Vec<(Name, BorrowedFd<'_>)> {
        let snapshot = self.recorder.snapshot.iter();
        let snapshot = snapshot.map(|s| (Name::Snapshot, s.as_fd()));
        let workers = self.held.iter();
        let workers = workers.flat_map(|(id, held)| held.descriptors(*id));
        snapshot
            .chain([(Name::Control, self.control.as_fd())])
            .chain(workers)
            .chain(self.channels_of_strangers())
            .chain(self.node.descriptors())
            .chain(self.companion.descriptors())
            .collect()
    }

    /// Everything, as it is now.
    fn state(&self, end: End) -> StateRef<'_> {
        // Whoever leaves hears and says nothing more either.
        let exact = matches!(end, End::Executed | End::Left);
        let mut workers: BTreeMap<WorkerId, Worker> = BTreeMap::new();
        for known in self.core.workers() {
            let held = self.held.get(&known.id);
            let worker = Worker {
                process: held.map(|held| Identity::from(&held.process)),
                lines: held.map(|held| held.lines.clone()).unwrap_or_default(),
                talk: held.and_then(|held| Some(held.talk.as_ref()?.state(exact))),
                begun: match held.and_then(|held| held.tail.as_ref()) {
                    Some(tail) if exact => tail.begun(),
                    _ => Vec::new(),
                },
            };
            workers.insert(known.id, worker);
        }
        let lines = self.listeners.iter().flat_map(|listener| &listener.lines);
        let files = lines.filter_map(|line| Some((line.inode, line.file()?.to_owned())));
        let listeners = self.listeners.iter();
        let lines = listeners.map(|l| l.lines.iter().map(|line| line.inode).collect());
        StateRef {
            app: &self.name,
            version: env!("CARGO_PKG_VERSION"),
            boot: &self.recorder.boot,
            supervisor: self.recorder.own,
            end,
            incarnation: self.recorder.incarnation,
            core: &self.core,
            releases: &self.releases,
            workers,
            lines: lines.collect(),
            files: files.collect(),
            inherited: self.inherited,
            node: self.node_state(exact),
            companion: self.companion.state(exact),
        }
    }
}
