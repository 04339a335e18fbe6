// SPDX-License-Identifier: MIT OR Apache-2.0
//! A configuration that workers run, and what it means on this machine.

use super::{Engine, report};
use crate::config::{Config, ConfigError, CpuAffinity, Cpus, Launch, Pins, cpu_list, cpu_order};
use crate::core::{Event, GenerationId, Policy, Ready, SlotId, Worker};
use std::time::Duration;

/// A worker of an app that listens nowhere counts as ready after this time.
const BATCH_READY: Duration = Duration::from_millis(100);

/// A configuration that workers run.
#[derive(Clone)]
pub struct Release {
    /// What the file says.
    pub config: Config,
    /// What that means here.
    pub launch: Launch,
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
            config,
            launch,
            cpus,
        })
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
        // A new configuration may be told the same again.
        self.node.told.clear();
        let result = self.try_load(generation).map(Box::new);
        self.pending
            .push_back(Event::ConfigLoaded { generation, result });
    }

    fn try_load(&mut self, generation: GenerationId) -> Result<Policy, String> {
        let config = (self.load)().map_err(|error| error.to_string())?;
        if let Some(current) = self.releases.get(&self.core.generation()) {
            report::fits(&current.config, &config, self.inherited)?;
        }
        self.units_fit(&config).map_err(|changes| {
            format!("it changes what a reload cannot, so nothing was changed:\n{changes}")
        })?;
        let release = Release::new(config).map_err(|error| error.to_string())?;
        let policy = release.policy(self.listeners.is_empty());
        self.releases.insert(generation, release);
        Ok(policy)
    }

    /// [`crate::core::Action::Recall`]: what was kept of `of`, if its directory and its
    /// programs are where they were.
    pub(super) fn recall(&mut self, generation: GenerationId, of: GenerationId) {
        let result = match self.releases.get(&of) {
            Some(release) => release.is_there().map(|()| release.clone()),
            None => Err("it was not kept".to_owned()),
        };
        let result = result.map(|release| {
            self.releases.insert(generation, release);
        });
        self.pending
            .push_back(Event::Recalled { generation, result });
    }
}
