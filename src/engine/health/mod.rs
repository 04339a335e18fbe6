// SPDX-License-Identifier: MIT OR Apache-2.0
//! Asking workers how they are (`health`): [`Action::Check`](crate::core::Action::Check).
//!
//! A question belongs to one worker and never to a port: over HTTP the worker is handed one end
//! of a connection of our own ([`http`]), a command runs beside it ([`command`]). Nothing in
//! here blocks, and what comes back is bounded.

mod answer;
mod command;
mod http;

use super::{Engine, Time, now};
use crate::config::{HealthCheck, Question, show_duration};
use crate::core::{Event, Verdict, WorkerId};
use command::Running;
use http::Exchange;
use std::io;

/// A question that was put to a worker.
pub struct Check {
    /// When an answer comes too late.
    until: Time,
    /// The core has been told what came of it.
    told: bool,
    /// How people call it: the path, or the command.
    name: String,
    how: How,
}

enum How {
    Http(Exchange),
    Exec(Running),
}

impl Engine {
    /// Asks a worker how it is. It gets one question at a time.
    pub(super) fn check_health(&mut self, worker: WorkerId) {
        self.end_check(worker);
        if let Err(error) = self.begin_check(worker) {
            let verdict = Verdict::Unknown(format!("it could not be asked: {error}"));
            self.pending.push_back(Event::Checked { worker, verdict });
        }
    }

    fn health_of(&self, worker: WorkerId) -> Option<&HealthCheck> {
        let generation = self.core.worker(worker)?.generation;
        self.releases.get(&generation)?.config.health.as_ref()
    }

    fn begin_check(&mut self, worker: WorkerId) -> io::Result<()> {
        let health = self.health_of(worker).cloned();
        let health = health.ok_or_else(|| io::Error::other("its configuration is gone"))?;
        let (name, how) = match health.question {
            Question::Http(path) => {
                let exchange = self.open_exchange(worker)?;
                (path, How::Http(exchange))
            }
            Question::Exec(words) => {
                let running = self.run_check(worker, &words)?;
                (format!("`{}`", words.join(" ")), How::Exec(running))
            }
        };
        let check = Check {
            until: now() + health.timeout,
            told: false,
            name,
            how,
        };
        match self.held.get_mut(&worker) {
            Some(held) => held.check = Some(check),
            None => self.discard(check),
        }
        Ok(())
    }

    fn check(&mut self, worker: WorkerId) -> Option<&mut Check> {
        self.held.get_mut(&worker)?.check.as_mut()
    }

    /// Something has happened on the connection, or the command has written something.
    pub(super) fn take_health(&mut self, worker: WorkerId) {
        match self.check(worker).map(|check| &check.how) {
            Some(How::Http(_)) => self.take_exchange(worker),
            Some(How::Exec(_)) => self.take_check_output(worker),
            None => {}
        }
    }

    /// Ends a question, and tells the core what came of it, unless that is known.
    fn finish_check(&mut self, worker: WorkerId, verdict: Verdict) {
        let told = self.check(worker).is_none_or(|check| check.told);
        self.end_check(worker);
        if !told {
            self.feed(Event::Checked { worker, verdict });
        }
    }

    /// Tells the core what came of it, while the rest of the answer is still to come.
    fn tell_verdict(&mut self, worker: WorkerId, verdict: Verdict) {
        let told = self
            .check(worker)
            .map(|c| std::mem::replace(&mut c.told, true));
        if told == Some(false) {
            self.feed(Event::Checked { worker, verdict });
        }
    }

    /// Forgets a question; nothing of it is left.
    pub(super) fn end_check(&mut self, worker: WorkerId) {
        let check = self.held.get_mut(&worker).and_then(|h| h.check.take());
        if let Some(check) = check {
            self.discard(check);
        }
    }

    /// The same, of a worker that is not held any more.
    pub(super) fn discard(&mut self, check: Check) {
        match check.how {
            How::Http(exchange) => self.poller.remove(exchange.watched()),
            How::Exec(running) => self.end_command(running),
        }
    }

    /// When an answer will be late.
    pub(super) fn health_deadline(&self) -> Option<Time> {
        let checks = self.held.values().filter_map(|held| held.check.as_ref());
        checks.map(|check| check.until).min()
    }

    /// Ends what is late, after a last look: we may be late ourselves.
    pub(super) fn health_turn(&mut self) {
        let now = now();
        let late = |held: &super::Held| held.check.as_ref().is_some_and(|c| c.until <= now);
        let late: Vec<WorkerId> = self
            .held
            .iter()
            .filter_map(|(id, held)| late(held).then_some(*id))
            .collect();
        for worker in late {
            if matches!(self.check(worker).map(|c| &c.how), Some(How::Exec(_))) {
                self.take_check_exit(worker);
            }
            self.take_health(worker);
            self.give_up(worker);
        }
    }

    fn give_up(&mut self, worker: WorkerId) {
        let timeout = self.health_of(worker).map(|health| health.timeout);
        let within = show_duration(timeout.unwrap_or_default());
        let Some(check) = self.check(worker) else {
            return;
        };
        let name = &check.name;
        let verdict = match &check.how {
            How::Http(exchange) => exchange.late(name, &within),
            How::Exec(running) => {
                let said = running.last_words();
                Verdict::Bad(format!("{name} did not end within {within}{said}"))
            }
        };
        self.finish_check(worker, verdict);
    }
}
