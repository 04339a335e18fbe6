// SPDX-License-Identifier: MIT OR Apache-2.0
//! The supervisor is killed at any moment, time passes, and another one takes over: as the
//! engine does it, from what was recorded last. The workers do not notice.

use super::invariants::{Step, config, play, policies, scripts, steps};
use super::*;
use proptest::prelude::*;

/// What is in a snapshot.
#[derive(Debug, Clone)]
pub(super) struct Record {
    core: Supervisor,
    scripts: BTreeMap<GenerationId, Script>,
}

impl Record {
    pub fn of(sim: &Sim) -> Record {
        Record {
            core: sim.core.clone(),
            scripts: sim.scripts.clone(),
        }
    }
}

/// One death.
#[derive(Debug, Clone)]
pub(super) struct Crash {
    /// So many events after the one before.
    pub after: usize,
    /// After so many of the event's actions (at the most: after them all).
    pub cut: usize,
    /// What was to be recorded then has been.
    pub recorded: bool,
    /// Until somebody takes over.
    pub away: Duration,
    /// No death, but a re-execution: when all is done and recorded.
    pub exact: bool,
}

/// Deaths to come.
#[derive(Debug, Default)]
pub(super) struct Crashes {
    pub plan: VecDeque<Crash>,
    /// Events that are handled in a turn, at whose end it is recorded; at least one.
    pub turn: usize,
    /// The last record, and the events since.
    last: Option<(Record, usize)>,
    waited: usize,
    /// The last request, and the last one that nobody waits for any more.
    pub asked: u64,
    pub gone: u64,
    pub happened: usize,
    /// Until that is done, nobody re-executes itself.
    taking_over: bool,
}

/// Where a death cuts what an event leads to, and what is recorded then.
pub(super) struct Cut {
    crash: Crash,
    actions: usize,
    record: Option<Record>,
}

impl Crashes {
    pub fn is_armed(&self) -> bool {
        !self.plan.is_empty()
    }

    /// Keeps the record as the engine does; `Some`: it dies now. `older`: before the event.
    pub fn next(
        &mut self,
        older: Option<Record>,
        core: &Supervisor,
        actions: &[Action],
    ) -> Option<Cut> {
        let older = older?;
        let (recorded, events) = self.last.take().unwrap_or((older.clone(), 0));
        self.waited += 1;
        let spawn = |a: &Action| matches!(a, Action::Spawn { .. });
        let crash = self.plan.front().filter(|crash| self.waited > crash.after);
        if let Some(mut crash) = crash.cloned() {
            self.plan.pop_front();
            (self.waited, self.last) = (0, None);
            crash.exact &= !self.taking_over;
            if crash.exact {
                (crash.cut, crash.recorded) = (usize::MAX, true);
            }
            let done = crash.cut.min(actions.len());
            // Before a spawn, and at the end of the turn.
            let here = done == actions.len() || spawn(&actions[done]);
            let new = actions[..done].iter().any(spawn) || (here && crash.recorded);
            return Some(Cut {
                crash,
                actions: done,
                record: (!new).then_some(recorded),
            });
        }
        let ends = actions.iter().any(spawn) || events + 1 >= self.turn.max(1);
        self.last = match ends {
            true => {
                let core = core.clone();
                let scripts = older.scripts;
                Some((Record { core, scripts }, 0))
            }
            false => Some((recorded, events + 1)),
        };
        None
    }
}

impl Sim {
    /// Does what was done before it died, and lets another one take over.
    pub(super) fn crash_during(&mut self, cut: Cut, actions: Vec<Action>) {
        for action in actions.into_iter().take(cut.actions) {
            self.perform(action);
        }
        if self.exit.is_none() {
            let record = cut.record.unwrap_or_else(|| Record::of(self));
            self.take_over(record, cut.crash.away, cut.crash.exact);
        }
    }

    /// It dies between two turns, with everything recorded.
    pub(super) fn die(&mut self, away: Duration) {
        self.take_over(Record::of(self), away, false);
    }

    pub(super) fn reexec(&mut self) {
        self.take_over(Record::of(self), ms(3), true);
    }

    pub(super) fn take_over(&mut self, record: Record, away: Duration, exact: bool) {
        self.crashes.happened += 1;
        let this = self.crashes.happened;
        if !exact {
            self.crashes.gone = self.crashes.asked;
        }
        let text = serde_json::to_string(&record.core).expect("serialises");
        self.core = serde_json::from_str(&text).expect("deserialises");
        // What was read since then is there all the same.
        let known = std::mem::replace(&mut self.scripts, record.scripts);
        for (generation, script) in known {
            self.scripts.entry(generation).or_insert(script);
        }
        self.pass(away, exact);
        assert_eq!(self.core.check_snapshot(self.now), Ok(()));
        let mut events = Vec::new();
        for worker in self.core.without_pid() {
            if self.alive.contains_key(&worker) {
                let pid = 1000 + worker.0 as i32;
                events.push(Event::Spawned { worker, pid });
            }
        }
        events.push(Event::Resumed { exact });
        let all: Vec<(WorkerId, GenerationId)> =
            self.core.workers().map(|w| (w.id, w.generation)).collect();
        let ran = |id: &WorkerId| {
            let spawned = |e: &Event| matches!(e, Event::Spawned { worker, .. } if worker == id);
            let known = self.core.worker(*id).is_some_and(|w| w.pid.is_some());
            known || events.iter().any(spawned)
        };
        let lost: Vec<(WorkerId, GenerationId)> = all
            .into_iter()
            .filter(|(id, _)| ran(id) && !self.alive.contains_key(id))
            .collect();
        for (worker, generation) in lost {
            // It is told of, if not by its own end.
            self.alive.insert(worker, generation);
            let exit = Exit::Unknown;
            events.push(Event::Exited { worker, exit });
        }
        let told = self.log.len();
        self.crashes.taking_over = true;
        for event in events {
            self.event(event);
            if self.crashes.happened != this {
                return; // it has died again
            }
        }
        self.crashes.taking_over = false;
        self.nobody_died_of_it(told);
    }

    /// What happens while nobody looks. Messages of workers wait in their sockets; answers to
    /// what was asked are never heard.
    fn pass(&mut self, away: Duration, exact: bool) {
        self.now = self.now + away;
        for (at, event) in std::mem::take(&mut self.agenda) {
            let over = at <= self.now;
            let at = at.max(self.now);
            match &event {
                Event::Exited { worker, .. } if over => {
                    self.alive.remove(worker);
                }
                Event::Notified { .. } | Event::Exited { .. } => self.agenda.push_back((at, event)),
                Event::Drained { .. } if exact => self.agenda.push_back((at, event)),
                _ => {}
            }
        }
        let alive = &self.alive;
        let lives = |e: &Event| match e {
            Event::Notified { worker, .. } | Event::Exited { worker, .. } => {
                alive.contains_key(worker)
            }
            _ => true,
        };
        self.agenda.retain(|(_, event)| lives(event));
    }

    /// What workers have said meanwhile is heard, then deadlines count: none is over yet.
    fn nobody_died_of_it(&mut self, told: usize) {
        let due = self.agenda.partition_point(|(at, _)| *at <= self.now);
        for (_, event) in self.agenda.drain(..due).collect::<Vec<_>>() {
            self.event(event);
        }
        self.event(Event::Wake);
        for transition in &self.log[told..] {
            let unwell = match transition {
                Transition::Failed { blame, .. } => !matches!(
                    blame.cause,
                    Cause::SpawnFailed(_)
                        | Cause::ExitedEarly(_)
                        | Cause::Crashed { .. }
                        | Cause::OverBudget { .. }
                ),
                Transition::Recycled { why, .. } => {
                    matches!(why, Recycle::Unhealthy(_) | Recycle::Silent { .. })
                }
                _ => false,
            };
            assert!(!unwell, "{transition:?}");
        }
    }
}

fn crashes() -> impl Strategy<Value = Crashes> {
    let away = prop_oneof![
        1 => Just(ms(0)),
        3 => (0..500u64).prop_map(ms),
        2 => (0..10_000u64).prop_map(ms),
        1 => (10_000..3_600_000u64).prop_map(ms),
    ];
    let cut = prop_oneof![1 => 0..6usize, 1 => Just(usize::MAX)];
    let one = (
        0..25usize,
        cut,
        any::<bool>(),
        away,
        prop::bool::weighted(0.2),
    );
    let one = one.prop_map(|(after, cut, recorded, away, exact)| Crash {
        after,
        cut,
        recorded,
        away,
        exact,
    });
    let turn = prop_oneof![2 => Just(1), 1 => 2..6usize];
    (prop::collection::vec(one, 1..20), turn).prop_map(|(plan, turn)| Crashes {
        plan: plan.into(),
        turn,
        ..Crashes::default()
    })
}

/// The same for all: it has come to rest, whatever has happened.
fn assert_at_rest(sim: &Sim) {
    let core = &sim.core;
    let (desired, _) = core.desired_workers();
    let line = core.status_line();
    assert_eq!(sim.exit, None, "{line}");
    assert!(core.is_settled(), "{line}");
    assert_eq!(core.ready_workers(), desired, "{line}");
    assert_eq!(sim.alive.len() as u32, desired, "{:?}", sim.alive);
    assert_eq!(core.workers().count() as u32, desired);
    let serves = core.generation().0;
    let all = sim.ready_generations();
    assert!(all.iter().all(|g| *g == serves), "{serves} {all:?}");
    assert!(core.generations.len() <= 2);
    assert_eq!(core.waiters, []);
    assert_eq!(core.check_snapshot(sim.now), Ok(()));
}

/// Well from now on; the last word is a reload to three workers.
fn settle(sim: &mut Sim) {
    sim.crashes.plan.clear();
    for script in sim.scripts.values_mut() {
        *script = Script::default();
    }
    sim.gone = false;
    sim.run(ms(60_000));
    sim.configs = VecDeque::from([Ok((policy(3), Script::default()))]);
    sim.request(1_000, Request::Reload);
    sim.run(ms(300_000));
    assert!(
        sim.reply(1_000).is_some_and(Result::is_ok),
        "{:?}",
        sim.reply(1_000)
    );
    assert_at_rest(sim);
    assert_eq!(sim.core.next_deadline(), None);
}

proptest! {
    #![proptest_config(config())]

    /// No panic, no busy deadline, no reply to those who are gone, at most one to the others,
    /// no SIGKILL before its time, nobody fails because nobody has looked, and it can be
    /// stopped.
    #[test]
    fn anything_may_happen_to_a_supervisor_that_is_killed(
        p in policies(),
        s in scripts(),
        steps in steps(),
        crashes in crashes(),
    ) {
        let mut sim = Sim::new(p, s);
        sim.watch = super::invariants::kills_are_earned;
        sim.crashes = crashes;
        let asked = play(&mut sim, &steps);
        sim.request(asked + 1, Request::Stop);
        sim.run(ms(120_000));
        // Perhaps it has never heard of it.
        sim.crashes.plan.clear();
        sim.request(asked + 2, Request::Stop);
        sim.run(ms(120_000));
        prop_assert!(sim.exit.is_some(), "{}", sim.core.status_line());
        prop_assert!(sim.alive.is_empty(), "left: {:?}", sim.alive);
        let mut ids: Vec<_> = sim.replies.iter().map(|r| r.0).collect();
        ids.sort();
        ids.dedup();
        prop_assert_eq!(ids.len(), sim.replies.len(), "a request got two replies");
    }

    /// `Before::check` is called at every event.
    #[test]
    fn ready_workers_are_never_given_away_by_a_supervisor_that_is_killed(
        p in policies(),
        s in scripts(),
        steps in steps(),
        crashes in crashes(),
    ) {
        let mut sim = Sim::new(p, Script { ready: Some(ms(100)), unspawnable: false, ..s });
        sim.crashes = crashes;
        let restart = |step: &Step| matches!(step, Step::Request(Request::Restart));
        let steps: Vec<Step> = steps.into_iter().filter(|step| !restart(step)).collect();
        play(&mut sim, &steps);
        sim.run(ms(10_000));
    }

    /// Whatever was lost: in the end each slot has one ready worker, and nobody else lives.
    #[test]
    fn it_comes_to_rest_after_any_deaths(
        p in policies(),
        steps in steps(),
        crashes in crashes(),
    ) {
        let mut sim = Sim::new(p, Script::default());
        sim.run(ms(1_000));
        sim.crashes = crashes;
        play(&mut sim, &steps);
        settle(&mut sim);
    }

    /// Killed only when all was recorded, it ends as one that was not killed ends, up to what
    /// cannot be known or is meant to differ: names (workers, generations, pids), times, the
    /// jitter, what was counted (crashes, restarts, recyclings; a death that nobody saw has no
    /// status), which generation can be gone back to (an interrupted rollout may have been
    /// undone), and replies to those who waited. So the same are: the number of workers and who
    /// has set it, the rules of the generation that serves, one ready worker in each slot, and
    /// that nothing is wrong or under way.
    #[test]
    fn a_supervisor_that_is_killed_ends_like_one_that_is_not(
        p in policies(),
        steps in steps(),
        mut crashes in crashes(),
    ) {
        // By how many depends on the generation that serves then.
        let by = |step: &Step| matches!(step, Step::Request(Request::Scale(Scale::By(_))));
        let steps: Vec<Step> = steps.into_iter().filter(|step| !by(step)).collect();
        for crash in &mut crashes.plan {
            (crash.cut, crash.recorded) = (usize::MAX, true);
        }
        crashes.turn = 1;
        let mut ends = Vec::new();
        for crashes in [Crashes::default(), crashes] {
            let mut sim = Sim::new(p.clone(), Script::default());
            sim.run(ms(1_000));
            sim.crashes = crashes;
            play(&mut sim, &steps);
            settle(&mut sim);
            let core = sim.core;
            let rules = core.generations[&core.generation].policy.clone();
            let failed = core.slots.iter().filter(|s| s.failed.is_some() || s.stopped).count();
            ends.push((
                core.desired_workers(),
                core.scale,
                rules,
                core.slots.len(),
                failed,
                core.degraded,
                core.said_ready,
                core.outcome,
            ));
        }
        prop_assert_eq!(&ends[0], &ends[1]);
    }
}
