// SPDX-License-Identifier: MIT OR Apache-2.0
//! A configuration that workers run, and what it means on this machine.

use super::{Answer, Engine, events, report};
use crate::api;
use crate::config::{Changes, Config, ConfigError, Launch, Seen, Severity};
use crate::core::{Done, Event, Failure, GenerationId, Plan, Policy, Ready};
use std::sync::mpsc::Sender;
use std::time::Duration;

/// A worker of an app that listens nowhere counts as ready after this time.
const BATCH_READY: Duration = Duration::from_millis(100);

/// A configuration that workers run.
pub struct Release {
    /// What the file says.
    pub config: Config,
    /// What that means here.
    pub launch: Launch,
    /// What its paths led to when it was read.
    pub seen: Vec<Seen>,
    /// What it has changed, if there was another one before.
    pub changes: Option<Changes>,
}

impl Release {
    /// Finds out what `config` means now.
    ///
    /// # Errors
    /// Everything that is missing or cannot be used.
    pub fn new(config: Config) -> Result<Release, ConfigError> {
        let launch = Launch::resolve(&config, crate::config::inherited_environment())?;
        Ok(Release {
            seen: launch.seen(),
            changes: None,
            config,
            launch,
        })
    }

    /// What `new` changes.
    fn changed_by(&self, new: &Release) -> Changes {
        Changes::between(self.parts(), new.parts())
    }

    fn parts(&self) -> (&Config, &Launch, &[Seen]) {
        (&self.config, &self.launch, &self.seen)
    }

    /// Its rules; `batch`: the app has no listener.
    pub fn policy(&self, batch: bool) -> Policy {
        let mut policy = self.config.policy(&crate::config::Cpus::detect());
        let node = self.launch.runner.is_some();
        policy.drains = node && !batch;
        policy.ready = match policy.ready {
            Ready::Auto if batch => Ready::Delay(BATCH_READY),
            Ready::Auto if node => Ready::Listening,
            other => other,
        };
        policy
    }
}

impl Engine {
    /// [`crate::core::Action::LoadConfig`]
    pub(super) fn load_config(&mut self, generation: GenerationId) {
        // A new configuration may be told the same again.
        self.node.told.clear();
        let result = self.try_load(generation);
        self.pending
            .push_back(Event::ConfigLoaded { generation, result });
    }

    fn try_load(&mut self, generation: GenerationId) -> Result<Policy, String> {
        let mut release = self.read_release()?;
        let policy = release.policy(self.listeners.is_empty());
        let serving = self.core.generation();
        if let Some(current) = self.releases.get(&serving) {
            let changes = current.changed_by(&release);
            let record = events::changed(serving, generation, &changes);
            self.tell_waiting(&record.message);
            self.log(record);
            release.changes = Some(changes);
        }
        self.releases.insert(generation, release);
        Ok(policy)
    }

    /// What a reload would run, if it can take over from what runs now.
    fn read_release(&self) -> Result<Release, String> {
        let config = (self.load)().map_err(|error| error.to_string())?;
        if let Some(current) = self.releases.get(&self.core.generation()) {
            report::fits(&current.config, &config, self.inherited)?;
        }
        self.units_fit(&config).map_err(|changes| {
            format!("it changes what a reload cannot, so nothing was changed:\n{changes}")
        })?;
        Release::new(config).map_err(|error| error.to_string())
    }

    /// The outcome of a request, for people.
    pub(super) fn outcome_of(&self, done: &Done) -> api::Outcome {
        let mut outcome = report::outcome(done);
        if let Done::Generation { generation, .. } = done {
            let release = self.releases.get(generation);
            outcome.changes = release.and_then(|release| release.changes.clone());
        }
        outcome
    }

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
