// SPDX-License-Identifier: MIT OR Apache-2.0
//! Back to the last good generation by itself: the one that serves crashes too often.

use super::rollback::{reload, second, told};
use super::rollout::failing;
use super::*;

fn falling_back(sim: &Sim) -> usize {
    let step = |t: &&Transition| {
        matches!(
            t,
            Transition::Rollout {
                step: RolloutStep::FallingBack { .. },
                ..
            }
        )
    };
    sim.log.iter().filter(step).count()
}

/// Crashes a ready worker now and then until a rollout begins, at most `times`.
fn storm(sim: &mut Sim, times: usize) -> usize {
    for n in 1..=times {
        sim.run(ms(700));
        let slots = 0..sim.core.slots().len() as u32;
        let Some(worker) = slots
            .filter_map(|i| sim.serving(i))
            .map(|w| w.id)
            .next_back()
        else {
            continue;
        };
        sim.crash(worker, Exit::Signal(11));
        if sim.core.state() == ClusterState::Reloading {
            return n;
        }
    }
    times
}

#[test]
fn a_storm_falls_back_to_the_last_good_generation_once() {
    let mut p = policy(4);
    p.crash_budget = 3;
    let mut sim = second(p, Script::default());
    sim.watch = |_| {};
    let crashes = storm(&mut sim, 10);
    assert_eq!(crashes, 4, "one over the budget");
    assert_eq!(falling_back(&sim), 1);
    let line = sim.core.status_line();
    assert!(line.starts_with("degraded: 3/4 ready; slot 3: "), "{line}");
    assert!(line.ends_with("; going back to generation 1"), "{line}");
    sim.run(ms(5_000));
    assert_eq!(sim.ready_generations(), [3, 3, 3, 3]);
    let line = sim.core.status_line();
    assert!(
        line.starts_with("degraded: 4/4 ready; generation 2 was left, and generation 1 is back: "),
        "{line}"
    );
    assert!(line.contains("4 crashes within 60s are too many"), "{line}");
    // A reload ends that.
    reload(&mut sim, 2, policy(4), Script::default());
    assert_eq!(sim.core.degraded(), None);
}

/// Workers that run and are not well count like those that crash.
#[test]
fn a_storm_of_unhealthy_workers_falls_back_too() {
    for older in [true, false] {
        let mut p = policy(4);
        p.crash_budget = 3;
        let mut sim = match older {
            true => second(p, Script::default()),
            false => Sim::new(p, Script::default()),
        };
        sim.run(ms(1_000));
        for _ in 0..4 {
            let id = sim.serving(2).expect("a worker").id;
            let why = Recycle::Unhealthy("/health answered 500".to_owned());
            assert!(sim.core.recycle(id, why));
            sim.event(Event::Wake);
            sim.run(ms(1_000));
        }
        let degraded = sim.core.degraded().expect("degraded").to_owned();
        let what = "/health answered 500; 4 failures within 60s are too many";
        assert!(degraded.contains(what), "{degraded}");
        assert_eq!(falling_back(&sim), usize::from(older));
        sim.run(ms(9_000));
        assert_eq!(sim.core.ready_workers(), 4);
        assert_eq!(
            sim.core.degraded().is_some(),
            older,
            "without it, well again"
        );
    }
}

#[test]
fn two_bad_generations_do_not_follow_each_other_for_ever() {
    let mut p = policy(4);
    p.crash_budget = 3;
    let mut sim = Sim::new(p.clone(), Script::default());
    sim.run(ms(1_000));
    reload(&mut sim, 1, p.clone(), Script::default());
    storm(&mut sim, 10);
    sim.run(ms(5_000));
    assert_eq!(sim.ready_generations(), [3, 3, 3, 3]);
    // What was good is not any more.
    assert_eq!(storm(&mut sim, 40), 40, "no further rollout");
    assert_eq!(falling_back(&sim), 1);
    assert!(sim.core.degraded().is_some());
    sim.run(ms(60_000));
    assert_eq!(sim.core.ready_workers(), 4, "it is tried on");
    assert_eq!(sim.exit, None);
    // Nor does a further bad release make it good.
    storm(&mut sim, 20);
    reload(&mut sim, 2, p, Script::default());
    assert_eq!(storm(&mut sim, 20), 20);
    assert_eq!(falling_back(&sim), 1);
}

/// Where no worker is started again, its generation is not either.
#[test]
fn workers_that_are_not_to_be_followed_are_no_storm() {
    let mut p = policy(3);
    (p.restart, p.crash_budget) = (Restart::Never, 1);
    let mut sim = second(p, Script::default());
    sim.run(ms(1_000));
    sim.watch = |_| {};
    for slot in 0..2 {
        let id = sim.serving(slot).expect("a worker").id;
        sim.crash(id, Exit::Signal(9));
        sim.run(ms(5_000));
    }
    assert_eq!(falling_back(&sim), 0);
    assert_eq!(sim.core.generation(), GenerationId(2));
    assert_eq!(sim.alive.len(), 1);
}

/// Nothing is forgotten because it happened while something else was being tried.
#[test]
fn a_storm_during_a_rollout_that_fails_falls_back_after_it() {
    let mut p = policy(4);
    (p.crash_budget, p.canary_time) = (3, ms(60_000));
    let mut sim = second_slowly(p);
    sim.request(2, Request::Reload);
    for _ in 0..4 {
        sim.run(ms(1_000));
        let id = sim.serving(3).expect("a worker").id;
        sim.crash(id, Exit::Signal(11));
    }
    assert_eq!(falling_back(&sim), 0, "one thing at a time");
    let canary = sim.core.workers_where(|w| w.generation.0 == 3);
    sim.crash(canary[0], Exit::Code(1));
    assert!(told(&sim, 2).contains("generation 3 failed"));
    assert_eq!(falling_back(&sim), 1);
    sim.run(ms(90_000));
    assert_eq!(sim.ready_generations(), [4, 4, 4, 4]);
    assert_eq!(sim.core.rolled_back().map(|back| back.to.0), Some(1));
}

/// Generation 2 serves, whose canary takes a minute.
fn second_slowly(p: Policy) -> Sim {
    let mut sim = Sim::new(policy(4), Script::default());
    sim.run(ms(1_000));
    sim.configs = VecDeque::from([Ok((p, Script::default()))]);
    sim.request(1, Request::Reload);
    sim.run(ms(90_000));
    assert_eq!(sim.ready_generations(), [2, 2, 2, 2]);
    sim
}

/// It fails too slowly to go over its budget again and again, but on and on.
#[test]
fn a_generation_that_still_crashes_when_it_is_replaced_was_not_good() {
    let mut p = policy(4);
    (p.crash_budget, p.crash_window) = (2, ms(3_000));
    let mut sim = second(p, Script::default());
    sim.watch = |_| {};
    sim.gone = true;
    sim.scripts.insert(GenerationId(2), failing(10));
    let id = sim.serving(3).expect("a worker").id;
    sim.crash(id, Exit::Signal(11));
    sim.run(ms(30_000));
    assert_eq!((falling_back(&sim), sim.core.ready_workers()), (1, 3));
    sim.gone = false;
    reload(&mut sim, 2, policy(4), Script::default());
    sim.request(3, Request::Rollback);
    sim.run(ms(5_000));
    assert_eq!(sim.core.rolled_back().map(|back| back.to.0), Some(1));
}

#[test]
fn a_fall_back_that_cannot_be_is_not_tried_again() {
    for refused in [true, false] {
        let mut p = policy(4);
        p.crash_budget = 3;
        let mut sim = second(p, Script::default());
        sim.watch = |_| {};
        sim.gone = refused;
        sim.scripts.insert(GenerationId(1), failing(10));
        storm(&mut sim, 10);
        sim.run(ms(5_000));
        assert_eq!(storm(&mut sim, 20), 20);
        assert_eq!(falling_back(&sim), 1);
        assert_eq!(sim.core.generation(), GenerationId(2));
        // By hand it can be.
        sim.gone = false;
        sim.scripts.insert(GenerationId(1), Script::default());
        sim.request(2, Request::Rollback);
        sim.run(ms(9_000));
        assert!(sim.reply(2).is_some_and(Result::is_ok));
    }
}

/// All workers of a release turn silent again and again while it is gone back, whose reload
/// drains one at a time: those that are replaced do not wait for that, and do not pile up.
#[test]
fn silent_workers_do_not_pile_up_during_a_fall_back() {
    let careful = Policy {
        max_draining: Some(1),
        ..policy(6)
    };
    let mut sim = Sim::new(careful, Script::default());
    sim.run(ms(1_000));
    let silent = Policy {
        watchdog: Some(ms(1_278)),
        crash_budget: 1,
        ..policy(6)
    };
    let slow = Script {
        ready: Some(ms(0)),
        drains: Some(ms(2_131)),
        ..Script::default()
    };
    sim.configs = VecDeque::from([Ok((silent, slow))]);
    sim.request(1, Request::Reload);
    sim.watch = |sim| assert!(sim.alive.len() <= 4 * 6, "{} workers", sim.alive.len());
    sim.run(ms(30_000));
    let went_back = |t: &Transition| {
        let step = match t {
            Transition::Rollout { step, .. } => step,
            _ => return false,
        };
        matches!(step, RolloutStep::FallingBack { .. })
    };
    assert!(sim.log.iter().any(went_back));
    assert!(sim.core.rollout.is_none(), "{:?}", sim.core.rollout);
    assert_eq!(sim.alive.len(), 6);
}
