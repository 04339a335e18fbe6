// SPDX-License-Identifier: MIT OR Apache-2.0
//! Doing what the core says.

use super::node::{Batch, Start};
use super::output::{self, Whose};
use super::resume::Name;
use super::spawn::{Output, spawn};
use super::{Engine, Held, NotifySocket, Release, Token, fault, report, tree};
use crate::config::Runner;
use crate::core::{Action, Event, GenerationId, Ready, SlotId, WorkerId};
use crate::exec::Plan;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::pidfd_send_signal;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// Tails of so many gone workers are kept.
const KEPT_TAILS: usize = 16;

impl Engine {
    pub(super) fn perform(&mut self, action: Action) {
        match action {
            Action::Spawn {
                worker,
                slot,
                generation,
            } => {
                let event = match self.spawn_worker(worker, slot, generation) {
                    Ok(pid) => Event::Spawned { worker, pid },
                    Err(error) => {
                        let error = error.to_string();
                        Event::SpawnFailed { worker, error }
                    }
                };
                self.pending.push_back(event);
            }
            Action::Drain {
                worker,
                within,
                hurry,
            } => self.drain(worker, within, hurry),
            Action::Ask { worker } => self.try_worker(worker),
            Action::Check { worker } => self.check_health(worker),
            Action::Hear { worker } => self.hear(worker),
            Action::Signal { worker, signal } => {
                if !self.signal_node(worker, signal) {
                    self.signal(worker, signal);
                }
                self.has_signalled(worker);
                fault::point("after-signal");
            }
            Action::Kill { worker } => {
                self.kill_tree(worker);
                self.has_signalled(worker);
            }
            Action::Probe { worker } => self.probe(worker),
            Action::Measure { worker } => self.measure(worker),
            Action::Release { worker } => self.release(worker),
            Action::LoadConfig { generation } => self.load_config(generation),
            Action::Recall { generation, of } => self.recall(generation, of),
            Action::DropGeneration { generation } => {
                self.releases.remove(&generation);
            }
            Action::SayReady => self.systemd.say_ready(),
            Action::Announce(transition) => self.announce(&transition),
            Action::Reply { to, result } => self.reply(to, result),
            Action::Exit(outcome) => self.outcome = self.outcome.take().or(Some(outcome)),
        }
    }

    fn spawn_worker(
        &mut self,
        worker: WorkerId,
        slot: SlotId,
        generation: GenerationId,
    ) -> io::Result<i32> {
        let Some(release) = self.releases.get(&generation) else {
            return Err(io::Error::other("its generation is gone"));
        };
        let notify = NotifySocket::bind(&self.runtime.notify(worker)).map_err(|error| {
            let place = self.runtime.notify(worker);
            io::Error::other(format!("cannot make {}: {error}", place.display()))
        })?;
        let cgroup = match &self.cgroup {
            Some(cgroup) => {
                cgroup.create(worker)?;
                Some(cgroup.entrance(worker).display().to_string())
            }
            None => None,
        };
        let lines = self.lines_for(release, slot);
        let plan = Plan {
            cgroup,
            listen: !self.sockets(&lines).is_empty(),
            watchdog: release.config.watchdog.is_some()
                && release.launch.runner != Some(Runner::Launcher),
            cpu: release.cpu(slot),
            ..report::plan(&release.launch)
        };
        let runner = release.launch.runner;
        let mut environment = self.environment(release, slot, generation, &notify, &lines);
        let start = self.node_start(release, worker, &mut environment)?;
        let mut kept = vec![(Name::Notify(worker), notify.as_fd())];
        let channel = start.as_ref().map(|start| start.talk.channel().as_fd());
        kept.extend(channel.map(|fd| (Name::Channel(worker), fd)));
        self.record_intent(&kept);
        let numbered = self.sockets(&lines).into_iter().zip(3..);
        let passed: Vec<(BorrowedFd<'_>, i32)> = match (&start, runner) {
            (Some(start), _) => vec![(start.channel.0.as_fd(), start.channel.1)],
            (None, Some(_)) => Vec::new(),
            (None, None) => numbered.collect(),
        };
        let pipe: Option<(OwnedFd, OwnedFd)> = match self.style {
            Some(_) => Some(nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?),
            None => None,
        };
        let output = match &pipe {
            Some((_, writer)) => Output::Pipe(writer.as_fd()),
            None => Output::Inherit,
        };
        fault::point("before-spawn");
        let process = spawn(&plan, &environment, &passed, output)?;
        fault::point("after-spawn");
        let pid = process.pid;
        let mut held = Held {
            process,
            notify,
            probe: None,
            check: None,
            tail: None,
            lines,
            talk: start.map(|start| start.talk),
        };
        let output = pipe.map(|(reader, _)| (reader, Vec::new()));
        let watched = self.watch(worker, slot, &mut held, output);
        self.held.insert(worker, held);
        if let Err(error) = watched {
            // What cannot be watched must not run.
            self.kill_tree(worker);
            return Err(error);
        }
        Ok(pid)
    }

    /// The channel of a new worker, if it gets one.
    fn node_start(
        &self,
        release: &Release,
        worker: WorkerId,
        environment: &mut BTreeMap<String, String>,
    ) -> io::Result<Option<Start>> {
        let Some(runner) = release.launch.runner else {
            return Ok(None);
        };
        let batch = Batch(self.listeners.is_empty());
        let start = Start::new(runner, release.config.spread(), batch)?;
        if let Some(start) = &start {
            let preload = self.node.preload();
            // Node 20 and 22 would not let it be read.
            let locked = |word: &String| word == "--experimental-permission";
            let locked = release.launch.arguments.iter().any(locked);
            let preload = preload.filter(|_| release.config.node.preload && !locked);
            start.announce(environment, worker, batch, preload);
        }
        Ok(start)
    }

    /// The line of each listener that a worker in `slot` is given.
    pub(super) fn lines_for(&self, release: &Release, slot: SlotId) -> Vec<Option<usize>> {
        let spread = release.config.spread();
        let listeners = self.listeners.iter();
        listeners.map(|l| l.line_of(slot, spread)).collect()
    }

    /// The sockets of a worker that has `lines`, in the order of their descriptors.
    fn sockets(&self, lines: &[Option<usize>]) -> Vec<BorrowedFd<'_>> {
        let pairs = self.listeners.iter().zip(lines);
        pairs
            .filter_map(|(listener, line)| Some(listener.lines.get((*line)?)?.fd.as_fd()))
            .collect()
    }

    pub(super) fn watch(
        &self,
        worker: WorkerId,
        slot: SlotId,
        held: &mut Held,
        output: Option<(OwnedFd, Vec<u8>)>,
    ) -> io::Result<()> {
        if let (Some(style), Some(pipe)) = (self.style, output) {
            let pid = held.process.pid;
            let whose = Whose::Slot(slot);
            held.tail = Some(output::show(style, &self.name, whose, pid, pipe)?);
        }
        self.poller.add(&held.process.pidfd, Token::Exit(worker))?;
        if let Some(talk) = held.talk.as_ref().filter(|t| !t.channel().has_ended()) {
            self.poller.add(talk.channel(), Token::Channel(worker))?;
        }
        self.poller.add(&held.notify, Token::Notify(worker))
    }

    /// What a worker finds in its environment besides what the configuration says.
    pub(super) fn environment(
        &self,
        release: &Release,
        slot: SlotId,
        generation: GenerationId,
        notify: &NotifySocket,
        lines: &[Option<usize>],
    ) -> BTreeMap<String, String> {
        let mut all = release.launch.environment.clone();
        if self.style.is_some() {
            // Its output goes to us, not to the journal (systemd.exec(5)).
            all.remove("JOURNAL_STREAM");
        }
        let (workers, _) = self.core.desired_workers();
        let unless_set = [
            ("WORKER_COUNT", Some(workers.to_string())),
            ("NODE_APP_INSTANCE", Some(slot.to_string())),
            (
                "PORT",
                self.listeners
                    .iter()
                    .filter(|l| !l.per_slot)
                    .find_map(|l| l.port)
                    .map(|p| p.to_string()),
            ),
        ];
        for (name, value) in unless_set {
            if let Some(value) = value.filter(|_| !release.launch.sets(name)) {
                all.insert(name.to_owned(), value);
            }
        }
        let pairs = self.listeners.iter().zip(lines);
        let given = pairs.filter(|(_, line)| line.is_some());
        let names: Vec<&str> = given.map(|(listener, _)| listener.name.as_str()).collect();
        let mut ours = vec![
            ("APP_CLUSTER_NAME", self.name.clone()),
            ("APP_CLUSTER_SLOT", slot.to_string()),
            ("APP_CLUSTER_WORKERS", workers.to_string()),
            ("APP_CLUSTER_GENERATION", generation.to_string()),
            ("NOTIFY_SOCKET", notify.path().display().to_string()),
        ];
        if let Some(every) = release.config.watchdog {
            ours.push(("WATCHDOG_USEC", every.as_micros().to_string()));
        }
        if !release.config.pre_stop_delay.is_zero() {
            let file = self.runtime.stopping().display().to_string();
            ours.push(("APP_CLUSTER_STOPPING", file));
        }
        if !names.is_empty() {
            ours.push(("LISTEN_FDS", names.len().to_string()));
            ours.push(("LISTEN_FDNAMES", names.join(":")));
        }
        all.extend(ours.into_iter().map(|(k, v)| (k.to_owned(), v)));
        all
    }

    /// A signal to the main process. One that is gone already is about to be reported.
    pub(super) fn signal(&self, worker: WorkerId, signal: i32) {
        let named = rustix::process::Signal::from_named_raw(signal);
        if let (Some(held), Some(signal)) = (self.held.get(&worker), named) {
            let _ = pidfd_send_signal(&held.process.pidfd, signal);
        }
    }

    /// SIGKILL to everything that belongs to a worker.
    pub(super) fn kill_tree(&self, worker: WorkerId) {
        let Some(held) = self.held.get(&worker) else {
            return;
        };
        let main = held.process.pid;
        let mut pids = Vec::new();
        match &self.cgroup {
            Some(cgroup) if cgroup.kill(worker) => {}
            Some(cgroup) => pids = cgroup.members(worker),
            None => {
                let known = |pid| self.held.values().any(|h| h.process.pid == pid);
                pids = tree::descendants(main);
                let mark = format!("NOTIFY_SOCKET={}", held.notify.path().display());
                pids.extend(tree::orphans(main, &mark, known));
            }
        }
        for pid in pids.into_iter().filter(|pid| *pid > 1 && *pid != main) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = pidfd_send_signal(&held.process.pidfd, rustix::process::Signal::KILL);
    }

    /// Ends commands that ask after a worker: nobody waits for them.
    pub(super) fn end_questions(&mut self, worker: WorkerId) {
        self.end_check(worker);
        let probe = self.held.get_mut(&worker).and_then(|h| h.probe.take());
        if let Some(probe) = probe {
            self.poller.remove(&probe.pidfd);
            let _ = pidfd_send_signal(&probe.pidfd, rustix::process::Signal::KILL);
        }
    }

    fn release(&mut self, worker: WorkerId) {
        self.end_questions(worker);
        self.end_talk(worker);
        self.foreign.remove(&worker);
        if let Some(held) = self.held.remove(&worker) {
            self.poller.remove(&held.process.pidfd);
            self.poller.remove(&held.notify);
            if let Some(tail) = held.tail {
                self.tails.push_back((worker, tail));
                if self.tails.len() > KEPT_TAILS {
                    self.tails.pop_front();
                }
            }
        }
        self.remove_cgroup(worker);
    }

    /// Removes a worker's cgroup as soon as it is empty.
    pub(super) fn remove_cgroup(&mut self, worker: WorkerId) {
        let Some(cgroup) = &self.cgroup else {
            return;
        };
        if let Some(events) = self.dying.get(&worker) {
            // It is reported until it has been read (cgroups(7)).
            let _ = events.read_at(&mut [0; 64], 0);
        }
        if cgroup.remove(worker) {
            self.forget_strangers(worker);
            if let Some(events) = self.dying.remove(&worker) {
                self.poller.remove(&events);
            }
            return;
        }
        if !self.dying.contains_key(&worker)
            && let Ok(events) = cgroup.events(worker)
            && self.poller.add(&events, Token::Cgroup(worker)).is_ok()
        {
            self.dying.insert(worker, events);
            // It may have become empty in between.
            self.remove_cgroup(worker);
        }
    }

    /// Looks whether a starting worker is ready.
    fn probe(&mut self, worker: WorkerId) {
        let Some(known) = self.core.worker(worker) else {
            return;
        };
        let Some(release) = self.releases.get(&known.generation) else {
            return;
        };
        if let Ready::Exec(command) = &release.config.ready {
            let launch = &release.launch;
            let found = (launch.ready_program.as_deref(), &launch.ready_pins);
            match self.run_beside(worker, release, found, command, Output::Inherit) {
                Ok(process) => {
                    let added = self.poller.add(&process.pidfd, Token::ProbeExit(worker));
                    if let (Some(held), Ok(())) = (self.held.get_mut(&worker), added) {
                        held.probe = Some(process);
                        return;
                    }
                }
                Err(error) => self.warn(format!("cannot run the readiness command: {error}")),
            }
            self.pending.push_back(Event::Probed {
                worker,
                ready: false,
            });
            return;
        }
        let held = self.held.get(&worker);
        let speaks = matches!(
            release.config.ready,
            Ready::Auto | Ready::Listening | Ready::Message
        ) && held.is_some_and(|held| held.talk.is_some());
        if speaks {
            // It has told where it listens, perhaps to a supervisor that is no more.
            let ready = self.listens_everywhere(worker);
            self.pending.push_back(Event::Probed { worker, ready });
            return;
        }
        let pairs = self
            .listeners
            .iter()
            .zip(held.iter().flat_map(|h| &h.lines));
        let inodes: Vec<u64> = pairs
            .filter_map(|(listener, line)| Some(listener.lines.get((*line)?)?.inode))
            .collect();
        // posix_spawn(3) returns when the child has a new image, which is a moment before
        // its CLOEXEC descriptors are closed: our epoll set, with the sockets in it, is
        // one of them. The new image begins with setsid(2).
        let begun = |held: &Held| {
            let pid = held.process.pid;
            tree::Stat::read(pid).is_some_and(|stat| stat.session == pid)
        };
        let ready = held.is_some_and(begun)
            && super::readiness::is_accepting(&self.members(worker), &inodes);
        self.pending.push_back(Event::Probed { worker, ready });
    }

    /// The processes of a worker, its main process among them.
    pub(super) fn members(&self, worker: WorkerId) -> Vec<i32> {
        let Some(held) = self.held.get(&worker) else {
            return Vec::new();
        };
        match &self.cgroup {
            Some(cgroup) => cgroup.members(worker),
            None => tree::descendants(held.process.pid),
        }
    }
}
