// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether a program that says nothing of itself accepts connections.
//!
//! It does when one of its processes has an inherited socket in an epoll set
//! (`tfd:` lines of /proc/PID/fdinfo/N, proc_pid_fdinfo(5)) or sits in accept(2)
//! (/proc/PID/task/TID/wchan). Loops around poll(2) and select(2) leave no trace.

use nix::libc;
use std::fs;

/// Where the kernel sleeps in a blocking accept(2).
const ACCEPTING: [&str; 2] = ["inet_csk_accept", "unix_accept"];

/// Whether any of `pids` accepts from one of the sockets with these inodes.
pub fn is_accepting(pids: &[i32], inodes: &[u64]) -> bool {
    pids.iter()
        .any(|pid| has_in_epoll_set(*pid, inodes) || sits_in_accept(*pid, inodes))
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

fn sits_in_accept(pid: i32, inodes: &[u64]) -> bool {
    let entries = fs::read_dir(format!("/proc/{pid}/task"));
    let tasks = entries.into_iter().flatten().flatten();
    tasks
        .filter(|task| {
            let place = fs::read_to_string(task.path().join("wchan")).unwrap_or_default();
            ACCEPTING.contains(&place.trim())
        })
        .any(|task| {
            // Which socket that is can be read where we may trace it (a child, under the
            // usual Yama scope 1); elsewhere being in accept(2) at all has to do.
            let call = fs::read_to_string(task.path().join("syscall"));
            let Some(fd) = call.ok().and_then(|call| accepted_from(&call)) else {
                return true;
            };
            let target = fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap_or_default();
            let target = target.to_string_lossy();
            inodes
                .iter()
                .any(|inode| target == format!("socket:[{inode}]"))
        })
}

/// The descriptor of an accept(2) in /proc/PID/task/TID/syscall (proc_pid_syscall(5)).
fn accepted_from(call: &str) -> Option<u64> {
    let mut words = call.split_ascii_whitespace();
    let number: i64 = words.next()?.parse().ok()?;
    if number != libc::SYS_accept && number != libc::SYS_accept4 {
        return None;
    }
    u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()
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
    fn tells_from_which_socket_is_accepted() {
        let accept = format!("{} 0x3 0x0 0x0 0x0 0x0 0x0 0x7f 0x7f\n", libc::SYS_accept);
        assert_eq!(accepted_from(&accept), Some(3));
        assert_eq!(accepted_from("running\n"), None);
        assert_eq!(accepted_from("-1 0x3 0x0"), None);
    }

    #[test]
    fn a_blocking_accept_counts_for_its_own_socket_only() {
        let (ours, other) = (
            TcpListener::bind("127.0.0.1:0").expect("bind"),
            TcpListener::bind("127.0.0.1:0").expect("bind"),
        );
        let (ours, address) = (inode(&ours), other.local_addr().expect("address"));
        let its = inode(&other);
        let thread = std::thread::spawn(move || other.accept().map(|_| ()));
        let own = std::process::id() as i32;
        let began = std::time::Instant::now();
        while !sits_in_accept(own, &[its]) && began.elapsed().as_secs() < 10 {
            std::thread::yield_now();
        }
        let seen = (sits_in_accept(own, &[its]), sits_in_accept(own, &[ours]));
        std::net::TcpStream::connect(address).expect("connect");
        thread.join().expect("a thread").expect("a connection");
        assert_eq!(seen, (true, false));
    }

    #[test]
    fn garbage_is_no_sign_of_life() {
        assert!(!watches("tfd: 5 events: 19 ino:zz\ntfd:\ntfd: ino:", &[0]));
        assert!(!is_accepting(&[0, -1, i32::MAX], &[1]));
    }
}
