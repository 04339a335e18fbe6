// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where an app listens, found out from one worker of it: what it asks its primary for first.

use super::super::output::Tail;
use super::super::spawn::{Output, spawn, try_wait};
use super::super::{report, tree};
use super::{Batch, Start};
use crate::config::{Launch, Spread};
use crate::core::{Exit, WorkerId};
use crate::exec::Plan;
use crate::protocol::node::PRELOAD;
use crate::protocol::node::channel::Received;
use crate::protocol::node::message::{Incoming, Kind, Query, parse};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long the worker may take to end when it has told.
const END: Duration = Duration::from_secs(3);

/// Why it is not known.
#[derive(Debug)]
pub enum Unknown {
    /// It is no Node program.
    NotNode,
    /// It has ended before it listened, with these last words.
    Ended(Exit, Vec<String>),
    /// It has not listened in time.
    Silent(Vec<String>),
    /// It could not be started.
    System(io::Error),
}

/// The file that workers load ahead of the app; it goes with this value.
struct Preload(PathBuf);

impl Preload {
    fn write() -> io::Result<Preload> {
        let name = format!("app-cluster-{}-preload.cjs", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&path)?;
        file.write_all(PRELOAD.as_bytes())?;
        Ok(Preload(path))
    }
}

impl Drop for Preload {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Starts one worker as `user` (by runuser(1); `None`: as we are) and returns the first
/// address that it asks for, `within` this time. Then it is ended, with all it has started.
///
/// # Errors
/// See [`Unknown`].
pub fn first_query(
    launch: &Launch,
    user: Option<&str>,
    within: Duration,
) -> Result<Query, Unknown> {
    let runner = launch.runner.ok_or(Unknown::NotNode)?;
    let batch = Batch(false);
    let start = Start::new(runner, Spread::Even, batch).map_err(Unknown::System)?;
    let start = start.ok_or(Unknown::NotNode)?;
    let preload = Preload::write().map_err(Unknown::System)?;
    let mut environment = launch.environment.clone();
    start.announce(&mut environment, WorkerId(1), batch, Some(&preload.0));
    let mut plan = report::plan(launch);
    if let Some(user) = user {
        plan = as_user(plan, user);
    }
    let (reader, writer) = io::pipe().map_err(Unknown::System)?;
    let channel = [(start.channel.0.as_fd(), start.channel.1)];
    let output = Output::Pipe(writer.as_fd());
    let process = spawn(&plan, &environment, &channel, output).map_err(Unknown::System)?;
    drop(writer);
    let Start { mut talk, channel } = start;
    drop(channel);
    let tail = Tail::collect(reader).map_err(Unknown::System)?;
    let until = Instant::now() + within;
    let found = loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let mut watched = [
            PollFd::new(talk.channel(), PollFlags::IN),
            PollFd::new(&process.pidfd, PollFlags::IN),
        ];
        let ready = poll(&mut watched, Some(&timeout));
        let ended = watched[1].revents().contains(PollFlags::IN);
        if let Some(query) = asked(talk.receive()) {
            break Ok(query);
        }
        if ended {
            let exit = try_wait(&process.pidfd).unwrap_or(Exit::Unknown);
            break Err(Unknown::Ended(exit, tail.at_end(END)));
        }
        if left.is_zero() || ready.is_err() {
            break Err(Unknown::Silent(Vec::new()));
        }
    };
    end(process.pid, &process.pidfd);
    match found {
        Err(Unknown::Silent(_)) => Err(Unknown::Silent(tail.at_end(END))),
        found => found,
    }
}

/// The same, as somebody else. Descriptors and environment go through.
fn as_user(plan: Plan, user: &str) -> Plan {
    let places = ["/usr/sbin/runuser", "/sbin/runuser", "/usr/bin/runuser"];
    let runuser = places
        .into_iter()
        .find(|p| std::path::Path::new(p).exists());
    let mut arguments: Vec<String> = ["runuser", "-u", user, "--"].map(str::to_owned).into();
    arguments.push(plan.program.clone());
    arguments.extend(plan.arguments.into_iter().skip(1));
    Plan {
        program: runuser.unwrap_or(places[0]).to_owned(),
        arguments,
        ..plan
    }
}

/// The address in what was received, if there is one. A socket file is a launcher's own.
fn asked(received: Vec<Received>) -> Option<Query> {
    let lines = received.into_iter().filter_map(|one| match one {
        Received::Line(line) => parse(&line).ok(),
        _ => None,
    });
    let mut queries = lines.filter_map(|message| match message {
        Incoming::Query { query, .. } => Some(query),
        _ => None,
    });
    queries.find(|query| query.kind != Kind::Udp)
}

fn end(pid: i32, pidfd: impl AsFd) {
    let all = tree::descendants(pid);
    for (signal, pause) in [(Signal::SIGTERM, END), (Signal::SIGKILL, END)] {
        for pid in all.iter().filter(|pid| **pid > 1) {
            let _ = kill(Pid::from_raw(*pid), signal);
        }
        let timeout = Timespec {
            tv_sec: pause.as_secs() as i64,
            tv_nsec: 0,
        };
        let mut watched = [PollFd::new(&pidfd, PollFlags::IN)];
        if poll(&mut watched, Some(&timeout)).is_ok_and(|n| n > 0) {
            break;
        }
    }
    for pid in tree::descendants(pid).into_iter().chain(all) {
        if pid > 1 {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    let _ = try_wait(pidfd);
}
