// SPDX-License-Identifier: MIT OR Apache-2.0
//! `app-cluster upgrade` and `restart --keep-workers`: another supervisor, the same workers.

use super::client::{CallError, Client, Successor, successor};
use super::reload::detach_on_signals;
use super::systemd::Systemd;
use super::target::Target;
use super::{Fail, Status, units};
use crate::api::{self, Call, Outcome};
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long the next supervisor may take to answer.
const WITHIN: Duration = Duration::from_secs(30);

/// Exit status of who was ended by SIGTERM, as a shell tells it.
const TERMINATED: i32 = 128 + 15;

pub fn main(name: &str, now: bool, json: bool) -> Result<(), Fail> {
    replace(name, &Call::Upgrade { now }, json)
}

pub fn keep_workers(target: &Target) -> Result<(), Fail> {
    if target.slot.is_some() {
        let text = "a slot is a worker: --keep-workers is about the whole app";
        return Err(Fail::new(Status::Usage, text));
    }
    let call = Call::Restart {
        slot: None,
        keep_workers: true,
    };
    replace(&target.name, &call, false)
}

/// Nobody is to leave workers to a supervisor that systemd would not start: `Restart=` of
/// systemd.service(5), after an exit with status 0.
fn comes_again(before: &api::Status) -> Result<(), Fail> {
    let Some(unit) = &before.unit else {
        return Ok(()); // The supervisor refuses.
    };
    // Without D-Bus, or for a unit of another manager, nobody tells.
    let known = Systemd::connect("").and_then(|systemd| systemd.restarts(unit, before.pid));
    match known.ok().flatten() {
        Some(restart) if restart != "always" && restart != "on-success" => {
            let text =
                format!("systemd would not start another supervisor: {unit} has Restart={restart}");
            Err(Fail::new(Status::Failed, text).hint(format!(
                "app-cluster upgrade {}: the same process, which needs no start; or set \
                 Restart=always (systemctl edit {unit})",
                before.app
            )))
        }
        _ => Ok(()),
    }
}

/// Calls, then waits until the supervisor that was promised answers.
fn replace(name: &str, call: &Call, json: bool) -> Result<(), Fail> {
    // Not before there is somebody who may be asked.
    let mut client = Client::connect(name)?;
    detach_on_signals(name, TERMINATED)?;
    let before = client.status()?;
    if before.incarnation == 0 {
        return Err(too_old(name, &before));
    }
    if matches!(call, Call::Restart { .. }) {
        comes_again(&before)?;
    }
    if matches!(call, Call::Upgrade { now: true }) && before.rollout.is_none() {
        errln!("{name} | --now: there is no reload to take back");
    }
    let progress = |step: &str| errln!("{name} | {step}");
    let outcome: Outcome = match client.call_with_progress(call, progress) {
        Err(CallError::Refused(error @ api::Error::CannotUpgrade { .. })) => {
            let has_hint = error.message().contains("hint: ");
            let fail = Fail::from(CallError::Refused(error));
            return Err(match has_hint {
                true => fail,
                false => fail.hint(format!("app-cluster status {name}")),
            });
        }
        other => other?,
    };
    let promised = outcome.incarnation.unwrap_or(before.incarnation + 1);
    let after = match successor(name, promised, WITHIN) {
        Successor::Is(after) => *after,
        Successor::None => return Err(nobody(name, &before)),
        Successor::Failed(fail) => return Err(fail),
    };
    let kept = kept(&before, &after);
    let text = sentence(&before, &after, kept);
    match json {
        true => outln!(
            "{}",
            json!({
                "message": text,
                "from_version": before.version,
                "version": after.version,
                "pid": after.pid,
                "incarnation": after.incarnation,
                "workers": kept,
            })
        ),
        false => outln!("{name}: {text}"),
    }
    Ok(())
}

/// How many workers, serving or finishing, are the processes they were.
fn kept(before: &api::Status, after: &api::Status) -> usize {
    let known: BTreeSet<i32> = pids(before).collect();
    pids(after).filter(|pid| known.contains(pid)).count()
}

fn pids(status: &api::Status) -> impl Iterator<Item = i32> {
    let slots = status.slots.iter();
    slots.flat_map(|slot| {
        let others = slot.draining.iter().filter_map(|other| other.pid);
        slot.pid.into_iter().chain(others)
    })
}

fn sentence(before: &api::Status, after: &api::Status, kept: usize) -> String {
    let version = match before.version == after.version {
        true => format!("version {}", after.version),
        false => format!("version {} -> {}", before.version, after.version),
    };
    let pid = match before.pid == after.pid {
        true => format!("pid {}", after.pid),
        false => format!("pid {} -> {}", before.pid, after.pid),
    };
    let workers = match kept {
        1 => "1 worker kept".to_owned(),
        _ => format!("{kept} workers kept"),
    };
    format!("supervisor replaced, {version}, {pid}, {workers}")
}

fn unit(name: &str, status: &api::Status) -> String {
    status.unit.clone().unwrap_or_else(|| units(name).0)
}

/// Its answers do not have what was added with the ability to be replaced.
fn too_old(name: &str, status: &api::Status) -> Fail {
    let text = format!(
        "the supervisor of {name}, version {}, is too old to be replaced with its workers kept",
        status.version
    );
    Fail::new(Status::Failed, text).hint(format!(
        "once: systemctl restart {}; accepted requests finish, new connections wait",
        unit(name, status)
    ))
}

fn nobody(name: &str, before: &api::Status) -> Fail {
    let seconds = WITHIN.as_secs();
    let text = format!(
        "the supervisor of {name} has left its workers to the next one, but that one has not \
         answered within {seconds}s; the workers may serve on"
    );
    let hint = match &before.unit {
        Some(unit) => format!(
            "journalctl -e -u {unit}; to begin anew: app-cluster stop {name}, then \
             systemctl start {unit}"
        ),
        None => {
            let pids: Vec<String> = pids(before).map(|pid| pid.to_string()).collect();
            let pids = pids.join(" ");
            format!("see what it wrote where it runs; workers that are left: kill {pids}")
        }
    };
    Fail::new(Status::Failed, text).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(version: &str, pid: i32, workers: &[i32]) -> api::Status {
        let slot = |(n, pid): (usize, &i32)| {
            json!({
                "slot": n, "pid": pid, "state": "ready", "restarts": 0, "recycled": 0,
                "draining": [],
            })
        };
        let slots: Vec<serde_json::Value> = workers.iter().enumerate().map(slot).collect();
        let status = json!({
            "app": "web", "version": version, "pid": pid, "config": "web.toml",
            "state": "running", "generation": 1,
            "workers": { "desired": 2, "ready": 2, "source": "configuration" },
            "listeners": [], "slots": slots,
            "counters": { "notify_refused": 0, "notify_garbage": 0, "log_dropped": 0,
                          "systemd_dropped": 0 },
        });
        serde_json::from_value(status).expect("a status")
    }

    #[test]
    fn what_is_told_afterwards() {
        let before = status("0.1.0", 10, &[11, 12]);
        assert_eq!(before.incarnation, 0, "one without it counts as too old");
        let told = |after: api::Status| sentence(&before, &after, kept(&before, &after));
        assert_eq!(
            told(status("0.2.0", 10, &[12, 11])),
            "supervisor replaced, version 0.1.0 -> 0.2.0, pid 10, 2 workers kept"
        );
        assert_eq!(
            told(status("0.1.0", 13, &[12, 14])),
            "supervisor replaced, version 0.1.0, pid 10 -> 13, 1 worker kept"
        );
    }

    #[test]
    fn an_old_one_is_told_what_to_do() {
        let told = too_old("web", &status("0.0.9", 10, &[])).to_string();
        assert!(told.contains("version 0.0.9, is too old"), "{told}");
        assert!(
            told.contains("systemctl restart app-cluster@web.service"),
            "{told}"
        );
    }
}
