// SPDX-License-Identifier: MIT OR Apache-2.0
//! `app-cluster reload`, `rollback` and `restart`: wait, show progress, tell the truth.

use super::client::{CallError, Client, Successor, successor};
use super::target::Target;
use super::{Fail, Status, logs};
use crate::api::{self, Call, Outcome};
use nix::sys::signal::{SigSet, Signal};
use serde_json::json;
use std::io::{self, IsTerminal};
use std::time::{Duration, SystemTime};

/// Lines of a failed worker that are shown.
const LAST_LINES: u32 = 20;
/// How much later than the supervisor systemd may send us its SIGTERM.
const SIGTERM_LATE: Duration = Duration::from_secs(1);
/// How long the next supervisor is waited for when the one that was asked is gone.
const SUCCESSOR: Duration = Duration::from_secs(5);

pub fn main(name: &str, json: bool) -> Result<(), Fail> {
    change(name, &Call::Reload {}, json)
}

pub fn rollback(name: &str, json: bool) -> Result<(), Fail> {
    change(name, &Call::Rollback {}, json)
}

pub fn restart(target: &Target) -> Result<(), Fail> {
    let slot = target.slot;
    change(
        &target.name,
        &Call::Restart {
            slot,
            keep_workers: false,
        },
        false,
    )
}

fn change(name: &str, call: &Call, json: bool) -> Result<(), Fail> {
    let began = SystemTime::now();
    detach_on_signals(name, 0)?;
    // Run by systemd (ExecReload=) our stderr is the journal, where the supervisor's own
    // lines say all this already.
    let quiet = std::env::var_os("JOURNAL_STREAM").is_some() && !io::stderr().is_terminal();
    let progress = |step: &str| {
        if !quiet {
            errln!("{name} | {step}");
        }
    };
    let mut known = 0;
    let answer = Client::connect(name).map_err(CallError::Broken);
    let answer = answer.and_then(|mut client| {
        known = client.status().map_err(CallError::Broken)?.incarnation;
        client.call_with_progress::<Outcome>(call, progress)
    });
    match answer {
        Ok(outcome) => {
            if json {
                outln!("{}", json!(outcome));
            } else if !quiet {
                outln!("{name}: {}", outcome.message);
            }
            Ok(())
        }
        Err(error) => {
            match &error {
                CallError::Refused(api::Error::InProgress { .. })
                | CallError::Broken(_)
                | CallError::Ended(_)
                    if quiet =>
                {
                    // The supervisor ends. If systemd ends the unit, we are to end by the
                    // same SIGTERM, which has another exit status.
                    std::thread::sleep(SIGTERM_LATE);
                }
                CallError::Refused(error) => show_last_lines(error, began),
                CallError::Ended(_) => {
                    if let Successor::Is(_) = successor(name, known + 1, SUCCESSOR) {
                        return Err(replaced(name));
                    }
                }
                CallError::Broken(_) => {}
            }
            Err(error.into())
        }
    }
}

/// Another supervisor has come meanwhile, and the one that was asked is gone.
fn replaced(name: &str) -> Fail {
    let text = format!(
        "the supervisor of {name} was replaced before it answered; the next one has taken its \
         workers over, and ends or takes back what was under way"
    );
    let hint = format!("app-cluster status {name}; then, if it is still needed, the same again");
    Fail::new(Status::Failed, text).hint(hint)
}

/// What the worker that is to blame wrote last: from the supervisor in the foreground,
/// else from the journal.
fn show_last_lines(error: &api::Error, since: SystemTime) {
    let (slot, pid, cgroup, known) = match error {
        api::Error::GenerationFailed {
            slot,
            pid,
            cgroup,
            last_lines,
            ..
        } => (slot, pid, cgroup, last_lines.clone()),
        api::Error::WorkerFailed {
            slot, pid, cgroup, ..
        } => (slot, pid, cgroup, Vec::new()),
        _ => return,
    };
    let Some(pid) = *pid else {
        return;
    };
    let lines = match known.is_empty() {
        false => known.iter().map(|line| logs::harmless(line)).collect(),
        true => logs::last_lines(pid, cgroup.as_deref(), None, LAST_LINES, since),
    };
    if lines.is_empty() {
        return;
    }
    errln!("last lines of the worker of slot {slot} (pid {pid}):");
    for line in lines {
        errln!("  | {line}");
    }
}

/// Ctrl-C and SIGTERM end this command, not what it has begun; after SIGTERM with the exit
/// status `terminated`. systemd sends that to a reload command when the unit is stopped, and
/// takes an exit status other than 0 for a failure of the unit.
pub(super) fn detach_on_signals(name: &str, terminated: i32) -> Result<(), Fail> {
    let mask: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    mask.thread_block().map_err(io::Error::from)?;
    let name = name.to_owned();
    std::thread::Builder::new().spawn(move || {
        let signal = mask.wait();
        errln!(
            "{name} | not waiting any longer; what has begun goes on: app-cluster status {name}"
        );
        std::process::exit(match signal {
            Ok(Signal::SIGTERM) => terminated,
            _ => 130,
        });
    })?;
    Ok(())
}
