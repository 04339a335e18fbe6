// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reload, restart, and what can go wrong in them.

use super::*;

pub(super) fn never_fewer_ready(sim: &Sim) {
    let (desired, _) = sim.core.desired_workers();
    assert!(
        sim.said_ready.is_none() || sim.core.ready_workers() >= desired,
        "{} at {:?}",
        sim.core.status_line(),
        sim.now
    );
}

/// Four ready workers and a new configuration to come.
pub(super) fn running(next: Config) -> Sim {
    let mut sim = Sim::new(policy(4), Script::default());
    sim.run(ms(1_000));
    sim.configs = VecDeque::from([next]);
    sim.watch = never_fewer_ready;
    sim
}

pub(super) fn failing(exit_after: u64) -> Script {
    Script {
        exits: Some((ms(exit_after), Exit::Code(1))),
        ready: Some(ms(100)),
        ..Script::default()
    }
}

fn generation_failed(sim: &Sim, id: u64) -> String {
    match sim.reply(id) {
        Some(Err(failure @ Failure::GenerationFailed { .. })) => failure.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn reload_replaces_slot_by_slot_after_the_canary() {
    let mut sim = running(Ok((policy(4), Script::default())));
    sim.request(1, Request::Reload);
    sim.run(ms(500));
    assert_eq!(sim.alive.len(), 5, "one canary, beside the old worker");
    assert_eq!(sim.signalled.len(), 0, "which goes on accepting");
    sim.run(ms(110));
    assert_eq!(sim.signalled.len(), 1);
    sim.run(ms(500));
    let took = ms(1 + 100 + 500 + 300);
    let done = Done::Generation {
        generation: GenerationId(2),
        back_to: None,
        workers: 4,
        took,
    };
    assert_eq!(sim.reply(1), Some(&Ok(done)));
    assert_eq!(sim.ready_generations(), [2, 2, 2, 2]);
    sim.run(ms(100));
    assert_eq!(sim.alive.len(), 4);
}

#[test]
fn a_batch_replaces_so_many_at_a_time_after_the_canary() {
    let mut p = policy(4);
    p.batch = Batch::Count(3);
    let mut sim = running(Ok((p, Script::default())));
    sim.request(1, Request::Reload);
    sim.run(ms(602));
    assert_eq!(sim.alive.len(), 4 + 3 + 1);
    sim.run(ms(100));
    assert!(sim.reply(1).is_some_and(Result::is_ok));
}

#[test]
fn max_draining_holds_the_rollout_back() {
    let mut p = policy(4);
    (p.max_draining, p.drain_timeout) = (Some(1), ms(60_000));
    let slow = Script {
        drains: Some(ms(2_000)),
        ..Script::default()
    };
    let mut sim = Sim::new(policy(4), slow.clone());
    sim.run(ms(1_000));
    sim.configs = VecDeque::from([Ok((p, slow))]);
    sim.request(1, Request::Reload);
    for _ in 0..100 {
        sim.run(ms(100));
        let draining = |w: &&Worker| w.state == WorkerState::Draining;
        assert!(sim.core.workers().filter(draining).count() <= 1);
    }
    assert!(sim.reply(1).is_some_and(Result::is_ok));
}

#[test]
fn a_bad_configuration_changes_nothing() {
    let mut sim = running(Err("app.toml:3:1: unknown key".to_owned()));
    sim.request(1, Request::Reload);
    sim.run(ms(5_000));
    let told = Failure::ConfigInvalid("app.toml:3:1: unknown key".to_owned());
    assert_eq!(sim.reply(1), Some(&Err(told)));
    assert_eq!(sim.alive.len(), 4);
    assert_eq!(sim.core.state(), ClusterState::Running);
}

#[test]
fn a_release_that_fails_leaves_the_old_one_untouched() {
    let never = Script {
        ready: None,
        ..Script::default()
    };
    let unspawnable = Script {
        unspawnable: true,
        ..Script::default()
    };
    // At start, within the canary time, never ready, not even spawned.
    for script in [failing(10), failing(400), never, unspawnable] {
        let mut sim = running(Ok((policy(4), script)));
        sim.request(1, Request::Reload);
        sim.run(ms(20_000));
        let told = generation_failed(&sim, 1);
        assert!(told.contains("generation 1 serves on, untouched"), "{told}");
        let ids: Vec<u64> = sim.alive.keys().map(|w| w.0).collect();
        assert_eq!(ids, [1, 2, 3, 4], "the very same workers");
        assert!(sim.signalled.keys().all(|w| w.0 > 4));
    }
}

/// The new generation's third worker fails at its start.
/// Nobody is told that a slot waits for an attempt that will not be made.
#[test]
fn a_failed_reload_makes_no_slot_wait() {
    let mut sim = running(Ok((policy(4), failing(50))));
    sim.request(1, Request::Reload);
    sim.run(ms(5_000));
    generation_failed(&sim, 1);
    let waits = |t: &&Transition| matches!(t, Transition::Backoff { .. });
    assert_eq!(sim.log.iter().find(waits), None);
    assert!(sim.core.slots().iter().all(|slot| slot.crashes == 0));
}

fn third_fails(on_failure: OnFailure) -> Sim {
    let mut p = policy(4);
    p.on_failure = on_failure;
    let mut sim = running(Ok((p, Script::default())));
    sim.request(1, Request::Reload);
    while sim.ready_generations() != [2, 2, 1, 1] {
        assert!(sim.turn());
    }
    let third = *sim.alive.keys().max().expect("a worker");
    if sim.core.worker(third).map(|w| w.slot) != Some(SlotId(2)) {
        sim.turn();
    }
    let third = *sim.alive.keys().max().expect("a worker");
    sim.crash(third, Exit::Code(1));
    sim.run(ms(5_000));
    sim
}

#[test]
fn rollback_returns_the_slots_already_replaced() {
    let sim = third_fails(OnFailure::Rollback);
    let told = generation_failed(&sim, 1);
    assert!(told.contains("went back to generation 1"), "{told}");
    assert_eq!(sim.ready_generations(), [1, 1, 1, 1]);
    assert_eq!(sim.alive.len(), 4);
}

#[test]
fn hold_stops_where_it_is() {
    let sim = third_fails(OnFailure::Hold);
    let told = generation_failed(&sim, 1);
    assert!(told.contains("slot 1 stays on generation 2"), "{told}");
    assert_eq!(sim.ready_generations(), [2, 2, 1, 1]);
}

#[test]
fn rollback_that_cannot_start_the_old_code_keeps_the_new_worker() {
    let mut sim = running(Ok((policy(4), Script::default())));
    sim.request(1, Request::Reload);
    while sim.ready_generations() != [2, 1, 1, 1] {
        assert!(sim.turn());
    }
    let broken = Script {
        unspawnable: true,
        ..Script::default()
    };
    sim.scripts.insert(GenerationId(1), broken);
    let newest = *sim.alive.keys().max().expect("a worker");
    sim.crash(newest, Exit::Code(1));
    sim.run(ms(5_000));
    let told = generation_failed(&sim, 1);
    assert!(told.contains("slot 0 stays on generation 2"), "{told}");
    assert_eq!(sim.ready_generations(), [2, 1, 1, 1]);
}

#[test]
fn an_old_worker_that_crashes_during_a_rollout_is_replaced_by_its_own_generation() {
    let mut sim = running(Ok((policy(4), Script::default())));
    sim.watch = |_| {};
    sim.request(1, Request::Reload);
    sim.run(ms(200));
    sim.crash(WorkerId(4), Exit::Signal(11));
    sim.run(ms(110));
    assert_eq!(sim.serving(3).map(|w| w.generation.0), Some(1));
    sim.run(ms(5_000));
    assert_eq!(sim.ready_generations(), [2, 2, 2, 2]);
}

#[test]
fn reloads_during_a_reload_become_one() {
    let mut sim = running(Ok((policy(4), Script::default())));
    for id in 1..=4 {
        sim.request(id, Request::Reload);
        sim.run(ms(10));
    }
    sim.run(ms(10_000));
    for id in 1..=4 {
        assert!(sim.reply(id).is_some_and(Result::is_ok), "r{id}");
    }
    assert_eq!(sim.core.generation(), GenerationId(3));
}

#[test]
fn reload_before_the_first_start_is_over_waits_for_it() {
    let mut sim = Sim::new(policy(2), Script::default());
    sim.request(1, Request::Reload);
    assert_eq!(sim.core.state(), ClusterState::Starting);
    sim.run(ms(5_000));
    assert!(sim.reply(1).is_some_and(Result::is_ok));
}

#[test]
fn the_new_generation_may_have_more_or_fewer_workers() {
    for workers in [1, 2, 6] {
        let mut sim = running(Ok((policy(workers), Script::default())));
        sim.request(1, Request::Reload);
        sim.run(ms(10_000));
        assert!(sim.reply(1).is_some_and(Result::is_ok));
        assert_eq!(sim.ready_generations(), vec![2; workers as usize]);
        assert_eq!(sim.alive.len(), workers as usize);
    }
}

#[test]
fn stop_during_a_reload_answers_both() {
    let mut sim = running(Ok((policy(4), Script::default())));
    sim.watch = |_| {};
    sim.request(1, Request::Reload);
    sim.request(2, Request::Reload);
    sim.run(ms(300));
    sim.request(3, Request::Stop);
    sim.run(ms(5_000));
    assert_eq!(sim.reply(1), Some(&Err(Failure::Stopping)));
    assert_eq!(sim.reply(2), Some(&Err(Failure::Stopping)));
    assert_eq!(sim.reply(3), Some(&Ok(Done::Stopped)));
    assert!(sim.alive.is_empty());
}

#[test]
fn restart_never_runs_two_generations_side_by_side() {
    let mut sim = running(Ok((policy(4), Script::default())));
    sim.watch = |sim| {
        let mut generations: Vec<_> = sim.alive.values().collect();
        generations.dedup();
        assert!(generations.len() <= 1);
    };
    sim.request(1, Request::Restart);
    sim.run(ms(5_000));
    assert!(sim.reply(1).is_some_and(Result::is_ok));
    assert_eq!(sim.ready_generations(), [2, 2, 2, 2]);
}

#[test]
fn restart_into_a_bad_release_comes_back_with_the_old_one() {
    let mut sim = running(Ok((policy(4), failing(10))));
    sim.watch = |_| {};
    sim.request(1, Request::Restart);
    sim.run(ms(10_000));
    generation_failed(&sim, 1);
    assert_eq!(sim.ready_generations(), [1, 1, 1, 1]);
}

/// The old release does not start again either, and takes its time to fail: some slot is
/// always at it.
#[test]
fn a_restart_that_cannot_go_back_ends_all_the_same() {
    let mut p = policy(12);
    p.start_timeout = ms(30_000);
    let mut sim = Sim::new(p.clone(), Script::default());
    sim.run(ms(1_000));
    let slow = |ms_: u64| Script {
        ready: None,
        ..failing(ms_)
    };
    sim.scripts.insert(GenerationId(1), slow(22_000));
    sim.configs = VecDeque::from([Ok((p, failing(10)))]);
    sim.request(1, Request::Restart);
    // Their ends are spread, as those of real ones are.
    for n in 0..60_u64 {
        sim.run(ms(500));
        let script = slow(22_000 + n * 700 % 2_000);
        sim.scripts.insert(GenerationId(1), script);
        let starting = |w: &Worker| w.state == WorkerState::Starting;
        let young = sim.core.workers_where(starting);
        if n % 2 == 1
            && let Some(id) = young.get(n as usize / 2 % 12)
        {
            sim.crash(*id, Exit::Code(1));
        }
    }
    generation_failed(&sim, 1);
    assert_eq!(sim.core.state(), ClusterState::Running);
}

#[test]
fn restart_with_fewer_workers_ends() {
    for workers in [1, 6] {
        let mut sim = running(Ok((policy(workers), Script::default())));
        sim.watch = |_| {};
        sim.request(1, Request::Restart);
        sim.run(ms(10_000));
        assert!(sim.reply(1).is_some_and(Result::is_ok));
        assert_eq!(sim.alive.len(), workers as usize);
    }
}

#[test]
fn a_restart_that_fails_never_runs_two_generations_side_by_side_and_says_what_it_did() {
    let mut p = policy(4);
    p.drain_timeout = ms(60_000);
    let slow_to_end = Script {
        exits: None,
        ready: None,
        drains: Some(ms(2_000)),
        ..Script::default()
    };
    let mut sim = running(Ok((p, slow_to_end)));
    sim.watch = |sim| {
        let mut generations: Vec<_> = sim.alive.values().collect();
        generations.dedup();
        assert!(generations.len() <= 1, "{generations:?}");
    };
    sim.request(1, Request::Restart);
    sim.run(ms(20_000));
    let told = generation_failed(&sim, 1);
    assert!(told.contains("all workers had been stopped"), "{told}");
    assert_eq!(sim.ready_generations(), [1, 1, 1, 1]);
}

/// An old worker that ends for good by itself does not make its slot count as done.
#[test]
fn an_old_worker_that_stays_away_decides_nothing_for_the_new_one() {
    let mut p = policy(2);
    p.restart = Restart::OnFailure;
    let mut sim = Sim::new(p.clone(), Script::default());
    sim.run(ms(1_000));
    let never = Script {
        ready: None,
        ..Script::default()
    };
    sim.configs = VecDeque::from([Ok((p, never))]);
    sim.request(1, Request::Reload);
    sim.run(ms(50));
    sim.crash(WorkerId(1), Exit::Code(0));
    sim.run(ms(2_000));
    assert_eq!(sim.reply(1), None, "the new worker is not ready yet");
    sim.run(ms(20_000));
    generation_failed(&sim, 1);
}
