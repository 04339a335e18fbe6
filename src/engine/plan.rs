// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a reload would do, for whoever asks.

use super::{Answer, Engine};
use crate::api;
use crate::config::{Changes, Config, Severity};
use crate::core::{Failure, Plan, Policy};
use std::sync::mpsc::Sender;

impl Engine {
    /// [`api::Call::Plan`]: answered by a thread, since a large app takes a while.
    pub(super) fn plan(&self, answers: Sender<Answer>) {
        let release = match self.read_release() {
            Ok(release) => release,
            Err(text) => {
                let message = Failure::ConfigInvalid(text).to_string();
                let _ = answers.send(Answer::Final(Err(api::Error::ConfigInvalid { message })));
                return;
            }
        };
        let current = self.releases.get(&self.core.generation());
        let changes = current.map(|current| current.changed_by(&release));
        let policy = release.policy(self.listeners.is_empty());
        let core = self.core.clone();
        let answer = move || {
            let answer = match core.plan_reload(&policy) {
                Ok(plan) => {
                    let changes = changes.unwrap_or_default();
                    let after = core.rollout().map(|rollout| rollout.to.0);
                    Answer::Plan(Box::new(plan_of(
                        &plan,
                        &policy,
                        &release.config,
                        changes,
                        after,
                    )))
                }
                Err(failure) => Answer::Final(Err(api::Error::InProgress {
                    message: failure.to_string(),
                })),
            };
            let _ = answers.send(answer);
        };
        // A thread that cannot be started drops the answer's other end, which is told.
        let _ = std::thread::Builder::new()
            .name("plan".to_owned())
            .spawn(answer);
    }
}

fn plan_of(
    plan: &Plan,
    policy: &Policy,
    config: &Config,
    changes: Changes,
    after: Option<u64>,
) -> api::Plan {
    let doubts = crate::config::doubts(config);
    let doubts = doubts.iter().filter(|d| d.severity == Severity::Warning);
    api::Plan {
        from: plan.from.0,
        generation: plan.to.0,
        workers_now: plan.workers.0,
        workers: plan.workers.1,
        workers_source: policy.workers_source.clone(),
        canary: plan.order.first().map(|slot| slot.0),
        canary_time_ms: policy.canary_time.as_millis() as u64,
        order: plan.order.iter().map(|slot| slot.0).collect(),
        at_once: plan.at_once,
        most_workers: plan.most,
        least_ms: plan.least.as_millis() as u64,
        changes,
        warnings: doubts.map(ToString::to_string).collect(),
        after: after.map(|to| format!("the rollout of generation {to} comes first")),
    }
}
