// SPDX-License-Identifier: MIT OR Apache-2.0
//! The transaction that moves the slots from one generation to the next.
//!
//! A rollout does nothing itself: it says of each slot which generation it
//! should be of. Reconciliation does the rest, so undoing a rollout is nothing
//! but saying the old generation again.

use super::rollback::Back;
use super::undo::Undo;
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
    /// Slots go back to the old one.
    Reverting(Undo),
}

/// A rollout under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rollout {
    pub to: GenerationId,
    pub kind: Kind,
    pub stage: Stage,
    pub started: Time,
    pub requests: Vec<RequestId>,
    /// It brings an older generation back.
    pub back: Option<Back>,
    /// Who asked for it to be undone.
    pub undoers: Vec<RequestId>,
    /// Slots that run the new generation, as last announced.
    pub done: u32,
    /// A worker of the new generation has stayed ready for the canary time.
    pub proven: bool,
    /// What became of slots that went back, or could not.
    pub notes: Vec<String>,
    /// A slot could not go back.
    pub partial: bool,
}

impl Rollout {
    pub fn new(to: GenerationId, kind: Kind, started: Time) -> Rollout {
        Rollout {
            to,
            kind,
            stage: Stage::Loading,
            started,
            requests: Vec::new(),
            back: None,
            undoers: Vec::new(),
            done: 0,
            proven: false,
            notes: Vec::new(),
            partial: false,
        }
    }
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
        let to = self.name_generation();
        self.rollout = Some(Rollout {
            requests: queued.requests,
            ..Rollout::new(to, queued.kind, self.now)
        });
        self.set_cluster_state(ClusterState::Reloading);
        self.actions.push(Action::LoadConfig { generation: to });
    }

    pub(super) fn name_generation(&mut self) -> GenerationId {
        let name = GenerationId(self.next_generation);
        self.next_generation += 1;
        name
    }

    pub(super) fn on_config(
        &mut self,
        generation: GenerationId,
        result: Result<Box<Policy>, String>,
    ) {
        let loading = |r: &Rollout| r.stage == Stage::Loading && r.back.is_none();
        if !self.rolls_out(generation).is_some_and(loading) {
            self.drop_unknown(generation);
            return;
        }
        match result {
            Err(error) => self.refuse_rollout(generation, error),
            Ok(policy) => self.advance_into(generation, Generation::new(*policy)),
        }
    }

    /// The rollout under way, if it is one to `generation`.
    pub(super) fn rolls_out(&self, generation: GenerationId) -> Option<&Rollout> {
        self.rollout.as_ref().filter(|r| r.to == generation)
    }

    /// An answer came that nobody waits for (any more).
    pub(super) fn drop_unknown(&mut self, generation: GenerationId) {
        let awaited = self.rolls_out(generation).is_some();
        if !awaited && !self.generations.contains_key(&generation) {
            self.actions.push(Action::DropGeneration { generation });
        }
    }

    /// What is to be rolled out is known.
    pub(super) fn advance_into(&mut self, generation: GenerationId, rules: Generation) {
        self.generations.insert(generation, rules);
        let (from, slots) = (self.generation, self.rollout_span(generation));
        if let Some(rollout) = &mut self.rollout {
            rollout.stage = Stage::Advancing;
        }
        let step = RolloutStep::Started { from, slots };
        self.announce(Transition::Rollout { generation, step });
    }

    fn refuse_rollout(&mut self, generation: GenerationId, error: String) {
        let step = RolloutStep::Refused(error.clone());
        self.announce(Transition::Rollout { generation, step });
        self.end_rollout(Err(Failure::ConfigInvalid(error)));
        self.actions.push(Action::DropGeneration { generation });
    }

    pub(super) fn end_rollout(&mut self, result: Result<Done, Failure>) {
        let Some(rollout) = self.rollout.take() else {
            return;
        };
        for to in rollout.requests.into_iter().chain(rollout.undoers) {
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
            (Kind::Rolling, true) => self.policy(to).batch.of(span as u32) as usize,
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
            Stage::Reverting(undo) => {
                let stray = |w: &Worker| {
                    let slot = self.slots.get(w.slot.0 as usize);
                    let wanted = slot.and_then(|slot| slot.generation);
                    w.state.is_live() && wanted.is_some_and(|id| id != w.generation)
                };
                // A slot that has failed since it was given back is tried again, but nobody
                // waits for it.
                let untried = |w: &Worker| {
                    let slot = self.slots.get(w.slot.0 as usize);
                    slot.is_none_or(|slot| slot.last_failure.is_none())
                };
                let starting = |w: &Worker| w.state == WorkerState::Starting && untried(w);
                // "Stop first" holds on the way back too: the old ones come after these.
                let first = rollout.kind == Kind::StopFirst;
                let last = |w: &Worker| first && w.generation == to;
                let open = |w: &Worker| stray(w) || starting(w) || last(w);
                if !self.workers.values().any(open) {
                    let undo = undo.clone();
                    self.rollout_undone(to, undo);
                }
            }
        }
    }

    fn rollout_succeeded(&mut self, to: GenerationId) {
        self.note_succession(to);
        for slot in &mut self.slots {
            slot.failed = None;
        }
        let Some(rollout) = &self.rollout else {
            return;
        };
        let took = self.now.since(rollout.started);
        let back_to = rollout.back.as_ref().map(|back| back.of);
        let workers = self.rollout_span(to);
        self.announce(Transition::Rollout {
            generation: to,
            step: RolloutStep::Finished { took },
        });
        self.end_rollout(Ok(Done::Generation {
            generation: to,
            back_to,
            workers,
            took,
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
                self.revert_rollout(Undo::Failed(blame.clone()));
            }
            Stage::Reverting(_) if generation != to && !settled => {
                self.keep_new(blame.slot, &blame.cause);
            }
            _ => {}
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
