// SPDX-License-Identifier: MIT OR Apache-2.0
//! The answer to [`super::Call::Plan`].

use super::Changes;
use serde::{Deserialize, Serialize};

/// What a reload would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The generation that serves now.
    pub from: u64,
    /// The one that the reload would make.
    pub generation: u64,
    /// How many workers there should be now.
    pub workers_now: u32,
    /// How many there should be after it.
    pub workers: u32,
    /// Where that number comes from.
    pub workers_source: String,
    /// The slot whose new worker is tried before anything else changes.
    pub canary: Option<u32>,
    /// How long it has to stay ready, in milliseconds.
    pub canary_time_ms: u64,
    /// The slots in the order in which they get a new worker, the canary's first.
    pub order: Vec<u32>,
    /// How many of them at a time, after the canary.
    pub at_once: u32,
    /// Workers, old and new, at the same time, at the most; those that finish their last
    /// requests come on top.
    pub most_workers: u32,
    /// How long it would take if workers started and ended in no time, in milliseconds.
    pub least_ms: u64,
    /// What differs between the two generations.
    pub changes: Changes,
    /// What the configuration says that is probably not meant.
    pub warnings: Vec<String>,
    /// What has to end first: a rollout under way.
    pub after: Option<String>,
}
