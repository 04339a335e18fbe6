// SPDX-License-Identifier: MIT OR Apache-2.0
//! One worker from spawn to gone.

use super::*;
use std::time::Duration;

/// First and longest pause between two looks at a starting worker.
const PROBE_MIN: Duration = Duration::from_millis(5);
const PROBE_MAX: Duration = Duration::from_millis(100);
/// The same for `ready = { exec = … }`, where a look is a process.
const EXEC_PROBE_MIN: Duration = Duration::from_millis(50);
const EXEC_PROBE_MAX: Duration = Duration::from_secs(1);
/// Longest `STATUS=` that is kept of a worker, in characters.
const MAX_STATUS: usize = 200;

impl Supervisor {
    pub(super) fn spawn(&mut self, slot: SlotId, generation: GenerationId, hold: Duration) {
        let id = WorkerId(self.next_worker);
        self.next_worker += 1;
        let worker = Worker {
            id,
            slot,
            generation,
            pid: None,
            state: WorkerState::Starting,
            since: self.now,
            spawned: self.now,
            ready_at: None,
            hold,
            settled: false,
            requested: false,
            signalled: false,
            doubted: false,
            leaving: false,
            failed: false,
            retire: false,
            due: None,
            used: None,
            last_look: false,
            unheard: false,
            probes: 0,
            blocked: None,
            not_ready: None,
            checkup: Checkup::default(),
            watchdog: self.policy(generation).watchdog,
            alive_at: self.now,
            status: None,
        };
        self.workers.insert(id, worker);
        if let Some(slot) = self.slot_mut(slot) {
            slot.members.push(id);
        }
        let deadline = self.now + self.policy(generation).start_timeout;
        self.timers.set(Timer::Start(id), deadline);
        self.arm_probe(id);
        self.actions.push(Action::Spawn {
            worker: id,
            slot,
            generation,
        });
    }

    pub(super) fn on_spawned(&mut self, id: WorkerId, pid: i32) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        worker.pid = Some(pid);
        let (slot, generation, to) = (worker.slot, worker.generation, worker.state);
        self.announce(Transition::Worker {
            worker: id,
            slot,
            generation,
            pid: Some(pid),
            from: None,
            to,
            after: Duration::ZERO,
        });
    }

    pub(super) fn on_spawn_failed(&mut self, id: WorkerId, error: String) {
        self.fail(id, Cause::SpawnFailed(error));
        self.set_state(id, WorkerState::Gone);
    }

    /// The only door for a change of a worker's state. States are never left to the left.
    pub(super) fn set_state(&mut self, id: WorkerId, to: WorkerState) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let from = worker.state;
        if to <= from {
            return;
        }
        let after = now.since(worker.since);
        worker.state = to;
        worker.since = now;
        let transition = Transition::Worker {
            worker: id,
            slot: worker.slot,
            generation: worker.generation,
            pid: worker.pid,
            from: Some(from),
            to,
            after,
        };
        self.timers.clear_worker(id);
        if to == WorkerState::Gone
            && let Some(worker) = self.workers.remove(&id)
            && let Some(slot) = self.slot_mut(worker.slot)
        {
            slot.members.retain(|member| *member != id);
        }
        self.announce(transition);
        if to == WorkerState::Gone {
            self.actions.push(Action::Release { worker: id });
        }
    }

    pub(super) fn on_notified(&mut self, id: WorkerId, what: Notification) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        match what {
            Notification::Status(text) => {
                worker.status = Some(text.chars().take(MAX_STATUS).collect());
            }
            Notification::Ready | Notification::Listening | Notification::SaidReady => {
                let ready = &self.policy(self.workers[&id].generation).ready;
                let counts = match what {
                    Notification::Listening => matches!(ready, Ready::Listening),
                    Notification::SaidReady => matches!(ready, Ready::Message),
                    _ => matches!(ready, Ready::Auto | Ready::Notify),
                };
                if counts {
                    self.set_ready(id);
                }
            }
            Notification::Stopping => self.on_leaving(id),
            Notification::ExtendTimeout(by) => self.extend(id, by),
            Notification::Watchdog => self.on_ping(id),
            Notification::WatchdogTrigger => self.on_trigger(id),
            Notification::WatchdogInterval(every) => self.set_watchdog(id, every),
        }
    }

    fn arm_probe(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let growing = |min: Duration, max: Duration| {
            let factor = 1u32 << worker.probes.min(10);
            (min * factor).min(max)
        };
        let pause = match &self.policy(worker.generation).ready {
            Ready::Notify | Ready::Listening | Ready::Message => return,
            Ready::Auto | Ready::Accepting => growing(PROBE_MIN, PROBE_MAX),
            Ready::Exec(_) => growing(EXEC_PROBE_MIN, EXEC_PROBE_MAX),
            Ready::Delay(delay) => *delay,
        };
        self.timers.set(Timer::Probe(id), self.now + pause);
    }

    pub(super) fn on_probe_due(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        worker.probes += 1;
        let generation = worker.generation;
        match self.policy(generation).ready {
            Ready::Delay(_) => self.set_ready(id),
            _ => self.actions.push(Action::Probe { worker: id }),
        }
    }

    pub(super) fn on_probed(&mut self, id: WorkerId, ready: bool) {
        let starting = |w: &Worker| w.state == WorkerState::Starting;
        if !self.workers.get(&id).is_some_and(starting) {
            return;
        }
        let last = self.workers.get(&id).is_some_and(|w| w.last_look);
        match (ready, last) {
            (true, _) => self.set_ready(id),
            (false, true) => self.start_timed_out(id),
            (false, false) => self.arm_probe(id),
        }
    }

    fn set_ready(&mut self, id: WorkerId) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        if worker.state != WorkerState::Starting {
            return;
        }
        worker.ready_at = Some(now);
        let (slot, generation, hold) = (worker.slot, worker.generation, worker.hold);
        self.set_state(id, WorkerState::Ready);
        self.begin_ageing(id);
        let mut crashes = 0;
        if let Some(slot) = self.slot_mut(slot) {
            slot.ever_ready = true;
            crashes = slot.crashes;
        }
        if crashes > 0 {
            let wait = self.policy(generation).backoff_max;
            self.timers.set(Timer::Recover(id), now + wait);
        }
        if hold.is_zero() {
            self.on_held(id);
        } else {
            self.timers.set(Timer::Settle(id), now + hold);
        }
        self.begin_checks(id);
    }

    /// Where readiness is looked for, one last look decides: we may have stood still
    /// ourselves, longer than the worker needed.
    pub(super) fn on_start_timeout(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let looked_at = match self.policy(worker.generation).ready {
            Ready::Auto | Ready::Accepting => true,
            Ready::Notify | Ready::Listening | Ready::Message => worker.unheard,
            Ready::Delay(_) | Ready::Exec(_) => false,
        };
        if !looked_at {
            self.start_timed_out(id);
            return;
        }
        self.timers.clear(Timer::Probe(id));
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.last_look = true;
        }
        self.actions.push(Action::Probe { worker: id });
    }

    fn start_timed_out(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let policy = self.policy(worker.generation);
        let hint = match &policy.ready {
            Ready::Notify => "it did not send READY=1 to its NOTIFY_SOCKET".to_owned(),
            Ready::Listening => "it does not listen on every address of the app".to_owned(),
            Ready::Message => "it did not call process.send('ready')".to_owned(),
            Ready::Auto | Ready::Accepting => {
                let also = match policy.ready {
                    Ready::Auto => "it did not send READY=1, and ",
                    _ => "",
                };
                format!(
                    "{also}it is not seen accepting on an inherited socket (a program that uses \
                     poll or select needs sd_notify, or ready = {{ delay = \"1s\" }})"
                )
            }
            Ready::Exec(command) => format!("`{}` did not exit 0", command.join(" ")),
            Ready::Delay(_) => "its delay is longer than start_timeout".to_owned(),
        };
        // The time it was given, unless it asked for more; it is shown to people.
        let tenths = self.now.since(worker.spawned).as_millis() as u64 / 100;
        let after = Duration::from_millis(tenths * 100).max(policy.start_timeout);
        self.fail(id, Cause::StartTimeout { after, hint });
        self.stop_worker(id);
    }

    pub(super) fn on_exited(&mut self, id: WorkerId, exit: Exit) {
        let now = self.now;
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let (slot, generation, pid) = (worker.slot, worker.generation, worker.pid);
        let (requested, ready_at, settled) = (worker.requested, worker.ready_at, worker.settled);
        let (leaving, retire) = (worker.leaving, worker.retire);
        self.announce(Transition::Exited {
            worker: id,
            slot,
            generation,
            pid,
            exit,
            requested,
        });
        if let Some(slot) = self.slot_mut(slot) {
            slot.last_exit = Some(LastExit {
                at: now,
                worker: id,
                pid,
                exit,
                requested,
            });
        }
        if !requested {
            let stays_away = self.stays_away(generation, exit);
            if stays_away && !retire {
                self.leave_empty(id);
            }
            let cause = match ready_at {
                None => Cause::ExitedEarly(exit),
                Some(at) => Cause::Crashed {
                    exit,
                    after: now.since(at),
                },
            };
            // A worker that has done its work and is not to come back has not failed.
            if !(stays_away && settled && exit == Exit::Code(0)) {
                self.fail(id, cause);
            }
        }
        if leaving && self.stays_away(generation, exit) {
            self.leave_empty(id);
        }
        self.set_state(id, WorkerState::Gone);
    }

    /// The slot of a worker that has ended is not filled again, if it is still to have a
    /// worker of this generation and has no other: one that is being replaced serves on, and
    /// its replacement is tried again.
    fn leave_empty(&mut self, id: WorkerId) {
        let Some(ended) = self.workers.get(&id) else {
            return;
        };
        let (slot, generation) = (ended.slot, ended.generation);
        let beside = |w: &Worker| w.id != id && w.slot == slot && w.state.is_live();
        if self.workers.values().any(beside) {
            return;
        }
        if let Some(slot) = self.slot_mut(slot)
            && slot.generation == Some(generation)
        {
            slot.stopped = true;
        }
    }
}
