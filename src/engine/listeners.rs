// SPDX-License-Identifier: MIT OR Apache-2.0
//! The listening sockets: taken over from systemd, or bound by ourselves.

use crate::config::{Listen, ListenAddress};
use anyhow::{Context, Result, bail};
use listenfd::ListenFd;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
// The second is used by the expansion of the first.
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, UnixAddr, bind, getsockname,
    getsockopt, listen, setsockopt, socket, sockopt,
};
use nix::{getsockopt_impl, sockopt_impl};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// Where our own long-lived descriptors begin: a worker's own start at 3, and
/// none of its numbers may be one of ours when they are put in place.
const FIRST_FD: RawFd = 256;
/// Longest backlog that is asked for; the kernel cuts it to net.core.somaxconn.
const BACKLOG: i32 = 4096;
/// More descriptors than that in LISTEN_FDS are a mistake.
const MAX_SOCKETS: usize = 1024;

sockopt_impl!(
    TcpInfo,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    libc::tcp_info
);

/// One listening socket. The descriptor is ours, CLOEXEC, and stays open until we end.
#[derive(Debug)]
pub struct Listener {
    /// Its name in LISTEN_FDNAMES.
    pub name: String,
    /// Where it listens, for people.
    pub address: String,
    /// The TCP port, if it has one.
    pub port: Option<u16>,
    /// The socket's inode, as /proc shows it.
    pub inode: u64,
    /// The socket.
    pub fd: OwnedFd,
    /// A socket file that we made and have to remove.
    file: Option<PathBuf>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            let _ = std::fs::remove_file(file);
        }
    }
}

/// Makes room for descriptors up to where ours begin. Once there are threads, growing the
/// table waits for an RCU grace period of several milliseconds.
pub fn make_room() {
    // Without it the start only takes longer.
    let _ = rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), FIRST_FD);
}

/// Takes the sockets that systemd passed (sd_listen_fds(3)); empty if it passed none.
///
/// To be called once, before any thread is started and any descriptor opened.
/// listenfd does not read LISTEN_FDNAMES, so the names are read here first.
///
/// # Errors
/// When a passed descriptor is not a listening stream socket.
pub fn inherit() -> Result<Vec<Listener>> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names: Vec<&str> = names.split(':').collect();
    let announced = std::env::var("LISTEN_FDS").ok();
    let for_us = match std::env::var("LISTEN_PID") {
        Ok(pid) => pid.parse() == Ok(std::process::id()),
        Err(_) => announced.is_none(),
    };
    let Some(announced) = announced.filter(|_| for_us) else {
        return Ok(Vec::new());
    };
    match announced.parse::<usize>() {
        Ok(count) if count <= MAX_SOCKETS => {}
        _ => bail!(
            "LISTEN_FDS={announced:?} is not a number of sockets (0 to {MAX_SOCKETS}); \
             it is set by systemd or by nobody"
        ),
    }
    let mut passed = ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..passed.len() {
        let name = names.get(index).copied().filter(|n| !n.is_empty());
        let name = name.unwrap_or("unknown");
        let fd = take(&mut passed, index)
            .with_context(|| format!("descriptor {} in LISTEN_FDS (\"{name}\")", 3 + index))?;
        listeners.push(Listener::new(name.to_owned(), fd, None)?);
    }
    Ok(listeners)
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
        bail!("the socket does not listen: Accept=yes in the socket unit is not supported");
    }
    Ok(fd)
}

/// Binds the sockets that a configuration asks for. A stale socket file is replaced.
///
/// # Errors
/// When one cannot be bound; the message says which and, for a port in use, what to do.
pub fn open(wanted: &[Listen]) -> Result<Vec<Listener>> {
    wanted.iter().map(open_one).collect()
}

fn open_one(wanted: &Listen) -> Result<Listener> {
    let (fd, file) = match &wanted.address {
        ListenAddress::Tcp(address) => (open_tcp(*address)?, None),
        ListenAddress::Port(port) => {
            let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port));
            let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port));
            match socket_for(AddressFamily::Inet6) {
                Ok(_) => (open_tcp(any)?, None),
                Err(_) => (open_tcp(v4)?, None),
            }
        }
        ListenAddress::Unix(path) => (open_unix(path)?, Some(path.clone())),
    };
    Listener::new(wanted.name.clone(), fd, file)
}

fn socket_for(family: AddressFamily) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(family, SockType::Stream, flags, None)
}

fn open_tcp(address: SocketAddr) -> Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let fd = socket_for(family).with_context(|| format!("cannot make a socket for {address}"))?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &false)?;
    }
    let storage = SockaddrStorage::from(address);
    bind(fd.as_raw_fd(), &storage)
        .and_then(|()| listen(&fd, Backlog::new(BACKLOG)?))
        .map_err(|error| bind_error(&address.to_string(), Some(address.port()), error))?;
    Ok(fd)
}

fn open_unix(path: &Path) -> Result<OwnedFd> {
    let shown = format!("unix:{}", path.display());
    let is_socket = |m: std::fs::Metadata| m.file_type().is_socket();
    if std::fs::symlink_metadata(path).is_ok_and(is_socket) {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            bail!("cannot listen on {shown}: somebody listens there already");
        }
        std::fs::remove_file(path).with_context(|| format!("cannot replace {shown}"))?;
    }
    let fd = socket_for(AddressFamily::Unix)?;
    let address = UnixAddr::new(path).with_context(|| format!("{shown} is too long"))?;
    bind(fd.as_raw_fd(), &address)
        .and_then(|()| listen(&fd, Backlog::new(BACKLOG)?))
        .map_err(|error| bind_error(&shown, None, error))?;
    Ok(fd)
}

fn bind_error(address: &str, port: Option<u16>, error: nix::Error) -> anyhow::Error {
    let hint = match (error, port) {
        (nix::Error::EADDRINUSE, Some(port)) => format!(
            "\n  hint: see who has it with `ss -ltnp 'sport = :{port}'`, or listen on another address"
        ),
        (nix::Error::EACCES, Some(port)) if port < 1024 => format!(
            "\n  hint: ports below 1024 need root; under systemd the socket unit opens port {port} for you"
        ),
        (nix::Error::EADDRNOTAVAIL, _) => {
            "\n  hint: this machine has no such address, `ip address` lists those it has".to_owned()
        }
        (nix::Error::ENOENT, None) => {
            "\n  hint: the directory of the socket file has to be there".to_owned()
        }
        _ => String::new(),
    };
    anyhow::anyhow!("cannot listen on {address}: {}{hint}", error.desc())
}

impl Listener {
    fn new(name: String, fd: OwnedFd, file: Option<PathBuf>) -> Result<Listener> {
        let fd = rustix::io::fcntl_dupfd_cloexec(&fd, FIRST_FD)
            .context("no descriptor left (raise LimitNOFILE=)")?;
        let (address, port) = describe(&fd);
        let inode = nix::sys::stat::fstat(&fd)?.st_ino;
        Ok(Listener {
            name,
            address,
            port,
            inode,
            fd,
            file,
        })
    }

    /// Sets or clears O_NONBLOCK, which all holders of the socket share.
    pub fn set_blocking(&self, blocking: bool) -> Result<()> {
        let mut flags = OFlag::from_bits_retain(fcntl(&self.fd, FcntlArg::F_GETFL)?);
        flags.set(OFlag::O_NONBLOCK, !blocking);
        fcntl(&self.fd, FcntlArg::F_SETFL(flags))?;
        Ok(())
    }

    /// Connections that wait to be accepted (the accept queue), where the kernel tells.
    pub fn waiting(&self) -> Option<u32> {
        // For a listening socket `tcpi_unacked` is the length of its queue (tcp(7)).
        self.port?;
        Some(getsockopt(&self.fd, TcpInfo).ok()?.tcpi_unacked)
    }

    /// Whether it has been shut down, so that nothing can connect.
    pub fn is_shut_down(&self) -> bool {
        let mut polled = [PollFd::new(&self.fd, PollFlags::empty())];
        let now = Timespec::default();
        let _ = poll(&mut polled, Some(&now));
        polled[0].revents().contains(PollFlags::HUP)
    }

    /// Makes a socket listen again that a worker has shut down (shutdown(2) on a
    /// listening socket works on it for every holder), and undoes the smaller backlog
    /// that a worker's own listen(2) may have set.
    pub fn listen_again(&self) -> Result<()> {
        Ok(listen(&self.fd, Backlog::new(BACKLOG)?)?)
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
