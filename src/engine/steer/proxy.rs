// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sticky`: whether nearly all connections come from one address, a proxy's. Then they all
//! go to one slot, and the operator is told what to do.

use super::super::{Engine, now};
use crate::core::Time;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

/// How often it is looked where connections come from, at the most.
const PAUSE: Duration = Duration::from_secs(60);
/// Lines of /proc/net/tcp that are read.
const CONNECTIONS: usize = 100_000;
/// So many connections say something.
const ENOUGH: usize = 20;

type Clients = BTreeMap<String, usize>;

/// What is known about who makes the connections.
#[derive(Default)]
pub struct Proxy {
    looked: Option<Time>,
    /// The table of connections can be long, so it is read by a thread.
    coming: Option<Receiver<Clients>>,
    /// The fewest descriptors that the workers had open: about those that are no connections.
    fewest: Option<u64>,
    found: bool,
}

impl Proxy {
    /// Whether it is worth while to look.
    pub fn wants_to_look(&self, now: Time) -> bool {
        !self.found && self.looked.is_none_or(|at| at + PAUSE <= now)
    }
}

impl Engine {
    /// Looks, where the workers have so many descriptors `open` that it may be worth while.
    /// Returns whether to come again soon.
    pub(super) fn look_for_a_proxy(&mut self, open: u64) -> bool {
        if !self.steering.proxy.wants_to_look(now()) {
            return false;
        }
        let proxy = &mut self.steering.proxy;
        let fewest = proxy.fewest.map_or(open, |fewest| fewest.min(open));
        proxy.fewest = Some(fewest);
        match proxy.coming.as_ref().map(Receiver::try_recv) {
            Some(Err(TryRecvError::Empty)) => true,
            Some(Ok(clients)) => {
                self.steering.proxy.coming = None;
                self.judge(&clients);
                true
            }
            Some(Err(TryRecvError::Disconnected)) => {
                proxy.coming = None;
                false
            }
            None => {
                if open - fewest >= ENOUGH as u64 {
                    let ports = self.listeners.iter().filter_map(|l| l.port).collect();
                    self.steering.proxy.coming = read(ports);
                }
                true
            }
        }
    }

    fn judge(&mut self, clients: &Clients) {
        let total: usize = clients.values().sum();
        if total < ENOUGH {
            return;
        }
        self.steering.proxy.looked = Some(now());
        let most = clients.iter().max_by_key(|(_, count)| **count);
        if let Some((client, count)) = most.filter(|(_, count)| **count * 10 >= total * 8) {
            self.steering.proxy.found = true;
            self.warn(format!(
                "balance = \"sticky\": {count} of {total} connections come from {client}, and so \
                 go to one slot. If that is a proxy, give each slot an address of its own \
                 (slot_listen) and let the proxy choose: see \
                 /usr/share/doc/app-cluster/behind-a-proxy.md"
            ));
        }
    }
}

/// Has the connections to `ports` counted.
fn read(ports: Vec<u16>) -> Option<Receiver<Clients>> {
    let (sender, receiver) = channel();
    let count = move || drop(sender.send(clients(&ports, CONNECTIONS)));
    std::thread::Builder::new().spawn(count).ok()?;
    Some(receiver)
}

/// How many connections each address has to our ports, as the kernel shows them
/// (proc_net_tcp: local address, remote address and state in hexadecimal).
fn clients(ports: &[u16], most: usize) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let Ok(file) = fs::File::open(table) else {
            continue;
        };
        for line in BufReader::new(file)
            .lines()
            .take(most)
            .map_while(Result::ok)
        {
            if let Some((client, _)) = connection(&line).filter(|(_, port)| ports.contains(port)) {
                *all.entry(client).or_default() += 1;
            }
        }
    }
    all
}

/// The client's address and our port of an established connection.
fn connection(line: &str) -> Option<(String, u16)> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (local, remote, state) = (words.next()?, words.next()?, words.next()?);
    let port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
    let address = remote.rsplit_once(':')?.0;
    // Each word of the address is in the machine's own order.
    let words: Option<Vec<u32>> = (0..address.len() / 8)
        .map(|n| u32::from_str_radix(address.get(8 * n..8 * n + 8)?, 16).ok())
        .collect();
    let bytes: Vec<u8> = words?.into_iter().flat_map(u32::to_ne_bytes).collect();
    let ip = match bytes.len() {
        4 => std::net::IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => std::net::IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
        _ => return None,
    };
    (state == "01").then(|| (ip.to_canonical().to_string(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_connections_are_counted() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connect = |_| std::net::TcpStream::connect(address).unwrap();
        let _open: Vec<_> = (0..30).map(connect).collect();
        let found = clients(&[address.port()], usize::MAX);
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            [("127.0.0.1".to_owned(), 30)]
        );
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn lines_of_the_kernel() {
        let v4 =
            "   1: 0100007F:0BB8 0200007F:D431 01 00000000:00000000 00:00000000 00000000 0 0 1 1";
        assert_eq!(connection(v4), Some(("127.0.0.2".to_owned(), 3000)));
        let mapped =
            "  1: 0000000000000000FFFF00000100007F:0BB8 0000000000000000FFFF00000200007F:D431 01 0";
        assert_eq!(connection(mapped), Some(("127.0.0.2".to_owned(), 3000)));
        let listening =
            "   0: 0100007F:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000";
        assert_eq!(connection(listening), None);
        for garbage in ["", "sl local rem st", "1: é:é é:é 01", "1: 0:1 ÄÄÄÄ:1 01"] {
            assert_eq!(connection(garbage), None);
        }
    }
}
