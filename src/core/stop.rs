// SPDX-License-Identifier: MIT OR Apache-2.0
//! The end of a worker: asked to drain, told to stop, killed.

use super::*;
use std::time::Duration;

/// A worker may prolong its start or its drain up to this many times the configured time.
const MAX_EXTENSION: u32 = 10;
/// So long before it is killed a worker that still drains gets its stop signal, so that its
/// clean-up runs in any case; less where that would be more than a quarter of its time.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How long before a worker is killed, which has `within` to end, it gets its stop signal.
pub fn last_words(within: Duration) -> Duration {
    LAST_WORDS.min(within / 4)
}

impl Supervisor {
    pub(super) fn extend(&mut self, id: WorkerId, by: Duration) {
        let worker = &self.workers[&id];
        let policy = self.policy(worker.generation);
        let (timer, limit) = match worker.state {
            WorkerState::Starting => (Timer::Start(id), policy.start_timeout),
            _ => (Timer::Kill(id), policy.drain_timeout),
        };
        let latest = worker.since + limit * MAX_EXTENSION;
        if let Some(at) = self.timers.get(timer) {
            // Somebody may say it all the time, and each change is recorded.
            let extended = (self.now + by).up_to_second().min(latest);
            self.timers.set(timer, at.max(extended));
        }
    }

    /// A worker says by itself that it ends: no crash, but its slot needs another.
    pub(super) fn on_leaving(&mut self, id: WorkerId) {
        let worker = &self.workers[&id];
        if worker.state != WorkerState::Ready {
            return;
        }
        let slot = worker.slot;
        if !worker.settled {
            self.fail(id, Cause::LeftAtOnce);
        } else {
            self.back_off(slot, true);
        }
        self.begin_stop(id, WorkerState::Draining);
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.leaving = true;
        }
        let policy = self.policy(self.workers[&id].generation);
        if policy.drains {
            // Its channel tells when it has nothing left to do.
            let within = policy.drain_timeout - last_words(policy.drain_timeout);
            self.timers.set(Timer::Signal(id), self.now + within);
        }
    }

    /// Asks a worker to finish. One that has been asked, or is gone, is left alone.
    pub(super) fn stop_worker(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let policy = self.policy(worker.generation);
        // One that starts may serve already, and have said so to nobody who lives.
        let serves = worker.state == WorkerState::Ready || worker.unheard;
        let (drains, within) = (policy.drains && serves, policy.drain_timeout);
        let to = match worker.state {
            WorkerState::Starting => WorkerState::Stopping,
            WorkerState::Ready => WorkerState::Draining,
            _ => return,
        };
        self.begin_stop(id, to);
        if drains {
            let within = within - last_words(within);
            let hurry = self.state == ClusterState::Stopping;
            self.timers.set(Timer::Signal(id), self.now + within);
            self.actions.push(Action::Drain {
                worker: id,
                within,
                hurry,
            });
            return;
        }
        self.send_stop_signal(id);
    }

    /// A worker has nothing left to do: it gets its stop signal, after `grace` in which it may
    /// end by itself.
    pub(super) fn on_drained(&mut self, id: WorkerId, grace: Duration) {
        let timer = Timer::Signal(id);
        let Some(at) = self.timers.get(timer) else {
            return;
        };
        if self.workers.get(&id).is_some_and(|w| w.doubted) {
            return;
        }
        if grace.is_zero() {
            self.timers.clear(timer);
            self.send_stop_signal(id);
        } else {
            self.timers.set(timer, at.min(self.now + grace));
        }
    }

    /// No worker gets it twice: its clean-up is to run once.
    pub(super) fn send_stop_signal(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        if std::mem::replace(&mut worker.signalled, true) {
            return;
        }
        let generation = worker.generation;
        let signal = self.policy(generation).stop_signal;
        self.actions.push(Action::Signal { worker: id, signal });
    }

    pub(super) fn begin_stop(&mut self, id: WorkerId, to: WorkerState) {
        self.set_state(id, to);
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        worker.requested = true;
        let generation = worker.generation;
        let deadline = self.now + self.policy(generation).drain_timeout;
        self.timers.set(Timer::Kill(id), deadline);
    }

    /// Kills a worker's whole tree; its exit is still awaited.
    pub(super) fn kill_worker(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        worker.requested = true;
        self.set_state(id, WorkerState::Stopping);
        self.timers.clear_worker(id);
        self.actions.push(Action::Kill { worker: id });
    }
}
