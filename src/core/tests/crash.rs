// SPDX-License-Identifier: MIT OR Apache-2.0
//! The supervisor is killed at any moment, time passes, and another one takes over: as the
//! engine does it, from what was recorded last. The workers do not notice.

use super::*;

/// What is in a snapshot.
#[derive(Debug, Clone)]
pub(in crate::core) struct Record {
    core: Supervisor,
    scripts: BTreeMap<GenerationId, Script>,
    /// Who was about to get a stop signal.
    unsent: Vec<WorkerId>,
}

impl Record {
    pub fn of(sim: &Sim) -> Record {
        Record {
            core: sim.core.clone(),
            scripts: sim.scripts.clone(),
            unsent: Vec::new(),
        }
    }
}

/// One death.
#[derive(Debug, Clone)]
pub(in crate::core) struct Crash {
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
pub(in crate::core) struct Crashes {
    pub plan: VecDeque<Crash>,
    /// Events that are handled in a turn, at whose end it is recorded; at least one.
    pub turn: usize,
    /// The last record, and the events since.
    last: Option<(Record, usize)>,
    waited: usize,
    /// The last request, and the first one that somebody still waits for.
    pub asked: u64,
    pub first: u64,
    pub happened: usize,
    /// Until that is done, nobody re-executes itself.
    taking_over: bool,
}

/// Where a death cuts what an event leads to, and what is recorded then.
pub(in crate::core) struct Cut {
    crash: Crash,
    actions: usize,
    record: Option<Record>,
    unsent: Vec<WorkerId>,
}

impl Crashes {
    pub fn new(plan: Vec<Crash>, turn: usize) -> Crashes {
        Crashes {
            plan: plan.into(),
            turn,
            ..Crashes::default()
        }
    }

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
        let first = actions.iter().position(Action::ends_a_worker);
        let crash = self.plan.front().filter(|crash| self.waited > crash.after);
        if let Some(mut crash) = crash.cloned() {
            self.plan.pop_front();
            (self.waited, self.last) = (0, None);
            crash.exact &= !self.taking_over;
            if crash.exact {
                (crash.cut, crash.recorded) = (usize::MAX, true);
            }
            let done = crash.cut.min(actions.len());
            // Before what ends workers, before a spawn, and at the end of the turn.
            let is_point = |n: &usize| Some(*n) == first || actions.get(*n).is_none_or(spawn);
            let passed = |n: &usize| *n < done || crash.recorded;
            let last = (0..=done).rfind(|n| is_point(n) && passed(n));
            return Some(Cut {
                actions: done,
                record: last.is_none().then_some(recorded),
                unsent: last.map_or_else(Vec::new, |n| signals(&actions[n..])),
                crash,
            });
        }
        let turned = actions.iter().any(spawn) || events + 1 >= self.turn.max(1);
        let new = |unsent| Record {
            core: core.clone(),
            scripts: older.scripts.clone(),
            unsent,
        };
        self.last = Some(match (turned, first) {
            (true, _) => (new(Vec::new()), 0),
            (false, Some(n)) => (new(signals(&actions[n..])), events + 1),
            (false, None) => (recorded, events + 1),
        });
        None
    }
}

fn signals(actions: &[Action]) -> Vec<WorkerId> {
    actions.iter().filter_map(Action::signals).collect()
}

impl Sim {
    /// Does what was done before it died, and lets another one take over.
    pub(super) fn crash_during(&mut self, cut: Cut, actions: Vec<Action>) {
        for action in actions.into_iter().take(cut.actions) {
            self.perform(action);
        }
        if self.exit.is_none() {
            let new = || Record {
                unsent: cut.unsent,
                ..Record::of(self)
            };
            let record = cut.record.unwrap_or_else(new);
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
            self.crashes.first = self.crashes.asked + 1;
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
        for worker in record.unsent {
            self.core.doubt_signal(worker);
        }
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

/// The same for all: it has come to rest, whatever has happened.
pub(super) fn assert_at_rest(sim: &Sim) {
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
