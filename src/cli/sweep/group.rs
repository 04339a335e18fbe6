// SPDX-License-Identifier: MIT OR Apache-2.0
//! cgroups of a unit, as files (cgroups(7)).

use crate::engine::cgroup_mount;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};

/// systemd's own sub-cgroup, for processes such as this one.
const CONTROL: &str = ".control";
/// How deep sub-cgroups of a worker are looked into; the kernel kills all of them.
pub const DEPTH: usize = 8;

/// The cgroup of the service that this process is started by. `Some(None)`: it is in none.
/// `None`: there is no cgroup v2.
pub fn own_unit() -> Option<Option<PathBuf>> {
    let own = of("self")?;
    let unit = match own.ends_with(CONTROL) {
        true => own.parent().map(Path::to_owned),
        false => Some(own),
    };
    // Nothing else has a cgroup of its own to sweep.
    let is_service = |unit: &PathBuf| unit.extension().is_some_and(|kind| kind == "service");
    Some(unit.filter(is_service))
}

/// The directory of a process's cgroup (cgroups(7)).
pub fn of(process: &str) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
    let name = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(cgroup_mount()?.join(name.trim_start_matches('/')))
}

/// The cgroups directly in another one.
pub fn sub_cgroups(of: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(of).into_iter().flatten().flatten();
    let groups = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    groups.map(|entry| entry.path()).collect()
}

/// Processes of a cgroup, not of those in it.
pub fn direct_members(group: &Path) -> Vec<i32> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Processes of a cgroup and of those in it, so deep.
pub fn members(group: &Path, depth: usize) -> Vec<i32> {
    let mut all = direct_members(group);
    if depth > 0 {
        let below = sub_cgroups(group).into_iter();
        all.extend(below.flat_map(|group| members(&group, depth - 1)));
    }
    all
}

/// Removes a cgroup and those in it; one with processes stays.
pub fn remove(group: &Path, depth: usize) {
    if depth > 0 {
        for below in sub_cgroups(group) {
            remove(&below, depth - 1);
        }
    }
    let _ = fs::remove_dir(group);
}

/// Whether there are processes in a cgroup, by its `cgroup.events`; from then on poll(2)
/// tells of a change.
pub fn is_populated(events: &mut File) -> bool {
    let mut text = String::new();
    let read = events
        .rewind()
        .and_then(|()| events.read_to_string(&mut text));
    read.is_ok() && text.lines().any(|line| line == "populated 1")
}
