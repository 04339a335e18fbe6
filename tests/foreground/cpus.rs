// SPDX-License-Identifier: MIT OR Apache-2.0
//! `workers = "max"`: online, in the affinity and within the quota, each from the real kernel.

use crate::dev::{BINARY, Dev, Setup};
use app_cluster::config::Cpus;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const MAX: &str = "workers = \"max\"\n";

fn setup() -> Setup {
    Setup::with_config(&format!("command = [{BINARY:?}, \"hello\"]\n{MAX}"))
}

/// `status` and `check`, which sees the same as its caller, both say how many and why.
#[track_caller]
fn says(dev: &Dev, wrapper: &str, count: u32, why: &str) {
    let workers = dev.status().workers;
    assert_eq!((workers.desired, workers.source.as_str()), (count, why));
    let shown = dev.cli(&["status", "web"]).succeeded().stdout;
    let plural = if count == 1 { "" } else { "s" };
    assert!(
        shown.contains(&format!("{count}/{count} ready ({why})")),
        "{shown}"
    );
    let file = dev.path("app.toml").display().to_string();
    let mut check = std::process::Command::new("sh");
    check.args(["-c", wrapper, "sh", BINARY, "check", &file]);
    let said = check.output().expect("a check");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert_eq!(
        said,
        format!("{file}: ok\n{count} worker{plural} ({why})\n")
    );
}

#[test]
fn max_is_what_is_online() {
    let usable = Cpus::of(0).expect("CPUs").len() as u32;
    let dev = setup().start();
    let found = Cpus::detect();
    assert!(found.count <= usable && usable <= Cpus::online(), "{found}");
    let why = format!("workers = \"max\": {found}");
    says(&dev, "exec \"$@\"", found.count, &why);
    dev.stop();
}

#[test]
fn max_is_within_the_affinity() {
    if Cpus::detect().count < 2 {
        return;
    }
    let first = "cpu=$(taskset -pc $$ | sed 's/.*: *//; s/[-,].*//') && \
                 exec taskset -c \"$cpu\" \"$@\"";
    let dev = setup().wrapper(first).start();
    says(&dev, first, 1, "workers = \"max\": 1 CPU (affinity)");
    dev.stop();
}

/// A cgroup with a quota of half a CPU, and one without a quota in it.
struct Group {
    parent: PathBuf,
    child: PathBuf,
    /// The parent, as /proc/self/cgroup names it.
    name: String,
}

impl Group {
    /// `None`: this machine does not let us make one.
    fn new() -> Option<Group> {
        let root = Path::new("/sys/fs/cgroup");
        let v1 = root.join("cpu/cpu.cfs_quota_us").exists() || root.join("cpu/tasks").exists();
        let base = if v1 {
            root.join("cpu")
        } else {
            root.to_owned()
        };
        let name = format!("/appc-test-{}", std::process::id());
        let parent = base.join(name.trim_start_matches('/'));
        let child = parent.join("child");
        fs::create_dir(&parent).ok()?;
        let group = Group {
            parent,
            child,
            name,
        };
        let (file, quota) = match v1 {
            true => ("cpu.cfs_quota_us", "50000"),
            false => ("cpu.max", "50000 100000"),
        };
        fs::create_dir(&group.child).ok()?;
        fs::write(group.parent.join(file), quota).ok()?;
        Some(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // What was killed may take a moment to be gone.
        let deadline = Instant::now() + Duration::from_secs(10);
        for dir in [&self.child, &self.parent] {
            while dir.exists() && fs::remove_dir(dir).is_err() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

#[test]
fn max_is_within_the_quota_of_a_cgroup_above() {
    if Cpus::detect().count < 2 {
        return;
    }
    let Some(group) = Group::new() else {
        eprintln!("left out: no cgroup with a CPU quota can be made here");
        return;
    };
    let enter = "echo $$ > \"$GROUP/cgroup.procs\" && exec \"$@\"";
    let place = group.child.display().to_string();
    let dev = setup().wrapper(enter).env("GROUP", &place).start();
    let why = format!(
        "workers = \"max\": 1 CPU (CPU quota of cgroup {})",
        group.name
    );
    let inside = enter.replace("$GROUP", &place);
    says(&dev, &inside, 1, &why);
    dev.stop();
}
