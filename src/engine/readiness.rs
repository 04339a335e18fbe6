// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether a program that says nothing of itself accepts connections.
//!
//! It does when one of its processes has an inherited socket in an epoll set
//! (`tfd:` lines of /proc/PID/fdinfo/N, proc_pid_fdinfo(5)) or sits in accept(2)
//! (/proc/PID/task/TID/wchan). Loops around poll(2) and select(2) leave no trace.

use std::fs;

/// Where the kernel sleeps in a blocking accept(2).
const ACCEPTING: [&str; 2] = ["inet_csk_accept", "unix_accept"];

/// Whether any of `pids` accepts from one of the sockets with these inodes.
pub fn is_accepting(pids: &[i32], inodes: &[u64]) -> bool {
    pids.iter()
        .any(|pid| has_in_epoll_set(*pid, inodes) || sits_in_accept(*pid))
}

fn has_in_epoll_set(pid: i32, inodes: &[u64]) -> bool {
    let entries = fs::read_dir(format!("/proc/{pid}/fdinfo"));
    let infos = entries.into_iter().flatten().flatten();
    infos
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .any(|info| watches(&info, inodes))
}

fn watches(fdinfo: &str, inodes: &[u64]) -> bool {
    let watched = fdinfo.lines().filter(|line| line.starts_with("tfd:"));
    watched
        .filter_map(|line| line.split("ino:").nth(1)?.split_ascii_whitespace().next())
        .filter_map(|hex| u64::from_str_radix(hex, 16).ok())
        .any(|inode| inodes.contains(&inode))
}

fn sits_in_accept(pid: i32) -> bool {
    let entries = fs::read_dir(format!("/proc/{pid}/task"));
    let tasks = entries.into_iter().flatten().flatten();
    tasks
        .filter_map(|task| fs::read_to_string(task.path().join("wchan")).ok())
        .any(|place| ACCEPTING.contains(&place.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
    use std::net::TcpListener;

    fn inode(listener: &TcpListener) -> u64 {
        nix::sys::stat::fstat(listener).expect("fstat").st_ino
    }

    #[test]
    fn sees_an_epoll_set_only_when_the_socket_is_in_it() {
        let own = [std::process::id() as i32];
        let (ours, other) = (
            TcpListener::bind("127.0.0.1:0").expect("bind"),
            TcpListener::bind("127.0.0.1:0").expect("bind"),
        );
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("epoll");
        assert!(!has_in_epoll_set(own[0], &[inode(&ours)]));
        epoll
            .add(&ours, EpollEvent::new(EpollFlags::EPOLLIN, 0))
            .expect("add");
        assert!(has_in_epoll_set(own[0], &[inode(&ours)]));
        assert!(!has_in_epoll_set(own[0], &[inode(&other)]));
    }

    #[test]
    fn garbage_is_no_sign_of_life() {
        assert!(!watches("tfd: 5 events: 19 ino:zz\ntfd:\ntfd: ino:", &[0]));
        assert!(!is_accepting(&[0, -1, i32::MAX], &[1]));
    }
}
