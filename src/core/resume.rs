// SPDX-License-Identifier: MIT OR Apache-2.0
//! Taking over from a supervisor that is no more.
//!
//! What a snapshot says has been done, but for the last ends of workers and the last spawns:
//! they come last of all that an event leads to, in this order, and are recorded before they are
//! done. What was done after that may be
//! missing, and every answer is. Nobody dies for that: whatever measures signs of life begins
//! anew, and what has been promised to a worker that ends is kept.

use super::rollout::{Rollout, Stage};
use super::undo::Undo;
use super::*;

impl Supervisor {
    /// [`Event::Resumed`]
    pub(super) fn on_resumed(&mut self, exact: bool) {
        if self.slots.is_empty() && self.state == ClusterState::Starting {
            self.began = self.now; // nobody had got as far as that
        }
        let dropped = !exact && self.forget_clients();
        let run_on = |w: &&Worker| w.pid.is_some();
        let workers = self.workers.values().filter(run_on).count() as u32;
        self.announce(Transition::Resumed {
            exact,
            workers,
            dropped,
        });
        for id in self.without_pid() {
            self.never_spawned(id);
        }
        if !exact {
            let starts = |w: &&mut Worker| w.state == WorkerState::Starting;
            let starting = self.workers.values_mut().filter(starts);
            starting.for_each(|worker| worker.unheard = true);
        }
        match exact {
            true => self.load_again(),
            false => self.decide_rollout(),
        }
        for id in self.workers_where(|_| true) {
            match self.workers[&id].state {
                WorkerState::Starting => self.resume_start(id),
                WorkerState::Ready => self.resume_watch(id),
                WorkerState::Draining | WorkerState::Stopping => self.resume_end(id, exact),
                WorkerState::Gone => {}
            }
        }
        if self.said_ready && !exact {
            self.actions.push(Action::SayReady);
        }
    }

    /// Whoever waited has lost the connection. A rollout that had not begun does not begin;
    /// returns whether there was one.
    fn forget_clients(&mut self) -> bool {
        self.waiters.clear();
        if let Some(rollout) = &mut self.rollout {
            rollout.requests.clear();
            rollout.undoers.clear();
        }
        self.queued.take().is_some()
    }

    /// A worker that was to be spawned, and was not: no failure, and its slot gets another.
    fn never_spawned(&mut self, id: WorkerId) {
        let slot = self.workers.get(&id).map(|w| w.slot);
        if let Some(slot) = slot.and_then(|slot| self.slot_mut(slot))
            && slot.last_failure.is_some()
        {
            slot.restarts = slot.restarts.saturating_sub(1);
        }
        self.set_state(id, WorkerState::Gone);
    }

    /// What becomes of a rollout that was interrupted.
    fn decide_rollout(&mut self) {
        let Some(Rollout {
            to, stage, back, ..
        }) = &self.rollout
        else {
            return;
        };
        let (to, stage) = (*to, stage.clone());
        // Nobody had asked for it, so nobody would ask again.
        let by_itself = back.as_ref().is_some_and(|back| back.why.is_some());
        let stays = by_itself || self.policy(to).on_failure == OnFailure::Hold;
        match stage {
            Stage::Loading if by_itself => self.load_again(),
            Stage::Loading => {
                let step = RolloutStep::Interrupted;
                let generation = to;
                self.announce(Transition::Rollout { generation, step });
                self.rollout_undone(to, Undo::Interrupted);
                self.actions.push(Action::DropGeneration { generation });
            }
            Stage::Advancing if !stays => self.revert_rollout(Undo::Interrupted),
            Stage::Advancing | Stage::Reverting(_) => {}
        }
    }

    /// The answer to `LoadConfig` or `Recall` is lost, if one was awaited.
    fn load_again(&mut self) {
        let loading = |r: &&Rollout| r.stage == Stage::Loading;
        let Some(rollout) = self.rollout.as_ref().filter(loading) else {
            return;
        };
        let generation = rollout.to;
        self.actions.push(match &rollout.back {
            None => Action::LoadConfig { generation },
            Some(back) => Action::Recall {
                generation,
                of: back.of,
            },
        });
    }

    /// It has all of its time once more. What it has said of itself may be lost: then it is
    /// looked at before it has failed.
    fn resume_start(&mut self, id: WorkerId) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        worker.last_look = false;
        let (generation, spawned) = (worker.generation, worker.spawned);
        let policy = self.policy(generation);
        let full = now + policy.start_timeout;
        let look = match policy.ready {
            Ready::Notify | Ready::Message => None, // leaves no trace
            Ready::Delay(delay) => Some(spawned + delay),
            Ready::Auto | Ready::Accepting | Ready::Listening | Ready::Exec(_) => Some(now),
        };
        let start = Timer::Start(id);
        let at = self.timers.get(start).map_or(full, |at| at.max(full));
        self.timers.set(start, at);
        if let Some(look) = look {
            self.timers.set(Timer::Probe(id), look);
        }
    }

    /// It owes what it owes from now on, and what it was asked it is asked anew.
    fn resume_watch(&mut self, id: WorkerId) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let blocked = worker.blocked.take().is_some();
        let asked = worker.checkup.asked.take().is_some();
        let (held, silent) = (worker.checkup.held, worker.checkup.silent);
        let policy = self.policy(self.workers[&id].generation);
        let (health, memory) = (policy.health.is_some(), policy.max_memory.is_some());
        let unarmed = |timers: &Timers, timer| timers.get(timer).is_none();
        self.timers.clear(Timer::Hung(id));
        if (blocked || !held) && unarmed(&self.timers, Timer::Settle(id)) {
            self.timers.set(Timer::Settle(id), now);
        }
        if health {
            let next = self.timers.get(Timer::Health(id)).filter(|_| !asked);
            let next = next.map_or(now, |at| at.max(now));
            self.timers.set(Timer::Health(id), next);
        }
        if memory && unarmed(&self.timers, Timer::Measure(id)) {
            self.look_at_memory(id);
        }
        if !silent {
            self.begin_watchdog(id);
        }
    }

    /// It ends when it was to end. One that nobody could signal in time has the time after its
    /// signal all the same.
    fn resume_end(&mut self, id: WorkerId, exact: bool) {
        let now = self.now;
        let (Some(worker), Some(kill)) = (self.workers.get(&id), self.timers.get(Timer::Kill(id)))
        else {
            // Its SIGKILL may have missed what it forked at that moment.
            self.actions.push(Action::Kill { worker: id });
            return;
        };
        let asked = !worker.leaving && !worker.doubted;
        let policy = self.policy(worker.generation);
        let drains = policy.drains;
        let Some(signal) = self.timers.get(Timer::Signal(id)) else {
            return;
        };
        let next = signal.max(now);
        self.timers.set(Timer::Signal(id), next);
        self.timers.set(Timer::Kill(id), next + kill.since(signal));
        let within = next.since(now);
        if asked && drains && !exact && !within.is_zero() {
            let hurry = self.state == ClusterState::Stopping;
            self.actions.push(Action::Drain {
                worker: id,
                within,
                hurry,
            });
        }
    }

    /// It is not known whether this worker got its stop signal, which was about to be sent when
    /// it was recorded. To be said ahead of [`Event::Resumed`]. A second one could cut short what
    /// the first has begun: it comes when that has had its time, and leaves as much again.
    pub fn doubt_signal(&mut self, id: WorkerId) {
        let (Some(worker), Some(kill)) =
            (self.workers.get_mut(&id), self.timers.get(Timer::Kill(id)))
        else {
            return;
        };
        (worker.signalled, worker.doubted) = (false, true);
        let generation = worker.generation;
        let within = self.policy(generation).drain_timeout;
        self.timers.set(Timer::Signal(id), kill);
        self.timers.set(Timer::Kill(id), kill + within);
    }

    /// Workers that are recorded without a process: it was about to be spawned, or has been.
    pub fn without_pid(&self) -> Vec<WorkerId> {
        self.workers_where(|w| w.pid.is_none())
    }

    /// Workers get numbers from `first` on; lower ones are somebody else's (cgroups that were
    /// left over). Numbers that were given are never given again.
    pub fn number_from(&mut self, first: u64) {
        self.next_worker = self.next_worker.max(first);
    }
}
