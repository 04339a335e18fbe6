// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a configuration to systemd units: drop-ins for the packaged units, and links that
//! start them at boot.
//!
//! [`render`] is pure; [`generator`] is what systemd runs at boot and `daemon-reload`
//! (systemd.generator(7)); [`kept`] lets the sockets of an app outlive a configuration file
//! that cannot be read; [`changes`] says what a reload cannot carry out.
//!
//! `FileDescriptorName=` holds for a whole socket unit. So the first listener is in the
//! app's own socket unit, each further one and the addresses of `slot_listen` in an
//! instance of the template of their own, `app-cluster@NAME:LISTENER.socket`, which starts
//! and stops with the first.

pub mod changes;
pub mod generator;
#[cfg(test)]
mod generator_tests;
pub mod kept;
mod log;
mod running;
mod sandbox;
#[cfg(test)]
mod tests;

pub use running::Running;

use crate::config::{
    Autostart, Config, ConfigError, Diagnostic, Listen, ListenAddress, SLOT_LISTENER, Sandbox,
    Severity,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// The app that has the plain units.
pub const PLAIN: &str = "app-cluster";
/// Says to the supervisor which sandbox its unit has; not for workers.
pub const SANDBOX_VARIABLE: &str = "APP_CLUSTER_SANDBOX";
/// The group whose members may ask a supervisor, and which every supervisor has.
pub const GROUP: &str = "app-cluster";

/// Name of each drop-in: `override.conf`, which `systemctl edit` writes, comes after it.
const DROP_IN: &str = "50-app-cluster.conf";
/// Where the packaged units are.
const PACKAGED: &str = "/usr/lib/systemd/system";
/// `TimeoutStopSec=` of the packaged unit.
const STOP: Duration = Duration::from_secs(90);
/// Left to the supervisor after the last worker's drain timeout.
const STOP_MARGIN: Duration = Duration::from_secs(30);
/// Longest name of a file: a drop-in's directory has that of the unit and `.d`.
const NAME_MAX: usize = 255;

/// The files of one app, all paths relative to the directory that systemd reads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Units {
    /// Drop-ins and their text.
    pub files: BTreeMap<String, String>,
    /// Symbolic links and what they point to.
    pub links: BTreeMap<String, String>,
}

/// The service unit of the app `name`.
pub fn service(name: &str) -> String {
    match name {
        PLAIN => "app-cluster.service".to_owned(),
        _ => format!("app-cluster@{name}.service"),
    }
}

/// The socket unit of its first listener.
pub fn socket(name: &str) -> String {
    match name {
        PLAIN => "app-cluster.socket".to_owned(),
        _ => format!("app-cluster@{name}.socket"),
    }
}

/// The socket unit of a further listener, or of the slots' addresses.
pub fn further_socket(name: &str, listener: &str) -> String {
    format!("app-cluster@{name}:{listener}.socket")
}

/// Where the drop-in for `unit` is.
fn drop_in(unit: &str) -> String {
    format!("{unit}.d/{DROP_IN}")
}

/// A listener as a socket unit has it.
struct Socket<'c> {
    unit: String,
    /// Its name in LISTEN_FDNAMES.
    name: &'c str,
    /// Its addresses, each as often as it has sockets.
    addresses: Vec<String>,
    lines: u32,
}

/// The units of the app `name`.
///
/// # Errors
/// An address or a name that a unit cannot have.
pub fn render(name: &str, config: &Config) -> Result<Units, ConfigError> {
    let sockets = sockets(name, config)?;
    let further: Vec<&Socket<'_>> = sockets.iter().filter(|s| s.unit != socket(name)).collect();
    let mut units = Units::default();
    let main = sockets.iter().find(|s| s.unit == socket(name));
    units.add(&socket(name), main_socket(name, config, main, &further));
    for one in &further {
        let mut text = format!(
            "[Unit]\nDescription=app-cluster listening socket \"{}\" of {name}\nPartOf={}\n\n[Socket]\n",
            one.name,
            socket(name)
        );
        text += &listening(one);
        let _ = writeln!(text, "Service={}", service(name));
        text += &ownership(config);
        units.add(&one.unit, text);
    }
    units.add(&service(name), service_drop_in(name, config, &further));
    links(name, config, &mut units);
    Ok(units)
}

impl Units {
    fn add(&mut self, unit: &str, text: String) {
        let head = "# SPDX-License-Identifier: MIT OR Apache-2.0\n\
                    # Made from the configuration by app-cluster-generator.\n";
        self.files.insert(drop_in(unit), format!("{head}{text}"));
    }
}

fn sockets<'c>(name: &str, config: &'c Config) -> Result<Vec<Socket<'c>>, ConfigError> {
    let mut all = Vec::new();
    for (index, listen) in config.listen.iter().enumerate() {
        let lines = config.lines(&listen.address);
        let address = stream(config, "listen", &listen.address)?;
        all.push(Socket {
            unit: match index {
                0 => socket(name),
                _ => further_socket(name, &listen.name),
            },
            name: &listen.name,
            addresses: vec![address; lines as usize],
            lines,
        });
    }
    if let Some(template) = &config.slot_listen {
        let slots = 0..config.slots_with_address();
        let addresses = slots.map(|n| stream(config, "slot_listen", &template.address(n)));
        all.push(Socket {
            unit: further_socket(name, SLOT_LISTENER),
            name: SLOT_LISTENER,
            addresses: addresses.collect::<Result<_, _>>()?,
            lines: 1,
        });
    }
    match all.iter().find(|s| s.unit.len() + 2 > NAME_MAX) {
        Some(long) => {
            let text = format!("the name \"{}\" is too long for a unit", long.name);
            Err(error(config, "listen", text))
        }
        None => Ok(all),
    }
}

fn error(config: &Config, key: &str, text: String) -> ConfigError {
    let found: Diagnostic = config.source.diagnostic(Severity::Error, key, text, None);
    found.into()
}

/// `address` as `ListenStream=` takes it (systemd.socket(5)): a line without quotes, in
/// which `%` begins a specifier, spaces at its end are lost and a backslash there joins the
/// next line to it.
fn stream(config: &Config, key: &str, address: &ListenAddress) -> Result<String, ConfigError> {
    let text = match address {
        ListenAddress::Unix(path) => path.display().to_string(),
        other => other.to_string(),
    };
    let last = text.chars().last().unwrap_or(' ');
    if address.port() == Some(0) {
        let why = format!("under systemd {address} needs a port: 0 is for `app-cluster dev`");
        Err(error(config, key, why))
    } else if text.chars().any(char::is_control) || last == '\\' || last.is_whitespace() {
        let why = format!("a socket unit cannot have the address {text:?}");
        Err(error(config, key, why))
    } else {
        Ok(text.replace('%', "%%"))
    }
}

/// The lines of `[Socket]` that say where to listen, and under which name.
fn listening(socket: &Socket<'_>) -> String {
    // The empty line takes the packaged address away.
    let mut text = "ListenStream=\n".to_owned();
    for address in &socket.addresses {
        let _ = writeln!(text, "ListenStream={address}");
    }
    if socket.lines > 1 {
        text += "ReusePort=yes\n";
    }
    // `[::]` and a port alone take IPv4 too, whatever net.ipv6.bindv6only says.
    text += "BindIPv6Only=both\n";
    let _ = writeln!(text, "FileDescriptorName={}", socket.name);
    text
}

/// The lines of `[Socket]` that say whose the socket files are.
fn ownership(config: &Config) -> String {
    let mut text = String::new();
    let user = config.socket_user.as_ref().or(config.user.as_ref());
    let group = config.socket_group.as_ref().or(config.group.as_ref());
    if let Some(user) = user {
        let _ = writeln!(text, "SocketUser={user}");
    }
    match group {
        Some(group) => {
            let _ = writeln!(text, "SocketGroup={group}");
        }
        // The packaged group would let all apps in; systemd takes the user's own.
        None if user.is_some() => text += "SocketGroup=\n",
        None => {}
    }
    if let Some(mode) = config.socket_mode {
        let _ = writeln!(text, "SocketMode={mode:04o}");
    }
    text
}

fn main_socket(
    name: &str,
    config: &Config,
    main: Option<&Socket<'_>>,
    further: &[&Socket<'_>],
) -> String {
    let mut text = String::new();
    if !further.is_empty() {
        let _ = writeln!(text, "[Unit]\nWants={}\n", names(further));
    }
    text += "[Socket]\n";
    text += &main.map(listening).unwrap_or_default();
    text += &ownership(config);
    text += "# So that these units outlive a configuration that cannot be read.\n";
    for (key, verb) in [
        ("ExecStartPost", kept::KEEP),
        ("ExecStopPost", kept::FORGET),
    ] {
        let _ = writeln!(text, "{key}=-{} {verb} {name}", generator::PROGRAM);
    }
    text
}

fn names(sockets: &[&Socket<'_>]) -> String {
    let names: Vec<&str> = sockets.iter().map(|s| s.unit.as_str()).collect();
    names.join(" ")
}

fn service_drop_in(name: &str, config: &Config, further: &[&Socket<'_>]) -> String {
    let mut text = String::new();
    if !further.is_empty() {
        let all = names(further);
        let _ = writeln!(text, "[Unit]\nRequires={all}\nAfter={all}\n");
    }
    text += "[Service]\n";
    if !further.is_empty() {
        let _ = writeln!(text, "Sockets={}", names(further));
    }
    if let Some(user) = &config.user {
        let _ = writeln!(text, "User={user}");
    }
    match &config.group {
        Some(group) => {
            let _ = writeln!(text, "Group={group}");
        }
        // Not the packaged one: the main group of the user.
        None if config.user.is_some() => text += "Group=\n",
        None => {}
    }
    let stop = config.pre_stop_delay.saturating_add(config.drain_timeout);
    let longest = STOP.max(stop.saturating_add(STOP_MARGIN));
    let _ = writeln!(text, "TimeoutStopSec={}s", longest.as_secs());
    // For the secret of `sticky`, which a reload may change to from `even`.
    if config.spread().has_lines() || config.sandbox == Sandbox::Strict {
        let _ = writeln!(text, "StateDirectory=app-cluster/{name}");
        text += "StateDirectoryMode=0700\n";
    }
    text += &sandbox::lines(config);
    text
}

/// Links that start the app at boot. The plain app's are systemctl(1)'s, unless the
/// configuration says something.
fn links(name: &str, config: &Config, units: &mut Units) {
    let autostart = match (config.autostart, name) {
        (Some(autostart), _) => autostart,
        (None, PLAIN) => return,
        (None, _) => Autostart::Boot,
    };
    let mut link = |target: &str, unit: String| {
        let file = match name {
            PLAIN => unit.clone(),
            // The kind of an instance's template.
            _ => format!(
                "app-cluster@.{}",
                unit.rsplit('.').next().unwrap_or_default()
            ),
        };
        let path = format!("{target}.wants/{unit}");
        units.links.insert(path, format!("{PACKAGED}/{file}"));
    };
    if autostart != Autostart::Never {
        link("sockets.target", socket(name));
    }
    if autostart == Autostart::Boot {
        link("multi-user.target", service(name));
    }
}

/// Every address that `config` asks for, as [`ListenAddress::claim`] has it.
fn claims(config: &Config) -> Vec<String> {
    let of_slots = config.slot_listen.iter().flat_map(|template| {
        let slots = 0..config.slots_with_address();
        slots.map(|n| template.address(n).claim())
    });
    let listed = config.listen.iter().map(|l: &Listen| l.address.claim());
    listed.chain(of_slots).collect()
}
