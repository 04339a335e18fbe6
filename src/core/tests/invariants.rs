// SPDX-License-Identifier: MIT OR Apache-2.0
//! What must hold whatever happens.

use super::*;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

pub(super) fn scripts() -> impl Strategy<Value = Script> {
    let exits = prop_oneof![
        3 => Just(None),
        1 => (0..5_000u64, any::<bool>())
            .prop_map(|(t, ok)| Some((ms(t), Exit::Code(i32::from(!ok))))),
    ];
    let ready = prop_oneof![5 => (0..3_000u64).prop_map(|t| Some(ms(t))), 1 => Just(None)];
    let drains = prop_oneof![4 => (0..5_000u64).prop_map(|t| Some(ms(t))), 1 => Just(None)];
    let unspawnable = prop::bool::weighted(0.1);
    let pings = prop::option::weighted(0.2, (400..2_000u64).prop_map(ms));
    let health = prop::collection::vec((0..6_000u64, verdicts()), 0..4).prop_map(|mut all| {
        all.sort_by_key(|(at, _)| *at);
        all.into_iter()
            .map(|(at, verdict)| (ms(at), verdict))
            .collect()
    });
    let memory = (0..80u64, 0..20u64).prop_map(|(first, leak)| (first << 20, leak << 20));
    let all = (ready, exits, drains, unspawnable, health, pings, memory);
    all.prop_map(
        |(ready, exits, drains, unspawnable, health, pings, memory)| Script {
            ready,
            exits,
            drains,
            unspawnable,
            health,
            pings,
            memory,
        },
    )
}

fn verdicts() -> impl Strategy<Value = Verdict> {
    let text = || "answered".to_owned();
    prop_oneof![
        3 => Just(Verdict::Healthy),
        1 => Just(Verdict::NotReady(text())),
        1 => Just(Verdict::Bad(text())),
        1 => Just(Verdict::Unknown(text())),
    ]
}

fn healths() -> impl Strategy<Value = Option<Health>> {
    prop::option::weighted(
        0.3,
        (400..3_000u64, 1..4u32).prop_map(|(interval, failures)| Health {
            interval: ms(interval),
            timeout: ms(500),
            failures,
        }),
    )
}

pub(super) fn policies() -> impl Strategy<Value = Policy> {
    let draining = prop::option::of(1..3u32);
    let failure = prop_oneof![Just(OnFailure::Rollback), Just(OnFailure::Hold)];
    let numbers = (1..6u32, 1..4u32, 0..12u32, any::<bool>());
    let limits = prop_oneof![
        2 => Just((None, None)),
        1 => (prop::option::of(30..90u64), prop::option::of(1_000..60_000u64)),
    ];
    let watchdog = prop::option::weighted(0.3, (200..3_000u64).prop_map(ms));
    let restart = prop_oneof![
        4 => Just(Restart::Always),
        1 => Just(Restart::OnFailure),
        1 => Just(Restart::Never),
    ];
    let stop_codes = prop_oneof![4 => Just(vec![]), 1 => Just(vec![0]), 1 => Just(vec![1])];
    let delay = prop_oneof![Just(ms(0)), (1..5_000u64).prop_map(ms)];
    let all = (
        numbers,
        draining,
        failure,
        limits,
        healths(),
        watchdog,
        delay,
        (restart, stop_codes),
    );
    all.prop_map(
        |(numbers, most, fail, (memory, life), health, watchdog, delay, again)| {
            let (workers, batch, n, drains) = numbers;
            Policy {
                restart: again.0,
                stop_exit_codes: again.1,
                max_memory: memory.map(|mib| mib << 20),
                max_lifetime: life.map(ms),
                health,
                watchdog,
                pre_stop_delay: delay,
                drains,
                batch: Batch::Count(batch),
                max_draining: most,
                on_failure: fail,
                crash_budget: n,
                ..policy(workers)
            }
        },
    )
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    Run(u64),
    Request(Request),
    /// The n-th living worker is killed from outside.
    Crash(usize),
    NextConfig(Box<(Policy, Script)>),
    BadConfig,
    /// From now on nothing (`true`) or everything can be brought back.
    Gone(bool),
    /// An event that nobody expects.
    Stray(Event),
}

fn requests() -> impl Strategy<Value = Request> {
    prop_oneof![
        6 => Just(Request::Reload),
        3 => Just(Request::Rollback),
        1 => Just(Request::Restart),
        2 => (0..7u32).prop_map(|n| Request::Replace(SlotId(n))),
        2 => (0..8u32).prop_map(|n| Request::Scale(Scale::To(n))),
        1 => (-3..3i32).prop_map(|n| Request::Scale(Scale::By(n))),
        1 => (0..8u32).prop_map(|workers| {
            let source = "a file".to_owned();
            Request::Configured { workers, source }
        }),
    ]
}

fn strays() -> impl Strategy<Value = Event> {
    let worker = (0..40u64).prop_map(WorkerId);
    let what = prop_oneof![
        Just(Notification::Ready),
        Just(Notification::Listening),
        Just(Notification::SaidReady),
        Just(Notification::Stopping),
        Just(Notification::Status("x".repeat(1_000))),
        Just(Notification::Watchdog),
        Just(Notification::WatchdogTrigger),
        prop::option::of(10..9_000u64).prop_map(|n| Notification::WatchdogInterval(n.map(ms))),
        any::<u64>().prop_map(|n| Notification::ExtendTimeout(Duration::from_micros(n))),
    ];
    prop_oneof![
        Just(Event::Wake),
        (worker.clone(), any::<bool>()).prop_map(|(worker, ready)| Event::Probed { worker, ready }),
        (worker.clone(), 0..9_000u64).prop_map(|(worker, since)| Event::Blocked {
            worker,
            since: ms(since)
        }),
        worker.clone().prop_map(|worker| Event::Answered { worker }),
        (worker.clone(), verdicts())
            .prop_map(|(worker, verdict)| Event::Checked { worker, verdict }),
        worker.clone().prop_map(|worker| Event::Heard { worker }),
        worker.clone().prop_map(|worker| Event::Alive { worker }),
        (worker.clone(), 0..900u64).prop_map(|(worker, grace)| Event::Drained {
            worker,
            grace: ms(grace)
        }),
        (worker.clone(), what).prop_map(|(worker, what)| Event::Notified { worker, what }),
        (worker, prop::option::of(any::<u64>()))
            .prop_map(|(worker, memory)| Event::Measured { worker, memory }),
        (0..9u64, any::<bool>()).prop_map(|(n, there)| Event::Recalled {
            generation: GenerationId(n),
            result: if there {
                Ok(())
            } else {
                Err("stray".to_owned())
            },
        }),
        (0..9u64).prop_map(|n| Event::ConfigLoaded {
            generation: GenerationId(n),
            result: Err("stray".to_owned()),
        }),
    ]
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..4_000u64).prop_map(Step::Run),
        4 => requests().prop_map(Step::Request),
        2 => (0..12usize).prop_map(Step::Crash),
        2 => (policies(), scripts()).prop_map(|both| Step::NextConfig(Box::new(both))),
        1 => Just(Step::BadConfig),
        1 => any::<bool>().prop_map(Step::Gone),
        2 => strays().prop_map(Step::Stray),
    ];
    prop::collection::vec(step, 1..40)
}

/// Plays `steps`; returns the requests that were made.
pub(super) fn play(sim: &mut Sim, steps: &[Step]) -> u64 {
    let mut asked = 0;
    for step in steps {
        match step {
            Step::Run(t) => sim.run(ms(*t)),
            Step::Request(what) => {
                asked += 1;
                sim.request(asked, what.clone());
            }
            Step::Crash(n) => {
                if let Some(id) = sim.alive.keys().nth(*n).copied() {
                    sim.crash(id, Exit::Signal(9));
                }
            }
            Step::NextConfig(both) => {
                sim.configs = VecDeque::from([Ok(both.as_ref().clone())]);
            }
            Step::BadConfig => sim.configs = VecDeque::from([Err("typo".to_owned())]),
            Step::Gone(gone) => sim.gone = *gone,
            // The engine never says of what it does not have that it is there.
            Step::Stray(Event::Recalled {
                generation,
                result: Ok(()),
            }) if !sim.scripts.contains_key(generation) => {}
            Step::Stray(event) => sim.event(event.clone()),
        }
    }
    asked
}

/// SIGKILL at the deadline and never before: a worker was signalled and had its drain time.
pub(super) fn kills_are_earned(sim: &Sim) {
    for (worker, at) in &sim.killed {
        if let Some(asked) = sim.signalled.get(worker) {
            assert!(
                at.since(*asked) >= ms(3_000),
                "{worker} was killed too soon"
            );
        }
    }
}

/// The same cases in every run, so that a red gate is never luck. With PROPTEST_CASES (the
/// full tier: ten thousand) so many new ones.
pub(super) fn config() -> ProptestConfig {
    let given = ProptestConfig::default();
    let many = given.cases > 1_000;
    ProptestConfig {
        cases: given.cases.max(400),
        rng_seed: match many {
            true => RngSeed::Random,
            false => RngSeed::Fixed(1),
        },
        failure_persistence: None,
        ..given
    }
}

proptest! {
    #![proptest_config(config())]

    /// No panic, no busy deadline, one reply each, and an end when it is asked to end.
    #[test]
    fn anything_may_happen(p in policies(), s in scripts(), steps in steps()) {
        let mut sim = Sim::new(p, s);
        sim.watch = kills_are_earned;
        let asked = play(&mut sim, &steps);
        sim.request(asked + 1, Request::Stop);
        sim.run(ms(120_000));
        prop_assert!(sim.exit.is_some(), "{}", sim.core.status_line());
        prop_assert!(sim.alive.is_empty(), "left: {:?}", sim.alive);
        for id in 1..=asked {
            prop_assert!(sim.reply(id).is_some() || sim.exit.is_some(), "r{} unanswered", id);
        }
        let mut ids: Vec<_> = sim.replies.iter().map(|r| r.0).collect();
        ids.sort();
        ids.dedup();
        prop_assert_eq!(ids.len(), sim.replies.len(), "a request got two replies");
    }

    /// Healthy workers: whatever is asked, capacity never falls below what is asked for.
    #[test]
    fn never_fewer_ready_by_our_own_doing(
        p in policies(),
        drains in 0..4_000u64,
        steps in prop::collection::vec(
            prop_oneof![
                (0..3_000u64).prop_map(Step::Run),
                Just(Step::Request(Request::Reload)),
                Just(Step::Request(Request::Rollback)),
                (0..6u32).prop_map(|n| Step::Request(Request::Replace(SlotId(n)))),
                Just(Step::BadConfig),
                (policies(), scripts()).prop_map(|both| Step::NextConfig(Box::new(both))),
            ],
            1..30,
        ),
    ) {
        let healthy = Script {
            drains: Some(ms(drains)),
            memory: (50 << 20, 3 << 20),
            ..Script::default()
        };
        let mut sim = Sim::new(p.clone(), healthy);
        sim.run(ms(1_000));
        let least = p.workers;
        // What is counted are kept promises: slots of a generation that works. A new
        // generation that crashes after it was accepted is not our doing.
        let steps: Vec<Step> = steps
            .into_iter()
            .map(|step| match step {
                Step::NextConfig(both) => {
                    let (mut p, mut s) = *both;
                    p.workers = least;
                    s.exits = s.exits.filter(|(at, _)| {
                        s.ready.is_none_or(|ready| *at < ready + p.canary_time)
                    });
                    p.min_ready_time = p.canary_time;
                    Step::NextConfig(Box::new((p, s)))
                }
                other => other,
            })
            .collect();
        for step in &steps {
            play(&mut sim, std::slice::from_ref(step));
            prop_assert!(
                sim.core.ready_workers() >= least,
                "{}", sim.core.status_line()
            );
        }
    }

    /// A core that is put through its snapshot after every event behaves the same.
    #[test]
    fn snapshot_and_restore_is_invisible(p in policies(), s in scripts(), steps in steps()) {
        let mut plain = Sim::new(p.clone(), s.clone());
        let mut forgetful = Sim::new(p, s);
        forgetful.forgetful = true;
        play(&mut plain, &steps);
        play(&mut forgetful, &steps);
        prop_assert_eq!(plain.log, forgetful.log);
        prop_assert_eq!(plain.replies, forgetful.replies);
        prop_assert_eq!(plain.core, forgetful.core);
    }

    /// When it has come to rest, exactly the desired slots have a worker each.
    #[test]
    fn it_comes_to_rest(p in policies(), steps in steps()) {
        let mut sim = Sim::new(p, Script::default());
        sim.run(ms(1_000));
        play(&mut sim, &steps);
        for script in sim.scripts.values_mut() {
            *script = Script::default();
        }
        sim.configs = VecDeque::from([Ok((policy(3), Script::default()))]);
        sim.request(1_000, Request::Reload);
        sim.run(ms(300_000));
        prop_assert!(sim.exit.is_some() || sim.reply(1_000).is_some());
        if sim.exit.is_none() {
            let (desired, _) = sim.core.desired_workers();
            prop_assert_eq!(sim.alive.len() as u32, desired);
            prop_assert_eq!(sim.core.ready_workers(), desired);
            prop_assert_eq!(sim.core.next_deadline(), None);
            if sim.reply(1_000).is_some_and(Result::is_ok) {
                let (serves, all) = (sim.core.generation().0, sim.ready_generations());
                prop_assert!(all.iter().all(|g| *g == serves), "{} {:?}", serves, all);
                // That one, and the one that can be gone back to.
                prop_assert!(sim.core.generations.len() <= 2);
            }
        }
    }
}
