// SPDX-License-Identifier: MIT OR Apache-2.0
//! Capacity is never given away: checked at every event of every simulation.

use super::invariants::{Step, config, play, policies, scripts, steps};
use super::*;
use crate::core::rollout::Kind;
use proptest::prelude::*;

/// How many slots had a ready worker before something happened.
pub(super) struct Before {
    ready: u32,
    /// Which slots had none, and were to stay without.
    empty: Vec<bool>,
    /// So many of them end by this event, whatever we do.
    leaves: u32,
    /// A restart was under way.
    stops_first: bool,
}

impl Before {
    pub fn of(sim: &Sim, event: &Event) -> Before {
        let about = match event {
            Event::Exited { worker, .. } => Some(worker),
            // One that a stray message has made ready before.
            Event::SpawnFailed { worker, .. } => Some(worker),
            Event::Notified {
                worker,
                what: Notification::Stopping,
            } => Some(worker),
            _ => None,
        };
        let ready = |id| sim.core.worker(id).map(|w| w.state) == Some(WorkerState::Ready);
        let never_ran = match event {
            Event::Resumed { .. } => sim.core.without_pid(),
            _ => Vec::new(),
        };
        let leave = about.into_iter().chain(&never_ran);
        Before {
            ready: sim.core.ready_workers(),
            empty: empty(sim),
            leaves: leave.filter(|id| ready(**id)).count() as u32,
            stops_first: stops_first(sim),
        }
    }

    /// After it: what we have done ourselves has left as many ready as should be, or as
    /// there were. Stops, and restarts that stop first, are meant to do otherwise.
    pub fn check(&self, sim: &Sim, actions: &[Action]) {
        let core = &sim.core;
        if core.state() == ClusterState::Stopping || self.stops_first || stops_first(sim) {
            return;
        }
        let hung = |a: &&Action| match a {
            Action::Announce(Transition::Failed { blame, .. }) => {
                matches!(blame.cause, Cause::Hung { .. })
            }
            _ => false,
        };
        let gone = self.leaves + actions.iter().filter(hung).count() as u32;
        let desired = core.desired_workers().0;
        // By this event, too: one that has ended is not to be followed by another.
        let (before, now) = (&self.empty, empty(sim));
        let is_empty = |slot: &usize| {
            let empty = |all: &[bool]| all.get(*slot).copied().unwrap_or(false);
            empty(before) || empty(&now)
        };
        let wanted = desired - (0..desired as usize).filter(is_empty).count() as u32;
        let least = self.ready.saturating_sub(gone).min(wanted);
        assert!(
            core.ready_workers() >= least,
            "{} of {} ready workers are left, by {actions:?}",
            core.ready_workers(),
            self.ready
        );
    }
}

fn stops_first(sim: &Sim) -> bool {
    let stops_first = |r: &Rollout| r.kind == Kind::StopFirst;
    sim.core.rollout.as_ref().is_some_and(stops_first)
}

/// Slots that have no ready worker, and are not to get one.
fn empty(sim: &Sim) -> Vec<bool> {
    let ready = |id: &WorkerId| sim.core.worker(*id).map(|w| w.state) == Some(WorkerState::Ready);
    let slots = sim.core.slots().iter();
    slots
        .map(|slot| slot.stopped && !slot.members.iter().any(ready))
        .collect()
}

/// A tenth of them in the full tier is what other properties get.
fn many() -> ProptestConfig {
    let config = config();
    let cases = match config.cases {
        10_000.. => config.cases * 10,
        few => few,
    };
    ProptestConfig { cases, ..config }
}

proptest! {
    #![proptest_config(many())]

    /// Workers that fail, rollouts, rollbacks, scaling, replacement and recycling in any
    /// order: `Before::check` is called at every event.
    #[test]
    fn ready_workers_are_never_given_away(p in policies(), s in scripts(), steps in steps()) {
        let mut sim = Sim::new(p, Script { ready: Some(ms(100)), unspawnable: false, ..s });
        let restart = |step: &Step| matches!(step, Step::Request(Request::Restart));
        let steps: Vec<Step> = steps.into_iter().filter(|step| !restart(step)).collect();
        play(&mut sim, &steps);
        sim.run(ms(10_000));
    }
}

/// Slot 0 fails, and slot 1 is one too many now.
#[test]
fn a_worker_that_is_one_too_many_stands_in_for_one_that_fails() {
    let mut sim = Sim::new(policy(2), Script::default());
    sim.run(ms(1_000));
    let broken = Script {
        ready: None,
        ..Script::default()
    };
    let well = sim.scripts.insert(GenerationId(1), broken);
    let first = sim.serving(0).expect("a worker").id;
    sim.crash(first, Exit::Signal(11));
    sim.request(1, Request::Scale(Scale::To(1)));
    sim.run(ms(100));
    assert_eq!(sim.core.ready_workers(), 1, "slot 1 serves on");
    // Whoever asked does not wait for a slot that fails.
    assert_eq!(sim.reply(1), Some(&Ok(Done::Scaled { workers: 1 })));
    sim.scripts.insert(GenerationId(1), well.expect("a script"));
    sim.run(ms(20_000));
    assert!(sim.serving(0).is_some());
    assert_eq!(sim.alive.len(), 1, "it is not needed any more");
    assert_eq!(sim.core.slots().len(), 1);
}
