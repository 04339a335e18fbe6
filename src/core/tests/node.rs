// SPDX-License-Identifier: MIT OR Apache-2.0
//! Workers that are asked over a channel: drain, liveness, readiness.

use super::*;

fn rules() -> Policy {
    Policy {
        drains: true,
        drain_timeout: ms(20_000),
        hung_timeout: Some(ms(30_000)),
        ..policy(1)
    }
}

/// One worker that serves; whoever is signalled exits after 50 ms.
fn served(rules: Policy) -> (Sim, WorkerId) {
    let mut sim = Sim::new(rules, Script::default());
    sim.run(ms(1_000));
    let worker = sim.serving(0).expect("a worker").id;
    (sim, worker)
}

fn retire(sim: &mut Sim) -> Vec<Action> {
    let from = None;
    sim.core.handle(
        sim.now,
        Event::Requested {
            from,
            what: Request::Stop,
        },
    )
}

fn signalled(actions: &[Action]) -> bool {
    actions.iter().any(|a| matches!(a, Action::Signal { .. }))
}

#[test]
fn a_worker_is_asked_to_drain_and_signalled_when_it_has() {
    let (mut sim, worker) = served(rules());
    let asked = retire(&mut sim);
    let drain = Action::Drain {
        worker,
        within: ms(15_000),
        hurry: true,
    };
    assert!(asked.contains(&drain) && !signalled(&asked), "{asked:?}");
    let grace = ms(0);
    let now = sim.core.handle(sim.now, Event::Drained { worker, grace });
    assert!(signalled(&now), "{now:?}");
    // It never gets it twice.
    let again = sim.core.handle(sim.now, Event::Drained { worker, grace });
    assert!(!signalled(&again), "{again:?}");
    let end = sim.now + ms(20_000);
    assert_eq!(sim.core.next_deadline(), Some(end), "SIGKILL");
}

#[test]
fn one_that_may_end_by_itself_is_given_a_moment() {
    let (mut sim, worker) = served(rules());
    retire(&mut sim);
    let grace = ms(500);
    let now = sim.core.handle(sim.now, Event::Drained { worker, grace });
    assert!(!signalled(&now), "{now:?}");
    let later = sim.now + grace;
    assert_eq!(sim.core.next_deadline(), Some(later));
    assert!(signalled(&sim.core.handle(later, Event::Wake)));
}

#[test]
fn one_that_never_drains_is_signalled_and_then_killed() {
    let (mut sim, worker) = served(rules());
    retire(&mut sim);
    let began = sim.now;
    assert!(signalled(&sim.core.handle(began + ms(15_000), Event::Wake)));
    let killed = sim.core.handle(began + ms(20_000), Event::Wake);
    assert!(killed.contains(&Action::Kill { worker }), "{killed:?}");
}

#[test]
fn a_blocked_worker_that_answers_is_kept_and_one_that_does_not_is_replaced() {
    let (mut sim, worker) = served(rules());
    let since = ms(1_000);
    sim.event(Event::Blocked { worker, since });
    sim.run(ms(5_000));
    sim.event(Event::Answered { worker });
    let told = sim.log.last();
    let after = ms(6_000);
    assert!(
        matches!(told, Some(Transition::Answered { after: a, .. }) if *a == after),
        "{told:?}"
    );
    sim.run(ms(60_000));
    assert_eq!(sim.serving(0).map(|w| w.id), Some(worker));

    sim.event(Event::Blocked { worker, since });
    sim.run(ms(28_900));
    assert_eq!(sim.serving(0).map(|w| w.id), Some(worker));
    sim.run(ms(1_000));
    assert!(sim.killed.contains_key(&worker));
    assert!(sim.serving(0).is_some_and(|w| w.id != worker));
}

#[test]
fn only_what_was_asked_for_makes_ready() {
    for (ready, what, counts) in [
        (Ready::Listening, Notification::Listening, true),
        (Ready::Listening, Notification::Ready, false),
        (Ready::Listening, Notification::SaidReady, false),
        (Ready::Message, Notification::SaidReady, true),
        (Ready::Message, Notification::Listening, false),
        (Ready::Notify, Notification::Listening, false),
    ] {
        let script = Script {
            ready: None,
            ..Script::default()
        };
        let mut sim = Sim::new(
            Policy {
                ready: ready.clone(),
                ..rules()
            },
            script,
        );
        sim.run(ms(10));
        let worker = WorkerId(1);
        sim.event(Event::Notified {
            worker,
            what: what.clone(),
        });
        assert_eq!(sim.serving(0).is_some(), counts, "{ready:?} {what:?}");
    }
}

/// What it does when it is settled is not done by one that does not answer.
#[test]
fn a_canary_counts_when_it_answers_and_not_before() {
    let (mut sim, old) = served(rules());
    sim.request(1, Request::Reload);
    sim.run(ms(200));
    let canary = sim.serving(0).map(|w| w.id).filter(|id| *id != old);
    let newest = sim.core.workers().map(|w| w.id).max();
    let worker = canary.or(newest).expect("a canary");
    assert_ne!(worker, old);
    let drains = |actions: &[Action]| {
        let old = |a: &Action| matches!(a, Action::Drain { worker, .. } if *worker == old);
        actions.iter().any(old)
    };
    // An answer to another question, too early.
    let early = sim.core.handle(sim.now, Event::Alive { worker });
    assert!(!drains(&early), "{early:?}");
    let due = sim.core.next_deadline().expect("its time");
    let asked = sim.core.handle(due, Event::Wake);
    assert_eq!(asked, [Action::Ask { worker }]);
    let since = ms(1_000);
    let blocked = sim
        .core
        .handle(due + since, Event::Blocked { worker, since });
    let later = sim.core.handle(due + ms(4_000), Event::Wake);
    assert!(
        !drains(&blocked) && !drains(&later),
        "{blocked:?} {later:?}"
    );
    let answered = sim.core.handle(due + ms(4_000), Event::Alive { worker });
    assert!(drains(&answered), "{answered:?}");
}

/// It has said so itself: nobody asks it to drain, but its clean-up has its turn.
#[test]
fn one_that_leaves_by_itself_is_signalled_before_it_is_killed() {
    let what = Notification::Stopping;
    let (mut sim, worker) = served(rules());
    let left = sim.core.handle(sim.now, Event::Notified { worker, what });
    assert!(!signalled(&left), "{left:?}");
    let began = sim.now;
    assert!(signalled(&sim.core.handle(began + ms(15_000), Event::Wake)));
    let killed = sim.core.handle(began + ms(20_000), Event::Wake);
    assert!(killed.contains(&Action::Kill { worker }), "{killed:?}");

    let what = Notification::Stopping;
    let (mut sim, worker) = served(rules());
    sim.core.handle(sim.now, Event::Notified { worker, what });
    let grace = ms(0);
    let done = sim.core.handle(sim.now, Event::Drained { worker, grace });
    assert!(signalled(&done), "{done:?}");
}

#[test]
fn a_canary_that_never_answers_fails_the_rollout_however_long_others_may_be_hung() {
    let patient = Policy {
        hung_timeout: None,
        ..rules()
    };
    let (mut sim, _) = served(patient.clone());
    sim.request(1, Request::Reload);
    sim.run(ms(200));
    let worker = sim.core.workers().map(|w| w.id).max().expect("a canary");
    let due = sim.core.next_deadline().expect("its time");
    let asked = sim.core.handle(due, Event::Wake);
    assert_eq!(asked, [Action::Ask { worker }]);
    let since = ms(1_000);
    let told = Event::Blocked { worker, since };
    sim.core.handle(due + since, told);
    let over = sim.core.handle(due + ms(5_000), Event::Wake);
    assert!(over.contains(&Action::Kill { worker }), "{over:?}");
    let failed = |a: &Action| matches!(a, Action::Announce(Transition::Failed { .. }));
    assert!(over.iter().any(failed), "{over:?}");

    let (mut sim, old) = served(patient);
    let since = ms(1_000);
    sim.event(Event::Blocked { worker: old, since });
    sim.run(ms(100_000));
    assert_eq!(sim.serving(0).map(|w| w.id), Some(old));
}

#[test]
fn one_that_was_kept_though_it_failed_is_told_of_when_it_hangs() {
    let (mut sim, worker) = served(rules());
    sim.core.workers.get_mut(&worker).expect("there").failed = true;
    let since = ms(1_000);
    sim.event(Event::Blocked { worker, since });
    let at = sim.now + ms(29_000);
    let over = sim.core.handle(at, Event::Wake);
    let told = |a: &Action| matches!(a, Action::Announce(Transition::Failed { blame, .. }) if matches!(blame.cause, Cause::Hung { .. }));
    assert!(over.iter().any(told), "{over:?}");
    assert!(over.contains(&Action::Kill { worker }), "{over:?}");
}
