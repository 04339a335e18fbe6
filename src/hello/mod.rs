// SPDX-License-Identifier: MIT OR Apache-2.0
//! `app-cluster hello`: the built-in HTTP worker, so that a fresh installation answers and so that
//! tests and benchmarks have a worker that loses nothing.
//!
//! A worker like any other: sockets by `LISTEN_FDS` (sd_listen_fds(3)), readiness and stopping by
//! `NOTIFY_SOCKET` (sd_notify(3)), SIGTERM, SIGINT or SIGQUIT to drain. Routes: `/`,
//! `/slow?ms=N`, `/health`. [`http`] parses, [`conn`] decides, [`server`] does the I/O.

pub mod conn;
mod head;
pub mod http;
pub mod server;
pub mod site;

use anyhow::{Context as _, bail};
use listenfd::ListenFd;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use server::{Listener, Server};
use site::Site;
use std::os::fd::OwnedFd;

/// Serves until a signal ends it and the last connection is gone.
///
/// Call it before any thread is started: it blocks signals and changes the environment.
///
/// # Errors
///
/// No listening stream socket was passed, or the kernel refused epoll, signalfd or a socket call.
pub fn run() -> anyhow::Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        signals.add(signal);
    }
    signals.thread_block().context("cannot block signals")?;
    let listeners = listeners_from_env()?;
    // One descriptor a connection: the default soft limit of 1024 is too low.
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    let mut server = Server::new(site_from_env(), listeners, &signals)
        .context("cannot watch the listening sockets")?;
    notify(sd_notify::NotifyState::Ready);
    server.run().context("the event loop failed")
}

/// Tells the supervisor. Serving matters more than being heard, so a failure is only printed.
fn notify(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        eprintln!("hello: cannot write to NOTIFY_SOCKET: {error}");
    }
}

fn site_from_env() -> Site {
    let number = |key| std::env::var(key).ok()?.parse().ok();
    let name = std::env::var("APP_CLUSTER_NAME").ok();
    Site::new(
        std::process::id(),
        number("APP_CLUSTER_SLOT"),
        number("APP_CLUSTER_GENERATION"),
        name.as_deref(),
    )
}

fn listeners_from_env() -> anyhow::Result<Vec<Listener>> {
    // listenfd removes the variables.
    let announced = std::env::var_os("LISTEN_FDS").is_some();
    let mut passed = ListenFd::from_env();
    if passed.len() == 0 && announced {
        bail!(
            "LISTEN_FDS is set but passes no socket to this process (LISTEN_PID must be {}); \
             use `app-cluster dev` or `app-cluster run` to start workers",
            std::process::id()
        );
    }
    if passed.len() == 0 {
        bail!(
            "no listening socket was passed (LISTEN_FDS is not set); \
             use `app-cluster dev -- app-cluster hello`, systemd or systemd-socket-activate"
        );
    }
    (0..passed.len())
        .map(|index| take(&mut passed, index))
        .collect()
}

fn take(passed: &mut ListenFd, index: usize) -> anyhow::Result<Listener> {
    let number = 3 + index;
    let (fd, tcp): (OwnedFd, bool) = match passed.take_tcp_listener(index) {
        Ok(Some(listener)) => (listener.into(), true),
        _ => match passed.take_unix_listener(index) {
            Ok(Some(listener)) => (listener.into(), false),
            _ => bail!("descriptor {number} is no TCP or unix stream socket; pass ListenStream="),
        },
    };
    if !rustix::net::sockopt::socket_acceptconn(&fd)? {
        bail!("descriptor {number} is a connection, not a listening socket; use Accept=no");
    }
    // The flag is shared by all holders: touch it only when it is wrong. A blocking accept would
    // hang the loop whenever another worker was quicker.
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    if !flags.contains(rustix::fs::OFlags::NONBLOCK) {
        rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?;
    }
    Ok(Listener::new(fd, tcp))
}
