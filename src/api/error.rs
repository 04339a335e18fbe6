// SPDX-License-Identifier: MIT OR Apache-2.0
//! How calls fail.

use serde::{Deserialize, Serialize};

/// Why a call failed: the error's name, and what goes with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "error", content = "parameters")]
pub enum Error {
    /// The configuration cannot be used; nothing was changed.
    ConfigInvalid {
        /// What is wrong with it, and where.
        message: String,
    },
    /// A worker of the new generation failed; the old one serves.
    GenerationFailed {
        /// One sentence for people.
        message: String,
        /// The slot of the worker that failed.
        slot: u32,
        /// Its process id.
        pid: Option<i32>,
        /// Its cgroup as journald names it.
        cgroup: Option<String>,
        /// What happened to it.
        cause: String,
        /// The last lines it wrote, where the supervisor has them (foreground only).
        last_lines: Vec<String>,
    },
    /// There is no generation to go back to, or what it needs is gone; nothing was changed.
    NoWayBack {
        /// One sentence for people.
        message: String,
    },
    /// Some slots could not go back, since the old generation does not start any more.
    NotAllBack {
        /// Which, and why.
        message: String,
    },
    /// A worker did not start; its slot keeps trying.
    WorkerFailed {
        /// One sentence for people.
        message: String,
        /// Its slot.
        slot: u32,
        /// Its process id.
        pid: Option<i32>,
        /// Its cgroup as journald names it.
        cgroup: Option<String>,
    },
    /// There is no such slot.
    NoSuchWorker {
        /// One sentence for people.
        message: String,
    },
    /// The supervisor is stopping, or another call took this one's place.
    InProgress {
        /// One sentence for people.
        message: String,
    },
    /// The parameters make no sense.
    InvalidParameter {
        /// One sentence for people.
        message: String,
    },
    /// The program cannot be executed again; nothing was changed.
    CannotUpgrade {
        /// Why, and what to do.
        message: String,
    },
    /// The app is a systemd service: systemd has to stop it, or would start it again.
    ManagedBySystemd {
        /// One sentence for people.
        message: String,
        /// Its unit.
        unit: String,
    },
    /// A message did not get to every worker that it was for.
    NotDelivered {
        /// One sentence for people.
        message: String,
        /// How many got it.
        workers: u32,
    },
    /// The caller may not do that.
    NotAuthorized {
        /// One sentence for people.
        message: String,
    },
}

impl Error {
    /// The sentence for people.
    pub fn message(&self) -> &str {
        match self {
            Error::ConfigInvalid { message }
            | Error::GenerationFailed { message, .. }
            | Error::NoWayBack { message }
            | Error::NotAllBack { message }
            | Error::WorkerFailed { message, .. }
            | Error::NoSuchWorker { message }
            | Error::InProgress { message }
            | Error::InvalidParameter { message }
            | Error::CannotUpgrade { message }
            | Error::ManagedBySystemd { message, .. }
            | Error::NotDelivered { message, .. }
            | Error::NotAuthorized { message } => message,
        }
    }
}
