// SPDX-License-Identifier: MIT OR Apache-2.0
//! A supervisor takes over from the one before: after a crash, or by executing its program
//! again.
//!
//! Either way descriptors come as systemd passes sockets (sd_listen_fds(3)), ours among them by
//! their [`Name`]: after a crash from systemd's file descriptor store, to which [`record`] has
//! given them, else from ourselves ([`execute`]). One of them is the [`snapshot`]. [`adopt`]
//! goes on from there; [`strangers`] are processes that nobody knows of.

mod adopt;
mod descriptors;
mod execute;
#[cfg(test)]
mod fuzz;
mod names;
mod record;
mod snapshot;
mod state;
mod strangers;
mod upgrade;

pub use descriptors::FIRST;
pub use names::{Name, PREFIX};
pub use record::Recorder;
pub use snapshot::Snapshot;
pub use state::{End, Identity, MANY, State, boot_id};
pub use strangers::Strangers;
pub use upgrade::{Upgrade, VERB as CHECK_VERB, Way, check};

use super::listeners::{Listener, Passed};
use crate::config::Config;
use crate::core::{Time, WorkerId};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

/// So many may fail to take over in a row: better without the past than never.
const MAX_ATTEMPTS: u8 = 3;

/// Descriptors that another supervisor has left. Those that nobody takes are closed.
#[derive(Debug, Default)]
pub struct Kept {
    all: BTreeMap<Name, OwnedFd>,
    /// All names that came, so that none stays in systemd's store for ever.
    pub names: Vec<String>,
}

impl Kept {
    /// Adds what came under this name.
    pub fn add(&mut self, name: String, fd: OwnedFd) {
        if let Some(known) = Name::parse(&name) {
            self.all.entry(known).or_insert(fd);
        }
        self.names.push(name);
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Workers whose channels are there.
    pub fn channels(&self) -> impl Iterator<Item = WorkerId> {
        self.all.keys().filter_map(|name| match name {
            Name::Channel(worker) => Some(*worker),
            _ => None,
        })
    }

    /// Closes all but the workers' channels.
    pub fn keep_channels(&mut self) {
        self.all.retain(|name, _| matches!(name, Name::Channel(_)));
    }

    /// Takes one out.
    pub fn take(&mut self, name: Name) -> Option<OwnedFd> {
        self.all.remove(&name)
    }
}

/// What there is to go on with.
pub struct Resumed {
    /// What the one before knew.
    pub state: State,
    /// Where it has written that.
    pub snapshot: Snapshot,
    /// What it had open.
    pub kept: Kept,
}

impl Resumed {
    /// Reads what the supervisor of `app` before us has left, if it left something.
    ///
    /// # Errors
    /// It cannot be used; the text says why. Then, and if there is nothing to go on with, all
    /// but the snapshot stays in `kept`.
    pub fn find(app: &str, kept: &mut Kept) -> Result<Option<Resumed>, String> {
        let Some(fd) = kept.take(Name::Snapshot) else {
            return match kept.is_empty() {
                true => Ok(None),
                false => Err("there is none among the descriptors that it left".to_owned()),
            };
        };
        let (snapshot, text) = Snapshot::open(fd).map_err(|error| error.to_string())?;
        let attempts = snapshot.begin().unwrap_or(0);
        if attempts >= MAX_ATTEMPTS {
            return Err(format!(
                "{attempts} supervisors have ended while they took over from it"
            ));
        }
        let mut state = Resumed::read(&text)?;
        // Killed before it could.
        let own = state.supervisor == Identity::of(std::process::id() as i32);
        if state.end == End::Executed && !own {
            state.end = End::Killed;
        }
        if attempts > 0 {
            // Another one has gone on from here, and was killed too.
            state.doubt();
        }
        if state.end == End::Stopped {
            return Ok(None);
        }
        if state.app != app {
            return Err(format!("it is that of the app {:?}", state.app));
        }
        let kept = std::mem::take(kept);
        Ok(Some(Resumed {
            state,
            snapshot,
            kept,
        }))
    }

    /// What a record says, if it can be gone on from here and now.
    ///
    /// # Errors
    /// What is wrong about it, for people.
    pub fn read(text: &[u8]) -> Result<State, String> {
        let state = State::parse(text)?;
        if state.boot != boot_id() {
            return Err("it was written before the last boot".to_owned());
        }
        let sane = state.check(super::now());
        sane.map_err(|why| format!("it makes no sense: {why}"))?;
        Ok(state)
    }
}

impl Resumed {
    /// The configuration that serves.
    ///
    /// # Panics
    /// Never: [`Resumed::find`] has seen that it is there.
    pub fn config(&self) -> &Config {
        &self.state.releases[&self.state.core.generation()].config
    }

    /// The sockets that were passed, with the files that the one before us has made.
    pub fn with_files(&self, mut passed: Vec<Passed>) -> Vec<Passed> {
        for (_, line) in &mut passed {
            if let Some(file) = self.state.files.get(&line.inode) {
                line.own_file(file.clone());
            }
        }
        passed
    }
}

/// Where the lines of listeners are that were known to the supervisor before.
pub struct Lines {
    before: Vec<Vec<u64>>,
    now: BTreeMap<u64, (usize, usize)>,
}

impl Lines {
    /// `before`: their inodes.
    pub fn new(before: Vec<Vec<u64>>, listeners: &[Listener]) -> Lines {
        let all = listeners.iter().enumerate();
        let now = all.flat_map(|(n, listener)| {
            let lines = listener.lines.iter().enumerate();
            lines.map(move |(line, socket)| (socket.inode, (n, line)))
        });
        let now = now.collect();
        Lines { before, now }
    }

    /// Whether the socket of this inode was there before.
    pub fn knew(&self, inode: u64) -> bool {
        self.before.iter().flatten().any(|known| *known == inode)
    }

    /// The listener and the line that were known as these.
    pub fn now(&self, listener: usize, line: usize) -> Option<(usize, usize)> {
        self.now.get(self.before.get(listener)?.get(line)?).copied()
    }

    /// The line of each listener, of which `lines` were those before.
    pub fn of(&self, lines: &[Option<usize>], listeners: usize) -> Vec<Option<usize>> {
        let mut all = vec![None; listeners];
        for (listener, line) in lines.iter().enumerate() {
            let now = line.and_then(|line| self.now(listener, line));
            if let Some((listener, line)) = now {
                all[listener] = Some(line);
            }
        }
        all
    }
}

/// A pidfd of a process that is still there, even if only to be waited for: `kept`, or another
/// one if its pid has not been given to another process.
pub fn reopen(kept: Option<OwnedFd>, process: Identity) -> Option<OwnedFd> {
    let kept = kept.filter(|fd| pid_of(fd).is_some_and(|pid| pid == process.pid || pid == -1));
    let pidfd = match kept {
        Some(pidfd) => pidfd,
        None => pidfd_open(Pid::from_raw(process.pid)?, PidfdFlags::empty()).ok()?,
    };
    // Looked at now, the pid is that of the descriptor's process, or that is gone.
    process.is_there().then_some(pidfd)
}

/// The pid behind a pidfd (/proc/self/fdinfo); -1: it is gone. `None`: it is none.
fn pid_of(fd: &OwnedFd) -> Option<i32> {
    use std::os::fd::AsRawFd;
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    line.trim().parse().ok()
}

/// How a supervisor came to what it has.
#[derive(Debug, Clone)]
pub struct TakenOver {
    pub how: &'static str,
    pub at: Time,
    pub from_version: String,
}
