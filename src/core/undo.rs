// SPDX-License-Identifier: MIT OR Apache-2.0
//! A rollout that goes back: because it failed, or because somebody wants it to.

use super::rollout::{Kind, Rollout, Stage};
use super::*;
use std::fmt;

/// Why a rollout is undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Undo {
    /// One of its workers failed.
    Failed(Blame),
    /// A rollback was asked for.
    Asked,
    /// The supervisor ended in the middle of it.
    Interrupted,
}

impl fmt::Display for Undo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Undo::Failed(blame) => blame.fmt(f),
            Undo::Asked => f.write_str("a rollback was asked for"),
            Undo::Interrupted => f.write_str("the supervisor ended in the middle of it"),
        }
    }
}

impl Supervisor {
    /// Gives the slots back to the old generation (all, or those that have not been relieved).
    pub(super) fn revert_rollout(&mut self, undo: Undo) {
        let from = self.generation;
        let Some(rollout) = &mut self.rollout else {
            return;
        };
        let (to, kind) = (rollout.to, rollout.kind);
        rollout.stage = Stage::Reverting(undo.clone());
        let hold = self.policy(to).on_failure == OnFailure::Hold && kind == Kind::Rolling;
        // Where one worker failed, and the others may stay.
        let failed = match &undo {
            Undo::Failed(blame) if hold => Some(blame.slot.0 as usize),
            _ => None,
        };
        let mut notes = Vec::new();
        let mut went_back = 0;
        for index in 0..self.slots.len() {
            if self.slots[index].generation != Some(to) {
                continue;
            }
            let wanted = index < self.desired() as usize;
            if failed.is_some_and(|slot| slot != index) && wanted && self.is_relieved(index) {
                notes.push(format!("slot {index} stays on generation {to}"));
                continue;
            }
            went_back += usize::from(self.is_relieved(index));
            self.give_back(index);
        }
        if kind == Kind::Rolling && went_back > 0 {
            notes.push(format!(
                "{went_back} slot(s) already replaced went back to generation {from}"
            ));
        }
        if let Some(rollout) = &mut self.rollout {
            rollout.notes = notes;
        }
        self.announce_undo(to, undo);
    }

    fn announce_undo(&mut self, generation: GenerationId, undo: Undo) {
        let step = match undo {
            Undo::Failed(blame) => RolloutStep::Failed(blame),
            Undo::Asked => RolloutStep::TakenBack,
            Undo::Interrupted => RolloutStep::Interrupted,
        };
        self.announce(Transition::Rollout { generation, step });
    }

    fn give_back(&mut self, index: usize) {
        let from = self.generation;
        self.timers.clear(Timer::Backoff(SlotId(index as u32)));
        self.slots[index].assign(from);
        self.slots[index].failed = None;
    }

    /// The newest generation that some slots were left on when its rollout failed, if any
    /// were (`on_failure = "hold"`).
    pub(super) fn held(&self) -> Option<GenerationId> {
        let here = self.slots.iter().filter_map(|slot| slot.generation);
        here.filter(|id| *id != self.generation).max()
    }

    /// Gives the slots that were left on another generation back to the one that serves.
    pub(super) fn undo_held(&mut self, held: GenerationId, undo: Undo, by: Option<RequestId>) {
        self.rollout = Some(Rollout {
            stage: Stage::Reverting(undo.clone()),
            undoers: by.into_iter().collect(),
            ..Rollout::new(held, Kind::Rolling, self.now)
        });
        self.set_cluster_state(ClusterState::Reloading);
        self.give_all_back();
        self.announce_undo(held, undo);
    }

    /// Gives every slot to the generation that serves, those that were to stay included.
    pub(super) fn give_all_back(&mut self) {
        let generation = self.generation;
        let wanted = 0..self.slots.len().min(self.desired() as usize);
        let others: Vec<usize> = wanted
            .filter(|i| self.slots[*i].generation != Some(generation))
            .collect();
        if others.is_empty() {
            return;
        }
        for index in &others {
            self.give_back(*index);
        }
        if let Some(rollout) = &mut self.rollout {
            let went_back = others.len();
            let note = format!("{went_back} slot(s) went back to generation {generation}");
            (rollout.notes, rollout.partial) = (vec![note], false);
        }
    }

    /// The old generation does not start any more: better a new worker than none.
    pub(super) fn keep_new(&mut self, slot: SlotId, cause: &Cause) {
        let old = self.generation;
        let serves = |w: &&Worker| {
            w.slot == slot && w.generation != old && w.state == WorkerState::Ready && !w.retire
        };
        let Some(new) = self.workers.values().find(serves).map(|w| w.generation) else {
            return;
        };
        self.timers.clear(Timer::Backoff(slot));
        if let Some(state) = self.slot_mut(slot) {
            state.assign(new);
        }
        let note = format!(
            "slot {slot} stays on generation {new}, since a worker of the old generation {cause}"
        );
        if let Some(rollout) = &mut self.rollout {
            rollout.notes.push(note);
            rollout.partial = true;
        }
    }

    /// Says what became of the slots: those without a ready worker above all.
    fn note_outcome(&mut self) {
        let serving = self.generation;
        let ready = |id: &WorkerId| {
            let worker = self.workers.get(id);
            worker.is_some_and(|w| w.state == WorkerState::Ready)
        };
        let wanted = self.desired();
        let slots = (0..wanted).zip(&self.slots);
        let without = slots.filter(|(_, slot)| !slot.members.iter().any(ready));
        let lacking: Vec<String> = without
            .filter_map(|(index, slot)| {
                let cause = &slot.last_failure.as_ref()?.cause;
                let next = match slot.stopped {
                    true => "is not to be started again",
                    false => "its slot keeps trying",
                };
                Some(format!(
                    "slot {index} has no ready worker: that of generation {serving} {cause}; \
                     {next}"
                ))
            })
            .collect();
        let ready = self.ready_workers();
        let Some(rollout) = &mut self.rollout else {
            return;
        };
        if rollout.stage == Stage::Loading {
            return;
        }
        if rollout.kind == Kind::StopFirst {
            let again = match ready >= wanted {
                true => format!("generation {serving} was started again"),
                false => format!("{ready} of {wanted} are ready again"),
            };
            let note = format!("all workers had been stopped, and {again}");
            rollout.notes.insert(0, note);
        }
        rollout.partial |= !lacking.is_empty();
        rollout.notes.extend(lacking);
    }

    /// Everything that could go back has.
    pub(super) fn rollout_undone(&mut self, to: GenerationId, undo: Undo) {
        let serving = self.generation;
        self.note_outcome();
        let Some(rollout) = &mut self.rollout else {
            return;
        };
        let notes = rollout.notes.join("; ");
        let note = (!notes.is_empty()).then_some(notes);
        let took = self.now.since(rollout.started);
        let (partial, undoers) = (rollout.partial, std::mem::take(&mut rollout.undoers));
        self.announce(Transition::Rollout {
            generation: to,
            step: RolloutStep::Undone {
                serving,
                note: note.clone(),
            },
        });
        let wanted = match &note {
            Some(note) if partial => Err(Failure::NotAllBack(note.clone())),
            _ => Ok(Done::TakenBack {
                generation: to,
                serving,
                took,
            }),
        };
        for to in undoers {
            let result = wanted.clone();
            self.actions.push(Action::Reply { to, result });
        }
        self.end_rollout(Err(match undo {
            Undo::Failed(blame) => Failure::GenerationFailed {
                generation: to,
                serving,
                blame,
                note,
            },
            Undo::Asked => Failure::TakenBack {
                generation: to,
                serving,
                note,
            },
            Undo::Interrupted => Failure::Interrupted {
                generation: to,
                serving,
                note,
            },
        }));
    }
}
