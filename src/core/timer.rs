// SPDX-License-Identifier: MIT OR Apache-2.0
//! All deadlines of the supervisor in one table.
//!
//! A timer that is due is taken out before it is acted upon, so a handled
//! deadline can never be the next one again (no busy loop by construction).

use super::ids::{SlotId, WorkerId};
use super::time::Time;
use serde::{Deserialize, Serialize};

/// What a deadline means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Timer {
    /// The worker should have been ready by now.
    Start(WorkerId),
    /// Time to look whether the worker is ready.
    Probe(WorkerId),
    /// The worker has been ready long enough to relieve the old one.
    Settle(WorkerId),
    /// The worker drains and is to be sent its stop signal.
    Signal(WorkerId),
    /// The worker has not answered for too long.
    Hung(WorkerId),
    /// Time to ask the worker how it is.
    Health(WorkerId),
    /// The worker owes a sign of life.
    Watchdog(WorkerId),
    /// The worker was asked to finish and has had its time: SIGKILL.
    Kill(WorkerId),
    /// The worker has been ready so long that its slot counts as recovered.
    Recover(WorkerId),
    /// Time to look how much memory the worker uses.
    Measure(WorkerId),
    /// The worker has lived as long as it may.
    Lifetime(WorkerId),
    /// The slot's back-off ends.
    Backoff(SlotId),
    /// The app stops, and its workers have served on for long enough.
    Leave,
    /// The first start failed; the supervisor ends now.
    Exit,
}

impl Timer {
    fn worker(self) -> Option<WorkerId> {
        match self {
            Timer::Start(w)
            | Timer::Probe(w)
            | Timer::Settle(w)
            | Timer::Signal(w)
            | Timer::Hung(w)
            | Timer::Health(w)
            | Timer::Watchdog(w)
            | Timer::Kill(w)
            | Timer::Recover(w)
            | Timer::Measure(w)
            | Timer::Lifetime(w) => Some(w),
            Timer::Backoff(_) | Timer::Leave | Timer::Exit => None,
        }
    }

    /// Whether something under way waits for it.
    fn is_awaited(self) -> bool {
        let again = matches!(self, Timer::Health(_) | Timer::Watchdog(_));
        !again && !matches!(self, Timer::Measure(_) | Timer::Lifetime(_))
    }
}

/// At most one deadline per [`Timer`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timers {
    armed: Vec<(Timer, Time)>,
}

impl Timers {
    /// Arms `timer`, replacing an earlier deadline of the same timer.
    pub fn set(&mut self, timer: Timer, at: Time) {
        self.clear(timer);
        self.armed.push((timer, at));
    }

    /// Whether each is there once, and about a worker that `known` holds for.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub(super) fn is_sane(&self, known: impl Fn(WorkerId) -> bool) -> Result<(), String> {
        let mut all: Vec<Timer> = self.armed.iter().map(|(timer, _)| *timer).collect();
        all.sort_unstable();
        let once = all.is_sorted_by(|one, next| one < next);
        match once && all.iter().all(|t| t.worker().is_none_or(&known)) {
            true => Ok(()),
            false => Err("a deadline is about nobody".to_owned()),
        }
    }

    /// Disarms `timer`.
    pub fn clear(&mut self, timer: Timer) {
        self.armed.retain(|(t, _)| *t != timer);
    }

    /// Disarms everything that concerns `worker`.
    pub fn clear_worker(&mut self, worker: WorkerId) {
        self.armed.retain(|(t, _)| t.worker() != Some(worker));
    }

    /// When `timer` is due, if it is armed.
    pub fn get(&self, timer: Timer) -> Option<Time> {
        self.armed.iter().find(|(t, _)| *t == timer).map(|e| e.1)
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Time> {
        self.armed.iter().map(|(_, at)| *at).min()
    }

    /// The latest deadline that something under way waits for.
    pub fn last(&self) -> Option<Time> {
        let awaited = self.armed.iter().filter(|(timer, _)| timer.is_awaited());
        awaited.map(|(_, at)| *at).max()
    }

    /// Takes out one timer that is due at `now`: the earliest, and of equal ones the smallest.
    pub fn pop_due(&mut self, now: Time) -> Option<Timer> {
        let due = self.armed.iter().enumerate();
        let (index, _) = due
            .filter(|(_, (_, at))| *at <= now)
            .min_by_key(|(_, (timer, at))| (*at, *timer))?;
        Some(self.armed.swap_remove(index).0)
    }
}
