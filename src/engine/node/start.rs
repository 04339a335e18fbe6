// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a Node worker is started: its channel and what it finds in its environment.

use super::Talk;
use crate::config::{Runner, Spread};
use crate::core::WorkerId;
use crate::protocol::node::channel::Channel;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::path::Path;

/// Where Node itself puts the channel of a child.
const CHANNEL: RawFd = 3;
/// A descriptor that survives launchers: Node and libuv mark those up to 16 close-on-exec.
const LATE_CHANNEL: RawFd = 20;

/// An app without a listener: its workers get no cluster, so that one that has done its
/// work ends (with NODE_UNIQUE_ID the channel would keep it alive).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch(pub bool);

/// What goes into a new worker.
pub struct Start {
    /// Our end.
    pub talk: Talk,
    /// The worker's end, and its number there.
    pub channel: (OwnedFd, RawFd),
}

impl Start {
    /// A channel for `worker`; `None`: it gets none.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(runner: Runner, spread: Spread, batch: Batch) -> io::Result<Option<Start>> {
        if runner == Runner::Launcher && batch.0 {
            return Ok(None);
        }
        let (channel, theirs) = Channel::pair()?;
        let number = match runner {
            Runner::Launcher => LATE_CHANNEL,
            _ => CHANNEL,
        };
        Ok(Some(Start {
            talk: Start::talk(channel, runner, spread),
            channel: (theirs, number),
        }))
    }

    /// What will be said over the channel of a new worker.
    pub fn talk(mut channel: Channel, runner: Runner, spread: Spread) -> Talk {
        let spread = match runner {
            Runner::Deno => {
                channel.part_handles();
                Spread::RoundRobin
            }
            _ => spread,
        };
        Talk::new(channel, runner, spread)
    }

    /// Adds to the environment of `worker` what makes it one of a cluster. `preload`: the
    /// file to be loaded ahead of the app.
    pub fn announce(
        &self,
        environment: &mut BTreeMap<String, String>,
        worker: WorkerId,
        batch: Batch,
        preload: Option<&Path>,
    ) {
        let number = self.channel.1.to_string();
        let mut add = |name: &str, value: String| environment.insert(name.to_owned(), value);
        match self.talk.runner {
            Runner::Launcher => {
                add("APP_CLUSTER_FD", number);
                add("APP_CLUSTER_ID", worker.0.to_string());
            }
            Runner::Node | Runner::Deno => {
                add("NODE_CHANNEL_FD", number);
                add("NODE_CHANNEL_SERIALIZATION_MODE", "json".to_owned());
                if !batch.0 {
                    add("NODE_UNIQUE_ID", worker.0.to_string());
                }
            }
        }
        if let Some(path) = preload.filter(|_| !batch.0 && self.talk.runner != Runner::Deno) {
            let quoted = path.display().to_string().replace('\\', "\\\\");
            let quoted = quoted.replace('"', "\\\"");
            let ours = format!("--require \"{quoted}\"");
            let options = environment.entry("NODE_OPTIONS".to_owned()).or_default();
            if !options.is_empty() {
                options.push(' ');
            }
            options.push_str(&ours);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(runner: Runner, batch: bool, before: &[(&str, &str)]) -> Vec<String> {
        let mut all = before
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect();
        let start = Start::new(runner, Spread::Even, Batch(batch)).expect("a channel");
        let preload = Some(Path::new("/run/a \"b\"/p.cjs"));
        if let Some(start) = start {
            start.announce(&mut all, WorkerId(7), Batch(batch), preload);
        }
        all.into_iter().map(|(k, v)| format!("{k}={v}")).collect()
    }

    #[test]
    fn each_kind_of_program_gets_its_own() {
        assert_eq!(
            environment(Runner::Node, false, &[("NODE_OPTIONS", "--trace-warnings")]),
            [
                "NODE_CHANNEL_FD=3",
                "NODE_CHANNEL_SERIALIZATION_MODE=json",
                "NODE_OPTIONS=--trace-warnings --require \"/run/a \\\"b\\\"/p.cjs\"",
                "NODE_UNIQUE_ID=7",
            ]
        );
        assert_eq!(
            environment(Runner::Node, true, &[]),
            ["NODE_CHANNEL_FD=3", "NODE_CHANNEL_SERIALIZATION_MODE=json"]
        );
        assert_eq!(
            environment(Runner::Launcher, false, &[])[..2],
            ["APP_CLUSTER_FD=20", "APP_CLUSTER_ID=7"]
        );
        assert!(environment(Runner::Launcher, true, &[]).is_empty());
        let deno = environment(Runner::Deno, false, &[]);
        assert!(!deno.iter().any(|v| v.starts_with("NODE_OPTIONS")));
    }
}
