// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands that look at one worker: `health = { exec = [...] }`, and of `ready` the same.
//!
//! A command runs in the worker's cgroup, directory and environment, and finds the worker by
//! APP_CLUSTER_SLOT and APP_CLUSTER_PID.

use super::super::poller::Token;
use super::super::spawn::{Output, Process, spawn, try_wait};
use super::super::{Engine, Release};
use super::How;
use crate::config::Pins;
use crate::core::{Exit, Verdict, WorkerId};
use crate::exec::Plan;
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, pipe2};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// A command says with this that the worker wants no traffic (sysexits.h).
const EX_TEMPFAIL: i32 = 75;
/// So much is kept of what it writes, in bytes, and shown of its last line, in characters.
const KEPT: usize = 2048;
const SHOWN: usize = 120;
/// Pieces read in one turn.
const PIECES: usize = 16;

/// A command that runs.
pub struct Running {
    process: Process,
    /// What it writes; none when it has closed that.
    output: Option<OwnedFd>,
    tail: VecDeque<u8>,
}

impl Running {
    /// The last line that it wrote, as the end of a sentence.
    pub fn last_words(&self) -> String {
        let bytes: Vec<u8> = self.tail.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let last = text.lines().map(str::trim).rfind(|line| !line.is_empty());
        let plain = last.unwrap_or_default().chars().filter(|c| !c.is_control());
        let shown: String = plain.take(SHOWN).collect();
        match shown.is_empty() {
            true => shown,
            false => format!(": {shown}"),
        }
    }
}

impl Engine {
    /// Starts a command beside a worker. With where its program is, and what its
    /// paths lead to.
    pub(in super::super) fn run_beside(
        &self,
        worker: WorkerId,
        release: &Release,
        (program, pins): (Option<&Path>, &Pins),
        words: &[String],
        output: Output<'_>,
    ) -> io::Result<Process> {
        let gone = || io::Error::other("the worker is gone");
        let held = self.held.get(&worker).ok_or_else(gone)?;
        let known = self.core.worker(worker).ok_or_else(gone)?;
        let program = program.map_or(words[0].clone(), |p| p.display().to_string());
        let cgroup = self.cgroup.as_ref();
        let plan = Plan {
            cgroup: cgroup.map(|c| c.entrance(worker).display().to_string()),
            directory: release.launch.directory.display().to_string(),
            program,
            arguments: words.to_vec(),
            pins: pins.clone(),
            ..Plan::default()
        };
        let mut environment =
            self.environment(release, known.slot, known.generation, &held.notify, &[]);
        for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC"] {
            environment.remove(name);
        }
        let pid = held.process.pid.to_string();
        environment.insert("APP_CLUSTER_PID".to_owned(), pid);
        spawn(&plan, &environment, &[], output)
    }

    pub(super) fn run_check(&mut self, worker: WorkerId, words: &[String]) -> io::Result<Running> {
        let generation = self.core.worker(worker).map(|w| w.generation);
        let release = generation.and_then(|g| self.releases.get(&g));
        let release = release.ok_or_else(|| io::Error::other("its configuration is gone"))?;
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
        rustix::io::ioctl_fionbio(&reader, true)?;
        let launch = &release.launch;
        let found = (launch.health_program.as_deref(), &launch.health_pins);
        let output = Output::Pipe(writer.as_fd());
        let process = self.run_beside(worker, release, found, words, output)?;
        let running = Running {
            process,
            output: None,
            tail: VecDeque::new(),
        };
        let watched = self
            .poller
            .add(&running.process.pidfd, Token::HealthExit(worker))
            .and_then(|()| self.poller.add(&reader, Token::Health(worker)));
        if let Err(error) = watched {
            self.end_command(running);
            return Err(error);
        }
        Ok(Running {
            output: Some(reader),
            ..running
        })
    }

    fn running(&mut self, worker: WorkerId) -> Option<&mut Running> {
        match &mut self.check(worker)?.how {
            How::Exec(running) => Some(running),
            How::Http(_) => None,
        }
    }

    pub(super) fn take_check_output(&mut self, worker: WorkerId) {
        for _ in 0..PIECES {
            let Some(running) = self.running(worker) else {
                return;
            };
            let Some(output) = &running.output else {
                return;
            };
            let mut piece = [0; 4096];
            match rustix::io::read(output, &mut piece) {
                Ok(0) | Err(rustix::io::Errno::IO) => {
                    let output = running.output.take();
                    if let Some(output) = output {
                        self.poller.remove(&output);
                    }
                    return;
                }
                Ok(count) => {
                    running.tail.extend(&piece[..count]);
                    let surplus = running.tail.len().saturating_sub(KEPT);
                    running.tail.drain(..surplus);
                }
                Err(_) => return,
            }
        }
    }

    /// The command has ended.
    pub(in super::super) fn take_check_exit(&mut self, worker: WorkerId) {
        self.take_check_output(worker);
        let Some(running) = self.running(worker) else {
            return;
        };
        let pid = running.process.pid;
        let ended = rustix::process::waitid(
            rustix::process::WaitId::PidFd(running.process.pidfd.as_fd()),
            rustix::process::WaitIdOptions::EXITED
                | rustix::process::WaitIdOptions::NOHANG
                | rustix::process::WaitIdOptions::NOWAIT,
        );
        if matches!(ended, Ok(None)) {
            return;
        }
        // While the zombie is there its group is nobody else's.
        kill_group(pid);
        let exit = try_wait(&running.process.pidfd).unwrap_or(Exit::Unknown);
        let said = running.last_words();
        let name = self.check(worker).map(|check| check.name.clone());
        let text = format!("{} {exit}{said}", name.unwrap_or_default());
        let verdict = match exit {
            Exit::Code(0) => Verdict::Healthy,
            Exit::Code(EX_TEMPFAIL) => Verdict::NotReady(text),
            _ => Verdict::Bad(text),
        };
        self.finish_check(worker, verdict);
    }

    /// Whose command it is that has ended.
    pub(in super::super) fn checked_by(&self, pid: i32) -> Option<WorkerId> {
        let by = |held: &super::super::Held| match held.check.as_ref().map(|check| &check.how) {
            Some(How::Exec(running)) => running.process.pid == pid,
            _ => false,
        };
        self.held
            .iter()
            .find(|(_, held)| by(held))
            .map(|(id, _)| *id)
    }

    /// Ends a command and what it has started, and forgets it.
    pub(super) fn end_command(&mut self, running: Running) {
        if let Some(output) = &running.output {
            self.poller.remove(output);
        }
        self.poller.remove(&running.process.pidfd);
        if try_wait(&running.process.pidfd).is_none() {
            // Not waited for by anybody: its number is its own.
            kill_group(running.process.pid);
            let kill = rustix::process::Signal::KILL;
            let _ = rustix::process::pidfd_send_signal(&running.process.pidfd, kill);
        }
    }
}

/// SIGKILL to the group of a command, which has a session of its own as soon as it runs.
fn kill_group(pid: i32) {
    let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
}
