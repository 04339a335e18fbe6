// SPDX-License-Identifier: MIT OR Apache-2.0
//! Workers that run and are replaced all the same, their replacement first.

use super::*;
use std::fmt;
use std::time::Duration;

/// Why a worker that runs is replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recycle {
    /// Its health was asked for, and it is not well; the text says how.
    Unhealthy(String),
    /// It owes a sign of life (`WATCHDOG=1`).
    Silent {
        /// Since when it has given none.
        after: Duration,
    },
    /// It uses more memory than it may.
    Memory {
        /// So much, in bytes.
        used: u64,
        /// It may use this, in bytes.
        limit: u64,
    },
    /// It has lived as long as it may.
    Lifetime {
        /// Since it was ready.
        age: Duration,
    },
}

impl Recycle {
    /// Nothing is wrong with the worker: it can wait for its turn.
    fn is_planned(&self) -> bool {
        matches!(self, Recycle::Memory { .. } | Recycle::Lifetime { .. })
    }
}

impl fmt::Display for Recycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: &u64| *bytes as f64 / f64::from(1 << 20);
        match self {
            Recycle::Unhealthy(text) => f.write_str(text),
            Recycle::Silent { after } => {
                let seconds = after.as_secs_f64();
                write!(f, "has sent no WATCHDOG=1 for {seconds:.1}s")
            }
            Recycle::Memory { used, limit } => write!(
                f,
                "uses {:.0} MiB of memory (max_memory is {:.0} MiB)",
                mib(used),
                mib(limit)
            ),
            Recycle::Lifetime { age } => {
                write!(f, "has reached its max_lifetime after {}s", age.as_secs())
            }
        }
    }
}

impl Supervisor {
    /// Replaces a worker that is ready; it serves until another has taken its place. `false`:
    /// not now (it is on its way out anyway, or others have to be first).
    pub(super) fn recycle(&mut self, id: WorkerId, why: Recycle) -> bool {
        let Some(worker) = self.workers.get(&id).cloned() else {
            return false;
        };
        let (slot, generation, pid) = (worker.slot, worker.generation, worker.pid);
        let wanted = self.slots.get(slot.0 as usize);
        let refilled = |slot: &Slot| slot.generation == Some(generation) && !slot.stopped;
        let fits = wanted.is_some_and(refilled);
        if !fits || worker.retire || worker.state != WorkerState::Ready {
            return false;
        }
        let leaves = |w: &Worker| w.retire && w.state.is_live();
        let busy = self.rollout.is_some() || self.workers.values().any(leaves);
        if why.is_planned() && busy {
            return false;
        }
        let over = match why.is_planned() {
            true => None,
            false => self.count_recycled(&worker, &why),
        };
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.retire = true;
        }
        if let Some(slot) = self.slot_mut(slot) {
            slot.recycled += 1;
        }
        self.announce(Transition::Recycled {
            worker: id,
            slot,
            generation,
            pid,
            why: why.clone(),
        });
        if let Some(blame) = over {
            self.too_many(&blame, generation);
        }
        true
    }

    /// Adds it to the generation's account, as a crash; returns what to say when that is
    /// one too many.
    fn count_recycled(&mut self, worker: &Worker, why: &Recycle) -> Option<Blame> {
        let crashes = self.count_crash(worker.generation);
        let policy = self.policy(worker.generation);
        (crashes > policy.crash_budget).then(|| Blame {
            slot: worker.slot,
            worker: worker.id,
            pid: worker.pid,
            cause: Cause::TooOften {
                why: why.to_string(),
                times: crashes,
                window: policy.crash_window,
            },
        })
    }

    /// The worker serves on, but its generation is no good.
    fn too_many(&mut self, blame: &Blame, generation: GenerationId) {
        if let Some(slot) = self.slot_mut(blame.slot) {
            // Its replacement will have to show that all is well again.
            slot.crashes += 1;
            slot.failed = Some(blame.clone());
            slot.last_failure = Some(blame.clone());
        }
        self.rollout_saw_failure(blame, generation, true, true);
        self.note_storm(generation);
    }
}
