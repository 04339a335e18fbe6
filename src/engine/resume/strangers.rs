// SPDX-License-Identifier: MIT OR Apache-2.0
//! Processes in our cgroup that no snapshot knows of: left by a supervisor that was killed, or
//! whose unit was stopped before the next one was there.
//!
//! They may have clients, so they are asked to end and have `drain_timeout` for it. Only what is
//! not in a group of its own yet is killed at once: it was being started, and has served nobody.

use crate::core::{Time, WorkerId};
use crate::engine::cgroup::COMPANION;
use crate::engine::{Engine, Level, Record, now, tree};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::time::Duration;

/// Groups of strangers, and when they are killed.
pub type Strangers = BTreeMap<WorkerId, Time>;

impl Engine {
    /// Asks those to end that are there. To be called ahead of the first spawn.
    /// `own`: processes that are in no group may be our children.
    pub(in super::super) fn meet_strangers(&mut self, own: bool) {
        let Some(cgroup) = self.cgroup.clone() else {
            return self.meet_strangers_by_environment();
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
        let (within, signal) = self.last_wish();
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
            for pid in &members {
                let leads = tree::Stat::read(*pid).is_some_and(|stat| stat.session == *pid);
                if leads {
                    let _ = kill(Pid::from_raw(*pid), signal);
                    asked.push(pid.to_string());
                }
            }
            self.strangers.insert(group, now() + within);
            // Tells when it is empty, and removes it then.
            self.remove_cgroup(group);
        }
        self.tell_of_strangers(&asked);
    }

    /// The same where workers are in no groups: they have our notify sockets in their environment.
    fn meet_strangers_by_environment(&mut self) {
        let (within, signal) = self.last_wish();
        let mut asked = Vec::new();
        for (worker, pid) in tree::by_notify_socket(&self.runtime.notify_directory()) {
            let ours = self.held.contains_key(&worker);
            // What it has started ends with it, or is killed later.
            let leads = tree::Stat::read(pid).is_some_and(|stat| stat.session == pid);
            if ours || !leads {
                continue;
            }
            let _ = kill(Pid::from_raw(pid), signal);
            asked.push(pid.to_string());
            self.strangers.insert(worker, now() + within);
        }
        self.tell_of_strangers(&asked);
    }

    /// How long strangers have to end, and the signal that asks them to.
    fn last_wish(&self) -> (Duration, Signal) {
        let release = self.releases.get(&self.core.generation());
        let config = release.map(|release| &release.config);
        let within = config.map_or(Duration::ZERO, |config| config.drain_timeout);
        let signal = config.and_then(|config| Signal::try_from(config.stop_signal).ok());
        (within, signal.unwrap_or(Signal::SIGTERM))
    }

    fn tell_of_strangers(&mut self, asked: &[String]) {
        if !asked.is_empty() {
            let text = format!(
                "processes of an earlier supervisor that cannot be taken over are asked to end, \
                 and are replaced: {}",
                asked.join(", ")
            );
            self.log(Record::plain(Level::Warning, text));
        }
    }

    /// When the next group is to be killed.
    pub(in super::super) fn strangers_deadline(&self) -> Option<Time> {
        self.strangers.values().min().copied()
    }

    /// Kills those whose time is over.
    pub(in super::super) fn strangers_turn(&mut self) {
        let now = now();
        let late: Vec<WorkerId> = self
            .strangers
            .iter()
            .filter_map(|(group, at)| (*at <= now).then_some(*group))
            .collect();
        if late.is_empty() {
            return;
        }
        let Some(cgroup) = self.cgroup.clone() else {
            for (worker, pid) in tree::by_notify_socket(&self.runtime.notify_directory()) {
                if late.contains(&worker) && !self.held.contains_key(&worker) {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
            }
            return self.strangers.retain(|worker, _| !late.contains(worker));
        };
        for group in late {
            self.strangers.remove(&group);
            if self.held.contains_key(&group) {
                continue;
            }
            if !cgroup.members(group).is_empty() && !cgroup.kill(group) {
                for pid in cgroup.members(group) {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
            }
            self.remove_cgroup(group);
        }
    }
}
