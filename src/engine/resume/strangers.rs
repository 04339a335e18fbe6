// SPDX-License-Identifier: MIT OR Apache-2.0
//! Processes in our cgroup that no snapshot knows of: left by a supervisor that was killed, or
//! whose unit was stopped before the next one was there.
//!
//! They may have clients, so they are asked to end and have `drain_timeout` for it; Node's over
//! their channels, which are what is trusted of all that was left ([`Stray`]). Only what is
//! not in a group of its own yet is killed at once: it was being started, and has served nobody.

use super::{Kept, Name};
use crate::core::{Time, WorkerId, last_words};
use crate::engine::cgroup::COMPANION;
use crate::engine::node::{Stray, Wish};
use crate::engine::{Engine, Level, Record, now, tree};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// A group of strangers.
pub struct Stranger {
    /// When it is killed.
    until: Time,
    /// It is, or was, a Node worker.
    pub stray: Option<Stray>,
}

/// All of them.
pub type Strangers = BTreeMap<WorkerId, Stranger>;

impl Engine {
    /// Asks those to end that are there. To be called ahead of the first spawn.
    /// `own`: processes that are in no group may be our children. `kept`: where their channels
    /// are.
    pub(in super::super) fn meet_strangers(&mut self, own: bool, kept: &mut Kept) {
        let Some(cgroup) = self.cgroup.clone() else {
            return self.meet_strangers_by_environment(kept);
        };
        let unplaced = if own {
            Vec::new()
        } else {
            cgroup.own_members()
        };
        for pid in unplaced {
            // 0: of another pid namespace.
            if pid > 1 && pid != std::process::id() as i32 {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        if !self.companion.is_running() && !cgroup.members(COMPANION).is_empty() {
            cgroup.kill(COMPANION);
        }
        let mut asked = Vec::new();
        for group in cgroup.workers() {
            // A worker that is not held has ended, or cannot be trusted.
            let known = self.held.contains_key(&group);
            let members = cgroup.members(group);
            if known || members.is_empty() {
                continue;
            }
            asked.extend(self.meet(group, kept));
            // Tells when it is empty, and removes it then.
            self.remove_cgroup(group);
        }
        self.tell_of_strangers(&asked);
    }

    /// The same where workers are in no groups: they have our notify sockets in their environment.
    fn meet_strangers_by_environment(&mut self, kept: &mut Kept) {
        let mut asked = Vec::new();
        for (worker, _) in tree::by_notify_socket(&self.runtime.notify_directory()) {
            let known = self.held.contains_key(&worker) || self.strangers.contains_key(&worker);
            if !known {
                asked.extend(self.meet(worker, kept));
            }
        }
        self.tell_of_strangers(&asked);
    }

    /// Asks a group to end; returns those who lead it.
    fn meet(&mut self, group: WorkerId, kept: &mut Kept) -> Vec<i32> {
        let (within, wish) = self.last_wish();
        let until = now() + within;
        let leaders = self.leaders(group);
        let stray = kept.take(Name::Channel(group)).map(|channel| {
            let last = now() + (within - last_words(within));
            Stray::new(channel, wish.clone(), last)
        });
        match &stray {
            Some(stray) => self.watch_stray(group, stray),
            None => self.signal_stranger(group, None, wish.signal),
        }
        self.strangers.insert(group, Stranger { until, stray });
        leaders
    }

    /// The processes of a group.
    fn strangers_of(&self, group: WorkerId) -> Vec<i32> {
        match &self.cgroup {
            Some(cgroup) => cgroup.members(group),
            None => {
                let all = tree::by_notify_socket(&self.runtime.notify_directory());
                let of = all.into_iter().filter(|(worker, _)| *worker == group);
                of.map(|(_, pid)| pid).collect()
            }
        }
    }

    /// Those of a group that lead a session, as a worker's main process does. What they have
    /// started ends with them, or is killed later.
    fn leaders(&self, group: WorkerId) -> Vec<i32> {
        let leads = |pid: &i32| tree::Stat::read(*pid).is_some_and(|stat| stat.session == *pid);
        self.strangers_of(group).into_iter().filter(leads).collect()
    }

    /// A signal to `app`, if it is still one of the group, else to those who lead it.
    pub(in super::super) fn signal_stranger(
        &self,
        group: WorkerId,
        app: Option<i32>,
        signal: Signal,
    ) {
        let app = app.filter(|pid| self.strangers_of(group).contains(pid));
        let all = app.map_or_else(|| self.leaders(group), |pid| vec![pid]);
        for pid in all {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// How long strangers have to end, and what asks them to.
    fn last_wish(&self) -> (Duration, Wish) {
        let release = self.releases.get(&self.core.generation());
        let config = release.map(|release| &release.config);
        let within = config.map_or(Duration::ZERO, |config| config.drain_timeout);
        let signal = config.and_then(|config| Signal::try_from(config.stop_signal).ok());
        let message = config.and_then(|config| config.stop_message.clone());
        let chosen = config.is_some_and(|config| config.source.gives("stop_signal"));
        let wish = Wish {
            signal: signal.unwrap_or(Signal::SIGTERM),
            chosen: chosen || message.is_some(),
            message,
        };
        (within, wish)
    }

    /// Channels that are still open.
    pub(super) fn channels_of_strangers(&self) -> impl Iterator<Item = (Name, BorrowedFd<'_>)> {
        self.strangers.iter().filter_map(|(group, stranger)| {
            let channel = stranger.stray.as_ref()?.channel()?;
            Some((Name::Channel(*group), channel))
        })
    }

    /// Until when somebody may need its channel, who would lose it with us and what it has begun.
    pub(in super::super) fn strays_until(&self) -> Option<Time> {
        let open = |stranger: &&Stranger| {
            let stray = stranger.stray.as_ref();
            stray.is_some_and(|stray| stray.channel().is_some())
        };
        let strays = self.strangers.values().filter(open);
        strays.map(|stranger| stranger.until).max()
    }

    fn tell_of_strangers(&mut self, asked: &[i32]) {
        if !asked.is_empty() {
            let text = format!(
                "processes of an earlier supervisor that cannot be taken over are asked to end, \
                 and are replaced: {}",
                asked
                    .iter()
                    .map(i32::to_string)
                    .collect::<Vec<_>>()
                    .join(", ")
            );
            self.log(Record::plain(Level::Warning, text));
        }
    }

    /// When something is to be done about one.
    pub(in super::super) fn strangers_deadline(&self) -> Option<Time> {
        let all = self.strangers.values();
        let due = |stranger: &Stranger| stranger.stray.as_ref().and_then(Stray::due);
        all.map(|stranger| due(stranger).map_or(stranger.until, |at| at.min(stranger.until)))
            .min()
    }

    /// Does what is due, and kills those whose time is over.
    pub(in super::super) fn strangers_turn(&mut self) {
        let now = now();
        if self.strangers_deadline().is_none_or(|at| at > now) {
            return;
        }
        for group in self.strangers.keys().copied().collect::<Vec<_>>() {
            let late = self.strangers.get(&group).is_some_and(|s| s.until <= now);
            match late {
                true => self.kill_strangers(group),
                false => self.stray_turn(group),
            }
        }
    }

    fn kill_strangers(&mut self, group: WorkerId) {
        self.forget_strangers(group);
        if self.held.contains_key(&group) {
            return;
        }
        let members = self.strangers_of(group);
        let killed = self
            .cgroup
            .as_ref()
            .is_some_and(|cgroup| cgroup.kill(group));
        if !killed {
            for pid in members {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        self.remove_cgroup(group);
    }

    /// They are gone, or will be at once.
    pub(in super::super) fn forget_strangers(&mut self, group: WorkerId) {
        let known = self.strangers.remove(&group);
        if let Some(stray) = known.and_then(|stranger| stranger.stray) {
            self.end_stray(&stray);
        }
    }
}
