// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a reload would do is what it then does.

use super::*;

/// The plan for a reload to `policy`, which changes nothing.
fn plan(sim: &Sim, policy: &Policy) -> Plan {
    let before = sim.core.clone();
    let plan = sim.core.plan_reload(policy).expect("a plan");
    assert_eq!(sim.core, before);
    plan
}

/// Slots that got a worker of `generation`, in order.
fn started(sim: &Sim, generation: GenerationId) -> Vec<SlotId> {
    let of_it = |change: &Transition| match change {
        Transition::Worker {
            slot,
            generation: of,
            from: None,
            ..
        } if *of == generation => Some(*slot),
        _ => None,
    };
    sim.log.iter().filter_map(of_it).collect()
}

#[test]
fn a_reload_goes_as_planned() {
    for (workers, after, batch, ready) in [
        (1, 1, 1, Ready::Notify),
        (4, 4, 1, Ready::Notify),
        (4, 4, 2, Ready::Auto),
        (4, 2, 8, Ready::Notify),
        (3, 5, 2, Ready::Auto),
        (3, 3, 1, Ready::Delay(ms(300))),
    ] {
        let mut sim = Sim::new(policy(workers), Script::default());
        sim.run(ms(1_000));
        let new = Policy {
            batch: Batch::Count(batch),
            ready: ready.clone(),
            ..policy(after)
        };
        let plan = plan(&sim, &new);
        assert_eq!(plan.workers, (workers, after));
        assert_eq!((plan.from.0, plan.to.0), (1, 2));
        assert_eq!(plan.at_once, batch.min((after - 1).max(1)), "{plan:?}");
        assert!(plan.least >= new.canary_time, "{plan:?}");
        // The new workers of a larger number come beside the old ones.
        let peak = workers.max(after) + batch.min(after - 1).max(1);
        assert!(plan.most <= peak && plan.most > workers, "{plan:?}");

        sim.configs = VecDeque::from([Ok((new.clone(), Script::default()))]);
        let began = sim.now;
        sim.request(1, Request::Reload);
        sim.run(ms(20_000));
        assert_eq!(sim.core.generation(), plan.to);
        assert_eq!(
            started(&sim, plan.to),
            plan.order,
            "{workers} {after} {batch}"
        );
        assert!(sim.now.since(began) >= plan.least);
    }
}

#[test]
fn what_is_under_way_comes_first() {
    let mut sim = Sim::new(policy(3), Script::default());
    // Not ready yet.
    let early = plan(&sim, &policy(3));
    assert_eq!((early.to.0, early.order.len()), (2, 3));
    sim.run(ms(1_000));
    sim.request(1, Request::Reload);
    sim.run(ms(50));
    assert!(sim.core.rollout().is_some());
    let plan = plan(&sim, &policy(3));
    assert_eq!(plan.to.0, 3);
    assert_eq!(plan.order, [SlotId(0), SlotId(1), SlotId(2)]);
    sim.request(2, Request::Stop);
    assert_eq!(sim.core.plan_reload(&policy(3)), Err(Failure::Stopping));
}

#[test]
fn a_large_app_can_be_planned() {
    let mut sim = Sim::new(policy(200), Script::default());
    sim.run(ms(1_000));
    let new = Policy {
        batch: Batch::Percent(25),
        ..policy(200)
    };
    assert_eq!(plan(&sim, &new).order.len(), 200);
}

/// A worker is being asked, or looked at, and has yet to answer.
#[test]
fn what_is_awaited_from_workers_comes_at_once() {
    // The canary, at the end of its time.
    let mut sim = Sim::new(policy(2), Script::default());
    sim.run(ms(1_000));
    sim.request(1, Request::Reload);
    let asked = |sim: &Sim| {
        let held = |w: &&Worker| w.generation.0 == 2 && w.state == WorkerState::Ready;
        let canary = sim.core.workers().find(held);
        canary.is_some_and(|w| !w.settled && sim.core.timers.get(Timer::Settle(w.id)).is_none())
    };
    while !asked(&sim) {
        assert!(sim.turn());
    }
    assert_eq!(plan(&sim, &policy(2)).to.0, 3);
    // A look that is a process.
    let probed = Policy {
        ready: Ready::Exec(vec!["/bin/true".to_owned()]),
        ..policy(1)
    };
    let mut sim = Sim::new(probed.clone(), Script::default());
    while sim.core.timers.get(Timer::Probe(WorkerId(1))).is_some() {
        assert!(sim.turn());
    }
    let plan = plan(&sim, &probed);
    assert!(plan.least < ms(1_000), "{plan:?}");
}
