// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is written into a snapshot.
//!
//! Fields that are added later have a default, so that a snapshot of the version before can be
//! read; see [`super::snapshot::FORMAT`].

use crate::core::{GenerationId, Supervisor, Time, WorkerId};
use crate::engine::companion::CompanionState;
use crate::engine::node::{PrimaryState, TalkState};
use crate::engine::release::Release;
use crate::engine::spawn::Process;
use crate::engine::tree::Stat;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// More than we ever count to.
pub const MANY: u64 = 1 << 48;

/// A process, told from another one that has its pid later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its process id.
    pub pid: i32,
    /// When it was started, in clock ticks since the boot (proc_pid_stat(5)).
    pub started: u64,
}

impl From<&Process> for Identity {
    /// Also of one that is gone.
    fn from(process: &Process) -> Identity {
        Identity {
            pid: process.pid,
            started: process.started,
        }
    }
}

impl Identity {
    /// That of the process that has this pid now.
    pub fn of(pid: i32) -> Option<Identity> {
        let stat = Stat::read(pid)?;
        Some(Identity {
            pid,
            started: stat.started,
        })
    }

    /// Whether it is there, a zombie or not.
    pub fn is_there(self) -> bool {
        Identity::of(self.pid) == Some(self)
    }
}

/// Everything.
#[derive(Serialize, Deserialize)]
pub struct State {
    /// The app.
    pub app: String,
    /// The version that has written it.
    pub version: String,
    /// The boot (/proc/sys/kernel/random/boot_id): pids and times mean nothing in another.
    pub boot: String,
    /// Who has written it.
    pub supervisor: Option<Identity>,
    /// How it ends.
    pub end: End,
    /// See [`crate::api::Status::incarnation`].
    pub incarnation: u64,
    /// Decisions.
    pub core: Supervisor,
    /// Configurations.
    pub releases: BTreeMap<GenerationId, Release>,
    /// What is held for workers.
    pub workers: BTreeMap<WorkerId, Worker>,
    /// Listeners: the inodes of their lines, in their order.
    pub lines: Vec<Vec<u64>>,
    /// Socket files that we have made, by inode.
    #[serde(default)]
    pub files: BTreeMap<u64, PathBuf>,
    /// Whether the sockets are systemd's.
    pub inherited: bool,
    /// What is known of Node workers in common.
    pub node: PrimaryState,
    /// The companion.
    pub companion: CompanionState,
    /// Workers that were about to get their stop signal.
    #[serde(default)]
    pub unsent: Vec<WorkerId>,
}

/// How a supervisor ends that has written a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// It has not said, so it was killed.
    Killed,
    /// It has left, for another one to go on.
    Left,
    /// It executes the program again.
    Executed,
    /// It has stopped: there is nothing to go on with.
    Stopped,
}

/// What is held for a worker.
#[derive(Serialize, Deserialize)]
pub struct Worker {
    /// `None`: it is about to be spawned.
    pub process: Option<Identity>,
    /// The line that it was given of each listener.
    pub lines: Vec<Option<usize>>,
    /// What is said over its channel, if it has one.
    pub talk: Option<TalkState>,
    /// The beginning of a line of its output (foreground).
    #[serde(default)]
    pub begun: Vec<u8>,
}

/// [`State`], to be written.
#[derive(Serialize)]
pub struct StateRef<'a> {
    pub app: &'a str,
    pub version: &'a str,
    pub boot: &'a str,
    pub supervisor: Option<Identity>,
    pub end: End,
    pub incarnation: u64,
    pub core: &'a Supervisor,
    pub releases: &'a BTreeMap<GenerationId, Release>,
    pub workers: BTreeMap<WorkerId, Worker>,
    pub lines: Vec<Vec<u64>>,
    pub files: BTreeMap<u64, PathBuf>,
    pub inherited: bool,
    pub node: PrimaryState,
    pub companion: CompanionState,
    pub unsent: &'a [WorkerId],
}

impl State {
    /// Something may have been said and heard since it was written.
    pub fn doubt(&mut self) {
        let workers = self.workers.values_mut();
        workers
            .filter_map(|worker| worker.talk.as_mut())
            .for_each(TalkState::doubt);
        self.companion.doubt();
    }

    /// Reads it.
    ///
    /// # Errors
    /// What is wrong about it, for people.
    pub fn parse(text: &[u8]) -> Result<State, String> {
        serde_json::from_slice(text).map_err(|error| error.to_string())
    }
}

impl State {
    /// Whether it can be gone on from at `now`.
    ///
    /// # Errors
    /// What makes no sense, for people.
    pub fn check(&self, now: Time) -> Result<(), String> {
        self.core.check_snapshot(now)?;
        let says = |holds: bool, wrong: &str| holds.then_some(()).ok_or_else(|| wrong.to_owned());
        says(
            self.releases.contains_key(&self.core.generation()),
            "it lacks the configuration that serves",
        )?;
        let known = self.core.workers().map(|worker| worker.id);
        says(
            known.eq(self.workers.keys().copied()),
            "it is about other workers than it has decided upon",
        )?;
        let own = std::process::id() as i32;
        let processes = self.workers.values().filter_map(|w| w.process);
        // One that has ended may share its pid with a later one.
        let mut all: Vec<(i32, u64)> = processes.map(|p| (p.pid, p.started)).collect();
        all.extend(self.companion.process().map(|p| (p.pid, p.started)));
        all.sort_unstable();
        says(
            all.iter().all(|(pid, _)| *pid > 1 && *pid != own)
                && all.is_sorted_by(|one, next| one < next),
            "a process is none of ours, or counts twice",
        )?;
        says(
            self.incarnation < MANY && self.node.is_sane(),
            "a number is too high",
        )?;
        let talks = self.workers.values().filter_map(|w| w.talk.as_ref());
        says(
            talks.into_iter().all(TalkState::is_sane),
            "a number is too high",
        )
    }
}

/// The id of this boot; empty where it is not told.
pub fn boot_id() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    text.unwrap_or_default().trim().to_owned()
}
