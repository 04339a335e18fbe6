// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many clients that make few requests: who is served by which slot, and how evenly.

use super::client::{Answer, Client};
use super::{Kind, LoadSpec, enter_netns};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

/// So many addresses all over 127.0.0.0/8, always the same ones.
pub fn addresses_v4(count: u32) -> Vec<IpAddr> {
    // An odd factor: no address comes twice.
    let address = |n: u32| [(n * 37 + 5) as u8, (n / 7) as u8, (1 + n % 250) as u8];
    let addresses = (0..count).map(address);
    addresses
        .map(|[a, b, c]| Ipv4Addr::new(127, a, b, c).into())
        .collect()
}

/// The network of [`addresses_v6`].
pub const NETWORK_V6: &str = "fd5a:17c3:88b1::/48";

/// An address in each of so many /64 networks, always the same ones. For them to exist
/// `ip -6 route add local fd5a:17c3:88b1::/48 dev lo` and net.ipv6.ip_nonlocal_bind=1.
pub fn addresses_v6(count: u16) -> Vec<IpAddr> {
    let address = |n: u16| {
        let host = n.wrapping_mul(40_503) | 1;
        Ipv6Addr::new(0xfd5a, 0x17c3, 0x88b1, n, host, 0, 0, host).into()
    };
    (0..count).map(address).collect()
}

/// Largest over mean of so many workers' shares; those with none are not in `counts`.
pub fn spread(counts: &BTreeMap<u64, u64>, workers: usize) -> f64 {
    let largest = counts.values().max().copied().unwrap_or(0);
    let mean = counts.values().sum::<u64>() as f64 / workers as f64;
    largest as f64 / mean
}

/// What became of requests: the slot that answered by position, or how it was lost.
pub type Asked = Vec<Result<u64, String>>;

/// Clients at some place. All that it does is done one after the other.
#[derive(Debug, Clone)]
pub struct Crowd {
    spec: LoadSpec,
}

impl Crowd {
    /// Clients of this target, in this network.
    pub fn new(spec: LoadSpec) -> Crowd {
        Crowd { spec }
    }

    /// One request on a new connection from each address: who answered whom.
    ///
    /// # Errors
    ///
    /// One was lost; or the network cannot be entered.
    pub fn ask(&self, addresses: &[IpAddr]) -> io::Result<BTreeMap<IpAddr, u64>> {
        self.there(|| {
            let ask = |address: &IpAddr| {
                let mut client = self.client(Kind::NewConnection, Some(*address));
                let slot = slot(client.request());
                let slot = slot.map_err(|text| io::Error::other(format!("{address}: {text}")))?;
                Ok((*address, slot))
            };
            addresses.iter().map(ask).collect()
        })
    }

    /// Opens so many connections, this far apart, makes a request on each and keeps them.
    ///
    /// # Errors
    ///
    /// One was lost; or the network cannot be entered.
    pub fn hold(&self, count: usize, apart: Duration) -> io::Result<Held> {
        self.there(|| {
            let mut held = Held {
                clients: Vec::new(),
                slots: Vec::new(),
            };
            for _ in 0..count {
                let mut client = self.client(Kind::KeepAlive, None);
                held.slots
                    .push(slot(client.request()).map_err(io::Error::other)?);
                held.clients.push(client);
                std::thread::sleep(apart);
            }
            Ok(held)
        })
    }

    /// One more request on each; those whose connection was to be closed are connected anew.
    ///
    /// # Errors
    ///
    /// The network cannot be entered.
    pub fn ask_again(&self, held: &mut Held) -> io::Result<Asked> {
        self.there(|| {
            let clients = held.clients.iter_mut();
            Ok(clients.map(|client| slot(client.request())).collect())
        })
    }

    /// Runs `work` on a thread in the clients' network.
    pub fn there<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                enter_netns(self.spec.netns)?;
                work()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn client(&self, kind: Kind, source: Option<IpAddr>) -> Client<'static> {
        let mut spec = self.spec.clone();
        spec.source = source.or(spec.source);
        // Distinct, as far as possible, among all clients of this process.
        static SEED: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1000);
        let seed = SEED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Client::new(Arc::new(spec), kind, seed, &|| false)
    }
}

/// Connections that are kept open.
pub struct Held {
    clients: Vec<Client<'static>>,
    /// Who answered the first request of each.
    slots: Vec<u64>,
}

impl Held {
    /// How many connections each slot has got.
    pub fn by_slot(&self) -> BTreeMap<u64, u64> {
        let mut counts = BTreeMap::new();
        for slot in &self.slots {
            *counts.entry(*slot).or_default() += 1;
        }
        counts
    }

    /// How many connections were opened for them in all.
    pub fn connections(&self) -> u64 {
        self.clients.iter().map(Client::connections).sum()
    }
}

fn slot(answer: Result<Answer, String>) -> Result<u64, String> {
    answer?
        .slot
        .ok_or_else(|| "no slot in the answer".to_owned())
}
