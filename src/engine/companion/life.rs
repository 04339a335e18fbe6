// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the companion is started, replaced, restarted and ended.

use super::super::cgroup::COMPANION;
use super::super::events::id;
use super::super::output::{self, Whose};
use super::super::spawn::{Output, has_ended, spawn, try_wait};
use super::super::{Engine, Level, now, report, tree};
use super::{Backlog, Channel, Interest, Rules, Running, Stop, Token};
use crate::api::CompanionStatus;
use crate::config::show_duration;
use crate::core::{Done, GenerationId, Time};
use crate::exec::Plan;
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe2};
use rustix::process::pidfd_send_signal;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// Longest time from its stop signal to SIGKILL: it has no clients that wait.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// It has no crash budget: it is started again after this time at the earliest.
const SHORTEST: Duration = Duration::from_millis(100);
/// What tells its processes from all others.
const MARK: (&str, &str) = ("APP_CLUSTER_COMPANION", "1");
/// Where it finds its channel.
const CHANNEL: i32 = 3;

impl Engine {
    /// Does what is due: it runs while the app does, as the generation that is rolled out.
    pub(in super::super) fn companion_turn(&mut self) {
        let now = now();
        let wanted = self.wanted_companion();
        let Some(running) = &self.companion.running else {
            match wanted {
                Some(generation) if self.companion.retry.is_none_or(|at| at <= now) => {
                    self.start_companion(generation, now);
                }
                Some(_) => {}
                None => {
                    self.companion.retry = None;
                    self.companion.backlog = Backlog::default();
                }
            }
            return;
        };
        let ends = wanted != Some(running.generation);
        let rules = running.rules;
        let stop = match running.stop {
            Stop::Killed => return,
            _ if self.companion.hurry && self.outcome.is_some() => {
                self.kill_companion();
                Stop::Killed
            }
            Stop::No if ends => {
                self.signal_companion(rules.stop_signal);
                Stop::Asked(now + rules.stop_within)
            }
            Stop::Asked(until) if until <= now => {
                self.about_companion(Level::Warning, "has not ended in time: killing it", None);
                self.kill_companion();
                Stop::Killed
            }
            _ => return,
        };
        if let Some(running) = &mut self.companion.running {
            running.stop = stop;
        }
        self.recorder.outdate();
    }

    /// The generation that should have one.
    pub(super) fn wanted_companion(&self) -> Option<GenerationId> {
        let generation = self.core.generation();
        let release = self.releases.get(&generation)?;
        let wanted = release.config.companion.is_some() && self.outcome.is_none();
        wanted.then_some(generation)
    }

    fn start_companion(&mut self, generation: GenerationId, now: Time) {
        self.companion.retry = None;
        match self.spawn_companion(generation, now) {
            Ok(running) => {
                self.companion.running = Some(running);
                self.recorder.outdate();
                let text = format!("started, generation {generation}");
                self.about_companion(Level::Info, &text, Some(id::COMPANION_STARTED));
                self.pump_companion();
            }
            Err(error) => {
                let rules = self.companion_rules(generation);
                let delay = self.companion_delay(rules);
                self.companion.retry = Some(now + delay);
                let text = format!(
                    "could not be started: {error}; next attempt in {}",
                    show_duration(delay)
                );
                self.about_companion(Level::Error, &text, Some(id::COMPANION_ENDED));
            }
        }
    }

    pub(super) fn companion_rules(&self, generation: GenerationId) -> Rules {
        let release = self.releases.get(&generation);
        let config = release.map(|release| &release.config);
        Rules {
            stop_signal: config.map_or(Signal::SIGTERM as i32, |c| c.stop_signal),
            stop_within: config.map_or(STOP_WITHIN, |c| c.drain_timeout.min(STOP_WITHIN)),
            backoff_min: config.map_or(STOP_WITHIN, |c| c.backoff_min),
            backoff_max: config.map_or(STOP_WITHIN, |c| c.backoff_max),
        }
    }

    /// How long it is not started again, one failure more.
    fn companion_delay(&mut self, rules: Rules) -> Duration {
        let doubled = 1u32 << self.companion.failures.min(30);
        self.companion.failures += 1;
        let delay = rules.backoff_min.max(SHORTEST).saturating_mul(doubled);
        delay.min(rules.backoff_max.max(SHORTEST))
    }

    fn spawn_companion(&self, generation: GenerationId, since: Time) -> io::Result<Running> {
        let missing = || io::Error::other("its generation is gone");
        let release = self.releases.get(&generation).ok_or_else(missing)?;
        let launch = &release.launch;
        let companion = release.config.companion.as_ref().ok_or_else(missing)?;
        let program = launch.companion_program.as_ref().ok_or_else(missing)?;
        let cgroup = match &self.cgroup {
            Some(cgroup) => {
                cgroup.create(COMPANION)?;
                Some(cgroup.entrance(COMPANION).display().to_string())
            }
            None => None,
        };
        let plan = Plan {
            cgroup,
            program: program.display().to_string(),
            arguments: companion.command.clone(),
            pins: launch.companion_pins.clone(),
            ..report::plan(launch)
        };
        let environment = self.companion_environment(&launch.environment, generation);
        let (channel, theirs) = Channel::pair()?;
        let pipe = match self.style {
            Some(_) => Some(pipe2(OFlag::O_CLOEXEC)?),
            None => None,
        };
        let output = match &pipe {
            Some((_, writer)) => Output::Pipe(writer.as_fd()),
            None => Output::Inherit,
        };
        let process = spawn(&plan, &environment, &[(theirs.as_fd(), CHANNEL)], output)?;
        let pid = process.pid;
        let watch = || -> io::Result<_> {
            let mut tail = None;
            if let (Some(style), Some((reader, _))) = (self.style, pipe) {
                let output = (reader, Vec::new());
                let shown = output::show(style, &self.name, Whose::Companion, pid, output)?;
                tail = Some(shown);
            }
            self.poller.add(&process.pidfd, Token::CompanionExit)?;
            self.poller.add(&channel, Token::CompanionChannel)?;
            Ok(tail)
        };
        let tail = watch().inspect_err(|_| {
            // What cannot be watched must not run.
            let _ = pidfd_send_signal(&process.pidfd, rustix::process::Signal::KILL);
        })?;
        Ok(Running {
            process,
            channel,
            interest: Interest::Connection,
            generation,
            since,
            stop: Stop::No,
            rules: self.companion_rules(generation),
            tail,
        })
    }

    /// That of the workers, without what is a single worker's.
    fn companion_environment(
        &self,
        base: &BTreeMap<String, String>,
        generation: GenerationId,
    ) -> BTreeMap<String, String> {
        let mut all = base.clone();
        if self.style.is_some() {
            all.remove("JOURNAL_STREAM");
        }
        let workers = self.core.desired_workers().0.to_string();
        all.entry("WORKER_COUNT".to_owned())
            .or_insert_with(|| workers.clone());
        let ours = [
            ("APP_CLUSTER_NAME", self.name.clone()),
            ("APP_CLUSTER_WORKERS", workers),
            ("APP_CLUSTER_GENERATION", generation.to_string()),
            (MARK.0, MARK.1.to_owned()),
            ("NODE_CHANNEL_FD", CHANNEL.to_string()),
            ("NODE_CHANNEL_SERIALIZATION_MODE", "json".to_owned()),
        ];
        all.extend(ours.map(|(name, value)| (name.to_owned(), value)));
        all
    }

    fn signal_companion(&self, signal: i32) {
        let named = rustix::process::Signal::from_named_raw(signal);
        if let (Some(running), Some(signal)) = (&self.companion.running, named) {
            let _ = pidfd_send_signal(&running.process.pidfd, signal);
        }
    }

    /// SIGKILL to it and all that it has started.
    fn kill_companion(&self) {
        let Some(pid) = self.companion.pid() else {
            return;
        };
        let pids = match &self.cgroup {
            Some(cgroup) if cgroup.kill(COMPANION) => Vec::new(),
            Some(cgroup) => cgroup.members(COMPANION),
            None => {
                let known = |pid| self.held.values().any(|h| h.process.pid == pid);
                let mut pids = tree::descendants(pid);
                let mark = format!("{}={}", MARK.0, MARK.1);
                pids.extend(tree::orphans(pid, &mark, known));
                pids
            }
        };
        for other in pids.into_iter().filter(|other| *other > 1 && *other != pid) {
            let _ = kill(Pid::from_raw(other), Signal::SIGKILL);
        }
        self.signal_companion(Signal::SIGKILL as i32);
    }

    /// Its process may have ended.
    pub(in super::super) fn take_companion_exit(&mut self) {
        let running = self.companion.running.as_ref();
        if !running.is_some_and(|running| has_ended(&running.process.pidfd)) {
            return;
        }
        // While the zombie is there its pid, and so its session, is nobody else's.
        self.kill_companion();
        self.take_companion_channel();
        let Some(running) = &self.companion.running else {
            return;
        };
        let Some(exit) = try_wait(&running.process.pidfd) else {
            return;
        };
        let asked = running.stop != Stop::No;
        let (rules, since) = (running.rules, running.since);
        let wanted = self.wanted_companion().is_some();
        if asked || !wanted {
            self.companion.failures = 0;
            let text = format!("{exit}, as requested");
            self.about_companion(Level::Info, &text, Some(id::COMPANION_ENDED));
        } else {
            if now().since(since) >= rules.backoff_max {
                self.companion.failures = 0;
            }
            let delay = self.companion_delay(rules);
            self.companion.retry = Some(now() + delay);
            self.companion.restarts += 1;
            let next = show_duration(delay);
            let text = format!("{exit}; it is started again in {next}");
            self.about_companion(Level::Warning, &text, Some(id::COMPANION_ENDED));
        }
        self.companion.last_exit = Some(exit.to_string());
        self.recorder.outdate();
        if let Some(running) = self.companion.running.take() {
            self.poller.remove(&running.process.pidfd);
            if !running.channel.has_ended() {
                self.poller.remove(&running.channel);
            }
            self.companion.lost += u64::from(running.channel.wants_to_send());
            self.companion.last_tail = running.tail;
        }
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove(COMPANION);
        }
    }

    /// Tells those that had to wait for its end that the app has stopped.
    pub(in super::super) fn companion_is_gone(&mut self) {
        for request in std::mem::take(&mut self.companion.waiting) {
            self.reply(request, Ok(Done::Stopped));
        }
    }

    pub(super) fn companion_cgroup_name(&self) -> Option<String> {
        Some(self.cgroup.as_ref()?.name_of(COMPANION))
    }

    /// What is told of it; `None`: there is none.
    pub(in super::super) fn companion_status(&self) -> Option<CompanionStatus> {
        let companion = &self.companion;
        let running = companion.running.as_ref();
        if running.is_none() && self.wanted_companion().is_none() {
            return None;
        }
        let state = match running {
            None => "backoff",
            Some(running) if running.stop != Stop::No => "stopping",
            Some(_) => "running",
        };
        Some(CompanionStatus {
            state: state.to_owned(),
            pid: companion.pid(),
            generation: running.map(|r| r.generation.0),
            since: running.map(|r| report::wall_clock(r.since)),
            restarts: companion.restarts,
            last_exit: companion.last_exit.clone(),
            waiting: companion.backlog.len(),
            lost: companion.lost,
            undelivered: companion.undelivered,
        })
    }
}
