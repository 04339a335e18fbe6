// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the supervisor tells of itself: facts, no formatting but the one status line.

use super::rollout::Stage;
use super::*;
use std::time::Duration;

/// A rollout, as shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutStatus {
    /// The generation that is being rolled out.
    pub to: GenerationId,
    /// `loading`, `advancing` or `reverting`.
    pub stage: String,
    /// Slots that run it.
    pub done: u32,
    /// Slots that will.
    pub of: u32,
    /// How long it has been going on.
    pub elapsed: Duration,
    /// Why it is being undone.
    pub failure: Option<String>,
}

impl Supervisor {
    /// What the cluster is doing.
    pub fn state(&self) -> ClusterState {
        self.state
    }

    /// Whether it ends.
    pub fn is_stopping(&self) -> bool {
        self.state == ClusterState::Stopping
    }

    /// Whether systemd has been told that the app is ready ([`Action::SayReady`]).
    pub fn said_ready(&self) -> bool {
        self.said_ready
    }

    /// Nothing is being rolled out or waits for that, and the app does not end. Workers may
    /// start and drain.
    pub fn is_settled(&self) -> bool {
        self.state != ClusterState::Stopping && self.rollout.is_none() && self.queued.is_none()
    }

    /// The generation that was rolled out last.
    pub fn generation(&self) -> GenerationId {
        self.generation
    }

    /// Desired number of ready workers, and where it comes from.
    pub fn desired_workers(&self) -> (u32, String) {
        match self.scale {
            Some(count) => (count, "app-cluster scale, until the app stops".to_owned()),
            None => {
                let policy = self.policy(self.generation);
                (policy.workers, policy.workers_source.clone())
            }
        }
    }

    /// Number of slots with a ready worker.
    pub fn ready_workers(&self) -> u32 {
        let is_ready = |w: &Worker| w.state == WorkerState::Ready;
        let ready = |slot: &&Slot| {
            let mut members = slot.members.iter();
            members.any(|id| self.workers.get(id).is_some_and(is_ready))
        };
        self.slots.iter().filter(ready).count() as u32
    }

    /// All slots, in order.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// All workers that are not gone, oldest first.
    pub fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.workers.values()
    }

    /// One worker.
    pub fn worker(&self, id: WorkerId) -> Option<&Worker> {
        self.workers.get(&id)
    }

    /// When the slot's back-off ends.
    pub fn backoff_until(&self, slot: SlotId) -> Option<Time> {
        self.timers.get(Timer::Backoff(slot))
    }

    /// Why the service is degraded.
    pub fn degraded(&self) -> Option<&str> {
        self.degraded.as_deref()
    }

    /// What the generation that serves is, if it was brought back.
    pub fn rolled_back(&self) -> Option<&RolledBack> {
        let generation = self.generations.get(&self.generation)?;
        generation.rolled_back.as_ref()
    }

    /// The rollout under way.
    pub fn rollout(&self) -> Option<RolloutStatus> {
        let rollout = self.rollout.as_ref()?;
        let (stage, failure) = match &rollout.stage {
            Stage::Loading => ("loading", None),
            Stage::Advancing => ("advancing", None),
            Stage::Reverting(undo) => ("reverting", Some(undo.to_string())),
        };
        Some(RolloutStatus {
            to: rollout.to,
            stage: stage.to_owned(),
            done: rollout.done,
            of: self.rollout_span(rollout.to),
            elapsed: self.now.since(rollout.started),
            failure,
        })
    }

    /// The one line for `STATUS=` (sd_notify(3)) and `systemctl status`.
    pub fn status_line(&self) -> String {
        let (ready, desired) = (self.ready_workers(), self.desired());
        let count = format!("{ready}/{desired} ready");
        if let Some(why) = &self.degraded {
            return format!("degraded: {count}; {why}");
        }
        match (self.state, self.rollout(), &self.outcome) {
            (ClusterState::Stopping, _, Outcome::StartFailed(blame)) => {
                format!("start failed: {blame}")
            }
            (ClusterState::Stopping, _, _) if self.timers.get(Timer::Leave).is_some() => {
                let serve = self.ready_workers();
                format!("stopping: {serve} workers serve on for a while (pre_stop_delay)")
            }
            (ClusterState::Stopping, _, _) => {
                format!("stopping: {} workers left", self.workers.len())
            }
            (ClusterState::Starting, _, _) => format!("starting: {count}"),
            (_, Some(r), _) => format!(
                "{count}; {} generation {}: {}/{} slots",
                r.stage, r.to, r.done, r.of
            ),
            (_, None, _) => match self.rolled_back() {
                None => format!("{count}, generation {}", self.generation),
                Some(back) => format!(
                    "{count}, generation {} (a rollback to {})",
                    self.generation, back.to
                ),
            },
        }
    }

    /// While something is under way: until when it may take, at the longest, to its
    /// next step (for `EXTEND_TIMEOUT_USEC=`). `None` when nothing is.
    pub fn busy_until(&self) -> Option<Time> {
        match self.state {
            ClusterState::Running => None,
            _ => {
                let last = self.timers.last().into_iter().chain(self.trial_until());
                Some(last.max().unwrap_or(self.now))
            }
        }
    }
}
