// SPDX-License-Identifier: MIT OR Apache-2.0
//! `app-cluster sweep`: ends what a supervisor that is gone has left in its unit.
//!
//! The units have `KillMode=process`, so that workers outlive a supervisor that crashes and
//! the next one takes them over. After a stop nobody would: systemd runs this verb as
//! `ExecStopPost=` of the service, at its stop and at its crash alike; [`decide`] tells these
//! apart, by what systemd says about its jobs. systemd does not run it again for a unit that
//! is stopped between two attempts to start; `stop`, `delete` and the removal of the package then call
//! [`after_stop`], and the next supervisor does the same.

mod group;
mod left;

use super::systemd::{Systemd, is_down};
use super::{Fail, RUNTIME_DIRECTORY, Status, config_file, units};
use crate::config::{Config, show_duration};
use crate::engine::{Runtime, runtime_directory};
use left::{Left, Manner};
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

/// At most this long processes may take to finish, however long `drain_timeout` is:
/// `TimeoutStopSec=` of the unit is never shorter than three times that.
const LONGEST: Duration = Duration::from_secs(30);

/// How long systemd may take to tell what it is about to do.
const ASKED: Duration = Duration::from_secs(2);

/// The supervisor was told to stop. In the runtime directory; the next one removes it.
const ENDING: &str = "ending";
/// The supervisor has left its workers on purpose. Likewise.
const KEEP: &str = "keep";

/// The supervisor has shut sockets down for a moment. Likewise.
const SHUT: &str = "shut";

/// What is to be done with processes that are left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// They serve on; the next supervisor takes them over.
    Leave,
    /// They are asked to finish, and killed if they do not.
    Drain,
    /// They are killed: there was time enough.
    Kill,
}

/// What systemd is about to do with the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    /// It stops, perhaps to be started again: there is a job that says so.
    Stop,
    /// Nobody wants it stopped.
    Go,
    /// systemd cannot be asked.
    Unknown,
}

/// Files in the runtime directory. Workers can write there too, so that systemd's word counts
/// for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Marks {
    ending: bool,
    keep: bool,
}

/// What systemd's plan, `$SERVICE_RESULT` (systemd.exec(5)) and the marks mean.
///
/// A stop ends all; at once if it ran out of time. A supervisor that was told to stop ends
/// all, however it ended itself. One that says so leaves its workers; one that ended well and
/// does not say so leaves none. Whatever else there is was a crash, or a start that took too
/// long, perhaps while it took workers over.
fn decide(plan: Plan, result: &str, marks: Marks) -> Verdict {
    match (plan, result) {
        (Plan::Stop | Plan::Unknown, "timeout") => Verdict::Kill,
        (Plan::Stop, _) => Verdict::Drain,
        _ if marks.ending => Verdict::Drain,
        _ if marks.keep => Verdict::Leave,
        (_, "success") => Verdict::Drain,
        _ => Verdict::Leave,
    }
}

/// Asks systemd, which may be busy with other things, or have no D-Bus.
fn ask<T: Send + 'static>(
    what: impl FnOnce(Systemd) -> Result<T, Fail> + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = mpsc::channel();
    let asked = std::thread::Builder::new().spawn(move || {
        let _ = sender.send(Systemd::connect("").and_then(what));
    });
    let answer = asked.ok().and_then(|_| receiver.recv_timeout(ASKED).ok());
    answer.and_then(Result::ok)
}

fn plan(service: String) -> Plan {
    match ask(move |systemd| systemd.pending_job(&service)) {
        Some(Some(job)) if job == "stop" || job == "restart" => Plan::Stop,
        Some(_) => Plan::Go,
        None => Plan::Unknown,
    }
}

/// The supervisor was killed in the microseconds between shutdown(2) and listen(2) of a socket.
/// As soon as systemd sees the service down it polls the sockets, would find this one shut down,
/// and fail the socket unit. It leaves them alone while a job for the service waits.
fn keep_sockets_from_systemd(service: Option<String>) {
    if let Some(service) = service {
        let _ = ask(move |systemd| systemd.start_soon(&service));
    }
}

/// The service whose cgroup this is; none if it is not one of the system's manager.
fn service_of(unit: &Path) -> Option<String> {
    let parts = || unit.iter().filter_map(|part| part.to_str());
    match parts().any(|part| part.starts_with("user@")) {
        true => None,
        false => Some(parts().next_back()?.to_owned()),
    }
}

/// The verb. By hand it is for units that are stopped, and for root.
pub fn main(name: &str) -> Result<(), Fail> {
    let Some(result) = in_stop_post() else {
        let (service, _) = units(name);
        return match Systemd::connect(&format!("kill -s KILL {service}")) {
            Ok(systemd) => after_stop(&systemd, name, false).map(drop),
            Err(_) if !is_anything_in(&service) => Ok(()),
            Err(fail) => Err(fail),
        };
    };
    let runtime = runtime_directory(name)?;
    let unit = match group::own_unit() {
        Some(None) => return Err(Fail::new(Status::Failed, "this is no service")),
        known => known.flatten(),
    };
    let service = match &unit {
        Some(unit) => service_of(unit),
        None => Some(units(name).0),
    };
    let plan = service.clone().map_or(Plan::Unknown, plan);
    // A directory or a link is none of ours.
    let there = |file: &str| {
        let found = std::fs::symlink_metadata(runtime.join(file));
        found.is_ok_and(|found| found.is_file())
    };
    let (ending, keep) = (there(ENDING), there(KEEP));
    let manner = match decide(plan, &result, Marks { ending, keep }) {
        Verdict::Leave => {
            if there(SHUT) && plan == Plan::Go {
                // Once: a worker could write it, too.
                let _ = std::fs::remove_file(runtime.join(SHUT));
                keep_sockets_from_systemd(service);
            }
            return Ok(());
        }
        Verdict::Drain => gently(name),
        Verdict::Kill => Manner::AtOnce,
    };
    Runtime::say_swept(&runtime);
    let left = match unit {
        Some(unit) => Left::of_unit(unit),
        None => Left::by_environment(name, &runtime),
    };
    left.sweep(manner, |line| errln!("{line}"))?;
    Ok(())
}

/// `$SERVICE_RESULT`, if systemd has just started this process as `ExecStopPost=`. In any
/// other process that has these variables (a worker inherits some) they mean nothing.
fn in_stop_post() -> Option<String> {
    let started = std::env::var("SYSTEMD_EXEC_PID").ok()?;
    let own = started.parse() == Ok(std::process::id());
    std::env::var("SERVICE_RESULT").ok().filter(|_| own)
}

/// Whether there is a process where the units have their cgroups; for machines on which
/// systemd cannot be asked about it.
fn is_anything_in(service: &str) -> bool {
    let slice = match service.contains('@') {
        true => "system-app\\x2dcluster.slice",
        false => "system.slice",
    };
    let path = format!("{}/{service}", slice_path(slice));
    let known = crate::engine::cgroup_mount().map(|mount| mount.join(path.trim_start_matches('/')));
    known.is_none_or(|path| Left::of_unit(path).is_there())
}

/// Ends what is left of the app's service, which has been stopped, `now` without asking it to
/// finish; whether there was something. Only root can.
pub fn after_stop(systemd: &Systemd, name: &str, now: bool) -> Result<bool, Fail> {
    let (service, _) = units(name);
    if !is_down(&systemd.state(&service)?) {
        let text = format!("{service} is not stopped");
        return Err(Fail::new(Status::Failed, text).hint(format!("app-cluster stop {name}")));
    }
    let left = cgroup(systemd, &service)?.map(Left::of_unit);
    let left = left.filter(Left::is_there);
    let root = nix::unistd::geteuid().is_root();
    if let Some(left) = &left {
        if !root {
            let text = format!("processes of {name} are left, which only root can end");
            let hint = format!("sudo app-cluster stop {name}");
            return Err(Fail::new(Status::NoSuchApp, text).hint(hint));
        }
        let manner = match now {
            true => Manner::AtOnce,
            false => gently(name),
        };
        left.sweep(manner, |line| errln!("{name} | {line}"))?;
    }
    if root {
        // Not all versions of systemd do it for a unit that was not up.
        Runtime::remove_left(&Path::new(RUNTIME_DIRECTORY).join(name))?;
    }
    Ok(left.is_some())
}

/// Where the cgroup of a service is, or was: systemd does not tell of each unit that is down.
fn cgroup(systemd: &Systemd, service: &str) -> Result<Option<PathBuf>, Fail> {
    let told = systemd.cgroup(service)?;
    let path = match told.is_empty() {
        true => format!("{}/{service}", slice_path(&systemd.slice(service)?)),
        false => told,
    };
    let known = crate::engine::cgroup_mount().map(|mount| mount.join(path.trim_start_matches('/')));
    Ok(known.filter(|path| path.is_dir()))
}

/// The cgroup of a slice: `a-b.slice` is in `a.slice` (systemd.slice(5)).
fn slice_path(slice: &str) -> String {
    let stem = slice.strip_suffix(".slice").unwrap_or(slice);
    if stem.is_empty() || stem == "-" {
        return String::new();
    }
    let ends = stem
        .match_indices('-')
        .map(|(at, _)| at)
        .chain([stem.len()]);
    let parts = ends.map(|end| format!("/{}.slice", &stem[..end]));
    parts.collect()
}

/// As the configuration has its workers stopped, if it can be read.
fn gently(name: &str) -> Manner {
    let config = Config::load(&config_file(name)).ok();
    let signal = config.as_ref().map(|c| c.stop_signal);
    let signal = signal.and_then(|number| Signal::try_from(number).ok());
    let patience = config.map_or(LONGEST, |c| c.drain_timeout);
    Manner::Gently(signal.unwrap_or(Signal::SIGTERM), patience.min(LONGEST))
}

/// A time for people.
fn shown(time: Duration) -> String {
    show_duration(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_swept_and_what_is_left() {
        use Verdict::{Drain, Kill, Leave};
        let crashes = [
            "signal",
            "core-dump",
            "watchdog",
            "exit-code",
            "oom-kill",
            "protocol",
            "resources",
            "start-limit-hit",
            "exec-condition",
            "something new",
            "",
        ];
        let marks = |ending, keep| Marks { ending, keep };
        let none = marks(false, false);
        let all = [
            none,
            marks(true, false),
            marks(false, true),
            marks(true, true),
        ];
        // Whatever the marks are, and whoever made them.
        for mark in all {
            for result in crashes.iter().chain(&["success"]) {
                assert_eq!(decide(Plan::Stop, result, mark), Drain, "{result} {mark:?}");
            }
            assert_eq!(decide(Plan::Stop, "timeout", mark), Kill, "{mark:?}");
            assert_eq!(decide(Plan::Unknown, "timeout", mark), Kill, "{mark:?}");
        }
        for plan in [Plan::Go, Plan::Unknown] {
            for result in crashes.iter().chain(&["success"]) {
                let without = match *result {
                    "success" => Drain,
                    _ => Leave,
                };
                for (mark, verdict) in all.into_iter().zip([without, Drain, Leave, Drain]) {
                    assert_eq!(
                        decide(plan, result, mark),
                        verdict,
                        "{plan:?} {result} {mark:?}"
                    );
                }
            }
        }
        // A start that took too long, perhaps to take workers over.
        for (mark, verdict) in all.into_iter().zip([Leave, Drain, Leave, Drain]) {
            assert_eq!(decide(Plan::Go, "timeout", mark), verdict, "{mark:?}");
        }
    }

    #[test]
    fn which_services_are_asked_about() {
        for (path, service) in [
            (
                "/sys/fs/cgroup/system.slice/app-cluster.service",
                Some("app-cluster.service"),
            ),
            (
                "/sys/fs/cgroup/system.slice/system-app\\x2dcluster.slice/app-cluster@a.service",
                Some("app-cluster@a.service"),
            ),
            (
                "/sys/fs/cgroup/user.slice/user-0.slice/user@0.service/app.slice/web.service",
                None,
            ),
        ] {
            assert_eq!(service_of(Path::new(path)).as_deref(), service, "{path}");
        }
    }

    #[test]
    fn where_slices_are() {
        for (slice, path) in [
            ("system.slice", "/system.slice"),
            (
                "system-app\\x2dcluster.slice",
                "/system.slice/system-app\\x2dcluster.slice",
            ),
            ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice"),
            ("-.slice", ""),
            ("", ""),
        ] {
            assert_eq!(slice_path(slice), path);
        }
    }
}
