// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where an app listens, found out from one worker of it: what it asks its primary for first.

use super::super::output::Tail;
use super::super::spawn::{Output, next_zombie, reap, spawn, try_wait};
use super::super::{report, tree};
use super::{Batch, Start};
use crate::config::{Launch, Pins, Spread};
use crate::core::{Exit, WorkerId};
use crate::exec::Plan;
use crate::protocol::node::PRELOAD;
use crate::protocol::node::channel::Received;
use crate::protocol::node::message::{Incoming, Kind, Query, parse};
use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::unistd::{Pid, geteuid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::{OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
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
    /// Nobody wants to know any more.
    Interrupted,
    /// It could not be started.
    System(io::Error),
}

/// The file that workers load ahead of the app; it goes with this value.
struct Preload(PathBuf);

impl Preload {
    fn write() -> io::Result<Preload> {
        // For root the user is another one, who may not be able to look into a TMPDIR.
        let directory = match geteuid().is_root() {
            true => PathBuf::from("/run"),
            false => std::env::temp_dir(),
        };
        let name = format!("app-cluster-{}-preload.cjs", std::process::id());
        let path = directory.join(name);
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&path)?;
        let written = Preload(path);
        // Whatever the umask is.
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.write_all(PRELOAD.as_bytes())?;
        Ok(written)
    }
}

impl Drop for Preload {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Starts one worker as `user` (by runuser(1); `None`: as we are) and returns the first
/// address that it asks for, `within` this time. Then it is ended, with all it has started:
/// whatever child this process has by then. `interrupts` is readable when it is to end early.
///
/// # Errors
/// See [`Unknown`].
pub fn first_query(
    launch: &Launch,
    user: Option<&str>,
    within: Duration,
    interrupts: &SignalFd,
) -> Result<Query, Unknown> {
    let runner = launch.runner.ok_or(Unknown::NotNode)?;
    let batch = Batch(false);
    let start = Start::new(runner, Spread::Even, batch).map_err(Unknown::System)?;
    let start = start.ok_or(Unknown::NotNode)?;
    let preload = Preload::write().map_err(Unknown::System)?;
    let own = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(own)).map_err(|e| Unknown::System(e.into()))?;
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
        let waits_for = match talk.channel().has_ended() {
            true => PollFlags::empty(),
            false => PollFlags::IN,
        };
        let mut watched = [
            PollFd::new(talk.channel(), waits_for),
            PollFd::new(&process.pidfd, PollFlags::IN),
            PollFd::new(interrupts, PollFlags::IN),
        ];
        let ready = poll(&mut watched, Some(&timeout));
        let is_ready = |n: usize| watched[n].revents().contains(PollFlags::IN);
        let (ended, interrupted) = (is_ready(1), is_ready(2));
        if let Some(query) = asked(talk.receive()) {
            break Ok(query);
        }
        if ended {
            let exit = try_wait(&process.pidfd).unwrap_or(Exit::Unknown);
            break Err(Unknown::Ended(exit, tail.at_end(END)));
        }
        if interrupted {
            break Err(Unknown::Interrupted);
        }
        if left.is_zero() || ready.is_err() {
            break Err(Unknown::Silent(Vec::new()));
        }
    };
    end();
    match found {
        Err(Unknown::Silent(_)) => Err(Unknown::Silent(tail.at_end(END))),
        found => found,
    }
}

/// The same, as somebody else. Descriptors and environment go through.
fn as_user(plan: Plan, user: &str) -> Plan {
    let places = ["/usr/sbin/runuser", "/sbin/runuser", "/usr/bin/runuser"];
    let runuser = places.into_iter().find(|p| Path::new(p).exists());
    let mut arguments: Vec<String> = ["runuser", "-u", user, "--"].map(str::to_owned).into();
    arguments.push(plan.program.clone());
    arguments.extend(plan.arguments.into_iter().skip(1));
    Plan {
        program: runuser.unwrap_or(places[0]).to_owned(),
        arguments,
        // What they are about has moved in the line.
        pins: Pins::default(),
        ..plan
    }
}

/// The address in what was received, if there is one. A socket file among temporary ones is
/// a launcher's own.
fn asked(received: Vec<Received>) -> Option<Query> {
    let lines = received.into_iter().filter_map(|one| match one {
        Received::Line(line) => parse(&line).ok(),
        _ => None,
    });
    let mut queries = lines.filter_map(|message| match message {
        Incoming::Query { query, .. } => Some(query),
        _ => None,
    });
    let temporary = std::env::temp_dir();
    queries.find(|query| match (query.kind, &query.address) {
        (Kind::Udp, _) => false,
        (Kind::Path, Some(path)) => !Path::new(path).starts_with(&temporary),
        _ => true,
    })
}

/// Ends everything that was started. What lost its parent became our child, and a pid stays
/// its own until we have waited for it.
fn end() {
    let own = std::process::id() as i32;
    let others = || {
        tree::descendants(own)
            .into_iter()
            .filter(move |pid| *pid != own)
    };
    let until = Instant::now() + END;
    for pid in others() {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    loop {
        while let Some(pid) = next_zombie() {
            reap(pid);
        }
        let left: Vec<i32> = others().collect();
        if left.is_empty() || Instant::now() > until + END {
            return;
        }
        if Instant::now() > until {
            for pid in left {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
