// SPDX-License-Identifier: MIT OR Apache-2.0
//! Workers that grow or grow old.

use super::*;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;
const HOUR: Duration = Duration::from_secs(3_600);

/// Once all were ready there never is a slot without a ready worker, and no more than one
/// is being replaced.
fn whole(sim: &Sim) {
    if sim.said_ready.is_none() {
        return;
    }
    let (desired, _) = sim.core.desired_workers();
    assert_eq!(sim.core.ready_workers(), desired);
    let leaving = sim.core.workers_where(|w| w.retire && w.state.is_live());
    assert!(leaving.len() <= 1, "{leaving:?}");
}

fn watched(policy: Policy, script: Script) -> Sim {
    let mut sim = Sim::new(policy, script);
    sim.watch = whole;
    sim
}

/// The reasons that workers were replaced for.
fn recycled(sim: &Sim) -> Vec<(SlotId, Recycle)> {
    let all = sim.log.iter();
    all.filter_map(|transition| match transition {
        Transition::Recycled { slot, why, .. } => Some((*slot, why.clone())),
        _ => None,
    })
    .collect()
}

fn failed(sim: &Sim) -> usize {
    let is_failure = |t: &&Transition| matches!(t, Transition::Failed { .. });
    sim.log.iter().filter(is_failure).count()
}

fn leaking(workers: u32, limit: u64, leak: u64) -> (Policy, Script) {
    let policy = Policy {
        max_memory: Some(limit),
        ..policy(workers)
    };
    let script = Script {
        memory: (50 * MIB, leak),
        ..Script::default()
    };
    (policy, script)
}

#[test]
fn a_leaking_app_serves_an_hour_with_all_its_workers() {
    let (policy, script) = leaking(8, 512 * MIB, 10 * MIB);
    let mut sim = watched(policy, script);
    sim.run(HOUR);
    let all = recycled(&sim);
    // Each grows over its limit within 47 s.
    assert!((500..=700).contains(&all.len()), "{}", all.len());
    for slot in 0..8 {
        let here = all.iter().filter(|(s, _)| s.0 == slot).count();
        assert!(here > 50, "slot {slot}: {here}");
        assert_eq!(sim.core.slots()[slot as usize].recycled, here as u64);
        assert_eq!(sim.core.slots()[slot as usize].restarts, 0);
    }
    for (_, why) in all {
        let Recycle::Memory { used, limit } = why else {
            panic!("{why:?}");
        };
        // Looked at more often as it came near, so no more than a little over.
        assert!(used > limit && used < limit + 30 * MIB, "{used}");
    }
    assert_eq!(failed(&sim), 0);
    assert!(sim.killed.is_empty());
}

/// Replacements that take long, and old workers that never end by themselves.
#[test]
fn one_slot_at_a_time_however_slow() {
    let (mut policy, mut script) = leaking(6, 200 * MIB, 40 * MIB);
    policy.start_timeout = ms(20_000);
    script.ready = Some(ms(4_000));
    script.drains = None;
    let mut sim = watched(policy, script);
    sim.run(HOUR);
    assert!(recycled(&sim).len() > 500, "{}", recycled(&sim).len());
    assert_eq!(failed(&sim), 0);
}

#[test]
fn nothing_is_looked_at_without_a_limit() {
    let mut sim = Sim::new(policy(4), Script::default());
    sim.run(ms(1_000));
    assert_eq!(sim.core.next_deadline(), None);
    let (policy, script) = leaking(4, 512 * MIB, 0);
    let mut sim = Sim::new(policy, script);
    sim.run(ms(10_000));
    let next = sim.core.next_deadline().expect("a look");
    assert!(next > sim.now && next <= sim.now + ms(5_000));
    // What is merely looked at keeps nobody waiting.
    assert_eq!(sim.core.timers.last(), None);
}

#[test]
fn looks_are_spread() {
    let (policy, script) = leaking(64, 512 * MIB, 0);
    let mut sim = Sim::new(policy, script);
    sim.run(ms(60_000));
    // Looks that are due within the same 50 ms.
    let mut most = 0;
    let mut at: Vec<Time> = (0..64)
        .filter_map(|slot| Some(sim.serving(slot)?.id))
        .filter_map(|id| sim.core.timers.get(Timer::Measure(id)))
        .collect();
    at.sort();
    for (n, first) in at.iter().enumerate() {
        let together = at[n..].iter().filter(|t| t.since(*first) <= ms(50));
        most = most.max(together.count());
    }
    assert!(
        at.len() >= 60 && most <= 8,
        "{most} of {} at once",
        at.len()
    );
}

#[test]
fn what_is_too_large_from_the_start_is_told_and_left() {
    let (policy, script) = leaking(3, 40 * MIB, 0);
    let mut sim = watched(policy, script);
    sim.run(HOUR);
    assert_eq!(recycled(&sim), []);
    let told = |t: &&Transition| {
        matches!(t, Transition::Oversized { used, limit, bound, .. }
            if (*used, *limit, *bound) == (50 * MIB, 40 * MIB, 75 * MIB))
    };
    assert_eq!(sim.log.iter().filter(told).count(), 3);
    // One that grows all the same is replaced.
    let (policy, script) = leaking(3, 40 * MIB, MIB);
    let mut sim = watched(policy, script);
    sim.run(ms(120_000));
    let all = recycled(&sim);
    assert!(all.len() >= 9, "{all:?}");
    for (_, why) in all {
        assert!(matches!(why, Recycle::Memory { used, .. } if used > 75 * MIB));
    }
}

#[test]
fn one_that_gives_back_before_its_turn_stays() {
    let (policy, script) = leaking(2, 100 * MIB, 0);
    let mut sim = watched(policy, script);
    sim.run(ms(2_000));
    let [a, b] = [0, 1].map(|slot| sim.serving(slot).expect("a worker").id);
    let tell = |sim: &mut Sim, worker, mib: u64| {
        let memory = Some(mib * MIB);
        sim.event(Event::Measured { worker, memory });
    };
    // The first one's replacement takes a while.
    tell(&mut sim, a, 101);
    tell(&mut sim, b, 102);
    assert_eq!(recycled(&sim).len(), 1);
    tell(&mut sim, b, 90);
    sim.run(ms(3_000));
    assert_eq!(recycled(&sim).len(), 1);
    assert!(!sim.alive.contains_key(&a) && sim.alive.contains_key(&b));
}

/// Though it uses the most, one that is ending already is not waited for.
#[test]
fn one_that_cannot_be_replaced_holds_up_nobody() {
    let (mut policy, mut script) = leaking(3, 100 * MIB, 0);
    policy.drain_timeout = ms(60_000);
    script.drains = None;
    let mut sim = Sim::new(policy, script);
    sim.run(ms(2_000));
    let [a, b, c] = [0, 1, 2].map(|slot| sim.serving(slot).expect("a worker").id);
    for (worker, mib) in [(a, 110), (b, 300), (c, 120)] {
        let memory = Some(mib * MIB);
        sim.event(Event::Measured { worker, memory });
    }
    let what = Notification::Stopping;
    sim.event(Event::Notified { worker: b, what });
    sim.run(ms(3_000));
    let slots: Vec<u32> = recycled(&sim).iter().map(|(slot, _)| slot.0).collect();
    assert_eq!(slots, [0, 2]);
    assert!(sim.alive.contains_key(&b), "it takes its time");
}

#[test]
fn lifetimes_end_one_by_one_also_after_a_reload() {
    let policy = Policy {
        max_lifetime: Some(HOUR),
        ..policy(6)
    };
    let mut sim = watched(policy, Script::default());
    sim.run(ms(1_000));
    sim.request(1, Request::Reload);
    sim.run(ms(10_000));
    assert!(matches!(sim.reply(1), Some(Ok(_))));
    sim.run(HOUR - HOUR / 10 - ms(10_000));
    assert_eq!(recycled(&sim), [], "none before nine tenths");
    sim.run(HOUR / 10 + ms(5_000));
    let all = recycled(&sim);
    let slots: std::collections::BTreeSet<_> = all.iter().map(|(slot, _)| *slot).collect();
    assert_eq!((all.len(), slots.len()), (6, 6), "{all:?}");
    let mut ages: Vec<Duration> = all
        .iter()
        .map(|(_, why)| match why {
            Recycle::Lifetime { age } => *age,
            other => panic!("{other:?}"),
        })
        .collect();
    ages.sort();
    assert!(ages[0] >= HOUR * 9 / 10 && ages[5] <= HOUR, "{ages:?}");
    // Spread over some of the last tenth, not all at its beginning or end.
    assert!(ages[5] - ages[0] > HOUR / 50, "{ages:?}");
    // And so on.
    sim.run(HOUR * 10);
    assert!(recycled(&sim).len() >= 60);
    assert_eq!(failed(&sim), 0);
}

#[test]
fn all_are_due_during_a_reload_and_go_one_by_one_after_it() {
    let policy = Policy {
        max_lifetime: Some(ms(20_000)),
        max_memory: Some(200 * MIB),
        canary_time: ms(60_000),
        ..policy(3)
    };
    let mut sim = watched(policy, Script::default());
    sim.run(ms(1_000));
    sim.request(1, Request::Reload);
    sim.run(ms(50_000));
    assert_eq!(recycled(&sim), [], "a rollout goes first");
    // What it uses makes it no younger.
    let worker = sim.serving(1).expect("a worker").id;
    for mib in [201, 60] {
        let memory = Some(mib * MIB);
        sim.event(Event::Measured { worker, memory });
    }
    // The new configuration is one that a canary fails in.
    let canary = sim.core.workers_where(|w| w.generation == GenerationId(2));
    sim.crash(canary[0], Exit::Code(1));
    sim.run(ms(3_000));
    assert!(matches!(sim.reply(1), Some(Err(_))));
    assert_eq!(recycled(&sim).len(), 3);
}

proptest! {
    #![proptest_config(super::invariants::config())]

    /// Whatever the limits are, and with reloads in between: after each single event every
    /// slot has a ready worker, and one at most is being replaced.
    #[test]
    fn limits_never_cost_a_worker(
        (workers, batch) in (1..6u32, 1..4u32),
        (limit, leak) in (40..300u64, 0..60u64),
        lifetime in prop::option::of(1_000..90_000u64),
        (ready, drains) in (0..4_000u64, prop::option::of(0..5_000u64)),
        pauses in prop::collection::vec(0..60_000u64, 0..4),
    ) {
        let (mut policy, mut script) = leaking(workers, limit * MIB, leak * MIB);
        policy.batch = Batch::Count(batch);
        policy.max_lifetime = lifetime.map(ms);
        script.ready = Some(ms(ready));
        script.drains = drains.map(ms);
        let mut sim = watched(policy, script);
        for (n, pause) in pauses.iter().enumerate() {
            sim.run(ms(*pause));
            sim.request(n as u64, Request::Reload);
        }
        sim.run(ms(120_000));
        prop_assert_eq!(failed(&sim), 0);
        // A limit that is reached again and again has an effect.
        if leak > 20 && limit < 200 {
            prop_assert!(!recycled(&sim).is_empty());
        }
    }
}
