// SPDX-License-Identifier: MIT OR Apache-2.0
//! Changes of state, from which all that is told is derived.

use super::blame::Blame;
use super::event::Exit;
use super::ids::{GenerationId, SlotId, WorkerId};
use super::recycle::Recycle;
use super::worker::WorkerState;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// A change of state, as announced. State has changed when it is seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Transition {
    /// A worker went from one state to the next (`from` none: it was spawned).
    Worker {
        /// Which.
        worker: WorkerId,
        /// Its position.
        slot: SlotId,
        /// Its generation.
        generation: GenerationId,
        /// Its process id, if known by now.
        pid: Option<i32>,
        /// The state it left.
        from: Option<WorkerState>,
        /// The state it entered.
        to: WorkerState,
        /// How long it was in the state it left.
        after: Duration,
    },
    /// A worker's process ended (its last transition follows).
    Exited {
        /// Which.
        worker: WorkerId,
        /// Its position.
        slot: SlotId,
        /// Its generation.
        generation: GenerationId,
        /// Its process id.
        pid: Option<i32>,
        /// How it ended.
        exit: Exit,
        /// Whether it had been asked to.
        requested: bool,
    },
    /// A worker failed: crashed, or never became ready.
    Failed {
        /// Which, and how.
        blame: Blame,
        /// Its generation.
        generation: GenerationId,
    },
    /// A worker runs, but does not answer: it gets no more connections.
    Blocked {
        /// Which.
        worker: WorkerId,
        /// Its position.
        slot: SlotId,
        /// Its generation.
        generation: GenerationId,
        /// Its process id.
        pid: Option<i32>,
        /// For how long by now.
        after: Duration,
    },
    /// A worker that was blocked answers again.
    Answered {
        /// Which.
        worker: WorkerId,
        /// Its position.
        slot: SlotId,
        /// Its generation.
        generation: GenerationId,
        /// Its process id.
        pid: Option<i32>,
        /// How long it had not.
        after: Duration,
    },
    /// A worker wants no traffic, or is not well: it gets no more connections, if others do.
    Unready {
        /// Which.
        worker: WorkerId,
        /// Its position.
        slot: SlotId,
        /// Its generation.
        generation: GenerationId,
        /// Its process id.
        pid: Option<i32>,
        /// How that showed.
        why: String,
    },
    /// It gets connections again.
    ReadyAgain {
        /// Which.
        worker: WorkerId,
        /// Its position.
        slot: SlotId,
        /// Its generation.
        generation: GenerationId,
        /// Its process id.
        pid: Option<i32>,
        /// After this time.
        after: Duration,
    },
    /// A worker that runs is replaced; it serves until another has taken its place.
    Recycled {
        /// Which.
        worker: WorkerId,
        /// Its position.
        slot: SlotId,
        /// Its generation.
        generation: GenerationId,
        /// Its process id.
        pid: Option<i32>,
        /// Why.
        why: Recycle,
    },
    /// A worker uses more memory than it may from the start: another would do so, too.
    Oversized {
        /// Which.
        worker: WorkerId,
        /// Its position.
        slot: SlotId,
        /// Its generation.
        generation: GenerationId,
        /// Its process id.
        pid: Option<i32>,
        /// So much, in bytes.
        used: u64,
        /// It may use this, in bytes.
        limit: u64,
        /// It is replaced when it uses this, in bytes.
        bound: u64,
    },
    /// A slot waits before its next attempt.
    Backoff {
        /// Which.
        slot: SlotId,
        /// How long.
        delay: Duration,
        /// Crashes in a row.
        crashes: u32,
    },
    /// A slot is well again.
    Recovered {
        /// Which.
        slot: SlotId,
    },
    /// The service serves with less than it should (`None`: that is over).
    Degraded {
        /// What is wrong.
        why: Option<String>,
    },
    /// The cluster went from one state to the next.
    Cluster {
        /// The state it left.
        from: ClusterState,
        /// The state it entered.
        to: ClusterState,
    },
    /// A rollout moves on.
    Rollout {
        /// The generation that is being rolled out.
        generation: GenerationId,
        /// What happened to it.
        step: RolloutStep,
    },
    /// The state of a supervisor that is no more was taken over, its workers run on.
    Resumed {
        /// It was left on purpose, with nothing under way.
        exact: bool,
        /// So many.
        workers: u32,
        /// A rollout waited for its turn, and is not to be.
        dropped: bool,
    },
    /// The desired number of workers changed.
    Scaled {
        /// Before.
        from: u32,
        /// Now.
        to: u32,
    },
}

/// What the cluster as a whole is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClusterState {
    /// Not every slot has been ready yet.
    Starting,
    /// Serving.
    Running,
    /// Serving, and rolling out a new generation.
    Reloading,
    /// Ending.
    Stopping,
}

/// What happens in a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutStep {
    /// It begins.
    Started {
        /// The generation that serves now.
        from: GenerationId,
        /// How many slots are to be replaced.
        slots: u32,
    },
    /// One more slot runs the new generation.
    Progress {
        /// So many do now.
        done: u32,
        /// Of so many.
        of: u32,
    },
    /// Its configuration was refused; nothing was changed.
    Refused(String),
    /// It was to bring an older generation back, which cannot be; nothing was changed.
    NoWayBack(String),
    /// It failed and is being undone (or held).
    Failed(Blame),
    /// It is being undone because a rollback was asked for.
    TakenBack,
    /// It is being undone because the supervisor ended in the middle of it.
    Interrupted,
    /// It had been rolled out, and crashes too often: a good one takes its place.
    FallingBack {
        /// The good one.
        to: GenerationId,
        /// The crash that was one too many.
        blame: Blame,
    },
    /// It is over: all slots run the new generation.
    Finished {
        /// How long it took.
        took: Duration,
    },
    /// It is over: it failed, and what could be undone is.
    Undone {
        /// The generation that serves.
        serving: GenerationId,
        /// What is left of the new one, if anything.
        note: Option<String>,
    },
}

impl fmt::Display for ClusterState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ClusterState::Starting => "starting",
            ClusterState::Running => "running",
            ClusterState::Reloading => "reloading",
            ClusterState::Stopping => "stopping",
        })
    }
}
