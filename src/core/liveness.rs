// SPDX-License-Identifier: MIT OR Apache-2.0
//! Workers that run and do not answer.

use super::*;
use std::time::Duration;

impl Supervisor {
    /// A worker has not answered for `since`. It is out of the balance from now on, and
    /// replaced if it does not answer within `hung_timeout` (while a rollout has it on trial: within
    /// `start_timeout` at most).
    pub(super) fn on_blocked(&mut self, id: WorkerId, since: Duration) {
        let began = Time(self.now.0.saturating_sub(since.as_micros() as u64));
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        if worker.state != WorkerState::Ready || worker.blocked.is_some() {
            return;
        }
        worker.blocked = Some(began);
        let (slot, generation, pid) = (worker.slot, worker.generation, worker.pid);
        let settled = worker.settled;
        // One that is still on trial holds its rollout up.
        let rolled_out = |r: &Rollout| r.to == generation;
        let on_trial = !settled && self.rollout.as_ref().is_some_and(rolled_out);
        let policy = self.policy(generation);
        let trial = on_trial.then_some(policy.start_timeout);
        let limit = policy.hung_timeout.into_iter().chain(trial).min();
        if let Some(limit) = limit {
            self.timers.set(Timer::Hung(id), began + limit);
        }
        self.announce(Transition::Blocked {
            worker: id,
            slot,
            generation,
            pid,
            after: since,
        });
    }

    /// What a worker has said once, and for good: how long it may take, how often it gives a
    /// sign of life, and that it is not well. Signs of life and its status are said again.
    pub fn word_of(&self, id: WorkerId) -> impl PartialEq + use<> {
        let worker = self.workers.get(&id);
        let ends = [Timer::Start(id), Timer::Kill(id)].map(|timer| self.timers.get(timer));
        (ends, worker.map(|w| (w.watchdog, w.checkup.silent)))
    }

    /// It has stayed ready long enough, and answers.
    pub(super) fn on_alive(&mut self, id: WorkerId) {
        let ready = |w: &Worker| w.state == WorkerState::Ready;
        let due = self.timers.get(Timer::Settle(id)).is_none();
        if due && self.workers.get(&id).is_some_and(ready) {
            self.on_held(id);
        }
    }

    /// It has answered.
    pub(super) fn on_answered(&mut self, id: WorkerId) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let Some(began) = worker.blocked.take() else {
            return;
        };
        let (slot, generation, pid) = (worker.slot, worker.generation, worker.pid);
        self.timers.clear(Timer::Hung(id));
        self.announce(Transition::Answered {
            worker: id,
            slot,
            generation,
            pid,
            after: now.since(began),
        });
    }

    /// It has not answered for too long: killed, and its slot gets another one.
    pub(super) fn on_hung(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let Some(began) = worker.blocked else {
            return;
        };
        let (slot, generation, pid) = (worker.slot, worker.generation, worker.pid);
        let after = self.now.since(began);
        let cause = Cause::Hung { after };
        if worker.failed {
            // It was kept for want of a better one: why it goes now is to be known.
            let blame = Blame {
                slot,
                worker: id,
                pid,
                cause,
            };
            self.announce(Transition::Failed { blame, generation });
        } else {
            self.fail(id, cause);
        }
        self.kill_worker(id);
    }
}
