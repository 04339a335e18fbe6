// SPDX-License-Identifier: MIT OR Apache-2.0
//! Descriptors that go from one supervisor to the next, and how they are called
//! (`FDNAME=` of sd_pid_notify_with_fds(3), LISTEN_FDNAMES of sd_listen_fds(3)).

use crate::core::WorkerId;
use std::fmt;

/// What no listener's name begins with.
pub const PREFIX: &str = "appc.";

/// One of our descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// See [`super::snapshot`].
    Snapshot,
    /// The control socket, which listens.
    Control,
    /// A worker's pidfd.
    Process(WorkerId),
    /// A worker's notify socket.
    Notify(WorkerId),
    /// Our end of a worker's channel.
    Channel(WorkerId),
    /// The pipe that a worker writes into (foreground).
    Output(WorkerId),
    /// A socket that was opened because a worker had asked for it, by its name.
    Extra(u64),
    /// A connection that was accepted and has not been taken by a worker (re-exec only), by its
    /// number.
    Connection(u64),
    /// The companion's pidfd.
    CompanionProcess,
    /// Our end of the companion's channel.
    CompanionChannel,
    /// The pipe that it writes into (foreground).
    CompanionOutput,
}

impl Name {
    /// What `text` calls; `None`: nothing that we know.
    pub fn parse(text: &str) -> Option<Name> {
        let words = text.strip_prefix(PREFIX)?;
        let worker = |number: &str| number.strip_prefix('w')?.parse().ok().map(WorkerId);
        match words.split_once('.') {
            None if words == "snapshot" => Some(Name::Snapshot),
            None if words == "control" => Some(Name::Control),
            Some(("pidfd", which)) => worker(which).map(Name::Process),
            Some(("notify", which)) => worker(which).map(Name::Notify),
            Some(("channel", which)) => worker(which).map(Name::Channel),
            Some(("output", which)) => worker(which).map(Name::Output),
            Some(("extra", which)) => which.parse().ok().map(Name::Extra),
            Some(("connection", which)) => which.parse().ok().map(Name::Connection),
            Some(("companion", "pidfd")) => Some(Name::CompanionProcess),
            Some(("companion", "channel")) => Some(Name::CompanionChannel),
            Some(("companion", "output")) => Some(Name::CompanionOutput),
            _ => None,
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        match self {
            Name::Snapshot => f.write_str("snapshot"),
            Name::Control => f.write_str("control"),
            Name::Process(worker) => write!(f, "pidfd.{worker}"),
            Name::Notify(worker) => write!(f, "notify.{worker}"),
            Name::Channel(worker) => write!(f, "channel.{worker}"),
            Name::Output(worker) => write!(f, "output.{worker}"),
            Name::Extra(name) => write!(f, "extra.{name}"),
            Name::Connection(number) => write!(f, "connection.{number}"),
            Name::CompanionProcess => f.write_str("companion.pidfd"),
            Name::CompanionChannel => f.write_str("companion.channel"),
            Name::CompanionOutput => f.write_str("companion.output"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let w = WorkerId(17);
        let all = [
            Name::Snapshot,
            Name::Control,
            Name::Process(w),
            Name::Notify(w),
            Name::Channel(w),
            Name::Output(w),
            Name::Extra(3),
            Name::Connection(4),
            Name::CompanionProcess,
            Name::CompanionChannel,
            Name::CompanionOutput,
        ];
        for name in all {
            assert_eq!(Name::parse(&name.to_string()), Some(name));
        }
        for other in [
            "web",
            "appc.",
            "appc.pidfd",
            "appc.pidfd.3",
            "appc.pidfd.w",
            "appc.x.w3",
        ] {
            assert_eq!(Name::parse(other), None, "{other}");
        }
    }
}
