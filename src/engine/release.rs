// SPDX-License-Identifier: MIT OR Apache-2.0
//! A configuration that workers run, and what it means on this machine.

use super::{Engine, events, fault, fits, report};
use crate::api;
use crate::config::{
    Changes, Config, ConfigError, CpuAffinity, Cpus, Launch, Pins, Seen, cpu_list, cpu_order,
    missing_accounts,
};
use crate::core::{Done, Event, GenerationId, Policy, Ready, SlotId, Worker};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Duration;

/// A worker of an app that listens nowhere counts as ready after this time.
const BATCH_READY: Duration = Duration::from_millis(100);

/// A configuration that workers run.
#[derive(Clone, Serialize, Deserialize)]
pub struct Release {
    /// What the file says.
    pub config: Config,
    /// What that means here.
    pub launch: Launch,
    /// What its paths led to when it was read.
    pub seen: Vec<Seen>,
    /// What it has changed, if there was another one before.
    pub changes: Option<Changes>,
    /// The CPUs of the slots, one each in turn; none if workers may run on all.
    cpus: Vec<usize>,
}

impl Release {
    /// Finds out what `config` means now.
    ///
    /// # Errors
    /// Everything that is missing or cannot be used.
    pub fn new(config: Config) -> Result<Release, ConfigError> {
        let launch = Launch::resolve(&config, crate::config::inherited_environment())?;
        let usable = Cpus::of(0).unwrap_or_default();
        let cpus = match config.cpu_affinity {
            CpuAffinity::None => Vec::new(),
            CpuAffinity::Spread => cpu_order(&usable),
        };
        Ok(Release {
            seen: launch.seen(),
            changes: None,
            config,
            launch,
            cpus,
        })
    }

    /// What `new` changes.
    pub(super) fn changed_by(&self, new: &Release) -> Changes {
        Changes::between(self.parts(), new.parts())
    }

    fn parts(&self) -> (&Config, &Launch, &[Seen]) {
        (&self.config, &self.launch, &self.seen)
    }

    /// The one CPU that the worker of a slot is to run on.
    pub fn cpu(&self, slot: SlotId) -> Option<usize> {
        let turn = (slot.0 as usize).checked_rem(self.cpus.len())?;
        self.cpus.get(turn).copied()
    }

    /// Whether its workers can still be started as they were.
    ///
    /// # Errors
    /// What is gone.
    fn is_there(&self) -> Result<(), String> {
        let launch = &self.launch;
        let all = [
            &launch.pins,
            &launch.ready_pins,
            &launch.health_pins,
            &launch.companion_pins,
        ];
        match all.into_iter().find_map(Pins::missing) {
            None => Ok(()),
            Some(gone) => Err(gone),
        }
    }

    /// A file of its code that is not what it was.
    fn changed(&self) -> Option<&Path> {
        let all = [&self.launch.pins, &self.launch.companion_pins];
        all.into_iter().find_map(Pins::changed)
    }

    /// Its rules; `batch`: the app has no listener.
    pub fn policy(&self, batch: bool) -> Policy {
        let mut policy = self.config.policy(&Cpus::detect());
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
    /// The CPUs that a worker may run on, if it is not to run on all of them.
    pub(super) fn cpus_of(&self, worker: &Worker) -> Option<String> {
        let release = self.releases.get(&worker.generation)?;
        release.cpu(worker.slot)?;
        Some(cpu_list(&Cpus::of(worker.pid?)?))
    }

    /// [`crate::core::Action::LoadConfig`]
    pub(super) fn load_config(&mut self, generation: GenerationId) {
        fault::point("loading");
        // A new configuration may be told the same again.
        self.node.told.clear();
        let result = self.try_load(generation).map(Box::new);
        self.pending
            .push_back(Event::ConfigLoaded { generation, result });
    }

    fn try_load(&mut self, generation: GenerationId) -> Result<Policy, String> {
        let release = self.read_release()?;
        let policy = release.policy(self.listeners.is_empty());
        self.stale = None;
        self.keep_release(generation, release, None);
        Ok(policy)
    }

    /// Says what `generation` changes, and has it from now on; `of` is the older one that it
    /// is once more.
    fn keep_release(
        &mut self,
        generation: GenerationId,
        mut release: Release,
        of: Option<GenerationId>,
    ) {
        let serving = self.core.generation();
        let current = self.releases.get(&serving);
        let changes = current.map(|current| current.changed_by(&release));
        release.changes = match of {
            Some(of) => changes.map(|changes| changes.as_in(of.0)),
            None => changes,
        };
        if let Some(changes) = &release.changes {
            let record = events::changed(serving, generation, changes);
            self.tell_waiting(&record.message);
            self.log(record);
        }
        self.releases.insert(generation, release);
    }

    /// What a reload would run, if it can take over from what runs now.
    pub(super) fn read_release(&self) -> Result<Release, String> {
        let config = (self.load)().map_err(|error| error.to_string())?;
        if let Some(current) = self.releases.get(&self.core.generation()) {
            fits::fits(&current.config, &config, self.inherited)?;
        }
        if let Some(text) = self.foreigners() {
            return Err(text);
        }
        // What the units are to have from now on has to be there before anybody is told how to
        // change them: with a user that is not they would not start again.
        let diagnostics = match self.running {
            Some(_) => missing_accounts(&config),
            None => Vec::new(),
        };
        if !diagnostics.is_empty() {
            return Err(ConfigError { diagnostics }.to_string());
        }
        self.units_fit(&config)
            .map_err(|changes| format!("it differs in what a reload cannot change:\n{changes}"))?;
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

    /// [`crate::core::Action::Recall`]: what was kept of `of`, if its directory and its
    /// programs are where they were.
    pub(super) fn recall(&mut self, generation: GenerationId, of: GenerationId) {
        self.node.told.clear();
        let result = match self.releases.get(&of) {
            Some(release) => release.is_there().map(|()| release.clone()),
            None => Err("it was not kept".to_owned()),
        };
        if let Ok(release) = &result
            && let Some(path) = release.changed()
        {
            let text = format!(
                "{} was changed since generation {of} was loaded: what is there now is run",
                path.display()
            );
            self.warn(&*text);
            self.tell_waiting(&text);
        }
        let result = result.map(|release| self.keep_release(generation, release, Some(of)));
        self.pending
            .push_back(Event::Recalled { generation, result });
    }
}
