// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a new configuration needs of the units that they do not have yet. A reload cannot
//! give it: the sockets and the user are there before the supervisor is.

use super::{Units, further_socket, service, socket};
use crate::config::{Config, ListenAddress, MAX_LINES, SLOT_LISTENER, Sandbox, Spread, Workers};
use std::collections::BTreeMap;
use std::fmt::Write;

/// A listening socket that is there: name, address as people read it, number of lines.
pub type Real = (String, String, u32);

/// What drop-ins say, as far as a restart is needed to change it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// The addresses of each socket unit, with its name in LISTEN_FDNAMES.
    sockets: BTreeMap<String, (String, Vec<String>)>,
    /// `user`, `group`, `sandbox` and those of socket files, by their name as keys.
    settings: BTreeMap<&'static str, String>,
}

/// Keys of units and those of the configuration that they come from.
const SETTINGS: [(&str, &str); 6] = [
    ("User", "user"),
    ("Group", "group"),
    ("SocketUser", "socket_user"),
    ("SocketGroup", "socket_group"),
    ("SocketMode", "socket_mode"),
    ("Environment=APP_CLUSTER_SANDBOX", "sandbox"),
];

impl View {
    /// What `units` of the app `name` say.
    pub fn of(name: &str, units: &Units) -> View {
        let mut view = View::default();
        for (path, text) in &units.files {
            let unit = path.split(".d/").next().unwrap_or_default();
            let (mut listener, mut addresses) = (String::new(), Vec::new());
            for line in text.lines() {
                let (key, value) = match line.rsplit_once('=') {
                    Some((key, value)) if key.starts_with("Environment=") => (key, value),
                    _ => line.split_once('=').unwrap_or_default(),
                };
                match key {
                    "ListenStream" if !value.is_empty() => addresses.push(plain(value)),
                    "FileDescriptorName" => value.clone_into(&mut listener),
                    _ => {
                        let known = SETTINGS.iter().find(|(unit_key, _)| *unit_key == key);
                        if let Some((_, setting)) = known.filter(|_| !value.is_empty()) {
                            view.settings.insert(setting, value.to_owned());
                        }
                    }
                }
            }
            if unit.ends_with(".socket") && !(addresses.is_empty() && unit == socket(name)) {
                view.sockets.insert(unit.to_owned(), (listener, addresses));
            }
        }
        view
    }

    /// Every address in it, as the configuration writes them.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        let sockets = self.sockets.values();
        sockets.flat_map(|(_, addresses)| addresses.iter().map(String::as_str))
    }

    fn setting(&self, key: &str) -> &str {
        self.settings.get(key).map_or("", String::as_str)
    }
}

/// A value of `ListenStream=` as the configuration writes it.
fn plain(value: &str) -> String {
    let value = value.replace("%%", "%");
    match value.starts_with('/') {
        true => format!("unix:{value}"),
        false => value,
    }
}
