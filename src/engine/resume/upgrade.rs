// SPDX-License-Identifier: MIT OR Apache-2.0
//! Another supervisor is asked for: the same process with another program ([`super::execute`]),
//! or another process.
//!
//! What is under way is waited for; then the program is asked whether it understands the
//! snapshot ([`check`]), which costs nothing if it does not. After that nothing more is begun,
//! and connections that are on their way to workers are waited for.

use super::{End, Resumed, Snapshot};
use crate::api;
use crate::core::{Event, Exit, Request, Time};
use crate::engine::poller::Token;
use crate::engine::spawn::{Output, Process, spawn, try_wait};
use crate::engine::{Engine, Level, Record, now};
use crate::exec::Plan;
use crate::frontend::Answer;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::sync::mpsc::Sender;
use std::time::Duration;

/// The verb of the program that says whether it can go on with a snapshot.
pub const VERB: &str = "check-snapshot";
/// Where it finds that.
const CHECKED: RawFd = 3;
/// How long it may take.
const CHECK_WITHIN: Duration = Duration::from_secs(10);
/// What it says first, if it can; its version follows.
const YES: &str = "app-cluster-snapshot ";
/// How long answers are waited for that others have been promised, if nothing else is under way.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// How long connections that are on their way to workers are waited for.
pub(super) const FLUSH_WITHIN: Duration = Duration::from_secs(1);
/// Longest answer of the program that is read, in bytes.
const LONGEST_ANSWER: u64 = 4096;

/// What is to follow us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The program as it is on disk now, in this process.
    Execute,
    /// Another process, which systemd starts.
    Leave,
}

/// An upgrade that was asked for.
pub struct Upgrade {
    pub(super) way: Way,
    pub(super) answers: Vec<Sender<Answer>>,
    stage: Stage,
}

enum Stage {
    /// Something is under way. Until then answers are waited for.
    Waiting(Time),
    /// The program is asked.
    Asked(Process, OwnedFd, Time),
    /// Connections are on their way.
    Flushing(Time),
}

impl Upgrade {
    /// When something is to be done about it.
    pub fn deadline(&self) -> Option<Time> {
        match &self.stage {
            Stage::Waiting(until) | Stage::Asked(_, _, until) | Stage::Flushing(until) => {
                Some(*until)
            }
        }
    }

    /// The process that is asked whether it can go on from here.
    pub fn asked(&self) -> Option<i32> {
        match &self.stage {
            Stage::Asked(process, ..) => Some(process.pid),
            Stage::Waiting(_) | Stage::Flushing(_) => None,
        }
    }
}

/// `check-snapshot`: says this program's version, if it can go on with the snapshot at
/// descriptor 3.
///
/// # Errors
/// Why it cannot.
pub fn check() -> Result<String, String> {
    let file = File::open(format!("/proc/self/fd/{CHECKED}"));
    let file = file.map_err(|error| format!("there is no snapshot: {error}"))?;
    let (_, text) = Snapshot::open(OwnedFd::from(file)).map_err(|error| error.to_string())?;
    Resumed::read(&text)?;
    Ok(format!("{YES}{}", env!("CARGO_PKG_VERSION")))
}

impl Engine {
    /// Somebody wants another supervisor, by this way. `hurry`: a rollout is taken back.
    pub(in super::super) fn want_upgrade(
        &mut self,
        way: Way,
        hurry: bool,
        from: Option<Sender<Answer>>,
    ) {
        if way == Way::Leave && !self.is_recorded() {
            let text = "there is no systemd to start another supervisor: app-cluster upgrade \
                        executes it again in this process";
            return refuse(from, text);
        }
        if self.core.is_stopping() {
            return refuse(from, "the supervisor is stopping");
        }
        if self.upgrade.as_ref().is_some_and(|other| other.way != way) {
            return refuse(
                from,
                "the supervisor is being replaced in another way just now",
            );
        }
        if !self.is_free()
            && let Some(answers) = &from
        {
            let step = format!(
                "waits for the end of what is under way: {}",
                self.status_line()
            );
            let _ = answers.send(Answer::Progress(api::Progress { progress: step }));
        }
        let upgrade = self.upgrade.get_or_insert_with(|| Upgrade {
            way,
            answers: Vec::new(),
            stage: Stage::Waiting(now() + ANSWERS_WITHIN),
        });
        upgrade.answers.extend(from);
        if hurry && self.core.rollout().is_some() {
            let what = Request::Rollback;
            self.feed(Event::Requested { from: None, what });
        }
    }

    /// Whether nothing is under way that somebody waits for.
    fn is_free(&self) -> bool {
        self.core.is_settled() && self.waiting.is_empty()
    }

    /// Goes on with it.
    pub(in super::super) fn upgrade_turn(&mut self) {
        let Some(upgrade) = &self.upgrade else {
            return;
        };
        if self.core.is_stopping() {
            return self.refuse_upgrade("the supervisor is stopping");
        }
        match &upgrade.stage {
            Stage::Waiting(until) => {
                let late = *until <= now();
                if late && self.core.is_settled() {
                    self.put_off_all();
                }
                if self.is_free() {
                    if let Err(error) = self.ask_program() {
                        let text = format!("{} cannot be asked: {error}", self.program());
                        self.refuse_upgrade(&text);
                    }
                } else if late {
                    self.wait_on();
                }
            }
            Stage::Asked(process, _, until) => {
                if let Some(exit) = try_wait(&process.pidfd) {
                    self.program_answered(exit);
                } else if *until <= now() {
                    let text = format!("{} did not answer", self.program());
                    self.refuse_upgrade(&text);
                }
            }
            Stage::Flushing(until) => {
                let late = *until <= now();
                if !self.is_free() {
                    self.wait_on();
                    self.node_goes_on();
                } else if late || !self.has_sockets_on_their_way() {
                    self.leave_to_next();
                }
            }
        }
    }

    fn wait_on(&mut self) {
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.stage = Stage::Waiting(now() + ANSWERS_WITHIN);
        }
    }

    /// Who waits for a slot that goes on to fail, say, would do so for ever.
    fn put_off_all(&mut self) {
        for (_, waiting) in std::mem::take(&mut self.waiting) {
            let message = "the supervisor is replaced, what was asked for goes on".to_owned();
            let error = api::Error::InProgress { message };
            let _ = waiting.answers.send(Answer::Final(Err(error)));
        }
    }

    /// The program that is executed: what was at our own path when we were started.
    pub(super) fn program(&self) -> String {
        self.program.display().to_string()
    }

    fn ask_program(&mut self) -> io::Result<()> {
        self.write_record(End::Killed)?;
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
        rustix::io::ioctl_fionbio(&reader, true)?;
        let plan = Plan {
            directory: "/".to_owned(),
            program: self.program(),
            arguments: vec!["app-cluster".to_owned(), VERB.to_owned()],
            ..Plan::default()
        };
        let snapshot = self.recorder.snapshot()?;
        let passed = [(snapshot.as_fd(), CHECKED)];
        let output = Output::Pipe(writer.as_fd());
        let process = spawn(&plan, &BTreeMap::new(), &passed, output)?;
        self.poller.add(&process.pidfd, Token::Program)?;
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.stage = Stage::Asked(process, reader, now() + CHECK_WITHIN);
        }
        Ok(())
    }

    fn program_answered(&mut self, exit: Exit) {
        let Some(Upgrade {
            stage: Stage::Asked(process, reader, _),
            way,
            ..
        }) = &self.upgrade
        else {
            return;
        };
        self.poller.remove(&process.pidfd);
        let mut text = Vec::new();
        if let Ok(copy) = reader.try_clone() {
            let _ = File::from(copy).take(LONGEST_ANSWER).read_to_end(&mut text);
        }
        let text = String::from_utf8_lossy(&text);
        let said: String = text.trim().chars().filter(|c| !c.is_control()).collect();
        let version = said.strip_prefix(YES).filter(|_| exit == Exit::Code(0));
        let Some(version) = version else {
            let why = match said.is_empty() {
                true => exit.to_string(),
                false => said,
            };
            let text = format!(
                "{} cannot go on from here, nothing was changed: {why}{}",
                self.program(),
                self.remedy()
            );
            return self.refuse_upgrade(&text);
        };
        if !self.is_free() {
            // Something was begun meanwhile.
            return self.wait_on();
        }
        let own = env!("CARGO_PKG_VERSION");
        let text = match way {
            Way::Execute => format!(
                "executing {} again: version {own} → {version}",
                self.program()
            ),
            Way::Leave => format!("leaving the workers to the next one: version {own} → {version}"),
        };
        self.log(Record::plain(Level::Info, text));
        self.begin_to_flush();
    }

    /// What to do where the program on disk cannot go on.
    fn remedy(&self) -> String {
        let unit = self.unit.as_ref();
        let anew = unit.map(|unit| {
            format!("\n  hint: `systemctl restart {unit}` starts it without the workers that run")
        });
        anew.unwrap_or_else(|| "\n  hint: put the right program there, and try again".to_owned())
    }

    fn begin_to_flush(&mut self) {
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.stage = Stage::Flushing(now() + FLUSH_WITHIN);
        }
        self.rest();
        // Perhaps there is nothing to wait for.
        if !self.has_sockets_on_their_way() {
            self.leave_to_next();
        }
    }

    /// Whether nothing new is to be begun.
    pub(in super::super) fn is_handing_over(&self) -> bool {
        let stage = self.upgrade.as_ref().map(|upgrade| &upgrade.stage);
        matches!(stage, Some(Stage::Flushing(_)))
    }

    pub(super) fn refuse_upgrade(&mut self, why: &str) {
        let Some(upgrade) = self.upgrade.take() else {
            return;
        };
        if let Stage::Asked(process, ..) = &upgrade.stage {
            self.poller.remove(&process.pidfd);
            let kill = rustix::process::Signal::KILL;
            let _ = rustix::process::pidfd_send_signal(&process.pidfd, kill);
        }
        self.log(Record::plain(Level::Error, format!("not upgraded: {why}")));
        for answers in upgrade.answers {
            refuse(Some(answers), why);
        }
        self.node_goes_on();
    }
}

pub(super) fn refuse(from: Option<Sender<Answer>>, why: &str) {
    if let Some(answers) = from {
        let _ = answers.send(Answer::Final(Err(api::Error::CannotUpgrade {
            message: why.to_owned(),
        })));
    }
}
