// SPDX-License-Identifier: MIT OR Apache-2.0
//! `app-cluster enable` and `disable`: whether a boot starts the app.

use super::client::no_such_app;
use super::settings::{self, DropIn};
use super::systemd::{Systemd, is_down};
use super::{DEFAULT_NAME, Fail, config_file, units};
use crate::config::{Autostart, Config};

/// What these commands say of an app.
const DROP_IN: DropIn = DropIn::Kept("50-autostart.toml");

pub fn set(name: &str, enable: bool) -> Result<(), Fail> {
    let verb = if enable { "enable" } else { "disable" };
    let file = config_file(name);
    if !file.exists() {
        return Err(no_such_app(name));
    }
    let config = Config::load(&file).map_err(settings::bad_config)?;
    // The package has enabled the socket of this one, and a link is a link.
    if name == DEFAULT_NAME && config.autostart.is_none() {
        return set_links(name, enable);
    }
    settings::writable(name, DROP_IN, &format!("{verb} {name}"))?;
    let systemd = Systemd::connect("daemon-reload")?;
    write_down(name, enable)?;
    systemd.reload()?;
    let now = Config::load(&file).map_err(settings::bad_config)?;
    if starts(&now) != enable {
        let other = now.source.drop_in("autostart").unwrap_or("another file");
        eprintln!("{name} | note: {other} says otherwise, and it counts for more");
    }
    tell(&systemd, name, starts(&now));
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
    println!(
        "{name}: {}",
        match (starts, runs) {
            (true, true) => "started at boot from now on".to_owned(),
            (true, false) => format!("started at boot from now on; now: app-cluster start {name}"),
            (false, true) => format!("not started at boot any more; now: app-cluster stop {name}"),
            (false, false) => "not started at boot any more".to_owned(),
        }
    );
}

/// A drop-in, if the configuration does not say the same without it.
fn write_down(name: &str, enable: bool) -> Result<(), Fail> {
    let before = std::fs::read_to_string(DROP_IN.path(name)).ok();
    settings::remove(name, DROP_IN)?;
    let rest = Config::load(&config_file(name)).map_err(|error| {
        if let Some(before) = before {
            let _ = settings::write(name, DROP_IN, &before);
        }
        settings::bad_config(error)
    })?;
    if starts(&rest) == enable {
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

/// As systemctl(1) does, by links.
fn set_links(name: &str, enable: bool) -> Result<(), Fail> {
    let (service, socket) = units(name);
    let all = [socket.as_str(), service.as_str()];
    let verb = if enable { "enable" } else { "disable" };
    let systemd = Systemd::connect(&format!("{verb} {}", all.join(" ")))?;
    match enable {
        true => systemd.enable(&all)?,
        false => systemd.disable(&all)?,
    };
    systemd.reload()?;
    tell(&systemd, name, enable);
    Ok(())
}
