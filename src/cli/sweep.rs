// SPDX-License-Identifier: MIT OR Apache-2.0
//! `app-cluster sweep`: ends what a supervisor that is gone has left in its unit.
//!
//! The units have `KillMode=process`, so that workers outlive a supervisor that crashes and
//! the next one takes them over. After a stop nobody would: systemd runs this verb as
//! `ExecStopPost=` of the service, at its stop and at its crash alike, and [`decide`] tells
//! these apart. systemd does not run it again for a unit that is stopped between two
//! attempts to start; `stop`, `delete` and the removal of the package then call
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
use std::time::Duration;

/// At most this long processes may take to finish, however long `drain_timeout` is:
/// `TimeoutStopSec=` of the unit is never shorter than three times that.
const LONGEST: Duration = Duration::from_secs(30);

/// The supervisor was told to stop. In the runtime directory; the next one removes it.
const ENDING: &str = "ending";
/// The supervisor has left its workers on purpose. Likewise.
const KEEP: &str = "keep";

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

/// What `$SERVICE_RESULT` (systemd.exec(5)) and the files in the runtime directory mean.
///
/// A stop that ran out of time ends all. A supervisor that was told to stop ends all,
/// however it ended itself. One that says so leaves its workers; one that ended well and
/// does not say so leaves none. Whatever else there is was a crash.
fn decide(result: &str, ending: bool, keep: bool) -> Verdict {
    match result {
        "timeout" => Verdict::Kill,
        _ if ending => Verdict::Drain,
        _ if keep => Verdict::Leave,
        "success" => Verdict::Drain,
        _ => Verdict::Leave,
    }
}

/// The verb. By hand it is for units that are stopped, and for root.
pub fn main(name: &str) -> Result<(), Fail> {
    let Some(result) = in_stop_post() else {
        let (service, _) = units(name);
        let systemd = Systemd::connect(&format!("kill -s KILL {service}"))?;
        return after_stop(&systemd, name).map(drop);
    };
    let runtime = runtime_directory(name)?;
    let there = |file: &str| runtime.join(file).exists();
    let verdict = decide(&result, there(ENDING), there(KEEP));
    let manner = match verdict {
        Verdict::Leave => return Ok(()),
        Verdict::Drain => gently(name),
        Verdict::Kill => Manner::AtOnce,
    };
    let left = match group::own_unit() {
        Some(Some(unit)) => Left::of_unit(unit),
        Some(None) => return Err(Fail::new(Status::Failed, "this is no service")),
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

/// Ends what is left of the app's service, which has been stopped; whether there was
/// something. Only root can.
pub fn after_stop(systemd: &Systemd, name: &str) -> Result<bool, Fail> {
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
        left.sweep(gently(name), |line| errln!("{name} | {line}"))?;
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
        for crash in crashes {
            assert_eq!(decide(crash, false, false), Leave, "{crash}");
            assert_eq!(decide(crash, false, true), Leave, "{crash}");
            assert_eq!(decide(crash, true, false), Drain, "{crash}");
            assert_eq!(decide(crash, true, true), Drain, "{crash}");
        }
        assert_eq!(decide("success", false, false), Drain);
        assert_eq!(decide("success", false, true), Leave);
        assert_eq!(decide("success", true, false), Drain);
        // Left on purpose, and then told to stop all the same.
        assert_eq!(decide("success", true, true), Drain);
        for (ending, keep) in [(false, false), (true, false), (false, true), (true, true)] {
            assert_eq!(decide("timeout", ending, keep), Kill);
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
