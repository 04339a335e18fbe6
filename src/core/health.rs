// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether a worker that is ready is well: what it answers when it is asked (`health`).
//!
//! Two facts follow, apart from each other. A worker that is not ready for traffic is out of
//! the balance until it says that it is. A worker that is not alive is replaced. And one that
//! is to relieve another, or to prove a generation, has to be well for that.

use super::*;
use std::time::Duration;

/// Longest text that is kept of an answer, in characters.
const MAX_TEXT: usize = 200;

/// How the health of workers is looked after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// From one question to the next; more than zero.
    pub interval: Duration,
    /// How long an answer may take. The engine sees to it.
    pub timeout: Duration,
    /// So many bad answers in a row (1..) are one too many.
    pub failures: u32,
}

/// What came of asking a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It is well.
    Healthy,
    /// It is alive, but wants no traffic now; what it said.
    NotReady(String),
    /// It is not well; how that shows.
    Bad(String),
    /// It could not be asked, for which it is not to blame; why.
    Unknown(String),
}

/// What is known of a worker's health.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkup {
    /// Since when an answer is awaited.
    pub asked: Option<Time>,
    /// Its last answer was good.
    pub good: bool,
    /// Bad answers in a row.
    pub bad: u32,
    /// What its last answer was, unless that was good.
    pub said: Option<String>,
    /// It wants no traffic, or has given too many bad answers.
    pub unready: bool,
    /// It has stayed ready long enough, and only a good answer is missing.
    pub(super) held: bool,
    /// It owes a sign of life, see [`Supervisor::on_heard`].
    pub(super) silent: bool,
    /// It is to be replaced because of all that.
    pub(super) replaced: bool,
}

impl Supervisor {
    /// A worker has become ready: it is asked at once.
    pub(super) fn begin_checks(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        if self.policy(worker.generation).health.is_some() {
            self.timers.set(Timer::Health(id), self.now);
        }
        self.begin_watchdog(id);
    }

    /// [`Timer::Health`]
    pub(super) fn on_check_due(&mut self, id: WorkerId) {
        let now = self.now;
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.checkup.asked = Some(now);
            self.actions.push(Action::Check { worker: id });
        }
    }

    /// It has stayed ready long enough, and answers. Where health is asked for, that is not
    /// all.
    pub(super) fn on_held(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let well = worker.checkup.good || self.policy(worker.generation).health.is_none();
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.checkup.held = true;
            worker.settled |= well;
        }
    }

    /// The answer to [`Action::Check`].
    pub(super) fn on_checked(&mut self, id: WorkerId, verdict: Verdict) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let Some(asked) = worker.checkup.asked.take() else {
            return;
        };
        if worker.state != WorkerState::Ready {
            return;
        }
        let (generation, settled) = (worker.generation, worker.settled);
        let Some(health) = self.policy(generation).health.clone() else {
            return;
        };
        let next = (asked + health.interval).max(now);
        self.timers.set(Timer::Health(id), next);
        let (text, counts) = match verdict {
            Verdict::Healthy => return self.on_healthy(id),
            Verdict::Bad(text) => (text, true),
            // It has yet to show that it can serve.
            Verdict::NotReady(text) => {
                self.set_unready(id);
                self.take_out(id, &text);
                (text, !settled)
            }
            Verdict::Unknown(text) if settled => return self.note_answer(id, text),
            Verdict::Unknown(text) => (text, true),
        };
        self.note_answer(id, text);
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let checkup = &mut worker.checkup;
        checkup.good = false;
        checkup.bad = if counts { checkup.bad + 1 } else { 0 };
        if checkup.bad >= health.failures {
            let times = match checkup.bad {
                1 => String::new(),
                times => format!(" ({times} times in a row)"),
            };
            let said = checkup.said.clone().unwrap_or_default();
            checkup.bad = health.failures;
            self.on_unhealthy(id, format!("is not healthy: {said}{times}"));
        }
    }

    fn note_answer(&mut self, id: WorkerId, text: String) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.checkup.said = Some(text.chars().take(MAX_TEXT).collect());
        }
    }

    fn on_healthy(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let checkup = &mut worker.checkup;
        (checkup.good, checkup.bad, checkup.said) = (true, 0, None);
        checkup.unready = false;
        worker.settled |= checkup.held;
        self.on_well(id);
    }

    /// A worker is not alive: replaced, or, if it should have relieved another, stopped.
    pub(super) fn on_unhealthy(&mut self, id: WorkerId, text: String) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        if self.state == ClusterState::Stopping || worker.retire {
            return;
        }
        self.set_unready(id);
        self.replace_unwell(id, Recycle::Unhealthy(text));
    }

    fn set_unready(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.checkup.unready = true;
        }
    }

    /// One that goes on until it is replaced gets no more connections, if others do.
    pub(super) fn replace_unwell(&mut self, id: WorkerId, why: Recycle) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        if worker.settled {
            self.take_out(id, &format!("it {why}"));
            let replaced = self.recycle(id, why);
            if let Some(worker) = self.workers.get_mut(&id) {
                worker.checkup.replaced = replaced;
            }
            return;
        }
        let ready = |w: &Worker| w.state == WorkerState::Ready;
        let beside = |w: &Worker| w.id != id && w.slot == worker.slot && ready(w);
        let covered = self.workers.values().any(beside);
        self.fail(id, Cause::Unhealthy(why.to_string()));
        if covered {
            self.stop_worker(id);
            return;
        }
        // Nobody else serves here: it does, until another can.
        self.take_out(id, &format!("it {why}"));
        if let Some(worker) = self.workers.get_mut(&id) {
            (worker.retire, worker.checkup.replaced) = (true, true);
        }
    }

    /// Out of the balance.
    pub(super) fn take_out(&mut self, id: WorkerId, why: &str) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        if worker.not_ready.is_some() {
            return;
        }
        worker.not_ready = Some(now);
        let (slot, generation, pid) = (worker.slot, worker.generation, worker.pid);
        self.announce(Transition::Unready {
            worker: id,
            slot,
            generation,
            pid,
            why: why.chars().take(MAX_TEXT).collect(),
        });
    }

    /// It has shown that it is well: back into the balance, if nothing else is against that.
    pub(super) fn on_well(&mut self, id: WorkerId) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        if worker.checkup.unready || worker.checkup.silent {
            return;
        }
        if worker.checkup.replaced {
            self.keep(id);
        }
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let Some(since) = worker.not_ready.take() else {
            return;
        };
        let (slot, generation, pid) = (worker.slot, worker.generation, worker.pid);
        self.announce(Transition::ReadyAgain {
            worker: id,
            slot,
            generation,
            pid,
            after: now.since(since),
        });
    }

    /// A worker that was to be replaced is well again: it stays, unless another one has come.
    fn keep(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let (slot, generation) = (worker.slot, worker.generation);
        let beside = |w: &Worker| w.id != id && w.slot == slot && w.state.is_live();
        if self.workers.values().any(beside) || self.is_being_replaced(slot) {
            return;
        }
        let recovered = self.now + self.policy(generation).backoff_max;
        self.timers.clear(Timer::Backoff(slot));
        self.timers.set(Timer::Recover(id), recovered);
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.checkup.replaced = false;
            (worker.retire, worker.failed) = (false, false);
        }
    }

    /// Whether an answer of a worker decides about what is under way: until when it may take.
    pub(super) fn trial_until(&self) -> Option<Time> {
        let waits = |w: &&Worker| w.state == WorkerState::Ready && !w.settled;
        let until = self.workers.values().filter(waits).filter_map(|w| {
            let health = self.policy(w.generation).health.as_ref()?;
            let asked = w.checkup.asked.map(|at| at + health.timeout);
            asked.or_else(|| self.timers.get(Timer::Health(w.id)))
        });
        until.max()
    }
}
