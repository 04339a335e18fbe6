// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the core needs to know of a configuration.

use super::{Config, Cpus, HealthCheck, MAX_WORKERS, Workers};
use crate::core::Policy;

impl Config {
    /// What the core needs to know, on a machine with `cpus`.
    pub fn policy(&self, cpus: &Cpus) -> Policy {
        let mut source = format!("workers = {}", self.workers);
        if let Some(file) = self.source.drop_in("workers") {
            source += &format!(" ({file})");
        }
        let (workers, workers_source) = match self.workers {
            Workers::Count(count) => (count, source),
            Workers::Max => (cpus.count, format!("{source}: {cpus}")),
            Workers::MaxMinusOne => (cpus.count.saturating_sub(1), format!("{source}: {cpus}")),
        };
        Policy {
            workers: workers.clamp(1, MAX_WORKERS),
            workers_source,
            ready: self.ready.clone(),
            start_timeout: self.start_timeout,
            drain_timeout: self.drain_timeout,
            stop_signal: self.stop_signal,
            drains: false,
            hung_timeout: self.hung_timeout,
            health: self.health.as_ref().map(HealthCheck::policy),
            watchdog: self.watchdog,
            pre_stop_delay: self.pre_stop_delay,
            max_memory: self.max_memory,
            max_lifetime: self.max_lifetime,
            restart: self.restart,
            stop_exit_codes: self.stop_exit_codes.clone(),
            backoff_min: self.backoff_min,
            backoff_max: self.backoff_max,
            crash_budget: self.crash_budget,
            crash_window: self.crash_window,
            canary_time: self.canary_time,
            min_ready_time: self.min_ready_time,
            batch: self.batch,
            max_draining: self.max_draining,
            on_failure: self.on_failure,
        }
    }
}
