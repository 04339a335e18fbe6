// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is wrong with a worker, in the log.

use super::{Engine, Level, MAX_SERVERS, Record, SHOWN, Server, SlotId, WorkerId};

impl Engine {
    /// A line that makes no sense. Told the first time, and whenever there are twice as many.
    pub(super) fn misheard(&mut self, worker: WorkerId, why: &str, line: &[u8]) {
        let Some(talk) = self.talk(worker) else {
            return;
        };
        talk.wrong += 1;
        let count = talk.wrong;
        if !count.is_power_of_two() {
            return;
        }
        let text = String::from_utf8_lossy(&line[..line.len().min(4 * SHOWN)]);
        let shown: String = text.escape_debug().take(SHOWN).collect();
        let shown = if shown.is_empty() {
            shown
        } else {
            format!(": {shown}")
        };
        let text = format!("a line on its channel was dropped, {why}{shown} ({count} so far)");
        self.about(worker, Level::Warning, &text);
    }

    /// Logs something about a worker.
    pub(super) fn about(&mut self, worker: WorkerId, level: Level, text: &str) {
        let record = self.record_about(worker, level, text);
        self.log(record);
    }

    fn record_about(&self, worker: WorkerId, level: Level, text: &str) -> Record {
        let (slot, generation) = match self.core.worker(worker) {
            Some(known) => (known.slot, Some(known.generation)),
            None => (SlotId(0), None),
        };
        let pid = self.held.get(&worker).map(|h| h.process.pid);
        let message = format!("slot {slot}: worker {}: {text}", pid.unwrap_or_default());
        let mut record = Record::plain(level, message);
        record.worker = Some(worker);
        record.slot = Some(slot);
        record.generation = generation;
        record.pid = pid;
        record.cgroup = self.cgroup_name(Some(worker));
        record
    }

    /// The same, but only once for each text.
    pub(super) fn about_once(&mut self, worker: WorkerId, level: Level, text: &str) {
        if self.node.told.len() < MAX_SERVERS && !self.node.told.iter().any(|t| t == text) {
            self.node.told.push(text.to_owned());
            self.about(worker, level, text);
        }
    }

    /// Its channel is full. It may go on like that for ever.
    pub(super) fn tell_that_it_does_not_read(&mut self, worker: WorkerId) {
        let Some(talk) = self.talk(worker) else {
            return;
        };
        talk.clogged += 1;
        let count = talk.clogged;
        if count.is_power_of_two() {
            let text = format!(
                "its channel is full: it does not read what it is sent, and is not heard until \
                 it does ({count} so far)"
            );
            self.about(worker, Level::Warning, &text);
        }
    }

    /// A server opens its port by itself. That cannot be the port of the app.
    pub(super) fn listens_alone(&mut self, worker: WorkerId, port: u16, option: &str) {
        if self.listeners.iter().any(|l| l.port == Some(port)) {
            let text = format!(
                "it listens on port {port} with `{option}: true`, which opens the port past us: \
                 leave `{option}` out, and all workers share the app's port"
            );
            self.about_once(worker, Level::Warning, &text);
        }
    }

    /// What a worker that should have listened by now has done instead, in the log and to
    /// those who wait for it.
    pub(in super::super) fn tell_why_not_listening(&mut self, worker: WorkerId) {
        let Some(held) = self.held.get(&worker) else {
            return;
        };
        let Some(talk) = &held.talk else {
            return;
        };
        let listening = |s: &&Server| s.listening;
        let places = talk.servers.iter().filter(listening);
        let has: Vec<String> = places.map(|s| s.query.to_string()).collect();
        let missing = self.listeners.iter().enumerate();
        let missing = missing.filter(|(n, l)| !l.per_slot && talk.server_for(*n).is_none());
        let missing: Vec<&str> = missing.map(|(_, l)| l.address.as_str()).collect();
        let text = match (missing.is_empty(), has.is_empty(), talk.channel.speaker()) {
            (true, ..) => return,
            (_, false, _) => format!(
                "it listens on {}, but not on {}: let it listen on process.env.PORT, or change \
                 `listen`",
                has.join(", "),
                missing.join(", ")
            ),
            (_, _, None) => "nothing was said over its channel: either it is no Node program, or \
                             what was started keeps the channel or our preload from it (a start \
                             script that sets NODE_OPTIONS; nodemon)"
                .to_owned(),
            (_, _, Some(_)) => "it has not listened on anything that is seen: either it waits \
                                for something first (a database, an answer to a message), or a \
                                server has `exclusive: true` or `reusePort: true`, which opens \
                                its port past us: leave that out"
                .to_owned(),
        };
        let record = self.record_about(worker, Level::Error, &text);
        self.tell_waiting(&record.message);
        self.log(record);
    }
}
