// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whose fault a failure was, and what happened.

use super::event::Exit;
use super::ids::{SlotId, WorkerId};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// The worker that made something fail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blame {
    /// Its position.
    pub slot: SlotId,
    /// Its name.
    pub worker: WorkerId,
    /// Its process id, if it ever ran.
    pub pid: Option<i32>,
    /// What happened.
    pub cause: Cause,
}

/// What can be wrong with a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The system could not start it.
    SpawnFailed(String),
    /// It ended before it was ready.
    ExitedEarly(Exit),
    /// It was not ready in time; the text says how readiness was looked for.
    StartTimeout {
        /// The time it had.
        after: Duration,
        /// What it should have done.
        hint: String,
    },
    /// It was ready, then ended.
    Crashed {
        /// How it ended.
        exit: Exit,
        /// How long it had been ready.
        after: Duration,
    },
    /// It ran, but did not answer.
    Hung {
        /// For how long.
        after: Duration,
    },
    /// It was asked how it is, or owed a sign of life; the text says what is wrong.
    Unhealthy(String),
    /// It said `STOPPING=1` before it had stayed ready long enough.
    LeftAtOnce,
    /// The generation's crash budget is used up, by this crash.
    OverBudget {
        /// How it ended.
        exit: Exit,
        /// Crashes counted.
        crashes: u32,
        /// In this time.
        window: Duration,
    },
    /// It ran and had to be replaced, which uses up the crash budget, too.
    TooOften {
        /// What was wrong with it.
        why: String,
        /// Failures counted.
        times: u32,
        /// In this time.
        window: Duration,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::SpawnFailed(error) => write!(f, "could not be started: {error}"),
            Cause::ExitedEarly(exit) => write!(f, "{exit} before it was ready"),
            Cause::StartTimeout { after, hint } => {
                write!(f, "was not ready within {after:?}: {hint}")
            }
            Cause::Crashed { exit, after } => {
                write!(f, "{exit}, {:.1}s after it was ready", after.as_secs_f64())
            }
            Cause::Hung { after } => {
                write!(
                    f,
                    "has not answered for {:.0}s: its event loop is blocked",
                    after.as_secs_f64()
                )
            }
            Cause::Unhealthy(text) => f.write_str(text),
            Cause::LeftAtOnce => f.write_str("left by itself right after it was ready"),
            Cause::TooOften { why, times, window } => {
                write!(f, "{why}; {times} failures within {window:?} are too many")
            }
            Cause::OverBudget {
                exit,
                crashes,
                window,
            } => write!(
                f,
                "{exit}; {crashes} crashes within {window:?} are too many"
            ),
        }
    }
}

impl fmt::Display for Blame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the worker of slot {}", self.slot)?;
        if let Some(pid) = self.pid {
            write!(f, " (pid {pid})")?;
        }
        write!(f, " {}", self.cause)
    }
}
