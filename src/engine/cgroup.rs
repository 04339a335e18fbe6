// SPDX-License-Identifier: MIT OR Apache-2.0
//! One controller-less sub-cgroup per worker and one for the companion, where systemd has
//! delegated us one. A group is named by its [`WorkerId`], or [`COMPANION`].
//!
//! Never writes `cgroup.subtree_control`: with survivors inside, systemd could not
//! start the service again (219/CGROUP).

use crate::core::WorkerId;
use std::fmt::Display;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The group of the companion.
pub const COMPANION: &str = "companion";

/// Our own cgroup, in which we may make others.
#[derive(Debug, Clone)]
pub struct Cgroup {
    /// Where it is mounted.
    path: PathBuf,
    /// How journald names it (`_SYSTEMD_CGROUP=`).
    name: String,
}

impl Cgroup {
    /// Our cgroup, if we are the main process of a unit with `Delegate=yes`
    /// (systemd.resource-control(5)); otherwise `None`, and process groups have to do.
    pub fn delegated() -> Option<Cgroup> {
        // Set by systemd >= 248 for the process it started, and inherited by others.
        let main = std::env::var("SYSTEMD_EXEC_PID").ok()?;
        if main.parse() != Ok(std::process::id()) {
            return None;
        }
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let name = own.lines().find_map(|line| line.strip_prefix("0::"))?;
        let mount = mount()?;
        let cgroup = Cgroup {
            path: mount.join(name.trim_start_matches('/')),
            name: name.trim_end_matches('/').to_owned(),
        };
        // Left over from a supervisor that was killed.
        for entry in fs::read_dir(&cgroup.path).ok()?.flatten() {
            let name = entry.file_name();
            if is_worker_name(&name.to_string_lossy()) || name == COMPANION {
                let _ = fs::remove_dir(entry.path());
            }
        }
        let probe = cgroup.path.join("w0");
        fs::create_dir(&probe).ok()?;
        fs::remove_dir(&probe).ok()?;
        Some(cgroup)
    }

    /// Makes a group.
    pub fn create(&self, group: impl Display) -> io::Result<()> {
        match fs::create_dir(self.of(group)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// The file to write to so as to enter a group.
    pub fn entrance(&self, group: impl Display) -> PathBuf {
        self.of(group).join("cgroup.procs")
    }

    /// A group as journald names it.
    pub fn name_of(&self, group: impl Display) -> String {
        format!("{}/{group}", self.name)
    }

    /// The file that tells whether a group is empty (cgroups(7)).
    pub fn events(&self, group: impl Display) -> io::Result<fs::File> {
        fs::File::open(self.of(group).join("cgroup.events"))
    }

    /// All processes of a group.
    pub fn members(&self, group: impl Display) -> Vec<i32> {
        let text = fs::read_to_string(self.entrance(group)).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// The processes that are in no group of ours.
    pub fn own_members(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// The groups of workers that are there.
    pub fn workers(&self) -> Vec<WorkerId> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names
            .filter(|name| is_worker_name(name))
            .filter_map(|name| name[1..].parse().ok().map(WorkerId))
            .collect()
    }

    /// The worker whose cgroup a process is in.
    pub fn worker_of(&self, pid: i32) -> Option<WorkerId> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
        let rest = path.strip_prefix(&self.name)?.strip_prefix("/w")?;
        let number = rest.split('/').next()?;
        number.parse().ok().map(WorkerId)
    }

    /// SIGKILL to all processes of a group. `false`: this kernel (before 5.14) has no
    /// `cgroup.kill`.
    pub fn kill(&self, group: impl Display) -> bool {
        fs::write(self.of(group).join("cgroup.kill"), "1").is_ok()
    }

    /// Removes a group. `false`: there are processes in it.
    pub fn remove(&self, group: impl Display) -> bool {
        match fs::remove_dir(self.of(group)) {
            Err(error) => error.kind() == io::ErrorKind::NotFound,
            Ok(()) => true,
        }
    }

    /// CPU time used by a group's processes, in microseconds.
    pub fn cpu_usec(&self, group: impl Display) -> Option<u64> {
        let text = fs::read_to_string(self.of(group).join("cpu.stat")).ok()?;
        let line = text.lines().find_map(|l| l.strip_prefix("usage_usec "))?;
        line.parse().ok()
    }

    fn of(&self, group: impl Display) -> PathBuf {
        self.path.join(group.to_string())
    }
}

fn is_worker_name(name: &str) -> bool {
    let digits = name.strip_prefix('w').unwrap_or_default();
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

/// Where cgroup v2 is mounted.
pub fn mount() -> Option<PathBuf> {
    unified_mount(&fs::read_to_string("/proc/self/mountinfo").ok()?)
}

/// The mount point of the first cgroup2 file system (proc_pid_mountinfo(5)) whose root is
/// the whole hierarchy.
fn unified_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let unified = file_system.starts_with("cgroup2 ") && root == "/";
        unified.then(|| Path::new(point).to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_unified_hierarchy() {
        let hybrid = "24 30 0:22 / /sys rw - sysfs sysfs rw\n\
            31 24 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:5 - cgroup2 cgroup2 rw\n\
            32 24 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let found = unified_mount(hybrid);
        assert_eq!(found, Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(unified_mount("garbage\n - \n"), None);
    }

    #[test]
    fn knows_its_own_cgroups() {
        assert!(is_worker_name("w12"));
        assert!(!is_worker_name("w"));
        assert!(!is_worker_name("web"));
    }
}
