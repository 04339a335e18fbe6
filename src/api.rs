// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is said over the control socket: one definition for both ends.
//!
//! Framing and introspection are Varlink's (varlink.org): a JSON object and a NUL
//! byte, over a stream socket. The interface is described in [`DESCRIPTION`].

mod error;
mod plan;

pub use crate::config::Changes;
pub use error::Error;
pub use plan::Plan;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// The interface's name.
pub const INTERFACE: &str = "org.appcluster.Cluster1";

/// The interface in Varlink's own language.
pub const DESCRIPTION: &str = include_str!("api.varlink");

/// What a supervisor tells of itself (`status --json`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The app.
    pub app: String,
    /// Version of the supervisor that runs.
    pub version: String,
    /// Its process id.
    pub pid: i32,
    /// The systemd unit it is the main process of.
    pub unit: Option<String>,
    /// The configuration file, or `command line`.
    pub config: String,
    /// `starting`, `running`, `reloading` or `stopping`.
    pub state: String,
    /// The generation that was rolled out last.
    pub generation: u64,
    /// The older one that it is once more, if it was brought back.
    #[serde(default)]
    pub rolled_back: Option<RolledBack>,
    /// How many workers there should be and are.
    pub workers: WorkersStatus,
    /// What is listened on.
    pub listeners: Vec<ListenerStatus>,
    /// When workers are replaced while they run.
    #[serde(default)]
    pub limits: Limits,
    /// The worker positions, in order.
    pub slots: Vec<SlotStatus>,
    /// The rollout under way.
    pub rollout: Option<RolloutStatus>,
    /// Why the service is degraded.
    pub degraded: Option<String>,
    /// The process that gets the workers' messages.
    pub companion: Option<CompanionStatus>,
    /// Things that were refused or could not be said, since the start.
    pub counters: Counters,
    /// 1 at first, one more whenever a supervisor has taken over what another had.
    #[serde(default)]
    pub incarnation: u64,
    /// How this supervisor came to what it has, if it is not the first.
    #[serde(default)]
    pub taken_over: Option<TakenOver>,
}

/// How a supervisor has taken over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenOver {
    /// `re-exec`: the program was executed again, in the same process. `restart`: the one
    /// before had left for it (`restart --keep-workers`). `crash`: it had not.
    pub how: String,
    /// When (RFC 3339, UTC).
    pub at: String,
    /// The version of the one before.
    pub from_version: String,
}

/// A generation that was brought back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolledBack {
    /// The generation that was left.
    pub from: u64,
    /// The older one that serves again.
    pub to: u64,
    /// What made it necessary; nothing where somebody asked for it.
    pub why: Option<String>,
}

/// How many workers there should be and are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkersStatus {
    /// Slots that should have a ready worker.
    pub desired: u32,
    /// Slots that have one.
    pub ready: u32,
    /// Where the desired number comes from.
    pub source: String,
}

/// When a worker that runs is replaced, its replacement first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// When it uses more bytes of memory than this.
    pub max_memory: Option<u64>,
    /// When it has been ready for so many seconds, or up to a tenth less.
    pub max_lifetime: Option<u64>,
}

/// One listening address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// Its name in LISTEN_FDNAMES.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// How connections are spread over the workers: `shared`, `even`, `sticky`, or
    /// `by slot`.
    pub balance: String,
    /// How many sockets it has.
    pub lines: u32,
    /// Connections that wait to be accepted, where the kernel tells.
    pub backlog: Option<u32>,
    /// The same for each socket; empty where the kernel does not tell.
    pub queues: Vec<u32>,
}

/// One worker position.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlotStatus {
    /// Its number.
    pub slot: u32,
    /// The worker that serves or starts; none while backing off.
    pub worker: Option<u64>,
    /// Its process id.
    pub pid: Option<i32>,
    /// A worker's state (`blocked`: ready, but its event loop does not turn;
    /// `not-ready`: it wants no traffic, or is not well), or `backoff`,
    /// `failed`, `stopped`, `empty`.
    pub state: String,
    /// The worker's generation.
    pub generation: Option<u64>,
    /// When the worker entered its state (RFC 3339, UTC).
    pub since: Option<String>,
    /// CPU time used by the worker's processes, in seconds.
    pub cpu: Option<f64>,
    /// Bytes that only go with its processes: anonymous and shared memory, also swapped out.
    pub memory: Option<u64>,
    /// The CPUs that the worker is pinned to (`0-3,8`); none if it may use all of the app's.
    pub cpus: Option<String>,
    /// Workers started here in place of one that had failed.
    pub restarts: u64,
    /// Workers that were replaced here while they ran: too large, too old or not well.
    #[serde(default)]
    pub recycled: u64,
    /// How the last worker ended.
    pub last_exit: Option<String>,
    /// What the worker last said of itself.
    pub status: Option<String>,
    /// Where its health is asked for: `well`, what its last answer was instead, or `not asked
    /// yet`.
    pub health: Option<String>,
    /// Of a Node worker: how its event loop is.
    pub event_loop: Option<EventLoop>,
    /// Other workers of the slot: starting beside the one that serves, draining, stopping.
    pub draining: Vec<OtherWorker>,
}

/// Figures of an event loop, as it last told them. It is asked whenever the status is asked
/// for, but not waited for: the next status has the answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EventLoop {
    /// How long it took to answer, in milliseconds.
    pub lag_ms: Option<f64>,
    /// Share of the time that it was busy, from 0 to 1, between the last two questions.
    pub utilization: Option<f64>,
    /// Bytes used of the JavaScript heap.
    pub heap: Option<u64>,
}

/// The process that gets the workers' messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompanionStatus {
    /// `running`, `stopping` or `backoff`.
    pub state: String,
    /// Its process id.
    pub pid: Option<i32>,
    /// Its generation.
    pub generation: Option<u64>,
    /// When it was started (RFC 3339, UTC).
    pub since: Option<String>,
    /// How often it was started again because it had ended by itself.
    pub restarts: u64,
    /// How it ended last.
    pub last_exit: Option<String>,
    /// Messages that wait for it.
    pub waiting: u64,
    /// Messages that it did not read in time, and never got.
    pub lost: u64,
    /// Messages of its own that did not get to a worker.
    pub undelivered: u64,
}

/// A worker that is not the one its slot is served by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherWorker {
    /// Its name.
    pub worker: u64,
    /// Its process id.
    pub pid: Option<i32>,
    /// Its state.
    pub state: String,
    /// Its generation.
    pub generation: u64,
    /// When it entered its state (RFC 3339, UTC).
    pub since: String,
}

/// A rollout under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutStatus {
    /// The generation that is being rolled out.
    pub to: u64,
    /// `loading`, `advancing` or `reverting`.
    pub stage: String,
    /// Slots that run it.
    pub done: u32,
    /// Slots that will.
    pub of: u32,
    /// Why it is being undone.
    pub failure: Option<String>,
}

/// Things that were refused or could not be said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Notify datagrams from processes that are not the worker's.
    pub notify_refused: u64,
    /// Lines in notify datagrams that were not understood.
    pub notify_garbage: u64,
    /// Log lines that journald did not take in time.
    pub log_dropped: u64,
    /// Messages that systemd did not take.
    pub systemd_dropped: u64,
}

/// A call, by its method name without the interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "method", content = "parameters")]
pub enum Call {
    /// Everything about the app.
    GetStatus {},
    /// Roll out the configuration and code as they are now. May be asked for progress.
    Reload {},
    /// What `Reload` would do now; nothing is changed.
    Plan {},
    /// Undo the rollout that is under way; if there is none, roll out the last good
    /// generation again. May be asked for progress.
    Rollback {},
    /// Stop all workers, then start a new generation; with `slot`: replace one worker.
    Restart {
        /// The slot whose worker is to be replaced.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        slot: Option<u32>,
        /// Replace the supervisor, not the workers: it ends, and the next one, which systemd
        /// starts, takes them over. Without `slot` only.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        keep_workers: bool,
    },
    /// Execute the program again, as it is on disk now, in the same process; the workers stay.
    /// Answered right before that, with the `incarnation` that `GetStatus` will tell then,
    /// when what is under way has ended.
    Upgrade {
        /// Take back a rollout that is under way instead of waiting for its end.
        #[serde(default)]
        now: bool,
    },
    /// Stop the app, if no service manager would start it again.
    Stop {
        /// Kill instead of drain.
        #[serde(default)]
        now: bool,
    },
    /// Another number of workers: `workers`, or `by` more. It holds over reloads until the app
    /// stops; with `kept` or `reset` until the configuration says another one. Asked for
    /// progress, the first step says that it is agreed to.
    Scale {
        /// So many.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        workers: Option<u32>,
        /// So many more (negative: fewer).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<i32>,
        /// The file of the configuration in which the caller puts `workers`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kept: Option<String>,
        /// The number that the configuration says now; neither `workers` nor `by` is given.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        reset: bool,
    },
    /// A message to Node workers, which get it by `process.on('message')`.
    Send {
        /// The slot; without it, to all workers that serve.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        slot: Option<u32>,
        /// Any JSON value.
        message: Json,
    },
    /// The messages that Node workers send (`process.send`) from now on. To be asked for
    /// `more`: each is a reply of its own.
    Subscribe {
        /// Only those of this slot.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        slot: Option<u32>,
    },
}

/// A JSON value as text, so that it goes through as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Json(String);

impl Json {
    /// Takes `text` if it is one.
    ///
    /// # Errors
    /// It is not.
    pub fn parse(text: &str) -> Result<Json, serde_json::Error> {
        let raw: &RawValue = serde_json::from_str(text)?;
        Ok(Json(raw.get().to_owned()))
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_str(&self.0).map_err(serde::ser::Error::custom)?;
        raw.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Json {
    /// From what a value has been made of; [`Json::parse`] is for text.
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Json, D::Error> {
        let value = serde_json::Value::deserialize(from)?;
        Ok(Json(value.to_string()))
    }
}

/// The answer to a call that changes something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// One sentence for people.
    pub message: String,
    /// The generation that serves now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// The older generation that this is once more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back_to: Option<u64>,
    /// How many workers are ready, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<u32>,
    /// The [`Status::incarnation`] of the supervisor that is to follow, where one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<u64>,
    /// What the generation that serves now has changed, after a reload, restart or
    /// rollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<Changes>,
}

/// One step of something under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// One line for people.
    pub progress: String,
}
