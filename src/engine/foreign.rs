// SPDX-License-Identifier: MIT OR Apache-2.0
//! Workers that we may not signal: `user` was changed, and the supervisor that had started them
//! was killed before the restart that this takes. They serve on. We can neither replace nor
//! stop them; what runs after the stop of the unit (`app-cluster sweep`) can, so it is left to
//! that.

use super::{Engine, Level, Record};
use crate::core::{Outcome, WorkerId};
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::collections::BTreeMap;

/// Those workers, and whether it was tried to end them.
pub type Foreign = BTreeMap<WorkerId, bool>;

/// Whether kill(2) would fail for want of permission.
fn may_not_signal(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None) == Err(Errno::EPERM)
}

impl Engine {
    /// Looks which of the workers that were taken over are foreign, and tells.
    pub(super) fn meet_foreigners(&mut self) {
        let held = self.held.iter();
        let foreign = held.filter(|(_, held)| may_not_signal(held.process.pid));
        self.foreign = foreign.map(|(id, _)| (*id, false)).collect();
        if let Some(text) = self.foreigners() {
            self.log(Record::plain(Level::Error, text));
        }
    }

    /// What is to be told of them, if there are any.
    pub(super) fn foreigners(&self) -> Option<String> {
        let held = self.foreign.keys().filter_map(|id| self.held.get(id));
        let pids: Vec<String> = held.map(|held| held.process.pid.to_string()).collect();
        let unit = self.unit.as_deref().unwrap_or("its unit");
        (!pids.is_empty()).then(|| {
            format!(
                "workers {} have another user than this supervisor, which can neither replace nor \
                 stop them; they serve on\n  hint: `systemctl restart {unit}`: they finish what \
                 they have accepted, and new connections wait",
                pids.join(", ")
            )
        })
    }

    /// The first line of that.
    pub(super) fn foreigners_briefly(&self) -> Option<String> {
        let text = self.foreigners()?;
        text.lines().next().map(str::to_owned)
    }

    /// A worker is sent a signal.
    pub(super) fn has_signalled(&mut self, worker: WorkerId) {
        if let Some(tried) = self.foreign.get_mut(&worker) {
            *tried = true;
        }
    }

    /// Ends ahead of workers that we were to end, and that are all that is left.
    pub(super) fn foreigners_turn(&mut self) {
        let waits = |id: &WorkerId| self.foreign.get(id) == Some(&true);
        let stopping = self.core.is_stopping() && self.outcome.is_none();
        if stopping && !self.held.is_empty() && self.held.keys().all(waits) {
            let text = "what is left has another user, and is left to `app-cluster sweep`";
            self.log(Record::plain(Level::Warning, text));
            self.outcome = Some(Outcome::Stopped);
        }
    }

    /// Whether the companion is foreign: nobody is to wait for its end.
    pub(super) fn companion_is_foreign(&self) -> bool {
        self.companion.pid().is_some_and(may_not_signal)
    }
}
