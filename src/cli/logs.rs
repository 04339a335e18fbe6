// SPDX-License-Identifier: MIT OR Apache-2.0
//! `app-cluster logs`: what workers wrote, by slot.
//!
//! Workers write straight to the journal, which knows their processes and cgroups, not
//! their slots. Our own events there say which worker ran in which slot, with which
//! process id and cgroup, so the journal itself answers the question.

use super::target::Target;
use super::{DEFAULT_NAME, Fail, Status, units};
use crate::engine::message_id::WORKER_STARTED;
use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::Value;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, ErrorKind, IsTerminal, Write};
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

/// How long journald may take for a sync.
const SYNC_SECONDS: i64 = 5;

/// Command line of `logs`.
#[derive(Debug, Args)]
pub struct Options {
    /// The app, or one slot of it: NAME[SLOT]
    #[arg(default_value = DEFAULT_NAME)]
    target: Target,
    /// Show this many lines [default: 10 with --follow, else 1000]
    #[arg(short = 'n', long)]
    lines: Option<usize>,
    /// Go on with new lines as they come
    #[arg(short, long)]
    follow: bool,
    /// Begin here (as journalctl --since)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// One JSON object a line: time, slot, pid, message
    #[arg(long)]
    json: bool,
}

/// A worker of a slot, as the journal knows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Source {
    /// Its cgroup, within one run of the unit.
    Cgroup(String, String),
    /// Its main process, within one run of the unit.
    Pid(String, String),
}

/// Which worker is where, learnt from our own events.
#[derive(Debug, Default)]
struct Workers(HashMap<Source, u64>);

impl Workers {
    /// Learns from one of our events; `false` if it is none.
    fn learn(&mut self, app: &str, entry: &Value) -> bool {
        let field = |name: &str| text(entry, name);
        if field("MESSAGE_ID").as_deref() != Some(WORKER_STARTED)
            || field("APPC_APP").as_deref() != Some(app)
        {
            return false;
        }
        let run = field("_SYSTEMD_INVOCATION_ID").unwrap_or_default();
        let Some(slot) = field("APPC_SLOT").and_then(|s| s.parse().ok()) else {
            return true;
        };
        if let Some(cgroup) = field("APPC_CGROUP") {
            self.0.insert(Source::Cgroup(cgroup, run.clone()), slot);
        }
        if let Some(pid) = field("OBJECT_PID") {
            self.0.insert(Source::Pid(pid, run), slot);
        }
        true
    }

    /// The slot whose worker wrote a line; `None`: the supervisor, or nobody known.
    fn slot(&self, entry: &Value) -> Option<u64> {
        let run = text(entry, "_SYSTEMD_INVOCATION_ID").unwrap_or_default();
        let cgroup = text(entry, "_SYSTEMD_CGROUP").map(|c| Source::Cgroup(c, run.clone()));
        let pid = text(entry, "_PID").map(|p| Source::Pid(p, run));
        let known = cgroup.into_iter().chain(pid);
        known
            .filter_map(|source| self.0.get(&source))
            .next()
            .copied()
    }
}

pub fn main(options: &Options) -> Result<(), Fail> {
    let app = &options.target.name;
    let (service, _) = units(app);
    let mut workers = Workers::default();
    // All that ever ran, wherever the shown part of the journal begins.
    let id = format!("MESSAGE_ID={WORKER_STARTED}");
    let unit = format!("_SYSTEMD_UNIT={service}");
    each(&journalctl(&["-o", "json", &id, &unit]), |entry| {
        workers.learn(app, entry);
        true
    })?;
    let mut arguments = vec!["-r", "-o", "json", unit.as_str()];
    if let Some(since) = &options.since {
        arguments.extend(["--since", since]);
    }
    let wanted = options
        .lines
        .unwrap_or(if options.follow { 10 } else { 1000 });
    let history = collect(&journalctl(&arguments), options, &workers, wanted)?;
    let mut cursor = None;
    for entry in &history {
        show(app, options, &workers, entry)?;
        cursor = text(entry, "__CURSOR");
    }
    if !options.follow {
        if history.is_empty() {
            errln!(
                "{app}: no such lines of {service} in the journal (in the foreground they go to \
                 the terminal; to read all of the journal, join the group systemd-journal)"
            );
        }
        return Ok(());
    }
    let after = cursor.map(|c| format!("--after-cursor={c}"));
    let mut arguments = vec!["-f", "-o", "json", unit.as_str()];
    arguments.extend(match &after {
        Some(after) => [after.as_str(), "--lines=all"],
        None => ["-n", "0"],
    });
    each(&journalctl(&arguments), |entry| {
        workers.learn(app, entry);
        !is_wanted(options, &workers, entry) || show(app, options, &workers, entry).is_ok()
    })
}

/// The last `wanted` lines that are asked for, read from the end backwards.
fn collect(
    arguments: &[String],
    options: &Options,
    workers: &Workers,
    wanted: usize,
) -> Result<Vec<Value>, Fail> {
    let mut kept = Vec::new();
    if wanted > 0 {
        each(arguments, |entry| {
            if is_wanted(options, workers, entry) {
                kept.push(entry.clone());
            }
            kept.len() < wanted
        })?;
    }
    kept.reverse();
    Ok(kept)
}

fn is_wanted(options: &Options, workers: &Workers, entry: &Value) -> bool {
    match options.target.slot {
        Some(slot) => workers.slot(entry) == Some(u64::from(slot)),
        None => true,
    }
}

fn show(app: &str, options: &Options, workers: &Workers, entry: &Value) -> std::io::Result<()> {
    let slot = workers.slot(entry);
    let pid = text(entry, "_PID").unwrap_or_default();
    let mut message = text(entry, "MESSAGE").unwrap_or_default();
    if std::io::stdout().is_terminal() {
        message = harmless(&message);
    }
    let micros: u64 = text(entry, "__REALTIME_TIMESTAMP")
        .and_then(|t| t.parse().ok())
        .unwrap_or_default();
    let time = crate::engine::rfc3339(micros / 1_000_000);
    let mut out = std::io::stdout().lock();
    if options.json {
        let pid: Option<i64> = pid.parse().ok();
        let line = serde_json::json!({
            "time": time, "app": app, "slot": slot, "pid": pid, "message": message,
        });
        return writeln!(out, "{line}");
    }
    match slot {
        Some(slot) => writeln!(out, "{time} {app}[{slot}] {pid} | {message}"),
        None if is_companion(app, entry) => {
            writeln!(out, "{time} {app}[companion] {pid} | {message}")
        }
        None => writeln!(out, "{time} {app} {pid} | {message}"),
    }
}

/// Whether the companion, or what it has started, wrote a line: they have a cgroup of their own.
fn is_companion(app: &str, entry: &Value) -> bool {
    let own = format!("/{}/companion", units(app).0);
    text(entry, "_SYSTEMD_CGROUP").is_some_and(|cgroup| cgroup.ends_with(&own))
}

/// The last lines of one worker, written at or after `since` and, where it is known, in
/// this `run` of the unit: process ids and cgroups are used again. None when there is no
/// journal, or it may not be read.
pub fn last_lines(
    pid: i32,
    cgroup: Option<&str>,
    run: Option<&str>,
    count: u32,
    since: SystemTime,
) -> Vec<String> {
    sync();
    let count = count.to_string();
    let since = since.duration_since(UNIX_EPOCH).unwrap_or_default();
    let since = format!("--since=@{}", since.as_secs());
    let pid = format!("_PID={pid}");
    let mut matches = vec!["-b", "-o", "json", "-n", &count, &since, &pid];
    let run = run.map(|r| format!("_SYSTEMD_INVOCATION_ID={r}"));
    matches.extend(run.as_deref());
    let cgroup = cgroup.map(|c| format!("_SYSTEMD_CGROUP={c}"));
    if let Some(cgroup) = &cgroup {
        matches.extend(["+", cgroup]);
        matches.extend(run.as_deref());
    }
    let mut lines = Vec::new();
    let read = each(&journalctl(&matches), |entry| {
        lines.push(harmless(&text(entry, "MESSAGE").unwrap_or_default()));
        true
    });
    match read {
        Ok(()) => lines,
        Err(_) => Vec::new(),
    }
}

/// What a process wrote last is in the journal for sure only after a sync (root only). A
/// journald that stands still is not waited for: whoever reloads wants the outcome.
pub fn sync() {
    let child = Command::new("journalctl")
        .arg("--sync")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else {
        return;
    };
    let patience = Timespec {
        tv_sec: SYNC_SECONDS,
        tv_nsec: 0,
    };
    if let Ok(pidfd) = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
        let _ = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&patience));
    }
    // One that has ended is not harmed.
    let _ = child.kill();
    let _ = child.wait();
}

pub fn journalctl(arguments: &[&str]) -> Vec<String> {
    let fixed = ["--no-pager", "-q", "-a"];
    let all = fixed.iter().chain(arguments);
    all.map(|a| (*a).to_owned()).collect()
}

/// Runs journalctl and hands on each entry, until it ends or `take` says `false`.
pub fn each(arguments: &[String], mut take: impl FnMut(&Value) -> bool) -> Result<(), Fail> {
    let mut child: Child = Command::new("journalctl")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => Fail::new(Status::Failed, "there is no journalctl here")
                .hint("in the foreground workers' lines are on the terminal"),
            _ => error.into(),
        })?;
    let Some(output) = child.stdout.take() else {
        return Ok(());
    };
    for line in BufReader::new(output).split(b'\n') {
        let entry = serde_json::from_slice(&line?).unwrap_or_default();
        if !take(&entry) {
            let _ = child.kill();
            break;
        }
    }
    child.wait()?;
    Ok(())
}

/// What a worker wrote, without what could move the cursor of a terminal or forge a line.
pub fn harmless(text: &str) -> String {
    let kept = |c: &char| *c == '\t' || !c.is_control();
    text.chars().filter(kept).collect()
}

/// A field of an entry. Bytes that are not text come as an array of numbers, a field that
/// occurs twice as an array of both.
pub fn text(entry: &Value, field: &str) -> Option<String> {
    match entry.get(field)? {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) if parts.iter().all(Value::is_u64) => {
            let bytes = parts.iter().filter_map(|n| u8::try_from(n.as_u64()?).ok());
            let bytes: Vec<u8> = bytes.collect();
            Some(String::from_utf8_lossy(&bytes).into_owned())
        }
        Value::Array(parts) => parts.first()?.as_str().map(str::to_owned),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_are_told_apart_by_cgroup_then_pid_within_a_run() {
        let mut workers = Workers::default();
        let started = json!({
            "MESSAGE_ID": WORKER_STARTED, "APPC_APP": "web", "APPC_SLOT": "1",
            "APPC_CGROUP": "/system.slice/web.service/w7", "OBJECT_PID": "70",
            "_SYSTEMD_INVOCATION_ID": "aa",
        });
        assert!(workers.learn("web", &started));
        assert!(!workers.learn("other", &started));
        let child = json!({
            "_SYSTEMD_CGROUP": "/system.slice/web.service/w7", "_PID": "71",
            "_SYSTEMD_INVOCATION_ID": "aa",
        });
        assert_eq!(workers.slot(&child), Some(1));
        let companion = json!({ "_SYSTEMD_CGROUP": "/a.slice/app-cluster@web.service/companion" });
        assert!(is_companion("web", &companion) && !is_companion("b", &companion));
        assert!(!is_companion("web", &child));
        let early = json!({ "_PID": "70", "_SYSTEMD_INVOCATION_ID": "aa" });
        assert_eq!(workers.slot(&early), Some(1));
        let another_run = json!({ "_PID": "70", "_SYSTEMD_INVOCATION_ID": "bb" });
        assert_eq!(workers.slot(&another_run), None);
    }

    #[test]
    fn fields_of_all_kinds() {
        let entry = json!({ "a": "x", "b": [104, 105, 255], "c": ["x", "y"], "d": null });
        assert_eq!(text(&entry, "a").as_deref(), Some("x"));
        assert_eq!(text(&entry, "b").as_deref(), Some("hi\u{fffd}"));
        assert_eq!(text(&entry, "c").as_deref(), Some("x"));
        assert_eq!(text(&entry, "d"), None);
    }
}
