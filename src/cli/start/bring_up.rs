// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a configuration to workers that serve, or to the reason why not.

use crate::cli::client::Client;
use crate::cli::systemd::{Systemd, Verb};
use crate::cli::{Fail, Status, config_file, logs, status, units, why};
use crate::config::Listen;
use crate::units::kept;
use std::path::Path;
use std::time::SystemTime;

/// Lines of a failed worker that are shown.
const LAST_LINES: u32 = 20;

/// Has systemd read its units afresh and starts socket and service; returns when the
/// workers are ready.
pub fn start(name: &str, systemd: &Systemd, listen: &[Listen]) -> Result<(), Fail> {
    let (service, socket) = units(name);
    let began = SystemTime::now();
    systemd.reload().map_err(|fail| stays(name, fail))?;
    if !listen.is_empty() {
        generated(name, &socket, began).map_err(|fail| stays(name, fail))?;
    }
    if let Err(stuck) = systemd.job(Verb::Start, &socket, |_| {})? {
        let why = socket_failure(systemd, &socket, listen, began);
        let text = format!("{socket} is {}{why}", stuck.state);
        return Err(stays(name, Fail::new(Status::Failed, text)));
    }
    let mut told = String::new();
    let progress = |systemd: &Systemd| {
        let text = systemd.status_text(&service).unwrap_or_default();
        if !text.is_empty() && text != told {
            errln!("{name} | {}", logs::harmless(&text));
            told = text;
        }
    };
    match systemd.job(Verb::Start, &service, progress)? {
        Ok(()) => show(name),
        Err(_) => Err(stays(name, service_failure(name, &service, began))),
    }
}

/// Prints the status.
pub fn show(name: &str) -> Result<(), Fail> {
    match Client::connect(name) {
        Ok(_) => status::main(name, false, false),
        // systemd lets us start it, the supervisor does not talk to us.
        Err(fail) if fail.status() == Status::NoSuchApp => {
            outln!("{name}: runs");
            Ok(())
        }
        Err(fail) => Err(fail),
    }
}

/// Checks that the generator has made units of the configuration.
fn generated(name: &str, socket: &str, since: SystemTime) -> Result<(), Fail> {
    let drop_ins = Path::new(kept::GENERATED).join(format!("{socket}.d"));
    if drop_ins.exists() {
        return Ok(());
    }
    let lines = why::of_generator(since);
    let text = format!(
        "systemd has made no units of {}{}",
        config_file(name).display(),
        listed(&lines)
    );
    Err(Fail::new(Status::Failed, text).hint(format!("app-cluster check {name}")))
}

/// What the operator can do about an app that does not start.
fn stays(name: &str, fail: Fail) -> Fail {
    let file = config_file(name);
    let what = format!(
        "{} stays; mend it, then app-cluster start {name}; or app-cluster delete {name}",
        file.display()
    );
    match fail.has_hint() {
        true => {
            errln!("{name} | {what}");
            fail
        }
        false => fail.hint(what),
    }
}

fn socket_failure(systemd: &Systemd, socket: &str, listen: &[Listen], since: SystemTime) -> String {
    // It may have been taken since we looked.
    if let Err(fail) = super::free(listen, Some(systemd)) {
        return format!(": {}", fail.message());
    }
    listed(&why::of_systemd(socket, since))
}

/// Why the service did not start: what its supervisor said last, or systemd.
fn service_failure(name: &str, service: &str, since: SystemTime) -> Fail {
    let (said, worker) = why::failure(name, service, since);
    if let Some(worker) = &worker {
        let (cgroup, run) = (worker.cgroup.as_deref(), worker.run.as_deref());
        let lines = logs::last_lines(worker.pid, cgroup, run, LAST_LINES, since);
        if !lines.is_empty() {
            errln!("last lines of the worker (pid {}):", worker.pid);
            for line in lines {
                errln!("  | {line}");
            }
        }
    }
    let cause = match said.is_empty() {
        false => listed(&said),
        true => listed(&why::of_systemd(service, since)),
    };
    let mut fail = Fail::new(Status::Failed, format!("{name} did not start{cause}"));
    if cause.is_empty() {
        fail = fail.hint(format!("sudo journalctl -e -u {service}"));
    }
    fail
}

fn listed(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n  {line}")).collect()
}
