// SPDX-License-Identifier: MIT OR Apache-2.0
//! Back to the last good generation: when somebody asks for it, and by itself when the one
//! that serves crashes too often.
//!
//! One older generation is kept for it, the last *good* one: it had been rolled out, and
//! served the last `crash_window` of its time (or all of it, if that was less) without
//! using up its crash budget (without any failure). Bringing it back makes a new
//! generation of it, by a rollout like any other. After that there is no older one, until
//! a reload succeeds: two bad generations never follow each other for ever.

use super::rollout::{Kind, Rollout, Stage};
use super::undo::Undo;
use super::*;

/// What a rollout that goes back to an older generation is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Back {
    /// The generation that is brought back.
    pub of: GenerationId,
    /// What made it necessary; `None`: it was asked for.
    pub why: Option<Blame>,
}

/// What a generation that was brought back is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolledBack {
    /// The generation that was left.
    pub from: GenerationId,
    /// The one that this is once more.
    pub to: GenerationId,
    /// Why, if nobody asked for it.
    pub why: Option<String>,
}

impl Supervisor {
    /// A rollback undoes the rollout that is under way, or what is left of one that failed;
    /// if there is none it goes back to the last good generation.
    pub(super) fn request_rollback(&mut self, from: Option<RequestId>) {
        let going_back = |r: &Rollout| r.back.is_some();
        match &mut self.rollout {
            // What is wanted is under way.
            Some(rollout) if going_back(rollout) => rollout.requests.extend(from),
            Some(rollout) => {
                rollout.undoers.extend(from);
                self.undo_rollout();
            }
            None => match (self.held(), self.last_good) {
                (Some(held), _) => self.undo_held(held, Undo::Asked, from),
                (None, Some(of)) => {
                    let requests = from.into_iter().collect();
                    self.go_back(of, None, requests);
                }
                (None, None) => {
                    let why = self.no_older();
                    self.answer(from, Err(Failure::NoWayBack(why)));
                }
            },
        }
    }

    /// Why there is no older generation.
    fn no_older(&self) -> String {
        let generation = self.generation;
        let now = self.generations.get(&generation);
        match now.and_then(|g| g.rolled_back.as_ref()) {
            Some(back) => format!(
                "generation {generation} is a rollback to generation {} already, and there is \
                 no older one; a reload rolls out what the files say now",
                back.to
            ),
            None => format!("there is no good generation before generation {generation}"),
        }
    }

    /// Takes back what is being rolled out, and what waits to be.
    fn undo_rollout(&mut self) {
        let queued = self.queued.take().map(|q| q.requests).unwrap_or_default();
        for to in queued {
            let result = Err(Failure::Superseded);
            self.actions.push(Action::Reply { to, result });
        }
        let Some(rollout) = &self.rollout else {
            return;
        };
        match rollout.stage {
            Stage::Loading => {
                let to = rollout.to;
                self.announce(Transition::Rollout {
                    generation: to,
                    step: RolloutStep::TakenBack,
                });
                self.rollout_undone(to, Undo::Asked);
            }
            Stage::Advancing => self.revert_rollout(Undo::Asked),
            Stage::Reverting(_) => self.give_all_back(),
        }
    }

    /// Begins to bring `of` back.
    fn go_back(&mut self, of: GenerationId, why: Option<Blame>, requests: Vec<RequestId>) {
        let to = self.name_generation();
        self.rollout = Some(Rollout {
            requests,
            back: Some(Back { of, why }),
            ..Rollout::new(to, Kind::Rolling, self.now)
        });
        self.set_cluster_state(ClusterState::Reloading);
        self.actions.push(Action::Recall { generation: to, of });
    }

    /// The answer to [`Action::Recall`].
    pub(super) fn on_recalled(&mut self, generation: GenerationId, result: Result<(), String>) {
        let loading = |r: &&Rollout| r.stage == Stage::Loading;
        let rollout = self.rolls_out(generation).filter(loading);
        let Some(Back { of, why }) = rollout.and_then(|r| r.back.clone()) else {
            self.drop_unknown(generation);
            return;
        };
        match (result, self.generations.get(&of)) {
            (Ok(()), Some(old)) => {
                let rolled_back = RolledBack {
                    from: self.generation,
                    to: of,
                    why: why.map(|blame| blame.to_string()),
                };
                let mut policy = old.policy.clone();
                let current = self.policy(self.generation);
                if policy.workers_source != current.workers_source {
                    policy.workers_source = as_in(of, &policy.workers_source);
                }
                let rules = Generation {
                    rolled_back: Some(rolled_back),
                    ..Generation::new(policy)
                };
                self.advance_into(generation, rules);
            }
            (result, _) => {
                let why = result.err().unwrap_or_default();
                let why = format!("cannot go back to generation {of}: {why}");
                let step = RolloutStep::NoWayBack(why.clone());
                self.announce(Transition::Rollout { generation, step });
                self.end_rollout(Err(Failure::NoWayBack(why)));
                self.actions.push(Action::DropGeneration { generation });
            }
        }
    }

    /// `to` has taken the place of the generation that served.
    pub(super) fn note_succession(&mut self, to: GenerationId) {
        let going_back = self.rollout.as_ref().is_some_and(|r| r.back.is_some());
        if going_back {
            self.last_good = None;
        } else if self.is_good(self.generation) {
            self.last_good = Some(self.generation);
        }
        self.generation = to;
        self.note_in_service();
    }

    /// The generation that serves does so from now on.
    pub(super) fn note_in_service(&mut self) {
        let now = self.now;
        if let Some(generation) = self.generations.get_mut(&self.generation) {
            generation.in_service = Some(now);
        }
    }

    /// Whether it is worth going back to, judged when it is replaced.
    fn is_good(&self, id: GenerationId) -> bool {
        let Some(generation) = self.generations.get(&id) else {
            return false;
        };
        let Some(since) = generation.in_service else {
            return false;
        };
        // Slots in which it goes on to fail, however seldom.
        if self.slots.iter().any(|slot| slot.failed.is_some()) {
            return false;
        }
        let bad = generation.over_budget.unwrap_or(since).max(since);
        let survived = self.now.since(bad) >= generation.policy.crash_window;
        survived || (generation.over_budget.is_none() && generation.crashes.is_empty())
    }

    /// A generation has more failures than its budget, or goes on to fail.
    pub(super) fn note_storm(&mut self, id: GenerationId) {
        let now = self.now;
        if let Some(generation) = self.generations.get_mut(&id) {
            generation.over_budget = Some(now);
        }
    }

    /// A generation has used up its crash budget, and nothing is being rolled out (any more):
    /// back to what was good, once.
    pub(super) fn leave_storm(&mut self) {
        if self.rollout.is_some() || self.state != ClusterState::Running {
            return;
        }
        let held = self.held();
        let way_back = |id: GenerationId| match () {
            () if id == self.generation => self.last_good,
            () if held == Some(id) => Some(self.generation),
            () => None,
        };
        let storm = self.slots.iter().find_map(|slot| {
            // One that is not to be filled again has nothing to gain.
            let blame = slot.failed.as_ref().filter(|_| !slot.stopped)?;
            let id = slot.generation?;
            let generation = self.generations.get(&id)?;
            let tried = generation.fell_back || generation.over_budget.is_none();
            let to = way_back(id).filter(|_| !tried)?;
            Some((id, to, blame.clone()))
        });
        let Some((id, to, blame)) = storm else {
            return;
        };
        if let Some(generation) = self.generations.get_mut(&id) {
            generation.fell_back = true;
        }
        self.announce(Transition::Rollout {
            generation: id,
            step: RolloutStep::FallingBack {
                to,
                blame: blame.clone(),
            },
        });
        match held == Some(id) {
            true => self.undo_held(id, Undo::Failed(blame), None),
            false => self.go_back(to, Some(blame), Vec::new()),
        }
    }

    /// What is told while a generation that crashed too often is being left, and after that
    /// until the next one is rolled out.
    pub(super) fn about_falling_back(&self) -> Option<String> {
        let back = self.rollout.as_ref().and_then(|r| r.back.as_ref());
        if let Some(Back { of, why: Some(_) }) = back {
            return Some(format!("going back to generation {of}"));
        }
        let RolledBack { from, to, why } = self.rolled_back()?;
        let why = why.as_ref()?;
        Some(format!(
            "generation {from} was left, and generation {to} is back: {why}"
        ))
    }
}

/// `source` of the rules of an older generation: the files it names may say something else now.
fn as_in(of: GenerationId, source: &str) -> String {
    const SINCE: &str = ", as in generation ";
    match source.contains(SINCE) {
        true => source.to_owned(),
        false => format!("{source}{SINCE}{of}"),
    }
}
