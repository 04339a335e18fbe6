// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines that nobody accepts from: those beyond the number of workers, and those of slots
//! whose worker is gone for the time being.
//!
//! The program does not name them, but a connection can still get there: before a program
//! was attached, or when its handshake began while the line had a worker. Such connections
//! are handed on by the kernel: when a listening socket is shut down, the connections in
//! its queue move to another one of the group if `net.ipv4.tcp_migrate_req` is 1 (kernel 5.14,
//! ip-sysctl.rst). It then listens again at once, so that no connection is refused and
//! systemd never sees it shut down.
//!
//! The kernel numbers the lines by the order in which they began to listen, and one that
//! stops gives its number to the last: see `Steering::order`.

use super::super::listeners::Line;
use super::super::{Engine, Level, Record, now};
use super::{Place, program};
use crate::core::{SlotId, Time};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, connect, getsockname, socket,
};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

/// How long a connection waits in a line whose last worker is on its way out: that worker
/// may still accept it, and must not see the line shut down while it does.
pub const PATIENCE: Duration = Duration::from_millis(200);
/// When those are asked again who could not take all.
const SOON: Duration = Duration::from_millis(10);
/// After which time whoever was handed a connection should have noticed.
pub const NOTICE: Duration = Duration::from_millis(50);

/// Whether connections move from a socket that is shut down to another one.
pub fn migrates() -> bool {
    let set = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_migrate_req");
    set.is_ok_and(|text| text.trim() == "1")
}

impl Engine {
    /// Looks after the lines that connections are not to go to, and returns which these are.
    pub(super) fn tend_spares(&mut self, listener: usize, places: &[Place]) -> Vec<usize> {
        let spares = self.spares(listener, places);
        if self.speaks_node() {
            self.forward(listener, &spares, places);
            return spares;
        }
        if self.steering.watched {
            return spares;
        }
        let lines = &self.listeners[listener].lines;
        if places.iter().all(|place| lines[place.line].is_shut_down()) {
            // Shut down just now: they could go nowhere. That is mended first.
            let keys = spares.iter().map(|line| ((listener, *line), now()));
            self.steering.waiting_since.extend(keys);
            return spares;
        }
        // Once a turn: what comes meanwhile is reported again, after all that has to be mended.
        let ripe = self.ripe(listener, &spares);
        if ripe.is_empty() {
            return spares;
        }
        let queued = |n: &usize| self.listeners[listener].lines[*n].waiting().unwrap_or(0);
        let waited = ripe.iter().map(queued).sum::<u32>();
        if let Err(error) = self.hand_on(listener, &spares, &ripe) {
            let keys = ripe.iter().map(|line| ((listener, *line), now()));
            self.steering.waiting_since.extend(keys);
            if !std::mem::replace(&mut self.steering.complained.1, true) {
                self.warn(format!("cannot hand connections on: {error}"));
            }
        }
        if waited > 0 {
            self.tell_handed_on(listener, waited);
            if migrates() {
                self.steering.nudge = Some(now() + NOTICE);
            }
        }
        spares
    }

    /// Node workers are handed what waits in spare lines one by one.
    fn forward(&mut self, listener: usize, spares: &[usize], places: &[Place]) {
        if !places.iter().any(|place| place.worker.is_some()) {
            return; // It waits for the first to come.
        }
        for line in self.ripe(listener, spares) {
            let all = self.deal_from(listener, line);
            if !all || self.listeners[listener].lines[line].waiting() > Some(0) {
                // The rest very soon, not after the whole wait.
                let soon = now() + SOON;
                let since = Time(soon.0.saturating_sub(PATIENCE.as_micros() as u64));
                self.steering.waiting_since.insert((listener, line), since);
            } else {
                self.steering.waiting_since.remove(&(listener, line));
            }
        }
    }

    fn tell_handed_on(&mut self, listener: usize, waited: u32) {
        let name = &self.listeners[listener].name;
        let text = match migrates() {
            true => format!(
                "listener {name}: {waited} connection(s) waited in sockets without a worker; \
                 handed on to others"
            ),
            false => format!(
                "listener {name}: {waited} connection(s) waited in sockets without a worker and \
                 were reset: with `sysctl net.ipv4.tcp_migrate_req=1` they would be handed on"
            ),
        };
        let level = if migrates() {
            Level::Info
        } else {
            Level::Warning
        };
        self.log(Record::plain(level, text));
    }

    /// The lines that are nobody's: not to be chosen, and no worker that starts or serves has
    /// them.
    fn spares(&mut self, listener: usize, places: &[Place]) -> Vec<usize> {
        let live = |id| self.core.worker(id).is_some_and(|w| w.state.is_live());
        // Better wait for the next worker than be reset.
        let handed = self.speaks_node();
        let awaited: Vec<usize> = match handed || migrates() {
            true => Vec::new(),
            false => self.awaited(listener),
        };
        let kept = |line: usize| {
            let mut held = self.held.iter();
            let has = |held: &super::super::Held| held.lines.get(listener) == Some(&Some(line));
            places.iter().any(|p| p.line == line)
                || awaited.contains(&line)
                || !handed && held.any(|(id, h)| has(h) && live(*id))
        };
        let count = self.listeners[listener].lines.len();
        let spares: Vec<usize> = (0..count).filter(|line| !kept(*line)).collect();
        let waiting = &mut self.steering.waiting_since;
        waiting.retain(|(l, line), _| *l != listener || spares.contains(line));
        spares
    }

    /// The lines of the slots that should have a worker.
    fn awaited(&self, listener: usize) -> Vec<usize> {
        let spread = self.spread();
        let slots = (0..self.core.desired_workers().0).map(SlotId);
        slots
            .filter_map(|slot| self.listeners[listener].line_of(slot, spread))
            .collect()
    }

    /// The spare lines whose connections are to be handed on now. Of the others it is noted
    /// since when connections wait there.
    fn ripe(&mut self, listener: usize, spares: &[usize]) -> Vec<usize> {
        let now = now();
        let mut ripe = Vec::new();
        for line in spares {
            let key = (listener, *line);
            if self.listeners[listener].lines[*line].waiting().unwrap_or(0) == 0 {
                self.steering.waiting_since.remove(&key);
                continue;
            }
            let since = *self.steering.waiting_since.entry(key).or_insert(now);
            if since + PATIENCE <= now || !self.is_held(listener, *line) {
                ripe.push(*line);
            }
        }
        ripe
    }

    /// Whether a worker has the line, be it one that is leaving.
    pub(super) fn is_held(&self, listener: usize, line: usize) -> bool {
        let mut held = self.held.values();
        held.any(|held| held.lines.get(listener) == Some(&Some(line)))
    }

    /// Empties the queues of the `ripe` ones among the `spares`, together with all that no
    /// process has: where a connection goes depends on it and on how many lines listen, so
    /// that one by one it could move from one spare line to the next for ever.
    fn hand_on(&mut self, listener: usize, spares: &[usize], ripe: &[usize]) -> io::Result<()> {
        let together = |line: &&usize| ripe.contains(line) || !self.is_held(listener, **line);
        let lines: Vec<usize> = spares.iter().filter(together).copied().collect();
        if let Some(last) = lines.last().filter(|_| lines.len() > 1) {
            // A trial: a line that could not listen again would be lost.
            self.stop_and_listen(listener, &[*last])?;
        }
        self.stop_and_listen(listener, &lines)?;
        for line in ripe {
            self.steering.waiting_since.remove(&(listener, *line));
        }
        Ok(())
    }

    /// Before Linux 6.19 and its stable updates the kernel wakes nobody for a connection that
    /// it has moved ("tcp: call sk_data_ready() after listener migration"): a worker that had
    /// nothing to do would leave it waiting. A connection of our own wakes it.
    pub(super) fn nudge_sleepers(&mut self) {
        if self.steering.nudge.is_none_or(|at| at > now()) {
            return;
        }
        self.steering.nudge = None;
        let spread = self.spread();
        for listener in 0..self.listeners.len() {
            if !self.listeners[listener].is_steered() {
                continue;
            }
            for place in self.places(listener, spread) {
                let line = &self.listeners[listener].lines[place.line];
                let address = local_address(line);
                let order = &self.steering.order[listener];
                let number = order.iter().position(|l| *l == place.line).unwrap_or(0) as u32;
                if place.worker.is_none() || line.waiting().unwrap_or(0) == 0 {
                    continue;
                }
                self.attach(listener, program::always(number));
                if let Some(Err(error)) = address.map(knock) {
                    self.warn(format!("cannot wake a worker: {error}"));
                }
            }
        }
    }
}

/// Where we can connect to a line ourselves.
fn local_address(line: &Line) -> Option<SocketAddr> {
    let name = getsockname::<SockaddrStorage>(line.fd.as_raw_fd()).ok()?;
    let v4 = name.as_sockaddr_in().map(|a| SocketAddr::from(*a));
    let v6 = name.as_sockaddr_in6().map(|a| SocketAddr::from(*a));
    let mut address = v4.or(v6)?;
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    Some(address)
}

/// Connects and hangs up, without waiting: on this machine the handshake is over when
/// connect(2) returns.
fn knock(address: SocketAddr) -> io::Result<()> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd: OwnedFd = socket(family, SockType::Stream, flags, None)?;
    match connect(fd.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) | Err(nix::Error::EINPROGRESS) => Ok(()),
        // No IPv6 on this machine's loopback; the socket takes IPv4 too.
        Err(nix::Error::EADDRNOTAVAIL) if address.ip() == Ipv6Addr::LOCALHOST => {
            knock(SocketAddr::from((Ipv4Addr::LOCALHOST, address.port())))
        }
        Err(error) => Err(error.into()),
    }
}
