// SPDX-License-Identifier: MIT OR Apache-2.0
//! Failures: back-off, crash budget, recovery.

use super::*;
use std::time::Duration;

impl Supervisor {
    /// Records that a worker failed. Counts once per worker, whatever follows.
    pub(super) fn fail(&mut self, id: WorkerId, cause: Cause) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        if std::mem::replace(&mut worker.failed, true) {
            return;
        }
        let (slot, generation, pid) = (worker.slot, worker.generation, worker.pid);
        let (settled, was_ready) = (worker.settled, worker.ready_at.is_some());
        let crashes = self.count_crash(generation);
        let policy = self.policy(generation);
        let over = crashes > policy.crash_budget;
        let cause = match cause {
            Cause::Crashed { exit, .. } if over && settled => Cause::OverBudget {
                exit,
                crashes,
                window: policy.crash_window,
            },
            other => other,
        };
        let blame = Blame {
            slot,
            worker: id,
            pid,
            cause,
        };
        self.announce(Transition::Failed {
            blame: blame.clone(),
            generation,
        });
        // Not where the slot is to have a worker of another generation by now: that one has
        // not failed.
        let wanted = |slot: &&mut Slot| slot.generation == Some(generation);
        if let Some(slot) = self.slot_mut(slot).filter(wanted) {
            slot.last_failure = Some(blame.clone());
            if over {
                slot.failed = Some(blame.clone());
            }
        }
        self.rollout_saw_failure(&blame, generation, settled, over);
        let goes_on = |slot: &Slot| slot.generation == Some(generation) && slot.failed.is_some();
        if over || self.slots.get(blame.slot.0 as usize).is_some_and(goes_on) {
            self.note_storm(generation);
        }
        // Asked once more, as the rollout may have been undone.
        let wanted = self.slots.get(blame.slot.0 as usize);
        if wanted.is_some_and(|slot| slot.generation == Some(generation)) {
            self.back_off(blame.slot, was_ready);
        }
        self.waiters_saw_failure(&blame, settled);
    }

    /// Adds a crash to the generation's account and returns how many the window holds.
    pub(super) fn count_crash(&mut self, generation: GenerationId) -> u32 {
        let now = self.now;
        let Some(generation) = self.generations.get_mut(&generation) else {
            return 0;
        };
        let (window, budget) = (
            generation.policy.crash_window,
            generation.policy.crash_budget,
        );
        generation.crashes.push(now);
        generation.crashes.retain(|at| now.since(*at) <= window);
        // One more than the budget is all that is ever asked for.
        let keep = budget as usize + 1;
        let surplus = generation.crashes.len().saturating_sub(keep);
        generation.crashes.drain(..surplus);
        generation.crashes.len() as u32
    }

    /// Makes the slot wait before its next worker; a first crash after ready costs no wait.
    pub(super) fn back_off(&mut self, slot_id: SlotId, was_ready: bool) {
        let random = self.next_random();
        let Some(slot) = self.slot_mut(slot_id) else {
            return;
        };
        slot.crashes += 1;
        let (crashes, failed) = (slot.crashes, slot.failed.is_some());
        let Some(generation) = slot.generation else {
            return;
        };
        let policy = self.policy(generation);
        let exponent = crashes.saturating_sub(1 + u32::from(was_ready)).min(20);
        let delay = match (was_ready, crashes, failed) {
            (_, _, true) => policy.backoff_max,
            (true, 1, _) => return,
            _ => (policy.backoff_min * (1 << exponent)).min(policy.backoff_max),
        };
        // Up to a quarter less, so that slots that failed together do not retry together.
        let delay = (delay - delay / 4 * (random % 1000) as u32 / 1000)
            .max(policy.backoff_min.min(policy.backoff_max));
        self.timers.set(Timer::Backoff(slot_id), self.now + delay);
        self.announce(Transition::Backoff {
            slot: slot_id,
            delay,
            crashes,
        });
    }

    pub(super) fn on_recovered(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let slot_id = worker.slot;
        let Some(slot) = self.slot_mut(slot_id) else {
            return;
        };
        slot.crashes = 0;
        slot.failed = None;
        slot.last_failure = None;
        self.announce(Transition::Recovered { slot: slot_id });
    }

    /// Whether a worker that ended like this is not to be followed by another.
    pub(super) fn stays_away(&self, generation: GenerationId, exit: Exit) -> bool {
        let policy = self.policy(generation);
        match (policy.restart, exit) {
            (Restart::Never, _) => true,
            (Restart::OnFailure, Exit::Code(0)) => true,
            (_, Exit::Code(code)) => policy.stop_exit_codes.contains(&code),
            _ => false,
        }
    }

    /// splitmix64 (public domain algorithm by Sebastiano Vigna): enough for jitter.
    pub(super) fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The one line that says why the service is degraded, if it is.
    pub(super) fn update_degraded(&mut self) {
        let failed = self.slots.iter().filter_map(|slot| slot.failed.as_ref());
        let text: Vec<String> = failed
            .map(|blame| format!("slot {}: {}", blame.slot, blame.cause))
            .chain(self.about_falling_back())
            .collect();
        let degraded = match self.state {
            ClusterState::Running | ClusterState::Reloading if !text.is_empty() => {
                Some(text.join("; "))
            }
            _ => None,
        };
        if degraded != self.degraded {
            self.degraded.clone_from(&degraded);
            self.announce(Transition::Degraded { why: degraded });
        }
    }

    /// How long a worker spawned now must hold before it relieves another.
    pub(super) fn hold_for(&self, generation: GenerationId) -> Duration {
        match &self.rollout {
            Some(rollout) if rollout.to == generation => {
                let policy = self.policy(generation);
                if rollout.proven {
                    policy.min_ready_time
                } else {
                    policy.canary_time
                }
            }
            _ => Duration::ZERO,
        }
    }
}
