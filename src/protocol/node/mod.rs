// SPDX-License-Identifier: MIT OR Apache-2.0
//! The protocol between a `node:cluster` primary and its workers, as the primary speaks it.
//!
//! A stream socket pair; one JSON value and a newline for each message (`serialization:
//! 'json'` of Node's `child_process`); a descriptor goes with the message that names it
//! (SCM_RIGHTS, unix(7)). It is internal to Node (lib/internal/child_process.js,
//! lib/internal/cluster/), but has not changed from Node 8 to 26. [`message`] is what
//! workers say, [`outgoing`] what we say, [`channel`] how it is carried. What a worker says is untrusted: everything is
//! bounded, and nothing that it sends is more than an error about that worker.

pub mod channel;
pub mod message;
pub mod outgoing;
pub mod user;

/// What workers load ahead of the app, see its own head.
pub const PRELOAD: &str = include_str!("preload.cjs");
