// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which programs are spoken to in Node's protocol, and the settings of that.

use super::toml_reader::{Problem, Read, Reader, Value};
use super::values::{boolean, duration, expected, string};
use super::{Balance, Config, Protocol, companion};
use crate::core::Ready;
use serde::{Deserialize, Serialize};
use std::io::Read as _;
use std::path::Path;

/// What a worker's program is, where it is spoken to in Node's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Runner {
    /// Node itself, or whatever it is that inherits the channel.
    Node,
    /// Deno: it cannot accept from a socket that is handed to it.
    Deno,
    /// A program that starts Node in its turn and keeps the channel from it (npm, tsx): the
    /// preload attaches in the app's own process.
    Launcher,
}

/// `[node]`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSettings {
    /// Whether our preload is loaded into Node. Default yes.
    pub preload: bool,
    /// Whether a worker that listens on an address that is not the app's is refused.
    /// Default no.
    pub strict_ports: bool,
}

impl Default for NodeSettings {
    fn default() -> Self {
        NodeSettings {
            preload: true,
            strict_ports: false,
        }
    }
}

/// Programs that start Node in their turn.
const LAUNCHERS: [&str; 8] = [
    "npm", "npx", "pnpm", "pnpx", "yarn", "corepack", "tsx", "bunx",
];

/// What `command` starts, by its name alone; `None`: no Node.
fn by_name(command: &[String]) -> Option<Runner> {
    let program = Path::new(command.first()?).file_name()?.to_str()?;
    let options = || command[1..].iter().take_while(|word| word.starts_with('-'));
    let is_node = program == "node" || program == "nodejs";
    match program {
        "deno" => Some(Runner::Deno),
        _ if LAUNCHERS.contains(&program) => Some(Runner::Launcher),
        // These start another process for the app.
        _ if is_node && options().any(|o| o == "--run" || o.starts_with("--watch")) => {
            Some(Runner::Launcher)
        }
        _ if is_node => Some(Runner::Node),
        _ => None,
    }
}

/// Whether it is run by Bun, which speaks a protocol of its own.
fn is_bun(command: &[String]) -> bool {
    let program = command.first().map(Path::new).and_then(Path::file_name);
    program.is_some_and(|name| name == "bun")
}

/// Whether `program` is a script for Node (execve(2), "Interpreter scripts").
fn is_script(program: &Path) -> bool {
    let mut head = [0; 128];
    let read = std::fs::File::open(program).and_then(|mut file| file.read(&mut head));
    let head = &head[..read.unwrap_or(0)];
    let line = head.split(|b| *b == b'\n').next().unwrap_or_default();
    let Some(line) = std::str::from_utf8(line)
        .ok()
        .and_then(|l| l.strip_prefix("#!"))
    else {
        return false;
    };
    let mut words = line.split_whitespace();
    words.any(|word| matches!(word.rsplit('/').next(), Some("node" | "nodejs")))
}

impl Config {
    /// What is known of the program from what the configuration says of it. Whatever depends
    /// on the file itself is left out: units are made where it may not be there yet.
    pub fn runner_by_name(&self) -> Option<Runner> {
        match self.protocol {
            Protocol::ListenFds => None,
            Protocol::Auto => by_name(&self.command),
            Protocol::Node => by_name(&self.command).or(Some(Runner::Node)),
        }
    }

    /// How the program is spoken to; `None`: LISTEN_FDS and NOTIFY_SOCKET. `program` is the
    /// file that is run.
    pub(super) fn runner(&self, program: &Path) -> Option<Runner> {
        match (self.runner_by_name(), self.protocol) {
            (None, Protocol::Auto) if is_script(program) => Some(Runner::Node),
            (known, _) => known,
        }
    }

    fn asks_http(&self) -> bool {
        self.health.is_some() && self.health_command().is_none()
    }

    /// What cannot be with this program: the key, why, and what to do.
    pub(super) fn misfit(&self, runner: Option<Runner>) -> Option<(&'static str, String, String)> {
        let steered = !matches!(self.balance, Balance::Auto | Balance::RoundRobin);
        let needs = |what: &str| {
            format!(
                "{what} needs a Node program, which `{}` is not seen to be",
                self.command[0]
            )
        };
        let say_so = || "if it is one, say protocol = \"node\"".to_owned();
        let (key, why, hint) = match runner {
            _ if self.protocol != Protocol::ListenFds && is_bun(&self.command) => (
                "command",
                "Bun is not supported yet: each of its workers opens the port by itself, and \
                 none can be asked to stop accepting"
                    .to_owned(),
                "run the app with node; one that takes its socket from systemd (LISTEN_FDS) \
                 says protocol = \"listen-fds\""
                    .to_owned(),
            ),
            None if self.balance == Balance::RoundRobin => {
                ("balance", needs("\"round-robin\""), say_so())
            }
            None if self.ready == Ready::Listening => ("ready", needs("\"listening\""), say_so()),
            None if self.ready == Ready::Message => ("ready", needs("\"message\""), say_so()),
            None if self.stop_message.is_some() => {
                ("stop_message", needs("a stop message"), say_so())
            }
            None if self.asks_http() => (
                "health",
                needs("`http`, for which each worker is handed a connection of its own,"),
                "ask by a command, health = { exec = [...] }, or let the workers give signs of \
                 life, watchdog = \"10s\"; if it is a Node program, say protocol = \"node\""
                    .to_owned(),
            ),
            None if self.companion.is_some() => ("companion", needs("a companion"), say_so()),
            Some(Runner::Deno) if steered => (
                "balance",
                "Deno does not accept from a socket that is handed to it".to_owned(),
                "leave `balance` out: connections are handed over one by one (round-robin)"
                    .to_owned(),
            ),
            Some(Runner::Launcher) if !self.node.preload => (
                "node",
                format!(
                    "`{}` keeps the channel from the app that it starts",
                    self.command[0]
                ),
                "allow the preload, which attaches in the app's own process, or start the app \
                 with node itself"
                    .to_owned(),
            ),
            Some(_) if self.blocking => (
                "blocking",
                "Node hangs on a blocking socket".to_owned(),
                "leave `blocking` out".to_owned(),
            ),
            _ => return None,
        };
        Some((key, why, hint))
    }
}

/// What only matters to Node workers.
pub(super) fn take(file: &mut Reader<'_>, config: &mut Config) {
    file.take("stop_message", &mut config.stop_message, |v| {
        let text = string(v, "a message, such as \"shutdown\"")?;
        Ok(Some(serde_json::Value::from(text).to_string()))
    });
    let or_never = |v: &Value<'_>| Ok(Some(duration(v)?).filter(|d| !d.is_zero()));
    file.take("blocked_timeout", &mut config.blocked_timeout, or_never);
    file.take("hung_timeout", &mut config.hung_timeout, or_never);
    let before = config.node;
    file.take("node", &mut config.node, |v| settings(v, before));
    file.take("companion", &mut config.companion, companion::read);
}

/// `[node]`, over what was said before.
fn settings(value: &Value<'_>, before: NodeSettings) -> Read<NodeSettings> {
    let Some(table) = value.get_ref().as_table() else {
        return Err(expected(value, "a table, such as { preload = false }").into());
    };
    let mut found = before;
    let mut wrong = Vec::new();
    for (name, value) in table {
        let target = match name.get_ref().as_ref() {
            "preload" => &mut found.preload,
            "strict_ports" => &mut found.strict_ports,
            _ => {
                let hint = "there are `node.preload` and `node.strict_ports`";
                wrong.push(Problem::unknown_key("node", name).hint(hint));
                continue;
            }
        };
        match boolean(value) {
            Ok(said) => *target = said,
            Err(problems) => wrong.extend(problems),
        }
    }
    if wrong.is_empty() {
        Ok(found)
    } else {
        Err(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_by_name() {
        for (command, runner) in [
            ("node app.js", Some(Runner::Node)),
            ("/usr/bin/nodejs --inspect=0 app.js", Some(Runner::Node)),
            ("node --run start", Some(Runner::Launcher)),
            ("node --watch app.js", Some(Runner::Launcher)),
            ("node app.js --run x", Some(Runner::Node)),
            ("npm start", Some(Runner::Launcher)),
            ("./node_modules/.bin/tsx app.ts", Some(Runner::Launcher)),
            ("deno run -A app.ts", Some(Runner::Deno)),
            ("python3 node", None),
            ("./server", None),
        ] {
            let words: Vec<String> = command.split(' ').map(str::to_owned).collect();
            assert_eq!(by_name(&words), runner, "{command}");
        }
    }

    #[test]
    fn scripts_by_their_first_line() {
        let dir = tempfile::tempdir().expect("tempdir");
        for (text, is) in [
            ("#!/usr/bin/env node\nx", true),
            ("#!/usr/local/bin/node --harmony\n", true),
            ("#! /usr/bin/env -S node --import tsx\n", true),
            ("#!/bin/sh\nexec node\n", false),
            ("#!/usr/bin/env nodemon\n", false),
            ("node\n", false),
            ("", false),
        ] {
            let path = dir.path().join("script");
            std::fs::write(&path, text).expect("write");
            assert_eq!(is_script(&path), is, "{text}");
        }
    }

    #[test]
    fn what_only_node_can() {
        let said = |text: &str| {
            let config = Config::parse(text, "web.toml").expect("a configuration");
            config.misfit(config.runner_by_name())
        };
        for (text, key) in [
            (
                "command = \"./x\"\nbalance = \"round-robin\"",
                Some("balance"),
            ),
            (
                "command = \"./x\"\nstop_message = \"shutdown\"",
                Some("stop_message"),
            ),
            ("command = \"./x\"\nready = \"message\"", Some("ready")),
            (
                "command = \"./x\"\nready = \"message\"\nprotocol = \"node\"",
                None,
            ),
            ("command = \"node x\"\nblocking = true", Some("blocking")),
            (
                "command = \"deno run x\"\nbalance = \"even\"",
                Some("balance"),
            ),
            ("command = \"deno run x\"", None),
            ("command = \"bun x.ts\"", Some("command")),
            (
                "command = \"bun x.ts\"\nprotocol = \"node\"",
                Some("command"),
            ),
            ("command = \"bun x.ts\"\nprotocol = \"listen-fds\"", None),
            (
                "command = \"npm start\"\n[node]\npreload = false",
                Some("node"),
            ),
            ("command = \"node x\"\n[node]\npreload = false", None),
        ] {
            assert_eq!(said(text).map(|found| found.0), key, "{text}");
        }
    }
}
