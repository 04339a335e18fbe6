// SPDX-License-Identifier: MIT OR Apache-2.0
//! `app-cluster run NAME`: the supervisor, as systemd starts it.

use super::systemd::{Systemd as Manager, is_down};
use super::{Fail, RUNTIME_DIRECTORY, Status, config_file, units};
use crate::config::Config;
use crate::core::Outcome;
use crate::engine::{
    Engine, Journal, Level, Listener, Load, Parts, Passed, Record, Resumed, Runtime, Style,
    Systemd, block_signals, group, inherit, is_main_process_of_a_unit, make_room, open,
    runtime_directory,
};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// systemd is to try no more than once in this time.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// What `run` and `dev` differ in.
pub struct Setup {
    /// The app.
    pub name: String,
    /// Reads the configuration.
    pub load: Load,
    /// What `load` reads, for people.
    pub config: String,
    /// Foreground: how worker output is shown.
    pub style: Option<Style>,
    /// Called when all is prepared, with what is listened on.
    pub greet: fn(&str, &[Listener]),
}

pub fn main(name: &str, config: Option<PathBuf>) -> Result<(), Fail> {
    leave_to_the_unit(name)?;
    let path = config.unwrap_or_else(|| config_file(name));
    supervise(Setup {
        name: name.to_owned(),
        config: path.display().to_string(),
        load: Box::new(move || Config::load(&path)),
        style: None,
        greet: |_, _| {},
    })
}

/// By hand, `run` is not to come between two supervisors of the app's unit: it would take its
/// port and its workers' place.
fn leave_to_the_unit(name: &str) -> Result<(), Fail> {
    let by_systemd = std::env::var_os("NOTIFY_SOCKET").is_some() || is_main_process_of_a_unit();
    let shared = Path::new(RUNTIME_DIRECTORY).join(name);
    if by_systemd || !runtime_directory(name).is_ok_and(|own| own == shared) {
        return Ok(());
    }
    let (service, _) = units(name);
    // Nobody to ask: then there is no unit either.
    let state = Manager::connect("").and_then(|manager| manager.state(&service));
    match state {
        Ok(state) if !is_down(&state) => {
            let text = format!("{name} is run by systemd: {service} is {state}");
            let hint = format!("app-cluster status {name}; or first: app-cluster stop {name}");
            Err(Fail::new(Status::Failed, text).hint(hint))
        }
        _ => Ok(()),
    }
}

/// Supervises until the end.
pub fn supervise(setup: Setup) -> Result<(), Fail> {
    let began = Instant::now();
    // The order matters: signals, then descriptors, then threads.
    block_signals()?;
    let inherited = inherit();
    make_room();
    let mut journal = Journal::start(&setup.name)?;
    let (mut systemd, complaint) = Systemd::connect();
    for complaint in complaint.into_iter().chain(odd_environment()) {
        journal.log(Record::plain(Level::Warning, complaint));
    }
    let prepared = inherited
        .map_err(Fail::from)
        .and_then(|(passed, mut left)| {
            // Ahead of that: whoever cannot begin has not tried to go on from there.
            let runtime = match left.is_empty() {
                true => None,
                false => Some(Runtime::claim(&runtime_directory(&setup.name)?)?),
            };
            // After a restart, in the moment of a crash say, nothing is gone on with.
            let found = match runtime.as_ref().is_some_and(Runtime::was_swept) {
                true => Ok(None),
                false => Resumed::find(&setup.name, &mut left),
            };
            let resumed = found.unwrap_or_else(|why| {
                let text = format!(
                    "what the supervisor before has left cannot be used: {why}; its workers are \
                 replaced"
                );
                journal.log(Record::plain(Level::Error, text));
                None
            });
            let prepared = prepare(&setup, passed, resumed.as_ref(), runtime)?;
            Ok((prepared, resumed, left))
        });
    let ((first, listeners, runtime, was_inherited), resumed, left) = match prepared {
        Ok(prepared) => prepared,
        Err(fail) => return Err(give_up(fail, &mut systemd, &mut journal, began)),
    };
    if resumed.is_none() {
        (setup.greet)(&setup.name, &listeners);
    }
    let under_systemd = systemd.is_there();
    let parts = Parts {
        name: setup.name,
        load: setup.load,
        config: setup.config,
        first,
        listeners,
        inherited: was_inherited,
        runtime,
        journal,
        systemd,
        style: setup.style,
        resumed,
        left,
    };
    let ended = Engine::new(parts).and_then(Engine::run).inspect_err(|_| {
        if under_systemd {
            std::thread::sleep(RETRY_PAUSE.saturating_sub(began.elapsed()));
        }
    });
    match ended? {
        Outcome::Stopped => Ok(()),
        Outcome::StartFailed(blame) => Err(Fail::new(
            Status::Failed,
            format!("no worker could be started: {blame}"),
        )),
    }
}

type Prepared = (Config, Vec<Listener>, Runtime, bool);

fn prepare(
    setup: &Setup,
    inherited: Vec<Passed>,
    resumed: Option<&Resumed>,
    claimed: Option<Runtime>,
) -> Result<Prepared, Fail> {
    let claim = |claimed: Option<Runtime>| match claimed {
        Some(runtime) => Ok(runtime),
        None => runtime_directory(&setup.name).and_then(|directory| Runtime::claim(&directory)),
    };
    if let Some(resumed) = resumed {
        let runtime = claim(claimed)?;
        let first = resumed.config().clone();
        let listeners = group(resumed.with_files(inherited), &first)?;
        return Ok((first, listeners, runtime, resumed.state.inherited));
    }
    let bad_config = |error: crate::config::ConfigError| {
        let text = format!("the configuration cannot be used:\n{error}");
        Fail::new(Status::Config, text)
    };
    let first = (setup.load)().map_err(bad_config)?;
    let wrong = crate::config::check(&first, crate::config::inherited_environment());
    let errors = wrong
        .into_iter()
        .filter(|d| d.is_error())
        .collect::<Vec<_>>();
    if !errors.is_empty() {
        let diagnostics = errors;
        return Err(bad_config(crate::config::ConfigError { diagnostics }));
    }
    // Ahead of the sockets: a second supervisor of the app is to be told that, not that
    // its port is in use.
    let runtime = claim(claimed)?;
    let was_inherited = !inherited.is_empty();
    let none = first.listens_nowhere();
    let listeners = match was_inherited {
        _ if none => Vec::new(),
        true => group(inherited, &first)?,
        false if first.listen.is_empty() && first.slot_listen.is_none() => {
            let text = "nothing to listen on: systemd passed no socket, and the configuration has no `listen`";
            let hint = "start it by its units (systemctl start app-cluster.socket), or set listen = [\"0.0.0.0:3000\"]; \
                        an app that serves nobody says listen = []";
            return Err(Fail::new(Status::Config, text).hint(hint));
        }
        false => open(&first)?,
    };
    Ok((first, listeners, runtime, was_inherited))
}

/// Says why nothing was started; under systemd not before a second has passed, so that
/// Restart= is no busy loop while clients wait in the socket.
fn give_up(fail: Fail, systemd: &mut Systemd, journal: &mut Journal, began: Instant) -> Fail {
    systemd.set_status(&fail.message);
    if systemd.is_there() {
        journal.log(Record::plain(Level::Error, fail.to_string()));
        std::thread::sleep(RETRY_PAUSE.saturating_sub(began.elapsed()));
    }
    journal.finish(Duration::from_secs(1));
    match systemd.is_there() {
        // Our stderr is the journal as well.
        true => fail.said(),
        false => fail,
    }
}

/// Variables of systemd's that make no sense are said, then ignored.
fn odd_environment() -> Vec<String> {
    let mut odd: Vec<String> = crate::engine::watchdog().1.into_iter().collect();
    let pid = std::env::var_os("LISTEN_PID");
    let ours = |v: &std::ffi::OsString| v.to_str() == Some(&std::process::id().to_string());
    if std::env::var_os("LISTEN_FDS").is_some() && !pid.as_ref().is_some_and(ours) {
        odd.push(format!(
            "LISTEN_FDS is set, but LISTEN_PID={:?} is not our pid: the sockets are not for us",
            pid.unwrap_or_default()
        ));
    }
    odd.extend(old_kernel());
    odd
}

/// The oldest kernel that is supported (Debian 12 has 6.1, EL 9 has 5.14).
const OLDEST_KERNEL: (u32, u32) = (5, 10);

fn old_kernel() -> Option<String> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let (major, minor) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
    let (oldest_major, oldest_minor) = OLDEST_KERNEL;
    ((major, minor) < OLDEST_KERNEL).then(|| {
        format!(
            "Linux {} is older than {oldest_major}.{oldest_minor}: not everything will work",
            release.trim()
        )
    })
}
