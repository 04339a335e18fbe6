// SPDX-License-Identifier: MIT OR Apache-2.0
//! The supervisor's decisions: pure, synchronous, no I/O.
//!
//! [`Supervisor::handle`] takes what happened and when, and returns what is to
//! be done. Every handler only records facts; [`reconcile`](Supervisor) compares
//! what should be with what is, and alone decides to spawn or stop. Time, like
//! everything else from outside, is an argument.
//!
//! A [`Supervisor`] outlives the process that made it: the next one, perhaps of another
//! version, reads it from the snapshot ([`Event::Resumed`]). So the rule for all that is stored
//! in it: a field that is added from now on has `#[serde(default)]`, with a default that says
//! what was the case before it; no field and no variant changes its name or its meaning.

mod action;
mod ageing;
mod blame;
mod event;
mod health;
mod ids;
mod lifecycle;
mod liveness;
mod plan;
mod policy;
mod reconcile;
mod recycle;
mod requests;
mod restart;
mod resume;
mod rollback;
mod rollout;
mod sane;
mod status;
mod stop;
mod time;
mod timer;
mod transition;
mod undo;
mod watchdog;
mod worker;

#[cfg(test)]
mod tests;

pub use action::{Action, Done, Failure, Outcome};
pub use blame::{Blame, Cause};
pub use event::{Event, Exit, Notification, Request, Scale};
pub use health::{Checkup, Health, Verdict};
pub use ids::{GenerationId, RequestId, SlotId, WorkerId};
pub use plan::Plan;
pub use policy::{Batch, OnFailure, Policy, Ready, Restart};
pub use recycle::Recycle;
pub use requests::MAX_WORKERS;
pub use rollback::RolledBack;
pub use status::RolloutStatus;
pub use stop::last_words;
pub use time::Time;
pub use timer::Timer;
pub use transition::{ClusterState, RolloutStep, Transition};
pub use worker::{Generation, LastExit, Slot, Worker, WorkerState};

use requests::Waiter;
use rollout::{Queued, Rollout};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use timer::Timers;

/// The state of one app's supervisor: plain data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Supervisor {
    now: Time,
    began: Time,
    state: ClusterState,
    said_ready: bool,
    over: bool,
    /// The last generation that was rolled out; crashes are answered with it.
    generation: GenerationId,
    /// The one before it that can be gone back to.
    last_good: Option<GenerationId>,
    generations: BTreeMap<GenerationId, Generation>,
    slots: Vec<Slot>,
    workers: BTreeMap<WorkerId, Worker>,
    /// The number of workers asked for by hand; wins over the policy's.
    scale: Option<u32>,
    rollout: Option<Rollout>,
    queued: Option<Queued>,
    waiters: Vec<Waiter>,
    timers: Timers,
    degraded: Option<String>,
    outcome: Outcome,
    next_worker: u64,
    next_generation: u64,
    random: u64,
    #[serde(skip)]
    actions: Vec<Action>,
}

impl Supervisor {
    /// A supervisor that has not begun (see [`Event::Begin`]). `seed` feeds the jitter.
    pub fn new(policy: Policy, seed: u64) -> Self {
        let first = GenerationId(1);
        Supervisor {
            now: Time::default(),
            began: Time::default(),
            state: ClusterState::Starting,
            said_ready: false,
            over: false,
            generation: first,
            last_good: None,
            generations: BTreeMap::from([(first, Generation::new(policy))]),
            slots: Vec::new(),
            workers: BTreeMap::new(),
            scale: None,
            rollout: None,
            queued: None,
            waiters: Vec::new(),
            timers: Timers::default(),
            degraded: None,
            outcome: Outcome::Stopped,
            next_worker: 1,
            next_generation: 2,
            random: seed,
            actions: Vec::new(),
        }
    }

    /// Takes in what happened at `now` and returns what is to be done, in order.
    ///
    /// `now` never goes backwards. Deadlines are acted upon by [`Event::Wake`] only,
    /// so that signs of life that arrived in the same turn count first.
    /// After [`Action::Exit`] every event is ignored, but for [`Event::Resumed`], which repeats
    /// it. What ends workers comes last of the actions, but for spawns.
    pub fn handle(&mut self, now: Time, event: Event) -> Vec<Action> {
        if self.over {
            // Its end was recorded, and perhaps not more.
            let again = matches!(event, Event::Resumed { .. });
            let end = again.then(|| Action::Exit(self.outcome.clone()));
            return end.into_iter().collect();
        }
        self.now = self.now.max(now);
        match event {
            Event::Begin => self.began = self.now,
            Event::Resumed { exact } => self.on_resumed(exact),
            Event::Wake => self.run_timers(),
            Event::Spawned { worker, pid } => self.on_spawned(worker, pid),
            Event::SpawnFailed { worker, error } => self.on_spawn_failed(worker, error),
            Event::Notified { worker, what } => self.on_notified(worker, what),
            Event::Probed { worker, ready } => self.on_probed(worker, ready),
            Event::Drained { worker, grace } => self.on_drained(worker, grace),
            Event::Alive { worker } => self.on_alive(worker),
            Event::Blocked { worker, since } => self.on_blocked(worker, since),
            Event::Answered { worker } => self.on_answered(worker),
            Event::Checked { worker, verdict } => self.on_checked(worker, verdict),
            Event::Heard { worker } => self.on_heard(worker),
            Event::Measured { worker, memory } => self.on_measured(worker, memory),
            Event::Exited { worker, exit } => self.on_exited(worker, exit),
            Event::ConfigLoaded { generation, result } => self.on_config(generation, result),
            Event::Recalled { generation, result } => self.on_recalled(generation, result),
            Event::Requested { from, what } => self.on_request(from, what),
        }
        self.reconcile();
        let mut actions = std::mem::take(&mut self.actions);
        // What is recorded before one of these has been done, up to that.
        actions.sort_by_key(|action| match action {
            Action::Spawn { .. } => 2,
            _ => u8::from(action.ends_a_worker()),
        });
        actions
    }

    /// When [`Event::Wake`] is due next; `None`: nothing is awaited.
    pub fn next_deadline(&self) -> Option<Time> {
        if self.over { None } else { self.timers.next() }
    }

    fn run_timers(&mut self) {
        while let Some(timer) = self.timers.pop_due(self.now) {
            match timer {
                Timer::Start(worker) => self.on_start_timeout(worker),
                Timer::Probe(worker) => self.on_probe_due(worker),
                Timer::Settle(worker) => self.actions.push(Action::Ask { worker }),
                Timer::Signal(worker) => self.send_stop_signal(worker),
                Timer::Hung(worker) => self.on_hung(worker),
                Timer::Health(worker) => self.on_check_due(worker),
                Timer::Watchdog(worker) => self.on_watchdog_due(worker),
                Timer::Kill(worker) => self.kill_worker(worker),
                Timer::Recover(worker) => self.on_recovered(worker),
                Timer::Measure(worker) => self.actions.push(Action::Measure { worker }),
                Timer::Lifetime(worker) => self.on_lifetime(worker),
                Timer::Backoff(_) | Timer::Leave | Timer::Exit => {} // reconcile sees that it is over
            }
        }
    }

    fn announce(&mut self, transition: Transition) {
        self.actions.push(Action::Announce(transition));
    }

    fn set_cluster_state(&mut self, to: ClusterState) {
        if self.state != to {
            let from = std::mem::replace(&mut self.state, to);
            self.announce(Transition::Cluster { from, to });
        }
    }

    fn policy(&self, generation: GenerationId) -> &Policy {
        let known = self.generations.get(&generation);
        &known.unwrap_or(&self.generations[&self.generation]).policy
    }

    fn slot_mut(&mut self, slot: SlotId) -> Option<&mut Slot> {
        self.slots.get_mut(slot.0 as usize)
    }

    /// Ids of the workers for which `wanted` holds, oldest first.
    fn workers_where(&self, wanted: impl Fn(&Worker) -> bool) -> Vec<WorkerId> {
        let found = self.workers.values().filter(|w| wanted(w));
        found.map(|w| w.id).collect()
    }
}
