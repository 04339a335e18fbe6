// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is told of the supervisor: status, outcomes, errors.

use super::listeners::{Line, Listener};
use super::{Engine, Tail, now, tree};
use crate::api::{self, Counters, ListenerStatus, OtherWorker, SlotStatus, Status, WorkersStatus};
use crate::config::{Config, Launch, Spread};
use crate::core::{Done, Failure, SlotId, Time, Worker, WorkerId, WorkerState};
use crate::exec::Plan;
use nix::unistd::{SysconfVar, sysconf};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What to start, without what differs from worker to worker.
pub fn plan(launch: &Launch) -> Plan {
    Plan {
        watchdog: false,
        cgroup: None,
        directory: launch.directory.display().to_string(),
        listen: false,
        cpu: None,
        keep: Vec::new(),
        program: launch.program.display().to_string(),
        arguments: launch.arguments.clone(),
        pins: launch.pins.clone(),
    }
}

/// Whether systemd (248 or later) started this very process, and not an ancestor.
pub fn is_main_process_of_a_unit() -> bool {
    let main = std::env::var("SYSTEMD_EXEC_PID").ok();
    main.and_then(|pid| pid.parse().ok()) == Some(std::process::id())
}

/// The service unit whose cgroup we are in.
pub fn own_unit() -> Option<String> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    // On a hybrid machine only some hierarchies know of units.
    let paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let mut units = paths
        .flat_map(|path| path.rsplit('/'))
        .filter(|part| part.ends_with(".service"));
    units.next().map(str::to_owned)
}

/// The outcome of a request, for people.
pub fn outcome(done: &Done) -> api::Outcome {
    let (message, generation, workers) = match done {
        Done::Generation {
            generation,
            back_to,
            workers,
            took,
        } => {
            let took = took.as_secs_f64();
            let back = back_to.map_or(String::new(), |of| format!(", a rollback to {of}"));
            let text = format!("generation {generation}{back}: {workers} workers, in {took:.1}s");
            (text, Some(generation.0), Some(*workers))
        }
        Done::TakenBack {
            generation,
            serving,
            took,
        } => {
            let took = took.as_secs_f64();
            let text = format!(
                "generation {generation} was taken back, generation {serving} serves; in {took:.1}s"
            );
            (text, Some(serving.0), None)
        }
        Done::Replaced { slot } => (format!("slot {slot} has a new worker"), None, None),
        Done::Scaled { workers } => (format!("{workers} workers are ready"), None, Some(*workers)),
        Done::Stopped => ("stopped".to_owned(), None, None),
    };
    let back_to = match done {
        Done::Generation { back_to, .. } => back_to.map(|of| of.0),
        _ => None,
    };
    api::Outcome {
        message,
        generation,
        back_to,
        workers,
        incarnation: None,
        changes: None,
    }
}

impl Engine {
    /// A failure, for whoever asked.
    pub(super) fn error(&self, failure: &Failure) -> api::Error {
        let message = failure.to_string();
        match failure {
            Failure::ConfigInvalid(_) => api::Error::ConfigInvalid { message },
            Failure::GenerationFailed { blame, .. } => api::Error::GenerationFailed {
                message,
                slot: blame.slot.0,
                pid: blame.pid,
                cgroup: self.cgroup_name(Some(blame.worker)),
                cause: blame.cause.to_string(),
                last_lines: Vec::new(),
            },
            Failure::WorkerFailed(blame) => api::Error::WorkerFailed {
                message,
                slot: blame.slot.0,
                pid: blame.pid,
                cgroup: self.cgroup_name(Some(blame.worker)),
            },
            Failure::NoSuchSlot(_) => api::Error::NoSuchWorker { message },
            Failure::Stopping
            | Failure::Superseded
            | Failure::TakenBack { .. }
            | Failure::Interrupted { .. } => api::Error::InProgress { message },
            Failure::NoWayBack(_) => api::Error::NoWayBack { message },
            Failure::NotAllBack(_) => api::Error::NotAllBack { message },
            Failure::BadCount(_) => api::Error::InvalidParameter { message },
        }
    }

    /// What the worker that made a rollout fail wrote (foreground only).
    pub(super) fn tail(&self, failure: &Failure) -> Option<Tail> {
        let Failure::GenerationFailed { blame, .. } = failure else {
            return None;
        };
        let held = self.held.get(&blame.worker).and_then(|h| h.tail.as_ref());
        let kept = self.tails.iter().find(|(id, _)| *id == blame.worker);
        held.or(kept.map(|(_, tail)| tail)).cloned()
    }

    /// Everything that is told of the app.
    pub(super) fn status(&self) -> Status {
        let (desired, source) = self.core.desired_workers();
        let rollout = self.core.rollout();
        Status {
            app: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id() as i32,
            unit: self.unit.clone(),
            config: self.config.clone(),
            state: self.core.state().to_string(),
            generation: self.core.generation().0,
            rolled_back: self.core.rolled_back().map(|back| api::RolledBack {
                from: back.from.0,
                to: back.to.0,
                why: back.why.clone(),
            }),
            workers: WorkersStatus {
                desired,
                ready: self.core.ready_workers(),
                source,
            },
            listeners: self.listener_status(),
            limits: self.limits(),
            slots: self.slot_status(),
            rollout: rollout.map(|r| api::RolloutStatus {
                to: r.to.0,
                stage: r.stage,
                done: r.done,
                of: r.of,
                failure: r.failure,
            }),
            degraded: self
                .impaired()
                .or_else(|| self.core.degraded().map(str::to_owned)),
            companion: self.companion_status(),
            incarnation: self.recorder.incarnation,
            taken_over: self
                .recorder
                .taken_over
                .as_ref()
                .map(|taken| api::TakenOver {
                    how: taken.how.to_owned(),
                    at: wall_clock(taken.at),
                    from_version: taken.from_version.clone(),
                }),
            counters: Counters {
                notify_refused: self.notify_refused,
                notify_garbage: self.notify_garbage,
                log_dropped: self.journal.dropped(),
                systemd_dropped: self.systemd.dropped,
            },
        }
    }

    /// Whether the units that we run in are what `config` asks for.
    ///
    /// # Errors
    /// What differs, and the commands that change it.
    pub(super) fn units_fit(&self, config: &Config) -> Result<(), String> {
        let Some(running) = &self.running else {
            return Ok(());
        };
        let sockets: Vec<_> = self.listeners.iter().flat_map(Listener::sockets).collect();
        running.fits(config, &sockets)
    }

    /// Says if the first configuration asks for other units. No reason to serve nobody:
    /// perhaps we are back after a crash.
    pub(super) fn warn_of_other_units(&mut self) {
        let first = self.releases.values().next();
        if let Some(Err(changes)) = first.map(|release| self.units_fit(&release.config)) {
            self.warn(format!(
                "the units are not as the configuration says:\n{changes}"
            ));
        }
    }

    fn listener_status(&self) -> Vec<ListenerStatus> {
        let spread = self.spread();
        let status = |listener: &Listener| {
            let lines = listener.lines.iter();
            let queues: Option<Vec<u32>> = lines.map(Line::waiting).collect();
            ListenerStatus {
                name: listener.name.clone(),
                address: listener.address.clone(),
                balance: match spread {
                    _ if listener.per_slot => "by slot",
                    Spread::Even if listener.is_steered() => "even",
                    Spread::Sticky if listener.is_steered() => "sticky",
                    Spread::RoundRobin => "round-robin",
                    _ => "shared",
                }
                .to_owned(),
                lines: listener.lines.len() as u32,
                backlog: queues.as_ref().map(|q| q.iter().sum()),
                queues: queues.unwrap_or_default(),
            }
        };
        self.listeners.iter().map(status).collect()
    }

    /// Those of the generation that serves.
    fn limits(&self) -> api::Limits {
        let release = self.releases.get(&self.core.generation());
        let config = release.map(|release| &release.config);
        api::Limits {
            max_memory: config.and_then(|c| c.max_memory),
            max_lifetime: config.and_then(|c| Some(c.max_lifetime?.as_secs())),
        }
    }

    fn slot_status(&self) -> Vec<SlotStatus> {
        let mut by_slot: BTreeMap<SlotId, Vec<&Worker>> = BTreeMap::new();
        for worker in self.core.workers() {
            by_slot.entry(worker.slot).or_default().push(worker);
        }
        let slots = self.core.slots().iter().enumerate();
        slots
            .map(|(index, slot)| {
                let id = SlotId(index as u32);
                let mut here = by_slot.remove(&id).unwrap_or_default();
                // Shown is the one that serves; else the one that is about to.
                here.sort_by_key(|w| {
                    let rank = match w.state {
                        WorkerState::Ready => 0,
                        WorkerState::Starting => 1,
                        _ => 2,
                    };
                    (rank, std::cmp::Reverse(w.id))
                });
                let shown = here.first().filter(|w| w.state.is_live()).copied();
                let idle = match () {
                    () if slot.stopped => "stopped",
                    () if slot.failed.is_some() => "failed",
                    () if self.core.backoff_until(id).is_some() => "backoff",
                    () => "empty",
                };
                let usage = shown.map(|w| self.usage(w.id)).unwrap_or_default();
                SlotStatus {
                    slot: id.0,
                    worker: shown.map(|w| w.id.0),
                    pid: shown.and_then(|w| w.pid),
                    state: shown.map_or(idle.to_owned(), state),
                    generation: shown.map(|w| w.generation.0),
                    since: shown.map(|w| wall_clock(w.since)),
                    cpu: usage.0,
                    memory: usage.1,
                    cpus: shown.and_then(|w| self.cpus_of(w)),
                    restarts: slot.restarts,
                    recycled: slot.recycled,
                    last_exit: slot.last_exit.as_ref().map(|last| {
                        let asked = if last.requested { ", as requested" } else { "" };
                        format!("{}{asked}", last.exit)
                    }),
                    status: shown.and_then(|w| w.status.clone()),
                    health: shown.and_then(|w| {
                        let release = self.releases.get(&w.generation)?;
                        release.config.health.as_ref().map(|_| health(w))
                    }),
                    event_loop: shown.and_then(|w| self.event_loop(w.id)),
                    draining: here
                        .iter()
                        .filter(|w| Some(w.id) != shown.map(|s| s.id))
                        .map(|w| OtherWorker {
                            worker: w.id.0,
                            pid: w.pid,
                            state: w.state.to_string(),
                            generation: w.generation.0,
                            since: wall_clock(w.since),
                        })
                        .collect(),
                }
            })
            .collect()
    }

    /// CPU seconds and bytes of memory of a worker's processes.
    fn usage(&self, worker: WorkerId) -> (Option<f64>, Option<u64>) {
        let hertz = sysconf(SysconfVar::CLK_TCK).ok().flatten();
        let hertz = hertz.unwrap_or(1).max(1);
        let members = self.members(worker);
        let stats: Vec<_> = members
            .iter()
            .filter_map(|p| tree::Stat::read(*p))
            .collect();
        if stats.is_empty() {
            return (None, None);
        }
        let ticks: u64 = stats.iter().map(|s| s.ticks).sum();
        let exact = self.cgroup.as_ref().and_then(|c| c.cpu_usec(worker));
        let cpu = match exact {
            Some(micros) => micros as f64 / 1e6,
            None => ticks as f64 / hertz as f64,
        };
        (Some(cpu), self.memory_of(worker, &members))
    }
}

/// What is known of the health of a worker that is asked for it.
fn health(worker: &Worker) -> String {
    let checkup = &worker.checkup;
    match &checkup.said {
        Some(said) => said.clone(),
        None if checkup.good => "well".to_owned(),
        None => "not asked yet".to_owned(),
    }
}

fn state(worker: &Worker) -> String {
    match (worker.state, worker.blocked, worker.not_ready) {
        (WorkerState::Ready, Some(_), _) => "blocked".to_owned(),
        (WorkerState::Ready, None, Some(_)) => "not-ready".to_owned(),
        (state, ..) => state.to_string(),
    }
}

/// A moment of our clock as UTC in RFC 3339, as well as the wall clock knows it now.
pub fn wall_clock(at: Time) -> String {
    let then = SystemTime::now() - now().since(at);
    let since_epoch = then.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    rfc3339(since_epoch.as_secs())
}

/// Seconds since 1970 as UTC in RFC 3339. Days to date by Howard Hinnant's
/// `civil_from_days`.
pub fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_256_131, "2026-11-21T10:15:31Z"),
            (4_102_444_799, "2099-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }
}
