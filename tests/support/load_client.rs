// SPDX-License-Identifier: MIT OR Apache-2.0
//! One client of the load generator: connect, send, read the whole answer, judge it.

use super::{Kind, LoadSpec, Target};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr, bind, connect,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A blocked call returns this often, to see whether anybody still wants the answer.
const SLICE: i64 = 250_000;
/// A slow body: so many pieces, this long apart.
const PIECES: usize = 10;
const PIECE_EVERY: Duration = Duration::from_millis(20);

/// What a good answer said.
#[derive(Debug)]
pub struct Answer {
    pub pid: Option<u64>,
    pub generation: Option<u64>,
    pub slot: Option<u64>,
}

/// A connection and the bytes read from it but not used yet.
struct Connection {
    stream: File,
    buffer: Vec<u8>,
    requests: u64,
}

pub struct Client<'a> {
    spec: Arc<LoadSpec>,
    kind: Kind,
    random: u64,
    requests: u64,
    connections: u64,
    head: String,
    kept: Option<Connection>,
    abandoned: &'a (dyn Fn() -> bool + Sync),
}

impl<'a> Client<'a> {
    pub fn new(
        spec: Arc<LoadSpec>,
        kind: Kind,
        seed: u64,
        abandoned: &'a (dyn Fn() -> bool + Sync),
    ) -> Client<'a> {
        let path = &spec.path;
        let (line, close) = match kind {
            Kind::NewConnection => (format!("GET {path}"), "Connection: close\r\n"),
            Kind::KeepAlive => (format!("GET {path}"), ""),
            Kind::Slow { ms } => (format!("GET /slow?ms={ms}"), ""),
            Kind::SlowPost => (format!("POST {path}"), "Connection: close\r\n"),
        };
        let head = format!("{line} HTTP/1.1\r\nHost: localhost\r\n{close}");
        let random =
            (u64::from(std::process::id()) << 32 | seed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Client {
            spec,
            kind,
            random,
            requests: 0,
            connections: 0,
            head,
            kept: None,
            abandoned,
        }
    }

    pub fn connections(&self) -> u64 {
        self.connections
    }

    /// One request. The text of an error says at which step it was lost.
    pub fn request(&mut self) -> Result<Answer, String> {
        self.requests += 1;
        let mut connection = match self.kept.take() {
            Some(connection) => connection,
            None => {
                self.connections += 1;
                let stream = self
                    .connect()
                    .map_err(|error| format!("connect: {error}"))?;
                Connection {
                    stream,
                    buffer: Vec::new(),
                    requests: 0,
                }
            }
        };
        connection.requests += 1;
        let number = connection.requests;
        let (answer, keep) = self.exchange(&mut connection).map_err(|text| {
            format!(
                "{:?}, request {number} of its connection: {text}",
                self.kind
            )
        })?;
        if keep && !matches!(self.kind, Kind::NewConnection | Kind::SlowPost) {
            self.kept = Some(connection);
        }
        Ok(answer)
    }

    fn exchange(&self, connection: &mut Connection) -> Result<(Answer, bool), String> {
        let deadline = Instant::now() + self.spec.answer_within;
        let wait = Wait {
            deadline,
            abandoned: self.abandoned,
        };
        let send = |connection: &mut Connection, bytes: &[u8]| {
            connection
                .stream
                .write_all(bytes)
                .map_err(|error| format!("send: {error}"))
        };
        if self.kind == Kind::SlowPost {
            let chunked = self.requests.is_multiple_of(2);
            let length = self.spec.post_bytes / PIECES;
            let piece = "b".repeat(length);
            let (field, piece) = match chunked {
                true => (
                    "Transfer-Encoding: chunked".to_owned(),
                    format!("{length:x}\r\n{piece}\r\n"),
                ),
                false => (format!("Content-Length: {}", length * PIECES), piece),
            };
            send(
                connection,
                format!("{}{field}\r\n\r\n", self.head).as_bytes(),
            )?;
            for _ in 0..PIECES {
                std::thread::sleep(PIECE_EVERY);
                send(connection, piece.as_bytes())?;
            }
            if chunked {
                send(connection, b"0\r\n\r\n")?;
            }
        } else {
            send(connection, format!("{}\r\n", self.head).as_bytes())?;
        }
        connection.answer(&wait)
    }

    fn connect(&mut self) -> nix::Result<File> {
        let target = match &self.spec.target {
            Target::Tcp(address) => *address,
            Target::Unix(path) => {
                let fd = new_socket(AddressFamily::Unix)?;
                return self.connected(fd, &UnixAddr::new(path)?);
            }
        };
        let family = match target {
            SocketAddr::V4(_) => AddressFamily::Inet,
            SocketAddr::V6(_) => AddressFamily::Inet6,
        };
        let fd = new_socket(family)?;
        if let Some(source) = self.source(target) {
            // The port is chosen at connect, when the destination is known (ip(7)).
            setsockopt(&fd, sockopt::IpBindAddressNoPort, &true)?;
            bind(fd.as_raw_fd(), &SockaddrStorage::from(source))?;
        }
        setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
        self.connected(fd, &SockaddrStorage::from(target))
    }

    fn connected(&self, fd: OwnedFd, address: &dyn SockaddrLike) -> nix::Result<File> {
        let seconds = i64::try_from(self.spec.answer_within.as_secs())
            .unwrap_or(30)
            .max(1);
        // SO_SNDTIMEO bounds connect(2) as well (socket(7)).
        setsockopt(&fd, sockopt::SendTimeout, &TimeVal::new(seconds, 0))?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(0, SLICE))?;
        connect(fd.as_raw_fd(), address)?;
        Ok(File::from(fd))
    }

    /// The address asked for, else a random one of 127.0.0.0/8 (xorshift) if the target is in it.
    fn source(&mut self, target: SocketAddr) -> Option<SocketAddr> {
        if let Some(source) = self.spec.source {
            return Some(SocketAddr::new(source, 0));
        }
        if !target.is_ipv4() || !target.ip().is_loopback() {
            return None;
        }
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let [a, b, c, ..] = self.random.to_be_bytes();
        let source = IpAddr::from(Ipv4Addr::new(127, a, b, c.clamp(1, 254)));
        Some(SocketAddr::new(source, 0))
    }
}

fn new_socket(family: AddressFamily) -> nix::Result<OwnedFd> {
    socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
}

/// How long to wait for bytes.
struct Wait<'a> {
    deadline: Instant,
    abandoned: &'a (dyn Fn() -> bool + Sync),
}

impl Connection {
    /// Reads one answer; whether the connection may be used again.
    fn answer(&mut self, wait: &Wait<'_>) -> Result<(Answer, bool), String> {
        let head = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
                if !head.starts_with(b"HTTP/1.1 100") {
                    break String::from_utf8_lossy(&head).into_owned();
                }
            } else if self.fill(wait)? == 0 {
                let n = self.buffer.len();
                return Err(format!(
                    "closed by the server after {n} bytes of the answer"
                ));
            }
        };
        let mut keep = head.starts_with("HTTP/1.1");
        let (mut length, mut chunked) = (None, false);
        for (name, value) in head.lines().skip(1).filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse::<usize>().ok(),
                "transfer-encoding" => chunked = value.eq_ignore_ascii_case("chunked"),
                "connection" if value.eq_ignore_ascii_case("close") => keep = false,
                "connection" if value.eq_ignore_ascii_case("keep-alive") => keep = true,
                _ => {}
            }
        }
        let body = match length {
            _ if chunked => self.chunks(wait)?,
            Some(length) => self.take(length, wait)?,
            None => {
                keep = false;
                while self.fill(wait)? > 0 {}
                std::mem::take(&mut self.buffer)
            }
        };
        let text = String::from_utf8_lossy(&body);
        if head.split(' ').nth(1) != Some("200") {
            let line = head.lines().next().unwrap_or_default();
            return Err(format!("answered {line:?}: {}", text.trim()));
        }
        let json: serde_json::Value =
            serde_json::from_slice(&body).map_err(|error| format!("no JSON: {error}: {text:?}"))?;
        let number = |key| match &json[key] {
            serde_json::Value::String(text) => text.parse().ok(),
            value => value.as_u64(),
        };
        Ok((
            Answer {
                pid: number("pid"),
                generation: number("generation"),
                slot: number("slot"),
            },
            keep,
        ))
    }

    fn take(&mut self, length: usize, wait: &Wait<'_>) -> Result<Vec<u8>, String> {
        while self.buffer.len() < length {
            if self.fill(wait)? == 0 {
                let n = self.buffer.len();
                return Err(format!(
                    "closed by the server after {n} of {length} bytes of body"
                ));
            }
        }
        Ok(self.buffer.drain(..length).collect())
    }

    fn chunks(&mut self, wait: &Wait<'_>) -> Result<Vec<u8>, String> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                if let Some(end) = find(&self.buffer, b"\r\n") {
                    break end;
                }
                if self.fill(wait)? == 0 {
                    return Err("closed by the server between chunks".into());
                }
            };
            let line = self.take(end + 2, wait)?;
            let digits = String::from_utf8_lossy(&line[..end]).into_owned();
            let size = usize::from_str_radix(digits.split(';').next().unwrap_or("").trim(), 16)
                .map_err(|error| format!("bad chunk size {digits:?}: {error}"))?;
            body.extend(self.take(size, wait)?);
            self.take(2, wait)?;
            if size == 0 {
                return Ok(body);
            }
        }
    }

    /// Reads what is there, at least a byte; 0 at the end.
    fn fill(&mut self, wait: &Wait<'_>) -> Result<usize, String> {
        let mut bytes = [0; 4096];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(n) => {
                    self.buffer.extend_from_slice(&bytes[..n]);
                    return Ok(n);
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(format!("read: {error}")),
            }
            if (wait.abandoned)() {
                return Err("the load was dropped".into());
            }
            if Instant::now() >= wait.deadline {
                return Err("no answer in time".into());
            }
        }
    }
}

/// Moves this thread into the network of process `pid`, if there is one.
pub fn enter_netns(pid: Option<i32>) -> std::io::Result<()> {
    if let Some(pid) = pid {
        let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
    }
    Ok(())
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}
