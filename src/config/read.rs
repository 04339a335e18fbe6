// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the text of a configuration file to a [`Config`].

use super::diagnostic::{ConfigError, Source};
use super::keys::{self, Status};
use super::toml_reader::{Findings, Problem, Read, Reader, Value, all};
use super::values::{account, boolean, choice, duration, integer, list, mode, string};
use super::variables::{environment, environment_file};
use super::{
    Autostart, Balance, Config, Listen, MAX_LINES, MAX_WORKERS, Protocol, Sandbox, Workers,
    affinity, ageing, health, node, together, units, words,
};
use crate::core::{Batch, OnFailure, Ready, Restart};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::path::PathBuf;
use toml::de::DeValue;

/// Reads `fragments`, the text and the origin of each, the main file first: a key of a
/// later one replaces that of an earlier one, `environment` is added to.
///
/// # Errors
/// See [`Config::parse`].
pub(super) fn config(fragments: &[(String, String)]) -> Result<Config, ConfigError> {
    read(fragments, every_key, together::all)
}

fn every_key(file: &mut Reader<'_>, config: &mut Config) {
    program(file, config);
    sockets(file, config);
    unit(file, config);
    supervision(file, config);
    reload(file, config);
    others(file);
}

/// What is wrong with single keys of `text`.
#[cfg(test)]
pub(super) fn single_keys(text: &str) -> Result<Config, ConfigError> {
    let fragments = [(text.to_owned(), "web.toml".to_owned())];
    read(&fragments, every_key, |_, _| {})
}

/// The same, but only of the keys that units are made from; whatever the others say, and
/// what is wrong with the program, is left out.
pub(super) fn for_units(fragments: &[(String, String)]) -> Result<Config, ConfigError> {
    let some = |file: &mut Reader<'_>, config: &mut Config| {
        file.take("command", &mut config.command, |v| {
            Ok(command(v).unwrap_or_default())
        });
        file.take("directory", &mut config.directory, |v| {
            Ok(directory(v).unwrap_or_default())
        });
        file.take("workers", &mut config.workers, workers);
        file.take("drain_timeout", &mut config.drain_timeout, duration);
        file.take("pre_stop_delay", &mut config.pre_stop_delay, duration);
        file.take("protocol", &mut config.protocol, protocol);
        sockets(file, config);
        unit(file, config);
    };
    read(fragments, some, together::sockets)
}

fn read(
    fragments: &[(String, String)],
    take: impl Fn(&mut Reader<'_>, &mut Config),
    together: impl Fn(&mut Findings, &Config),
) -> Result<Config, ConfigError> {
    let mut findings = Findings::default();
    let mut config = Config::defaults(Vec::new(), Source::default());
    let main = fragments.first().map(|(_, origin)| origin.clone());
    findings.source.origin = main.unwrap_or_default();
    let mut whole = true;
    for (n, (text, origin)) in fragments.iter().enumerate() {
        // Some editors begin a file with a byte order mark, which would shift the columns.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut file = match Reader::new(text, origin, &mut findings) {
            Ok(file) => file,
            Err(error) => {
                findings.extend(error);
                whole = false;
                continue;
            }
        };
        take(&mut file, &mut config);
        if n == 0 {
            config.main_workers = config.workers;
        }
    }
    if whole {
        together(&mut findings, &config);
    }
    findings.finish(|source| Config { source, ..config })
}

/// What is run, and how it is spoken to.
fn program(file: &mut Reader<'_>, config: &mut Config) {
    file.take("command", &mut config.command, command);
    file.take("directory", &mut config.directory, directory);
    let mut added = BTreeMap::new();
    file.take("environment", &mut added, environment);
    config.environment.extend(added);
    file.take("environment_files", &mut config.environment_files, |v| {
        list(v, "[\"/etc/default/web\"]", environment_file)
    });
    file.take("workers", &mut config.workers, workers);
    affinity::take(file, config);
    file.take("protocol", &mut config.protocol, protocol);
    file.take("ready", &mut config.ready, ready);
}

/// Where connections come from, and who gets them.
fn sockets(file: &mut Reader<'_>, config: &mut Config) {
    file.take("listen", &mut config.listen, listen);
    file.take("slot_listen", &mut config.slot_listen, |v| {
        let text = string(v, "an address with {slot} in it")?;
        let read = text.parse().map(Some);
        read.map_err(|why: String| Problem::at(v, why).into())
    });
    file.take("max_workers", &mut config.max_workers, |v| {
        integer(v, 1, MAX_LINES).map(Some)
    });
    file.take("balance", &mut config.balance, |v| {
        let known = [
            ("auto", Balance::Auto),
            ("shared", Balance::Shared),
            ("even", Balance::Even),
            ("sticky", Balance::Sticky),
            ("round-robin", Balance::RoundRobin),
        ];
        choice(v, &known, &[])
    });
    file.take("blocking", &mut config.blocking, boolean);
    file.take("socket_user", &mut config.socket_user, account);
    file.take("socket_group", &mut config.socket_group, account);
    file.take("socket_mode", &mut config.socket_mode, mode);
}

/// What the units are to be like.
fn unit(file: &mut Reader<'_>, config: &mut Config) {
    file.take("user", &mut config.user, account);
    file.take("group", &mut config.group, account);
    file.take("sandbox", &mut config.sandbox, |v| {
        let known = [("default", Sandbox::Default), ("strict", Sandbox::Strict)];
        choice(v, &known, &[])
    });
    file.take("autostart", &mut config.autostart, |v| {
        let known = [
            ("boot", Some(Autostart::Boot)),
            ("connection", Some(Autostart::Connection)),
            ("never", Some(Autostart::Never)),
        ];
        choice(v, &known, &[])
    });
}

/// How workers start, stop and are replaced.
fn supervision(file: &mut Reader<'_>, config: &mut Config) {
    file.take("start_timeout", &mut config.start_timeout, duration);
    file.take("drain_timeout", &mut config.drain_timeout, duration);
    file.take("stop_signal", &mut config.stop_signal, stop_signal);
    file.take("pre_stop_delay", &mut config.pre_stop_delay, duration);
    file.take("health", &mut config.health, health::read);
    file.take("watchdog", &mut config.watchdog, |v| {
        Ok(Some(duration(v)?).filter(|d| !d.is_zero()))
    });
    node::take(file, config);
    file.take("restart", &mut config.restart, |v| {
        let known = [
            ("always", Restart::Always),
            ("on-failure", Restart::OnFailure),
            ("never", Restart::Never),
        ];
        choice(v, &known, &[])
    });
    file.take("stop_exit_codes", &mut config.stop_exit_codes, |v| {
        list(v, "[0, 3]", |v| integer(v, 0, 255))
    });
    file.take("backoff_min", &mut config.backoff_min, duration);
    file.take("backoff_max", &mut config.backoff_max, duration);
    file.take("crash_budget", &mut config.crash_budget, |v| {
        integer(v, 0, 1_000_000)
    });
    file.take("crash_window", &mut config.crash_window, duration);
    ageing::take(file, config);
}

/// How one generation follows another.
fn reload(file: &mut Reader<'_>, config: &mut Config) {
    file.take("canary_time", &mut config.canary_time, duration);
    file.take("batch", &mut config.batch, batch);
    file.take("min_ready_time", &mut config.min_ready_time, duration);
    file.take("max_draining", &mut config.max_draining, |v| {
        integer(v, 1, MAX_WORKERS).map(Some)
    });
    file.take("on_failure", &mut config.on_failure, |v| {
        let known = [("rollback", OnFailure::Rollback), ("hold", OnFailure::Hold)];
        choice(v, &known, &[])
    });
}

/// The keys that are not read: known for later, or unknown.
fn others(file: &mut Reader<'_>) {
    for (name, span, value) in file.left() {
        if file.full() {
            return;
        }
        let known = keys::find(&name).map(|key| key.status);
        if let Some(Status::NotYet(meanwhile)) = known {
            let hint = match meanwhile {
                "" => "leave it out".to_owned(),
                meanwhile => format!("meanwhile: {meanwhile}"),
            };
            file.error(span, format!("`{name}` is not yet supported"), Some(hint));
            continue;
        }
        let shown: String = name.chars().take(64).collect();
        let message = format!("unknown key `{}`", shown.escape_debug());
        let hint = match keys::suggest(&name) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None if value.is_table() => format!("the sections are {}", keys::sections()),
            None => "app-cluster.toml(5) lists the keys".to_owned(),
        };
        file.error(span, message, Some(hint));
    }
}

/// A program and its arguments: an array of words, or a string without shell syntax.
pub(super) fn command(value: &Value<'_>) -> Read<Vec<String>> {
    let words = match value.get_ref().as_str() {
        Some(_) => words::split(string(value, "a string")?)
            .map_err(|(message, hint)| Problem::at(value, message).hint(hint))?,
        None => list(value, "[\"node\", \"server.js\"]", |item| {
            string(item, "a string").map(str::to_owned)
        })?,
    };
    match words.first() {
        Some(program) if !program.is_empty() => Ok(words),
        _ => Err(Problem::at(value, "the command is empty")
            .hint("write what to run, such as [\"node\", \"server.js\"]")
            .into()),
    }
}

fn directory(value: &Value<'_>) -> Read<PathBuf> {
    let text = string(value, "a path, such as \"/srv/web\"")?;
    if !text.starts_with('/') {
        let problem = Problem::at(value, "the directory must be an absolute path");
        return Err(problem
            .hint("write it from `/` on; `~` is not expanded")
            .into());
    }
    Ok(PathBuf::from(text))
}

/// One address, an array of such, or a table from name to address, in the order of the file.
fn listen(value: &Value<'_>) -> Read<Vec<Listen>> {
    let address = |value: &Value<'_>| {
        let text = match value.get_ref() {
            DeValue::Integer(port) if port.radix() == 10 => port.as_str(),
            _ => string(value, "an address, such as \"127.0.0.1:3000\"")?,
        };
        text.parse()
            .map_err(|why: String| Vec::from(Problem::at(value, why)))
    };
    let unnamed = |item: &Value<'_>| {
        Listen::unnamed(address(item)?).map_err(|why| Vec::from(Problem::at(item, why)))
    };
    let listeners = if let Some(table) = value.get_ref().as_table() {
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        all(entries.into_iter().map(|(name, value)| {
            Listen::valid_name(name.get_ref()).map_err(|why| Problem::at(value, why))?;
            Ok(Listen {
                name: name.get_ref().to_string(),
                address: address(value)?,
            })
        }))?
    } else if value.get_ref().is_str() || value.get_ref().is_integer() {
        vec![unnamed(value)?]
    } else {
        list(value, "[\"127.0.0.1:3000\"]", unnamed)?
    };
    Listen::distinct(&listeners).map_err(|why| match why.contains(": name them") {
        true => Problem::at(value, why),
        false => Problem::at(value, why).hint("leave one of them out"),
    })?;
    Ok(listeners)
}

fn workers(value: &Value<'_>) -> Read<Workers> {
    let text = match value.get_ref() {
        DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
        _ => string(value, "a number of workers, \"max\" or \"-1\"")?,
    };
    text.parse()
        .map_err(|why: String| Problem::at(value, why).into())
}

fn protocol(value: &Value<'_>) -> Read<Protocol> {
    let known = [
        ("auto", Protocol::Auto),
        ("listen-fds", Protocol::ListenFds),
        ("node", Protocol::Node),
    ];
    choice(value, &known, &[])
}

/// A word, or a table with one of `delay` and `exec`.
fn ready(value: &Value<'_>) -> Read<Ready> {
    let usage = "\"auto\", \"notify\", \"accepting\", \"listening\", \"message\", \
                 { delay = \"1s\" } or { exec = [\"...\"] }";
    if let Some(table) = value.get_ref().as_table() {
        let mut entries = table.iter();
        return match (entries.next(), entries.next()) {
            (Some((key, value)), None) if key.get_ref() == "delay" => {
                duration(value).map(Ready::Delay)
            }
            (Some((key, value)), None) if key.get_ref() == "exec" => {
                command(value).map(Ready::Exec)
            }
            _ => Err(Problem::at(value, format!("expected {usage}")).into()),
        };
    }
    match string(value, usage)? {
        "auto" => Ok(Ready::Auto),
        "notify" => Ok(Ready::Notify),
        "accepting" => Ok(Ready::Accepting),
        "listening" => Ok(Ready::Listening),
        "message" => Ok(Ready::Message),
        "delay" | "exec" => Err(Problem::at(value, format!("expected {usage}")).into()),
        other => {
            let known = ["auto", "notify", "accepting", "listening", "message"];
            let problem = Problem::at(value, format!("expected {usage}"));
            Err(match keys::closest(other, known.into_iter()) {
                Some(meant) => problem.hint(format!("did you mean \"{meant}\"?")).into(),
                None => problem.into(),
            })
        }
    }
}

fn stop_signal(value: &Value<'_>) -> Read<i32> {
    let text = match value.get_ref() {
        DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
        _ => string(value, "a signal, such as \"SIGTERM\"")?,
    };
    let number = units::signal(text).map_err(|why| Problem::at(value, why))?;
    if number == Signal::SIGKILL as i32 || number == Signal::SIGSTOP as i32 {
        let problem = Problem::at(value, format!("no program can act on signal {text}"));
        let hint = "use SIGTERM; what is left after `drain_timeout` is killed anyway";
        return Err(problem.hint(hint).into());
    }
    Ok(number)
}

/// A number, or a share such as `"25%"`.
fn batch(value: &Value<'_>) -> Read<Batch> {
    let Some(text) = value.get_ref().as_str() else {
        return integer(value, 1, MAX_WORKERS).map(Batch::Count);
    };
    let share = text.strip_suffix('%').and_then(|text| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse().ok()).flatten()
    });
    match share {
        Some(share @ 1..=100) => Ok(Batch::Percent(share)),
        Some(_) => Err(Problem::at(value, "expected 1% to 100%").into()),
        None => {
            let problem = Problem::at(value, "expected a number of workers, or a share of them");
            Err(problem.hint("such as 2 or \"25%\"").into())
        }
    }
}
