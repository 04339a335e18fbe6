// SPDX-License-Identifier: MIT OR Apache-2.0
//! What must hold whenever the supervisor is killed.

use super::crash::{Crash, Crashes, assert_at_rest};
use super::invariants::{Step, config, kills_are_earned, play, policies, scripts, steps};
use super::rollout::failing;
use super::*;
use proptest::prelude::*;

fn crashes() -> impl Strategy<Value = Crashes> {
    let away = prop_oneof![
        1 => Just(ms(0)),
        3 => (0..500u64).prop_map(ms),
        2 => (0..10_000u64).prop_map(ms),
        1 => (10_000..3_600_000u64).prop_map(ms),
    ];
    let cut = prop_oneof![1 => 0..6usize, 1 => Just(usize::MAX)];
    let one = (
        0..25usize,
        cut,
        any::<bool>(),
        away,
        prop::bool::weighted(0.2),
    );
    let one = one.prop_map(|(after, cut, recorded, away, exact)| Crash {
        after,
        cut,
        recorded,
        away,
        exact,
    });
    let turn = prop_oneof![2 => Just(1), 1 => 2..6usize];
    (prop::collection::vec(one, 1..20), turn).prop_map(|(plan, turn)| Crashes::new(plan, turn))
}

/// Well from now on; the last word is a reload to three workers.
fn settle(sim: &mut Sim) {
    sim.crashes.plan.clear();
    for script in sim.scripts.values_mut() {
        *script = Script::default();
    }
    sim.gone = false;
    sim.run(ms(60_000));
    sim.configs = VecDeque::from([Ok((policy(3), Script::default()))]);
    sim.request(1_000, Request::Reload);
    sim.run(ms(300_000));
    assert!(
        sim.reply(1_000).is_some_and(Result::is_ok),
        "{:?}",
        sim.reply(1_000)
    );
    assert_at_rest(sim);
    assert_eq!(sim.core.next_deadline(), None);
}

proptest! {
    #![proptest_config(config())]

    /// No panic, no busy deadline, no reply to those who are gone, at most one to the others,
    /// no SIGKILL before its time, nobody fails because nobody has looked, and it can be
    /// stopped.
    #[test]
    fn anything_may_happen_to_a_supervisor_that_is_killed(
        p in policies(),
        s in scripts(),
        steps in steps(),
        crashes in crashes(),
    ) {
        let mut sim = Sim::new(p, s);
        sim.watch = kills_are_earned;
        sim.crashes = crashes;
        let asked = play(&mut sim, &steps);
        sim.request(asked + 1, Request::Stop);
        sim.run(ms(120_000));
        // Perhaps it has never heard of it.
        sim.crashes.plan.clear();
        sim.request(asked + 2, Request::Stop);
        sim.run(ms(120_000));
        prop_assert!(sim.exit.is_some(), "{}", sim.core.status_line());
        prop_assert!(sim.alive.is_empty(), "left: {:?}", sim.alive);
        let mut ids: Vec<_> = sim.replies.iter().map(|r| r.0).collect();
        ids.sort();
        ids.dedup();
        prop_assert_eq!(ids.len(), sim.replies.len(), "a request got two replies");
    }

    /// `Before::check` is called at every event.
    #[test]
    fn ready_workers_are_never_given_away_by_a_supervisor_that_is_killed(
        p in policies(),
        s in scripts(),
        steps in steps(),
        crashes in crashes(),
    ) {
        let mut sim = Sim::new(p, Script { ready: Some(ms(100)), unspawnable: false, ..s });
        sim.crashes = crashes;
        let restart = |step: &Step| matches!(step, Step::Request(Request::Restart));
        let steps: Vec<Step> = steps.into_iter().filter(|step| !restart(step)).collect();
        play(&mut sim, &steps);
        sim.run(ms(10_000));
    }

    /// Whatever was lost: in the end each slot has one ready worker, and nobody else lives.
    #[test]
    fn it_comes_to_rest_after_any_deaths(
        p in policies(),
        steps in steps(),
        crashes in crashes(),
    ) {
        let mut sim = Sim::new(p, Script::default());
        sim.run(ms(1_000));
        sim.crashes = crashes;
        play(&mut sim, &steps);
        settle(&mut sim);
    }

    /// Killed only when all was recorded, it ends as one that was not killed ends, up to what
    /// cannot be known or is meant to differ: names (workers, generations, pids), times, the
    /// jitter, what was counted (crashes, restarts, recyclings; a death that nobody saw has no
    /// status), which generation can be gone back to (an interrupted rollout may have been
    /// undone), and replies to those who waited. So the same are: the number of workers and who
    /// has set it, the rules of the generation that serves, one ready worker in each slot, and
    /// that nothing is wrong or under way.
    #[test]
    fn a_supervisor_that_is_killed_ends_like_one_that_is_not(
        p in policies(),
        steps in steps(),
        mut crashes in crashes(),
    ) {
        // By how many depends on the generation that serves then.
        let by = |step: &Step| matches!(step, Step::Request(Request::Scale(Scale::By(_))));
        let steps: Vec<Step> = steps.into_iter().filter(|step| !by(step)).collect();
        for crash in &mut crashes.plan {
            (crash.cut, crash.recorded) = (usize::MAX, true);
        }
        crashes.turn = 1;
        let mut ends = Vec::new();
        for crashes in [Crashes::default(), crashes] {
            let mut sim = Sim::new(p.clone(), Script::default());
            sim.run(ms(1_000));
            sim.crashes = crashes;
            play(&mut sim, &steps);
            settle(&mut sim);
            let core = sim.core;
            let rules = core.generations[&core.generation].policy.clone();
            let failed = core.slots.iter().filter(|s| s.failed.is_some() || s.stopped).count();
            ends.push((
                core.desired_workers(),
                core.scale,
                rules,
                core.slots.len(),
                failed,
                core.degraded,
                core.said_ready,
                core.outcome,
            ));
        }
        prop_assert_eq!(&ends[0], &ends[1]);
    }
}

/// A first start, a scaling, a reload, a failure, a failing reload, a restart, a rollback and
/// the ends of workers.
fn schedule(sim: &mut Sim, on_failure: OnFailure) {
    let p = Policy {
        on_failure,
        drains: true,
        ..policy(2)
    };
    sim.run(ms(300));
    sim.request(1, Request::Scale(Scale::To(3)));
    sim.run(ms(150));
    sim.configs = VecDeque::from([Ok((p.clone(), Script::default()))]);
    sim.request(2, Request::Reload);
    sim.run(ms(1_500));
    if let Some(worker) = sim.alive.keys().next().copied() {
        sim.crash(worker, Exit::Signal(11));
    }
    sim.run(ms(200));
    sim.configs = VecDeque::from([Ok((p.clone(), failing(150)))]);
    sim.request(3, Request::Reload);
    sim.run(ms(700));
    sim.configs = VecDeque::from([Ok((p, Script::default()))]);
    sim.request(4, Request::Restart);
    sim.run(ms(400));
    sim.request(5, Request::Rollback);
    sim.run(ms(1_000));
}

/// One death at each event of a schedule, after each of its actions.
#[test]
fn it_may_die_at_every_step() {
    for on_failure in [OnFailure::Rollback, OnFailure::Hold] {
        let mut died = 0;
        'steps: for after in 0.. {
            for cut in [0, 1, 2, 4, usize::MAX] {
                for recorded in [true, false] {
                    let mut sim = Sim::new(policy(2), Script::default());
                    sim.watch = kills_are_earned;
                    let crash = Crash {
                        after,
                        cut,
                        recorded,
                        away: ms(120),
                        exact: false,
                    };
                    sim.crashes = Crashes::new(vec![crash], 2);
                    schedule(&mut sim, on_failure);
                    if sim.crashes.happened == 0 {
                        break 'steps;
                    }
                    died += 1;
                    sim.run(ms(60_000));
                    assert_at_rest(&sim);
                }
            }
        }
        assert!(died > 300, "{died}");
    }
}
