// SPDX-License-Identifier: MIT OR Apache-2.0
//! Workers that run and are replaced, their replacement first.

use super::*;

const MEMORY: Recycle = Recycle::Memory { used: 2, limit: 1 };

fn served(script: Script) -> Sim {
    let mut sim = Sim::new(policy(2), script);
    sim.run(ms(1_000));
    assert_eq!(sim.core.workers_where(|w| w.settled).len(), 2);
    sim
}

/// Asks for it, and has the core do what follows.
fn recycle(sim: &mut Sim, id: WorkerId, why: Recycle) -> bool {
    let done = sim.core.recycle(id, why);
    sim.event(Event::Wake);
    done
}

/// Its replacement fails, until the script lets one live.
fn stays_until_another_succeeds(sim: &mut Sim, old: WorkerId) {
    assert!(recycle(sim, old, MEMORY));
    sim.run(ms(3_000));
    let state = sim.core.worker(old).map(|w| w.state);
    assert_eq!(state, Some(WorkerState::Ready));
    sim.scripts.insert(GenerationId(1), Script::default());
    sim.run(ms(10_000));
    assert!(!sim.alive.contains_key(&old));
}

#[test]
fn it_serves_until_its_replacement_is_ready() {
    let mut sim = served(Script::default());
    sim.watch = |sim| {
        let ready = sim.core.workers_where(|w| w.state == WorkerState::Ready);
        assert!(ready.len() >= 2, "{ready:?}");
    };
    let old = sim.serving(0).expect("a worker").id;
    assert!(recycle(&mut sim, old, MEMORY));
    sim.run(ms(1_000));
    assert_ne!(sim.serving(0).expect("another").id, old);
    assert!(!sim.alive.contains_key(&old));
    assert!(!recycle(&mut sim, old, MEMORY), "it is gone");
}

#[test]
fn a_replacement_that_fails_leaves_it_there() {
    let mut sim = served(Script::default());
    let old = sim.serving(0).expect("a worker").id;
    let script = sim.scripts.get_mut(&GenerationId(1)).expect("a script");
    script.exits = Some((ms(10), Exit::Code(1)));
    stays_until_another_succeeds(&mut sim, old);
}

/// Not even where workers are never started again does one that serves go for nothing.
#[test]
fn a_replacement_that_is_not_to_be_followed_leaves_it_there_too() {
    let ends = [
        (Restart::Never, vec![], 1),
        (Restart::OnFailure, vec![], 0),
        (Restart::Always, vec![7], 7),
    ];
    for (restart, stop_exit_codes, code) in ends {
        for asked in [false, true] {
            let p = Policy {
                restart,
                stop_exit_codes: stop_exit_codes.clone(),
                ..policy(1)
            };
            let mut sim = Sim::new(p, Script::default());
            sim.run(ms(1_000));
            sim.watch = |sim| assert_eq!(sim.core.ready_workers(), 1);
            let old = sim.serving(0).expect("a worker").id;
            let script = sim.scripts.get_mut(&GenerationId(1)).expect("a script");
            script.exits = Some((ms(10), Exit::Code(code)));
            if asked {
                sim.request(1, Request::Replace(SlotId(0)));
                sim.run(ms(3_000));
                assert!(matches!(sim.reply(1), Some(Err(Failure::WorkerFailed(_)))));
                assert!(!sim.core.slots()[0].stopped, "it has a worker");
            }
            stays_until_another_succeeds(&mut sim, old);
        }
    }
}

#[test]
fn what_is_planned_is_done_one_by_one_and_what_is_wrong_at_once() {
    let mut sim = served(Script::default());
    let [a, b] = [0, 1].map(|slot| sim.serving(slot).expect("a worker").id);
    assert!(recycle(&mut sim, a, MEMORY));
    assert!(!recycle(&mut sim, a, MEMORY), "it is on its way");
    assert!(!recycle(&mut sim, b, MEMORY), "one at a time");
    let sick = Recycle::Unhealthy("answered 500".to_owned());
    assert!(recycle(&mut sim, b, sick));
    sim.run(ms(1_000));
    assert!(!sim.alive.contains_key(&a) && !sim.alive.contains_key(&b));
}

#[test]
fn what_is_planned_waits_for_a_rollout() {
    let mut sim = served(Script::default());
    let old = sim.serving(1).expect("a worker").id;
    let what = Request::Reload;
    sim.event(Event::Requested { from: None, what });
    assert!(!recycle(&mut sim, old, MEMORY));
    sim.run(ms(5_000));
    let new = sim.serving(1).expect("a worker").id;
    assert!(new != old && recycle(&mut sim, new, MEMORY));
}
