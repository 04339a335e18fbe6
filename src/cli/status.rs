// SPDX-License-Identifier: MIT OR Apache-2.0
//! `app-cluster status`.

use super::Fail;
use super::client::Client;
use crate::api::{CompanionStatus, Limits, SlotStatus, Status, TakenOver};
use crate::config::{show_duration, show_size};
use crate::engine::Style;
use std::fmt::Write;
use std::time::Duration;

pub fn main(name: &str, json: bool, ready: bool) -> Result<(), Fail> {
    let status = Client::connect(name)?.status()?;
    if json {
        let text = serde_json::to_string_pretty(&status).unwrap_or_default();
        outln!("{text}");
    } else if !ready {
        out!("{}", render(&status, Style::for_stdout().colour));
    }
    if !ready {
        return Ok(());
    }
    let said = readiness(&status).map_err(Fail::printed)?;
    if !json {
        outln!("{said}");
    }
    Ok(())
}

/// Whether the app takes traffic: for load balancers and their agents.
///
/// # Errors
/// Why it does not.
fn readiness(status: &Status) -> Result<String, Fail> {
    let workers = status.slots.iter().filter(|slot| slot.state == "ready");
    let (name, desired) = (&status.app, status.workers.desired);
    match (status.state.as_str(), workers.count()) {
        ("stopping", _) => Err(Fail::from(anyhow::anyhow!("{name} is stopping"))),
        (_, 0) => Err(Fail::from(anyhow::anyhow!(
            "no worker of {name} is ready for traffic"
        ))),
        (_, workers) => Ok(format!(
            "{workers} of {desired} workers are ready for traffic"
        )),
    }
}

/// State at a glance; colour adds to it, and says nothing by itself.
fn glyph(status: &Status, colour: bool) -> String {
    let (glyph, sgr) = match (status.degraded.is_some(), status.state.as_str()) {
        (true, _) => ("×", 31),
        (false, "running") => ("●", 32),
        (false, "reloading") => ("●", 33),
        (false, _) => ("○", 37),
    };
    match colour {
        true => format!("\x1b[{sgr}m{glyph}\x1b[0m"),
        false => glyph.to_owned(),
    }
}

fn render(status: &Status, colour: bool) -> String {
    let glyph = glyph(status, colour);
    let mut text = String::new();
    let mut line = |label: &str, value: &str| {
        let _ = writeln!(text, "{label:>11}: {value}");
    };
    let back = status.rolled_back.as_ref();
    let back = back.map_or_else(String::new, |back| {
        format!(", a rollback to {} (from {})", back.to, back.from)
    });
    let unit = status.unit.as_deref().unwrap_or("no unit");
    line("Config", &status.config);
    line(
        "State",
        &format!("{}, generation {}{back}", status.state, status.generation),
    );
    line(
        "Supervisor",
        &format!("pid {} ({unit}), version {}", status.pid, status.version),
    );
    if let Some(taken) = &status.taken_over {
        line("Taken over", &taken_over(taken));
    }
    let workers = &status.workers;
    line(
        "Workers",
        &format!(
            "{}/{} ready ({})",
            workers.ready, workers.desired, workers.source
        ),
    );
    if let Some(limits) = when_replaced(&status.limits) {
        line("Replaced", &limits);
    }
    for listener in &status.listeners {
        let mut waiting = match listener.backlog {
            Some(waiting) => format!(", {waiting} waiting"),
            None => String::new(),
        };
        if listener.lines > 1 && listener.backlog > Some(0) {
            let queues: Vec<String> = listener.queues.iter().map(u32::to_string).collect();
            waiting += &format!(" (by socket: {})", queues.join(" "));
        }
        let lines = match listener.lines {
            1 => String::new(),
            lines => format!(", {lines} sockets, {}", listener.balance),
        };
        line(
            "Listener",
            &format!("{} \"{}\"{lines}{waiting}", listener.address, listener.name),
        );
    }
    if let Some(rollout) = &status.rollout {
        let why = rollout.failure.as_ref();
        let why = why.map_or_else(String::new, |why| format!("; {why}"));
        line(
            "Rollout",
            &format!(
                "{} generation {}: {}/{} slots{why}",
                rollout.stage, rollout.to, rollout.done, rollout.of
            ),
        );
    }
    if let Some(companion) = &status.companion {
        line("Companion", &about(companion));
    }
    for slot in &status.slots {
        if let Some(health) = slot.health.as_ref().filter(|h| *h != "well") {
            line("Health", &format!("slot {}: {health}", slot.slot));
        }
    }
    if let Some(why) = &status.degraded {
        line("Degraded", why);
    }
    format!("{glyph} {}\n{text}\n{}", status.app, table(&status.slots))
}

/// How this supervisor came to workers that it has not started.
fn taken_over(taken: &TakenOver) -> String {
    let (at, version) = (&taken.at, &taken.from_version);
    match taken.how.as_str() {
        "crash" => format!("{at}, after a crash of version {version}"),
        how => format!("{at}, by {how} from version {version}"),
    }
}

/// When workers are replaced while they run.
fn when_replaced(limits: &Limits) -> Option<String> {
    let memory = limits.max_memory.map(show_size);
    let memory = memory.map(|size| format!("with more than {size} of memory"));
    let age = limits.max_lifetime.map(Duration::from_secs);
    let age = age.map(|age| format!("at the age of {}", show_duration(age)));
    let all: Vec<String> = memory.into_iter().chain(age).collect();
    (!all.is_empty()).then(|| all.join(", "))
}

/// The companion in one line.
fn about(companion: &CompanionStatus) -> String {
    let mut text = companion.state.clone();
    if let (Some(pid), Some(since)) = (companion.pid, &companion.since) {
        text += &format!(", pid {pid}, since {since}");
    }
    let counts = [
        (companion.restarts, "restarts"),
        (companion.waiting, "messages waiting"),
        (companion.lost, "lost"),
        (companion.undelivered, "of its own not delivered"),
    ];
    for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
        text += &format!(", {what}: {count}");
    }
    if let Some(last) = &companion.last_exit {
        text += &format!(" (the last one {last})");
    }
    text
}

/// Place of the column of workers that are kept on a CPU, and of that of Node workers.
const CPUS: usize = 7;
const LAG: usize = 8;

fn table(slots: &[SlotStatus]) -> String {
    let mut rows = vec![
        [
            "SLOT",
            "STATE",
            "PID",
            "GEN",
            "SINCE",
            "CPU",
            "MEMORY",
            "CPUS",
            "LAG",
            "RESTARTS",
            "LAST EXIT",
        ]
        .map(str::to_owned),
    ];
    for slot in slots {
        let dash = || "-".to_owned();
        rows.push([
            slot.slot.to_string(),
            slot.state.clone(),
            slot.pid.map_or_else(dash, |p| p.to_string()),
            slot.generation.map_or_else(dash, |g| g.to_string()),
            slot.since.clone().unwrap_or_else(dash),
            slot.cpu.map_or_else(dash, |c| format!("{c:.1}s")),
            slot.memory.map_or_else(dash, mebibytes),
            slot.cpus.clone().unwrap_or_else(dash),
            lag(slot).unwrap_or_else(dash),
            slot.restarts.to_string(),
            slot.last_exit.clone().unwrap_or_else(dash),
        ]);
        for other in &slot.draining {
            rows.push([
                String::new(),
                other.state.clone(),
                other.pid.map_or_else(dash, |p| p.to_string()),
                other.generation.to_string(),
                other.since.clone(),
                dash(),
                dash(),
                dash(),
                dash(),
                String::new(),
                String::new(),
            ]);
        }
    }
    let width = |column: usize| rows.iter().map(|r| r[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let is_node = slots.iter().any(|slot| slot.event_loop.is_some());
    let is_pinned = slots.iter().any(|slot| slot.cpus.is_some());
    let hidden = |column: usize| match column {
        CPUS => !is_pinned,
        LAG => !is_node,
        _ => false,
    };
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).enumerate();
        let cells = cells.filter(|(n, _)| !hidden(*n));
        let cells = cells.map(|(_, cell)| cell);
        let cells: Vec<String> = cells.map(|(cell, w)| format!("{cell:<w$}")).collect();
        let _ = writeln!(text, "  {}", cells.join("  ").trim_end());
    }
    text
}

fn lag(slot: &SlotStatus) -> Option<String> {
    let lag = slot.event_loop.as_ref()?.lag_ms?;
    Some(format!("{lag:.1}ms"))
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1}M", bytes as f64 / 1024.0 / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn example() -> Status {
        serde_json::from_value(json!({
            "app": "web", "version": "0.1.0", "pid": 17, "unit": "app-cluster@web.service",
            "config": "/etc/app-cluster/web.toml", "state": "reloading", "generation": 7,
            "workers": { "desired": 2, "ready": 1, "source": "workers = 2" },
            "listeners": [
                { "name": "http", "address": "[::]:3000", "balance": "shared", "lines": 1, "backlog": 3, "queues": [3] },
                {
                    "name": "api", "address": "127.0.0.1:80", "balance": "even", "lines": 4,
                    "backlog": 2, "queues": [0, 2, 0, 0],
                },
                { "name": "admin", "address": "unix:/run/web.sock", "balance": "shared", "lines": 1, "backlog": null, "queues": [] },
            ],
            "slots": [
                {
                    "slot": 0, "worker": 9, "pid": 210, "state": "ready", "generation": 8,
                    "since": "2026-11-21T09:02:11Z", "cpu": 1.25, "memory": 106_220_000,
                    "restarts": 2, "last_exit": "was killed by SIGSEGV", "status": "fine",
                    "health": null,
                    "event_loop": null,
                    "draining": [{
                        "worker": 3, "pid": 187, "state": "draining", "generation": 7,
                        "since": "2026-11-21T09:02:10Z",
                    }],
                },
                {
                    "slot": 1, "worker": null, "pid": null, "state": "backoff",
                    "generation": null, "since": null, "cpu": null, "memory": null,
                    "restarts": 11, "last_exit": "exited with status 1", "status": null,
                    "health": null,
                    "event_loop": null,
                    "draining": [],
                },
            ],
            "rollout": { "to": 8, "stage": "advancing", "done": 1, "of": 2, "failure": null },
            "degraded": "slot 1: exited with status 1",
            "companion": null,
            "counters": {
                "notify_refused": 0, "notify_garbage": 0, "log_dropped": 0, "systemd_dropped": 0,
            },
        }))
        .expect("a status")
    }

    #[test]
    fn looks_like_this() {
        insta::assert_snapshot!(render(&example(), false), @r#"
        × web
             Config: /etc/app-cluster/web.toml
              State: reloading, generation 7
         Supervisor: pid 17 (app-cluster@web.service), version 0.1.0
            Workers: 1/2 ready (workers = 2)
           Listener: [::]:3000 "http", 3 waiting
           Listener: 127.0.0.1:80 "api", 4 sockets, even, 2 waiting (by socket: 0 2 0 0)
           Listener: unix:/run/web.sock "admin"
            Rollout: advancing generation 8: 1/2 slots
           Degraded: slot 1: exited with status 1

          SLOT  STATE     PID  GEN  SINCE                 CPU   MEMORY  RESTARTS  LAST EXIT
          0     ready     210  8    2026-11-21T09:02:11Z  1.2s  101.3M  2         was killed by SIGSEGV
                draining  187  7    2026-11-21T09:02:10Z  -     -
          1     backoff   -    -    -                     -     -       11        exited with status 1
        "#);
    }

    #[test]
    fn of_workers_with_limits_and_a_cpu_each() {
        let mut status = example();
        let limits = json!({ "max_memory": 512 << 20, "max_lifetime": 86_400 });
        status.limits = serde_json::from_value(limits).expect("limits");
        status.slots[0].cpus = Some("3".to_owned());
        let text = render(&status, false);
        let shown: Vec<&str> = text
            .lines()
            .filter(|l| {
                ["Replaced", "SLOT", "ready  "]
                    .iter()
                    .any(|p| l.contains(p))
            })
            .collect();
        insta::assert_snapshot!(shown.join("\n"), @"
         Replaced: with more than 512M of memory, at the age of 1d
        SLOT  STATE     PID  GEN  SINCE                 CPU   MEMORY  CPUS  RESTARTS  LAST EXIT
        0     ready     210  8    2026-11-21T09:02:11Z  1.2s  101.3M  3     2         was killed by SIGSEGV
        ");
    }

    #[test]
    fn of_node_workers_and_a_companion() {
        let mut status = example();
        let figures = json!({ "lag_ms": 0.31, "utilization": 0.02, "heap": 9_000_000 });
        status.slots[0].event_loop = serde_json::from_value(figures).expect("figures");
        let companion = json!({
            "state": "running", "pid": 99, "generation": 7, "since": "2026-11-21T09:02:09Z",
            "restarts": 1, "last_exit": "exited with status 1", "waiting": 0, "lost": 12,
            "undelivered": 0,
        });
        status.companion = serde_json::from_value(companion).expect("a companion");
        let text = render(&status, false);
        let lines: Vec<&str> = text.lines().skip(8).collect();
        insta::assert_snapshot!(lines.join("\n"), @"
          Rollout: advancing generation 8: 1/2 slots
        Companion: running, pid 99, since 2026-11-21T09:02:09Z, restarts: 1, lost: 12 (the last one exited with status 1)
         Degraded: slot 1: exited with status 1

        SLOT  STATE     PID  GEN  SINCE                 CPU   MEMORY  LAG    RESTARTS  LAST EXIT
        0     ready     210  8    2026-11-21T09:02:11Z  1.2s  101.3M  0.3ms  2         was killed by SIGSEGV
              draining  187  7    2026-11-21T09:02:10Z  -     -       -
        1     backoff   -    -    -                     -     -       -      11        exited with status 1
        ");
    }

    #[test]
    fn of_a_supervisor_that_is_not_the_first() {
        for (how, line) in [
            (
                "re-exec",
                "2026-11-21T09:05:00Z, by re-exec from version 0.0.9",
            ),
            (
                "restart",
                "2026-11-21T09:05:00Z, by restart from version 0.0.9",
            ),
            (
                "crash",
                "2026-11-21T09:05:00Z, after a crash of version 0.0.9",
            ),
        ] {
            let mut status = example();
            let at = "2026-11-21T09:05:00Z";
            let taken = json!({ "how": how, "at": at, "from_version": "0.0.9" });
            status.taken_over = serde_json::from_value(taken).expect("taken over");
            assert!(render(&status, false).contains(&format!("\n Taken over: {line}\n")));
        }
        assert!(!render(&example(), false).contains("Taken over"));
    }
}
