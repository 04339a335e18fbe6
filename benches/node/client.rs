// SPDX-License-Identifier: MIT OR Apache-2.0
//! A client that costs little: with few processors it takes its share from what it measures.
//!
//! One thread, epoll(7), nothing retried. Each connection comes from another address of
//! 127.0.0.0/8, so that no port runs out in TIME_WAIT and `sticky` has clients to spread.

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrIn, bind, connect, recv, send, setsockopt,
    socket, sockopt,
};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// Longest that all connections may be silent.
const SILENCE: Duration = Duration::from_secs(5);
/// Longest answer, in bytes.
const LONGEST: usize = 4096;

/// What to do.
pub struct Run {
    pub address: SocketAddrV4,
    pub path: &'static str,
    /// Connections at any time.
    pub clients: usize,
    /// Whether a connection carries more than one request.
    pub kept: bool,
    pub time: Duration,
}

/// What came of it.
#[derive(Clone, Copy, Default)]
pub struct Outcome {
    pub answers: u64,
    /// Connections that failed, or ended without a whole answer.
    pub lost: u64,
    pub elapsed: Duration,
}

impl Outcome {
    /// Answers a second.
    pub fn rate(&self) -> f64 {
        self.answers as f64 / self.elapsed.as_secs_f64()
    }
}

/// One connection.
struct Client {
    socket: OwnedFd,
    /// The request is out.
    asked: bool,
    answer: Vec<u8>,
}

impl Run {
    /// Goes as fast as it can until the time is over.
    ///
    /// # Errors
    /// No descriptor or port is left.
    pub fn go(&self) -> nix::Result<Outcome> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let close = if self.kept {
            ""
        } else {
            "Connection: close\r\n"
        };
        let path = self.path;
        let mut load = Going {
            run: self,
            request: format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{close}\r\n"),
            epoll,
            random: u64::from(std::process::id()).wrapping_mul(0x9E37_79B9_7F4A_7C15),
            outcome: Outcome::default(),
        };
        let began = Instant::now();
        let mut clients = Vec::new();
        for number in 0..self.clients {
            clients.push(load.connect(number)?);
        }
        let mut events = vec![EpollEvent::empty(); self.clients];
        let mut heard = began;
        while began.elapsed() < self.time && heard.elapsed() < SILENCE {
            let patience = EpollTimeout::from(100_u16);
            let count = match load.epoll.wait(&mut events, patience) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error),
            };
            for event in &events[..count] {
                heard = Instant::now();
                let number = event.data() as usize;
                match load.turn(&mut clients[number], number) {
                    Some(true) => {}
                    ended => {
                        load.outcome.lost += u64::from(ended.is_none());
                        clients[number] = load.connect(number)?;
                    }
                }
            }
        }
        if heard.elapsed() >= SILENCE {
            load.outcome.lost += self.clients as u64;
        }
        load.outcome.elapsed = began.elapsed();
        Ok(load.outcome)
    }
}

/// A run on its way.
struct Going<'a> {
    run: &'a Run,
    request: String,
    epoll: Epoll,
    random: u64,
    outcome: Outcome,
}

impl Going<'_> {
    fn connect(&mut self, number: usize) -> nix::Result<Client> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
        // The port is chosen at connect, when the destination is known (ip(7)).
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        let source = SocketAddrV4::new(self.source(), 0);
        bind(socket.as_raw_fd(), &SockaddrIn::from(source))?;
        let target = SockaddrIn::from(self.run.address);
        match connect(socket.as_raw_fd(), &target) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        let mut client = Client {
            socket,
            asked: false,
            answer: Vec::with_capacity(512),
        };
        // On loopback the connection is there by now, as a rule.
        let _ = self.ask(&mut client);
        let flags = match client.asked {
            true => EpollFlags::EPOLLIN,
            false => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT,
        };
        let event = EpollEvent::new(flags, number as u64);
        self.epoll.add(&client.socket, event)?;
        Ok(client)
    }

    /// A random address of 127.0.0.0/8 (xorshift).
    fn source(&mut self) -> Ipv4Addr {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let [a, b, c, ..] = self.random.to_be_bytes();
        Ipv4Addr::new(127, a, b, c.clamp(1, 254))
    }

    fn ask(&self, client: &mut Client) -> nix::Result<()> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let bytes = self.request.as_bytes();
        match send(client.socket.as_raw_fd(), bytes, flags) {
            Ok(_) => client.asked = true,
            Err(Errno::EAGAIN) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Something has happened on a connection. `false`: it has done its work; `None`: it was lost.
    fn turn(&mut self, client: &mut Client, number: usize) -> Option<bool> {
        if !client.asked {
            self.ask(client).ok()?;
            let mut event = EpollEvent::new(EpollFlags::EPOLLIN, number as u64);
            if client.asked {
                self.epoll.modify(&client.socket, &mut event).ok()?;
            }
            return Some(true);
        }
        let mut piece = [0; 1024];
        match recv(
            client.socket.as_raw_fd(),
            &mut piece,
            MsgFlags::MSG_DONTWAIT,
        ) {
            Ok(0) => return None,
            Ok(count) => client.answer.extend_from_slice(&piece[..count]),
            Err(Errno::EAGAIN | Errno::EINTR) => return Some(true),
            Err(_) => return None,
        }
        if client.answer.len() > LONGEST || !b"HTTP/1.1 200".starts_with(start(&client.answer)) {
            return None;
        }
        if !is_whole(&client.answer) {
            return Some(true);
        }
        self.outcome.answers += 1;
        if !self.run.kept {
            return Some(false);
        }
        client.answer.clear();
        client.asked = false;
        self.ask(client).ok()?;
        client.asked.then_some(true)
    }
}

fn start(answer: &[u8]) -> &[u8] {
    &answer[..answer.len().min(b"HTTP/1.1 200".len())]
}

/// Whether all is there that its `Content-Length` says.
fn is_whole(answer: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(answer) else {
        return false;
    };
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|l| l.strip_prefix("Content-Length: "));
    length.and_then(|l| l.parse().ok()) == Some(body.len())
}
