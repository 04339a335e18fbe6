// SPDX-License-Identifier: MIT OR Apache-2.0
//! The companion: one process that gets the messages of all workers, and sends some. It is no
//! worker: the core does not know it, and whatever becomes of it, the app serves on.
//!
//! It runs from before the first worker until after the last. [`backlog`] is what waits for
//! it; how it is started and ends is in [`life`].

mod backlog;
mod keep;
mod life;

pub use keep::CompanionState;

use super::output::Tail;
use super::poller::{Interest, Token};
use super::spawn::Process;
use super::{Engine, Level, Record};
use crate::core::{GenerationId, RequestId, Time, WorkerId};
use crate::protocol::node::channel::{Channel, Received};
use crate::protocol::node::message::{Incoming, parse};
use crate::protocol::node::outgoing::Outgoing;
use crate::protocol::node::user::from_companion;
use backlog::Backlog;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Longest part of a line that is shown in the log, in characters.
const SHOWN: usize = 100;

/// What is known of it, whether it runs or not.
#[derive(Default)]
pub struct Companion {
    running: Option<Running>,
    backlog: Backlog,
    /// When it is started again.
    retry: Option<Time>,
    /// How often in a row it has ended soon after its start.
    failures: u32,
    restarts: u64,
    last_exit: Option<String>,
    /// The output of the last one that has ended (foreground only).
    pub last_tail: Option<Tail>,
    lost: u64,
    undelivered: u64,
    wrong: u64,
    /// It is not to be waited for.
    hurry: bool,
    /// Who is to be told that the app has stopped, when it has ended too.
    waiting: Vec<RequestId>,
}

/// A companion that runs.
struct Running {
    process: Process,
    channel: Channel,
    interest: Interest,
    generation: GenerationId,
    since: Time,
    stop: Stop,
    rules: Rules,
    tail: Option<Tail>,
}

/// How far its end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Stop {
    /// Nobody wants it.
    No,
    /// It has got its stop signal, and is killed then.
    Asked(Time),
    /// It has been killed.
    Killed,
}

/// What its generation's configuration says of its end.
#[derive(Debug, Clone, Copy)]
struct Rules {
    stop_signal: i32,
    stop_within: Duration,
    backoff_min: Duration,
    backoff_max: Duration,
}

impl Companion {
    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<i32> {
        self.running.as_ref().map(|running| running.process.pid)
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// When something is to be done about it.
    pub fn deadline(&self) -> Option<Time> {
        match &self.running {
            Some(Running {
                stop: Stop::Asked(until),
                ..
            }) => Some(*until),
            Some(_) => None,
            None => self.retry,
        }
    }

    /// When the app ends, it is killed.
    pub fn hurry(&mut self) {
        self.hurry = true;
    }

    /// Whether the answer to `request`, that the app has stopped, has to wait for it.
    pub fn stops_last(&mut self, request: RequestId) -> bool {
        if self.is_running() {
            self.waiting.push(request);
        }
        self.is_running()
    }

    /// Sends what waits for it, as far as it reads.
    fn pump(&mut self) {
        let Some(running) = &mut self.running else {
            return;
        };
        running.channel.flush();
        while !running.channel.wants_to_send() && !running.channel.has_ended() {
            match self.backlog.pop() {
                Some(line) => running.channel.send(line, None),
                None => return,
            }
        }
    }
}

impl Engine {
    /// Whether messages are wanted.
    pub(super) fn has_companion(&self) -> bool {
        self.companion.is_running() || self.wanted_companion().is_some()
    }

    /// A worker's message for the companion.
    pub(super) fn tell_companion(&mut self, from: WorkerId, envelope: &str) {
        let line = format!("{envelope}\n").into_bytes();
        let before = self.companion.lost;
        self.companion.lost += self.companion.backlog.push(from, line);
        let lost = self.companion.lost;
        if before.checked_ilog2() != lost.checked_ilog2() {
            let text =
                format!("does not read fast enough: {lost} messages for it were lost so far");
            self.about_companion(Level::Warning, &text, None);
        }
        self.pump_companion();
    }

    fn pump_companion(&mut self) {
        self.companion.pump();
        let Some(running) = &mut self.companion.running else {
            return;
        };
        if running.channel.take_changed() {
            self.recorder.outdate();
        }
        let wanted = match (
            running.channel.is_clogged(),
            running.channel.wants_to_send(),
        ) {
            (true, _) => Interest::Room,
            (false, true) => Interest::Both,
            (false, false) => Interest::Connection,
        };
        if wanted != running.interest && !running.channel.has_ended() {
            let token = Token::CompanionChannel;
            if self.poller.change(&running.channel, token, wanted).is_ok() {
                running.interest = wanted;
            }
        }
    }

    /// Something has happened on its channel.
    pub(super) fn take_companion_channel(&mut self) {
        let Some(running) = &mut self.companion.running else {
            return;
        };
        running.channel.flush();
        let received = match running.channel.is_clogged() {
            // It does not read the answers that it is owed: it is not heard until it does.
            true => Vec::new(),
            false => running.channel.receive(),
        };
        for one in received {
            match one {
                Received::Line(line) => {
                    let running = self.companion.running.as_mut();
                    let torn = running.is_some_and(|running| running.channel.take_torn());
                    match parse(&line) {
                        Ok(message) => self.companion_said(message),
                        Err(_) if torn => {}
                        Err(why) => self.companion_was_wrong(&why, &line),
                    }
                }
                Received::TooLong { length, handle } => {
                    self.companion_was_wrong(&format!("it is {length} bytes long"), b"");
                    if handle {
                        self.companion_sent_a_socket();
                    }
                }
                Received::End(_) => {
                    if let Some(running) = &self.companion.running {
                        self.poller.remove(&running.channel);
                    }
                }
            }
        }
        self.pump_companion();
    }

    fn companion_said(&mut self, message: Incoming) {
        match message {
            Incoming::User(text) => match from_companion(&text) {
                Ok((to, message)) => {
                    let delivered = self.deliver(&to, &message);
                    self.companion_failed_to_reach(&delivered.failed);
                }
                Err(why) => self.companion_was_wrong(&why, text.as_bytes()),
            },
            Incoming::Handle => {
                self.companion_sent_a_socket();
                self.companion_was_wrong("a socket cannot be passed on", b"");
            }
            _ => {}
        }
    }

    /// Its channel stands still until that has been acknowledged.
    fn companion_sent_a_socket(&mut self) {
        if let Some(running) = &mut self.companion.running {
            let answer = match running.channel.take_descriptor() {
                Some(_) => Outgoing::HandleAck,
                None => Outgoing::HandleNack,
            };
            running.channel.send(answer.line(0), None);
        }
    }

    /// Told the first time, and whenever there are twice as many.
    fn companion_failed_to_reach(&mut self, failed: &[String]) {
        let Some(why) = failed.first() else {
            return;
        };
        let before = self.companion.undelivered;
        self.companion.undelivered += failed.len() as u64;
        let count = self.companion.undelivered;
        if before.checked_ilog2() != count.checked_ilog2() {
            let text = format!("{count} messages of it were not delivered so far, the last: {why}");
            self.about_companion(Level::Warning, &text, None);
        }
    }

    fn companion_was_wrong(&mut self, why: &str, line: &[u8]) {
        self.companion.wrong += 1;
        let count = self.companion.wrong;
        if !count.is_power_of_two() {
            return;
        }
        let text = String::from_utf8_lossy(&line[..line.len().min(4 * SHOWN)]);
        let shown: String = text.escape_debug().take(SHOWN).collect();
        let shown = match shown.is_empty() {
            true => shown,
            false => format!(": {shown}"),
        };
        let text = format!("a message of it was dropped, {why}{shown} ({count} so far)");
        self.about_companion(Level::Warning, &text, None);
    }

    /// Logs something about it.
    fn about_companion(&mut self, level: Level, text: &str, id: Option<&'static str>) {
        let running = self.companion.running.as_ref();
        let pid = running.map(|r| r.process.pid);
        let name = pid.map(|pid| format!(" {pid}")).unwrap_or_default();
        let mut record = Record::plain(level, format!("companion{name} {text}"));
        record.id = id;
        record.generation = running.map(|r| r.generation);
        record.pid = pid;
        record.cgroup = self.companion_cgroup_name();
        self.log(record);
    }
}
