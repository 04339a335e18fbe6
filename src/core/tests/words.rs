// SPDX-License-Identifier: MIT OR Apache-2.0
//! Actions in short words, for the transition table.

use super::*;

/// All actions, in order. In the table of a worker it is "it", its slot "its slot".
pub(super) fn of_all(actions: &[Action], about: Option<(WorkerId, SlotId)>) -> String {
    // Workers that are not spoken of elsewhere are known by their slots.
    let mut slots: BTreeMap<WorkerId, SlotId> = BTreeMap::new();
    for action in actions {
        match action {
            Action::Spawn { worker, slot, .. }
            | Action::Announce(Transition::Worker { worker, slot, .. }) => {
                slots.insert(*worker, *slot);
            }
            _ => {}
        }
    }
    let names = Names { about, slots };
    let words: Vec<String> = actions.iter().filter_map(|a| names.action(a)).collect();
    match words.is_empty() {
        true => "–".to_owned(),
        false => words.join("; "),
    }
}

struct Names {
    about: Option<(WorkerId, SlotId)>,
    slots: BTreeMap<WorkerId, SlotId>,
}

impl Names {
    fn is_it(&self, worker: WorkerId) -> bool {
        self.about.is_some_and(|(id, _)| id == worker)
    }

    fn worker(&self, worker: WorkerId) -> String {
        match (self.is_it(worker), self.slots.get(&worker)) {
            (true, _) => "it".to_owned(),
            (false, Some(slot)) if self.about.is_some_and(|(_, s)| s == *slot) => {
                "the other of its slot".to_owned()
            }
            (false, Some(slot)) => format!("the worker of slot {slot}"),
            (false, None) => "a worker".to_owned(),
        }
    }

    fn slot(&self, slot: SlotId) -> String {
        match self.about {
            Some((_, its)) if its == slot => "its slot".to_owned(),
            _ => format!("slot {slot}"),
        }
    }

    fn action(&self, action: &Action) -> Option<String> {
        Some(match action {
            Action::Spawn {
                slot, generation, ..
            } => format!("spawn for {}, generation {generation}", self.slot(*slot)),
            Action::Signal { worker, .. } => format!("stop signal to {}", self.worker(*worker)),
            Action::Ask { worker } => format!("ask whether {} answers", self.worker(*worker)),
            Action::Drain { worker, .. } => format!("ask {} to drain", self.worker(*worker)),
            Action::Kill { worker } => format!("kill the tree of {}", self.worker(*worker)),
            Action::Check { worker } => format!("ask how {} is", self.worker(*worker)),
            Action::Hear { worker } => format!("hear what {} has said", self.worker(*worker)),
            Action::Probe { .. } => "look whether it accepts".to_owned(),
            Action::Measure { worker } => format!("look at the memory of {}", self.worker(*worker)),
            Action::Release { worker } => format!("release {}", self.worker(*worker)),
            Action::LoadConfig { .. } => "read the configuration".to_owned(),
            Action::Recall { of, .. } => format!("bring generation {of} back"),
            Action::DropGeneration { generation } => format!("forget generation {generation}"),
            Action::SayReady => "`READY=1` to systemd".to_owned(),
            Action::Announce(transition) => return self.transition(transition),
            Action::Reply { result: Ok(_), .. } => "answer: done".to_owned(),
            Action::Reply { result: Err(e), .. } => format!("answer: {}", failure(e)),
            Action::Exit(Outcome::Stopped) => "end: stopped".to_owned(),
            Action::Exit(Outcome::StartFailed(_)) => "end: start failed".to_owned(),
        })
    }

    fn transition(&self, transition: &Transition) -> Option<String> {
        Some(match transition {
            // Its own state has a column.
            Transition::Worker { worker, .. } | Transition::Exited { worker, .. }
                if self.is_it(*worker) =>
            {
                return None;
            }
            Transition::Worker { worker, to, .. } => format!("{} is {to}", self.worker(*worker)),
            Transition::Exited { worker, .. } => format!("{} has exited", self.worker(*worker)),
            Transition::Failed { blame, .. } => {
                format!(
                    "{} has failed: {}",
                    self.worker(blame.worker),
                    cause(&blame.cause)
                )
            }
            Transition::Blocked { worker, .. } => format!("{} is blocked", self.worker(*worker)),
            Transition::Answered { worker, .. } => format!("{} answers", self.worker(*worker)),
            Transition::Unready { worker, .. } => {
                format!("{} is out of the balance", self.worker(*worker))
            }
            Transition::ReadyAgain { worker, .. } => {
                format!("{} is back in the balance", self.worker(*worker))
            }
            Transition::Recycled { worker, .. } => format!("{} is recycled", self.worker(*worker)),
            Transition::Oversized { worker, .. } => {
                format!("{} is too large from the start", self.worker(*worker))
            }
            Transition::Backoff { slot, .. } => format!("back off {}", self.slot(*slot)),
            Transition::Recovered { slot } => format!("{} is well again", self.slot(*slot)),
            Transition::Degraded { why: Some(_) } => "degraded".to_owned(),
            Transition::Degraded { why: None } => "no longer degraded".to_owned(),
            Transition::Cluster { from, to } => format!("cluster {from} → {to}"),
            Transition::Rollout { step, .. } => step_words(step).to_owned(),
            Transition::Resumed { .. } => "taken over".to_owned(),
            Transition::Scaled { from, to } => format!("{from} → {to} workers"),
        })
    }
}

fn step_words(step: &RolloutStep) -> &'static str {
    match step {
        RolloutStep::Started { .. } => "rollout started",
        RolloutStep::Progress { .. } => "rollout moves on",
        RolloutStep::Refused(_) => "rollout refused",
        RolloutStep::Failed(_) => "rollout failed",
        RolloutStep::Finished { .. } => "rollout finished",
        RolloutStep::Undone { .. } => "rollout undone",
        RolloutStep::NoWayBack(_) => "no way back",
        RolloutStep::TakenBack => "rollout taken back",
        RolloutStep::Interrupted => "rollout interrupted",
        RolloutStep::FallingBack { .. } => "falling back",
    }
}

fn cause(cause: &Cause) -> &'static str {
    match cause {
        Cause::SpawnFailed(_) => "not started",
        Cause::ExitedEarly(_) => "exited early",
        Cause::StartTimeout { .. } => "start timeout",
        Cause::Crashed { .. } => "crashed",
        Cause::Hung { .. } => "hung",
        Cause::Unhealthy(_) => "not healthy",
        Cause::LeftAtOnce => "left at once",
        Cause::OverBudget { .. } => "over budget",
        Cause::TooOften { .. } => "too often",
    }
}

fn failure(failure: &Failure) -> &'static str {
    match failure {
        Failure::ConfigInvalid(_) => "configuration invalid",
        Failure::GenerationFailed { .. } => "generation failed",
        Failure::TakenBack { .. } => "taken back",
        Failure::Interrupted { .. } => "interrupted",
        Failure::NoWayBack(_) => "no way back",
        Failure::NotAllBack(_) => "not all went back",
        Failure::WorkerFailed(_) => "worker failed",
        Failure::Stopping => "stopping",
        Failure::Superseded => "superseded",
        Failure::NoSuchSlot(_) => "no such slot",
        Failure::BadCount(_) => "bad count",
    }
}
