// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the core needs to know of one generation's configuration.

use super::health::Health;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// How a worker shows that it can serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ready {
    /// `READY=1` on its notify socket, or seen accepting on an inherited socket
    /// (`/proc`), whichever comes first.
    Auto,
    /// `READY=1` on its notify socket (sd_notify(3)).
    Notify,
    /// Seen accepting on an inherited socket: in an epoll set or blocked in accept(2).
    Accepting,
    /// It has told over its channel that it listens on every address of the app.
    Listening,
    /// It has sent the message `"ready"` over its channel.
    Message,
    /// Alive this long after the start.
    Delay(Duration),
    /// This command exits 0. Run again until it does or `start_timeout` ends.
    Exec(Vec<String>),
}

/// When a worker that exited by itself is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Whatever its exit status was.
    Always,
    /// Unless it exited with status 0.
    OnFailure,
    /// Never; its slot stays empty.
    Never,
}

/// What becomes of the slots already replaced when a rollout fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// They go back to the old generation, new-ready before old-draining again.
    Rollback,
    /// They stay on the new generation; the rollout stops where it is.
    Hold,
}

/// How many slots are replaced at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Batch {
    /// This many, 1 or more.
    Count(u32),
    /// This share of all slots, 1 to 100.
    Percent(u32),
}

impl Batch {
    /// That of `slots` slots: rounded up, at least 1.
    pub fn of(self, slots: u32) -> u32 {
        let count = match self {
            Batch::Count(count) => count,
            Batch::Percent(share) => (u64::from(slots) * u64::from(share)).div_ceil(100) as u32,
        };
        count.max(1)
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Batch::Count(count) => count.fmt(f),
            Batch::Percent(share) => write!(f, "\"{share}%\""),
        }
    }
}

/// The part of a configuration that decides about processes. One per generation.
///
/// Every duration is at least zero; `workers` is at least 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Number of slots that should have a ready worker (1..).
    pub workers: u32,
    /// Where `workers` comes from, for people (`workers = "max": 4 CPUs (affinity)`).
    pub workers_source: String,
    /// See [`Ready`].
    pub ready: Ready,
    /// From spawn to ready; over it the worker has failed.
    pub start_timeout: Duration,
    /// From the stop signal to SIGKILL.
    pub drain_timeout: Duration,
    /// Signal number that asks a worker to finish (SIGTERM = 15).
    pub stop_signal: i32,
    /// A ready worker is asked to drain ([`super::Action::Drain`]) before it is signalled.
    pub drains: bool,
    /// How long a worker may not answer before it is replaced; `None`: for ever.
    pub hung_timeout: Option<Duration>,
    /// Whether and how workers are asked how they are.
    pub health: Option<Health>,
    /// How often a worker owes a sign of life (`WATCHDOG=1`), unless it says otherwise itself;
    /// `None`: never.
    pub watchdog: Option<Duration>,
    /// When the app stops, its workers serve on for so long before they are asked to end.
    pub pre_stop_delay: Duration,
    /// How many bytes a worker may use before it is replaced; `None`: any number.
    pub max_memory: Option<u64>,
    /// How long a worker may be ready before it is replaced; `None`: for ever.
    pub max_lifetime: Option<Duration>,
    /// See [`Restart`].
    pub restart: Restart,
    /// Exit codes after which a worker is never restarted.
    pub stop_exit_codes: Vec<i32>,
    /// First delay of the exponential back-off between crashes of a slot.
    pub backoff_min: Duration,
    /// Longest delay of the back-off; also how long a worker must have been
    /// ready for its slot to count as recovered.
    pub backoff_max: Duration,
    /// Crashes of this generation within `crash_window` that are borne; one more is too many.
    pub crash_budget: u32,
    /// See `crash_budget`.
    pub crash_window: Duration,
    /// How long the first new worker of a rollout must stay ready beside the old one.
    pub canary_time: Duration,
    /// The same for the workers after the first.
    pub min_ready_time: Duration,
    /// Slots replaced at a time in a rollout.
    pub batch: Batch,
    /// How many old workers may drain at once in a rollout; `None`: no limit.
    pub max_draining: Option<u32>,
    /// See [`OnFailure`].
    pub on_failure: OnFailure,
}
