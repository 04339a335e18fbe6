// SPDX-License-Identifier: MIT OR Apache-2.0
//! `app-cluster enable` and `disable`: whether a boot starts the app.

use super::client::no_such_app;
use super::settings::{self, DropIn};
use super::systemd::{Systemd, is_down};
use super::{DEFAULT_NAME, Fail, config_file, units};
use crate::config::{Autostart, Config};
use std::fs;
use std::path::{Path, PathBuf};

/// Where systemctl(1) keeps links.
pub const LINKS: &str = "/etc/systemd/system";
/// What these commands say of an app.
const DROP_IN: DropIn = DropIn::Kept("50-autostart.toml");

pub fn set(name: &str, enable: bool) -> Result<(), Fail> {
    let verb = if enable { "enable" } else { "disable" };
    let file = config_file(name);
    if !file.exists() {
        return Err(no_such_app(name));
    }
    let config = Config::load(&file).map_err(settings::bad_config)?;
    // Links are all there is to the plain app, unless its configuration says something.
    let by_links = name == DEFAULT_NAME;
    let by_configuration = !by_links || config.autostart.is_some();
    if by_configuration {
        settings::writable(name, DROP_IN, &format!("{verb} {name}"))?;
    }
    let (service, socket) = units(name);
    let systemd = Systemd::connect(&match by_links {
        true => format!("{verb} {socket} {service}"),
        false => "daemon-reload".to_owned(),
    })?;
    if by_configuration {
        write_down(name, enable)?;
    }
    let now = Config::load(&file).map_err(settings::bad_config)?;
    if by_links {
        set_links(&systemd, enable, now.autostart)?;
    }
    systemd.reload()?;
    let starts = match now.autostart {
        None if by_links => enable,
        _ => starts(&now),
    };
    if starts != enable {
        let other = now.source.drop_in("autostart").unwrap_or("another file");
        errln!("{name} | note: {other} says otherwise, and it counts for more");
    }
    tell(&systemd, name, starts);
    Ok(())
}

/// Whether something starts the app without a command.
fn starts(config: &Config) -> bool {
    config.autostart != Some(Autostart::Never)
}

fn tell(systemd: &Systemd, name: &str, starts: bool) {
    let (service, socket) = units(name);
    let mut all = [service, socket].into_iter();
    let runs = all.any(|unit| systemd.state(&unit).is_ok_and(|state| !is_down(&state)));
    outln!(
        "{name}: {}",
        match (starts, runs) {
            (true, true) => "started at boot from now on".to_owned(),
            (true, false) => format!("started at boot from now on; now: app-cluster start {name}"),
            (false, true) => format!("not started at boot any more; now: app-cluster stop {name}"),
            (false, false) => "not started at boot any more".to_owned(),
        }
    );
}

/// A drop-in, if the configuration does not say the same without it, or leaves it to links.
fn write_down(name: &str, enable: bool) -> Result<(), Fail> {
    let before = std::fs::read_to_string(DROP_IN.path(name)).ok();
    settings::remove(name, DROP_IN)?;
    let rest = Config::load(&config_file(name)).map_err(|error| {
        if let Some(before) = before {
            let _ = settings::write(name, DROP_IN, &before);
        }
        settings::bad_config(error)
    })?;
    if starts(&rest) == enable || (name == DEFAULT_NAME && rest.autostart.is_none()) {
        return Ok(());
    }
    let (verb, other, value) = match enable {
        true => ("enable", "disable", "boot"),
        false => ("disable", "enable", "never"),
    };
    let text = format!(
        "# Written by \"app-cluster {verb}\"; \"app-cluster {other} {name}\" takes it back.\n\
         autostart = \"{value}\"\n"
    );
    settings::write(name, DROP_IN, &text)
}

/// The links of the plain app, as systemctl(1) makes and removes them. The package has made
/// that of the socket, and a link starts its unit whatever the configuration says.
pub fn set_links(
    systemd: &Systemd,
    enable: bool,
    autostart: Option<Autostart>,
) -> Result<(), Fail> {
    let (service, socket) = units(DEFAULT_NAME);
    match (enable, autostart) {
        (true, Some(Autostart::Connection)) => {
            systemd.enable(&[&socket])?;
            systemd.disable(&[&service])?;
        }
        (true, _) => drop(systemd.enable(&[&socket, &service])?),
        (false, _) => drop(systemd.disable(&[&socket, &service])?),
    }
    Ok(())
}

/// Links below `directory` that start a unit of the plain app at boot, though its
/// configuration says that this does not.
pub fn links_against(autostart: Autostart, directory: &Path) -> Vec<PathBuf> {
    let (service, socket) = units(DEFAULT_NAME);
    let against: &[&str] = match autostart {
        Autostart::Boot => &[],
        Autostart::Connection => &[&service],
        Autostart::Never => &[&socket, &service],
    };
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let wants = entries.map(|entry| entry.path()).filter(|path| {
        let kind = path.extension().unwrap_or_default();
        kind == "wants" || kind == "requires" || kind == "upholds"
    });
    let links = wants.flat_map(|path| against.iter().map(move |unit| path.join(unit)));
    let mut links: Vec<PathBuf> = links.filter(|link| link.is_symlink()).collect();
    links.sort();
    links
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_what_they_are_against() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |path: &str| directory.path().join(path);
        for place in ["sockets.target.wants", "multi-user.target.wants"] {
            fs::create_dir(at(place)).expect("a directory");
        }
        let found = |autostart| links_against(autostart, directory.path());
        assert!(found(Autostart::Never).is_empty());
        let socket = at("sockets.target.wants/app-cluster.socket");
        std::os::unix::fs::symlink("/nowhere/app-cluster.socket", &socket).expect("a link");
        assert_eq!(found(Autostart::Never), [socket.as_path()]);
        assert!(found(Autostart::Connection).is_empty());
        let service = at("multi-user.target.wants/app-cluster.service");
        std::os::unix::fs::symlink("/nowhere/app-cluster.service", &service).expect("a link");
        assert_eq!(found(Autostart::Never), [service.clone(), socket]);
        assert_eq!(found(Autostart::Connection), [service]);
        assert!(found(Autostart::Boot).is_empty());
    }
}
