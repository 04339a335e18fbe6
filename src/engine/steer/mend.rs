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

impl Engine {
    /// Makes lines listen again, and takes down what that does to the kernel's numbers. One
    /// that is shut down again meanwhile is reported again.
    pub(super) fn mend(&mut self, listener: usize) {
        let mut mended: Vec<usize> = Vec::new();
        let mut failed = None;
        for _ in 0..ROUNDS {
            let lines = &self.listeners[listener].lines;
            let down: Vec<usize> = (0..lines.len())
                .filter(|n| lines[*n].is_shut_down())
                .collect();
            for n in &down {
                match lines[*n].listen_again() {
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
        self.warn(text);
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
