// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is logged about a change of state: derived from the [`Transition`], like
//! everything else that is told about it.

use super::journal::{Level, Record};
use crate::config::{Changes, show_duration};
use crate::core::{GenerationId, Recycle, RolloutStep, SlotId, Transition, WorkerState};

/// MESSAGE_IDs (sd-id128(3)), explained in `units/app-cluster.catalog`.
pub mod id {
    /// A worker was started.
    pub const WORKER_STARTED: &str = "7a1f0c5b9d0e4b6c8f35d2b1a4c6e801";
    /// A worker is ready.
    pub const WORKER_READY: &str = "7a1f0c5b9d0e4b6c8f35d2b1a4c6e802";
    /// A worker's process has ended.
    pub const WORKER_EXITED: &str = "7a1f0c5b9d0e4b6c8f35d2b1a4c6e803";
    /// A worker failed.
    pub const WORKER_FAILED: &str = "7a1f0c5b9d0e4b6c8f35d2b1a4c6e804";
    /// A slot waits before its next attempt.
    pub const SLOT_BACKOFF: &str = "7a1f0c5b9d0e4b6c8f35d2b1a4c6e805";
    /// The service is degraded.
    pub const DEGRADED: &str = "7a1f0c5b9d0e4b6c8f35d2b1a4c6e806";
    /// The service is whole again.
    pub const RECOVERED: &str = "7a1f0c5b9d0e4b6c8f35d2b1a4c6e807";
    /// A rollout has begun.
    pub const ROLLOUT_STARTED: &str = "7a1f0c5b9d0e4b6c8f35d2b1a4c6e808";
    /// A rollout has succeeded.
    pub const ROLLOUT_FINISHED: &str = "7a1f0c5b9d0e4b6c8f35d2b1a4c6e809";
    /// A rollout has failed.
    pub const ROLLOUT_FAILED: &str = "7a1f0c5b9d0e4b6c8f35d2b1a4c6e80a";
    /// The number of workers was changed.
    pub const SCALED: &str = "7a1f0c5b9d0e4b6c8f35d2b1a4c6e80b";
    /// What a new generation changes.
    pub const GENERATION_CHANGES: &str = "7a1f0c5b9d0e4b6c8f35d2b1a4c6e8d0";
    /// The cluster changed its state.
    pub const CLUSTER_STATE: &str = "7a1f0c5b9d0e4b6c8f35d2b1a4c6e80c";
    /// A worker does not answer.
    pub const WORKER_BLOCKED: &str = "7a1f0c5b9d0e4b6c8f35d2b1a4c6e80d";
    /// It answers again.
    pub const WORKER_ANSWERS: &str = "7a1f0c5b9d0e4b6c8f35d2b1a4c6e80e";
    /// The companion was started.
    pub const COMPANION_STARTED: &str = "7a1f0c5b9d0e4b6c8f35d2b1a4c6e80f";
    /// The companion has ended, or could not be started.
    pub const COMPANION_ENDED: &str = "7a1f0c5b9d0e4b6c8f35d2b1a4c6e810";
    /// A worker wants no connections.
    pub const WORKER_UNREADY: &str = "7a1f0c5b9d0e4b6c8f35d2b1a4c6e820";
    /// It gets them again.
    pub const WORKER_READY_AGAIN: &str = "7a1f0c5b9d0e4b6c8f35d2b1a4c6e821";
    /// A worker that runs is replaced.
    pub const WORKER_RECYCLED: &str = "7a1f0c5b9d0e4b6c8f35d2b1a4c6e811";
    /// A worker uses more memory than it may from the start.
    pub const WORKER_OVERSIZED: &str = "7a1f0c5b9d0e4b6c8f35d2b1a4c6e822";
    /// A generation crashes too often, and the last good one takes its place.
    pub const FALLING_BACK: &str = "7a1f0c5b9d0e4b6c8f35d2b1a4c6e830";
    /// A supervisor has taken over the workers of another.
    pub const RESUMED: &str = "7a1f0c5b9d0e4b6c8f35d2b1a4c6e8a0";
}

/// The log line for a transition.
pub fn record(transition: &Transition) -> Record {
    let mut record = match transition {
        Transition::Worker { .. } | Transition::Exited { .. } | Transition::Failed { .. } => {
            about_worker(transition)
        }
        Transition::Blocked { .. } | Transition::Answered { .. } => about_answers(transition),
        Transition::Unready { .. } | Transition::ReadyAgain { .. } => about_traffic(transition),
        Transition::Recycled {
            worker,
            slot,
            generation,
            pid,
            why,
        } => Record {
            worker: Some(*worker),
            slot: Some(*slot),
            generation: Some(*generation),
            pid: *pid,
            ..about_recycling(*slot, *pid, why)
        },
        Transition::Oversized {
            worker,
            slot,
            generation,
            pid,
            ..
        } => Record {
            worker: Some(*worker),
            slot: Some(*slot),
            generation: Some(*generation),
            pid: *pid,
            ..about_size(transition)
        },
        Transition::Rollout { generation, step } => {
            let mut record = about_rollout(generation.0, step);
            record.generation = Some(*generation);
            record
        }
        Transition::Backoff {
            slot,
            delay,
            crashes,
        } => {
            let text = format!(
                "slot {slot}: {crashes} failures in a row, next attempt in {}",
                show_duration(*delay)
            );
            let mut record = with_id(Level::Info, text, id::SLOT_BACKOFF);
            record.slot = Some(*slot);
            record
        }
        Transition::Recovered { slot } => {
            let text = format!("slot {slot} is well again");
            let mut record = with_id(Level::Info, text, id::RECOVERED);
            record.slot = Some(*slot);
            record
        }
        Transition::Degraded { why: Some(why) } => {
            with_id(Level::Error, format!("degraded: {why}"), id::DEGRADED)
        }
        Transition::Degraded { why: None } => {
            with_id(Level::Info, "no longer degraded".to_owned(), id::RECOVERED)
        }
        Transition::Cluster { from, to } => {
            with_id(Level::Debug, format!("{from} → {to}"), id::CLUSTER_STATE)
        }
        Transition::Resumed {
            exact,
            workers,
            dropped,
        } => about_resuming(*exact, *workers, *dropped),
        Transition::Scaled { from, to } => {
            with_id(Level::Info, format!("{from} → {to} workers"), id::SCALED)
        }
    };
    record.message = record.message.trim_end().to_owned();
    record
}

/// What the generation `to` changes, as read.
pub fn changed(from: GenerationId, to: GenerationId, changes: &Changes) -> Record {
    let lines = changes.lines();
    let text = match lines.is_empty() {
        true => format!("generation {from} → {to}: the same configuration, variables and files"),
        false => format!("generation {from} → {to} changes\n  {}", lines.join("\n  ")),
    };
    let keys: Vec<&str> = changes
        .keys
        .iter()
        .map(|change| change.key.as_str())
        .collect();
    let mut record = with_id(Level::Info, text, id::GENERATION_CHANGES);
    record.generation = Some(to);
    record.keys = (!keys.is_empty()).then(|| keys.join(" "));
    record.changes = serde_json::to_string(changes).ok();
    record
}

fn with_id(level: Level, message: String, id: &'static str) -> Record {
    let mut record = Record::plain(level, message);
    record.id = Some(id);
    record
}

fn about_worker(transition: &Transition) -> Record {
    let (mut record, worker, slot, generation, pid) = match transition {
        Transition::Worker {
            worker,
            slot,
            generation,
            pid,
            from,
            to,
            after,
        } => {
            let name = format!("slot {slot}: worker {}", pid.unwrap_or_default());
            let after = show_duration(std::time::Duration::from_millis(after.as_millis() as u64));
            let record = match (from, to) {
                (None, _) => {
                    let text = format!("{name} started, generation {generation}");
                    with_id(Level::Info, text, id::WORKER_STARTED)
                }
                (_, WorkerState::Ready) => {
                    let text = format!("{name} is ready after {after}");
                    with_id(Level::Info, text, id::WORKER_READY)
                }
                (_, WorkerState::Gone) => Record::plain(Level::Debug, format!("{name} is gone")),
                (_, to) => Record::plain(Level::Info, format!("{name} is {to}")),
            };
            (record, worker, slot, generation, *pid)
        }
        Transition::Exited {
            worker,
            slot,
            generation,
            pid,
            exit,
            requested,
        } => {
            let name = format!("slot {slot}: worker {}", pid.unwrap_or_default());
            let level = if *requested {
                Level::Info
            } else {
                Level::Warning
            };
            let asked = if *requested { ", as requested" } else { "" };
            let text = format!("{name} {exit}{asked}");
            let record = with_id(level, text, id::WORKER_EXITED);
            (record, worker, slot, generation, *pid)
        }
        Transition::Failed { blame, generation } => {
            let record = with_id(Level::Error, blame.to_string(), id::WORKER_FAILED);
            (record, &blame.worker, &blame.slot, generation, blame.pid)
        }
        _ => return Record::plain(Level::Debug, String::new()),
    };
    record.worker = Some(*worker);
    record.slot = Some(*slot);
    record.generation = Some(*generation);
    record.pid = pid;
    record
}

fn about_answers(transition: &Transition) -> Record {
    let (worker, slot, generation, pid, after, answers) = match transition {
        Transition::Blocked {
            worker,
            slot,
            generation,
            pid,
            after,
        } => (worker, slot, generation, pid, after, false),
        Transition::Answered {
            worker,
            slot,
            generation,
            pid,
            after,
        } => (worker, slot, generation, pid, after, true),
        _ => return Record::plain(Level::Debug, String::new()),
    };
    let name = format!("slot {slot}: worker {}", pid.unwrap_or_default());
    let seconds = after.as_secs_f64();
    let mut record = match answers {
        false => with_id(
            Level::Warning,
            format!(
                "{name} has not answered for {seconds:.1}s: its event loop is blocked; \
                 connections go to the others"
            ),
            id::WORKER_BLOCKED,
        ),
        true => with_id(
            Level::Warning,
            format!("{name} answers again, after {seconds:.1}s"),
            id::WORKER_ANSWERS,
        ),
    };
    record.worker = Some(*worker);
    record.slot = Some(*slot);
    record.generation = Some(*generation);
    record.pid = *pid;
    record
}

fn about_traffic(transition: &Transition) -> Record {
    let (worker, slot, generation, pid) = match transition {
        Transition::Unready {
            worker,
            slot,
            generation,
            pid,
            ..
        }
        | Transition::ReadyAgain {
            worker,
            slot,
            generation,
            pid,
            ..
        } => (worker, slot, generation, pid),
        _ => return Record::plain(Level::Debug, String::new()),
    };
    let name = format!("slot {slot}: worker {}", pid.unwrap_or_default());
    let record = match transition {
        Transition::Unready { why, .. } => with_id(
            Level::Warning,
            format!("{name} is out of the balance: {why}"),
            id::WORKER_UNREADY,
        ),
        Transition::ReadyAgain { after, .. } => {
            let seconds = after.as_secs_f64();
            let text = format!("{name} is back in the balance, after {seconds:.1}s");
            with_id(Level::Info, text, id::WORKER_READY_AGAIN)
        }
        _ => return Record::plain(Level::Debug, String::new()),
    };
    Record {
        worker: Some(*worker),
        slot: Some(*slot),
        generation: Some(*generation),
        pid: *pid,
        ..record
    }
}

fn about_recycling(slot: SlotId, pid: Option<i32>, why: &Recycle) -> Record {
    let level = match why {
        Recycle::Unhealthy(_) | Recycle::Silent { .. } => Level::Warning,
        Recycle::Memory { .. } | Recycle::Lifetime { .. } => Level::Info,
    };
    let name = format!("slot {slot}: worker {}", pid.unwrap_or_default());
    let text = format!("{name} {why}; it is replaced, and serves until then");
    with_id(level, text, id::WORKER_RECYCLED)
}

fn about_size(transition: &Transition) -> Record {
    let Transition::Oversized {
        slot,
        pid,
        used,
        limit,
        bound,
        ..
    } = transition
    else {
        return Record::plain(Level::Debug, String::new());
    };
    let mib = |bytes: &u64| bytes >> 20;
    let text = format!(
        "slot {slot}: worker {} uses {} MiB of memory from the start (max_memory is {} MiB): \
         another would, too, so it is not replaced before it uses {} MiB; raise max_memory",
        pid.unwrap_or_default(),
        mib(used),
        mib(limit),
        mib(bound)
    );
    with_id(Level::Warning, text, id::WORKER_OVERSIZED)
}

fn about_resuming(exact: bool, workers: u32, dropped: bool) -> Record {
    let (level, whose) = match exact {
        true => (Level::Info, "itself after its re-execution"),
        false => (Level::Warning, "a supervisor that has ended"),
    };
    let lost = match dropped {
        true => "; a reload or restart that waited for its turn is not done, ask for it again",
        false => "",
    };
    let text = format!("taken over from {whose}: {workers} workers run on{lost}");
    with_id(level, text, id::RESUMED)
}

fn about_rollout(generation: u64, step: &RolloutStep) -> Record {
    let text = progress(generation, step);
    match step {
        RolloutStep::Started { .. } => with_id(Level::Info, text, id::ROLLOUT_STARTED),
        RolloutStep::Progress { .. } => Record::plain(Level::Info, text),
        RolloutStep::Finished { .. } => with_id(Level::Info, text, id::ROLLOUT_FINISHED),
        RolloutStep::Refused(_) | RolloutStep::Failed(_) => {
            with_id(Level::Error, text, id::ROLLOUT_FAILED)
        }
        RolloutStep::Undone { .. } => Record::plain(Level::Warning, text),
        RolloutStep::NoWayBack(_) => with_id(Level::Error, text, id::ROLLOUT_FAILED),
        RolloutStep::TakenBack | RolloutStep::Interrupted => {
            with_id(Level::Warning, text, id::ROLLOUT_FAILED)
        }
        RolloutStep::FallingBack { .. } => with_id(Level::Error, text, id::FALLING_BACK),
    }
}

/// One line about a step of a rollout, for the log and for whoever asked for it.
pub fn progress(generation: u64, step: &RolloutStep) -> String {
    match step {
        RolloutStep::Started { from, slots } => {
            format!("generation {from} → {generation}: replacing {slots} workers")
        }
        RolloutStep::Progress { done, of } => {
            format!("generation {generation}: {done}/{of} slots")
        }
        RolloutStep::Refused(error) => {
            format!(
                "reload refused, the configuration cannot be used, nothing was changed:\n{error}"
            )
        }
        RolloutStep::NoWayBack(why) => format!("{why}; nothing was changed"),
        RolloutStep::Failed(blame) => format!("generation {generation} failed: {blame}"),
        RolloutStep::TakenBack => {
            format!("generation {generation} is taken back: a rollback was asked for")
        }
        RolloutStep::Interrupted => format!(
            "generation {generation} is taken back: the supervisor ended in the middle of its \
             rollout; ask for it again"
        ),
        RolloutStep::FallingBack { to, blame } => format!(
            "generation {generation} crashes too often, going back to generation {to}: {blame}"
        ),
        RolloutStep::Finished { took } => {
            format!(
                "generation {generation} is rolled out, in {:.1}s",
                took.as_secs_f64()
            )
        }
        RolloutStep::Undone { serving, note } => match note {
            None => format!("generation {serving} serves on, untouched"),
            Some(note) => format!("generation {serving} serves on; {note}"),
        },
    }
}

/// One line about a worker's progress, for whoever waits for a rollout.
pub fn worker_progress(transition: &Transition) -> Option<String> {
    match transition {
        Transition::Worker { from: None, .. }
        | Transition::Worker {
            to: WorkerState::Ready | WorkerState::Draining,
            ..
        }
        | Transition::Failed { .. }
        | Transition::Scaled { .. } => Some(record(transition).message),
        // The final answer says it in full.
        Transition::Rollout {
            step: RolloutStep::Refused(_) | RolloutStep::NoWayBack(_) | RolloutStep::Failed(_),
            ..
        } => None,
        Transition::Rollout { generation, step } => Some(progress(generation.0, step)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::id;

    /// Names and values of the constants in [`id`].
    fn ids() -> Vec<(&'static str, &'static str)> {
        let lines = include_str!("events.rs").lines().map(str::trim);
        lines
            .filter_map(|line| line.strip_prefix("pub const ")?.split_once(": &str = "))
            .map(|(name, value)| (name, value.trim_matches(['"', ';'])))
            .collect()
    }

    #[test]
    fn the_catalog_explains_every_message_id_and_no_other() {
        let ids = ids();
        assert!(
            ids.contains(&("CLUSTER_STATE", id::CLUSTER_STATE)),
            "{ids:?}"
        );
        let catalog = include_str!("../../units/app-cluster.catalog");
        let blocks: Vec<&str> = catalog.split("\n-- ").skip(1).collect();
        let explained: Vec<&str> = blocks.iter().filter_map(|b| b.lines().next()).collect();
        let wanted: Vec<&str> = ids.iter().map(|(_, value)| *value).collect();
        assert_eq!(explained, wanted);
        let different: std::collections::BTreeSet<&str> = wanted.iter().copied().collect();
        assert_eq!(different.len(), wanted.len(), "two have one id");
        let support = format!("Support: {}", env!("CARGO_PKG_HOMEPAGE"));
        for (block, (name, value)) in blocks.iter().zip(&ids) {
            let lines: Vec<&str> = block.lines().collect();
            assert_eq!(value.len(), 32, "{name}");
            assert!(lines[1].starts_with("Subject: "), "{name}");
            assert_eq!(
                lines[2..5],
                ["Defined-By: app-cluster", &support, ""],
                "{name}"
            );
            assert!(block.contains("\nWhat to do"), "{name}");
        }
    }
}
