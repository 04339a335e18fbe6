// SPDX-License-Identifier: MIT OR Apache-2.0
//! What of the companion goes to the next supervisor.

use super::super::cgroup::COMPANION;
use super::super::spawn::Process;
use super::super::{Engine, Level};
use super::{Channel, Companion, Interest, Running, Stop, Token};
use crate::core::{GenerationId, Time};
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
    lost: u64,
    undelivered: u64,
    wrong: u64,
}

#[derive(Serialize, Deserialize)]
struct RunningState {
    process: Identity,
    generation: GenerationId,
    since: Time,
    stop: Stop,
    #[serde(default)]
    unfinished: Unfinished,
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
        });
        CompanionState {
            running,
            failures: self.failures,
            restarts: self.restarts,
            last_exit: self.last_exit.clone(),
            lost: self.lost,
            undelivered: self.undelivered,
            wrong: self.wrong,
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
            Some(Running {
                rules: self.companion_rules(running.generation),
                process,
                channel,
                interest: Interest::Connection,
                generation: running.generation,
                since: running.since,
                stop: running.stop,
                tail: None,
            })
        });
        if found.is_none()
            && let Some(cgroup) = &self.cgroup
        {
            // Without its channel it is of no use.
            cgroup.kill(COMPANION);
            cgroup.remove(COMPANION);
        }
        self.companion = Companion {
            running: found,
            failures: state.failures,
            restarts: state.restarts,
            last_exit: state.last_exit,
            lost: state.lost,
            undelivered: state.undelivered,
            wrong: state.wrong,
            ..Companion::default()
        };
        if self.companion.is_running() {
            self.about_companion(Level::Info, "goes on", None);
        }
    }
}
