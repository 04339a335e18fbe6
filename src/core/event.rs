// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everything that can happen to the supervisor.

use super::health::Verdict;
use super::ids::{GenerationId, RequestId, SlotId, WorkerId};
use super::policy::Policy;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// Something that happened. An event about a worker, slot or generation that
/// does not exist (any more) is ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The supervisor begins: spawn the first workers.
    Begin,
    /// This state was read from a snapshot, by the successor of whoever wrote it. The first
    /// event after that, but for `Spawned` of workers that run though their pid had not been
    /// recorded; those recorded without a pid that are not found have never run. `Exited` of
    /// those that are gone follows, and only then `Wake`.
    ///
    /// All answers that were awaited are lost: what is still to be known is asked anew. Nor
    /// does anybody know any more who was blocked; it is told anew.
    Resumed {
        /// The snapshot is the very state, and whoever waits for a reply still does
        /// (re-execution). Else something may have happened since, and nobody waits.
        exact: bool,
    },
    /// Nothing but time has passed.
    Wake,
    /// The answer to [`super::Action::Spawn`]: it runs.
    Spawned {
        /// Which.
        worker: WorkerId,
        /// Its process id, to be shown.
        pid: i32,
    },
    /// The other answer to [`super::Action::Spawn`].
    SpawnFailed {
        /// Which.
        worker: WorkerId,
        /// What the system said.
        error: String,
    },
    /// The worker said something on its notify socket.
    Notified {
        /// Which.
        worker: WorkerId,
        /// What.
        what: Notification,
    },
    /// The answer to [`super::Action::Probe`].
    Probed {
        /// Which.
        worker: WorkerId,
        /// Whether it can serve.
        ready: bool,
    },
    /// The answer to [`super::Action::Drain`]: the worker has nothing left to do.
    Drained {
        /// Which.
        worker: WorkerId,
        /// How long it may have to end by itself before it is signalled.
        grace: Duration,
    },
    /// The answer to [`super::Action::Ask`]: the worker answers, or cannot be asked.
    Alive {
        /// Which.
        worker: WorkerId,
    },
    /// The worker runs, but does not answer.
    Blocked {
        /// Which.
        worker: WorkerId,
        /// For how long.
        since: Duration,
    },
    /// A worker that was blocked answers again.
    Answered {
        /// Which.
        worker: WorkerId,
    },
    /// The answer to [`super::Action::Check`].
    Checked {
        /// Which.
        worker: WorkerId,
        /// What it was.
        verdict: Verdict,
    },
    /// The answer to [`super::Action::Hear`]: all that it had said has been told.
    Heard {
        /// Which.
        worker: WorkerId,
    },
    /// The answer to [`super::Action::Measure`].
    Measured {
        /// Which.
        worker: WorkerId,
        /// What only goes when its processes go, in bytes; `None`: it cannot be told.
        memory: Option<u64>,
    },
    /// The worker's main process is no more. The last event about a worker.
    Exited {
        /// Which.
        worker: WorkerId,
        /// How.
        exit: Exit,
    },
    /// The answer to [`super::Action::LoadConfig`].
    ConfigLoaded {
        /// Which generation it was loaded for.
        generation: GenerationId,
        /// The new policy, or why the configuration cannot be used.
        result: Result<Box<Policy>, String>,
    },
    /// The answer to [`super::Action::Recall`].
    Recalled {
        /// Which generation it is to be.
        generation: GenerationId,
        /// Why what it needs is not there any more.
        result: Result<(), String>,
    },
    /// Somebody wants something. `from` gets exactly one [`super::Action::Reply`];
    /// nobody waits for what a signal asked for.
    Requested {
        /// Who waits.
        from: Option<RequestId>,
        /// What is wanted.
        what: Request,
    },
}

/// What a worker may say (sd_notify(3), or over its channel).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notification {
    /// `READY=1`
    Ready,
    /// It listens on every address that it should (Node's `listening`).
    Listening,
    /// It has sent the message `"ready"`.
    SaidReady,
    /// `STOPPING=1`
    Stopping,
    /// `STATUS=…`
    Status(String),
    /// `EXTEND_TIMEOUT_USEC=…`
    ExtendTimeout(Duration),
    /// `WATCHDOG=1`
    Watchdog,
    /// `WATCHDOG=trigger`
    WatchdogTrigger,
    /// `WATCHDOG_USEC=…`; none: it gives no more signs of life.
    WatchdogInterval(Option<Duration>),
}

/// What an operator may want.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Rolling replacement of all workers by a new generation.
    Reload,
    /// All workers stop, then a new generation starts.
    Restart,
    /// Undo the rollout that is under way; if there is none, go back to the last good
    /// generation.
    Rollback,
    /// Replace the worker of one slot, the new one first.
    Replace(SlotId),
    /// Another number of workers, over reloads and until the app stops.
    Scale(Scale),
    /// The configuration now says another number: it takes the place of the one that each
    /// generation was loaded with, and of one asked for by [`Request::Scale`].
    Configured {
        /// So many.
        workers: u32,
        /// Where that is said, for people.
        source: String,
    },
    /// Stop all workers gracefully, then end.
    Stop,
    /// Kill all workers, then end.
    StopNow,
}

/// A number of workers, as asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scale {
    /// This many.
    To(u32),
    /// This many more (or fewer).
    By(i32),
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    /// It called exit(3) with this status.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// The kernel does not tell (a process that is not our child).
    Unknown,
}

/// Names of the signals that end workers in practice (signal(7)).
const SIGNALS: &[(i32, &str)] = &[
    (1, "HUP"),
    (2, "INT"),
    (3, "QUIT"),
    (4, "ILL"),
    (5, "TRAP"),
    (6, "ABRT"),
    (7, "BUS"),
    (8, "FPE"),
    (9, "KILL"),
    (10, "USR1"),
    (11, "SEGV"),
    (12, "USR2"),
    (13, "PIPE"),
    (14, "ALRM"),
    (15, "TERM"),
    (24, "XCPU"),
    (25, "XFSZ"),
    (31, "SYS"),
];

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exited with status {code}"),
            Exit::Signal(signal) => match SIGNALS.iter().find(|(n, _)| n == signal) {
                Some((_, name)) => write!(f, "was killed by SIG{name}"),
                None => write!(f, "was killed by signal {signal}"),
            },
            Exit::Unknown => f.write_str("ended (status unknown)"),
        }
    }
}
