// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines that workers shut down: shutdown(2) works for every holder of a listening socket.

use super::super::poller::{Interest, Token};
use super::super::{Engine, Level, Record, now};
use super::spare;
use std::time::Duration;

/// So often it is looked whether yet another line was shut down.
const ROUNDS: usize = 8;
/// How long to wait before listen(2) is tried again that has failed.
const AGAIN: Duration = Duration::from_secs(1);

/// Told each time up to so many times, then whenever there are twice as many.
const OFTEN: u64 = 64;

impl Engine {
    /// Makes lines listen again, and takes down what that does to the kernel's numbers. One
    /// that is shut down again meanwhile is reported again.
    pub(super) fn mend(&mut self, listener: usize) {
        let mut mended: Vec<usize> = Vec::new();
        let mut failed = None;
        let unix = self.listeners[listener].port.is_none();
        for _ in 0..ROUNDS {
            let lines = &self.listeners[listener].lines;
            let down: Vec<usize> = (0..lines.len())
                .filter(|n| lines[*n].is_shut_down())
                .collect();
            for n in &down {
                match lines[*n].listen_again() {
                    // Of a unix socket it has no effect.
                    Ok(()) if unix && lines[*n].is_shut_down() => {
                        failed = Some(nix::Error::ENOTCONN);
                    }
                    Ok(()) => mended.push(*n),
                    Err(error) => failed = Some(error),
                }
            }
            if down.is_empty() || failed.is_some() {
                break;
            }
        }
        if !mended.is_empty() {
            self.take_down_mended(listener, &mended);
        }
        match failed {
            Some(error) => self.cannot_mend(listener, error),
            None => self.mended_all(listener),
        }
    }

    /// The numbers are only right as long as each end of a line is taken down in turn, so what
    /// workers have done goes before what we are about to do.
    pub(super) fn mend_now(&mut self, listener: usize) {
        let mut lines = self.listeners[listener].lines.iter();
        if !self.steering.watched && lines.any(|line| line.is_shut_down()) {
            self.mend(listener);
        }
    }

    fn take_down_mended(&mut self, listener: usize, mended: &[usize]) {
        let target = &self.listeners[listener];
        let left = target.is_steered() && mended.len() < target.lines.len();
        let fate = match spare::migrates() && left {
            true => "went to other workers",
            false => "were lost",
        };
        let text = format!(
            "listener {} was shut down, by a worker: listening again; connections queued \
             there {fate}",
            target.name
        );
        if target.is_steered() {
            self.renumber_mended(listener, mended);
            if spare::migrates() {
                self.steering.nudge = Some(now() + spare::NOTICE);
            }
        }
        self.steering.mended += 1;
        let count = self.steering.mended;
        if count <= OFTEN || count.is_power_of_two() {
            self.warn(format!("{text} ({count} so far)"));
        }
    }

    /// Of TCP it is tried again; a unix socket stays shut down for good (unix(7) has no way
    /// back). Told once.
    fn cannot_mend(&mut self, listener: usize, error: nix::Error) {
        let target = &self.listeners[listener];
        for line in target.lines.iter().filter(|line| line.is_shut_down()) {
            // It would be reported without end.
            self.poller.remove(&line.fd);
        }
        let hint = match target.port {
            Some(_) => {
                self.steering.mend = Some(now() + AGAIN);
                format!(" ({error}; trying again)")
            }
            None => String::new(),
        };
        if self.broken.is_none() {
            let broken = format!(
                "listener {} was shut down, by a worker, and cannot be mended{hint}: restart it \
                 (systemctl restart of the socket unit)",
                target.name
            );
            self.log(Record::plain(Level::Error, broken.clone()));
            self.broken = Some(broken);
        }
    }

    /// Lines that had failed are watched again.
    fn mended_all(&mut self, listener: usize) {
        self.deal_soon();
        if self.steering.mend.is_none() || self.listeners[listener].port.is_none() {
            return;
        }
        for (n, line) in self.listeners[listener].lines.iter().enumerate() {
            // It fails for those that are watched already.
            if self.poller.add(&line.fd, Token::Line(listener, n)).is_ok() {
                self.steering.interest[listener][n] = Interest::Hangup;
            }
        }
    }

    /// Tries again what has failed, when it is time.
    pub(super) fn mend_again(&mut self) {
        if self.steering.mend.is_none_or(|at| at > now()) {
            return;
        }
        for listener in 0..self.listeners.len() {
            if self.listeners[listener].port.is_some() {
                self.mend(listener);
            }
        }
        if self.steering.mend.is_some_and(|at| at <= now()) {
            self.steering.mend = None;
            let mut lines = self.listeners.iter().flat_map(|l| &l.lines);
            if !lines.any(|line| line.is_shut_down()) {
                self.broken = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::program;
    use crate::config::ListenAddress;
    use crate::engine::bind::open_lines;
    use crate::engine::listeners::Line;
    use nix::libc::sock_fprog;
    use nix::sys::socket::{SockaddrStorage, getsockname};
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    fn lines(count: u32) -> (Vec<Line>, SocketAddr) {
        let any = "127.0.0.1:0".parse().unwrap();
        let lines = open_lines(&ListenAddress::Tcp(any), count).unwrap();
        let name: SockaddrStorage = getsockname(lines[0].fd.as_raw_fd()).unwrap();
        let address = SocketAddr::from(*name.as_sockaddr_in().unwrap());
        (lines, address)
    }

    fn attach(line: &Line, number: u32) -> nix::Result<()> {
        let mut encoded = program::encode(&program::always(number));
        line.attach(&sock_fprog {
            len: encoded.len() as u16,
            filter: encoded.as_mut_ptr(),
        })
    }

    /// Which of the lines gets a connection, after a word was said on it.
    fn taken(lines: &[Line], address: SocketAddr) -> usize {
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"x").unwrap();
        let line = lines.iter().position(|l| l.waiting() == Some(1)).unwrap();
        let listening = TcpListener::from(lines[line].fd.try_clone().unwrap());
        let (mut taken, mut word) = (listening.accept().unwrap().0, [0]);
        taken.read_exact(&mut word).unwrap();
        line
    }

    #[test]
    fn a_program_does_not_part_a_line_that_is_down_from_the_others() {
        let (lines, address) = lines(3);
        attach(&lines[0], 2).unwrap();
        assert_eq!(taken(&lines, address), 2);
        assert!(lines[0].stop_listening().unwrap());
        assert_eq!(attach(&lines[0], 0), Err(nix::Error::EINVAL));
        lines[0].listen_again().unwrap();
        // The last took the place of the first, which is the last now.
        for (number, line) in [2, 1, 0].into_iter().enumerate() {
            attach(&lines[0], number as u32).unwrap();
            assert_eq!(taken(&lines, address), line);
        }
    }

    #[test]
    fn a_line_that_was_shut_down_twice_serves_again() {
        let (lines, address) = lines(1);
        assert!(lines[0].stop_listening().unwrap());
        assert!(!lines[0].stop_listening().unwrap());
        lines[0].listen_again().unwrap();
        assert_eq!(taken(&lines, address), 0);
    }
}
