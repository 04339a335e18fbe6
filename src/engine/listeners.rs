// SPDX-License-Identifier: MIT OR Apache-2.0
//! The listening sockets, and who gets which of them.
//!
//! A [`Listener`] is what the configuration calls one: a name and an address. It has one
//! or several [`Line`]s, sockets on the same address among which the kernel spreads
//! connections (SO_REUSEPORT, socket(7)); or, for `slot_listen`, one on another address for
//! each slot.

use super::resume::{Kept, PREFIX};
use super::room;
use crate::config::{Config, MAX_SOCKETS, SLOT_LISTENER, Spread};
use crate::core::SlotId;
use anyhow::{Context, Result, bail};
use listenfd::ListenFd;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
// The second is used by the expansion of the first.
use nix::sys::socket::{
    Backlog, Shutdown, SockaddrStorage, getsockname, getsockopt, listen, setsockopt, shutdown,
    sockopt,
};
use nix::{getsockopt_impl, sockopt_impl};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

/// Where our own long-lived descriptors begin: a worker's own start at 3, and
/// none of its numbers may be one of ours when they are put in place.
pub(super) const FIRST_FD: RawFd = 256;
/// The most descriptors that are taken: sockets, and up to three for each worker, of which
/// there are twice as many in a reload.
const MAX_PASSED: u32 = MAX_SOCKETS + 8192;
/// Longest backlog that is asked for; the kernel cuts it to net.core.somaxconn.
const BACKLOG: i32 = 4096;

sockopt_impl!(
    TcpInfo,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    [u32; 8]
);
// The beginning of `struct tcp_info` (nix panics where the kernel knows less than libc), of a
// listening socket: how long its queue is, and how long it may be (tcp_get_info of the kernel).
const QUEUE: usize = 6;
const LONGEST_QUEUE: usize = 7;

fn longest_queue(fd: &OwnedFd) -> Option<u32> {
    Some(getsockopt(fd, TcpInfo).ok()?[LONGEST_QUEUE])
}

/// One listening socket. The descriptor is ours, CLOEXEC, and stays open until we end.
#[derive(Debug)]
pub struct Line {
    /// The socket.
    pub fd: OwnedFd,
    /// Its inode, as /proc shows it.
    pub inode: u64,
    tcp: bool,
    /// The length of queue that it listens with, if the kernel tells.
    backlog: Option<u32>,
    /// A socket file that we made and have to remove.
    file: Option<PathBuf>,
}

/// One listening address, or the addresses of the slots.
#[derive(Debug)]
pub struct Listener {
    /// Its name in LISTEN_FDNAMES.
    pub name: String,
    /// Where it listens, for people.
    pub address: String,
    /// The TCP port, if it has one.
    pub port: Option<u16>,
    /// Each line has the address of one slot.
    pub per_slot: bool,
    /// Its sockets, never none. The kernel's numbers for them are in `Steering::order`.
    pub lines: Vec<Line>,
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            let _ = std::fs::remove_file(file);
        }
    }
}

/// A socket that was passed, with its name.
pub type Passed = (String, Line);

/// Takes the sockets that systemd passed (sd_listen_fds(3)), empty if it passed none, and what
/// the supervisor before us has left.
///
/// To be called once, before any thread is started and any descriptor opened.
/// listenfd does not read LISTEN_FDNAMES, so the names are read here first.
///
/// # Errors
/// When a passed descriptor is not a listening stream socket, or RLIMIT_NOFILE is too low.
pub fn inherit() -> Result<(Vec<Passed>, Kept)> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names: Vec<&str> = names.split(':').collect();
    let announced = std::env::var("LISTEN_FDS").ok();
    let for_us = match std::env::var("LISTEN_PID") {
        Ok(pid) => pid.parse() == Ok(std::process::id()),
        Err(_) => announced.is_none(),
    };
    let Some(announced) = announced.filter(|_| for_us) else {
        room::check(0)?;
        return Ok((Vec::new(), Kept::default()));
    };
    match announced.parse::<u32>() {
        Ok(count) if count <= MAX_PASSED => room::check(count)?,
        _ => bail!(
            "LISTEN_FDS={announced:?} is not a number of descriptors (0 to {MAX_PASSED}); \
             it is set by systemd or by nobody"
        ),
    }
    let mut passed = ListenFd::from_env();
    let mut all = Vec::new();
    let mut kept = Kept::default();
    for index in 0..passed.len() {
        let name = names.get(index).copied().filter(|n| !n.is_empty());
        let name = name.unwrap_or("unknown");
        if name.starts_with(PREFIX) {
            let taken = passed.take_raw_fd(index)?;
            if let Some(fd) = taken.map(crate::sys::inherited) {
                let fd = rustix::io::fcntl_dupfd_cloexec(&fd, FIRST_FD)?;
                kept.add(name.to_owned(), fd);
            }
            continue;
        }
        let fd = take(&mut passed, index)
            .with_context(|| format!("descriptor {} in LISTEN_FDS (\"{name}\")", 3 + index))?;
        all.push((name.to_owned(), Line::new(fd, None)?));
    }
    Ok((all, kept))
}

fn take(passed: &mut ListenFd, index: usize) -> Result<OwnedFd> {
    let tcp = passed.take_custom::<OwnedFd>(index, libc::AF_INET, libc::SOCK_STREAM, "TCP socket");
    let fd = match tcp {
        Ok(fd) => fd,
        Err(_) => passed
            .take_custom::<OwnedFd>(index, libc::AF_UNIX, libc::SOCK_STREAM, "stream socket")
            .context(
                "only listening stream sockets can be passed: use ListenStream= in the \
                 socket unit, without Accept=yes",
            )?,
    };
    let fd = fd.context("descriptor taken twice")?;
    if !getsockopt(&fd, sockopt::AcceptConn)? {
        use nix::sys::socket::{SockaddrStorage, getpeername};
        if getpeername::<SockaddrStorage>(fd.as_raw_fd()).is_ok() {
            bail!("the socket does not listen: Accept=yes in the socket unit is not supported");
        }
        // It was shut down, by a worker or by a supervisor that was killed between shutdown(2)
        // and listen(2).
        Line::new(fd.try_clone()?, None)?.listen_again()?;
    }
    Ok(fd)
}

/// Makes listeners of the sockets that were passed: those with the same name and the same
/// address are lines of one, in their order.
///
/// # Errors
/// A system call failed.
pub fn group(passed: Vec<Passed>, config: &Config) -> Result<Vec<Listener>> {
    let mut all: Vec<Listener> = Vec::new();
    let mut slots = Vec::new();
    for (name, line) in passed {
        if config.slot_listen.is_some() && name == SLOT_LISTENER {
            slots.push(line);
            continue;
        }
        let (address, port) = describe(&line.fd);
        let same = |l: &&mut Listener| l.name == name && l.address == address && port.is_some();
        match all.iter_mut().find(same) {
            Some(known) => known.lines.push(line),
            None => all.push(Listener::new(&name, vec![line])?),
        }
    }
    // systemd passes the sockets of several units in no order; a program that takes
    // descriptor 3 means the first listener.
    let place = |l: &Listener| config.listen.iter().position(|c| c.name == l.name);
    all.sort_by_key(|l| place(l).unwrap_or(usize::MAX));
    if !slots.is_empty() {
        all.push(Listener::per_slot(slots)?);
    }
    Ok(all)
}

/// Listens on `fd` with the longest backlog there is. On a socket that listens already:
/// sets the backlog only.
pub(super) fn listen_on(fd: &OwnedFd) -> nix::Result<()> {
    listen(fd, Backlog::new(BACKLOG)?)
}

impl Line {
    /// `fd` becomes ours; `file` is removed with it.
    pub(super) fn new(fd: OwnedFd, file: Option<PathBuf>) -> Result<Line> {
        let fd = rustix::io::fcntl_dupfd_cloexec(&fd, FIRST_FD)
            .context("no descriptor left (raise LimitNOFILE=)")?;
        Ok(Line {
            inode: nix::sys::stat::fstat(&fd)?.st_ino,
            tcp: describe(&fd).1.is_some(),
            backlog: longest_queue(&fd),
            fd,
            file,
        })
    }

    /// The socket file that we made and have to remove.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The same; it is for somebody else to remove it.
    pub fn leave_file(&mut self) {
        self.file = None;
    }

    /// `file` is ours to remove.
    pub fn own_file(&mut self, file: PathBuf) {
        self.file = Some(file);
    }

    /// The TCP port.
    pub fn port(&self) -> Option<u16> {
        describe(&self.fd).1
    }

    /// Connections that wait to be accepted (the accept queue), where the kernel tells.
    pub fn waiting(&self) -> Option<u32> {
        self.tcp.then_some(())?;
        Some(getsockopt(&self.fd, TcpInfo).ok()?[QUEUE])
    }

    /// Whether it has been shut down, so that nothing can connect.
    pub fn is_shut_down(&self) -> bool {
        let mut polled = [PollFd::new(&self.fd, PollFlags::empty())];
        let now = Timespec::default();
        let _ = poll(&mut polled, Some(&now));
        polled[0].revents().contains(PollFlags::HUP)
    }

    /// Undoes the smaller backlog that a worker's own listen(2) may have set. A line that was
    /// shut down is left as it is: that is to be noticed.
    pub fn restore_backlog(&self) -> nix::Result<()> {
        let now = longest_queue(&self.fd);
        let as_it_was = now.is_some() && now == self.backlog;
        match as_it_was || self.is_shut_down() {
            true => Ok(()),
            false => listen_on(&self.fd),
        }
    }

    /// Makes a socket listen again that was shut down (shutdown(2) on a listening socket
    /// works on it for every holder).
    ///
    /// A second shutdown(2) fails with ENOTCONN, but leaves its mark: each connection that the
    /// socket accepts later would be reset as soon as data comes. That is taken away by
    /// connect(2) to AF_UNSPEC (verified on Linux 6.18).
    pub fn listen_again(&self) -> nix::Result<()> {
        if self.tcp {
            rustix::net::connect_unspec(&self.fd)
                .map_err(|error| nix::Error::from_raw(error.raw_os_error()))?;
        }
        listen_on(&self.fd)
    }

    /// Attaches a program to all lines that listen where this one does (socket(7)).
    ///
    /// If the line has been shut down it fails with EINVAL, and must: the kernel would put the
    /// line into a group of its own, with the program, where it could not listen again
    /// (EADDRINUSE) before all others have stopped. There is no such group without SO_REUSEPORT,
    /// so that is off meanwhile. Of lines that listen only the first that the kernel finds is
    /// asked for it: the newest one of IPv4, the oldest one of IPv6.
    pub fn attach(&self, program: &libc::sock_fprog) -> nix::Result<()> {
        setsockopt(&self.fd, sockopt::ReusePort, &false)?;
        let attached = setsockopt(&self.fd, sockopt::AttachReusePortCbpf, program);
        setsockopt(&self.fd, sockopt::ReusePort, &true)?;
        attached
    }

    /// Whether each connection that comes is to be announced to us by SIGIO. Unlike what
    /// epoll(7) says, that is seen also if a worker was quicker to accept it.
    pub fn announce(&self, connections: bool) -> nix::Result<()> {
        let mut flags = OFlag::from_bits_retain(fcntl(&self.fd, FcntlArg::F_GETFL)?);
        flags.set(OFlag::O_ASYNC, connections);
        fcntl(&self.fd, FcntlArg::F_SETFL(flags))?;
        Ok(())
    }

    /// Stops listening, for every holder. What is queued goes to another line of the
    /// listener where the kernel has `tcp_migrate_req`, and is reset elsewhere.
    /// `false`: somebody has done so already.
    pub fn stop_listening(&self) -> nix::Result<bool> {
        match shutdown(self.fd.as_raw_fd(), Shutdown::Both) {
            Ok(()) => Ok(true),
            Err(nix::Error::ENOTCONN) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Listener {
    /// A listener of `lines`, which share one address and are not none.
    pub(super) fn new(name: &str, lines: Vec<Line>) -> Result<Listener> {
        let first = lines.first().context("a listener without a socket")?;
        let (address, port) = describe(&first.fd);
        Ok(Listener {
            name: name.to_owned(),
            address,
            port,
            per_slot: false,
            lines,
        })
    }

    /// The addresses of the slots, in order.
    pub(super) fn per_slot(lines: Vec<Line>) -> Result<Listener> {
        let mut listener = Listener::new(SLOT_LISTENER, lines)?;
        if let Some(last) = listener.lines.last().filter(|_| listener.lines.len() > 1) {
            listener.address += &format!(" to {}", describe(&last.fd).0);
        }
        listener.per_slot = true;
        Ok(listener)
    }

    /// Its sockets: name, address, how many on that address.
    pub fn sockets(&self) -> Vec<(String, String, u32)> {
        if !self.per_slot {
            return vec![(
                self.name.clone(),
                self.address.clone(),
                self.lines.len() as u32,
            )];
        }
        let lines = self.lines.iter();
        lines
            .map(|line| (self.name.clone(), describe(&line.fd).0, 1))
            .collect()
    }

    /// The line that the worker of `slot` accepts from; `None`: it gets none.
    pub fn line_of(&self, slot: SlotId, spread: Spread) -> Option<usize> {
        let slot = slot.0 as usize;
        match spread {
            _ if self.per_slot => (slot < self.lines.len()).then_some(slot),
            Spread::Shared | Spread::RoundRobin => Some(0),
            Spread::Even | Spread::Sticky => Some(slot % self.lines.len()),
        }
    }

    /// Whether the kernel chooses between several lines.
    pub fn is_steered(&self) -> bool {
        !self.per_slot && self.lines.len() > 1
    }

    /// Lets lines that stop listening begin again while connections that they had accepted
    /// live: without SO_REUSEADDR listen(2) would fail with EADDRINUSE (verified on Linux 6.1
    /// to 6.18). systemd sets it too. SO_REUSEPORT may be off if we were killed in
    /// [`Line::attach`]. And we get their signals.
    pub fn prepare_for_steering(&self) -> Result<()> {
        for line in self.lines.iter().filter(|_| self.is_steered()) {
            setsockopt(&line.fd, sockopt::ReuseAddr, &true)?;
            setsockopt(&line.fd, sockopt::ReusePort, &true)?;
            crate::sys::own_signals_of(line.fd.as_fd())?;
        }
        Ok(())
    }

    /// Sets or clears O_NONBLOCK, which all holders of the sockets share.
    pub fn set_blocking(&self, blocking: bool) -> Result<()> {
        for line in &self.lines {
            let mut flags = OFlag::from_bits_retain(fcntl(&line.fd, FcntlArg::F_GETFL)?);
            flags.set(OFlag::O_NONBLOCK, !blocking);
            fcntl(&line.fd, FcntlArg::F_SETFL(flags))?;
        }
        Ok(())
    }
}

fn describe(fd: &OwnedFd) -> (String, Option<u16>) {
    let Ok(name) = getsockname::<SockaddrStorage>(fd.as_raw_fd()) else {
        return ("unknown".to_owned(), None);
    };
    if let Some(v4) = name.as_sockaddr_in() {
        return (v4.to_string(), Some(v4.port()));
    }
    if let Some(v6) = name.as_sockaddr_in6() {
        return (v6.to_string(), Some(v6.port()));
    }
    let path = name.as_unix_addr().and_then(|u| u.path());
    (
        path.map_or("unix".to_owned(), |p| format!("unix:{}", p.display())),
        None,
    )
}
