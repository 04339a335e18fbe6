// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who holds an address that is to be listened on (proc_net(5), proc_pid_fd(5)).

use super::systemd::Systemd;
use crate::config::ListenAddress;
use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;

/// The state of a listening socket in /proc/net/tcp.
const LISTENING: &str = "0A";
/// The flag of one in /proc/net/unix (__SO_ACCEPTCON).
const ACCEPTS: u32 = 0x10000;

/// A process that holds an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub pid: u32,
    /// Its command line.
    pub command: String,
    /// The unit it belongs to; of systemd itself, the socket unit.
    pub unit: Option<String>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.unit, self.pid) {
            (Some(unit), 1) => write!(f, "{unit} (systemd)"),
            (Some(unit), pid) => write!(f, "pid {pid} of {unit}: {}", self.command),
            (None, pid) => write!(f, "pid {pid}: {}", self.command),
        }
    }
}

/// Why an address cannot be listened on now.
#[derive(Debug)]
pub enum Taken {
    /// It is in use; by whom, if that can be seen.
    InUse(Vec<Holder>),
    /// No interface of this machine has it.
    NotOurs,
}

/// Tries `address` for a moment; `None`: it is free, or only root can tell.
pub fn taken(address: &ListenAddress) -> Option<Taken> {
    let at = match address {
        ListenAddress::Unix(path) => return taken_path(path),
        ListenAddress::Tcp(at) if at.port() == 0 => return None,
        ListenAddress::Tcp(at) => *at,
        ListenAddress::Port(0) => return None,
        ListenAddress::Port(port) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port)),
    };
    let error = TcpListener::bind(at).err()?;
    match error.kind() {
        ErrorKind::AddrInUse => Some(Taken::InUse(holders(&sockets_at(at)))),
        ErrorKind::AddrNotAvailable => Some(Taken::NotOurs),
        _ => None,
    }
}

/// A unix socket is held if one listens; a file that is left over is no obstacle. Nobody is
/// connected to, which would start a service that waits for it.
fn taken_path(path: &Path) -> Option<Taken> {
    let table = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let inodes = unix_sockets(&table, path);
    (!inodes.is_empty()).then(|| Taken::InUse(holders(&inodes)))
}

/// Inodes of the listening sockets that are in the way of one at `address`.
fn sockets_at(address: SocketAddr) -> HashSet<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let texts = tables
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok());
    texts.flat_map(|text| tcp_sockets(&text, address)).collect()
}

/// From the text of /proc/net/tcp or tcp6.
fn tcp_sockets(table: &str, address: SocketAddr) -> Vec<String> {
    let inode = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let (local, state, inode) = (words.get(1)?, words.get(3)?, words.get(9)?);
        let local = local_address(local)?;
        (*state == LISTENING && collide(local, address)).then(|| (*inode).to_owned())
    };
    table.lines().skip(1).filter_map(inode).collect()
}

/// `0100007F:0BB8`: words of four bytes in the order of this machine.
fn local_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::new();
    for start in (0..address.len()).step_by(8) {
        let word = u32::from_str_radix(address.get(start..start + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let ip: IpAddr = match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok()?.into(),
        16 => <[u8; 16]>::try_from(bytes).ok()?.into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Whether two sockets cannot listen on these addresses at once.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let plain = |ip: IpAddr| match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    };
    let (a, b) = (plain(one.ip()), plain(other.ip()));
    // `[::]` takes IPv4 too, `0.0.0.0` only its own.
    let covers = |all: IpAddr, ip: IpAddr| {
        all == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
            || (all == IpAddr::V4(Ipv4Addr::UNSPECIFIED) && ip.is_ipv4())
    };
    one.port() == other.port() && (a == b || covers(a, b) || covers(b, a))
}

/// Inodes of the sockets that listen at `path`, from the text of /proc/net/unix.
fn unix_sockets(table: &str, path: &Path) -> HashSet<String> {
    let path = path.display().to_string();
    let inode = |line: &str| {
        let (head, name) = line.split_once(" /")?;
        let words: Vec<&str> = head.split_ascii_whitespace().collect();
        let (flags, inode) = (words.get(3)?, words.get(6)?);
        let listens = u32::from_str_radix(flags, 16).ok()? & ACCEPTS != 0;
        (listens && format!("/{name}") == path).then(|| (*inode).to_owned())
    };
    table.lines().filter_map(inode).collect()
}

/// The processes that have one of these sockets open, as far as they can be seen; systemd
/// first. Those that it has passed a socket to do not count beside it.
fn holders(inodes: &HashSet<String>) -> Vec<Holder> {
    let names: HashSet<String> = inodes.iter().map(|i| format!("socket:[{i}]")).collect();
    let holds = |pid: &u32| {
        let open = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten();
        let mut targets = open
            .flatten()
            .filter_map(|fd| fs::read_link(fd.path()).ok());
        targets.any(|target| target.to_str().is_some_and(|target| names.contains(target)))
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut found: Vec<u32> = pids.filter(holds).collect();
    found.sort_unstable();
    if found.first() == Some(&1) {
        found.truncate(1);
    }
    found.into_iter().map(holder).collect()
}

fn holder(pid: u32) -> Holder {
    let file = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let words = String::from_utf8_lossy(&file("cmdline")).replace('\0', " ");
    let command = match words.trim() {
        "" => String::from_utf8_lossy(&file("comm")).into_owned(),
        words => words.to_owned(),
    };
    let cgroup = String::from_utf8_lossy(&file("cgroup")).into_owned();
    Holder {
        pid,
        command: super::logs::harmless(command.trim()),
        unit: (pid != 1).then(|| unit_of(&cgroup)).flatten(),
    }
}

/// The innermost service in the text of /proc/PID/cgroup.
fn unit_of(cgroup: &str) -> Option<String> {
    let paths = cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let parts: Vec<&str> = paths.flat_map(|path| path.rsplit('/')).collect();
    let unit = parts.iter().find(|part| part.ends_with(".service"));
    unit.map(|unit| (*unit).to_owned())
}

/// The socket unit that listens at `address`, if one does.
pub fn socket_unit(systemd: &Systemd, address: &ListenAddress) -> Option<String> {
    let wanted = match address {
        ListenAddress::Unix(_) => None,
        ListenAddress::Tcp(at) => Some(*at),
        ListenAddress::Port(port) => Some(SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port))),
    };
    let matches = |bound: &str| match (address, wanted) {
        (ListenAddress::Unix(path), _) => Path::new(bound) == path,
        (_, Some(wanted)) => bound.parse().is_ok_and(|bound| collide(bound, wanted)),
        _ => false,
    };
    let units = systemd.loaded(&["*.socket"]).ok()?;
    units.into_iter().find(|unit| {
        let active = systemd.state(unit).is_ok_and(|state| state == "active");
        let bound = systemd.addresses(unit).unwrap_or_default();
        active && bound.iter().any(|(_, bound)| matches(bound))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn addresses_collide_as_the_kernel_says() {
        for (one, other, so) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("[::]:80", "127.0.0.1:80", true),
            ("[::1]:80", "0.0.0.0:80", false),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80", true),
        ] {
            assert_eq!(collide(at(one), at(other)), so, "{one} {other}");
            assert_eq!(collide(at(other), at(one)), so, "{other} {one}");
        }
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn tables_are_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 41 1 0 100 0 0 10 0\n   \
            1: 0100007F:0BB8 0100007F:9000 01 00000000:00000000 00:00000000 00000000  1000        0 42 1 0 100 0 0 10 0\n   \
            2: 0100007F:0BB9 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 43 1 0 100 0 0 10 0\n";
        assert_eq!(tcp_sockets(table, at("0.0.0.0:3000")), ["41"]);
        let sixth = "00000000000000000000000001000000:0050";
        assert_eq!(local_address(sixth), Some(at("[::1]:80")));
        assert_eq!(local_address("00:1"), None);
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            ffff: 00000002 00000000 00010000 0001 01 77 /run/a b.sock\n\
            ffff: 00000003 00000000 00000000 0001 03 78 /run/c.sock\n\
            ffff: 00000002 00000000 00010000 0001 01 79 @x\n";
        assert!(unix_sockets(table, Path::new("/run/a b.sock")).contains("77"));
        assert!(unix_sockets(table, Path::new("/run/a")).is_empty());
        assert!(unix_sockets(table, Path::new("/run/c.sock")).is_empty());
    }

    #[test]
    fn units_of_processes() {
        let cgroup = "0::/system.slice/system-web.slice/web@a.service/w7\n";
        assert_eq!(unit_of(cgroup).as_deref(), Some("web@a.service"));
        assert_eq!(unit_of("0::/user.slice/session-1.scope\n"), None);
    }

    #[test]
    fn our_own_socket_is_seen() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = ListenAddress::Tcp(listener.local_addr().expect("an address"));
        let Some(Taken::InUse(holders)) = taken(&address) else {
            panic!("not seen to be taken");
        };
        let own = std::process::id();
        assert!(
            holders.iter().any(|holder| holder.pid == own),
            "{holders:?}"
        );
        drop(listener);
        // A process that another test is starting has it until its exec(2).
        let deadline = Instant::now() + Duration::from_secs(20);
        while taken(&address).is_some() {
            assert!(Instant::now() < deadline, "still taken");
            std::thread::yield_now();
        }
        let elsewhere = ListenAddress::Tcp(at("192.0.2.1:3000"));
        assert!(matches!(taken(&elsewhere), Some(Taken::NotOurs)));
    }
}
