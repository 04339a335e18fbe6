// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages to a worker's app.

use super::{Engine, Outgoing};
use crate::core::WorkerId;

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It is on its way.
    Yes,
    /// The worker has no channel, or has closed it.
    NoChannel,
    /// The worker does not read what waits for it already.
    Full,
}

impl Engine {
    /// Sends JSON text to a worker's app, which gets it by `process.on('message')`. It must not
    /// be one of Node's own messages.
    pub(in super::super) fn tell(&mut self, worker: WorkerId, message: &str) -> Told {
        let Some(talk) = self.talk(worker).filter(|t| !t.channel.has_ended()) else {
            return Told::NoChannel;
        };
        if !talk.channel.has_room(message.len()) {
            return Told::Full;
        }
        // In JSON these only stand between values; on the wire they would end the message.
        let line = message.replace(['\n', '\r'], " ");
        self.say(worker, &Outgoing::User(line), None);
        Told::Yes
    }
}
