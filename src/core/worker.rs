// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is known of a worker and of a slot.

use super::ageing::Used;
use super::blame::Blame;
use super::event::Exit;
use super::health::Checkup;
use super::ids::{GenerationId, SlotId, WorkerId};
use super::policy::Policy;
use super::recycle::Recycle;
use super::rollback::RolledBack;
use super::time::Time;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// The life of a worker. It only ever moves to the right; any state may be skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkerState {
    /// Spawned, not ready yet.
    Starting,
    /// Serving.
    Ready,
    /// Was ready, finishes what it has accepted.
    Draining,
    /// Told to end without having been ready, or being killed.
    Stopping,
    /// Its process is no more.
    Gone,
}

impl WorkerState {
    /// Serving, or about to.
    pub fn is_live(self) -> bool {
        matches!(self, WorkerState::Starting | WorkerState::Ready)
    }
}

impl fmt::Display for WorkerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WorkerState::Starting => "starting",
            WorkerState::Ready => "ready",
            WorkerState::Draining => "draining",
            WorkerState::Stopping => "stopping",
            WorkerState::Gone => "gone",
        })
    }
}

/// One process (tree) in a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// Its name.
    pub id: WorkerId,
    /// Its position.
    pub slot: SlotId,
    /// Its configuration and code.
    pub generation: GenerationId,
    /// Its process id, once it runs.
    pub pid: Option<i32>,
    /// Where it is in its life.
    pub state: WorkerState,
    /// Since when.
    pub since: Time,
    /// When it was spawned.
    pub spawned: Time,
    /// When it became ready.
    pub ready_at: Option<Time>,
    /// How long it must stay ready before it relieves another worker.
    pub hold: Duration,
    /// It has stayed ready that long.
    pub settled: bool,
    /// It was asked to end, so its end is no crash.
    pub requested: bool,
    /// It has been sent its stop signal.
    pub signalled: bool,
    /// It may have been sent before somebody else took over.
    #[serde(default)]
    pub doubted: bool,
    /// It has said by itself that it ends (`STOPPING=1`).
    pub leaving: bool,
    /// Its failure has been dealt with.
    pub failed: bool,
    /// It is to be replaced by another worker of its generation.
    pub retire: bool,
    /// It is to be replaced when its turn comes.
    pub due: Option<Recycle>,
    /// How much memory it was last seen to use, and what it is held to.
    pub used: Option<Used>,
    /// Its time to start is over; it is ready by the next look, or has failed.
    pub last_look: bool,
    /// What it has said of itself may have been lost with the supervisor of that time.
    #[serde(default)]
    pub unheard: bool,
    /// How often it has been looked at for readiness.
    pub probes: u32,
    /// Since when it does not answer, if it is seen not to.
    pub blocked: Option<Time>,
    /// Since when it is out of the balance because of what it says of itself.
    pub not_ready: Option<Time>,
    /// Its health.
    pub checkup: Checkup,
    /// How often it owes a sign of life; `None`: never.
    pub watchdog: Option<Duration>,
    /// When it gave the last one.
    pub alive_at: Time,
    /// What it last said of itself (`STATUS=`).
    pub status: Option<String>,
}

/// How a slot's last worker ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastExit {
    /// When.
    pub at: Time,
    /// Which worker.
    pub worker: WorkerId,
    /// Its process id.
    pub pid: Option<i32>,
    /// How.
    pub exit: Exit,
    /// Whether it had been asked to.
    pub requested: bool,
}

/// A stable worker position.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// The generation its worker should be of. `None`: not to be filled yet.
    pub generation: Option<GenerationId>,
    /// Its workers that are not gone, oldest first.
    pub members: Vec<WorkerId>,
    /// It has had a ready worker.
    pub ever_ready: bool,
    /// Failures in a row, for the back-off.
    pub crashes: u32,
    /// Workers started in place of one that failed, ever.
    pub restarts: u64,
    /// Workers that were replaced while they ran, ever.
    pub recycled: u64,
    /// Its worker ended in a way that is not to be followed by a restart.
    pub stopped: bool,
    /// The last failure, while it makes the service degraded.
    pub failed: Option<Blame>,
    /// The last failure since the slot was last well.
    pub last_failure: Option<Blame>,
    /// How its last worker ended.
    pub last_exit: Option<LastExit>,
}

impl Slot {
    /// Gives the slot to `generation`, whose past is not that of the one before.
    pub(super) fn assign(&mut self, generation: GenerationId) {
        self.generation = Some(generation);
        self.crashes = 0;
        self.stopped = false;
        self.last_failure = None;
    }
}

/// A generation that some worker runs, or may run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// Its rules.
    pub policy: Policy,
    /// When its workers crashed, oldest first, no older than the crash window.
    pub crashes: Vec<Time>,
    /// When it had been rolled out (the first one: started).
    pub in_service: Option<Time>,
    /// When it last had more crashes than its budget.
    pub over_budget: Option<Time>,
    /// It has been tried to go back from it without being asked to.
    pub fell_back: bool,
    /// It is an older one that was brought back.
    pub rolled_back: Option<RolledBack>,
}

impl Generation {
    /// One that nobody runs yet.
    pub fn new(policy: Policy) -> Generation {
        Generation {
            policy,
            crashes: Vec::new(),
            in_service: None,
            over_budget: None,
            fell_back: false,
            rolled_back: None,
        }
    }
}
