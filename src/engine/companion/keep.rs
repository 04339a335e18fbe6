// SPDX-License-Identifier: MIT OR Apache-2.0
//! What of the companion goes to the next supervisor.

use super::super::cgroup::COMPANION;
use super::super::output::{self, Whose};
use super::super::spawn::Process;
use super::super::{Engine, Level};
use super::{Backlog, Channel, Companion, Interest, Running, Stop, Token};
use crate::core::{GenerationId, Time, WorkerId};
use crate::engine::resume::{Identity, Kept, Name, reopen};
use crate::protocol::node::channel::Unfinished;
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, BorrowedFd};

/// What is known of it.
#[derive(Default, Serialize, Deserialize)]
pub struct CompanionState {
    running: Option<RunningState>,
    failures: u32,
    restarts: u64,
    last_exit: Option<String>,
    /// When it is started again.
    #[serde(default)]
    retry: Option<Time>,
    lost: u64,
    undelivered: u64,
    wrong: u64,
    /// Messages that wait for it.
    #[serde(default)]
    backlog: Vec<(WorkerId, String)>,
}

#[derive(Serialize, Deserialize)]
struct RunningState {
    process: Identity,
    generation: GenerationId,
    since: Time,
    stop: Stop,
    #[serde(default)]
    unfinished: Unfinished,
    /// The beginning of a line of its output (foreground).
    #[serde(default)]
    begun: Vec<u8>,
}

impl CompanionState {
    /// Its process, if it runs.
    pub fn process(&self) -> Option<Identity> {
        Some(self.running.as_ref()?.process)
    }

    /// Something may have been said and heard since.
    pub fn doubt(&mut self) {
        if let Some(running) = self.running.as_mut().filter(|r| r.unfinished.is_exact()) {
            running.unfinished = Unfinished::default();
        }
    }
}

impl Companion {
    /// What is to be kept. `exact`: nothing more will be said or heard.
    pub fn state(&self, exact: bool) -> CompanionState {
        let running = self.running.as_ref().map(|running| RunningState {
            process: Identity::from(&running.process),
            generation: running.generation,
            since: running.since,
            stop: running.stop,
            unfinished: running.channel.unfinished(exact),
            begun: match &running.tail {
                Some(tail) if exact => tail.begun(),
                _ => Vec::new(),
            },
        });
        CompanionState {
            running,
            failures: self.failures,
            restarts: self.restarts,
            last_exit: self.last_exit.clone(),
            lost: self.lost,
            undelivered: self.undelivered,
            wrong: self.wrong,
            retry: self.retry,
            backlog: match exact {
                true => self.backlog.texts(),
                false => Vec::new(),
            },
        }
    }

    /// The pipe that it writes into (foreground).
    pub fn output(&self) -> Option<BorrowedFd<'_>> {
        self.running.as_ref()?.tail.as_ref()?.pipe()
    }

    /// Descriptors that are to be kept.
    pub fn descriptors(&self) -> impl Iterator<Item = (Name, BorrowedFd<'_>)> {
        self.running.iter().flat_map(|running| {
            [
                (Name::CompanionProcess, running.process.pidfd.as_fd()),
                (Name::CompanionChannel, running.channel.as_fd()),
            ]
        })
    }
}

impl Engine {
    /// Goes on with a companion that was started by another supervisor.
    pub(in super::super) fn resume_companion(&mut self, state: CompanionState, kept: &mut Kept) {
        let found = state.running.and_then(|running| {
            let pidfd = kept.take(Name::CompanionProcess);
            let channel = kept.take(Name::CompanionChannel)?;
            let output = kept.take(Name::CompanionOutput);
            let pidfd = reopen(pidfd, running.process)?;
            let mut channel = Channel::on(channel);
            channel.go_on(running.unfinished);
            let process = Process {
                pid: running.process.pid,
                started: running.process.started,
                pidfd,
            };
            let watched = self.poller.add(&process.pidfd, Token::CompanionExit);
            watched
                .and_then(|()| self.poller.add(&channel, Token::CompanionChannel))
                .ok()?;
            let tail = self.style.zip(output).and_then(|(style, pipe)| {
                let (pid, output) = (process.pid, (pipe, running.begun));
                output::show(style, &self.name, Whose::Companion, pid, output).ok()
            });
            Some(Running {
                rules: self.companion_rules(running.generation),
                process,
                channel,
                interest: Interest::Connection,
                generation: running.generation,
                since: running.since,
                stop: running.stop,
                tail,
            })
        });
        if found.is_none()
            && let Some(cgroup) = &self.cgroup
        {
            // Without its channel it is of no use.
            cgroup.kill(COMPANION);
            cgroup.remove(COMPANION);
        }
        let mut backlog = Backlog::default();
        let mut lost = state.lost;
        for (worker, text) in state.backlog {
            lost += backlog.push(worker, text.into_bytes());
        }
        self.companion = Companion {
            running: found,
            backlog,
            retry: state.retry,
            failures: state.failures,
            restarts: state.restarts,
            last_exit: state.last_exit,
            lost,
            undelivered: state.undelivered,
            wrong: state.wrong,
            ..Companion::default()
        };
        if self.companion.is_running() {
            self.about_companion(Level::Info, "goes on", None);
            self.pump_companion();
        }
    }
}
