// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a worker says over its channel, and what follows.

use super::{Engine, Level, Outgoing, RESENDS, SHOWN, Sent, WorkerId, WorkerState};
use crate::core::{Event, Notification};
use crate::engine::fault;
use crate::protocol::node::channel::Received;
use crate::protocol::node::message::{Incoming, Preload, may_be_read_twice, parse};
use std::sync::Arc;

impl Engine {
    /// Something has happened on a worker's channel. `last`: there is no later turn.
    pub(in super::super) fn take_channel(&mut self, worker: WorkerId, last: bool) {
        let careful = !last && self.is_in(worker, WorkerState::Starting) && self.is_recorded();
        let Some(talk) = self.talk(worker) else {
            return self.take_stray(worker);
        };
        talk.channel.flush();
        if careful && self.take_carefully(worker) {
            return self.watch_channel(worker);
        }
        let Some(talk) = self.talk(worker) else {
            return;
        };
        let received = match talk.channel.is_clogged() {
            true => Vec::new(),
            false => talk.receive(),
        };
        for one in received {
            match one {
                Received::Line(line) => self.take_message(worker, &line),
                Received::TooLong { length, handle } => {
                    let why = format!("it is {length} bytes long");
                    self.misheard(worker, &why, b"");
                    if handle {
                        self.acknowledge(worker);
                    }
                }
                Received::End(left) => {
                    if left > 0 {
                        let why = format!("it ends in the middle, after {left} bytes");
                        self.misheard(worker, &why, b"");
                    }
                    self.channel_ended(worker);
                }
            }
        }
        self.watch_channel(worker);
    }

    /// What a worker says once while it starts is left in the channel until it has been recorded,
    /// so that a supervisor that is killed does not take a question with it. Read twice, it is
    /// answered twice, and Node drops an answer to what it has not asked. `false`: nothing
    /// that can be left there has arrived.
    fn take_carefully(&mut self, worker: WorkerId) -> bool {
        let talk = self.talk(worker).filter(|talk| !talk.channel.is_clogged());
        let lines = talk.map(|talk| talk.channel.look(may_be_read_twice));
        let lines = lines.unwrap_or_default();
        for line in &lines {
            self.take_message(worker, line);
            if let Some(talk) = self.talk(worker) {
                talk.channel.acted_upon(line);
            }
        }
        !lines.is_empty()
    }

    fn take_message(&mut self, worker: WorkerId, line: &[u8]) {
        let torn = self.talk(worker).is_some_and(|t| t.channel.take_torn());
        match parse(line) {
            Ok(message) => self.heard(worker, message),
            Err(_) if torn => {}
            Err(why) => self.misheard(worker, &why, line),
        }
    }

    fn heard(&mut self, worker: WorkerId, message: Incoming) {
        match message {
            Incoming::Online => self.begins(worker),
            Incoming::Other => {}
            Incoming::Query { seq, query } => {
                fault::point("before-answer");
                self.answer(worker, seq, query);
                fault::point("after-answer");
            }
            Incoming::Listening(query) => {
                fault::point("before-listening");
                self.listens(worker, &query);
            }
            Incoming::Close { key } => self.closed(worker, &key),
            Incoming::Leaving { seq } => {
                self.say(worker, &Outgoing::MayLeave { ack: seq }, None);
                if self.is_in(worker, WorkerState::Ready) {
                    let what = Notification::Stopping;
                    self.feed(Event::Notified { worker, what });
                }
            }
            Incoming::Accepted { ack, accepted } => self.took(worker, ack, accepted),
            Incoming::HandleAck => self.arrived(worker, true),
            Incoming::HandleNack => self.arrived(worker, false),
            Incoming::Handle => self.acknowledge(worker),
            Incoming::Preload(said) => self.preload_said(worker, said),
            Incoming::User(text) => self.user_message(worker, text),
        }
    }

    /// A worker's channel stands still until a socket that it has sent is acknowledged.
    fn acknowledge(&mut self, worker: WorkerId) {
        let Some(talk) = self.talk(worker) else {
            return;
        };
        let answer = match talk.channel.take_descriptor() {
            Some(_) => Outgoing::HandleAck,
            None => Outgoing::HandleNack,
        };
        self.say(worker, &answer, None);
    }

    /// A process begins to speak. Behind a launcher it may be the next one: what the last one
    /// had went with it.
    fn begins(&mut self, worker: WorkerId) {
        self.deal_again(worker);
        if let Some(talk) = self.talk(worker) {
            talk.servers.clear();
            talk.preload = None;
            talk.stop.signals.clear();
            talk.rests_until = None;
        }
        self.drop_extras();
        self.steering.outdate();
        self.recorder.outdate();
        self.deal_soon();
        self.lives_anew(worker);
    }

    pub(super) fn is_in(&self, worker: WorkerId, state: WorkerState) -> bool {
        self.core.worker(worker).is_some_and(|w| w.state == state)
    }

    fn preload_said(&mut self, worker: WorkerId, said: Preload) {
        match said {
            Preload::Hello { .. } => fault::point("before-hello"),
            Preload::Drained => fault::point("before-drained"),
            _ => {}
        }
        if matches!(said, Preload::Hello { .. } | Preload::Draining { .. }) {
            self.recorder.outdate();
        }
        let Some(talk) = self.talk(worker) else {
            return;
        };
        match said {
            Preload::Hello { node } => talk.preload = Some(node.chars().take(SHOWN).collect()),
            Preload::Vitals { utilization, heap } => talk.vitals.told(utilization, heap),
            Preload::Draining { signals } => talk.stop.signals = signals,
            Preload::Drained => self.drained(worker),
            Preload::Alone { port, option } => self.listens_alone(worker, port, option),
        }
    }

    /// A message of the app.
    fn user_message(&mut self, worker: WorkerId, text: String) {
        if text == "\"ready\"" && self.is_in(worker, WorkerState::Starting) {
            let what = Notification::SaidReady;
            self.feed(Event::Notified { worker, what });
        }
        self.pass_on(worker, &text);
    }

    /// A socket that was sent has arrived, or has not.
    fn arrived(&mut self, worker: WorkerId, well: bool) {
        if well && self.talk(worker).is_some_and(|talk| talk.unsettled) {
            return; // See `Talk::settle`.
        }
        let Some(sent) = self.talk(worker).and_then(|t| t.handles.pop_front()) else {
            // More of these than sockets would make Node abort; us they concern little.
            self.misheard(worker, "it acknowledges a socket that was not sent", b"");
            return;
        };
        match sent {
            _ if well => {}
            Sent::Answer(message, socket, tries) if tries < RESENDS => {
                self.say(worker, &message, Some(Arc::clone(&socket)));
                if let Some(talk) = self.talk(worker) {
                    let again = Sent::Answer(message, socket, tries + 1);
                    talk.handles.push_back(again);
                }
            }
            Sent::Answer(..) => {
                let text = "the socket that it asked for does not arrive: it has probably no \
                            descriptor left (raise LimitNOFILE=)";
                self.about_once(worker, Level::Error, text);
            }
            Sent::Connection(seq) => self.took(worker, seq, false),
        }
    }
}
