// SPDX-License-Identifier: MIT OR Apache-2.0
//! The app with several sockets to its listener, as the tests of `even` and
//! `sticky` see it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;

use crate::harness::TestBox;
use crate::load::crowd::{Crowd, NETWORK_V6, addresses_v4, addresses_v6};
use crate::load::{Load, Report};
use crate::service::{CONFIG, LONG, SERVICE, SOCKET, clients, long, status};

/// The part of a configuration that is about sockets: port 3000 of all
/// addresses, with so many lines.
pub fn on(balance: &str, lines: usize) -> String {
    format!("listen = [\"3000\"]\nbalance = \"{balance}\"\nmax_workers = {lines}\n")
}

/// Writes the configuration and opens the sockets; the service waits for the
/// first connection.
#[track_caller]
pub fn open(b: &TestBox, config: &str) {
    b.write(CONFIG, config);
    let script = format!("systemctl daemon-reload; systemctl stop {SERVICE} {SOCKET}");
    long(b, &format!("{script}; systemctl start {SOCKET}")).ok();
}

/// [`open`], and waits until the service is ready.
#[track_caller]
pub fn start(b: &TestBox, config: &str) {
    open(b, config);
    long(b, &format!("systemctl start {SERVICE}")).ok();
}

/// Connections that wait in each line, by position.
#[track_caller]
pub fn queues(b: &TestBox) -> Vec<u64> {
    queues_in(&status(b))
}

#[track_caller]
pub fn queues_in(status: &Value) -> Vec<u64> {
    let queues = status["listeners"][0]["queues"].as_array();
    let queues = queues.unwrap_or_else(|| panic!("no queues: {status:#}"));
    let number = |queue: &Value| queue.as_u64().expect("a length");
    queues.iter().map(number).collect()
}

/// Connections that wait in each socket of port 3000, as the kernel tells it.
#[track_caller]
pub fn waiting(b: &TestBox) -> Vec<u64> {
    let lines = b.sh("ss -Hltn 'sport = :3000'").ok();
    let waiting = |line: &str| line.split_whitespace().nth(1).and_then(|n| n.parse().ok());
    lines.lines().map(|l| waiting(l).expect("Recv-Q")).collect()
}

/// Clients at 127.0.0.1.
pub fn crowd(b: &TestBox) -> Crowd {
    Crowd::new(clients(b))
}

/// Clients at both loopback addresses, with many addresses of their own.
pub struct Town {
    v4: (Crowd, Vec<IpAddr>),
    v6: (Crowd, Vec<IpAddr>),
}

/// Which slot serves whom.
pub type Map = BTreeMap<IpAddr, u64>;

impl Town {
    /// So many clients of each kind of address, which begin to exist.
    #[track_caller]
    pub fn new(b: &TestBox, clients_each: u16, port: u16) -> Town {
        b.sh(&format!(
            "ip -6 route replace local {NETWORK_V6} dev lo
             echo 1 >/proc/sys/net/ipv6/ip_nonlocal_bind"
        ))
        .ok();
        let at = |address: IpAddr| {
            let mut spec = clients(b);
            spec.target = crate::load::Target::Tcp(SocketAddr::new(address, port));
            Crowd::new(spec)
        };
        Town {
            v4: (
                at(Ipv4Addr::LOCALHOST.into()),
                addresses_v4(clients_each.into()),
            ),
            v6: (at(Ipv6Addr::LOCALHOST.into()), addresses_v6(clients_each)),
        }
    }

    /// Each makes a request on a new connection.
    #[track_caller]
    pub fn map(&self) -> Map {
        let mut map = Map::new();
        for (crowd, addresses) in [&self.v4, &self.v6] {
            map.extend(crowd.ask(addresses).expect("an answer for each"));
        }
        map
    }
}

/// Clients whose slot is another one now.
pub fn moved(before: &Map, now: &Map) -> Vec<(IpAddr, u64, u64)> {
    assert!(before.keys().eq(now.keys()), "other clients");
    let pairs = before
        .iter()
        .map(|(address, slot)| (*address, *slot, now[address]));
    pairs.filter(|(_, before, now)| before != now).collect()
}

/// How many clients each slot has.
pub fn by_slot(map: &Map) -> BTreeMap<u64, u64> {
    let mut counts = BTreeMap::new();
    for slot in map.values() {
        *counts.entry(*slot).or_default() += 1;
    }
    counts
}

/// Ends a load of which only requests may have failed that a worker had when it
/// was killed: at most `most`, and nobody was refused or left waiting.
#[track_caller]
pub fn only_accepted_ones_failed(load: Load, most: u64) -> Report {
    let report = load.stop();
    crate::app::only_accepted_ones_failed(&report, most);
    for kind in report.kinds.values() {
        assert!(kind.ok > 0, "{report}");
        // Answered at once or moved at once; not found after a while.
        assert!(kind.slowest < Duration::from_secs(20), "{report}");
    }
    report
}

/// Kills the worker of a slot and waits until there is another one.
#[track_caller]
pub fn crash(b: &TestBox, slot: usize) {
    let before = crate::service::pids(b);
    b.run(&["kill", "-KILL", &before[slot].to_string()]).ok();
    b.wait_for("another worker in the slot", LONG, || {
        let now = crate::app::pids(b);
        now.len() == before.len() && now[slot] != 0 && now[slot] != before[slot]
    });
}
