// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who is at the other end of the control socket, and what they may ask.

use crate::api::{self, Call};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use rustix::net::sockopt::socket_peercred;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// A caller. That they could connect at all, the mode of the socket file has decided.
pub(super) struct Caller {
    uid: Option<u32>,
    /// Whether it is, for all that is known, a process of an app that is not ours.
    of_another_app: bool,
}

/// Who connected (SO_PEERCRED, unix(7)), as far as the socket says it.
pub(super) fn uid(stream: &UnixStream) -> Option<u32> {
    socket_peercred(stream).ok().map(|c| c.uid.as_raw())
}

impl Caller {
    /// To be asked once, when they have just connected: later the process may be gone, and
    /// its number somebody else's.
    pub(super) fn of(stream: &UnixStream) -> Caller {
        let uid = uid(stream);
        let pid = socket_peercred(stream).map_or(0, |c| c.pid.as_raw_nonzero().get());
        Caller {
            uid,
            of_another_app: !is_master(uid) && is_another_app(pid),
        }
    }

    /// The group may look, reload, roll back and scale; what ends workers without a replacement
    /// is for root and the supervisor's own user. Every app has the group, for its
    /// supervisor's sake: what another app's processes are allowed is not due to it.
    ///
    /// # Errors
    /// What to tell a caller who may not.
    pub(super) fn may(&self, call: &Call) -> Result<(), api::Error> {
        if is_master(self.uid) {
            return Ok(());
        }
        let for_group = match call {
            Call::GetStatus {} | Call::Plan {} | Call::Reload {} | Call::Rollback {} => true,
            Call::Scale { .. } | Call::Send { .. } | Call::Subscribe { .. } => true,
            Call::Restart { slot, .. } => slot.is_some(),
            Call::Stop { .. } | Call::Upgrade { .. } => false,
        };
        let text = match () {
            () if !for_group => "only root and the supervisor's own user may do that (try sudo)",
            () if self.of_another_app => "another app's processes may not do that",
            () => return Ok(()),
        };
        Err(api::Error::NotAuthorized {
            message: text.to_owned(),
        })
    }
}

/// Whether `uid` may everything: root and the supervisor's own user.
fn is_master(uid: Option<u32>) -> bool {
    uid == Some(0) || uid == Some(nix::unistd::geteuid().as_raw())
}

/// Whether `pid` is a process of an app that is not ours. One that cannot be found out about
/// counts as such.
fn is_another_app(pid: i32) -> bool {
    let read = |of: &str| fs::read_to_string(format!("/proc/{of}/cgroup")).ok();
    let theirs = match read(&pid.to_string()) {
        Some(text) => unit_of(&text),
        // ProtectProc=invisible hides others' processes, but not who is in a cgroup.
        None if is_there(pid) => find_in(Path::new("/sys/fs/cgroup"), pid, false),
        None => return true,
    };
    let ours = read("self").and_then(|text| unit_of(&text));
    theirs.is_some() && theirs != ours
}

fn is_there(pid: i32) -> bool {
    let asked = kill(Pid::from_raw(pid), None);
    pid > 0 && matches!(asked, Ok(()) | Err(nix::Error::EPERM))
}

/// The app's unit in the text of /proc/PID/cgroup (cgroups(7)).
fn unit_of(text: &str) -> Option<String> {
    let parts = text.lines().flat_map(|line| line.split('/'));
    let mut units = parts.filter(|part| is_an_app(part));
    units.next().map(str::to_owned)
}

fn is_an_app(unit: &str) -> bool {
    let instance = unit.starts_with("app-cluster@") && unit.ends_with(".service");
    instance || unit == "app-cluster.service"
}

/// The app's unit below the cgroup `directory` that `pid` is in; `inside`: that of the unit
/// itself or one of its sub-cgroups.
fn find_in(directory: &Path, pid: i32, inside: bool) -> Option<String> {
    for entry in fs::read_dir(directory).ok()?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = entry.path();
        let member = |path: &Path| {
            let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
            text.lines().any(|line| line.parse() == Ok(pid))
        };
        if is_an_app(&name) || inside && path.is_dir() {
            if member(&path) || find_in(&path, pid, true).is_some() {
                return Some(name);
            }
        } else if (name.ends_with(".slice") || name == "unified")
            && let Some(found) = find_in(&path, pid, false)
        {
            return Some(found);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found out at the beginning holds: no process is looked at later.
    #[test]
    fn callers_are_judged_when_they_connect() {
        let look = Call::GetStatus {};
        let stop = Call::Stop { now: false };
        for (of_another_app, call, part) in [
            (false, &look, None),
            (true, &look, Some("another app's processes")),
            (false, &stop, Some("only root")),
        ] {
            let uid = Some(nix::unistd::geteuid().as_raw() + 1);
            let caller = Caller {
                uid,
                of_another_app,
            };
            let told = caller.may(call).err().map(|error| format!("{error:?}"));
            assert_eq!(told.is_some(), part.is_some(), "{told:?}");
            assert!(told.is_none_or(|told| told.contains(part.unwrap_or_default())));
        }
        // Gone before it could be looked at; no process has such a number (proc(5), pid_max).
        assert!(is_another_app(i32::MAX));
        assert!(!is_another_app(std::process::id() as i32));
    }

    #[test]
    fn units_in_paths() {
        let hybrid = "1:name=systemd:/\n0::/system.slice/system-app\\x2dcluster.slice/app-cluster@shop.service/w3\n";
        assert_eq!(unit_of(hybrid).as_deref(), Some("app-cluster@shop.service"));
        let plain = "0::/system.slice/app-cluster.service/w1\n";
        assert_eq!(unit_of(plain).as_deref(), Some("app-cluster.service"));
        for other in [
            "0::/\n",
            "0::/user.slice/user-0.slice/app-cluster.scope\n",
            "",
        ] {
            assert_eq!(unit_of(other), None);
        }
    }

    #[test]
    fn members_of_cgroups() {
        let dir = tempfile::tempdir().expect("tempdir");
        let unit = dir.path().join("system.slice/app-cluster@shop.service");
        fs::create_dir_all(unit.join("w1/nested")).expect("mkdir");
        fs::create_dir_all(dir.path().join("system.slice/other.service")).expect("mkdir");
        let put = |place: &str, pids: &str| {
            let path = dir.path().join("system.slice").join(place);
            fs::write(path.join("cgroup.procs"), pids).expect("write");
        };
        put("app-cluster@shop.service", "10\n");
        put("app-cluster@shop.service/w1/nested", "20\n21\n");
        put("other.service", "30\n");
        let found = |pid| find_in(dir.path(), pid, false);
        for pid in [10, 20, 21] {
            assert_eq!(found(pid).as_deref(), Some("app-cluster@shop.service"));
        }
        assert_eq!(found(30), None);
        assert_eq!(found(2), None);
    }
}
