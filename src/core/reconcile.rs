// SPDX-License-Identifier: MIT OR Apache-2.0
//! Desired against actual: the only place that decides to spawn or stop.

use super::rollout::{Kind, Stage};
use super::*;
use std::time::Duration;

/// No more than one failing start of the whole service in this time.
const FIRST_START_PAUSE: Duration = Duration::from_secs(1);

impl Supervisor {
    /// Repeats until nothing is left to do: one step may make the next possible.
    pub(super) fn reconcile(&mut self) {
        for _ in 0..100 {
            let before = (self.actions.len(), self.timers.clone());
            self.step();
            if self.over || (self.actions.len(), &self.timers) == (before.0, &before.1) {
                return;
            }
        }
        debug_assert!(false, "reconciliation does not end: {:?}", self.actions);
    }

    fn step(&mut self) {
        if self.state == ClusterState::Stopping {
            self.step_stopping();
            return;
        }
        self.begin_queued_rollout();
        self.leave_storm();
        self.fit_slots();
        self.note_proof();
        self.advance_rollout();
        self.recycle_next();
        for slot in 0..self.slots.len() {
            self.step_slot(slot);
        }
        self.finish_rollout();
        self.settle_waiters();
        self.update_first_start();
        self.update_degraded();
        self.drop_generations();
    }

    fn step_stopping(&mut self) {
        let serves = |w: &Worker| w.state == WorkerState::Ready;
        if !self.workers.values().any(serves) {
            self.timers.clear(Timer::Leave);
        }
        let leaving = self.timers.get(Timer::Leave).is_some();
        for id in self.workers_where(|w| w.state.is_live() && !(leaving && serves(w))) {
            self.stop_worker(id);
        }
        self.update_degraded();
        if self.workers.is_empty() && self.timers.get(Timer::Exit).is_none() {
            self.answer_stopped();
            self.over = true;
            self.actions.push(Action::Exit(self.outcome.clone()));
        }
    }

    /// The number of slots that should have a ready worker.
    pub(super) fn desired(&self) -> u32 {
        self.rollout_span(self.generation)
    }

    /// Adds missing slots, empties surplus ones and removes those that are empty.
    fn fit_slots(&mut self) {
        let desired = self.desired() as usize;
        let span = match &self.rollout {
            Some(r) if r.stage == Stage::Advancing => {
                let coming = self.rollout_span(r.to) as usize;
                match r.kind {
                    Kind::Rolling => desired.max(coming),
                    Kind::StopFirst => coming,
                }
            }
            _ => desired,
        };
        while self.slots.len() < span {
            self.slots.push(Slot::default());
        }
        for index in 0..desired.min(span) {
            if self.slots[index].generation.is_none() {
                self.slots[index].assign(self.generation);
            }
        }
        for id in self.surplus(span) {
            self.stop_worker(id);
        }
        let used = self.workers.values().map(|w| w.slot.0 as usize + 1).max();
        let keep = span.max(used.unwrap_or(0));
        for index in span..self.slots.len() {
            self.timers.clear(Timer::Backoff(SlotId(index as u32)));
            self.slots[index].generation = None;
            self.slots[index].failed = None;
        }
        self.slots.truncate(keep);
    }

    /// Live workers in slots from `span` on that are to go. Some stand in for slots that
    /// have no ready worker just now: capacity is never given away.
    fn surplus(&self, span: usize) -> Vec<WorkerId> {
        let ready = |id: &WorkerId| {
            let worker = self.workers.get(id);
            worker.is_some_and(|w| w.state == WorkerState::Ready)
        };
        let lacks = |slot: &&Slot| !slot.stopped && !slot.members.iter().any(ready);
        let mut missing = match self.stops_first() {
            true => 0,
            false => self.slots.iter().take(span).filter(lacks).count(),
        };
        let mut all = Vec::new();
        for slot in self.slots.iter().skip(span) {
            let mut stands_in = false;
            for id in &slot.members {
                let live = self.workers.get(id).is_some_and(|w| w.state.is_live());
                if missing > 0 && !stands_in && ready(id) {
                    (stands_in, missing) = (true, missing - 1);
                } else if live {
                    all.push(*id);
                }
            }
        }
        all
    }

    /// The live workers of a slot: those it should have, and the others.
    fn live(&self, slot: usize) -> (Vec<&Worker>, Vec<&Worker>) {
        let want = self.slots[slot].generation;
        let here = self.slots[slot].members.iter();
        here.filter_map(|id| self.workers.get(id))
            .filter(|w| w.state.is_live())
            .partition(|w| Some(w.generation) == want && !w.retire)
    }

    /// The slot has the worker it should have, proven, and no other.
    pub(super) fn is_relieved(&self, slot: usize) -> bool {
        if self.slots[slot].stopped {
            return true;
        }
        let (fit, others) = self.live(slot);
        others.is_empty() && fit.iter().any(|w| w.settled)
    }

    fn step_slot(&mut self, slot: usize) {
        let Some(want) = self.slots[slot].generation else {
            return;
        };
        let stop_first = self.stops_first();
        let (fit, others) = self.live(slot);
        // Those that are recycled go as they go without a rollout, or they would pile up.
        let own = |w: &&Worker| w.state == WorkerState::Starting || w.retire;
        let others: Vec<(WorkerId, bool)> = others.iter().map(|w| (w.id, own(w))).collect();
        let settled = self.slots[slot].stopped || fit.iter().any(|w| w.settled);
        if fit.is_empty() && self.may_spawn(slot, want) {
            if self.slots[slot].last_failure.is_some() {
                self.slots[slot].restarts += 1;
            }
            let hold = self.hold_for(want);
            self.spawn(SlotId(slot as u32), want, hold);
        }
        for (id, free) in others {
            if stop_first || (settled && (free || self.may_drain())) {
                self.stop_worker(id);
            }
        }
    }

    fn stops_first(&self) -> bool {
        let stops = |r: &Rollout| r.kind == Kind::StopFirst && r.stage != Stage::Loading;
        self.rollout.as_ref().is_some_and(stops)
    }

    fn may_spawn(&self, slot: usize, want: GenerationId) -> bool {
        let waits = self.timers.get(Timer::Backoff(SlotId(slot as u32)));
        if waits.is_some() || self.slots[slot].stopped {
            return false;
        }
        // One that leaves by itself may be one that is not to be followed.
        let policy = self.policy(want);
        let open = policy.restart != Restart::Always || !policy.stop_exit_codes.is_empty();
        let mut members = self.slots[slot].members.iter();
        let leaving = |id| self.workers.get(id).is_some_and(|w: &Worker| w.leaving);
        if open && members.any(leaving) {
            return false;
        }
        // "Stop first" means that no two generations ever run side by side.
        !self.stops_first() || self.workers.values().all(|w| w.generation == want)
    }

    /// Whether one more worker may drain for the rollout's sake.
    fn may_drain(&self) -> bool {
        let Some(rollout) = &self.rollout else {
            return true;
        };
        let Some(most) = self.policy(rollout.to).max_draining else {
            return true;
        };
        let draining = |w: &&Worker| w.state == WorkerState::Draining && !w.retire;
        (self.workers.values().filter(draining).count() as u32) < most
    }

    /// Whether the first start has succeeded, as far as it will, or failed.
    fn update_first_start(&mut self) {
        if self.state != ClusterState::Starting || self.slots.is_empty() {
            return;
        }
        let up = self.slots.iter().filter(|s| s.ever_ready).count();
        let hopeless = |s: &Slot| !s.ever_ready && (s.last_failure.is_some() || s.stopped);
        let down = self.slots.iter().filter(|s| hopeless(s)).count();
        if up + down < self.slots.len() {
            return;
        }
        if up == 0 {
            let blame = self.slots.iter().find_map(|s| s.last_failure.clone());
            let outcome = blame.map_or(Outcome::Stopped, Outcome::StartFailed);
            let earliest = self.began + FIRST_START_PAUSE;
            if earliest > self.now {
                self.timers.set(Timer::Exit, earliest);
            }
            self.begin_stopping(outcome);
            return;
        }
        for slot in self.slots.iter_mut().filter(|s| hopeless(s)) {
            slot.failed = slot.last_failure.clone();
        }
        self.said_ready = true;
        self.note_in_service();
        self.set_cluster_state(ClusterState::Running);
        self.actions.push(Action::SayReady);
    }

    fn drop_generations(&mut self) {
        let keep = |id: &GenerationId| {
            *id == self.generation
                || self.last_good == Some(*id)
                || self.rollout.as_ref().is_some_and(|r| r.to == *id)
                || self.slots.iter().any(|s| s.generation == Some(*id))
                || self.workers.values().any(|w| w.generation == *id)
        };
        let dropped: Vec<GenerationId> = self
            .generations
            .keys()
            .copied()
            .filter(|id| !keep(id))
            .collect();
        for generation in dropped {
            self.generations.remove(&generation);
            self.actions.push(Action::DropGeneration { generation });
        }
    }
}
