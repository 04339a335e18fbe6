// SPDX-License-Identifier: MIT OR Apache-2.0
//! Figures of a worker's event loop. They are asked for with each ping of systemd's watchdog
//! and when somebody wants to know; nobody waits for them.

use super::{Engine, Outgoing, now};
use crate::api::EventLoop;
use crate::core::{Time, WorkerId, WorkerState};
use std::time::Duration;

/// Younger figures are not asked for again.
const FRESH: Duration = Duration::from_secs(1);

/// What the preload of one worker has told.
#[derive(Debug, Default)]
pub struct Vitals {
    /// It was asked, and has not answered.
    asked: bool,
    at: Option<Time>,
    utilization: Option<f64>,
    heap: Option<u64>,
}

impl Vitals {
    /// It has answered.
    pub fn told(&mut self, utilization: f64, heap: u64) {
        *self = Vitals {
            asked: false,
            at: Some(now()),
            utilization: Some(utilization),
            heap: Some(heap),
        };
    }

    /// Whether it is to be asked, which it is from now on. One question at a time: a worker
    /// that is blocked for an hour does not owe a thousand answers.
    fn ask(&mut self) -> bool {
        let fresh = self.at.is_some_and(|at| at + FRESH > now());
        !fresh && !std::mem::replace(&mut self.asked, true)
    }
}

impl Engine {
    /// Asks all workers that serve for their figures, unless it knows them.
    pub(in super::super) fn ask_vitals(&mut self) {
        let serving = self.core.workers();
        let serving = serving.filter(|w| w.state == WorkerState::Ready);
        let all: Vec<WorkerId> = serving.map(|w| w.id).collect();
        for worker in all {
            let Some(talk) = self.talk(worker) else {
                continue;
            };
            if talk.preload.is_some() && !talk.channel.has_ended() && talk.vitals.ask() {
                self.say(worker, &Outgoing::Vitals, None);
            }
            self.ask(worker);
        }
    }

    /// What is known of a worker's event loop; `None`: it is no Node worker.
    pub(in super::super) fn event_loop(&self, worker: WorkerId) -> Option<EventLoop> {
        let talk = self.held.get(&worker)?.talk.as_ref()?;
        let millis = |lag: Duration| (lag.as_secs_f64() * 1e6).round() / 1e3;
        Some(EventLoop {
            lag_ms: talk.life.lag.map(millis),
            utilization: talk.vitals.utilization,
            heap: talk.vitals.heap,
        })
    }
}
