// SPDX-License-Identifier: MIT OR Apache-2.0
//! Asking one Node worker over HTTP.
//!
//! The worker gets one end of a TCP connection of our own over 127.0.0.1, as if it had
//! accepted it (`newconn`), whichever way its other connections come. A pair of Unix sockets
//! would not do: apps read `remoteAddress`. The listener exists for one connection.

use super::super::poller::Token;
use super::super::{Engine, node::Handed};
use super::How;
use super::answer::{Head, MAX_HEAD, head, verdict};
use crate::core::{Verdict, WorkerId};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

/// Strangers who may come to our listener first.
const STRANGERS: usize = 16;
/// Pieces read in one turn, and bytes in each.
const PIECES: usize = 16;
const PIECE: usize = 4 * 1024;
/// So much of the rest of an answer is read, so that the app need not see a reset.
const MAX_REST: usize = 256 * 1024;

/// A request and its answer.
pub struct Exchange {
    ours: TcpStream,
    /// Until the connection is there.
    listener: Option<TcpListener>,
    /// The number of the message that handed it over.
    seq: Option<u64>,
    head: Vec<u8>,
    rest: usize,
}

impl Exchange {
    /// What is in the poller.
    pub fn watched(&self) -> BorrowedFd<'_> {
        match &self.listener {
            Some(listener) => listener.as_fd(),
            None => self.ours.as_fd(),
        }
    }

    /// What it means that there is no answer after all this time.
    pub fn late(&self, path: &str, within: &str) -> Verdict {
        match self.listener {
            Some(_) => Verdict::Unknown(format!(
                "it could not be asked: there was no connection over 127.0.0.1 within {within}"
            )),
            None => Verdict::Bad(format!("{path} gave no answer within {within}")),
        }
    }
}

impl Engine {
    /// Begins to connect.
    pub(super) fn open_exchange(&mut self, worker: WorkerId) -> io::Result<Exchange> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let ours = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        match connect(&ours, &listener.local_addr()?) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        self.poller.add(&listener, Token::Health(worker))?;
        Ok(Exchange {
            ours: TcpStream::from(ours),
            listener: Some(listener),
            seq: None,
            head: Vec::new(),
            rest: 0,
        })
    }

    fn exchange(&mut self, worker: WorkerId) -> Option<&mut Exchange> {
        match &mut self.check(worker)?.how {
            How::Http(exchange) => Some(exchange),
            How::Exec(_) => None,
        }
    }

    pub(super) fn take_exchange(&mut self, worker: WorkerId) {
        let Some(exchange) = self.exchange(worker) else {
            return;
        };
        let Some(listener) = &exchange.listener else {
            return self.take_answer(worker);
        };
        let Some(theirs) = own_connection(listener, &exchange.ours) else {
            return;
        };
        let listener = exchange.listener.take();
        if let Some(listener) = listener {
            self.poller.remove(&listener);
        }
        let verdict = match self.hand_over(worker, theirs) {
            Handed::Yes(seq) => match self.send_request(worker, seq) {
                Ok(()) => return,
                Err(error) => Verdict::Unknown(format!("it could not be asked: {error}")),
            },
            Handed::NoServer => Verdict::Bad("it does not listen".to_owned()),
            Handed::Waits => Verdict::Bad(
                "it has not taken the connection of the question before (its event loop is \
                 blocked)"
                    .to_owned(),
            ),
        };
        self.finish_check(worker, verdict);
    }

    fn send_request(&mut self, worker: WorkerId, seq: u64) -> io::Result<()> {
        let gone = || io::Error::other("it is gone");
        let path = self.check(worker).ok_or_else(gone)?.name.clone();
        let held = self.held.get_mut(&worker).and_then(|h| h.check.as_mut());
        let Some(How::Http(exchange)) = held.map(|check| &mut check.how) else {
            return Err(gone());
        };
        exchange.seq = Some(seq);
        let version = env!("CARGO_PKG_VERSION");
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: app-cluster/{version} \
             (health)\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        );
        // The buffer of a new connection has room for that.
        exchange.ours.write_all(request.as_bytes())?;
        self.poller.add(&exchange.ours, Token::Health(worker))
    }

    fn take_answer(&mut self, worker: WorkerId) {
        for _ in 0..PIECES {
            let Some(exchange) = self.exchange(worker) else {
                return;
            };
            let mut piece = [0; PIECE];
            match exchange.ours.read(&mut piece) {
                Ok(0) => return self.answer_ended(worker, None),
                Ok(count) => {
                    if self.answer_goes_on(worker, &piece[..count]) {
                        return self.end_check(worker);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return self.answer_ended(worker, Some(error)),
            }
        }
    }

    /// `true`: enough has been read.
    fn answer_goes_on(&mut self, worker: WorkerId, piece: &[u8]) -> bool {
        let Some(check) = self.check(worker) else {
            return true;
        };
        let (told, path) = (check.told, check.name.clone());
        let Some(exchange) = self.exchange(worker) else {
            return true;
        };
        if told {
            exchange.rest += piece.len();
            return exchange.rest > MAX_REST;
        }
        let room = (MAX_HEAD + PIECE).saturating_sub(exchange.head.len());
        exchange.head.extend(&piece[..piece.len().min(room)]);
        let found = match head(&exchange.head) {
            Head::More => return false,
            Head::Status(status, reason) => verdict(&path, status, &reason),
            Head::Garbage => {
                let tls = exchange.head.starts_with(&[0x15, 3]);
                let what = if tls {
                    "TLS, not HTTP"
                } else {
                    "not in HTTP/1"
                };
                Verdict::Bad(format!(
                    "{path} was answered {what} (ask by a command, health = {{ exec = [...] }})"
                ))
            }
        };
        self.tell_verdict(worker, found);
        false
    }

    fn answer_ended(&mut self, worker: WorkerId, error: Option<io::Error>) {
        let Some(check) = self.check(worker) else {
            return;
        };
        let why = error.map_or(String::new(), |error| format!(": {error}"));
        let text = format!(
            "{} got no answer, the connection was closed{why} (a server of https is asked by a \
             command, health = {{ exec = [...] }})",
            check.name
        );
        self.finish_check(worker, Verdict::Bad(text));
    }

    /// The worker has taken the connection of a question, or has not.
    pub(in super::super) fn health_taken(&mut self, worker: WorkerId, seq: u64, accepted: bool) {
        let ours = self.exchange(worker).is_some_and(|e| e.seq == Some(seq));
        if !accepted && ours {
            let text = "it takes no connections now (it has `maxConnections`, or has just closed \
                        its server)";
            self.finish_check(worker, Verdict::NotReady(text.to_owned()));
        }
    }
}

/// The other end of `ours`, if it is there. Anybody on this machine can connect.
fn own_connection(listener: &TcpListener, ours: &TcpStream) -> Option<TcpStream> {
    let own = ours.local_addr().ok()?;
    for _ in 0..STRANGERS {
        let (connection, peer) = listener.accept().ok()?;
        if peer == own {
            connection.set_nonblocking(true).ok()?;
            return Some(connection);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_is_not_taken_for_the_other_end() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let _stranger = TcpStream::connect(address).expect("connect");
        let mut ours = TcpStream::connect(address).expect("connect");
        let mut theirs = own_connection(&listener, &ours).expect("the other end");
        ours.write_all(b"x").expect("write");
        ours.shutdown(std::net::Shutdown::Write).expect("shutdown");
        let mut got = Vec::new();
        theirs.set_nonblocking(false).expect("blocking");
        theirs.read_to_end(&mut got).expect("read");
        assert_eq!(got, b"x");
    }
}
