// SPDX-License-Identifier: MIT OR Apache-2.0
//! Workers that grow (`max_memory`) or grow old (`max_lifetime`).
//!
//! They are looked at one by one, each at moments of its own, and only where the policy has a
//! limit. One that has reached it waits until its turn comes (`Worker::due`).

use super::*;
use std::time::Duration;

/// The first look at a worker's memory comes within this time.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// Pause between two looks at one that is far from its limit, and at one that is near.
const LOOK: Duration = Duration::from_secs(5);
const CLOSE_LOOK: Duration = Duration::from_secs(1);

/// What is known of a worker's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// So many bytes.
    pub bytes: u64,
    /// When that was seen.
    pub at: Time,
    /// It is replaced when it uses more bytes than this.
    pub bound: u64,
}

impl Supervisor {
    /// A worker is ready: from now on it is looked at.
    pub(super) fn begin_ageing(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let policy = self.policy(worker.generation);
        let (memory, lifetime) = (policy.max_memory, policy.max_lifetime);
        if memory.is_some() {
            self.look_at_memory(id);
        }
        if let Some(lifetime) = lifetime {
            // Up to a tenth less, so that workers that began together do not end together.
            let end = lifetime - self.up_to(lifetime / 10);
            self.timers.set(Timer::Lifetime(id), self.now + end);
        }
    }

    /// Soon, for the first time or once more.
    pub(super) fn look_at_memory(&mut self, id: WorkerId) {
        let pause = self.up_to(FIRST_LOOK);
        self.timers.set(Timer::Measure(id), self.now + pause);
    }

    /// Some part of `span`.
    fn up_to(&mut self, span: Duration) -> Duration {
        span / 1_000 * (self.next_random() % 1_001) as u32
    }

    pub(super) fn on_lifetime(&mut self, id: WorkerId) {
        let now = self.now;
        if let Some(worker) = self.workers.get_mut(&id) {
            let age = now.since(worker.ready_at.unwrap_or(now));
            worker.due = Some(Recycle::Lifetime { age });
        }
    }

    pub(super) fn on_measured(&mut self, id: WorkerId, memory: Option<u64>) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let Some(limit) = self.policy(worker.generation).max_memory else {
            return;
        };
        if worker.state != WorkerState::Ready {
            return;
        }
        let before = worker.used;
        let mut pause = LOOK;
        if let Some(bytes) = memory {
            // A worker that is too large from the start is not replaced by the like of it
            // again and again, only when it grows.
            let bound = match before {
                Some(before) => before.bound,
                None if bytes > limit => bytes.saturating_add(bytes / 2),
                None => limit,
            };
            let at = self.now;
            let used = Used { bytes, at, bound };
            pause = pause_before_next(before, used);
            self.note_memory(id, used, limit);
        }
        // Up to a quarter less, so that those that began together part.
        let pause = pause - self.up_to(pause / 4);
        self.timers.set(Timer::Measure(id), self.now + pause);
    }

    fn note_memory(&mut self, id: WorkerId, used: Used, limit: u64) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let first = worker.used.replace(used).is_none();
        let due = match worker.due {
            Some(Recycle::Lifetime { .. }) => worker.due.take(),
            _ if used.bytes > used.bound => Some(Recycle::Memory {
                used: used.bytes,
                limit,
            }),
            // It may have given some back before its turn came.
            _ => None,
        };
        worker.due = due;
        let (slot, generation, pid) = (worker.slot, worker.generation, worker.pid);
        if first && used.bound > limit {
            self.announce(Transition::Oversized {
                worker: id,
                slot,
                generation,
                pid,
                used: used.bytes,
                limit,
                bound: used.bound,
            });
        }
    }

    /// How many bytes a worker may use before it is replaced; `None`: any number.
    pub fn memory_bound(&self, id: WorkerId) -> Option<u64> {
        let worker = self.workers.get(&id)?;
        let limit = self.policy(worker.generation).max_memory?;
        Some(worker.used.map_or(limit, |used| used.bound))
    }

    /// Replaces the next worker that has reached a limit, if none is being replaced: the one
    /// that uses the most memory, else the oldest.
    pub(super) fn recycle_next(&mut self) {
        let due = self.workers.values().filter(|w| !w.retire);
        let mut due: Vec<(u64, WorkerId, Recycle)> = due
            .filter_map(|w| {
                let why = w.due.clone()?;
                let used = match why {
                    Recycle::Memory { used, .. } => used,
                    _ => 0,
                };
                Some((used, w.id, why))
            })
            .collect();
        due.sort_by_key(|(used, id, _)| (std::cmp::Reverse(*used), *id));
        for (_, id, why) in due {
            // One that cannot be, since its slot is to have another anyway, is no obstacle.
            if self.recycle(id, why) {
                return;
            }
        }
    }
}

/// Half the time in which a worker that goes on growing as it did reaches its bound.
fn pause_before_next(before: Option<Used>, now: Used) -> Duration {
    let Some(before) = before.filter(|b| b.bytes < now.bytes) else {
        return LOOK;
    };
    let grown = (now.bytes - before.bytes) as f64 / now.at.since(before.at).as_secs_f64();
    let left = now.bound.saturating_sub(now.bytes) as f64;
    let half = Duration::try_from_secs_f64(left / grown / 2.0).unwrap_or(LOOK);
    half.clamp(CLOSE_LOOK, LOOK)
}
