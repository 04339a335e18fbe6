// SPDX-License-Identifier: MIT OR Apache-2.0
//! What follows from a change of state besides what the core decides: a log line, progress
//! for those who wait, and what the change means for the sockets.

use super::{Answer, Engine, events, fault};
use crate::core::{Cause, ClusterState, RolloutStep, Transition, WorkerState};

impl Engine {
    /// Everything that is derived from a change of state.
    pub(super) fn announce(&mut self, transition: &Transition) {
        if let Some(point) = point(transition) {
            fault::point(point);
        }
        self.steering.outdate();
        self.deal_soon();
        let mut record = events::record(transition);
        record.cgroup = self.cgroup_name(record.worker);
        self.log(record);
        let stopping = ClusterState::Stopping;
        if matches!(transition, Transition::Cluster { to, .. } if *to == stopping)
            && let Err(error) = self.runtime.say_stopping()
        {
            let file = self.runtime.stopping();
            self.warn(format!("cannot make {}: {error}", file.display()));
        }
        if let Transition::Worker {
            to: WorkerState::Ready,
            ..
        } = transition
        {
            for line in self.listeners.iter().flat_map(|l| &l.lines) {
                // A worker's own listen(2) may have shortened the queue for all.
                let _ = line.restore_backlog();
            }
        }
        if let Some(progress) = events::worker_progress(transition) {
            self.tell_waiting(&progress);
        }
        if let Transition::Failed { blame, .. } = transition
            && matches!(blame.cause, Cause::StartTimeout { .. })
        {
            self.tell_why_not_listening(blame.worker);
        }
    }

    /// One more step, for everybody who waits.
    pub(super) fn tell_waiting(&mut self, progress: &str) {
        for waiting in self.waiting.values_mut().filter(|w| w.steps > 0) {
            waiting.steps -= 1;
            let progress = progress.to_owned();
            let step = crate::api::Progress { progress };
            let _ = waiting.answers.send(Answer::Progress(step));
        }
    }

    /// What is wrong with more than single slots.
    pub(super) fn impaired(&self) -> Option<String> {
        let told = self.broken.clone().or_else(|| self.foreigners_briefly());
        told.or_else(|| self.stale.clone())
    }

    /// The line for `STATUS=`.
    pub(super) fn status_line(&self) -> String {
        match self.impaired() {
            Some(broken) => format!("degraded: {broken}; {}", self.core.status_line()),
            None => self.core.status_line(),
        }
    }
}

/// What it is called as a point at which tests may kill us.
fn point(transition: &Transition) -> Option<&'static str> {
    Some(match transition {
        Transition::Worker { to, .. } => match to {
            WorkerState::Starting => "worker-starting",
            WorkerState::Ready => "worker-ready",
            WorkerState::Draining => "worker-draining",
            WorkerState::Stopping => "worker-stopping",
            WorkerState::Gone => "worker-gone",
        },
        Transition::Exited { .. } => "worker-exited",
        Transition::Rollout { step, .. } => match step {
            RolloutStep::Started { .. } => "rollout-started",
            RolloutStep::Progress { .. } => "rollout-progress",
            RolloutStep::Failed(_) | RolloutStep::TakenBack => "rollout-reverting",
            RolloutStep::Finished { .. } => "rollout-finished",
            RolloutStep::Undone { .. } => "rollout-undone",
            _ => return None,
        },
        Transition::Cluster { to, .. } if *to == ClusterState::Stopping => "stopping",
        _ => return None,
    })
}
