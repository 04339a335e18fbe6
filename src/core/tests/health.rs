// SPDX-License-Identifier: MIT OR Apache-2.0
//! Health, signs of life, and workers that serve on before a stop.

use super::*;

pub(super) fn rules(workers: u32) -> Policy {
    Policy {
        health: Some(Health {
            interval: ms(1_000),
            timeout: ms(500),
            failures: 3,
        }),
        ..policy(workers)
    }
}

fn bad() -> Verdict {
    Verdict::Bad("/health answered 500 Internal Server Error".to_owned())
}

fn not_ready() -> Verdict {
    Verdict::NotReady("/health answered 503 Service Unavailable".to_owned())
}

/// What a worker answers from these times on.
fn answering(all: &[(u64, Verdict)]) -> Script {
    Script {
        health: all.iter().map(|(at, v)| (ms(*at), v.clone())).collect(),
        ..Script::default()
    }
}

fn served(policy: Policy, script: Script) -> Sim {
    let mut sim = Sim::new(policy, script);
    sim.run(ms(2_000));
    sim
}

/// What is logged of a kind.
fn told<T>(sim: &Sim, kind: impl Fn(&Transition) -> Option<T>) -> Vec<T> {
    sim.log.iter().filter_map(kind).collect()
}

fn recycled(sim: &Sim) -> Vec<String> {
    told(sim, |t| match t {
        Transition::Recycled { why, .. } => Some(why.to_string()),
        _ => None,
    })
}

fn failed(sim: &Sim) -> Vec<String> {
    told(sim, |t| match t {
        Transition::Failed { blame, .. } => Some(blame.cause.to_string()),
        _ => None,
    })
}

/// Situations of the transition table.
pub(super) fn asked() -> [(&'static str, Sim); 3] {
    let question = |mut sim: Sim| {
        let worker = sim.core.workers().last().expect("a worker").id;
        sim.agenda.clear();
        sim.core.timers.set(Timer::Health(worker), sim.now);
        sim.core.handle(sim.now, Event::Wake);
        sim
    };
    let watched = |policy: Policy| Policy {
        watchdog: Some(ms(10_000)),
        ..policy
    };
    let one = |policy| Policy {
        health: Some(Health {
            interval: ms(1_000),
            timeout: ms(500),
            failures: 1,
        }),
        ..watched(policy)
    };
    let well = served(one(policy(1)), Script::default());
    let out = served(
        one(policy(1)),
        answering(&[(0, Verdict::Healthy), (1_000, not_ready())]),
    );
    let mut canary = served(policy(1), Script::default());
    canary.configs = VecDeque::from([Ok((one(policy(1)), answering(&[])))]);
    canary.request(1, Request::Reload);
    canary.run(ms(300));
    [
        ("ready (asked how it is)", question(well)),
        ("ready (out of the balance, asked how it is)", question(out)),
        ("ready (on trial, asked how it is)", question(canary)),
    ]
}

/// The same: an app that stops, and serves on for a while.
pub(super) fn leaving() -> Sim {
    let mut sim = served(delayed(2), Script::default());
    let what = Request::Stop;
    sim.event(Event::Requested { from: None, what });
    sim
}

fn delayed(workers: u32) -> Policy {
    Policy {
        pre_stop_delay: ms(5_000),
        ..policy(workers)
    }
}

#[test]
fn one_that_wants_no_traffic_is_out_until_it_does() {
    let script = answering(&[(3_000, not_ready()), (20_000, Verdict::Healthy)]);
    let mut sim = served(rules(2), script);
    let id = sim.serving(0).expect("a worker").id;
    assert_eq!(sim.serving(0).expect("a worker").not_ready, None);
    sim.run(ms(10_000));
    let worker = sim.serving(0).expect("a worker");
    assert!(worker.id == id && worker.not_ready.is_some());
    let said = worker.checkup.said.clone().unwrap_or_default();
    assert_eq!(said, "/health answered 503 Service Unavailable");
    sim.run(ms(10_000));
    let worker = sim.serving(0).expect("a worker");
    assert!(worker.id == id && worker.not_ready.is_none());
    assert_eq!((recycled(&sim).len(), failed(&sim).len()), (0, 0));
}

#[test]
fn one_that_is_not_well_is_replaced_its_replacement_first() {
    let mut sim = served(rules(2), Script::default());
    let old = sim.serving(0).expect("a worker").id;
    let script = answering(&[(6_000, bad())]);
    sim.scripts.insert(GenerationId(1), script);
    sim.watch = |sim| assert!(sim.core.ready_workers() == 2);
    sim.run(ms(3_500));
    assert_eq!(recycled(&sim), [""; 0], "not before the third");
    sim.run(ms(2_000 + 1_000));
    let text = "is not healthy: /health answered 500 Internal Server Error (3 times in a row)";
    assert_eq!(recycled(&sim), [text; 2]);
    assert_ne!(sim.serving(0).expect("another").id, old);
    assert!(!sim.alive.contains_key(&old));
}

/// Bad answers count when they come in a row.
#[test]
fn a_good_answer_or_one_that_shows_life_begins_anew() {
    for between in [Verdict::Healthy, not_ready()] {
        let mut all = Vec::new();
        for n in 0..10 {
            let at = 2_000 + n * 3_000;
            all.extend([(at, bad()), (at + 2_000, between.clone())]);
        }
        let mut sim = served(rules(1), answering(&all));
        sim.run(ms(25_000));
        assert_eq!(recycled(&sim).len(), 0);
        assert_eq!(sim.alive.len(), 1);
    }
}

#[test]
fn what_could_not_be_asked_proves_nothing() {
    let unknown = Verdict::Unknown("no descriptor is left".to_owned());
    let mut sim = served(rules(1), answering(&[(1_500, unknown.clone())]));
    sim.run(ms(20_000));
    assert_eq!((recycled(&sim).len(), sim.alive.len()), (0, 1));
    let said = sim.serving(0).and_then(|w| w.checkup.said.clone());
    assert_eq!(said.as_deref(), Some("no descriptor is left"));
    // But a release is not rolled out on that.
    sim.configs = VecDeque::from([Ok((rules(1), answering(&[(0, unknown)])))]);
    sim.request(1, Request::Reload);
    sim.run(ms(10_000));
    assert!(matches!(
        sim.reply(1),
        Some(Err(Failure::GenerationFailed { .. }))
    ));
}

#[test]
fn a_release_that_is_not_well_leaves_the_old_one_untouched() {
    for verdict in [bad(), not_ready()] {
        let mut sim = served(rules(3), Script::default());
        let old: Vec<WorkerId> = sim.alive.keys().copied().collect();
        sim.configs = VecDeque::from([Ok((rules(3), answering(&[(0, verdict)])))]);
        sim.request(1, Request::Reload);
        sim.watch = |sim| assert!(sim.core.ready_workers() == 3);
        sim.run(ms(10_000));
        let Some(Err(failure)) = sim.reply(1) else {
            panic!("{:?}", sim.reply(1));
        };
        let text = failure.to_string();
        assert!(
            text.contains("is not healthy: /health answered 50"),
            "{text}"
        );
        assert!(text.contains("(3 times in a row)"), "{text}");
        let now: Vec<WorkerId> = sim.alive.keys().copied().collect();
        assert_eq!(now, old);
    }
}

#[test]
fn no_worker_of_a_rollout_settles_before_its_first_good_answer() {
    let mut sim = served(rules(2), Script::default());
    let slow = answering(&[(0, not_ready()), (1_800, Verdict::Healthy)]);
    sim.configs = VecDeque::from([Ok((rules(2), slow))]);
    sim.request(1, Request::Reload);
    sim.run(ms(1_900));
    assert_eq!(sim.ready_generations().len(), 2);
    assert_eq!(sim.signalled.len(), 0, "nobody is relieved yet");
    // The busy time that systemd is told of holds until the answer.
    assert!(sim.core.busy_until().is_some_and(|at| at > sim.now));
    sim.run(ms(4_000));
    assert!(
        sim.reply(1).is_some_and(Result::is_ok),
        "{:?}",
        sim.reply(1)
    );
    assert_eq!(sim.ready_generations(), [2, 2]);
}

/// Nobody else serves in its slot: it does, until another is well.
#[test]
fn the_only_one_of_a_slot_goes_on_and_is_kept_when_it_is_well() {
    let sick = answering(&[(0, bad()), (30_000, Verdict::Healthy)]);
    let mut sim = Sim::new(rules(1), sick);
    sim.run(ms(1_000));
    assert_eq!(sim.core.state(), ClusterState::Running, "it has started");
    let first = sim.serving(0).expect("a worker").id;
    sim.run(ms(20_000));
    assert!(sim.alive.contains_key(&first));
    assert!(failed(&sim).len() > 2, "{:?}", failed(&sim));
    sim.run(ms(60_000));
    let well = sim.serving(0).expect("a worker");
    assert!(well.checkup.good && well.not_ready.is_none() && !well.retire);
    assert_eq!(sim.alive.len(), 1);
    assert_eq!(sim.core.degraded(), None);
}

#[test]
fn silence_is_no_sign_of_life() {
    let rules = Policy {
        watchdog: Some(ms(1_000)),
        ..policy(1)
    };
    let pings = Script {
        pings: Some(ms(400)),
        ..Script::default()
    };
    let mut sim = served(rules.clone(), pings);
    let first = sim.serving(0).expect("a worker").id;
    sim.run(ms(20_000));
    assert_eq!(sim.serving(0).map(|w| w.id), Some(first));
    // Its last is after 29.6 s.
    sim.run(ms(8_500));
    assert_eq!(recycled(&sim), [""; 0]);
    sim.run(ms(500));
    assert_eq!(recycled(&sim), ["has sent no WATCHDOG=1 for 1.0s"]);
    sim.run(ms(200));
    assert_ne!(sim.serving(0).map(|w| w.id), Some(first));
    // One that never gives any.
    let mut sim = Sim::new(rules, Script::default());
    sim.run(ms(1_250));
    assert_eq!(recycled(&sim).len(), 1);
}

#[test]
fn a_worker_says_itself_how_often_and_that_it_is_not_well() {
    let mut sim = served(policy(1), Script::default());
    let worker = sim.serving(0).expect("a worker").id;
    let say = |sim: &mut Sim, what| sim.event(Event::Notified { worker, what });
    say(&mut sim, Notification::WatchdogInterval(Some(ms(5_000))));
    sim.run(ms(4_000));
    say(&mut sim, Notification::WatchdogInterval(None));
    sim.run(ms(10_000));
    assert_eq!(recycled(&sim).len(), 0);
    say(&mut sim, Notification::WatchdogTrigger);
    assert_eq!(
        recycled(&sim),
        ["says that it is not well (WATCHDOG=trigger)"]
    );
}

/// A supervisor that was stopped itself, or frozen with its workers, judges nobody by that.
#[test]
fn who_stood_still_gives_everybody_time() {
    let rules = Policy {
        watchdog: Some(ms(1_000)),
        ..policy(2)
    };
    let mut sim = served(rules, Script::default());
    let workers: Vec<WorkerId> = sim.alive.keys().copied().collect();
    for worker in &workers {
        let what = Notification::Watchdog;
        sim.event(Event::Notified {
            worker: *worker,
            what,
        });
    }
    let recycled_before = recycled(&sim).len();
    sim.now = sim.now + ms(60_000);
    sim.event(Event::Wake);
    sim.run(ms(900));
    assert_eq!(recycled(&sim).len(), recycled_before);
    sim.run(ms(200));
    assert_eq!(recycled(&sim).len(), recycled_before + 2, "they are silent");
}

#[test]
fn workers_serve_on_before_a_stop() {
    let mut sim = leaving();
    assert_eq!(sim.core.state(), ClusterState::Stopping);
    sim.run(ms(4_900));
    assert_eq!((sim.core.ready_workers(), sim.signalled.len()), (2, 0));
    assert!(sim.core.busy_until().is_some_and(|at| at > sim.now));
    sim.run(ms(200));
    assert!(sim.exit.is_some() && sim.signalled.len() == 2);
    // Not when it is to be quick, nor when nobody serves.
    let mut sim = leaving();
    sim.request(1, Request::StopNow);
    sim.run(ms(100));
    assert!(sim.exit.is_some());
    let mut sim = Sim::new(delayed(2), Script::default());
    sim.request(1, Request::Stop);
    sim.run(ms(100));
    assert!(sim.exit.is_some());
}
