// SPDX-License-Identifier: MIT OR Apache-2.0
//! Binding listening sockets by ourselves, where systemd passed none.

use super::listeners::{Line, Listener, listen_on};
use crate::config::{Config, ListenAddress};
use anyhow::{Context, Result, bail};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, UnixAddr, bind, getsockname, setsockopt,
    socket, sockopt,
};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// An address that cannot be had.
#[derive(Debug)]
pub(super) struct BindError {
    /// What the system said.
    pub(super) errno: nix::Error,
    text: String,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for BindError {}

/// Binds the sockets that a configuration asks for: as many for each listener as
/// [`Config::lines`] says, and one for each slot of `slot_listen`. A stale socket file is
/// replaced.
///
/// # Errors
/// When one cannot be bound; the message says which and, for a port in use, what to do.
pub fn open(config: &Config) -> Result<Vec<Listener>> {
    let mut all = Vec::new();
    for wanted in &config.listen {
        let lines = config.lines(&wanted.address);
        all.push(Listener::new(
            &wanted.name,
            open_lines(&wanted.address, lines)?,
        )?);
    }
    if let Some(template) = &config.slot_listen {
        let slots = 0..config.slots_with_address();
        let lines: Result<Vec<Vec<Line>>> = slots
            .map(|slot| open_lines(&template.address(slot), 1))
            .collect();
        all.push(Listener::per_slot(lines?.into_iter().flatten().collect())?);
    }
    Ok(all)
}

/// `count` sockets on one address, in the order in which they listen.
pub(super) fn open_lines(address: &ListenAddress, count: u32) -> Result<Vec<Line>> {
    let mut address = match address {
        ListenAddress::Unix(path) => {
            return Ok(vec![Line::new(open_unix(path)?, Some(path.clone()))?]);
        }
        ListenAddress::Tcp(address) => *address,
        ListenAddress::Port(port) => match socket_for(AddressFamily::Inet6) {
            Ok(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port)),
            Err(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port)),
        },
    };
    if count > 1 || address.port() == 0 {
        // With SO_REUSEPORT we would share the port with another program of this user. And
        // the kernel takes a port that it chose away from a socket that is shut down.
        let trial = open_tcp(address, false, false)?;
        let bound = getsockname::<SockaddrStorage>(trial.as_raw_fd())?;
        let v4 = bound.as_sockaddr_in().map(|a| a.port());
        let port = v4.or(bound.as_sockaddr_in6().map(|a| a.port()));
        address.set_port(port.unwrap_or(address.port()));
    }
    (0..count)
        .map(|_| Line::new(open_tcp(address, count > 1, false)?, None))
        .collect()
}

/// One socket on `address`; of an IPv6 one, for IPv6 alone if `only_v6`.
///
/// # Errors
/// It cannot be bound.
pub(super) fn open_one(address: &ListenAddress, only_v6: bool) -> Result<Line> {
    match address {
        ListenAddress::Tcp(address) => Line::new(open_tcp(*address, false, only_v6)?, None),
        other => {
            let line = open_lines(other, 1)?.pop();
            line.context("no socket")
        }
    }
}

fn socket_for(family: AddressFamily) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(family, SockType::Stream, flags, None)
}

fn open_tcp(address: SocketAddr, one_of_several: bool, only_v6: bool) -> Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let fd = socket_for(family).with_context(|| format!("cannot make a socket for {address}"))?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if one_of_several {
        setsockopt(&fd, sockopt::ReusePort, &true)?;
    }
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &only_v6)?;
    }
    let storage = SockaddrStorage::from(address);
    bind(fd.as_raw_fd(), &storage)
        .and_then(|()| listen_on(&fd))
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
        .and_then(|()| listen_on(&fd))
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
    anyhow::Error::new(BindError {
        errno: error,
        text: format!("cannot listen on {address}: {}{hint}", error.desc()),
    })
}
