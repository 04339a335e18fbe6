// SPDX-License-Identifier: MIT OR Apache-2.0
//! `app-cluster check`: what is wrong or doubtful before anything is started.

use super::diagnostic::{Diagnostic, Position, Severity};
use super::toml_reader::ABOVE;
use super::{Config, Cpus, Launch};
use crate::core::Ready;
use std::time::Duration;

/// Programs that start the real one without handing on descriptors above 2.
const LAUNCHERS: &[&str] = &["npm", "npx", "pnpm", "yarn"];

/// Everything [`Launch::resolve`] finds wrong with `config` in the environment `base`,
/// and warnings about what can be used but is probably not meant.
pub fn check(config: &Config, base: impl IntoIterator<Item = (String, String)>) -> Vec<Diagnostic> {
    let mut found = match Launch::resolve(config, base) {
        Ok(_) => Vec::new(),
        Err(error) => error.diagnostics,
    };
    found.extend(doubts(config));
    found
}

/// Only these warnings.
pub fn doubts(config: &Config) -> Vec<Diagnostic> {
    let mut doubtful = warnings(config, &Cpus::detect());
    doubtful.extend(misplaced(config));
    doubtful.sort_by_key(|d| d.position.line);
    doubtful
}

/// What can be used but is probably not meant, with the workers of a machine with `cpus`.
fn warnings(config: &Config, cpus: &Cpus) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let mut warn = |key: &str, message: String, hint: String| {
        let source = &config.source;
        found.push(source.diagnostic(Severity::Warning, key, message, Some(hint)));
    };
    let workers = config.policy(cpus).workers;
    if config.source.gives("balance") && config.spread().has_lines() && config.listen.is_empty() {
        warn(
            "balance",
            "without `listen` there is one socket, which all workers share: the socket unit \
             says where it listens"
                .into(),
            "say it here, such as listen = [\"3000\"]".into(),
        );
    }
    if config.start_timeout.is_zero() {
        warn(
            "start_timeout",
            "no worker can be ready in no time: each one will count as failed".into(),
            "leave `start_timeout` out for 30s".into(),
        );
    }
    if config.batch.of(workers) >= workers && workers > 1 {
        warn(
            "batch",
            format!(
                "after its first worker, a reload replaces all of the {workers} workers at once"
            ),
            "a smaller `batch` keeps some of the old workers until the new ones are ready".into(),
        );
    }
    if config.crash_window.is_zero() {
        warn(
            "crash_window",
            "no crash is ever counted, so a reload to a crashing release goes through".into(),
            "leave `crash_window` out for 60s".into(),
        );
    }
    // Where Node's protocol is spoken the preload attaches behind it.
    if config.runner_by_name().is_none()
        && let Some(launcher) = launcher(&config.command)
    {
        warn(
            "command",
            format!("`{launcher}` does not hand the listening socket on to the program it starts"),
            "name the program itself: command = [\"node\", \"server.js\"]".into(),
        );
    }
    if config.ready == Ready::Delay(Duration::ZERO) {
        warn(
            "ready",
            "a worker counts as ready before it has run at all".into(),
            "use \"auto\", or a delay that the program needs to start".into(),
        );
    }
    found
}

/// Warnings about variables that look like keys which were written in the wrong place.
fn misplaced(config: &Config) -> Vec<Diagnostic> {
    let source = &config.source;
    let warning = |name: &String| {
        let message = format!(
            "`{name}` is a key of the app, and stands under `[environment]`: it sets a variable"
        );
        let hint = Some(ABOVE.to_owned());
        let key = format!("environment.{name}");
        let found = source.diagnostic(Severity::Warning, &key, message, hint);
        Diagnostic {
            position: Position {
                column: 1,
                width: name.len(),
                // Nobody is to see the value.
                text: format!("{name} = ..."),
                ..found.position
            },
            ..found
        }
    };
    source.like_keys.iter().map(warning).collect()
}

/// The launcher that `command` starts the real program with, if it does.
fn launcher(command: &[String]) -> Option<&str> {
    let program = command.first()?.rsplit('/').next()?;
    if program == "node" && command.iter().any(|word| word == "--run") {
        return Some("node --run");
    }
    LAUNCHERS.iter().find(|name| **name == program).copied()
}
