// SPDX-License-Identifier: MIT OR Apache-2.0
//! Back to the last good generation, as asked for.

use super::rollout::{failing, never_fewer_ready, running};
use super::*;

pub(super) fn reload(sim: &mut Sim, id: u64, policy: Policy, script: Script) {
    sim.configs = VecDeque::from([Ok((policy, script))]);
    sim.request(id, Request::Reload);
    sim.run(ms(5_000));
    assert!(
        sim.reply(id).is_some_and(Result::is_ok),
        "{:?}",
        sim.reply(id)
    );
}

/// Generation 2 serves, generation 1 served well before.
pub(super) fn second(policy_2: Policy, script_2: Script) -> Sim {
    let mut sim = Sim::new(policy(4), Script::default());
    sim.watch = never_fewer_ready;
    sim.run(ms(1_000));
    reload(&mut sim, 1, policy_2, script_2);
    sim
}

pub(super) fn told(sim: &Sim, id: u64) -> String {
    match sim.reply(id) {
        Some(Err(failure)) => failure.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_rollback_brings_rules_and_code_of_the_last_good_generation_back() {
    let slow = Script {
        ready: Some(ms(300)),
        ..Script::default()
    };
    let mut sim = second(policy(6), slow);
    assert_eq!(sim.core.desired_workers().0, 6);
    sim.watch = |sim| assert!(sim.core.ready_workers() >= 4);
    sim.request(2, Request::Rollback);
    sim.run(ms(5_000));
    match sim.reply(2) {
        Some(Ok(Done::Generation {
            generation,
            back_to,
            workers,
            ..
        })) => assert_eq!(
            (*generation, *back_to, *workers),
            (GenerationId(3), Some(GenerationId(1)), 4)
        ),
        other => panic!("{other:?}"),
    }
    assert_eq!(sim.ready_generations(), [3, 3, 3, 3]);
    assert_eq!(
        sim.scripts[&GenerationId(3)].ready,
        Some(ms(100)),
        "its code"
    );
    let back = sim.core.rolled_back().expect("a rollback");
    assert_eq!((back.from.0, back.to.0, &back.why), (2, 1, &None));
    assert!(
        sim.core
            .status_line()
            .ends_with("generation 3 (a rollback to 1)")
    );
    // Neither what was left nor what was brought back is kept.
    let kept: Vec<u64> = sim.core.generations.keys().map(|g| g.0).collect();
    assert_eq!(kept, [3]);
}

#[test]
fn after_a_rollback_there_is_no_older_one_until_a_reload_succeeds() {
    let mut sim = second(policy(4), Script::default());
    sim.request(2, Request::Rollback);
    sim.run(ms(5_000));
    sim.request(3, Request::Rollback);
    let text = told(&sim, 3);
    assert!(
        text.contains("is a rollback to generation 1 already"),
        "{text}"
    );
    assert!(text.ends_with("nothing was changed"), "{text}");
    reload(&mut sim, 4, policy(4), Script::default());
    assert_eq!(sim.core.rolled_back(), None);
    sim.request(5, Request::Rollback);
    sim.run(ms(5_000));
    assert_eq!(sim.core.rolled_back().map(|back| back.to.0), Some(3));
}

#[test]
fn without_an_older_generation_nothing_happens() {
    let mut sim = Sim::new(policy(2), Script::default());
    for id in 1..=2 {
        sim.request(id, Request::Rollback);
        let text = told(&sim, id);
        assert!(
            text.contains("no good generation before generation 1"),
            "{text}"
        );
        sim.run(ms(1_000));
    }
    assert_eq!(sim.alive.len(), 2);
}

#[test]
fn what_is_gone_cannot_be_brought_back_and_nothing_is_touched() {
    let mut sim = second(policy(4), Script::default());
    let before: Vec<WorkerId> = sim.alive.keys().copied().collect();
    sim.gone = true;
    sim.request(2, Request::Rollback);
    sim.run(ms(5_000));
    let text = told(&sim, 2);
    assert!(
        text.contains("generation 1: /srv/app/releases/1 is gone"),
        "{text}"
    );
    assert!(sim.alive.keys().eq(&before));
    assert_eq!(sim.core.state(), ClusterState::Running);
    // Should it be there again, it works.
    sim.gone = false;
    sim.request(3, Request::Rollback);
    sim.run(ms(5_000));
    assert!(sim.reply(3).is_some_and(Result::is_ok));
}

#[test]
fn a_rollback_during_a_reload_undoes_it() {
    // Its configuration being read, its canary starting, on trial, one slot replaced.
    for wait in [0, 50, 400, 650, 750] {
        let mut sim = second(policy(4), Script::default());
        sim.request(2, Request::Reload);
        sim.run(ms(wait));
        sim.request(3, Request::Reload);
        sim.request(4, Request::Rollback);
        if wait > 600 {
            // What was asked for is still being done.
            sim.request(5, Request::Rollback);
        }
        sim.run(ms(5_000));
        assert!(told(&sim, 2).contains("generation 3 was taken back"));
        assert_eq!(sim.reply(3), Some(&Err(Failure::Superseded)));
        for id in 4..=4 + u64::from(wait > 600) {
            let done = sim.reply(id).expect("an answer").as_ref().expect("done");
            assert!(matches!(done, Done::TakenBack { serving, .. } if serving.0 == 2));
        }
        assert_eq!(sim.ready_generations(), [2, 2, 2, 2], "after {wait} ms");
        assert_eq!(sim.alive.len(), 4);
        // The older one is as good as before.
        sim.request(6, Request::Rollback);
        sim.run(ms(5_000));
        assert_eq!(sim.core.rolled_back().map(|back| back.to.0), Some(1));
    }
}

#[test]
fn two_who_ask_for_a_rollback_go_back_once() {
    let mut sim = second(policy(4), Script::default());
    sim.request(2, Request::Rollback);
    sim.run(ms(100));
    sim.request(3, Request::Rollback);
    sim.run(ms(5_000));
    assert_eq!(sim.reply(2), sim.reply(3));
    assert_eq!(sim.ready_generations(), [3, 3, 3, 3]);
}

#[test]
fn a_rollback_takes_back_what_was_held() {
    let mut p = policy(4);
    p.on_failure = OnFailure::Hold;
    let mut sim = running(Ok((p, Script::default())));
    sim.request(1, Request::Reload);
    while sim.ready_generations() != [2, 2, 1, 1] {
        assert!(sim.turn());
    }
    let starting = |w: &&Worker| w.state == WorkerState::Starting;
    while sim.core.workers().find(starting).is_none() {
        assert!(sim.turn());
    }
    let third = sim.core.workers().find(starting).expect("a worker").id;
    sim.crash(third, Exit::Code(1));
    sim.run(ms(5_000));
    assert_eq!(sim.ready_generations(), [2, 2, 1, 1]);
    sim.request(2, Request::Rollback);
    sim.run(ms(5_000));
    let taken = Some(&Ok(Done::TakenBack {
        generation: GenerationId(2),
        serving: GenerationId(1),
        took: ms(100),
    }));
    assert_eq!(sim.reply(2), taken);
    assert_eq!(sim.ready_generations(), [1, 1, 1, 1]);
}

#[test]
fn a_rollback_that_fails_leaves_the_newer_generation_untouched() {
    let mut sim = second(policy(4), Script::default());
    let before: Vec<WorkerId> = sim.alive.keys().copied().collect();
    sim.scripts.insert(GenerationId(1), failing(10));
    sim.request(2, Request::Rollback);
    sim.run(ms(5_000));
    assert!(told(&sim, 2).contains("generation 2 serves on, untouched"));
    assert!(sim.alive.keys().eq(&before));
}

#[test]
fn a_generation_that_was_replaced_soon_is_good_if_nothing_had_failed() {
    for (crash, back_to) in [(false, 2), (true, 1)] {
        let mut sim = second(policy(4), Script::default());
        sim.watch = |_| {};
        if crash {
            let worker = sim.serving(0).expect("a worker").id;
            sim.crash(worker, Exit::Signal(11));
        }
        sim.run(ms(1_000));
        reload(&mut sim, 2, policy(4), Script::default());
        sim.request(3, Request::Rollback);
        sim.run(ms(5_000));
        assert_eq!(sim.core.rolled_back().map(|back| back.to.0), Some(back_to));
    }
    // With time one crash is borne.
    let mut sim = second(policy(4), Script::default());
    sim.watch = |_| {};
    let worker = sim.serving(0).expect("a worker").id;
    sim.crash(worker, Exit::Signal(11));
    sim.run(ms(70_000));
    reload(&mut sim, 2, policy(4), Script::default());
    sim.request(3, Request::Rollback);
    sim.run(ms(5_000));
    assert_eq!(sim.core.rolled_back().map(|back| back.to.0), Some(2));
}

#[test]
fn the_number_of_workers_that_was_scaled_to_holds_over_a_rollback() {
    let mut sim = second(policy(4), Script::default());
    sim.watch = |_| {};
    let source = "a file".to_owned();
    let what = Request::Configured { workers: 5, source };
    sim.request(2, what);
    sim.run(ms(2_000));
    sim.request(3, Request::Rollback);
    sim.run(ms(5_000));
    assert_eq!(sim.ready_generations(), [3; 5]);
    assert_eq!(sim.core.desired_workers(), (5, "a file".to_owned()));
}

#[test]
fn the_number_of_workers_of_an_older_generation_is_not_what_files_say_now() {
    let other = Policy {
        workers_source: "another file".to_owned(),
        ..policy(6)
    };
    let mut sim = second(other, Script::default());
    sim.watch = |_| {};
    assert_eq!(sim.core.desired_workers(), (6, "another file".to_owned()));
    sim.request(2, Request::Rollback);
    sim.run(ms(5_000));
    let source = "test, as in generation 1".to_owned();
    assert_eq!(sim.core.desired_workers(), (4, source));
}

#[test]
fn a_share_of_the_slots_is_rounded_up() {
    for (share, slots, count) in [
        (25, 8, 2),
        (25, 9, 3),
        (25, 1, 1),
        (1, 6, 1),
        (100, 6, 6),
        (50, 3, 2),
    ] {
        assert_eq!(
            Batch::Percent(share).of(slots),
            count,
            "{share}% of {slots}"
        );
    }
    let mut p = policy(8);
    p.batch = Batch::Percent(25);
    let mut sim = Sim::new(policy(8), Script::default());
    sim.run(ms(1_000));
    sim.configs = VecDeque::from([Ok((p, Script::default()))]);
    sim.request(1, Request::Reload);
    let mut most = 0;
    while sim.reply(1).is_none() {
        let starting = |w: &&Worker| w.state == WorkerState::Starting;
        most = most.max(sim.core.workers().filter(starting).count());
        assert!(sim.turn());
    }
    assert_eq!(most, 2);
}

/// "It is back" is said of workers that are ready, not of slots that were given back.
#[test]
fn a_rollback_that_leaves_slots_without_a_worker_is_no_success() {
    for (broken, again) in [
        (true, "0 of 2 are ready again"),
        (false, "was started again"),
    ] {
        let mut sim = Sim::new(policy(2), Script::default());
        sim.run(ms(1_000));
        let hangs = Script {
            ready: None,
            ..Script::default()
        };
        sim.configs = VecDeque::from([Ok((policy(2), hangs))]);
        sim.request(1, Request::Restart);
        sim.run(ms(1_000));
        if broken {
            sim.scripts.insert(GenerationId(1), failing(10));
        }
        sim.request(2, Request::Rollback);
        sim.run(ms(5_000));
        assert!(told(&sim, 1).contains(again), "{}", told(&sim, 1));
        if !broken {
            assert!(matches!(sim.reply(2), Some(Ok(Done::TakenBack { .. }))));
            continue;
        }
        let text = told(&sim, 2);
        for slot in 0..2 {
            let lacks = format!("slot {slot} has no ready worker: that of generation 1 exit");
            assert!(text.contains(&lacks), "{text}");
        }
        assert!(
            text.contains("before it was ready; its slot keeps trying"),
            "{text}"
        );
    }
}
