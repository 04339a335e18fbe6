// SPDX-License-Identifier: MIT OR Apache-2.0
//! The processes of a worker where there is no cgroup: what /proc tells.

use std::fs;

/// `pid` and all its descendants, parents before children (proc_pid_task(5)). Those whose
/// parent has ended are not found.
pub fn descendants(pid: i32) -> Vec<i32> {
    let mut found = vec![pid];
    let mut next = 0;
    while next < found.len() && found.len() < 4096 {
        let tasks = format!("/proc/{}/task", found[next]);
        for task in fs::read_dir(tasks).into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children"));
            let children = children.unwrap_or_default();
            let children = children.split(' ').filter_map(|word| word.parse().ok());
            for child in children {
                if !found.contains(&child) {
                    found.push(child);
                }
            }
        }
        next += 1;
    }
    found
}

/// All processes of session `sid` (each worker has one of its own).
pub fn session(sid: i32) -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| Stat::read(*pid).is_some_and(|s| s.session == sid))
        .collect()
}

/// A few fields of /proc/PID/stat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Session id.
    pub session: i32,
    /// User and system time, in clock ticks.
    pub ticks: u64,
    /// Resident memory, in pages.
    pub resident: u64,
}

impl Stat {
    /// Of a process, if there is one.
    pub fn read(pid: i32) -> Option<Stat> {
        Stat::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name may contain anything, so fields are counted from the last `)`.
    fn parse(text: &str) -> Option<Stat> {
        let (_, fields) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Stat {
            session: fields.get(3)?.parse().ok()?,
            ticks: number(14)? + number(15)?,
            resident: number(24)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_stat_line_with_a_nasty_name() {
        let line = "17 (a) b (c) S 1 17 16 0 -1 4194560 9 0 0 0 5 7 0 0 20 0 1 0 99 1000 42 0";
        let stat = Stat::parse(line);
        let expected = Stat {
            session: 16,
            ticks: 12,
            resident: 42,
        };
        assert_eq!(stat, Some(expected));
        assert_eq!(Stat::parse("17 (a"), None);
    }

    #[test]
    fn finds_itself() {
        let own = std::process::id() as i32;
        assert_eq!(descendants(own).first(), Some(&own));
        assert!(Stat::read(own).is_some_and(|s| session(s.session).contains(&own)));
    }
}
