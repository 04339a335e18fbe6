// SPDX-License-Identifier: MIT OR Apache-2.0
//! The processes of a worker where there is no cgroup: what /proc tells.

use crate::core::WorkerId;
use std::fs;
use std::path::Path;

/// `pid` and all its descendants, parents before children (proc_pid_task(5)). Those whose
/// parent has ended are not found.
pub fn descendants(pid: i32) -> Vec<i32> {
    let mut found = vec![pid];
    let mut next = 0;
    while next < found.len() && found.len() < 4096 {
        for child in children(found[next]) {
            if !found.contains(&child) {
                found.push(child);
            }
        }
        next += 1;
    }
    found
}

/// Children of all threads of `pid`.
fn children(pid: i32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let tasks = tasks.into_iter().flatten().flatten();
    let texts = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    texts
        .flat_map(|text| {
            let words = text.split_ascii_whitespace();
            words
                .filter_map(|word| word.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Processes of a worker that have lost their parent, with their descendants.
///
/// As their subreaper we are their parent then. They are told apart by their session,
/// which is the worker's, or by a variable in their environment that nobody else's has.
pub fn orphans(main: i32, mark: &str, is_known: impl Fn(i32) -> bool) -> Vec<i32> {
    let own = children(std::process::id() as i32);
    own.into_iter()
        .filter(|pid| *pid != main && !is_known(*pid))
        .filter(|pid| {
            let session = Stat::read(*pid).map(|stat| stat.session);
            session == Some(main) || has_in_environment(*pid, mark.as_bytes())
        })
        .flat_map(descendants)
        .collect()
}

/// Whether a process was started with this variable (proc_pid_environ(5)).
pub fn has_in_environment(pid: i32, assignment: &[u8]) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment
        .split(|byte| *byte == 0)
        .any(|e| e == assignment)
}

/// Processes, but for our own, that were started with a NOTIFY_SOCKET `wN` in `directory`, and
/// which it is. Only those that we may look into are found.
pub fn by_notify_socket(directory: &Path) -> Vec<(WorkerId, i32)> {
    let mark = format!("NOTIFY_SOCKET={}/w", directory.display()).into_bytes();
    let own = std::process::id() as i32;
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let whose = |pid: i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
        let mut variables = environment.split(|byte| *byte == 0);
        let number = variables.find_map(|variable| variable.strip_prefix(&mark[..]))?;
        let number = std::str::from_utf8(number).ok()?.parse().ok()?;
        // Anybody may have written it, and there is to be room for more.
        (number < 1 << 48).then_some((WorkerId(number), pid))
    };
    pids.filter(|pid| *pid != own).filter_map(whose).collect()
}

/// A few fields of /proc/PID/stat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Session id.
    pub session: i32,
    /// User and system time, in clock ticks.
    pub ticks: u64,
    /// When it was started, in clock ticks since the boot.
    pub started: u64,
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
            started: number(22)?,
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
            started: 99,
        };
        assert_eq!(stat, Some(expected));
        assert_eq!(Stat::parse("17 (a"), None);
    }

    #[test]
    fn finds_itself() {
        let own = std::process::id() as i32;
        assert_eq!(descendants(own).first(), Some(&own));
        // 0 where the session's leader is in another pid namespace.
        let session = nix::unistd::getsid(None).expect("a session").as_raw();
        assert_eq!(Stat::read(own).map(|stat| stat.session), Some(session));
    }

    #[test]
    fn tells_by_the_environment_whose_a_process_is() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .env("NOTIFY_SOCKET", "/x/w7")
            .spawn()
            .expect("sleep");
        let (pid, none) = (child.id() as i32, |_| false);
        // The environment is there a moment after spawn(3) has returned.
        let began = std::time::Instant::now();
        let mut found = Vec::new();
        while found.is_empty() && began.elapsed().as_secs() < 10 {
            found = orphans(-1, "NOTIFY_SOCKET=/x/w7", none);
        }
        let others = orphans(-1, "NOTIFY_SOCKET=/x/w77", none);
        assert_eq!(by_notify_socket(Path::new("/x")), [(WorkerId(7), pid)]);
        assert_eq!(by_notify_socket(Path::new("/")), []);
        child.kill().expect("kill");
        child.wait().expect("wait");
        assert_eq!((found, others.contains(&pid)), (vec![pid], false));
    }
}
