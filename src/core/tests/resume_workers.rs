// SPDX-License-Identifier: MIT OR Apache-2.0
//! What becomes of the workers when the supervisor has ended.

use super::crash::{Crash, Crashes, assert_at_rest};
use super::health::{asked, rules};
use super::resume::rolling;
use super::*;

/// All that may have been due has been due for hours.
#[test]
fn nobody_dies_for_the_absence_of_the_supervisor() {
    let p = Policy {
        watchdog: Some(ms(1_000)),
        max_memory: Some(200 << 20),
        ..rules(3)
    };
    let script = Script {
        pings: Some(ms(500)),
        ..Script::default()
    };
    let mut sim = Sim::new(p, script);
    sim.run(ms(1_000));
    sim.request(1, Request::Scale(Scale::To(4)));
    sim.run(ms(20));
    let worker = WorkerId(1);
    let since = ms(29_000);
    sim.event(Event::Blocked { worker, since });
    let before: Vec<WorkerId> = sim.alive.keys().copied().collect();
    let told = sim.log.len();
    sim.die(ms(4 * 3_600_000));
    let after = |t: &Transition| matches!(t, Transition::Resumed { .. });
    assert!(after(&sim.log[told]));
    assert_eq!(sim.core.worker(worker).and_then(|w| w.blocked), None);
    // What each has owed for all this time it has as long for as ever.
    for id in &before {
        let watchdog = sim.core.timers.get(Timer::Watchdog(*id));
        let start = sim.core.timers.get(Timer::Start(*id));
        let due = watchdog.or(start).expect("a deadline");
        assert!(due >= sim.now + ms(1_000), "{due:?} {:?}", sim.now);
    }
    sim.run(ms(900));
    assert_eq!(sim.alive.keys().copied().collect::<Vec<_>>(), before);
    assert!(sim.core.workers().all(|w| w.checkup.good), "asked anew");
    assert!(
        sim.core.workers().all(|w| w.used.is_some()),
        "looked at anew"
    );
}

/// Each question is put again, whose answer was under way.
#[test]
fn answers_that_are_lost_are_asked_for_again() {
    for (name, mut sim) in asked() {
        let open = |sim: &Sim| {
            sim.core
                .workers()
                .filter(|w| w.checkup.asked.is_some())
                .count()
        };
        assert!(open(&sim) > 0, "{name}");
        sim.reexec();
        assert!(open(&sim) > 0, "{name}: {:?}", sim.agenda);
        let checked = |e: &Event| matches!(e, Event::Checked { .. });
        assert!(sim.agenda.iter().any(|(_, e)| checked(e)), "{name}");
    }
    // The last look at a canary: it has held, and is asked whether it is there.
    let mut sim = rolling(OnFailure::Hold, 400);
    let canary = sim.core.workers().last().expect("a worker").id;
    let alive = Event::Alive { worker: canary };
    while !sim.agenda.iter().any(|(_, e)| *e == alive) {
        assert!(sim.turn());
    }
    sim.die(ms(0));
    sim.run(ms(0));
    assert!(sim.core.worker(canary).is_some_and(|w| w.settled));
}

/// It was about to be heard whether it has given its sign of life.
#[test]
fn signs_of_life_are_owed_from_now_on() {
    let mut p = policy(1);
    p.watchdog = Some(ms(1_000));
    let mut sim = Sim::new(p, Script::default());
    sim.run(ms(500));
    let worker = WorkerId(1);
    let due = sim
        .core
        .timers
        .get(Timer::Watchdog(worker))
        .expect("it owes one");
    for heard in [false, true] {
        let mut core = sim.core.clone();
        if heard {
            assert_eq!(core.handle(due, Event::Wake), [Action::Hear { worker }]);
        }
        let now = due + ms(300);
        for exact in [true, false] {
            core.handle(now, Event::Resumed { exact });
            let again = core.timers.get(Timer::Watchdog(worker));
            assert_eq!(again, Some(now + ms(1_000)));
        }
    }
}

#[test]
fn a_worker_that_said_that_it_is_ready_to_nobody_is_looked_at() {
    let mut sim = Sim::new(policy(2), Script::default());
    sim.run(ms(1_000));
    sim.request(1, Request::Replace(SlotId(0)));
    // Spawned, and then its READY=1, which was read and not recorded.
    let crash = Crash {
        after: 1,
        cut: 0,
        recorded: false,
        away: ms(10),
        exact: false,
    };
    sim.crashes = Crashes::new(vec![crash], 1);
    sim.run(ms(1_000));
    assert_eq!(sim.crashes.happened, 1);
    let new = WorkerId(3);
    let state = |sim: &Sim| sim.core.worker(new).map(|w| w.state);
    assert_eq!(state(&sim), Some(WorkerState::Starting));
    sim.run(ms(5_000));
    assert_eq!(state(&sim), Some(WorkerState::Ready));
    assert_eq!(sim.core.ready_workers(), 2);
    assert_eq!(sim.core.slots()[0].crashes, 0);
}

#[test]
fn a_worker_that_drained_past_its_time_is_killed() {
    let stubborn = Script {
        drains: None,
        ..Script::default()
    };
    let mut sim = Sim::new(policy(2), stubborn);
    sim.run(ms(1_000));
    sim.request(1, Request::Scale(Scale::To(1)));
    let (worker, asked) = sim.signalled.pop_first().expect("one is signalled");
    sim.die(ms(1_000));
    sim.run(ms(1_000));
    assert_eq!(sim.killed.len(), 0, "its time goes on");
    sim.die(ms(5_000));
    assert_eq!(sim.killed.get(&worker), Some(&(asked + ms(7_000))));
    assert_eq!(sim.signalled.len(), 0, "no signal twice");
    sim.run(ms(100));
    assert_at_rest(&sim);
}

/// It was promised a signal, and some time after that.
#[test]
fn a_worker_that_nobody_could_signal_in_time_is_not_killed_at_once() {
    let p = Policy {
        drains: true,
        ..policy(2)
    };
    let mut sim = Sim::new(p, Script::default());
    sim.run(ms(1_000));
    let what = Request::Scale(Scale::To(1));
    sim.event(Event::Requested { from: None, what });
    let worker = WorkerId(2);
    let within = |a: &Action| match a {
        Action::Drain {
            worker: w, within, ..
        } if *w == worker => Some(*within),
        _ => None,
    };
    // In time: asked once more, for what is left of it.
    let mut core = sim.core.clone();
    let exact = false;
    let actions = core.handle(sim.now + ms(250), Event::Resumed { exact });
    assert_eq!(actions.iter().find_map(within), Some(ms(2_000)));
    // Too late.
    let mut core = sim.core.clone();
    let late = sim.now + ms(60_000);
    let actions = core.handle(late, Event::Resumed { exact });
    assert_eq!(actions.iter().find_map(within), None);
    let signal = 15;
    assert_eq!(
        core.handle(late, Event::Wake),
        [Action::Signal { worker, signal }]
    );
    assert_eq!(core.next_deadline(), Some(late + ms(750)));
    let killed = core.handle(late + ms(750), Event::Wake);
    assert!(killed.contains(&Action::Kill { worker }), "{killed:?}");
}

/// A crash like any other: the first costs no wait.
#[test]
fn workers_that_died_unseen_are_replaced() {
    let mut sim = Sim::new(policy(3), Script::default());
    sim.run(ms(1_000));
    for worker in [WorkerId(1), WorkerId(2)] {
        let exit = Exit::Signal(11);
        sim.schedule(ms(5), Event::Exited { worker, exit });
    }
    sim.die(ms(10));
    let exits = sim.core.slots().iter().map(|s| s.last_exit.as_ref());
    let exits: Vec<_> = exits.map(|e| e.map(|e| e.exit)).collect();
    assert_eq!(exits, [Some(Exit::Unknown), Some(Exit::Unknown), None]);
    sim.run(ms(200));
    assert_at_rest(&sim);
    let generation = &sim.core.generations[&GenerationId(1)];
    assert_eq!(generation.crashes.len(), 2);
}

#[test]
fn twenty_deaths_in_a_row_leave_nothing() {
    let mut sim = Sim::new(rules(4), Script::default());
    sim.run(ms(1_000));
    let workers: Vec<WorkerId> = sim.alive.keys().copied().collect();
    let size = |sim: &Sim| serde_json::to_string(&sim.core).expect("serialises").len();
    let before = size(&sim);
    for n in 0..20 {
        sim.die(ms(100 * n));
        sim.run(ms(13 * n));
    }
    sim.run(ms(1_000));
    assert_eq!(sim.alive.keys().copied().collect::<Vec<_>>(), workers);
    assert!(size(&sim).abs_diff(before) < 200, "{} {before}", size(&sim));
    assert_at_rest(&sim);
    assert_eq!(sim.core.degraded(), None);
}

/// They are ready, and use nearly all of the time that they have to end.
fn slow_workers(policy: Policy) -> Sim {
    let slow = Script {
        drains: Some(ms(2_600)),
        ..Script::default()
    };
    let mut sim = Sim::new(policy, slow);
    sim.run(ms(1_000));
    sim
}

/// Killed at any moment around the signal: one that has got it is known for one that ends, and
/// does not get another one before its time is over.
#[test]
fn a_worker_that_is_asked_to_end_is_known_for_one() {
    let mut seen = BTreeSet::new();
    for (cut, recorded) in (0..8).flat_map(|cut| [(cut, false), (cut, true)]) {
        let mut sim = slow_workers(policy(2));
        let crash = Crash {
            after: 0,
            cut,
            recorded,
            away: ms(100),
            exact: false,
        };
        // The turn goes on.
        sim.crashes = Crashes::new(vec![crash], 5);
        let began = sim.now;
        sim.request(1, Request::Scale(Scale::To(1)));
        assert_eq!(sim.crashes.happened, 1);
        let worker = WorkerId(2);
        let sent = sim.signals.contains_key(&worker);
        let state = sim.core.worker(worker).map(|w| w.state);
        let known = state == Some(WorkerState::Draining);
        assert!(known || !sent, "{cut} {recorded}");
        let again = sim.core.timers.get(Timer::Signal(worker));
        seen.insert((sent, known, again.is_some()));
        if !known {
            continue; // nor does anybody know of the request
        }
        assert!(again.is_none_or(|at| at == began + ms(3_000)), "{again:?}");
        sim.run(ms(10_000));
        assert_at_rest(&sim);
        assert_eq!(sim.signals[&worker].len(), 1, "{cut} {recorded}");
        assert_eq!(sim.killed, BTreeMap::new());
    }
    let all = [
        (false, false, false),
        (false, true, true),
        (true, true, false),
        (true, true, true),
    ];
    assert_eq!(seen, BTreeSet::from(all));
}

/// The same of one that drains first: that it has drained once more is no reason.
#[test]
fn a_worker_that_drains_first_is_not_signalled_twice() {
    for (after, cut) in (0..4).flat_map(|after| (0..4).map(move |cut| (after, cut))) {
        let p = Policy {
            drains: true,
            ..policy(2)
        };
        let mut sim = slow_workers(p);
        let crash = Crash {
            after,
            cut,
            recorded: cut == 0,
            away: ms(100),
            exact: false,
        };
        sim.crashes = Crashes::new(vec![crash], 5);
        sim.request(1, Request::Scale(Scale::To(1)));
        sim.run(ms(10_000));
        let sent = sim.signals.get(&WorkerId(2)).map_or(0, Vec::len);
        assert!(sent <= 1, "{after} {cut}");
        assert_eq!(sim.killed, BTreeMap::new());
        assert_at_rest(&sim);
    }
}

/// One that starts may serve already: an interrupted rollout lets it finish.
#[test]
fn a_worker_that_was_starting_drains() {
    let p = Policy {
        drains: true,
        ..policy(2)
    };
    let mut sim = Sim::new(p.clone(), Script::default());
    sim.run(ms(1_000));
    sim.configs = VecDeque::from([Ok((p, Script::default()))]);
    sim.request(1, Request::Reload);
    sim.run(ms(50));
    sim.die(ms(100));
    let canary = WorkerId(3);
    let state = sim.core.worker(canary).map(|w| w.state);
    assert_eq!(state, Some(WorkerState::Stopping));
    assert!(sim.core.timers.get(Timer::Signal(canary)).is_some());
    assert!(!sim.signals.contains_key(&canary));
    sim.run(ms(10_000));
    assert_eq!(sim.signals[&canary].len(), 1);
    assert_at_rest(&sim);
}

/// The next supervisor comes when the worker's time is over, and it may never have got its
/// signal: it has all of its time after that.
#[test]
fn a_late_signal_leaves_time() {
    let mut late = 0;
    for cut in 0..8 {
        let mut sim = slow_workers(policy(2));
        let crash = Crash {
            after: 0,
            cut,
            recorded: true,
            away: ms(5_250),
            exact: false,
        };
        sim.crashes = Crashes::new(vec![crash], 1);
        let began = sim.now;
        sim.request(1, Request::Scale(Scale::To(1)));
        assert_eq!(sim.crashes.happened, 1);
        sim.run(ms(10_000));
        assert_eq!(sim.killed, BTreeMap::new());
        assert_at_rest(&sim);
        let sent = sim.signals.get(&WorkerId(2));
        late += u32::from(sent.is_some_and(|all| all[0] > began));
    }
    assert!(late > 0);
}
