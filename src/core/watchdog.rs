// SPDX-License-Identifier: MIT OR Apache-2.0
//! Workers that owe signs of life (`WATCHDOG=1`, sd_notify(3)).
//!
//! Time is CLOCK_MONOTONIC, which stands still while the machine is suspended. It goes on
//! while we stand still ourselves (SIGSTOP, a frozen cgroup): nobody is judged by that.

use super::*;
use std::time::Duration;

/// A deadline that is seen so much later was missed by ourselves.
const STOOD_STILL: Duration = Duration::from_secs(1);

impl Supervisor {
    pub(super) fn begin_watchdog(&mut self, id: WorkerId) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        worker.alive_at = now;
        if let Some(every) = worker.watchdog {
            self.timers.set(Timer::Watchdog(id), now + every);
        }
    }

    /// `WATCHDOG=1`
    pub(super) fn on_ping(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        if worker.state != WorkerState::Ready {
            return;
        }
        worker.checkup.silent = false;
        self.begin_watchdog(id);
        self.on_well(id);
    }

    /// `WATCHDOG_USEC=`: the worker says how often it will give a sign; `None`: never.
    pub(super) fn set_watchdog(&mut self, id: WorkerId, every: Option<Duration>) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        worker.watchdog = every;
        let ready = worker.state == WorkerState::Ready;
        self.timers.clear(Timer::Watchdog(id));
        if ready {
            self.on_ping(id);
        }
    }

    /// [`Timer::Watchdog`]: what it has said by now is heard first.
    pub(super) fn on_watchdog_due(&mut self, id: WorkerId) {
        let now = self.now;
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let Some(every) = worker.watchdog else {
            return;
        };
        if now.since(worker.alive_at) >= every + STOOD_STILL {
            self.begin_watchdog(id);
            return;
        }
        self.actions.push(Action::Hear { worker: id });
    }

    /// The answer to [`Action::Hear`].
    pub(super) fn on_heard(&mut self, id: WorkerId) {
        let waits = self.timers.get(Timer::Watchdog(id)).is_some();
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        if waits || worker.state != WorkerState::Ready || worker.watchdog.is_none() {
            return;
        }
        let after = self.now.since(worker.alive_at);
        self.on_silent(id, Recycle::Silent { after });
    }

    /// `WATCHDOG=trigger`: the worker says that it is not well.
    pub(super) fn on_trigger(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        if worker.state == WorkerState::Ready {
            let why = "says that it is not well (WATCHDOG=trigger)".to_owned();
            self.on_silent(id, Recycle::Unhealthy(why));
        }
    }

    fn on_silent(&mut self, id: WorkerId, why: Recycle) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        if worker.retire || self.state == ClusterState::Stopping {
            return;
        }
        worker.checkup.silent = true;
        self.timers.clear(Timer::Watchdog(id));
        self.replace_unwell(id, why);
    }
}
