// SPDX-License-Identifier: MIT OR Apache-2.0
//! The simulation: the core, scripted workers and a clock that jumps.

mod ageing;
mod capacity;
mod crash;
mod deaths;
mod health;
mod invariants;
mod lifecycle;
mod node;
mod plan;
mod recycle;
mod resume;
mod resume_workers;
mod rollback;
mod rollout;
mod storm;
mod table;
mod words;

use super::*;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

pub(super) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A policy with short, round numbers.
pub(super) fn policy(workers: u32) -> Policy {
    Policy {
        workers,
        workers_source: "test".to_owned(),
        ready: Ready::Notify,
        start_timeout: ms(5_000),
        drain_timeout: ms(3_000),
        stop_signal: 15,
        drains: false,
        hung_timeout: Some(ms(30_000)),
        health: None,
        watchdog: None,
        pre_stop_delay: ms(0),
        max_memory: None,
        max_lifetime: None,
        restart: Restart::Always,
        stop_exit_codes: Vec::new(),
        backoff_min: ms(100),
        backoff_max: ms(2_000),
        crash_budget: 10,
        crash_window: ms(60_000),
        canary_time: ms(500),
        min_ready_time: ms(0),
        batch: Batch::Count(1),
        max_draining: None,
        on_failure: OnFailure::Rollback,
    }
}

/// How a worker behaves. Times count from its spawn, but `drains`: from its stop signal.
#[derive(Debug, Clone)]
pub(super) struct Script {
    pub ready: Option<Duration>,
    pub exits: Option<(Duration, Exit)>,
    pub drains: Option<Duration>,
    pub unspawnable: bool,
    /// What it answers when it is asked how it is, from these times on; at first: well.
    pub health: Vec<(Duration, Verdict)>,
    /// How often it gives a sign of life.
    pub pings: Option<Duration>,
    /// Its memory at the start, and what is added each second.
    pub memory: (u64, u64),
}

impl Default for Script {
    fn default() -> Self {
        Script {
            ready: Some(ms(100)),
            exits: None,
            drains: Some(ms(50)),
            unspawnable: false,
            health: Vec::new(),
            pings: None,
            memory: (50 << 20, 0),
        }
    }
}

/// What a configuration file would say when it is read.
pub(super) type Config = Result<(Policy, Script), String>;

pub(super) struct Sim {
    pub core: Supervisor,
    pub now: Time,
    /// Events to come; of equal times the first put in comes first.
    pub agenda: VecDeque<(Time, Event)>,
    /// The script of each generation.
    pub scripts: BTreeMap<GenerationId, Script>,
    /// What the next reads of the configuration yield (the last one stays).
    pub configs: VecDeque<Config>,
    pub alive: BTreeMap<WorkerId, GenerationId>,
    /// When each was asked to end.
    pub signalled: BTreeMap<WorkerId, Time>,
    pub killed: BTreeMap<WorkerId, Time>,
    /// When each got a stop signal.
    pub signals: BTreeMap<WorkerId, Vec<Time>>,
    pub log: Vec<Transition>,
    pub replies: Vec<(RequestId, Result<Done, Failure>)>,
    pub said_ready: Option<Time>,
    pub exit: Option<(Time, Outcome)>,
    /// Checked after every event.
    pub watch: fn(&Sim),
    /// No generation can be brought back.
    pub gone: bool,
    /// Put the core through its snapshot after every event.
    pub forgetful: bool,
    /// The supervisor is killed now and then.
    pub crashes: crash::Crashes,
    /// Workers whose `READY=1` was read.
    pub heard: BTreeSet<WorkerId>,
}

impl Sim {
    pub fn new(policy: Policy, script: Script) -> Sim {
        let mut sim = Sim {
            core: Supervisor::new(policy.clone(), 7),
            now: Time(1_000_000),
            agenda: VecDeque::new(),
            scripts: BTreeMap::from([(GenerationId(1), script.clone())]),
            configs: VecDeque::from([Ok((policy, script))]),
            alive: BTreeMap::new(),
            signalled: BTreeMap::new(),
            killed: BTreeMap::new(),
            signals: BTreeMap::new(),
            log: Vec::new(),
            replies: Vec::new(),
            said_ready: None,
            exit: None,
            watch: |_| {},
            gone: false,
            forgetful: false,
            crashes: crash::Crashes::default(),
            heard: BTreeSet::new(),
        };
        sim.event(Event::Begin);
        sim
    }

    pub fn schedule(&mut self, after: Duration, event: Event) {
        let at = self.now + after;
        let index = self.agenda.partition_point(|(t, _)| *t <= at);
        self.agenda.insert(index, (at, event));
    }

    pub fn event(&mut self, event: Event) {
        if let Event::Exited { worker, .. } = &event {
            if self.alive.remove(worker).is_none() {
                return; // it ended in another way before
            }
            let gone = *worker;
            let about = |e: &Event| match e {
                Event::Notified { worker, .. } | Event::Exited { worker, .. } => *worker == gone,
                _ => false,
            };
            self.agenda.retain(|(_, e)| !about(e));
        }
        if let Event::Notified { worker, what } = &event
            && *what == Notification::Ready
        {
            self.heard.insert(*worker);
        }
        let before = capacity::Before::of(self, &event);
        let older = self.crashes.is_armed().then(|| crash::Record::of(self));
        let actions = self.core.handle(self.now, event);
        before.check(self, &actions);
        let spawns = |a: &Action| matches!(a, Action::Spawn { .. });
        let order = |a: &Action| (spawns(a), a.ends_a_worker());
        assert!(actions.is_sorted_by_key(order), "spawns come last");
        if let Some(crash) = self.crashes.next(older, &self.core, &actions) {
            self.crash_during(crash, actions);
            return;
        }
        for action in actions {
            self.perform(action);
        }
        if self.forgetful {
            let text = serde_json::to_string(&self.core).expect("serialises");
            self.core = serde_json::from_str(&text).expect("deserialises");
            if self.exit.is_none() {
                self.core.check_snapshot(self.now).expect("it makes sense");
            }
        }
        (self.watch)(self);
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Spawn {
                worker, generation, ..
            } => self.spawn(worker, generation),
            Action::Signal { worker, .. } => {
                let now = self.now;
                self.signals.entry(worker).or_default().push(now);
                self.signal(worker);
            }
            Action::Ask { worker } => self.schedule(ms(0), Event::Alive { worker }),
            // A worker that drains has nothing to do.
            Action::Drain { worker, .. } => {
                self.signalled.entry(worker).or_insert(self.now);
                let grace = ms(0);
                self.schedule(ms(20), Event::Drained { worker, grace });
            }
            Action::Kill { worker } => {
                self.killed.insert(worker, self.now);
                let exit = Exit::Signal(9);
                self.schedule(ms(1), Event::Exited { worker, exit });
            }
            Action::Probe { worker } => {
                // What it has said is true, whoever has read it.
                let ready = self.heard.contains(&worker);
                self.schedule(ms(1), Event::Probed { worker, ready });
            }
            Action::Check { worker } => self.check(worker),
            Action::Hear { worker } => self.schedule(ms(0), Event::Heard { worker }),
            Action::Measure { worker } => self.measure(worker),
            Action::LoadConfig { generation } => self.load(generation),
            Action::Recall { generation, of } => self.recall(generation, of),
            Action::SayReady => self.said_ready = Some(self.now),
            Action::Announce(transition) => {
                if let Transition::Worker { worker, to, .. } = transition {
                    let has_time = self.core.timers.get(Timer::Kill(worker)).is_some();
                    if to == WorkerState::Draining || (to == WorkerState::Stopping && has_time) {
                        self.signalled.entry(worker).or_insert(self.now);
                    }
                }
                if let Transition::Exited {
                    worker, requested, ..
                } = transition
                {
                    let known = requested || !self.signals.contains_key(&worker);
                    assert!(
                        known,
                        "{worker} was asked to end, and is told to have crashed"
                    );
                }
                self.log.push(transition);
            }
            Action::Reply { to, result } => {
                assert!(to.0 >= self.crashes.first, "nobody waits for {to} any more");
                self.replies.push((to, result));
            }
            Action::Exit(outcome) => self.exit = Some((self.now, outcome)),
            Action::Release { .. } => {}
            Action::DropGeneration { generation } => {
                self.scripts.remove(&generation);
            }
        }
    }

    fn spawn(&mut self, worker: WorkerId, generation: GenerationId) {
        let script = self.scripts[&generation].clone();
        if script.unspawnable {
            let error = "no such file".to_owned();
            self.schedule(ms(0), Event::SpawnFailed { worker, error });
            return;
        }
        let twice = self.alive.insert(worker, generation);
        assert_eq!(twice, None, "{worker} was spawned twice");
        let pid = 1000 + worker.0 as i32;
        self.schedule(ms(0), Event::Spawned { worker, pid });
        if let Some(after) = script.ready {
            let what = Notification::Ready;
            self.schedule(after, Event::Notified { worker, what });
        }
        if let Some(every) = script.pings {
            let pings = (1..1_000u32).map(|n| every * n);
            for after in pings.take_while(|after| *after < ms(30_000)) {
                let what = Notification::Watchdog;
                self.schedule(after, Event::Notified { worker, what });
            }
        }
        if let Some((after, exit)) = script.exits {
            self.schedule(after, Event::Exited { worker, exit });
        }
    }

    fn signal(&mut self, worker: WorkerId) {
        self.signalled.entry(worker).or_insert(self.now);
        let Some(generation) = self.alive.get(&worker) else {
            return;
        };
        if let Some(after) = self.scripts[generation].drains {
            let exit = Exit::Signal(15);
            self.schedule(after, Event::Exited { worker, exit });
        }
    }

    fn check(&mut self, worker: WorkerId) {
        let Some(known) = self.core.worker(worker) else {
            return;
        };
        let (age, script) = (
            self.now.since(known.spawned),
            &self.scripts[&known.generation],
        );
        let said = script.health.iter().rfind(|(from, _)| *from <= age);
        let verdict = said.map_or(Verdict::Healthy, |(_, verdict)| verdict.clone());
        self.schedule(ms(1), Event::Checked { worker, verdict });
    }

    fn measure(&mut self, id: WorkerId) {
        let Some(worker) = self.core.worker(id) else {
            return;
        };
        let (first, leak) = self.scripts[&worker.generation].memory;
        let age = self.now.since(worker.spawned).as_millis() as u64;
        let memory = Some(first + leak * age / 1_000);
        let worker = id;
        self.schedule(ms(5), Event::Measured { worker, memory });
    }

    fn load(&mut self, generation: GenerationId) {
        let config = match self.configs.len() {
            0 | 1 => self.configs.front().cloned(),
            _ => self.configs.pop_front(),
        };
        let result = match config.expect("a configuration") {
            Ok((policy, script)) => {
                self.scripts.insert(generation, script);
                Ok(Box::new(policy))
            }
            Err(error) => Err(error),
        };
        self.schedule(ms(1), Event::ConfigLoaded { generation, result });
    }

    fn recall(&mut self, generation: GenerationId, of: GenerationId) {
        let kept = self.scripts.get(&of).cloned();
        let result = match (kept, self.gone) {
            (Some(script), false) => {
                self.scripts.insert(generation, script);
                Ok(())
            }
            _ => Err("/srv/app/releases/1 is gone".to_owned()),
        };
        self.schedule(ms(1), Event::Recalled { generation, result });
    }

    /// Jumps to the next thing that happens; `false` when nothing will.
    pub fn turn(&mut self) -> bool {
        let event = self.agenda.front().map(|(at, _)| *at);
        let deadline = self.core.next_deadline();
        let Some(at) = event.into_iter().chain(deadline).min() else {
            return false;
        };
        self.now = self.now.max(at);
        let due = self.agenda.front().is_some_and(|(t, _)| *t <= at);
        match due.then(|| self.agenda.pop_front()).flatten() {
            Some((_, event)) => self.event(event),
            None => {
                self.event(Event::Wake);
                let next = self.core.next_deadline();
                assert!(next.is_none_or(|t| t > self.now), "a busy deadline");
            }
        }
        true
    }

    /// Lets time pass.
    pub fn run(&mut self, span: Duration) {
        let end = self.now + span;
        let mut turns = 0;
        loop {
            let event = self.agenda.front().map(|(at, _)| *at);
            let next = event.into_iter().chain(self.core.next_deadline()).min();
            if next.is_none_or(|at| at > end) {
                break;
            }
            self.turn();
            turns += 1;
            assert!(turns < 100_000, "no progress");
        }
        self.now = self.now.max(end);
    }

    pub fn request(&mut self, id: u64, what: Request) {
        let from = Some(RequestId(id));
        self.crashes.asked = self.crashes.asked.max(id);
        self.event(Event::Requested { from, what });
    }

    pub fn reply(&self, id: u64) -> Option<&Result<Done, Failure>> {
        let found: Vec<_> = self.replies.iter().filter(|(r, _)| r.0 == id).collect();
        assert!(found.len() <= 1, "more than one reply to r{id}");
        found.first().map(|(_, result)| result)
    }

    /// The worker that serves a slot.
    pub fn serving(&self, slot: u32) -> Option<&Worker> {
        let mut all = self.core.workers();
        all.find(|w| w.slot.0 == slot && w.state == WorkerState::Ready)
    }

    /// Ends a worker from outside.
    pub fn crash(&mut self, worker: WorkerId, exit: Exit) {
        self.event(Event::Exited { worker, exit });
    }

    /// Generations of the ready workers, by slot.
    pub fn ready_generations(&self) -> Vec<u64> {
        let slots = 0..self.core.slots().len() as u32;
        let ready = slots.filter_map(|i| self.serving(i));
        ready.map(|w| w.generation.0).collect()
    }
}
