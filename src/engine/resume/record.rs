// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keeping what the next supervisor would need, as long as there may be one.
//!
//! A record is written at the end of a turn in which something has been decided, and before a
//! process is spawned or asked to end: never for a request, and none while nothing happens.

use super::state::{StateRef, Worker};
use super::{End, Identity, Name, Snapshot, boot_id};
use crate::core::{Action, Event, Supervisor, Time, WorkerId};
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
    /// Workers that are about to get their stop signal.
    unsent: Vec<WorkerId>,
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
            unsent: Vec::new(),
        }
    }

    /// Something has changed that the next supervisor has to know.
    pub fn outdate(&mut self) {
        self.outdated = true;
        self.changes += 1;
    }

    /// Has the core handle an event. It counts if something is to be done, for all but questions
    /// follow from something that it has decided; or if a worker has said something new.
    pub fn follow(&mut self, core: &mut Supervisor, now: Time, event: Event) -> Vec<Action> {
        let speaker = match &event {
            Event::Notified { worker, .. } => Some(*worker),
            _ => None,
        };
        let before = speaker.map(|worker| core.word_of(worker));
        let actions = core.handle(now, event);
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
        if !actions.iter().all(question) || speaker.map(|worker| core.word_of(worker)) != before {
            self.outdate();
        }
        actions
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

    /// Ahead of what ends workers, so that one that is asked to end is never taken for one that
    /// ends by itself. `signals`: who gets its stop signal then.
    pub(in super::super) fn record_ends(&mut self, signals: Vec<WorkerId>) {
        if !self.is_recorded() {
            return;
        }
        self.recorder.unsent = signals;
        let done = self.write_record(End::Killed);
        self.recorder.unsent.clear();
        fault::point("before-signal");
        self.recorded(done);
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
            unsent: &self.recorder.unsent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Cpus};
    use crate::core::{Notification, WorkerState};

    /// A worker and whoever records what it says, `seconds` after the start.
    fn after(seconds: u64, ready: bool) -> (Supervisor, Recorder, Time) {
        let text = "command = \"/bin/true\"\nworkers = 1\nready = \"notify\"\n";
        let config = Config::parse(text, "web.toml").expect("a configuration");
        let mut core = Supervisor::new(config.policy(&Cpus::detect()), 7);
        let mut recorder = Recorder::new(None, Vec::new(), 1);
        let mut now = Time(1);
        let worker = WorkerId(1);
        let what = Notification::Ready;
        let said = ready.then_some(Event::Notified { worker, what });
        let spawned = Event::Spawned { worker, pid: 7 };
        for event in [Event::Begin, spawned].into_iter().chain(said) {
            recorder.follow(&mut core, now, event);
        }
        now = Time(seconds * 1_000_000);
        recorder.follow(&mut core, now, Event::Wake);
        recorder.follow(&mut core, now, Event::Alive { worker });
        (core, recorder, now)
    }

    /// How many records `say` costs that is said a thousand times within a second.
    fn cost(core: &mut Supervisor, recorder: &mut Recorder, now: Time, say: &Notification) -> u64 {
        let before = recorder.changes;
        for n in 0..1_000 {
            let worker = WorkerId(1);
            let what = say.clone();
            let event = Event::Notified { worker, what };
            recorder.follow(core, now + Duration::from_micros(n * 900), event);
        }
        recorder.changes - before
    }

    #[test]
    fn what_is_said_again_is_not_recorded_again() {
        let every = Some(Duration::from_secs(5));
        let more = Notification::ExtendTimeout(Duration::from_secs(200));
        let status = Notification::Status("at it".to_owned());
        let all = [
            (Notification::Ready, 0),
            (Notification::Listening, 0),
            (Notification::SaidReady, 0),
            (status, 0),
            (Notification::Watchdog, 0),
            (more.clone(), 0),
            (Notification::WatchdogInterval(every), 1),
            (Notification::WatchdogTrigger, 1),
        ];
        for (say, most) in all {
            let (mut core, mut recorder, now) = after(20, true);
            let state = core.worker(WorkerId(1)).map(|w| w.state);
            assert_eq!(state, Some(WorkerState::Ready));
            let count = cost(&mut core, &mut recorder, now, &say);
            assert_eq!(count, most, "{say:?}");
        }
        // Each second counts of what it asks for, of those that it is given.
        let (mut core, mut recorder, now) = after(20, false);
        let count = cost(&mut core, &mut recorder, now, &more);
        assert!((1..=2).contains(&count), "{count}");
    }
}
