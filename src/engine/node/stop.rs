// SPDX-License-Identifier: MIT OR Apache-2.0
//! The end of a Node worker. The app's own clean-up runs once, when nothing is left to do or
//! its time is over:
//!
//! With the preload, the worker is asked to drain. When it has, the app gets the message or
//! signal that it acts on; one that acts on none may end by itself. Without the preload it
//! is not known whether the app acts on a signal (Node always catches SIGTERM and SIGINT,
//! to restore the terminal): it is disconnected, which finishes what is in flight, and then
//! signalled; unless the configuration names a signal or a message, which then comes first.

use super::{Engine, Outgoing};
use crate::core::{Event, WorkerId};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// An idle connection is closed if no request comes on it for so long; the other: when the
/// whole app ends.
pub(super) const QUIET: Duration = Duration::from_secs(2);
const QUIET_HURRY: Duration = Duration::from_millis(250);
/// How long a worker that has nothing left to do may take to end by itself.
pub(super) const GRACE: Duration = Duration::from_millis(500);

/// How far it has come.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Progress {
    /// It was asked to drain.
    asked: bool,
    /// It has.
    drained: bool,
    /// It was told to disconnect.
    disconnected: bool,
    /// It is to be, when it has closed all its servers.
    disconnect_later: bool,
    /// The signals that the app acts on, as far as it was told.
    pub signals: Vec<String>,
}

impl Engine {
    /// [`crate::core::Action::Drain`]
    pub(in super::super) fn drain(&mut self, worker: WorkerId, within: Duration, hurry: bool) {
        let told = self.is_told_how_to_stop(worker);
        let Some(talk) = self.talk(worker).filter(|t| !t.channel.has_ended()) else {
            let grace = Duration::ZERO;
            self.pending.push_back(Event::Drained { worker, grace });
            return;
        };
        talk.stop.asked = true;
        if talk.preload.is_some() {
            let quiet = if hurry { QUIET_HURRY } else { QUIET };
            let quiet = quiet.min(within / 4);
            let message = Outgoing::Drain {
                quiet,
                within,
                hurry,
            };
            self.say(worker, &message, None);
        } else if told || talk.servers.is_empty() {
            talk.stop.drained = true;
            let grace = Duration::ZERO;
            self.pending.push_back(Event::Drained { worker, grace });
        } else {
            talk.stop.disconnected = true;
            self.say(worker, &Outgoing::Disconnect, None);
        }
    }

    /// Whether the configuration says what asks this app to finish.
    fn is_told_how_to_stop(&self, worker: WorkerId) -> bool {
        let release = self
            .core
            .worker(worker)
            .and_then(|w| self.releases.get(&w.generation));
        release.is_some_and(|release| {
            let config = &release.config;
            config.stop_message.is_some() || config.source.gives("stop_signal")
        })
    }

    /// A worker that was asked to drain has no connection left.
    pub(super) fn drained(&mut self, worker: WorkerId) {
        let told = self.is_told_how_to_stop(worker);
        let leaves = self.core.worker(worker).is_some_and(|w| w.leaving);
        let Some(talk) = self.talk(worker) else {
            return;
        };
        let may = talk.stop.asked || leaves;
        if !may || std::mem::replace(&mut talk.stop.drained, true) {
            return;
        }
        let acts = |name: &str| talk.stop.signals.iter().any(|s| s == name);
        let by_itself = match talk.preload {
            Some(_) => !told && !acts("SIGTERM") && !acts("SIGINT"),
            None => talk.channel.has_ended(),
        };
        let grace = if by_itself { GRACE } else { Duration::ZERO };
        if by_itself && talk.preload.is_some() {
            self.say(worker, &Outgoing::Release { after: None }, None);
        }
        self.feed(Event::Drained { worker, grace });
    }

    /// The stop signal, or what this app takes for it. `false`: it is no Node worker.
    pub(in super::super) fn signal_node(&mut self, worker: WorkerId, signal: i32) -> bool {
        let Some(known) = self.core.worker(worker) else {
            return false;
        };
        let release = self.releases.get(&known.generation);
        let message = release.and_then(|r| r.config.stop_message.clone());
        let own_choice = release.is_some_and(|r| r.config.source.gives("stop_signal"));
        let Some(talk) = self.talk(worker) else {
            return false;
        };
        let after = match message.filter(|_| !talk.channel.has_ended()) {
            Some(message) => {
                self.say(worker, &Outgoing::User(message), None);
                Some("message")
            }
            None => {
                let acts = |name: &str| talk.stop.signals.iter().any(|s| s == name);
                let signal = match acts("SIGINT") && !acts("SIGTERM") && !own_choice {
                    true => Signal::SIGINT as i32,
                    false => signal,
                };
                self.signal_app(worker, signal);
                Signal::try_from(signal).ok().map(Signal::as_str)
            }
        };
        self.let_go(worker, after);
        true
    }

    /// A signal to the process of the app itself, which may not be the one that we started.
    fn signal_app(&mut self, worker: WorkerId, signal: i32) {
        let speaker = self.talk(worker).and_then(|t| t.channel.speaker());
        let main = self.held.get(&worker).map(|h| h.process.pid);
        // The number may be somebody else's by now.
        let other = speaker.filter(|pid| Some(*pid) != main && self.members(worker).contains(pid));
        match (other, Signal::try_from(signal)) {
            (Some(pid), Ok(signal)) => {
                let _ = kill(Pid::from_raw(pid), signal);
            }
            _ => self.signal(worker, signal),
        }
    }

    /// The channel is not to keep a worker alive that has been told to end, by this signal or
    /// message.
    fn let_go(&mut self, worker: WorkerId, after: Option<&'static str>) {
        let Some(talk) = self.talk(worker) else {
            return;
        };
        if talk.preload.is_some() {
            self.say(worker, &Outgoing::Release { after }, None);
        } else if talk.servers.is_empty() {
            self.disconnect(worker);
        } else {
            talk.stop.disconnect_later = true;
        }
    }

    fn disconnect(&mut self, worker: WorkerId) {
        let Some(talk) = self.talk(worker) else {
            return;
        };
        if !std::mem::replace(&mut talk.stop.disconnected, true) {
            self.say(worker, &Outgoing::Disconnect, None);
        }
    }

    /// It has closed a server.
    pub(super) fn closed(&mut self, worker: WorkerId, key: &str) {
        let Some(talk) = self.talk(worker) else {
            return;
        };
        talk.servers.retain(|server| server.key != key);
        let disconnects = talk.servers.is_empty() && talk.stop.disconnect_later;
        self.drop_extras();
        if disconnects {
            self.disconnect(worker);
        }
        self.steering.outdate();
        self.recorder.outdate();
    }

    /// Whether a worker is on its way out, so that nothing new is begun with it.
    pub(super) fn is_leaving(&self, worker: WorkerId) -> bool {
        let known = self.core.worker(worker);
        known.is_none_or(|w| !w.state.is_live())
    }
}
