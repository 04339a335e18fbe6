// SPDX-License-Identifier: MIT OR Apache-2.0
//! Starting processes: posix_spawn(3) of our own `exec-worker`.

use crate::exec::Plan;
use nix::fcntl::OFlag;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::SigSet;
use nix::sys::stat::Mode;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use crate::core::Exit;

/// Our own binary, whatever its path is by now: the file that runs, even if a newer one
/// has been put in its place. In the spawned child this is still the same file.
const SELF: &str = "/proc/self/exe";

/// A process that we have started.
#[derive(Debug)]
pub struct Process {
    /// Its process id.
    pub pid: i32,
    /// When it was started, in clock ticks since the boot (proc_pid_stat(5)): another process
    /// that has its pid later is told by it.
    pub started: u64,
    /// Readable when it has ended (pidfd_open(2)). CLOEXEC.
    pub pidfd: OwnedFd,
}

/// Where a process writes.
pub enum Output<'a> {
    /// Where we do.
    Inherit,
    /// Into this pipe.
    Pipe(BorrowedFd<'a>),
}

/// Starts `plan` with `environment`; it gets a copy of each of `passed`, under that number.
///
/// The originals stay ours. Everything else that we have open is CLOEXEC.
///
/// # Errors
/// What posix_spawn(3) or pidfd_open(2) say; the program itself may still fail to
/// start, which shows as an exit status.
pub fn spawn(
    plan: &Plan,
    environment: &BTreeMap<String, String>,
    passed: &[(BorrowedFd<'_>, RawFd)],
    output: Output<'_>,
) -> io::Result<Process> {
    let mut actions = PosixSpawnFileActions::init()?;
    actions.add_open(0, "/dev/null", OFlag::O_RDONLY, Mode::empty())?;
    if let Output::Pipe(pipe) = output {
        actions.add_dup2(pipe.as_raw_fd(), 1)?;
        actions.add_dup2(pipe.as_raw_fd(), 2)?;
    }
    for (descriptor, number) in passed {
        actions.add_dup2(descriptor.as_raw_fd(), *number)?;
    }
    let keep = passed.iter().map(|(_, number)| *number).collect();
    let plan = Plan {
        keep,
        ..plan.clone()
    };
    let arguments = c_strings(plan.to_arguments())?;
    let environment = environment.iter().map(|(k, v)| format!("{k}={v}"));
    let environment = c_strings(environment)?;
    // A signal that we were started with ignored (nohup, a shell's `&`) is none of the
    // worker's business.
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_sigdefault(&SigSet::all())?;
    attributes.set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF)?;
    let pid = posix_spawn(SELF, &actions, &attributes, &arguments, &environment)?;
    let pidfd = open_pidfd(pid.as_raw()).inspect_err(|_| {
        // Out of descriptors: a process that cannot be watched must not run. As a child
        // that nobody has waited for, its pid is still its own.
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL);
    })?;
    // Nobody has waited for it yet, so it is there.
    let stat = super::tree::Stat::read(pid.as_raw());
    Ok(Process {
        pid: pid.as_raw(),
        started: stat.map_or(0, |stat| stat.started),
        pidfd,
    })
}

fn open_pidfd(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

fn c_strings(words: impl IntoIterator<Item = String>) -> io::Result<Vec<CString>> {
    let nul = |_| io::Error::new(io::ErrorKind::InvalidInput, "a NUL byte in an argument");
    let words = words.into_iter();
    words.map(|w| CString::new(w).map_err(nul)).collect()
}

/// Whether the process of a pidfd has ended, waited for or not (pidfd_open(2)).
pub fn has_ended(pidfd: impl AsFd) -> bool {
    let mut polled = [PollFd::new(&pidfd, PollFlags::IN)];
    let _ = poll(&mut polled, Some(&Timespec::default()));
    !polled[0].revents().is_empty()
}

/// How a process ended that is another one's child; `None`: that has not been told yet, because
/// its parent has not waited for it (EPOLLHUP tells). Before Linux 6.15 it never is.
fn exit_of_other(pidfd: impl AsFd) -> Option<Exit> {
    let Ok(status) = crate::sys::exit_status(pidfd.as_fd()) else {
        return Some(Exit::Unknown);
    };
    let status = status?;
    Some(match status & 0x7f {
        0 => Exit::Code(status >> 8 & 0xff),
        signal => Exit::Signal(signal),
    })
}

/// The exit status of a process, if it has ended; takes the zombie away.
///
/// A process that is not our child reports [`Exit::Unknown`] where the kernel does not tell.
pub fn try_wait(pidfd: impl AsFd) -> Option<Exit> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    match waitid(WaitId::PidFd(pidfd.as_fd()), options) {
        Ok(Some(status)) => Some(match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Exit::Code(code),
            (_, Some(signal)) => Exit::Signal(signal),
            _ => Exit::Unknown,
        }),
        Ok(None) => None,
        Err(_) if has_ended(&pidfd) => exit_of_other(pidfd),
        Err(_) => None,
    }
}

/// The pid of some child that has ended and has not been waited for; it is left as it is.
pub fn next_zombie() -> Option<i32> {
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::All, flags).ok()?.pid().map(|pid| pid.as_raw())
}

/// Takes a zombie away that nobody waits for.
pub fn reap(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let _ = waitid(WaitId::Pid(pid), options);
    }
}
