// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sticky`: the secret from which the places of clients are computed, and what defeats it.

use super::super::{Engine, now};
use crate::core::Time;
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Its file in the app's state directory.
pub const FILE: &str = "balance-secret";
/// How often it is looked where connections come from, at the most.
const PAUSE: Duration = Duration::from_secs(60);
/// Lines of /proc/net/tcp that are read.
const CONNECTIONS: usize = 2000;
/// So many connections say something.
const ENOUGH: usize = 20;

/// When it was last looked whether a proxy makes the connections.
#[derive(Default)]
pub struct Proxy {
    looked: Option<Time>,
    found: bool,
}

impl Proxy {
    /// Whether it is worth while.
    pub fn wants_to_look(&self, now: Time) -> bool {
        !self.found && self.looked.is_none_or(|at| at + PAUSE <= now)
    }
}

/// What distinguishes a line in the hash: all 32 bits depend on all of the secret
/// (splitmix64, a public domain algorithm by Sebastiano Vigna).
pub fn seed(secret: u64, line: u32) -> u32 {
    let mut z = secret.wrapping_add((u64::from(line) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 32) as u32
}

impl Engine {
    /// The app's secret. One that cannot be kept holds until the supervisor ends.
    pub(super) fn secret(&mut self) -> u64 {
        if let Some(secret) = self.steering.secret {
            return secret;
        }
        let directory = state_directory(&self.name);
        let kept = match &directory {
            Some(directory) => keep(&directory.join(FILE)),
            None => Err(io::Error::other("there is no state directory")),
        };
        let secret = kept.unwrap_or_else(|error| {
            let shown = directory.unwrap_or_default();
            self.warn(format!(
                "cannot keep the secret of `balance = \"sticky\"` in {}: {error}; clients will \
                 move to other slots when the supervisor starts again",
                shown.display()
            ));
            random().unwrap_or(0)
        });
        self.steering.secret = Some(secret);
        secret
    }

    /// Whether nearly all connections come from one address: then they all go to one slot.
    pub(super) fn look_for_a_proxy(&mut self) {
        if !self.steering.proxy.wants_to_look(now()) {
            return;
        }
        self.steering.proxy.looked = Some(now());
        let ports: Vec<u16> = self.listeners.iter().filter_map(|l| l.port).collect();
        let clients = clients(&ports);
        let total: usize = clients.values().sum();
        let most = clients.iter().max_by_key(|(_, count)| **count);
        let nearly_all = |count: usize| total >= ENOUGH && count * 10 >= total * 8;
        if let Some((client, count)) = most.filter(|(_, count)| nearly_all(**count)) {
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

/// $STATE_DIRECTORY, which systemd makes (systemd.exec(5)), else the user's own.
fn state_directory(name: &str) -> Option<PathBuf> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if let Some(given) = variable("STATE_DIRECTORY") {
        return given.split(':').next().map(PathBuf::from);
    }
    let home = || variable("HOME").map(|home| Path::new(&home).join(".local/state"));
    let state = variable("XDG_STATE_HOME")
        .map(PathBuf::from)
        .or_else(home)?;
    Some(state.join("app-cluster").join(name))
}

/// Reads the secret in `file`, or makes one and writes it there, for nobody else to read.
fn keep(file: &Path) -> io::Result<u64> {
    match fs::read_to_string(file) {
        Ok(text) => {
            if let Ok(secret) = u64::from_str_radix(text.trim(), 16) {
                return Ok(secret);
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let directory = file.parent().unwrap_or(Path::new("/"));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let secret = random()?;
    // Under another name first: half a secret would be another one.
    let new = file.with_extension("new");
    let _ = fs::remove_file(&new);
    let mut options = OpenOptions::new();
    let mut written = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    writeln!(written, "{secret:016x}")?;
    fs::rename(&new, file)?;
    Ok(secret)
}

fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// How many connections each address has to our ports, as the kernel shows them
/// (proc_net_tcp: local address, remote address and state in hexadecimal).
fn clients(ports: &[u16]) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let Ok(file) = fs::File::open(table) else {
            continue;
        };
        for line in BufReader::new(file)
            .lines()
            .take(CONNECTIONS)
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
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_secret_stays_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a/b").join(FILE);
        let secret = keep(&file).unwrap();
        assert_eq!(keep(&file).unwrap(), secret);
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(&file, "garbage").unwrap();
        let other = keep(&file).unwrap();
        assert_eq!(keep(&file).unwrap(), other);
    }

    #[test]
    fn seeds_differ() {
        let mut seeds: Vec<u32> = (0..256).map(|line| seed(1, line)).collect();
        seeds.extend((0..256).map(|line| seed(2, line)));
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), 512);
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
