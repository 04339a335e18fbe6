// SPDX-License-Identifier: MIT OR Apache-2.0
//! What operators ask for, and the one answer each gets.

use super::rollout::Kind;
use super::*;

/// The largest number of workers an app may have.
pub const MAX_WORKERS: u32 = 1024;

/// A request whose outcome is not known yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Waiter {
    from: RequestId,
    wants: Want,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Want {
    /// As many ready workers as desired; slots from this one on are new.
    Scaled { first_new: u32 },
    /// A new worker in the slot.
    Replaced(SlotId),
    /// No worker.
    Stopped,
}

impl Supervisor {
    pub(super) fn on_request(&mut self, from: Option<RequestId>, what: Request) {
        let stop = matches!(what, Request::Stop | Request::StopNow);
        if self.state == ClusterState::Stopping && !stop {
            self.answer(from, Err(Failure::Stopping));
            return;
        }
        match what {
            Request::Reload => self.request_rollout(Kind::Rolling, from),
            Request::Restart => self.request_rollout(Kind::StopFirst, from),
            Request::Rollback => self.request_rollback(from),
            Request::Replace(slot) => self.request_replace(from, slot),
            Request::Scale(scale) => self.request_scale(from, scale, None),
            Request::Configured { workers, source } => {
                self.request_scale(from, Scale::To(workers), Some(source));
            }
            Request::Stop => self.request_stop(from),
            Request::StopNow => {
                self.request_stop(from);
                self.timers.clear(Timer::Leave);
                for id in self.workers_where(|_| true) {
                    self.kill_worker(id);
                }
            }
        }
    }

    pub(super) fn answer(&mut self, to: Option<RequestId>, result: Result<Done, Failure>) {
        if let Some(to) = to {
            self.actions.push(Action::Reply { to, result });
        }
    }

    fn wait(&mut self, from: Option<RequestId>, wants: Want) {
        if let Some(from) = from {
            self.waiters.push(Waiter { from, wants });
        }
    }

    /// `kept`: where the configuration has this number.
    fn request_scale(&mut self, from: Option<RequestId>, scale: Scale, kept: Option<String>) {
        let old = self.desired();
        let new = match scale {
            Scale::To(count) => i64::from(count),
            Scale::By(change) => i64::from(old) + i64::from(change),
        };
        if new < 1 || new > i64::from(MAX_WORKERS) {
            let text = format!(
                "{new} workers: the number must be between 1 and {MAX_WORKERS} \
                 (to have none, stop the app)"
            );
            self.answer(from, Err(Failure::BadCount(text)));
            return;
        }
        let new = new as u32;
        let superseded = |w: &Waiter| matches!(w.wants, Want::Scaled { .. });
        self.answer_waiters(superseded, |_| Err(Failure::Superseded));
        self.scale = match kept {
            None => Some(new),
            Some(source) => {
                self.configure_workers(new, &source);
                None
            }
        };
        if new != old {
            self.announce(Transition::Scaled { from: old, to: new });
        }
        self.wait(from, Want::Scaled { first_new: old });
    }

    /// In all generations: whichever serves in the end, a rollout that is undone included.
    fn configure_workers(&mut self, workers: u32, source: &str) {
        for generation in self.generations.values_mut() {
            generation.policy.workers = workers;
            source.clone_into(&mut generation.policy.workers_source);
        }
    }

    fn request_replace(&mut self, from: Option<RequestId>, slot: SlotId) {
        if slot.0 >= self.desired() || self.slots.len() <= slot.0 as usize {
            self.answer(from, Err(Failure::NoSuchSlot(slot)));
            return;
        }
        for id in self.workers_where(|w| w.slot == slot && w.state.is_live()) {
            if let Some(worker) = self.workers.get_mut(&id) {
                worker.retire = true;
            }
        }
        self.timers.clear(Timer::Backoff(slot));
        if let Some(slot) = self.slot_mut(slot) {
            slot.stopped = false;
        }
        self.wait(from, Want::Replaced(slot));
    }

    /// Whether somebody waits for the worker of a slot to be replaced.
    pub(super) fn is_being_replaced(&self, slot: SlotId) -> bool {
        self.waiters.iter().any(|w| w.wants == Want::Replaced(slot))
    }

    fn request_stop(&mut self, from: Option<RequestId>) {
        self.begin_stopping(Outcome::Stopped);
        // Asked to end while a failed start is ending it: then it is no failure, nor a wait.
        self.outcome = Outcome::Stopped;
        self.timers.clear(Timer::Exit);
        self.wait(from, Want::Stopped);
    }

    /// No way back from here: every request but "stop" is answered.
    pub(super) fn begin_stopping(&mut self, outcome: Outcome) {
        if self.state == ClusterState::Stopping {
            return;
        }
        let serves = |w: &Worker| w.state == WorkerState::Ready;
        let delay = self.policy(self.generation).pre_stop_delay;
        if !delay.is_zero() && self.workers.values().any(serves) {
            self.timers.set(Timer::Leave, self.now + delay);
        }
        self.outcome = outcome;
        self.set_cluster_state(ClusterState::Stopping);
        self.abandon_rollout();
        self.answer_waiters(|_| true, |_| Err(Failure::Stopping));
    }

    /// Answers the waiters that are meant, and forgets them.
    fn answer_waiters(
        &mut self,
        meant: impl Fn(&Waiter) -> bool,
        result: impl Fn(&Waiter) -> Result<Done, Failure>,
    ) {
        let (answered, rest) = std::mem::take(&mut self.waiters)
            .into_iter()
            .partition(|w| meant(w));
        self.waiters = rest;
        for waiter in Vec::<Waiter>::into_iter(answered) {
            self.actions.push(Action::Reply {
                to: waiter.from,
                result: result(&waiter),
            });
        }
    }

    pub(super) fn waiters_saw_failure(&mut self, blame: &Blame, settled: bool) {
        let retired = |w: &Worker| w.retire;
        if settled || self.workers.get(&blame.worker).is_some_and(retired) {
            return;
        }
        let slot = blame.slot;
        let meant = |w: &Waiter| match w.wants {
            Want::Scaled { first_new } => slot.0 >= first_new,
            Want::Replaced(replaced) => replaced == slot,
            Want::Stopped => false,
        };
        let replaced = |w: &Waiter| w.wants == Want::Replaced(slot);
        if self.waiters.iter().any(replaced) {
            // The old worker stays, if it is still there.
            for worker in self.workers.values_mut().filter(|w| w.slot == slot) {
                worker.retire = false;
            }
        }
        self.answer_waiters(meant, |_| Err(Failure::WorkerFailed(blame.clone())));
    }

    /// Answers those who got what they waited for.
    pub(super) fn settle_waiters(&mut self) {
        if self.waiters.is_empty() {
            return;
        }
        let workers = self.desired();
        // A slot that was there before and fails is another matter.
        let scaled = |first_new: u32| {
            let fine = |i: usize| {
                let old = (i as u32) < first_new;
                self.is_relieved(i) || (old && self.slots[i].last_failure.is_some())
            };
            let wanted = self.slots.len().min(workers as usize);
            // What stands in for a slot that fails goes when that is well again.
            let stands_in = |id: &WorkerId| {
                let worker = self.workers.get(id);
                worker.is_some_and(|w| w.state == WorkerState::Ready)
            };
            let mut surplus = self.slots.iter().skip(wanted).flat_map(|s| &s.members);
            wanted == workers as usize && surplus.all(stands_in) && (0..wanted).all(fine)
        };
        let scaled: BTreeMap<u32, bool> = self
            .waiters
            .iter()
            .filter_map(|w| match w.wants {
                Want::Scaled { first_new } => Some((first_new, scaled(first_new))),
                _ => None,
            })
            .collect();
        let relieved: Vec<bool> = (0..self.slots.len()).map(|i| self.is_relieved(i)).collect();
        let meant = |w: &Waiter| match w.wants {
            Want::Scaled { first_new } => scaled.get(&first_new) == Some(&true),
            Want::Replaced(slot) => relieved.get(slot.0 as usize).copied().unwrap_or(true),
            Want::Stopped => false,
        };
        self.answer_waiters(meant, |w| {
            Ok(match w.wants {
                Want::Replaced(slot) => Done::Replaced { slot },
                _ => Done::Scaled { workers },
            })
        });
    }

    /// The very last answers.
    pub(super) fn answer_stopped(&mut self) {
        self.answer_waiters(|_| true, |_| Ok(Done::Stopped));
    }
}
