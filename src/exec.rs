// SPDX-License-Identifier: MIT OR Apache-2.0
//! `exec-worker`: what runs in the child between posix_spawn(3) and execve(2).
//!
//! The supervisor has one thread that must not stall, so it never forks: it
//! spawns this program, which arranges what can only be arranged from inside
//! (session, cgroup, directory, LISTEN_PID) and then becomes the worker. The
//! environment it is started with is the worker's.

use crate::config::{Pin, Pins};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::SigSet;
use nix::unistd::Pid;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, exit};

/// The verb, as the first argument.
pub const VERB: &str = "exec-worker";

/// Exit statuses of systemd.exec(5), "Process Exit Codes".
const EXIT_CHDIR: i32 = 200;
const EXIT_EXEC: i32 = 203;

/// What to arrange. Written and read by the same binary only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// `cgroup.procs` of the cgroup to enter.
    pub cgroup: Option<String>,
    /// The working directory.
    pub directory: String,
    /// Whether sockets are announced, so that LISTEN_PID must be set (sd_listen_fds(3)).
    pub listen: bool,
    /// Whether signs of life are expected, so that WATCHDOG_PID must be set
    /// (sd_watchdog_enabled(3)).
    pub watchdog: bool,
    /// The one CPU to run on.
    pub cpu: Option<usize>,
    /// The descriptors that are passed besides the standard ones.
    pub keep: Vec<i32>,
    /// The program's absolute path.
    pub program: String,
    /// Its arguments, the first being its name.
    pub arguments: Vec<String>,
    /// What directory, program and arguments lead to, where that is to hold.
    pub pins: Pins,
}

impl Plan {
    /// The arguments that carry the plan to the child.
    pub fn to_arguments(&self) -> Vec<String> {
        let mut all = vec![
            "app-cluster".to_owned(),
            VERB.to_owned(),
            self.cgroup.clone().unwrap_or_default(),
            self.directory.clone(),
            [(self.listen, "listen,"), (self.watchdog, "watchdog,")]
                .map(|(wanted, word)| if wanted { word } else { "" })
                .concat(),
            self.cpu.map(|cpu| cpu.to_string()).unwrap_or_default(),
            self.keep.iter().map(|n| format!("{n},")).collect(),
            self.pins(),
            self.program.clone(),
        ];
        all.extend(self.arguments.iter().cloned());
        all
    }

    /// As text; most workers need none.
    fn pins(&self) -> String {
        let needed = self.pins.needed();
        match needed == Pins::default() {
            true => String::new(),
            false => serde_json::to_string(&needed).unwrap_or_default(),
        }
    }
}

/// Becomes the worker; `arguments` are those after the verb. Returns never.
pub fn run(mut arguments: impl Iterator<Item = OsString>) -> ! {
    let mut next = || arguments.next().unwrap_or_default();
    let (cgroup, directory, own_pid) = (next(), next(), next());
    let (cpu, keep) = (next(), next());
    let (pins, mut program, name) = (next(), next(), next());
    if program.is_empty() || name.is_empty() {
        eprintln!("app-cluster: {VERB} is what the supervisor uses to start a worker");
        exit(2);
    }
    // A session of its own: the terminal's signals are the supervisor's, and the
    // worker's whole process group can be found.
    let _ = nix::unistd::setsid();
    if !cgroup.is_empty()
        && let Err(error) = std::fs::write(&cgroup, "0")
    {
        eprintln!("app-cluster: cannot enter {}: {error}", cgroup.display());
    }
    if let Some(cpu) = cpu.to_str().and_then(|text| text.parse().ok())
        && let Err(error) = pin(cpu)
    {
        // Perhaps it is gone since. Better anywhere than not at all.
        eprintln!("app-cluster: cannot run on CPU {cpu} alone: {error}");
    }
    let written = program.clone();
    let pins: Pins = serde_json::from_slice(pins.as_bytes()).unwrap_or_default();
    let mut words: Vec<OsString> = arguments.collect();
    let directory = pinned(pins.directory.as_ref()).unwrap_or(directory);
    for (place, pin) in &pins.words {
        // The name is not among the words.
        let word = match place.checked_sub(1) {
            None => Some(&mut program),
            Some(place) => words.get_mut(place),
        };
        if let (Some(word), Some(path)) = (word, pinned(Some(pin))) {
            *word = path;
        }
    }
    if let Err(error) = std::env::set_current_dir(&directory) {
        eprintln!(
            "app-cluster: cannot use directory {}: {error}",
            directory.display()
        );
        exit(EXIT_CHDIR);
    }
    close_strays(&keep.to_string_lossy());
    let mut command = Command::new(&program);
    // By its name, too, an interpreter finds what belongs to it.
    let name = if name == written { &program } else { &name };
    command.arg0(name).args(words);
    let wanted = own_pid.to_string_lossy();
    for (word, variable) in [("listen", "LISTEN_PID"), ("watchdog", "WATCHDOG_PID")] {
        if wanted.split(',').any(|w| w == word) {
            command.env(variable, std::process::id().to_string());
        }
    }
    // The mask is the supervisor's, and exec() keeps it. A signal that came meanwhile is
    // delivered now. SIGPIPE gets its default action back from exec().
    let _ = SigSet::empty().thread_set_mask();
    let error = command.exec();
    eprintln!("app-cluster: cannot execute {}: {error}", program.display());
    exit(EXIT_EXEC);
}

/// The path that leads now to what `pin` did. Where that is gone the worker is started as
/// configured: better with other code than not at all.
fn pinned(pin: Option<&Pin>) -> Option<OsString> {
    let pin = pin?;
    let found = pin.now();
    if found.is_none() {
        eprintln!("app-cluster: {pin}; using what is there now");
    }
    found.map(|path| path.as_os_str().to_owned())
}

/// Runs on this CPU from now on, as will all threads and children (sched_setaffinity(2)).
fn pin(cpu: usize) -> nix::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set)
}

/// Closes what is neither standard nor a passed socket: descriptors that our parent
/// had inherited itself (from a shell, say), which would be open as long as any worker.
fn close_strays(keep: &str) {
    let keep: Vec<i32> = keep.split(',').filter_map(|n| n.parse().ok()).collect();
    let entries = std::fs::read_dir("/proc/self/fd");
    let numbers: Vec<i32> = entries
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for stray in numbers
        .into_iter()
        .filter(|fd| *fd >= 3 && !keep.contains(fd))
    {
        let _ = nix::unistd::close(stray);
    }
}
