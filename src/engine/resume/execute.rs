// SPDX-License-Identifier: MIT OR Apache-2.0
//! Executing the program again, as it is on disk now: same process, same children, same
//! descriptors (execve(2)).
//!
//! What is under way is waited for; then the new program is asked whether it understands the
//! snapshot ([`check`]), which costs nothing if it does not. After that nothing more is begun:
//! what is said is flushed, the last record written, and the descriptors are put where
//! sd_listen_fds(3) looks for them.

use super::{End, Name, Snapshot, State};
use crate::api;
use crate::core::{Event, Request, Time};
use crate::engine::poller::Token;
use crate::engine::spawn::{Output, Process, spawn, try_wait};
use crate::engine::{Engine, LAST_WORDS, Level, Record, fault, now, output};
use crate::exec::Plan;
use crate::frontend::Answer;
use nix::fcntl::OFlag;
use nix::unistd::{execve, pipe2};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use sd_notify::NotifyState;
use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::sync::mpsc::Sender;
use std::time::Duration;

/// Where the descriptors begin, if not at 3 (a variable of the listenfd crate).
const FIRST: &str = "LISTEN_FDS_FIRST_FD";
/// The verb of the program that says whether it can go on with a snapshot.
pub const VERB: &str = "check-snapshot";
/// Where it finds that.
const CHECKED: RawFd = 3;
/// How long it may take.
const CHECK_WITHIN: Duration = Duration::from_secs(10);
/// How long connections that are on their way to workers are waited for.
const FLUSH_WITHIN: Duration = Duration::from_secs(1);
/// systemd is told to be so patient while there is nobody to give signs of life.
const PATIENCE: &str = "WATCHDOG_USEC=60000000";
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
    way: Way,
    answers: Vec<Sender<Answer>>,
    stage: Stage,
}

enum Stage {
    /// Something is under way.
    Waiting,
    /// The program is asked.
    Asked(Process, OwnedFd, Time),
    /// Connections are on their way.
    Flushing(Time),
}

impl Upgrade {
    /// When something is to be done about it.
    pub fn deadline(&self) -> Option<Time> {
        match &self.stage {
            Stage::Waiting => None,
            Stage::Asked(_, _, until) | Stage::Flushing(until) => Some(*until),
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
    State::parse(&text)?.check(now())?;
    Ok(env!("CARGO_PKG_VERSION").to_owned())
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
        let stopping = self.core.is_stopping();
        if stopping {
            return refuse(from, "the supervisor is stopping");
        }
        let upgrade = self.upgrade.get_or_insert_with(|| Upgrade {
            way,
            answers: Vec::new(),
            stage: Stage::Waiting,
        });
        upgrade.answers.extend(from);
        if hurry && self.core.rollout().is_some() {
            let what = Request::Rollback;
            self.feed(Event::Requested { from: None, what });
        }
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
            Stage::Waiting => {
                if !self.core.is_settled() || !self.waiting.is_empty() {
                    return;
                }
                match upgrade.way {
                    Way::Leave => self.begin_to_flush(),
                    Way::Execute => match self.ask_program() {
                        Ok(()) => {}
                        Err(error) => {
                            let text = format!("{} cannot be asked: {error}", self.program());
                            self.refuse_upgrade(&text);
                        }
                    },
                }
            }
            Stage::Asked(process, _, until) => {
                if let Some(exit) = try_wait(&process.pidfd) {
                    self.program_answered(exit == crate::core::Exit::Code(0));
                } else if *until <= now() {
                    let text = format!("{} did not answer", self.program());
                    self.refuse_upgrade(&text);
                }
            }
            Stage::Flushing(until) => {
                if *until <= now() || !self.has_sockets_on_their_way() {
                    self.leave_to_next();
                }
            }
        }
    }

    /// The program that is executed: what was at our own path when we were started.
    fn program(&self) -> String {
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

    fn program_answered(&mut self, understands: bool) {
        let Some(Upgrade {
            stage: Stage::Asked(process, reader, _),
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
        if !understands {
            let text = format!(
                "{} cannot go on from here, nothing was changed: {said}\n  hint: `systemctl \
                 restart` starts it without the workers that run",
                self.program()
            );
            return self.refuse_upgrade(&text);
        }
        let text = format!(
            "executing {} again: version {} → {said}",
            self.program(),
            env!("CARGO_PKG_VERSION")
        );
        self.log(Record::plain(Level::Info, text));
        self.begin_to_flush();
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

    fn refuse_upgrade(&mut self, why: &str) {
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

    /// The point of no return.
    fn leave_to_next(&mut self) {
        let Some(upgrade) = self.upgrade.take() else {
            return;
        };
        fault::point("before-hand-over");
        let end = match upgrade.way {
            Way::Execute => End::Executed,
            Way::Leave => End::Left,
        };
        let message = match upgrade.way {
            Way::Execute => "the program is executed again",
            Way::Leave => "the supervisor leaves the workers to the next one",
        };
        for answers in upgrade.answers {
            let _ = answers.send(Answer::Final(Ok(api::Outcome {
                message: message.to_owned(),
                generation: None,
                back_to: None,
                workers: None,
                incarnation: Some(self.recorder.incarnation + 1),
                changes: None,
            })));
        }
        self.audience.end();
        self.open.settle(LAST_WORDS);
        if end == End::Executed {
            // What they have read is in the record; one that cannot write may lose some of it.
            output::still(FLUSH_WITHIN);
        }
        let done = self.write_record(end);
        match (done, upgrade.way) {
            (Err(error), _) => {
                let text = format!("not upgraded, the snapshot cannot be written: {error}");
                self.log(Record::plain(Level::Error, text));
                output::go_on();
                self.node_goes_on();
            }
            (Ok(()), Way::Leave) => {
                if self.runtime.say_keep().is_ok() {
                    let _ = self.store_all();
                    self.journal.finish(LAST_WORDS);
                    // Nothing may be dropped: it would take away what the workers use.
                    std::process::exit(0);
                }
            }
            (Ok(()), Way::Execute) => self.execute(),
        }
    }

    /// Becomes the program; if the new one cannot be executed all the same, the one that runs.
    fn execute(&mut self) {
        let all = self.all_descriptors();
        let (names, sockets): (Vec<String>, Vec<BorrowedFd<'_>>) = all.into_iter().unzip();
        let (first, _placed) = match in_a_row(&sockets) {
            Ok(placed) => placed,
            Err(error) => {
                let text = format!("not upgraded: {error} (is LimitNOFILE= too low?)");
                self.log(Record::plain(Level::Error, text));
                output::go_on();
                return self.node_goes_on();
            }
        };
        self.systemd
            .say(&[NotifyState::Watchdog, NotifyState::Custom(PATIENCE)]);
        self.journal.finish(LAST_WORDS);
        let arguments = c_strings(std::env::args_os());
        let environment = environment_with(&names, first);
        fault::point("before-exec");
        let paths = [self.program().into_bytes(), b"/proc/self/exe".to_vec()];
        for path in paths {
            if let Ok(path) = CString::new(path) {
                // Unlike std's, it leaves the mask of signals: one that comes now is for the
                // program.
                let _ = execve(&path, &arguments, &environment);
            }
        }
        // Nobody is left to tell what we do; the next one goes on from the snapshot.
        std::process::abort();
    }

    /// The sockets by the names of their listeners, then what is ours.
    fn all_descriptors(&self) -> Vec<(String, BorrowedFd<'_>)> {
        let lines = self.listeners.iter().flat_map(|listener| {
            let lines = listener.lines.iter();
            lines.map(|line| (listener.name.clone(), line.fd.as_fd()))
        });
        let ours = self.kept_descriptors();
        let ours = ours.into_iter().map(|(name, fd)| (name.to_string(), fd));
        let outputs = self.held.iter().filter_map(|(id, held)| {
            let pipe = held.tail.as_ref()?.pipe()?;
            Some((Name::Output(*id).to_string(), pipe))
        });
        let companion = self.companion.output();
        let companion = companion.map(|pipe| (Name::CompanionOutput.to_string(), pipe));
        let connections = self.connections();
        let connections = connections.map(|(name, fd)| (name.to_string(), fd));
        let ours = ours.chain(outputs).chain(companion);
        lines.chain(ours).chain(connections).collect()
    }
}

fn refuse(from: Option<Sender<Answer>>, why: &str) {
    if let Some(answers) = from {
        let _ = answers.send(Answer::Final(Err(api::Error::CannotUpgrade {
            message: why.to_owned(),
        })));
    }
}

/// Copies of descriptors that outlive execve(2), under successive numbers: the first, and what
/// closes them again. Above all that are open: a thread that waits in accept(2) has its number
/// already (dup2(2) fails with EBUSY).
fn in_a_row(all: &[BorrowedFd<'_>]) -> io::Result<(RawFd, Vec<OwnedFd>)> {
    let open = std::fs::read_dir("/proc/self/fd")?.flatten();
    let numbers = open.filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    let first = numbers.max().unwrap_or(2) + 1;
    let mut copies = Vec::new();
    for (fd, wanted) in all.iter().zip(first..) {
        let copy = fcntl_dupfd_cloexec(fd, wanted)?;
        if copy.as_raw_fd() != wanted {
            return Err(io::Error::other(format!("descriptor {wanted} is in use")));
        }
        copies.push(copy);
    }
    for copy in &copies {
        fcntl_setfd(copy, FdFlags::empty())?;
    }
    Ok((first, copies))
}

/// Our own, but for the descriptors that are announced.
fn environment_with(names: &[String], first: RawFd) -> Vec<CString> {
    let announced = ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", FIRST];
    let variables = std::env::vars_os();
    let variables = variables.filter(|(name, _)| !announced.iter().any(|own| name == own));
    let variables = variables.map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        name
    });
    let added = [
        format!("LISTEN_FDS={}", names.len()),
        format!("LISTEN_FDNAMES={}", names.join(":")),
        format!("LISTEN_PID={}", std::process::id()),
        format!("{FIRST}={first}"),
    ];
    c_strings(variables.chain(added.map(OsString::from)))
}

fn c_strings(words: impl Iterator<Item = OsString>) -> Vec<CString> {
    words
        .filter_map(|word| CString::new(word.into_vec()).ok())
        .collect()
}
