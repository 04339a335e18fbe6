// SPDX-License-Identifier: MIT OR Apache-2.0
//! `app-cluster delete NAME`: nothing of the app is left but its own code.

use super::client::no_such_app;
use super::systemd::{Systemd, Verb, is_down};
use super::{
    CONFIG_DIRECTORY, Fail, RUNTIME_DIRECTORY, Status, config_file, settings, sweep, units,
};
use crate::engine::Runtime;
use crate::units::kept;
use std::fs;
use std::io::{self, BufRead, ErrorKind, IsTerminal, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// Below it an app may have a directory with what its supervisor keeps.
const STATE_DIRECTORY: &str = "/var/lib/app-cluster";
/// What a supervisor keeps below [`STATE_DIRECTORY`]. Whatever else is there is the app's own.
const STATE_FILES: &[&str] = &[crate::engine::SECRET_FILE];

pub fn delete(name: &str, yes: bool) -> Result<(), Fail> {
    let files = files(name);
    let (service, socket) = units(name);
    let shown = format!("stop {socket} {service}");
    let systemd = match Systemd::connect(&shown) {
        Ok(systemd) => Some(systemd),
        // Without systemd nothing of it can be left either.
        Err(_) if !sd_notify::booted().unwrap_or(false) => None,
        Err(fail) => return Err(fail),
    };
    let all = match &systemd {
        Some(systemd) => loaded(systemd, name)?,
        None => Vec::new(),
    };
    let mut running = Vec::new();
    for unit in &all {
        if let Some(systemd) = &systemd
            && !is_down(&systemd.state(unit)?)
        {
            running.push(unit.as_str());
        }
    }
    if files.is_empty() && running.is_empty() {
        return Err(no_such_app(name));
    }
    settings::may_write(Path::new(CONFIG_DIRECTORY), &format!("delete {name}"))?;
    confirm(name, &files, &running, yes)?;
    match &systemd {
        Some(systemd) => {
            let sockets = stop(systemd, name, &all)?;
            remove_files(name)?;
            forget(systemd, name, &all)?;
            for socket in sockets {
                remove_socket(&socket);
            }
            // Of the last app that had any; as it stopped, its own were removed.
            let _ = fs::remove_dir(kept::DIRECTORY);
        }
        None => remove_files(name)?,
    }
    outln!("{name}: deleted");
    Ok(())
}

/// The files and directories that `delete` removes and that are there.
fn files(name: &str) -> Vec<PathBuf> {
    let state = Path::new(STATE_DIRECTORY).join(name);
    let state = STATE_FILES.iter().map(|file| state.join(file));
    let all = std::iter::once(config_file(name))
        .chain(settings::drop_in_directories(name))
        .chain(state);
    all.filter(|path| fs::symlink_metadata(path).is_ok())
        .collect()
}

/// Socket and service, the main ones first, and the sockets of further listeners.
fn loaded(systemd: &Systemd, name: &str) -> Result<Vec<String>, Fail> {
    let (service, socket) = units(name);
    let further = format!("app-cluster@{}:*.socket", name);
    let mut all = vec![socket, service];
    all.extend(systemd.loaded(&[&further])?);
    Ok(all)
}

fn confirm(name: &str, files: &[PathBuf], running: &[&str], yes: bool) -> Result<(), Fail> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        let text = format!("nobody can be asked whether {name} is to be deleted");
        let hint = format!("app-cluster delete {name} --yes");
        return Err(Fail::new(Status::Usage, text).hint(hint));
    }
    let mut out = io::stderr();
    if !running.is_empty() {
        writeln!(out, "stops {}", running.join(" "))?;
    }
    for file in files {
        writeln!(out, "removes {}", file.display())?;
    }
    write!(out, "Delete {name}? [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    match ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) {
        true => Ok(()),
        false => Err(Fail::new(Status::Failed, "nothing was deleted")),
    }
}

/// Stops them; gives the socket files that are left.
fn stop(systemd: &Systemd, name: &str, all: &[String]) -> Result<Vec<PathBuf>, Fail> {
    let mut sockets = Vec::new();
    for socket in all.iter().filter(|unit| unit.ends_with(".socket")) {
        let addresses = systemd.addresses(socket)?.into_iter();
        let paths = addresses.filter(|(_, address)| address.starts_with('/'));
        sockets.extend(paths.map(|(_, path)| PathBuf::from(path)));
    }
    for unit in all {
        if !is_down(&systemd.state(unit)?) {
            errln!("{name} | systemctl stop {unit}");
        }
        // Also one that systemd is about to start again.
        systemd.job(Verb::Stop, unit, |_| {})??;
    }
    // What the units have not ended: workers that had no supervisor.
    sweep::after_stop(systemd, name, false)?;
    Ok(sockets)
}

fn remove_files(name: &str) -> Result<(), Fail> {
    for path in files(name) {
        let removed = match fs::symlink_metadata(&path)?.is_dir() {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
        removed.map_err(|error| settings::cannot("remove", &path, &error))?;
    }
    let runtime = Path::new(RUNTIME_DIRECTORY).join(name);
    let removed = Runtime::remove_left(&runtime);
    removed.map_err(|error| settings::cannot("remove", &runtime, &error))?;
    let state = Path::new(STATE_DIRECTORY).join(name);
    match fs::remove_dir(&state) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(_) => errln!("{name} | note: {} stays, it is not empty", state.display()),
    }
    Ok(())
}

/// Takes away what systemd knows of the units: links, drop-ins made with `systemctl edit`,
/// failures.
fn forget(systemd: &Systemd, name: &str, all: &[String]) -> Result<(), Fail> {
    let units: Vec<&str> = all.iter().map(String::as_str).collect();
    let mut changes = systemd.disable(&units)?;
    changes.extend(systemd.revert(&units)?);
    for (_, file, _) in changes {
        errln!("{name} | removed {file}");
    }
    systemd.reload()?;
    for unit in units {
        systemd.reset_failed(unit);
    }
    Ok(())
}

/// The file of a socket that was closed; systemd leaves it.
fn remove_socket(path: &Path) {
    if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        let _ = fs::remove_file(path);
    }
}
