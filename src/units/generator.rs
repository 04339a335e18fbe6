// SPDX-License-Identifier: MIT OR Apache-2.0
//! What systemd runs at boot and at each `daemon-reload` (systemd.generator(7)), before it
//! reads its units: drop-ins for the units of each app.
//!
//! Nothing in a configuration file makes it fail, hang or harm another app: what is wrong
//! is logged, and the app keeps the units that its sockets were opened with. An app that has
//! none stays closed: the packaged units would open another address, for another user.

use super::{Units, claims, drop_in, kept, log, render, service, socket};
use crate::config::{Config, ConfigError, ListenAddress, valid_name};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The generator: a link to our own program.
pub const PROGRAM: &str = "/usr/lib/systemd/system-generators/app-cluster-generator";
/// How the name ends that our program is called by when it is to be the generator.
pub const NAME: &str = "app-cluster-generator";
/// Beginning of the name of each of our units.
pub(super) const PREFIX: &str = "app-cluster";
/// Verb that says why an app is closed, and fails.
const REFUSE: &str = "refuse";
/// Where the configuration of the apps is.
const CONFIGURATION: &str = "/etc/app-cluster";
/// Most files that are read.
const MOST: usize = 4096;
/// No file is begun after that; systemd ends a generator after 90 s.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs with the `arguments` that systemd gives (three directories, of which the
/// first two are used), or as `keep NAME`, `forget NAME`, `refuse NAME`.
pub fn main(arguments: &[String]) -> ExitCode {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [kept::KEEP, name] if valid_name(name).is_ok() => {
            let places = (Path::new(kept::GENERATED), Path::new(kept::DIRECTORY));
            match kept::keep(name, places.0, places.1) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    log::error(name, &format!("cannot keep its units: {error:#}"));
                    ExitCode::FAILURE
                }
            }
        }
        [kept::FORGET, name] if valid_name(name).is_ok() => {
            kept::forget(name, Path::new(kept::DIRECTORY));
            ExitCode::SUCCESS
        }
        [REFUSE, name] if valid_name(name).is_ok() => {
            refuse(name);
            ExitCode::FAILURE
        }
        [normal, early, _] if normal.starts_with('/') => {
            let (configuration, kept) = (Path::new(CONFIGURATION), Path::new(kept::DIRECTORY));
            run(configuration, kept, Path::new(normal), Path::new(early));
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("usage: {NAME} NORMAL-DIR EARLY-DIR LATE-DIR (systemd.generator(7))");
            ExitCode::FAILURE
        }
    }
}

/// Writes what [`generate`] gives below `normal` and `early`, and logs what is wrong.
pub fn run(configuration: &Path, kept: &Path, normal: &Path, early: &Path) {
    for (name, found) in generate(configuration, kept) {
        for text in &found.wrong {
            log::error(&name, text);
        }
        let written = write(&found.units, normal).and(write(&found.closed, early));
        if let Err(error) = written {
            log::error(&name, &format!("its units cannot be written: {error}"));
        }
    }
}

/// Says on stderr, which is the journal of the socket unit, why the app `name` is closed.
fn refuse(name: &str) {
    let found = generate(Path::new(CONFIGURATION), Path::new(kept::DIRECTORY)).remove(name);
    let mut wrong = found.map(|found| found.wrong).unwrap_or_default();
    if wrong.is_empty() {
        wrong.push(format!("{name}: mended; now systemctl daemon-reload"));
    }
    for text in wrong {
        eprintln!("{text}");
    }
}

/// What came of one app's files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Its units; empty if there are none.
    pub units: Units,
    /// What keeps the packaged units from opening, if it is to have none. Not among the
    /// others, so that it is not taken for what the configuration asks for.
    pub closed: Units,
    /// What is wrong, a line each, for people.
    pub wrong: Vec<String>,
    claims: Vec<String>,
    /// Its units are the copy of those that its sockets were opened with.
    kept: bool,
}

/// The units of each app with a file in `configuration`, and what is wrong with it; `kept`
/// is where [`kept::keep`] has put copies. Apps without a file that can be read or a copy
/// are closed.
pub fn generate(configuration: &Path, kept: &Path) -> BTreeMap<String, Found> {
    let began = Instant::now();
    let mut all = BTreeMap::new();
    for (n, name) in names(configuration).into_iter().enumerate() {
        let unread = match () {
            () if n >= MOST => Some(format!("{name}: only {MOST} configurations are read")),
            () if began.elapsed() >= PATIENCE => {
                Some(format!("{name}: no time left for its configuration"))
            }
            () => None,
        };
        let found = match unread {
            Some(text) => fall_back(&name, kept, vec![text]),
            None => one(&name, configuration, kept),
        };
        all.insert(name, found);
    }
    settle(&mut all, kept);
    all
}

/// The names of the apps that have a file, in order.
fn names(configuration: &Path) -> Vec<String> {
    let entries = fs::read_dir(configuration).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter_map(|file| file.strip_suffix(".toml").map(str::to_owned))
        .filter(|name| valid_name(name).is_ok())
        .collect();
    names.sort();
    names
}

/// Reads the files of one app. What is wrong with a key that says nothing about units does
/// not take them away.
fn one(name: &str, configuration: &Path, kept: &Path) -> Found {
    let path = configuration.join(format!("{name}.toml"));
    let (usable, wrong) = match Config::load(&path) {
        Ok(config) => (Ok(config), Vec::new()),
        Err(error) => (Config::load_for_units(&path), lines(&error)),
    };
    let rendered = usable.and_then(|config| Ok((render(name, &config)?, claims(&config))));
    match rendered {
        Ok((units, claims)) => Found {
            units,
            wrong,
            claims,
            ..Found::default()
        },
        Err(error) => {
            let mut wrong = wrong;
            if wrong.is_empty() {
                wrong = lines(&error);
            }
            fall_back(name, kept, wrong)
        }
    }
}

/// The units that the app has, instead of those that it cannot get.
fn fall_back(name: &str, kept: &Path, mut wrong: Vec<String>) -> Found {
    let mut found = Found::default();
    match kept::find(name, kept) {
        Ok(units) => {
            wrong.push(format!(
                "{name}: its units stay as they were when its sockets were opened"
            ));
            found.claims = addresses(name, &units);
            found.units = units;
            found.kept = true;
        }
        Err(_) => {
            wrong.push(format!(
                "{name}: {} opens nothing until that is mended and systemctl daemon-reload \
                 has been run",
                socket(name)
            ));
            found.closed = closed(name);
        }
    }
    found.wrong = wrong;
    found
}

/// Makes the start of the app's first socket fail, which the others and the service require.
/// One that is open stays so.
fn closed(name: &str) -> Units {
    let mut units = Units::default();
    let text = format!("[Socket]\nExecStartPre={PROGRAM} {REFUSE} {name}\n");
    units.add(&socket(name), text);
    units
}

fn lines(error: &ConfigError) -> Vec<String> {
    let line = |found: &crate::config::Diagnostic| {
        let at = &found.position;
        let place = match at.line {
            0 => found.origin.clone(),
            line => format!("{}:{line}:{}", found.origin, at.column),
        };
        let hint = found.hint.as_ref().map(|hint| format!(" ({hint})"));
        format!("{place}: {}{}", found.message, hint.unwrap_or_default())
    };
    error.diagnostics.iter().map(line).collect()
}

/// Takes the units away from apps whose address is another's: of two the one keeps it that
/// listens there, else the first by name. With ReusePort= both could listen, and each would
/// get a part of the other's connections. Who loses may fall back on an address that a third
/// one has asked for; each round takes its own units from somebody, so there is an end.
fn settle(all: &mut BTreeMap<String, Found>, kept: &Path) {
    loop {
        let losers = losers(all, kept);
        if losers.is_empty() {
            return;
        }
        for (name, text) in losers {
            let mut found = fall_back(&name, kept, vec![text]);
            if let (false, Some(before)) = (found.kept, all.get(&name)) {
                found.units.files = without_sockets(&name, &before.units);
            }
            all.insert(name, found);
        }
    }
}

/// The apps with units of their own that ask for another's address, and what to tell them.
fn losers(all: &BTreeMap<String, Found>, kept: &Path) -> BTreeMap<String, String> {
    let mut claimed: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
    for (name, found) in all {
        for claim in &found.claims {
            claimed.entry(claim).or_default().push(name);
        }
    }
    claimed.retain(|_, names| names.len() > 1);
    let mut losers = BTreeMap::new();
    for (claim, names) in claimed {
        let kept_units = |name: &&&String| all.get(**name).is_some_and(|found| found.kept);
        let has_it = |name: &&&String| {
            kept::find(name, kept)
                .is_ok_and(|units| addresses(name, &units).iter().any(|one| one == claim))
        };
        let open = names.iter().find(kept_units);
        let open = open.or_else(|| names.iter().find(has_it));
        let Some(owner) = open.or(names.first()) else {
            continue;
        };
        for name in names
            .iter()
            .filter(|name| *name != owner && !kept_units(name))
        {
            let text = format!("{name}: {claim} is the address of {owner}, choose another");
            losers.insert((*name).clone(), text);
        }
    }
    losers
}

/// The drop-in of the service among `units`, as far as it says nothing about sockets: if the
/// socket is open already, as packaged, the service is still to have its user and sandbox.
fn without_sockets(name: &str, units: &Units) -> BTreeMap<String, String> {
    let path = drop_in(&service(name));
    let about_sockets = |line: &&str| {
        ["Requires=", "After=", "Sockets="]
            .iter()
            .any(|key| line.starts_with(key))
    };
    let text = units.files.get(&path).map(|text| {
        let kept = text.lines().filter(|line| !about_sockets(line));
        kept.map(|line| format!("{line}\n")).collect()
    });
    text.map(|text| (path, text)).into_iter().collect()
}

/// Where the socket units among `units` listen, as [`claims`] has it.
fn addresses(name: &str, units: &Units) -> Vec<String> {
    let view = super::changes::View::of(name, units);
    let all = view
        .addresses()
        .filter_map(|text| text.parse::<ListenAddress>().ok());
    let claims: BTreeSet<String> = all.map(|address| address.claim()).collect();
    claims.into_iter().collect()
}

/// Whether `unit` is one of the app `name`.
pub(super) fn is_of(name: &str, unit: &str) -> bool {
    let further = unit
        .strip_prefix(&format!("app-cluster@{name}:"))
        .is_some_and(|rest| rest.ends_with(".socket"));
    further || unit == socket(name) || unit == service(name)
}

/// Writes `units` below `directory`.
///
/// # Errors
/// One of them could not be written; the others have been tried.
pub(super) fn write(units: &Units, directory: &Path) -> std::io::Result<()> {
    let mut result = Ok(());
    let parent = |path: &Path| path.parent().map_or(Ok(()), fs::create_dir_all);
    for (path, text) in &units.files {
        let path = directory.join(path);
        result = result.and(parent(&path).and_then(|()| fs::write(&path, text)));
    }
    for (path, target) in &units.links {
        let path = directory.join(path);
        result = result.and(parent(&path).and_then(|()| symlink(target, &path)));
    }
    result
}
