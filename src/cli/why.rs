// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the journal says of units that did not start.

use super::logs::{each, harmless, journalctl, sync, text};
use crate::engine::message_id::WORKER_FAILED;
use serde_json::Value;
use std::time::{SystemTime, UNIX_EPOCH};

/// Lines that are taken over, at the most.
const MOST: usize = 8;
/// Syslog's number for errors (syslog(3)); what is worse has a lower one.
const ERROR: u8 = 3;
/// The same for warnings.
const WARNING: u8 = 4;

/// A worker that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedWorker {
    pub pid: i32,
    pub cgroup: Option<String>,
    /// The invocation of the unit that it belonged to.
    pub run: Option<String>,
}

/// The errors that the supervisor of `app` reported in the last run since `since` that has
/// any, and the last worker that failed in it. Nothing where the journal may not be read.
pub fn failure(app: &str, service: &str, since: SystemTime) -> (Vec<String>, Option<FailedWorker>) {
    let unit = format!("_SYSTEMD_UNIT={service}");
    let app = format!("APPC_APP={app}");
    let entries = read(&["-o", "json", &from(since), &unit, &app]);
    judge(&entries)
}

fn judge(entries: &[Value]) -> (Vec<String>, Option<FailedWorker>) {
    let run = |entry: &Value| text(entry, "_SYSTEMD_INVOCATION_ID");
    let bad = |entry: &&Value| is_as_bad_as(entry, ERROR);
    // systemd tries again and again meanwhile.
    let last = entries.iter().rev().find(bad).and_then(run);
    let mut said = Vec::new();
    let mut worker = None;
    for entry in entries
        .iter()
        .filter(bad)
        .filter(|entry| run(entry) == last)
    {
        if text(entry, "MESSAGE_ID").as_deref() == Some(WORKER_FAILED) {
            worker = text(entry, "OBJECT_PID")
                .and_then(|pid| pid.parse().ok())
                .map(|pid| FailedWorker {
                    pid,
                    cgroup: text(entry, "APPC_CGROUP"),
                    run: run(entry),
                });
        }
        let message = text(entry, "MESSAGE").unwrap_or_default();
        said.extend(message.lines().map(harmless));
    }
    said.dedup();
    (said, worker)
}

/// What systemd itself complained of about `unit`.
pub fn of_systemd(unit: &str, since: SystemTime) -> Vec<String> {
    let unit = format!("UNIT={unit}");
    complaints(&["-o", "json", &from(since), "_PID=1", &unit])
}

/// What the generator complained of.
pub fn of_generator(since: SystemTime) -> Vec<String> {
    let name = "SYSLOG_IDENTIFIER=app-cluster-generator";
    complaints(&["-o", "json", &from(since), name])
}

fn complaints(matches: &[&str]) -> Vec<String> {
    let entries = read(matches);
    let bad = entries.iter().filter(|entry| is_as_bad_as(entry, WARNING));
    let mut lines: Vec<String> = Vec::new();
    for message in bad.filter_map(|entry| text(entry, "MESSAGE")) {
        for line in message.lines().map(harmless) {
            if !lines.contains(&line) && lines.len() < MOST {
                lines.push(line);
            }
        }
    }
    lines
}

fn is_as_bad_as(entry: &Value, level: u8) -> bool {
    let priority = text(entry, "PRIORITY").and_then(|p| p.parse::<u8>().ok());
    priority.is_some_and(|priority| priority <= level)
}

fn from(since: SystemTime) -> String {
    let since = since.duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("--since=@{}", since.as_secs())
}

fn read(matches: &[&str]) -> Vec<Value> {
    sync();
    let mut entries = Vec::new();
    let done = each(&journalctl(matches), |entry| {
        entries.push(entry.clone());
        true
    });
    match done {
        Ok(()) => entries,
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_last_worker_that_failed_and_all_errors_of_its_run() {
        let failed = |run: &str, pid: &str, text: &str| {
            json!({
                "PRIORITY": "3", "MESSAGE_ID": WORKER_FAILED, "OBJECT_PID": pid,
                "APPC_CGROUP": "/x/w1", "MESSAGE": text, "_SYSTEMD_INVOCATION_ID": run,
            })
        };
        let entries = [
            failed("a", "5", "slot 0 failed"),
            failed("b", "7", "slot 0 failed"),
            failed("b", "8", "slot 1 failed\n  and how"),
            json!({ "PRIORITY": "6", "MESSAGE": "trying again", "_SYSTEMD_INVOCATION_ID": "c" }),
        ];
        let (said, worker) = judge(&entries);
        assert_eq!(said, ["slot 0 failed", "slot 1 failed", "  and how"]);
        let expected = FailedWorker {
            pid: 8,
            cgroup: Some("/x/w1".to_owned()),
            run: Some("b".to_owned()),
        };
        assert_eq!(worker, Some(expected));
    }
}
