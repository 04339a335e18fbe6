// SPDX-License-Identifier: MIT OR Apache-2.0
//! The transaction that moves the slots from one generation to the next.
//!
//! A rollout does nothing itself: it says of each slot which generation it
//! should be of. Reconciliation does the rest, so undoing a rollout is nothing
//! but saying the old generation again.

use super::*;

/// How the workers are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Kind {
    /// New ready before old draining, slot by slot.
    Rolling,
    /// All old gone before any new.
    StopFirst,
}

/// Where a rollout is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Stage {
    /// Its configuration is being read.
    Loading,
    /// Slots are given to the new generation.
    Advancing,
    /// It failed; slots go back to the old one.
    Reverting(Blame),
}

/// A rollout under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rollout {
    pub to: GenerationId,
    pub kind: Kind,
    pub stage: Stage,
    pub started: Time,
    pub requests: Vec<RequestId>,
    /// Slots that run the new generation, as last announced.
    pub done: u32,
    /// A worker of the new generation has stayed ready for the canary time.
    pub proven: bool,
    /// Slots that could not go back, and why.
    pub notes: Vec<String>,
}

/// A rollout that begins when the present one is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Queued {
    pub kind: Kind,
    pub requests: Vec<RequestId>,
}

impl Supervisor {
    /// Queues a rollout; several that wait together become one.
    pub(super) fn request_rollout(&mut self, kind: Kind, from: Option<RequestId>) {
        let queued = self.queued.get_or_insert_with(|| Queued {
            kind,
            requests: Vec::new(),
        });
        queued.kind = queued.kind.max(kind);
        queued.requests.extend(from);
    }

    pub(super) fn begin_queued_rollout(&mut self) {
        if self.state != ClusterState::Running || self.rollout.is_some() {
            return;
        }
        let Some(queued) = self.queued.take() else {
            return;
        };
        let to = GenerationId(self.next_generation);
        self.next_generation += 1;
        self.rollout = Some(Rollout {
            to,
            kind: queued.kind,
            stage: Stage::Loading,
            started: self.now,
            requests: queued.requests,
            done: 0,
            proven: false,
            notes: Vec::new(),
        });
        self.set_cluster_state(ClusterState::Reloading);
        self.actions.push(Action::LoadConfig { generation: to });
    }

    pub(super) fn on_config(
        &mut self,
        generation: GenerationId,
        result: Result<Box<Policy>, String>,
    ) {
        let loading = |r: &Rollout| r.to == generation && r.stage == Stage::Loading;
        if !self.rollout.as_ref().is_some_and(loading) {
            if !self.generations.contains_key(&generation) {
                self.actions.push(Action::DropGeneration { generation });
            }
            return;
        }
        match result {
            Err(error) => self.refuse_rollout(generation, error),
            Ok(policy) => {
                let (policy, crashes) = (*policy, Vec::new());
                self.generations
                    .insert(generation, Generation { policy, crashes });
                let (from, slots) = (self.generation, self.rollout_span(generation));
                if let Some(rollout) = &mut self.rollout {
                    rollout.stage = Stage::Advancing;
                }
                let step = RolloutStep::Started { from, slots };
                self.announce(Transition::Rollout { generation, step });
            }
        }
    }

    fn refuse_rollout(&mut self, generation: GenerationId, error: String) {
        let step = RolloutStep::Refused(error.clone());
        self.announce(Transition::Rollout { generation, step });
        self.end_rollout(Err(Failure::ConfigInvalid(error)));
        self.actions.push(Action::DropGeneration { generation });
    }

    fn end_rollout(&mut self, result: Result<Done, Failure>) {
        let Some(rollout) = self.rollout.take() else {
            return;
        };
        for to in rollout.requests {
            let result = result.clone();
            self.actions.push(Action::Reply { to, result });
        }
        if self.state == ClusterState::Reloading {
            self.set_cluster_state(ClusterState::Running);
        }
    }

    /// How many slots `generation` will have when it is rolled out.
    pub(super) fn rollout_span(&self, generation: GenerationId) -> u32 {
        self.scale.unwrap_or(self.policy(generation).workers)
    }

    /// Gives further slots to the new generation, as many as may be under way at once.
    pub(super) fn advance_rollout(&mut self) {
        let Some(rollout) = &self.rollout else {
            return;
        };
        if rollout.stage != Stage::Advancing {
            return;
        }
        let (to, kind, announced) = (rollout.to, rollout.kind, rollout.done);
        let span = self.rollout_span(to) as usize;
        let limit = match (kind, rollout.proven) {
            (Kind::StopFirst, _) => span,
            (Kind::Rolling, false) => 1,
            (Kind::Rolling, true) => self.policy(to).batch.max(1) as usize,
        };
        let begun: Vec<usize> = (0..span.min(self.slots.len()))
            .filter(|&i| self.slots[i].generation == Some(to))
            .collect();
        let done = begun.iter().filter(|&&i| self.is_relieved(i)).count();
        let mut free = limit.saturating_sub(begun.len() - done);
        for slot in 0..span.min(self.slots.len()) {
            if free > 0 && self.slots[slot].generation != Some(to) {
                self.timers.clear(Timer::Backoff(SlotId(slot as u32)));
                self.slots[slot].assign(to);
                free -= 1;
            }
        }
        if done as u32 > announced {
            if let Some(rollout) = &mut self.rollout {
                rollout.done = done as u32;
            }
            let step = RolloutStep::Progress {
                done: done as u32,
                of: span as u32,
            };
            self.announce(Transition::Rollout {
                generation: to,
                step,
            });
        }
    }

    /// The first new worker that has held proves the generation.
    pub(super) fn note_proof(&mut self) {
        let Some(rollout) = &mut self.rollout else {
            return;
        };
        let to = rollout.to;
        let ready = |w: &&Worker| w.generation == to && w.settled;
        rollout.proven |= self.workers.values().any(|w| ready(&w));
    }

    pub(super) fn finish_rollout(&mut self) {
        let Some(rollout) = &self.rollout else {
            return;
        };
        let to = rollout.to;
        match &rollout.stage {
            Stage::Loading => {}
            Stage::Advancing => {
                let span = self.rollout_span(to) as usize;
                let done = |i: usize| {
                    let slot = self.slots.get(i);
                    slot.is_some_and(|s| s.generation == Some(to)) && self.is_relieved(i)
                };
                if (0..span).all(done) {
                    self.rollout_succeeded(to);
                }
            }
            Stage::Reverting(blame) => {
                let stray = |w: &Worker| {
                    let slot = self.slots.get(w.slot.0 as usize);
                    w.state.is_live() && slot.is_some_and(|s| s.generation != Some(w.generation))
                };
                let starting = |w: &Worker| w.state == WorkerState::Starting && !w.failed;
                // "Stop first" holds on the way back too: the old ones come after these.
                let first = rollout.kind == Kind::StopFirst;
                let last = |w: &Worker| first && w.generation == to;
                let open = |w: &Worker| stray(w) || starting(w) || last(w);
                if !self.workers.values().any(open) {
                    let blame = blame.clone();
                    self.rollout_failed(to, blame);
                }
            }
        }
    }

    fn rollout_succeeded(&mut self, to: GenerationId) {
        self.generation = to;
        for slot in &mut self.slots {
            slot.failed = None;
        }
        let Some(rollout) = &self.rollout else {
            return;
        };
        let took = self.now.since(rollout.started);
        let workers = self.rollout_span(to);
        self.announce(Transition::Rollout {
            generation: to,
            step: RolloutStep::Finished { took },
        });
        self.end_rollout(Ok(Done::Generation {
            generation: to,
            workers,
            took,
        }));
    }

    fn rollout_failed(&mut self, to: GenerationId, blame: Blame) {
        let serving = self.generation;
        let note = self.rollout.as_ref().and_then(|r| {
            let notes = r.notes.join("; ");
            (!notes.is_empty()).then_some(notes)
        });
        self.announce(Transition::Rollout {
            generation: to,
            step: RolloutStep::Undone {
                serving,
                note: note.clone(),
            },
        });
        self.end_rollout(Err(Failure::GenerationFailed {
            generation: to,
            serving,
            blame,
            note,
        }));
    }

    /// Reacts to a worker's failure, as far as a rollout is concerned.
    pub(super) fn rollout_saw_failure(
        &mut self,
        blame: &Blame,
        generation: GenerationId,
        settled: bool,
        over_budget: bool,
    ) {
        let Some(rollout) = &self.rollout else {
            return;
        };
        let to = rollout.to;
        match rollout.stage {
            Stage::Advancing if generation == to && (!settled || over_budget) => {
                self.revert_rollout(blame.clone());
            }
            Stage::Reverting(_) if generation != to && !settled => {
                self.keep_new(blame.slot, &blame.cause);
            }
            _ => {}
        }
    }

    /// Gives the slots back to the old generation (all, or those that have not been relieved).
    fn revert_rollout(&mut self, blame: Blame) {
        let from = self.generation;
        let Some(rollout) = &mut self.rollout else {
            return;
        };
        let (to, kind) = (rollout.to, rollout.kind);
        rollout.stage = Stage::Reverting(blame.clone());
        let hold = self.policy(to).on_failure == OnFailure::Hold && kind == Kind::Rolling;
        let mut notes = Vec::new();
        let mut went_back = 0;
        for index in 0..self.slots.len() {
            if self.slots[index].generation != Some(to) {
                continue;
            }
            let failed_here = blame.slot.0 as usize == index;
            let wanted = index < self.desired() as usize;
            if hold && wanted && !failed_here && self.is_relieved(index) {
                notes.push(format!("slot {index} stays on generation {to}"));
                continue;
            }
            went_back += usize::from(self.is_relieved(index));
            let slot = SlotId(index as u32);
            self.timers.clear(Timer::Backoff(slot));
            self.slots[index].assign(from);
            self.slots[index].failed = None;
        }
        if kind == Kind::StopFirst {
            notes.push(format!(
                "all workers had been stopped, and generation {from} was started again"
            ));
        } else if went_back > 0 {
            notes.push(format!(
                "{went_back} slot(s) already replaced went back to generation {from}"
            ));
        }
        if let Some(rollout) = &mut self.rollout {
            rollout.notes = notes;
        }
        let step = RolloutStep::Failed(blame);
        self.announce(Transition::Rollout {
            generation: to,
            step,
        });
    }

    /// The old generation does not start any more: better a new worker than none.
    fn keep_new(&mut self, slot: SlotId, cause: &Cause) {
        let Some(rollout) = &self.rollout else {
            return;
        };
        let to = rollout.to;
        let serves =
            |w: &Worker| w.slot == slot && w.generation == to && w.state == WorkerState::Ready;
        if !self.workers.values().any(serves) {
            return;
        }
        self.timers.clear(Timer::Backoff(slot));
        if let Some(state) = self.slot_mut(slot) {
            state.assign(to);
        }
        let note = format!(
            "slot {slot} stays on generation {to}, since a worker of the old generation {cause}"
        );
        if let Some(rollout) = &mut self.rollout {
            rollout.notes.push(note);
        }
    }

    /// Ends a rollout for good because the cluster stops.
    pub(super) fn abandon_rollout(&mut self) {
        let queued = self.queued.take().map(|q| q.requests).unwrap_or_default();
        for to in queued {
            let result = Err(Failure::Stopping);
            self.actions.push(Action::Reply { to, result });
        }
        self.end_rollout(Err(Failure::Stopping));
    }
}
