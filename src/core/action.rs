// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everything the core can have done, and what it has to tell.

use super::blame::Blame;
use super::ids::{GenerationId, RequestId, SlotId, WorkerId};
use super::transition::Transition;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// Something the engine must do now, in the order given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Start a process. Answered by `Spawned` or `SpawnFailed`.
    Spawn {
        /// Its name.
        worker: WorkerId,
        /// Its position.
        slot: SlotId,
        /// Which configuration and code.
        generation: GenerationId,
    },
    /// Ask whether the worker answers. Answered by `Alive`, when it does.
    Ask {
        /// Which.
        worker: WorkerId,
    },
    /// Ask the worker how it is (`health`). Answered by exactly one `Checked`, within the
    /// timeout of its policy.
    Check {
        /// Which.
        worker: WorkerId,
    },
    /// Read what the worker has said on its notify socket. Answered by `Heard`, after that.
    Hear {
        /// Which.
        worker: WorkerId,
    },
    /// Ask the worker to stop accepting and to finish. Answered by `Drained`. After `Resumed`
    /// it may be one that has been asked before.
    Drain {
        /// Whom.
        worker: WorkerId,
        /// It is signalled after this time, drained or not.
        within: Duration,
        /// The whole app ends: nothing is gained by being slow.
        hurry: bool,
    },
    /// Send the stop signal to the worker, or what the worker takes for it.
    Signal {
        /// To whom.
        worker: WorkerId,
        /// Signal number.
        signal: i32,
    },
    /// SIGKILL to the worker's whole process tree, main process included.
    Kill {
        /// Whose.
        worker: WorkerId,
    },
    /// Look whether the worker is ready. Answered by `Probed`, at once or later.
    Probe {
        /// Which.
        worker: WorkerId,
    },
    /// Find out how much memory the worker uses. Answered by `Measured`, at once or later.
    Measure {
        /// Which.
        worker: WorkerId,
    },
    /// The worker is gone: kill what is left of its tree, release what was held for it.
    Release {
        /// Which.
        worker: WorkerId,
    },
    /// Read the configuration afresh. Answered by `ConfigLoaded`.
    LoadConfig {
        /// The name of the generation to be.
        generation: GenerationId,
    },
    /// Make a new generation of one that was kept. Answered by `Recalled`.
    Recall {
        /// The name of the generation to be.
        generation: GenerationId,
        /// The one that it is to be once more.
        of: GenerationId,
    },
    /// No worker uses this generation any more, nor will one.
    DropGeneration {
        /// Which.
        generation: GenerationId,
    },
    /// Every slot has been ready once, or will not be: tell systemd. Said once more after a
    /// `Resumed` that is not exact, for the start that waits for it then.
    SayReady,
    /// A state has changed: log it, tell whoever listens.
    Announce(Transition),
    /// The one final answer to a request.
    Reply {
        /// To whom.
        to: RequestId,
        /// What became of it.
        result: Result<Done, Failure>,
    },
    /// The end. No worker is left.
    Exit(Outcome),
}

impl Action {
    /// The worker that gets its stop signal by it.
    pub fn signals(&self) -> Option<WorkerId> {
        match self {
            Action::Signal { worker, .. } => Some(*worker),
            _ => None,
        }
    }

    /// Whether a worker ends by it, or begins to.
    pub fn ends_a_worker(&self) -> bool {
        matches!(
            self,
            Action::Drain { .. } | Action::Signal { .. } | Action::Kill { .. }
        )
    }
}

/// Why the supervisor ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It was asked to.
    Stopped,
    /// No worker could be started; the text says why.
    StartFailed(Blame),
}

/// A request that succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Done {
    /// Every slot runs this generation.
    Generation {
        /// Which.
        generation: GenerationId,
        /// The older one that it is once more.
        back_to: Option<GenerationId>,
        /// How many workers.
        workers: u32,
        /// How long it took.
        took: Duration,
    },
    /// What was being rolled out is not any more.
    TakenBack {
        /// It.
        generation: GenerationId,
        /// The one that serves.
        serving: GenerationId,
        /// How long it took to go back.
        took: Duration,
    },
    /// The slot has a new worker.
    Replaced {
        /// Which.
        slot: SlotId,
    },
    /// This many workers are ready.
    Scaled {
        /// How many.
        workers: u32,
    },
    /// All workers are gone.
    Stopped,
}

/// A request that failed. Nothing was lost: what served before serves on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// The configuration cannot be used; nothing was changed.
    ConfigInvalid(String),
    /// A worker of the new generation failed.
    GenerationFailed {
        /// The generation that failed.
        generation: GenerationId,
        /// The one that serves on.
        serving: GenerationId,
        /// Whose fault it was.
        blame: Blame,
        /// What became of the slots already replaced, if there were any.
        note: Option<String>,
    },
    /// It was taken back, as somebody else had asked.
    TakenBack {
        /// The generation that was being rolled out.
        generation: GenerationId,
        /// The one that serves on.
        serving: GenerationId,
        /// What became of the slots already replaced, if there were any.
        note: Option<String>,
    },
    /// It was taken back, as the supervisor had ended in the middle of it.
    Interrupted {
        /// The generation that was being rolled out.
        generation: GenerationId,
        /// The one that serves on.
        serving: GenerationId,
        /// What became of the slots already replaced, if there were any.
        note: Option<String>,
    },
    /// There is nothing to go back to, or what it needs is gone; nothing was changed.
    NoWayBack(String),
    /// Some slots could not go back; the text says which, and why.
    NotAllBack(String),
    /// A worker did not start; its slot keeps trying.
    WorkerFailed(Blame),
    /// The supervisor is being stopped.
    Stopping,
    /// A later request of the same kind took its place.
    Superseded,
    /// There is no such slot.
    NoSuchSlot(SlotId),
    /// The number asked for is out of range.
    BadCount(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::ConfigInvalid(text) => {
                write!(
                    f,
                    "the configuration cannot be used, nothing was changed:\n{text}"
                )
            }
            Failure::GenerationFailed {
                generation,
                serving,
                blame,
                note,
            } => {
                write!(f, "generation {generation} failed: {blame}; ")?;
                match note {
                    Some(note) => f.write_str(note),
                    None => write!(f, "generation {serving} serves on, untouched"),
                }
            }
            Failure::TakenBack {
                generation,
                serving,
                note,
            } => {
                write!(f, "generation {generation} was taken back by a rollback; ")?;
                match note {
                    Some(note) => f.write_str(note),
                    None => write!(f, "generation {serving} serves on, untouched"),
                }
            }
            Failure::Interrupted {
                generation,
                serving,
                note,
            } => {
                write!(
                    f,
                    "generation {generation} was taken back, since the supervisor had ended in \
                     the middle of its rollout; "
                )?;
                match note {
                    Some(note) => f.write_str(note),
                    None => write!(f, "generation {serving} serves on, untouched"),
                }
            }
            Failure::NoWayBack(text) => write!(f, "{text}; nothing was changed"),
            Failure::NotAllBack(note) => f.write_str(note),
            Failure::WorkerFailed(blame) => write!(f, "{blame}; its slot keeps trying"),
            Failure::Stopping => f.write_str("the supervisor is stopping"),
            Failure::Superseded => f.write_str("a later request took its place"),
            Failure::NoSuchSlot(slot) => write!(f, "there is no slot {slot}"),
            Failure::BadCount(text) => f.write_str(text),
        }
    }
}
