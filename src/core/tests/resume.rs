// SPDX-License-Identifier: MIT OR Apache-2.0
//! What becomes of each thing that was under way when the supervisor ended.

use super::crash::assert_at_rest;
use super::rollback::second;
use super::*;

/// Four ready workers, and a reload to others that takes this long to go on.
pub(super) fn rolling(on_failure: OnFailure, then: u64) -> Sim {
    replacing(Request::Reload, on_failure, then)
}

fn replacing(how: Request, on_failure: OnFailure, then: u64) -> Sim {
    let mut sim = Sim::new(policy(4), Script::default());
    sim.run(ms(1_000));
    let next = Policy {
        on_failure,
        ..policy(4)
    };
    sim.configs = VecDeque::from([Ok((next, Script::default()))]);
    sim.request(1, how);
    sim.run(ms(then));
    sim
}

fn steps_of(sim: &Sim, generation: u64) -> Vec<&RolloutStep> {
    let about = |t: &'_ Transition| match t {
        Transition::Rollout { generation: g, .. } => g.0 == generation,
        _ => false,
    };
    let all = sim.log.iter().filter(|t| about(t));
    all.filter_map(|t| match t {
        Transition::Rollout { step, .. } => Some(step),
        _ => None,
    })
    .collect()
}

#[test]
fn a_rollout_whose_configuration_was_being_read_is_dropped() {
    for on_failure in [OnFailure::Rollback, OnFailure::Hold] {
        let mut sim = rolling(on_failure, 0);
        assert_eq!(sim.core.rollout().map(|r| r.stage), Some("loading".into()));
        sim.die(ms(1_000));
        assert!(sim.core.is_settled());
        let steps = steps_of(&sim, 2);
        assert!(
            matches!(
                steps[..],
                [
                    RolloutStep::Interrupted,
                    RolloutStep::Undone {
                        serving: GenerationId(1),
                        note: None
                    }
                ]
            ),
            "{steps:?}"
        );
        sim.run(ms(5_000));
        assert_eq!(sim.ready_generations(), [1, 1, 1, 1]);
        assert_eq!(sim.alive.len(), 4);
    }
}

#[test]
fn a_rollout_that_was_advancing_goes_back_or_on_as_on_failure_says() {
    // The canary starts, is on trial, two slots have been replaced.
    for then in [50, 300, 900] {
        for (on_failure, serves) in [(OnFailure::Rollback, 1), (OnFailure::Hold, 2)] {
            let mut sim = rolling(on_failure, then);
            assert_eq!(
                sim.core.rollout().map(|r| r.stage),
                Some("advancing".into())
            );
            sim.watch = super::rollout::never_fewer_ready;
            sim.die(ms(200));
            sim.run(ms(9_000));
            assert_at_rest(&sim);
            assert_eq!(
                sim.ready_generations(),
                [serves; 4],
                "{then} {on_failure:?}"
            );
            let interrupted = steps_of(&sim, 2).contains(&&RolloutStep::Interrupted);
            assert_eq!(interrupted, on_failure == OnFailure::Rollback);
            assert_eq!(sim.replies, [], "nobody waits");
        }
    }
}

#[test]
fn a_rollout_that_went_back_goes_on_to() {
    for on_failure in [OnFailure::Rollback, OnFailure::Hold] {
        let mut sim = rolling(on_failure, 900);
        sim.request(2, Request::Rollback);
        assert_eq!(
            sim.core.rollout().map(|r| r.stage),
            Some("reverting".into())
        );
        sim.die(ms(10));
        sim.run(ms(9_000));
        assert_at_rest(&sim);
        assert_eq!(sim.ready_generations(), [1; 4]);
        assert!(!steps_of(&sim, 2).contains(&&RolloutStep::Interrupted));
    }
}

#[test]
fn a_restart_that_stops_first_goes_back_or_on() {
    for (on_failure, serves) in [(OnFailure::Rollback, 1), (OnFailure::Hold, 2)] {
        for then in [10, 80] {
            let mut sim = replacing(Request::Restart, on_failure, then);
            sim.die(ms(10));
            sim.run(ms(9_000));
            assert_at_rest(&sim);
            assert_eq!(sim.ready_generations(), [serves; 4]);
        }
    }
}

/// Nobody has asked for it, so nobody would ask again.
#[test]
fn a_fall_back_from_a_generation_that_crashes_too_often_goes_on() {
    for then in [0, 50, 300] {
        let mut p = policy(4);
        p.crash_budget = 1;
        let mut sim = second(p, Script::default());
        sim.watch = |_| {};
        for _ in 0..2 {
            let id = sim.serving(3).expect("a worker").id;
            sim.crash(id, Exit::Signal(11));
            sim.run(ms(if sim.core.rollout().is_some() {
                then
            } else {
                700
            }));
        }
        assert!(sim.core.rollout().is_some());
        sim.die(ms(100));
        sim.run(ms(20_000));
        assert_eq!(sim.core.rolled_back().map(|back| back.to.0), Some(1));
        assert_eq!(sim.ready_generations(), [3; 4]);
    }
}

#[test]
fn after_a_re_execution_everything_goes_on() {
    for then in [0, 50, 300, 900] {
        let mut sim = rolling(OnFailure::Rollback, then);
        sim.said_ready = None;
        sim.reexec();
        sim.run(ms(9_000));
        assert_eq!(sim.ready_generations(), [2; 4]);
        assert!(sim.reply(1).is_some_and(Result::is_ok), "{:?}", sim.replies);
        assert_eq!(sim.said_ready, None, "systemd knows");
    }
}

#[test]
fn systemd_is_told_again_that_it_is_ready() {
    let mut sim = Sim::new(policy(2), Script::default());
    sim.run(ms(50));
    sim.die(ms(10));
    assert_eq!(sim.said_ready, None, "it is not yet");
    assert!(!sim.core.said_ready());
    sim.run(ms(1_000));
    assert!(sim.said_ready.take().is_some());
    let before = sim.now;
    sim.die(ms(10));
    assert_eq!(sim.said_ready, Some(before + ms(10)));
}

#[test]
fn nobody_waits_for_an_answer_any_more() {
    let mut sim = rolling(OnFailure::Hold, 50);
    sim.request(2, Request::Reload);
    sim.request(3, Request::Scale(Scale::To(6)));
    sim.request(4, Request::Replace(SlotId(3)));
    assert!(!sim.core.is_settled());
    sim.die(ms(10));
    let dropped = |t: &&Transition| matches!(t, Transition::Resumed { dropped: true, .. });
    assert!(sim.log.iter().any(|t| dropped(&t)), "it is told");
    // What had been begun is done.
    sim.run(ms(20_000));
    assert_at_rest(&sim);
    assert_eq!(sim.ready_generations(), [2; 6]);
    assert_eq!(sim.replies, []);
    sim.request(5, Request::Stop);
    sim.die(ms(10));
    sim.run(ms(9_000));
    assert!(sim.exit.is_some());
    assert_eq!(sim.replies, []);
}

#[test]
fn a_stop_goes_on() {
    let mut p = policy(2);
    p.pre_stop_delay = ms(2_000);
    let mut sim = Sim::new(p, Script::default());
    sim.run(ms(1_000));
    let asked = sim.now;
    sim.request(1, Request::Stop);
    sim.die(ms(500));
    assert_eq!(sim.core.state(), ClusterState::Stopping);
    sim.run(ms(1_000));
    assert_eq!(sim.signalled.len(), 0, "they serve on for a while");
    sim.die(ms(10));
    sim.run(ms(5_000));
    assert!(
        sim.signalled
            .values()
            .all(|at| at.since(asked) >= ms(2_000))
    );
    assert_eq!(sim.exit.as_ref().map(|e| &e.1), Some(&Outcome::Stopped));
    assert!(sim.alive.is_empty());
}

#[test]
fn an_end_that_was_recorded_is_one() {
    let mut sim = Sim::new(policy(1), Script::default());
    sim.run(ms(1_000));
    sim.request(1, Request::Stop);
    sim.run(ms(1_000));
    assert!(sim.exit.is_some());
    let exact = false;
    let actions = sim.core.handle(sim.now, Event::Resumed { exact });
    assert_eq!(actions, [Action::Exit(Outcome::Stopped)]);
    assert_eq!(sim.core.handle(sim.now, Event::Wake), []);
}

#[test]
fn what_had_not_begun_begins() {
    let core = Supervisor::new(policy(2), 1);
    let text = serde_json::to_string(&core).expect("serialises");
    let mut core: Supervisor = serde_json::from_str(&text).expect("deserialises");
    let exact = false;
    let actions = core.handle(Time(5_000_000), Event::Resumed { exact });
    let spawns = actions.iter().filter(|a| matches!(a, Action::Spawn { .. }));
    assert_eq!(spawns.count(), 2);
    assert_eq!(core.began, Time(5_000_000));
}

/// Recorded, and then: spawned, or not.
#[test]
fn a_worker_that_was_about_to_be_spawned() {
    for spawned in [true, false] {
        let mut core = Supervisor::new(policy(1), 1);
        core.number_from(7);
        core.handle(Time(1_000_000), Event::Begin);
        let worker = WorkerId(7);
        assert_eq!(core.without_pid(), [worker]);
        let now = Time(2_000_000);
        if spawned {
            let actions = core.handle(now, Event::Spawned { worker, pid: 9 });
            assert_eq!(actions.len(), 1, "it is told: {actions:?}");
        }
        let exact = false;
        let actions = core.handle(now, Event::Resumed { exact });
        let released = actions.contains(&Action::Release { worker });
        assert_eq!(released, !spawned);
        let members = core.slots()[0].members.clone();
        assert_eq!(members, [WorkerId(if spawned { 7 } else { 8 })]);
        let slot = &core.slots()[0];
        assert_eq!((slot.crashes, slot.restarts), (0, 0), "no failure");
        assert_eq!(slot.last_failure, None);
    }
}

#[test]
fn a_snapshot_that_makes_no_sense_is_refused() {
    let mut sim = rolling(OnFailure::Hold, 300);
    let good = sim.core.clone();
    let now = sim.now;
    assert_eq!(good.check_snapshot(now), Ok(()));
    let spoil: [fn(&mut Supervisor); 8] = [
        |core| core.now = Time(u64::MAX),
        |core| core.generation = GenerationId(99),
        |core| core.rollout.as_mut().expect("a rollout").to = GenerationId(99),
        |core| core.slots = vec![Slot::default(); 5_000],
        |core| core.scale = Some(4_000_000),
        |core| core.next_generation = 1,
        |core| core.next_worker = 1,
        |core| core.slots[0].members = vec![WorkerId(77)],
    ];
    for spoil in spoil {
        sim.core = good.clone();
        spoil(&mut sim.core);
        let told = sim.core.check_snapshot(now);
        assert!(told.is_err());
    }
}

/// The rule of [`crate::core`]: what was added has a default.
#[test]
fn a_snapshot_of_an_older_version_is_read() {
    let mut sim = Sim::new(policy(2), Script::default());
    sim.run(ms(1_000));
    let mut value = serde_json::to_value(&sim.core).expect("serialises");
    let workers = value["workers"].as_object_mut().expect("workers");
    for worker in workers.values_mut() {
        let added = worker.as_object_mut().expect("a worker").remove("unheard");
        assert!(added.is_some());
    }
    let core: Supervisor = serde_json::from_value(value).expect("deserialises");
    assert_eq!(core, sim.core);
}
