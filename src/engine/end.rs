// SPDX-License-Identifier: MIT OR Apache-2.0
//! The end: everything has stopped, or nothing could be started.

use super::{Engine, LAST_WORDS, Level, Record, now};
use crate::core::Outcome;
use anyhow::Result;

impl Engine {
    /// Says what is to be said, and leaves nothing behind.
    pub(super) fn finish(mut self) -> Result<Outcome> {
        let outcome = self.outcome.take().unwrap_or(Outcome::Stopped);
        // What the last processes wrote is shown before we end, and our threads with us.
        let until = now() + LAST_WORDS;
        let tails = self.tails.iter().map(|(_, tail)| tail);
        for tail in tails.chain(&self.companion.last_tail) {
            tail.at_end(until.since(now()));
        }
        match &outcome {
            Outcome::Stopped => self.log(Record::plain(Level::Info, "stopped")),
            // Whoever called us says why; systemd shows the line that it was told last.
            Outcome::StartFailed(_) => self.systemd.set_status(&self.core.status_line()),
        }
        self.reap_orphans();
        self.record_end();
        self.leave_lines();
        self.audience.end();
        self.companion_is_gone();
        self.journal.finish(LAST_WORDS);
        // Those who still wait will have no answer.
        self.waiting.clear();
        drop(self.calls);
        self.open.settle(LAST_WORDS);
        Ok(outcome)
    }
}
