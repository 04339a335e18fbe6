// SPDX-License-Identifier: MIT OR Apache-2.0
//! A connection of our own that is handed to one worker, as if it had accepted it.
//!
//! It is none of the app's traffic: it is not dealt, nor given to another worker, and whether
//! the worker takes it says nothing about how busy it is.

use super::{Engine, Flight, Outgoing, Sent};
use crate::core::WorkerId;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What became of it.
pub enum Handed {
    /// It was sent, as our message of this number.
    Yes(u64),
    /// The worker has no server.
    NoServer,
    /// It has not taken the last one.
    Waits,
}

impl Engine {
    /// Hands `connection` to the worker's server: that of the app's first address, else
    /// whichever it has.
    pub(in super::super) fn hand_over(
        &mut self,
        worker: WorkerId,
        connection: impl Into<OwnedFd>,
    ) -> Handed {
        let listeners = self.listeners.len();
        let Some(talk) = self.talk(worker).filter(|talk| !talk.channel.has_ended()) else {
            return Handed::NoServer;
        };
        let waits = |flight: &Flight| matches!(flight, Flight::Own);
        if talk.flights.values().any(waits) {
            return Handed::Waits;
        }
        let common = (0..listeners).find_map(|n| talk.server_for(n));
        let other = || talk.servers.iter().find(|server| server.listening);
        let Some(key) = common.or_else(other).map(|server| server.key.clone()) else {
            return Handed::NoServer;
        };
        let connection = Arc::new(connection.into());
        let sent = self.say(worker, &Outgoing::Connection { key }, Some(connection));
        let (Some(seq), Some(talk)) = (sent, self.talk(worker)) else {
            return Handed::NoServer;
        };
        talk.flights.insert(seq, Flight::Own);
        talk.handles.push_back(Sent::Connection(seq));
        Handed::Yes(seq)
    }
}
