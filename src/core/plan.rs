// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a reload would do, found out on a copy: with workers that start and end at once.

use super::*;
use std::collections::VecDeque;
use std::time::Duration;

/// Nobody else has this name.
const ASKER: RequestId = RequestId(u64::MAX);
/// Most events that are simulated; the largest app needs some ten thousand.
const MOST: usize = 1_000_000;

/// What a reload would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The generation that serves before it.
    pub from: GenerationId,
    /// The new one.
    pub to: GenerationId,
    /// The workers before it, and after it.
    pub workers: (u32, u32),
    /// The slots in the order in which they get a new worker; the first is the canary's.
    pub order: Vec<SlotId>,
    /// How many of them, after the canary, at a time.
    pub at_once: u32,
    /// Workers, old and new, that serve or start at the same time, at the most. Those that
    /// finish their last requests come on top.
    pub most: u32,
    /// How long it takes if workers start and end in no time.
    pub least: Duration,
}

/// A copy of the core, and what happens to it.
struct Rehearsal<'p> {
    core: Supervisor,
    policy: &'p Policy,
    events: VecDeque<Event>,
    /// Slots that got a worker of which generation, and in which turn.
    spawned: Vec<(GenerationId, SlotId, usize)>,
    loaded: Option<GenerationId>,
    turn: usize,
    most: usize,
    reply: Option<Result<Done, Failure>>,
}

impl Supervisor {
    /// What a reload to a configuration with `policy` would do now. A rollout under way
    /// comes first, and is not part of it. Nothing is changed.
    ///
    /// # Errors
    /// What such a reload would be answered.
    pub fn plan_reload(&self, policy: &Policy) -> Result<Plan, Failure> {
        if self.over || self.state == ClusterState::Stopping {
            return Err(Failure::Stopping);
        }
        let mut rehearsal = Rehearsal {
            core: self.clone(),
            policy,
            events: VecDeque::new(),
            spawned: Vec::new(),
            loaded: None,
            turn: 0,
            most: 0,
            reply: None,
        };
        rehearsal.settle_present();
        let from = Some(ASKER);
        let what = Request::Reload;
        rehearsal.events.push_back(Event::Requested { from, what });
        let end = rehearsal.run(self.now);
        let core = &rehearsal.core;
        match (rehearsal.reply, rehearsal.loaded) {
            (Some(Err(failure)), _) => Err(failure),
            (_, None) => Err(Failure::Superseded),
            (_, Some(to)) => {
                let new = rehearsal.spawned.iter().filter(|(of, ..)| *of == to);
                let turns: Vec<usize> = new.clone().map(|(.., turn)| *turn).collect();
                let in_turn = |turn: &usize| turns.iter().filter(|t| *t == turn).count();
                let at_once = turns.iter().skip(1).map(in_turn).max();
                Ok(Plan {
                    from: self.generation,
                    to,
                    workers: (self.desired(), core.rollout_span(to)),
                    order: new.map(|(_, slot, _)| *slot).collect(),
                    at_once: at_once.unwrap_or(1) as u32,
                    most: rehearsal.most as u32,
                    least: end.since(self.now),
                })
            }
        }
    }
}

impl Rehearsal<'_> {
    /// What is under way ends well.
    fn settle_present(&mut self) {
        for worker in self.core.workers.values() {
            let (id, generation) = (worker.id, worker.generation);
            if worker.checkup.asked.is_some() {
                let verdict = Verdict::Healthy;
                let worker = id;
                self.events.push_back(Event::Checked { worker, verdict });
            }
            match worker.state {
                WorkerState::Starting => {
                    let ready = &self.core.policy(generation).ready;
                    self.events.extend(becomes_ready(id, ready));
                    // Where it is being looked at.
                    let looks = matches!(ready, Ready::Auto | Ready::Accepting | Ready::Exec(_));
                    if looks && self.core.timers.get(Timer::Probe(id)).is_none() {
                        let (worker, ready) = (id, true);
                        self.events.push_back(Event::Probed { worker, ready });
                    }
                }
                WorkerState::Draining | WorkerState::Stopping => {
                    let exit = Exit::Code(0);
                    self.events.push_back(Event::Exited { worker: id, exit });
                }
                // Ignored unless it has been asked.
                WorkerState::Ready if !worker.settled => {
                    self.events.push_back(Event::Alive { worker: id });
                }
                WorkerState::Ready | WorkerState::Gone => {}
            }
        }
        let loading = self.core.rollout.as_ref().map(|rollout| rollout.to);
        if let Some(generation) = loading {
            // Ignored unless it is still being read, or recalled.
            self.load(generation);
            self.recall(generation);
        }
    }

    fn load(&mut self, generation: GenerationId) {
        let result = Ok(Box::new(self.policy.clone()));
        self.events
            .push_back(Event::ConfigLoaded { generation, result });
    }

    fn recall(&mut self, generation: GenerationId) {
        let result = Ok(());
        self.events
            .push_back(Event::Recalled { generation, result });
    }

    /// Until the answer comes, or nothing follows; returns when that is.
    fn run(&mut self, began: Time) -> Time {
        let mut now = began;
        for _ in 0..MOST {
            let Some(event) = self.events.pop_front() else {
                match self.core.next_deadline() {
                    Some(at) => now = now.max(at),
                    None => return now,
                }
                self.events.push_back(Event::Wake);
                continue;
            };
            self.turn += 1;
            for action in self.core.handle(now, event) {
                self.react(action);
            }
            let live = self.core.workers.values().filter(|w| w.state.is_live());
            self.most = self.most.max(live.count());
            if self.reply.is_some() {
                return now;
            }
        }
        now
    }

    fn react(&mut self, action: Action) {
        match action {
            Action::Spawn {
                worker,
                slot,
                generation,
            } => {
                self.spawned.push((generation, slot, self.turn));
                self.events.push_back(Event::Spawned { worker, pid: 0 });
                let ready = &self.core.policy(generation).ready;
                self.events.extend(becomes_ready(worker, ready));
            }
            Action::Probe { worker } => {
                let ready = true;
                self.events.push_back(Event::Probed { worker, ready });
            }
            Action::Check { worker } => {
                let verdict = Verdict::Healthy;
                self.events.push_back(Event::Checked { worker, verdict });
            }
            Action::Hear { worker } => {
                let what = Notification::Watchdog;
                self.events.push_back(Event::Notified { worker, what });
                self.events.push_back(Event::Heard { worker });
            }
            Action::Ask { worker } => self.events.push_back(Event::Alive { worker }),
            Action::Drain { worker, .. } => {
                let grace = Duration::ZERO;
                self.events.push_back(Event::Drained { worker, grace });
            }
            Action::Signal { worker, .. } | Action::Kill { worker } => {
                let exit = Exit::Code(0);
                self.events.push_back(Event::Exited { worker, exit });
            }
            Action::LoadConfig { generation } => {
                self.loaded = Some(generation);
                self.load(generation);
            }
            Action::Recall { generation, .. } => self.recall(generation),
            Action::Reply { to: ASKER, result } => self.reply = Some(result),
            Action::Release { .. }
            | Action::DropGeneration { .. }
            | Action::SayReady
            | Action::Announce(_)
            | Action::Reply { .. }
            | Action::Exit(_)
            | Action::Measure { .. } => {}
        }
    }
}

/// What a worker says when it is ready, where it has to say something.
fn becomes_ready(worker: WorkerId, ready: &Ready) -> Option<Event> {
    let what = match ready {
        Ready::Auto | Ready::Notify => Notification::Ready,
        Ready::Listening => Notification::Listening,
        Ready::Message => Notification::SaidReady,
        Ready::Accepting | Ready::Exec(_) | Ready::Delay(_) => return None,
    };
    Some(Event::Notified { worker, what })
}
