// SPDX-License-Identifier: MIT OR Apache-2.0
//! A configuration that workers run, and what it means on this machine.

use super::{Engine, report};
use crate::config::{Config, ConfigError, Launch};
use crate::core::{Event, GenerationId, Policy, Ready};
use std::time::Duration;

/// A worker of an app that listens nowhere counts as ready after this time.
const BATCH_READY: Duration = Duration::from_millis(100);

/// A configuration that workers run.
pub struct Release {
    /// What the file says.
    pub config: Config,
    /// What that means here.
    pub launch: Launch,
}

impl Release {
    /// Finds out what `config` means now.
    ///
    /// # Errors
    /// Everything that is missing or cannot be used.
    pub fn new(config: Config) -> Result<Release, ConfigError> {
        let launch = Launch::resolve(&config, crate::config::inherited_environment())?;
        Ok(Release { config, launch })
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
}
