// SPDX-License-Identifier: MIT OR Apache-2.0
//! The I/O of the worker: one thread, one epoll, sleeping until something happens.
//!
//! - Listening sockets are shared with other processes. They are watched level-triggered and without
//!   EPOLLEXCLUSIVE: a wake-up given to a worker that dies must not be lost to the others.
//! - An epoll registration belongs to the open file description (epoll(7), Q6), which outlives our
//!   descriptor as long as any process holds the socket: remove it before closing. Never
//!   `shutdown()`: that would end listening for all holders.
//! - Each connection has at most one entry in the set of deadlines. It may fire early (the deadline
//!   moved on as bytes came); then it is set again.

use super::conn::{Conn, Context, Next};
use super::site::Site;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown, SocketFlags};
use std::collections::{BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Connections accepted at one wake-up; the rest is left to the other workers.
const ACCEPTS: usize = 4;
/// A listener that fails (no descriptors left, socket broken by another holder) rests this long.
const REST: Duration = Duration::from_millis(200);
const READ_SIZE: usize = 16 * 1024;
const SIGNALS: u64 = 0;

/// A listening socket shared with other processes. Owns its descriptor, never shuts it down.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    tcp: bool,
    resting: Option<Instant>,
}

impl Listener {
    /// `fd` must be listening and O_NONBLOCK; `tcp` tells whether it is not a unix socket.
    pub fn new(fd: OwnedFd, tcp: bool) -> Listener {
        Listener {
            fd,
            tcp,
            resting: None,
        }
    }
}

#[derive(Debug)]
struct Entry {
    fd: OwnedFd,
    conn: Conn,
    /// None: not in the epoll set yet. Many short connections never get there.
    interest: Option<EpollFlags>,
    scheduled: Option<Instant>,
}

/// The worker. Tokens in epoll: 0 signals, 1..=L listeners, above that connections, never reused.
#[derive(Debug)]
pub struct Server {
    epoll: Epoll,
    signals: SignalFd,
    listeners: Vec<Listener>,
    first_conn: u64,
    next_token: u64,
    conns: HashMap<u64, Entry>,
    deadlines: BTreeSet<(Instant, u64)>,
    site: Site,
    draining: Option<Instant>,
    buffer: Box<[u8]>,
}

impl Server {
    /// Starts to watch. `signals` must be blocked in the process and begin the drain.
    ///
    /// # Errors
    ///
    /// epoll_create1(2), epoll_ctl(2) and signalfd(2).
    pub fn new(site: Site, listeners: Vec<Listener>, signals: &SigSet) -> nix::Result<Server> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(signals, flags)?;
        epoll.add(&signals, EpollEvent::new(EpollFlags::EPOLLIN, SIGNALS))?;
        for (listener, token) in listeners.iter().zip(1..) {
            epoll.add(&listener.fd, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        }
        let first_conn = listeners.len() as u64 + 1;
        Ok(Server {
            epoll,
            signals,
            listeners,
            first_conn,
            next_token: first_conn,
            conns: HashMap::new(),
            deadlines: BTreeSet::new(),
            site,
            draining: None,
            buffer: vec![0; READ_SIZE].into_boxed_slice(),
        })
    }

    /// Serves until the drain is over.
    ///
    /// # Errors
    ///
    /// epoll_wait(2) and epoll_ctl(2); nothing a client does ends the loop.
    pub fn run(&mut self) -> nix::Result<()> {
        let mut events = [EpollEvent::empty(); 256];
        while self.draining.is_none() || !self.conns.is_empty() {
            let n = match self.epoll.wait(&mut events, self.timeout()) {
                Err(nix::errno::Errno::EINTR) => continue,
                result => result?,
            };
            let now = Instant::now();
            for event in &events[..n] {
                match event.data() {
                    SIGNALS => self.on_signal(now)?,
                    token if token < self.first_conn => self.on_listener(token, now)?,
                    token => self.on_conn(token, event.events(), now),
                }
            }
            self.on_deadlines(now)?;
        }
        Ok(())
    }

    fn timeout(&self) -> EpollTimeout {
        let Some((deadline, _)) = self.deadlines.first() else {
            return EpollTimeout::NONE;
        };
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up, lest the last part of a millisecond be a busy loop.
        let ms = left.as_micros().div_ceil(1000);
        EpollTimeout::try_from(ms).unwrap_or(EpollTimeout::MAX)
    }

    fn on_signal(&mut self, now: Instant) -> nix::Result<()> {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        if self.draining.is_some() {
            return Ok(());
        }
        self.draining = Some(now);
        for (listener, token) in std::mem::take(&mut self.listeners).iter().zip(1..) {
            if let Some(until) = listener.resting {
                self.deadlines.remove(&(until, token));
            } else {
                self.epoll.delete(&listener.fd)?;
            }
        }
        super::notify(sd_notify::NotifyState::Stopping);
        let tokens: Vec<u64> = self.conns.keys().copied().collect();
        for token in tokens {
            self.schedule(token);
        }
        Ok(())
    }

    fn on_listener(&mut self, token: u64, now: Instant) -> nix::Result<()> {
        for _ in 0..ACCEPTS {
            // None once the drain has begun, in this very turn perhaps.
            let Some(listener) = self.listeners.get_mut(token as usize - 1) else {
                return Ok(());
            };
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            match rustix::net::accept_with(&listener.fd, flags) {
                Ok(fd) => {
                    if listener.tcp {
                        // Pipelined answers must not wait for the client's delayed ACK.
                        let _ = rustix::net::sockopt::set_tcp_nodelay(&fd, true);
                    }
                    let conn = Conn::new(now);
                    let token = self.next_token;
                    self.next_token += 1;
                    self.conns.insert(
                        token,
                        Entry {
                            fd,
                            conn,
                            interest: None,
                            scheduled: None,
                        },
                    );
                    // The request is often there already.
                    self.on_conn(token, EpollFlags::EPOLLIN, now);
                }
                Err(Errno::AGAIN) => return Ok(()),
                // The client has gone, or its network has (accept(2), "Error handling").
                Err(error) if is_of_one_connection(error) => {}
                Err(_) => {
                    self.epoll.delete(&listener.fd)?;
                    let until = now + REST;
                    listener.resting = Some(until);
                    self.deadlines.insert((until, token));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn on_conn(&mut self, token: u64, events: EpollFlags, now: Instant) {
        let ctx = Context {
            site: &self.site,
            now,
            draining: self.draining,
        };
        let Some(entry) = self.conns.get_mut(&token) else {
            return;
        };
        let gone = events.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
        let alive = match entry.conn.next() {
            Next::Read => entry.read(&mut self.buffer, ctx) && entry.write(ctx),
            Next::Wait => !gone,
            _ => entry.write(ctx),
        };
        self.settle(token, alive);
    }

    /// Registers for what the connection waits for now, or forgets it.
    fn settle(&mut self, token: u64, alive: bool) {
        let Some(entry) = self.conns.get_mut(&token) else {
            return;
        };
        let wanted = match entry.conn.next() {
            Next::Read => EpollFlags::EPOLLIN,
            Next::Write => EpollFlags::EPOLLOUT,
            _ => EpollFlags::empty(),
        };
        if !alive || entry.conn.next() == Next::Close {
            // Nobody else holds this socket: closing it removes it from the epoll set.
            return self.forget(token);
        }
        let mut event = EpollEvent::new(wanted, token);
        let watched = match entry.interest.replace(wanted) {
            None => self.epoll.add(&entry.fd, event),
            Some(current) if current != wanted => self.epoll.modify(&entry.fd, &mut event),
            Some(_) => Ok(()),
        };
        match watched {
            Ok(()) => self.schedule(token),
            // No memory, or too many watches: it costs this connection, not the worker.
            Err(_) => self.forget(token),
        }
    }

    fn forget(&mut self, token: u64) {
        if let Some(at) = self.conns.remove(&token).and_then(|entry| entry.scheduled) {
            self.deadlines.remove(&(at, token));
        }
    }

    /// Sees to it that the loop wakes no later than the connection's deadline.
    fn schedule(&mut self, token: u64) {
        if let Some(entry) = self.conns.get_mut(&token) {
            let at = entry.conn.deadline(self.draining);
            match entry.scheduled {
                Some(earlier) if earlier <= at => return,
                Some(later) => drop(self.deadlines.remove(&(later, token))),
                None => {}
            }
            entry.scheduled = Some(at);
            self.deadlines.insert((at, token));
        }
    }

    fn on_deadlines(&mut self, now: Instant) -> nix::Result<()> {
        while let Some(&(at, token)) = self.deadlines.first().filter(|(at, _)| *at <= now) {
            self.deadlines.remove(&(at, token));
            if token < self.first_conn {
                if let Some(listener) = self.listeners.get_mut(token as usize - 1) {
                    listener.resting = None;
                    let event = EpollEvent::new(EpollFlags::EPOLLIN, token);
                    self.epoll.add(&listener.fd, event)?;
                }
                continue;
            }
            let Some(entry) = self.conns.get_mut(&token) else {
                continue;
            };
            entry.scheduled = None;
            let ctx = Context {
                site: &self.site,
                now,
                draining: self.draining,
            };
            let mut alive = true;
            if entry.conn.is_idle() && entry.conn.deadline(self.draining) <= now {
                // A request may have come in since epoll looked.
                alive = entry.read(&mut self.buffer, ctx) && entry.write(ctx);
            }
            if alive && entry.conn.deadline(self.draining) <= now {
                entry.conn.expire(ctx);
                alive = entry.write(ctx);
            }
            self.settle(token, alive);
        }
        Ok(())
    }
}

impl Entry {
    /// Reads once; level-triggered epoll reports what is left. False: the connection is broken.
    fn read(&mut self, buffer: &mut [u8], ctx: Context<'_>) -> bool {
        match rustix::io::read(&self.fd, &mut *buffer) {
            Ok(0) => self.conn.end_of_input(),
            Ok(n) => self.conn.received(&buffer[..n], ctx),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => return false,
        }
        true
    }

    /// Writes until all is out or the client does not take more, and ends the connection when it
    /// is its time. False: the connection is broken.
    fn write(&mut self, ctx: Context<'_>) -> bool {
        loop {
            match self.conn.next() {
                Next::Write => {
                    match rustix::net::send(&self.fd, self.conn.output(), SendFlags::NOSIGNAL) {
                        Ok(n) => self.conn.was_sent(n, ctx),
                        Err(Errno::INTR) => {}
                        Err(Errno::AGAIN) => return true,
                        Err(_) => return false,
                    }
                }
                Next::ShutDown => {
                    if rustix::net::shutdown(&self.fd, Shutdown::Write).is_err() {
                        return false;
                    }
                    self.conn.was_shut_down(ctx);
                }
                Next::Read | Next::Wait | Next::Close => return true,
            }
        }
    }
}

fn is_of_one_connection(error: Errno) -> bool {
    [
        Errno::INTR,
        Errno::CONNABORTED,
        Errno::PROTO,
        Errno::PERM,
        Errno::NETDOWN,
        Errno::NOPROTOOPT,
        Errno::HOSTDOWN,
        Errno::NONET,
        Errno::HOSTUNREACH,
        Errno::NETUNREACH,
        Errno::TIMEDOUT,
    ]
    .contains(&error)
}
