// SPDX-License-Identifier: MIT OR Apache-2.0
//! Start, crash, back-off, scale, stop.

use super::*;

fn backoffs(sim: &Sim) -> Vec<u128> {
    let delays = sim.log.iter().filter_map(|t| match t {
        Transition::Backoff { delay, .. } => Some(delay.as_millis()),
        _ => None,
    });
    delays.collect()
}

#[test]
fn starts_all_and_says_ready_when_every_slot_has_been() {
    let mut sim = Sim::new(policy(4), Script::default());
    assert_eq!(sim.core.status_line(), "starting: 0/4 ready");
    sim.run(ms(99));
    assert_eq!(sim.said_ready, None);
    sim.run(ms(1));
    assert_eq!(sim.said_ready, Some(sim.now));
    assert_eq!(sim.core.status_line(), "4/4 ready, generation 1");
    sim.run(ms(3_600_000));
    assert_eq!(
        sim.core.next_deadline(),
        None,
        "an idle supervisor waits for nothing"
    );
}

#[test]
fn first_start_that_fails_ends_with_the_cause_not_before_a_second() {
    let script = Script {
        exits: Some((ms(20), Exit::Code(1))),
        ready: None,
        ..Script::default()
    };
    let mut sim = Sim::new(policy(3), script);
    let began = sim.now;
    sim.run(ms(5_000));
    let (at, outcome) = sim.exit.clone().expect("it ended");
    assert_eq!(at, began + ms(1_000));
    let Outcome::StartFailed(blame) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(
        blame.to_string(),
        "the worker of slot 0 (pid 1001) exited with status 1 before it was ready"
    );
    assert_eq!(sim.said_ready, None);
}

#[test]
fn first_start_with_one_bad_slot_is_ready_but_degraded() {
    let mut sim = Sim::new(policy(2), Script::default());
    sim.run(ms(50));
    sim.crash(WorkerId(2), Exit::Code(3));
    sim.scripts.insert(
        GenerationId(1),
        Script {
            ready: None,
            ..Script::default()
        },
    );
    sim.run(ms(60));
    assert!(sim.said_ready.is_some());
    assert_eq!(
        sim.core.status_line(),
        "degraded: 1/2 ready; slot 1: exited with status 3 before it was ready"
    );
}

#[test]
fn never_ready_by_default_is_a_start_timeout() {
    let mut p = policy(1);
    p.ready = Ready::Auto;
    let script = Script {
        ready: None,
        ..Script::default()
    };
    let mut sim = Sim::new(p, script);
    sim.run(ms(6_000));
    let Some((_, Outcome::StartFailed(blame))) = &sim.exit else {
        panic!("{:?}", sim.exit);
    };
    assert!(matches!(blame.cause, Cause::StartTimeout { .. }));
}

#[test]
fn delay_counts_from_the_start_and_ends_with_a_crash() {
    let mut p = policy(1);
    p.ready = Ready::Delay(ms(1_000));
    let script = Script {
        ready: None,
        ..Script::default()
    };
    let mut sim = Sim::new(p, script);
    sim.run(ms(999));
    assert_eq!(sim.said_ready, None);
    sim.run(ms(1));
    assert!(sim.said_ready.is_some());
}

#[test]
fn a_crash_is_replaced_at_once_then_with_growing_pauses_then_recovers() {
    let mut sim = Sim::new(policy(2), Script::default());
    sim.run(ms(1_000));
    for _ in 0..4 {
        let id = sim.serving(1).expect("ready").id;
        sim.crash(id, Exit::Signal(11));
        sim.run(ms(1_000));
    }
    let delays = backoffs(&sim);
    assert_eq!(delays.len(), 3, "the first crash costs no pause");
    assert!((100..=100).contains(&delays[0]), "{delays:?}");
    assert!((150..=200).contains(&delays[1]), "{delays:?}");
    assert!((300..=400).contains(&delays[2]), "{delays:?}");
    assert_eq!(sim.core.slots()[1].crashes, 4);
    sim.run(ms(2_000));
    assert_eq!(sim.core.slots()[1].crashes, 0, "ready for backoff_max");
    assert_eq!(sim.core.slots()[1].restarts, 4);
}

#[test]
fn over_budget_is_degraded_at_the_longest_pause_and_recovery_clears_it() {
    let mut sim = Sim::new(policy(2), Script::default());
    sim.run(ms(1_000));
    for _ in 0..11 {
        let id = sim.serving(0).expect("ready").id;
        sim.crash(id, Exit::Code(1));
        let line = sim.core.status_line();
        assert!(sim.serving(1).is_some(), "the other slot serves on: {line}");
        sim.run(ms(2_100));
    }
    let line = "degraded: 2/2 ready; slot 0: exited with status 1; \
                11 crashes within 60s are too many";
    // The eleventh was a moment ago, its replacement is up but not proven.
    assert_eq!(sim.core.status_line(), line);
    assert!(*backoffs(&sim).last().expect("a pause") >= 1_500);
    sim.run(ms(2_000));
    assert_eq!(sim.core.status_line(), "2/2 ready, generation 1");
}

#[test]
fn restart_policies() {
    let cases = [
        (Restart::Always, vec![], Exit::Code(0), true),
        (Restart::Always, vec![7], Exit::Code(7), false),
        (Restart::Always, vec![7], Exit::Code(8), true),
        (Restart::OnFailure, vec![], Exit::Code(0), false),
        (Restart::OnFailure, vec![], Exit::Code(1), true),
        (Restart::OnFailure, vec![], Exit::Signal(9), true),
        (Restart::Never, vec![], Exit::Signal(9), false),
    ];
    for (restart, stop_exit_codes, exit, comes_back) in cases {
        let mut p = policy(1);
        (p.restart, p.stop_exit_codes) = (restart, stop_exit_codes);
        let mut sim = Sim::new(p, Script::default());
        sim.run(ms(1_000));
        sim.crash(WorkerId(1), exit);
        sim.run(ms(10_000));
        assert_eq!(sim.serving(0).is_some(), comes_back, "{restart:?} {exit}");
    }
}

#[test]
fn stop_drains_all_at_once_and_kills_exactly_at_the_deadline() {
    let stubborn = Script {
        drains: None,
        ..Script::default()
    };
    let mut sim = Sim::new(policy(3), stubborn);
    sim.run(ms(1_000));
    let asked = sim.now;
    sim.request(1, Request::Stop);
    assert_eq!(sim.signalled.len(), 3);
    sim.run(ms(2_999));
    assert!(sim.killed.is_empty());
    sim.run(ms(10));
    assert!(sim.killed.values().all(|at| *at == asked + ms(3_000)));
    assert_eq!(sim.reply(1), Some(&Ok(Done::Stopped)));
    assert_eq!(sim.exit.as_ref().map(|e| &e.1), Some(&Outcome::Stopped));
}

#[test]
fn stop_now_kills_without_a_wait() {
    let mut sim = Sim::new(policy(3), Script::default());
    sim.run(ms(1_000));
    sim.request(1, Request::Stop);
    sim.request(2, Request::StopNow);
    assert_eq!(sim.killed.len(), 3);
    sim.run(ms(10));
    assert_eq!(sim.reply(2), Some(&Ok(Done::Stopped)));
}

#[test]
fn extend_timeout_is_honoured_within_bounds() {
    let script = Script {
        ready: None,
        ..Script::default()
    };
    let mut sim = Sim::new(policy(1), script);
    sim.run(ms(4_000));
    let what = Notification::ExtendTimeout(ms(3_000));
    let worker = WorkerId(1);
    sim.event(Event::Notified { worker, what });
    sim.run(ms(2_000));
    assert!(sim.exit.is_none() && sim.signalled.is_empty());
    let forever = Notification::ExtendTimeout(Duration::from_secs(u64::MAX));
    sim.event(Event::Notified {
        worker,
        what: forever,
    });
    sim.run(ms(60_000));
    assert!(sim.exit.is_some(), "ten times its start_timeout is the end");
}

#[test]
fn a_worker_that_leaves_by_itself_is_no_crash_but_never_spins() {
    let mut sim = Sim::new(policy(1), Script::default());
    sim.run(ms(1_000));
    for _ in 0..5 {
        let worker = sim.serving(0).expect("ready").id;
        let what = Notification::Stopping;
        sim.event(Event::Notified { worker, what });
        sim.crash(worker, Exit::Code(0));
        sim.run(ms(1_500));
    }
    assert_eq!(backoffs(&sim).len(), 4);
    let failed = |t: &&Transition| matches!(t, Transition::Failed { .. });
    assert_eq!(sim.log.iter().filter(failed).count(), 0);
}

#[test]
fn scale_up_and_down_answers_when_it_is_so() {
    let mut sim = Sim::new(policy(2), Script::default());
    sim.run(ms(1_000));
    sim.request(1, Request::Scale(Scale::By(3)));
    assert_eq!(sim.reply(1), None);
    sim.run(ms(100));
    assert_eq!(sim.reply(1), Some(&Ok(Done::Scaled { workers: 5 })));
    sim.request(2, Request::Scale(Scale::To(1)));
    assert_eq!(sim.signalled.len(), 4);
    sim.run(ms(1_000));
    assert_eq!(sim.reply(2), Some(&Ok(Done::Scaled { workers: 1 })));
    assert_eq!((sim.core.slots().len(), sim.alive.len()), (1, 1));
    sim.request(3, Request::Scale(Scale::By(-1)));
    assert!(matches!(sim.reply(3), Some(Err(Failure::BadCount(_)))));
    sim.request(4, Request::Scale(Scale::To(MAX_WORKERS + 1)));
    assert!(matches!(sim.reply(4), Some(Err(Failure::BadCount(_)))));
}

#[test]
fn a_number_that_the_configuration_says_holds_until_it_says_another() {
    let mut sim = Sim::new(policy(2), Script::default());
    sim.run(ms(1_000));
    let source = "workers = 5 (a file)".to_owned();
    let configured = Request::Configured {
        workers: 5,
        source: source.clone(),
    };
    sim.request(1, Request::Scale(Scale::To(3)));
    sim.request(2, configured);
    sim.run(ms(100));
    assert_eq!(sim.reply(2), Some(&Ok(Done::Scaled { workers: 5 })));
    assert_eq!(sim.core.desired_workers(), (5, source));
    // A release that fails leaves it as it is.
    let broken = Script {
        unspawnable: true,
        ..Script::default()
    };
    let next = [broken, Script::default()].map(|script| Ok((policy(2), script)));
    sim.configs = next.into();
    sim.request(3, Request::Reload);
    sim.run(ms(1_000));
    assert!(matches!(
        sim.reply(3),
        Some(Err(Failure::GenerationFailed { .. }))
    ));
    assert_eq!(sim.core.desired_workers().0, 5);
    assert_eq!(sim.alive.len(), 5);
    // The next one brings its own.
    sim.request(4, Request::Reload);
    sim.run(ms(10_000));
    assert!(matches!(sim.reply(4), Some(Ok(_))));
    assert_eq!(sim.core.desired_workers().0, 2);
}

#[test]
fn scale_up_with_a_worker_that_fails_is_told() {
    let mut sim = Sim::new(policy(1), Script::default());
    sim.run(ms(1_000));
    let broken = Script {
        unspawnable: true,
        ..Script::default()
    };
    sim.scripts.insert(GenerationId(1), broken);
    sim.request(1, Request::Scale(Scale::To(2)));
    sim.run(ms(10));
    assert!(matches!(sim.reply(1), Some(Err(Failure::WorkerFailed(_)))));
    assert_eq!(sim.serving(0).map(|w| w.id), Some(WorkerId(1)));
}

#[test]
fn replace_starts_the_new_one_first() {
    let mut sim = Sim::new(policy(2), Script::default());
    sim.run(ms(1_000));
    sim.request(1, Request::Replace(SlotId(1)));
    assert_eq!(sim.signalled.len(), 0);
    sim.run(ms(200));
    assert_eq!(sim.reply(1), Some(&Ok(Done::Replaced { slot: SlotId(1) })));
    assert_eq!(sim.signalled.keys().collect::<Vec<_>>(), [&WorkerId(2)]);
    sim.request(2, Request::Replace(SlotId(2)));
    assert_eq!(sim.reply(2), Some(&Err(Failure::NoSuchSlot(SlotId(2)))));
}

#[test]
fn scale_is_answered_although_another_slot_fails() {
    let mut sim = Sim::new(policy(2), Script::default());
    sim.run(ms(1_000));
    let never = Script {
        ready: None,
        exits: Some((ms(10), Exit::Code(1))),
        ..Script::default()
    };
    sim.scripts.insert(GenerationId(1), never);
    sim.crash(WorkerId(1), Exit::Code(1));
    sim.run(ms(50));
    sim.scripts.insert(GenerationId(1), Script::default());
    sim.request(1, Request::Scale(Scale::To(3)));
    sim.run(ms(200));
    assert_eq!(sim.reply(1), Some(&Ok(Done::Scaled { workers: 3 })));
}

#[test]
fn a_worker_that_leaves_by_itself_may_stay_away() {
    let mut p = policy(1);
    p.restart = Restart::OnFailure;
    let mut sim = Sim::new(p, Script::default());
    sim.run(ms(1_000));
    for (exit, comes_back) in [(Exit::Code(1), true), (Exit::Code(0), false)] {
        let worker = sim.serving(0).expect("ready").id;
        let what = Notification::Stopping;
        sim.event(Event::Notified { worker, what });
        sim.run(ms(500));
        assert_eq!(sim.alive.len(), 1, "its end decides");
        sim.crash(worker, exit);
        sim.run(ms(5_000));
        assert_eq!(sim.serving(0).is_some(), comes_back, "{exit}");
    }
}

/// The supervisor stood still for longer than a worker needed to start.
#[test]
fn one_last_look_before_a_start_has_failed() {
    let mut p = policy(1);
    p.ready = Ready::Accepting;
    let mut core = Supervisor::new(p, 1);
    core.handle(Time(1_000_000), Event::Begin);
    let late = Time(60_000_000);
    let actions = core.handle(late, Event::Wake);
    let worker = WorkerId(1);
    assert!(actions.contains(&Action::Probe { worker }), "{actions:?}");
    let ready = true;
    core.handle(late, Event::Probed { worker, ready });
    assert_eq!(core.status_line(), "1/1 ready, generation 1");
}

#[test]
fn two_replacements_of_one_slot_leave_one_worker() {
    let mut sim = Sim::new(policy(1), Script::default());
    sim.run(ms(1_000));
    sim.request(1, Request::Replace(SlotId(0)));
    sim.run(ms(50));
    sim.request(2, Request::Replace(SlotId(0)));
    sim.run(ms(10));
    sim.crash(WorkerId(2), Exit::Code(1));
    sim.run(ms(5_000));
    assert!(
        sim.reply(2).is_some_and(Result::is_ok),
        "{:?}",
        sim.reply(2)
    );
    assert_eq!(sim.alive.len(), 1);
}

#[test]
fn stop_during_a_failed_start_is_no_failure_and_no_wait() {
    let script = Script {
        exits: Some((ms(20), Exit::Code(1))),
        ready: None,
        ..Script::default()
    };
    let mut sim = Sim::new(policy(1), script);
    sim.run(ms(100));
    sim.request(1, Request::Stop);
    assert_eq!(sim.exit.as_ref().map(|e| &e.1), Some(&Outcome::Stopped));
    assert_eq!(sim.reply(1), Some(&Ok(Done::Stopped)));
}
