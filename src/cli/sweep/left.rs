// SPDX-License-Identifier: MIT OR Apache-2.0
//! Processes of a unit whose supervisor is gone, and how they are ended.

use super::group::{self, DEPTH, direct_members, is_populated, members, sub_cgroups};
use super::shown;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, getsid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long processes may take to be gone after SIGKILL.
const DYING: Duration = Duration::from_secs(5);

/// How processes are ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// By this signal; who is still there after the time is killed.
    Gently(Signal, Duration),
    /// By SIGKILL.
    AtOnce,
}

/// Where processes may be left.
#[derive(Debug)]
pub struct Left {
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// The unit's cgroup.
    Unit(PathBuf),
    /// Wherever their environment says that they are of this app, with this runtime
    /// directory.
    Environment { name: String, runtime: PathBuf },
}

/// A process, which its number cannot be mistaken for another one.
struct Process {
    pid: i32,
    fd: OwnedFd,
}

/// A sub-cgroup with processes in it.
struct Group {
    /// From the unit's on.
    name: String,
    path: PathBuf,
    events: File,
    processes: usize,
}

impl Left {
    /// In the cgroup `unit` and all below it. systemd's `.control` is no exception: a worker can
    /// move there too, and nothing else of it is to live than this process.
    pub fn of_unit(unit: PathBuf) -> Left {
        let place = Place::Unit(unit);
        Left { place }
    }

    /// Where there is no cgroup v2: the workers of an app have their notify socket in
    /// `runtime`, its companion has a variable of its own.
    pub fn by_environment(name: &str, runtime: &Path) -> Left {
        let (name, runtime) = (name.to_owned(), runtime.to_owned());
        let place = Place::Environment { name, runtime };
        Left { place }
    }

    fn unit(&self) -> Option<&Path> {
        match &self.place {
            Place::Unit(unit) => Some(unit),
            Place::Environment { .. } => None,
        }
    }

    /// The cgroup of this process, if it is a sub-cgroup of the unit's.
    fn own(&self) -> Option<PathBuf> {
        let (unit, own) = (self.unit()?, group::of("self")?);
        (own.parent() == Some(unit)).then_some(own)
    }

    fn name(&self, path: &Path) -> String {
        let unit = self.unit().unwrap_or(Path::new(""));
        let name = path.strip_prefix(unit).unwrap_or(path);
        name.to_string_lossy().into_owned()
    }

    /// Whether there are any.
    pub fn is_there(&self) -> bool {
        !self.groups().is_empty() || !self.loose().is_empty()
    }

    /// Ends them; tells `say` what it does, and nothing if there is nothing to do.
    ///
    /// While it waits, SIGTERM makes it hurry: systemd sends that when `TimeoutStopSec=`
    /// is over.
    ///
    /// # Errors
    /// Some have not ended, although they were killed.
    pub fn sweep(&self, manner: Manner, mut say: impl FnMut(&str)) -> io::Result<()> {
        let (groups, loose) = (self.groups(), self.loose());
        let count = groups.iter().map(|g| g.processes).sum::<usize>() + loose.len();
        let names = names(&groups, &loose);
        let mut killed = manner == Manner::AtOnce;
        if !groups.is_empty() || !loose.is_empty() {
            if let Manner::Gently(signal, patience) = manner {
                let within = shown(patience);
                let left = are_left(count);
                say(&format!(
                    "{left} ({names}): asked to finish ({signal}, {within})"
                ));
                self.ask(&groups, &loose, signal);
                killed = !wait(groups, loose, patience, true)?;
            }
            if killed {
                let (groups, loose) = (self.groups(), self.loose());
                let names = self::names(&groups, &loose);
                let count = groups.iter().map(|g| g.processes).sum::<usize>() + loose.len();
                say(&format!("{} ({names}): killed", are_left(count)));
                self.kill()?;
            }
        }
        if let Some(unit) = self.unit() {
            for path in sub_cgroups(unit) {
                group::remove(&path, DEPTH);
            }
        }
        Ok(())
    }

    /// Sends `signal` to the processes that a worker began with, as the supervisor does.
    /// Where these have ended, to all that are left of it.
    fn ask(&self, groups: &[Group], loose: &[Process], signal: Signal) {
        for group in groups {
            let members = members(&group.path, DEPTH);
            let all = self.processes(&members);
            ask_leaders(&all, signal);
        }
        ask_leaders(loose, signal);
    }

    /// SIGKILL to all, until there are none.
    fn kill(&self) -> io::Result<()> {
        let until = Instant::now() + DYING;
        loop {
            let (groups, loose) = (self.groups(), self.loose());
            if groups.is_empty() && loose.is_empty() {
                return Ok(());
            }
            if Instant::now() >= until {
                let names = names(&groups, &loose);
                return Err(io::Error::other(format!("{names}: killed, but not gone")));
            }
            for group in &groups {
                // Linux before 5.14 has no such file.
                if fs::write(group.path.join("cgroup.kill"), "1").is_err() {
                    send(
                        &self.processes(&members(&group.path, DEPTH)),
                        Signal::SIGKILL,
                    );
                }
            }
            send(&loose, Signal::SIGKILL);
            // Looked at again: who was forking may have left another one.
            wait(groups, loose, Duration::from_millis(200), false)?;
        }
    }

    /// The sub-cgroups that have processes.
    fn groups(&self) -> Vec<Group> {
        let own = self.own();
        let all = self.unit().into_iter().flat_map(sub_cgroups);
        let all = all.filter(|path| Some(path) != own.as_ref());
        // This process is to live, but not what is beside it and below.
        let all = all.chain(own.iter().flat_map(|own| sub_cgroups(own)));
        let with_processes = |path: PathBuf| {
            let mut events = File::open(path.join("cgroup.events")).ok()?;
            is_populated(&mut events).then(|| Group {
                name: self.name(&path),
                processes: members(&path, DEPTH).len(),
                path,
                events,
            })
        };
        all.filter_map(with_processes).collect()
    }

    /// Processes in no sub-cgroup.
    fn loose(&self) -> Vec<Process> {
        let pids = match self.unit() {
            Some(unit) => {
                let mut pids = direct_members(unit);
                pids.extend(self.own().iter().flat_map(|own| direct_members(own)));
                pids
            }
            None => all_pids(),
        };
        let own = std::process::id() as i32;
        let others: Vec<i32> = pids.into_iter().filter(|pid| *pid != own).collect();
        self.processes(&others)
    }

    /// Those of `pids` that are what we look for, also once we hold them.
    fn processes(&self, pids: &[i32]) -> Vec<Process> {
        let held = |pid: &i32| {
            let number = rustix::process::Pid::from_raw(*pid)?;
            let fd = pidfd_open(number, PidfdFlags::empty()).ok()?;
            self.is_ours(*pid).then_some(Process { pid: *pid, fd })
        };
        pids.iter().filter_map(held).collect()
    }

    fn is_ours(&self, pid: i32) -> bool {
        match &self.place {
            Place::Unit(unit) => group::of(&pid.to_string()).is_some_and(|c| c.starts_with(unit)),
            Place::Environment { name, runtime } => {
                let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                let has = |variable: String, whole: bool| {
                    let mut all = environment.split(|byte| *byte == 0);
                    all.any(|one| match whole {
                        true => one == variable.as_bytes(),
                        false => one.starts_with(variable.as_bytes()),
                    })
                };
                has(
                    format!("NOTIFY_SOCKET={}/notify/", runtime.display()),
                    false,
                ) || (has("APP_CLUSTER_COMPANION=1".to_owned(), true)
                    && has(format!("APP_CLUSTER_NAME={name}"), true))
            }
        }
    }
}

fn all_pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

fn are_left(processes: usize) -> String {
    match processes {
        1 => "1 process is left".to_owned(),
        _ => format!("{processes} processes are left"),
    }
}

fn names(groups: &[Group], loose: &[Process]) -> String {
    let of_groups = groups.iter().map(|group| group.name.clone());
    let pids = loose.iter().map(|process| format!("pid {}", process.pid));
    of_groups.chain(pids).collect::<Vec<_>>().join(", ")
}

fn ask_leaders(all: &[Process], signal: Signal) {
    let leads = |process: &&Process| {
        let pid = Pid::from_raw(process.pid);
        getsid(Some(pid)).is_ok_and(|session| session == pid)
    };
    if all.iter().any(|process| leads(&process)) {
        for leader in all.iter().filter(leads) {
            send(std::slice::from_ref(leader), signal);
        }
    } else {
        send(all, signal);
    }
}

fn send(all: &[Process], signal: Signal) {
    let Some(signal) = rustix::process::Signal::from_named_raw(signal as i32) else {
        return;
    };
    for process in all {
        // Gone already, which is as well.
        let _ = pidfd_send_signal(&process.fd, signal);
    }
}

/// Waits until all are gone (`true`), the time is over, or, if `hurry` is possible, SIGTERM
/// has come.
fn wait(
    mut groups: Vec<Group>,
    mut loose: Vec<Process>,
    patience: Duration,
    hurry: bool,
) -> io::Result<bool> {
    let until = Instant::now() + patience;
    let mask: SigSet = [Signal::SIGTERM].into_iter().filter(|_| hurry).collect();
    mask.thread_block().map_err(io::Error::from)?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&mask, flags).map_err(io::Error::from)?;
    loop {
        groups.retain_mut(|group| is_populated(&mut group.events));
        if groups.is_empty() && loose.is_empty() {
            return Ok(true);
        }
        let time = until.saturating_duration_since(Instant::now());
        if time.is_zero() {
            return Ok(false);
        }
        let ended = {
            let mut fds = vec![PollFd::new(&signals, PollFlags::IN)];
            fds.extend(loose.iter().map(|p| PollFd::new(&p.fd, PollFlags::IN)));
            let of_groups = groups
                .iter()
                .map(|g| PollFd::new(&g.events, PollFlags::PRI));
            fds.extend(of_groups);
            let time = Timespec {
                tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: time.subsec_nanos().into(),
            };
            match poll(&mut fds, Some(&time)) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            ready
        };
        if ended[0] {
            return Ok(false);
        }
        let mut ended = ended[1..].iter();
        loose.retain(|_| !ended.next().copied().unwrap_or(false));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Child, Command};

    /// A process of the app `web`; it is alone, as are its like in a service.
    fn worker(runtime: &Path, number: u32, script: &str) -> Child {
        let mut command = Command::new("sh");
        let socket = format!("{}/notify/{number}", runtime.display());
        // Its sleep is in the same session, and so goes with it.
        command.args(["-c", script]).env("NOTIFY_SOCKET", socket);
        command.process_group(0).spawn().expect("sh")
    }

    fn sweep(runtime: &Path, manner: Manner) -> Vec<String> {
        let mut said = Vec::new();
        let left = Left::by_environment("web", runtime);
        let swept = left.sweep(manner, |line| said.push(line.to_owned()));
        swept.expect("all are gone");
        assert!(!left.is_there());
        said
    }

    /// Ends by a signal; not a zombie in the way of who looks for processes.
    fn ended_by(mut child: Child) -> Option<i32> {
        child.wait().expect("its end").signal()
    }

    #[test]
    fn who_is_deaf_is_killed_and_nobody_else_is_touched() {
        let dir = tempfile::tempdir().expect("a directory");
        let (ours, other) = (dir.path().join("web"), dir.path().join("web2"));
        let ready = dir.path().join("ready");
        let deaf = format!("trap '' TERM; : >{}; exec sleep 60", ready.display());
        let deaf = worker(&ours, 1, &deaf);
        let mut stranger = worker(&other, 1, "exec sleep 60");
        let began = Instant::now();
        while !ready.exists() && began.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(5));
        }
        // The kernel has it gone once it is waited for.
        let deaf = std::thread::spawn(|| ended_by(deaf));
        let said = sweep(
            &ours,
            Manner::Gently(Signal::SIGTERM, Duration::from_millis(100)),
        );
        assert_eq!(deaf.join().expect("a thread"), Some(9));
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(
            said[0].ends_with("asked to finish (SIGTERM, 100ms)"),
            "{said:?}"
        );
        assert!(said[1].ends_with(": killed"), "{said:?}");
        assert!(stranger.try_wait().expect("its state").is_none());
        stranger.kill().expect("kill");
        stranger.wait().expect("its end");
    }

    #[test]
    fn who_listens_is_not_killed() {
        let dir = tempfile::tempdir().expect("a directory");
        let child = worker(dir.path(), 7, "exec sleep 60");
        let left = Left::by_environment("web", dir.path());
        let began = Instant::now();
        // Its environment is there a moment after spawn(3) has returned.
        while !left.is_there() && began.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let child = std::thread::spawn(|| ended_by(child));
        let said = sweep(
            dir.path(),
            Manner::Gently(Signal::SIGTERM, Duration::from_secs(20)),
        );
        assert_eq!(child.join().expect("a thread"), Some(15));
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(sweep(dir.path(), Manner::AtOnce).is_empty());
    }
}
