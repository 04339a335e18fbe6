// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a new configuration needs of the units that they do not have yet. A reload cannot
//! give it: the sockets and the user are there before the supervisor is.

use super::{Units, service, socket};
use crate::config::{Config, Listen, ListenAddress, SLOT_LISTENER, Workers, show_duration};
use std::collections::{BTreeMap, BTreeSet};
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

/// What is there: facts about the supervisor that asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Present {
    /// What its units said when it started.
    pub view: View,
    /// The user it runs as.
    pub user: String,
    /// The names of [`Present::user`] are also ids: its number.
    pub uid: u32,
    /// Its group.
    pub group: String,
    /// The number of [`Present::group`].
    pub gid: u32,
    /// [`super::SANDBOX_VARIABLE`], if it is set.
    pub sandbox: Option<String>,
    /// Keys of the units that a later drop-in sets, such as that of `systemctl edit`: for
    /// these the configuration does not count.
    pub overridden: BTreeSet<String>,
}

/// One thing that a reload cannot do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// `listen: 127.0.0.1:3000 -> 127.0.0.1:4000`.
    pub text: String,
    /// Whether sockets have to be opened anew.
    pub sockets: bool,
}

/// What `config`, whose units are `wanted`, needs that is not there; `sockets` are those
/// that the supervisor has.
pub fn changes(
    name: &str,
    config: &Config,
    wanted: &View,
    sockets: &[Real],
    present: &Present,
) -> Vec<Change> {
    let mut found = Vec::new();
    if !present.overridden.contains("ListenStream") {
        listeners(name, config, wanted, sockets, present, &mut found);
    }
    accounts(config, wanted, present, &mut found);
    let given = |sandbox: &str| match sandbox {
        "" => "default".to_owned(),
        other => other.to_owned(),
    };
    let (is, shall) = (
        given(present.sandbox.as_deref().unwrap_or_default()),
        given(wanted.setting("sandbox")),
    );
    if is != shall {
        found.push(Change {
            text: format!("sandbox: {is} -> {shall}"),
            sockets: false,
        });
    }
    let files = |view: &View| view.addresses().any(|address| address.starts_with("unix:"));
    for key in ["socket_user", "socket_group", "socket_mode"] {
        let (is, shall) = (present.view.setting(key), wanted.setting(key));
        if is != shall && files(wanted) && files(&present.view) {
            found.push(Change {
                text: format!("{key}: {} -> {}", or_the_units(is), or_the_units(shall)),
                sockets: true,
            });
        }
    }
    found
}

fn or_the_units(value: &str) -> &str {
    if value.is_empty() {
        "the unit's"
    } else {
        value
    }
}

/// User and group. What the configuration does not name is the packaged unit's, and only
/// has to be no longer another's.
fn accounts(config: &Config, wanted: &View, present: &Present, found: &mut Vec<Change>) {
    use nix::unistd::{Group, User};
    let uid = |name: &str| match name.parse() {
        Ok(id) => Some(id),
        Err(_) => User::from_name(name).ok().flatten().map(|u| u.uid.as_raw()),
    };
    let gid = |name: &str| match name.parse() {
        Ok(id) => Some(id),
        Err(_) => Group::from_name(name)
            .ok()
            .flatten()
            .map(|g| g.gid.as_raw()),
    };
    let user = config
        .user
        .as_deref()
        .map(|name| uid(name) == Some(present.uid));
    let group = config
        .group
        .as_deref()
        .map(|name| gid(name) == Some(present.gid));
    for (key, unit_key, same, is) in [
        ("user", "User", user, &present.user),
        ("group", "Group", group, &present.group),
    ] {
        let (before, after) = (present.view.setting(key), wanted.setting(key));
        let same = same.unwrap_or(before == after);
        if !same && !present.overridden.contains(unit_key) {
            found.push(Change {
                text: format!("{key}: {is} -> {}", or_the_units(after)),
                sockets: false,
            });
        }
    }
}

/// Addresses of one name, each with the number of its sockets.
type Lines = BTreeMap<String, u32>;

fn listeners(
    name: &str,
    config: &Config,
    wanted: &View,
    sockets: &[Real],
    present: &Present,
    found: &mut Vec<Change>,
) {
    let mut shall: BTreeMap<&str, Lines> = BTreeMap::new();
    for (listener, addresses) in wanted.sockets.values() {
        let lines = shall.entry(listener).or_default();
        for address in addresses {
            *lines.entry(canonical(address)).or_default() += 1;
        }
    }
    let main = socket(name);
    let is = compared(&main, wanted, sockets, &present.view);
    let names: BTreeSet<&str> = is.keys().chain(shall.keys()).copied().collect();
    let none = Lines::new();
    let (mut gone, mut new) = (Vec::new(), Vec::new());
    for listener in names {
        let is = is.get(listener).unwrap_or(&none);
        let shall = shall.get(listener).unwrap_or(&none);
        if !is.keys().eq(shall.keys()) {
            gone.extend(shown(listener, is));
            new.extend(shown(listener, shall));
            continue;
        }
        for (address, (is, shall)) in is.iter().map(|(a, n)| (a, (*n, shall[a]))) {
            if !enough(config, is, shall) {
                let key = match is.min(shall) {
                    1 => "balance",
                    _ => "max_workers",
                };
                found.push(Change {
                    text: format!("{key}: {is} -> {shall} sockets at {address}"),
                    sockets: true,
                });
            }
        }
    }
    if !gone.is_empty() || !new.is_empty() {
        let list = |all: Vec<String>, none: &str| match all.is_empty() {
            true => none.to_owned(),
            false => all.join(", "),
        };
        let none = match wanted.sockets.contains_key(&main) {
            true => "nothing",
            false => "the socket unit's",
        };
        let text = format!("listen: {} -> {}", list(gone, "nothing"), list(new, none));
        found.push(Change {
            text,
            sockets: true,
        });
    }
}

/// The sockets that the configuration has to do with, by listener. Without `listen` the
/// first socket unit (`main`) says where, and under which name; only what the configuration
/// gave before counts.
fn compared<'s>(
    main: &str,
    wanted: &View,
    sockets: &'s [Real],
    present: &View,
) -> BTreeMap<&'s str, Lines> {
    let free = !wanted.sockets.contains_key(main) && !present.sockets.contains_key(main);
    let mut is: BTreeMap<&str, Lines> = BTreeMap::new();
    for (listener, address, count) in sockets {
        let further = |view: &View| {
            let mut units = view.sockets.iter().filter(|(unit, _)| *unit != main);
            units.any(|(_, (known, _))| known == listener)
        };
        if !free || further(wanted) || further(present) {
            let lines = is.entry(listener).or_default();
            *lines.entry(canonical(address)).or_default() += count;
        }
    }
    is
}

/// Whether `is` sockets do where `shall` are wanted. The wish depends on the number of
/// processors unless it is given, and that is no reason to refuse.
fn enough(config: &Config, is: u32, shall: u32) -> bool {
    let workers = match config.workers {
        Workers::Count(count) => count.min(shall),
        Workers::Max | Workers::MaxMinusOne => 1,
    };
    is == shall || (config.max_workers.is_none() && is > 1 && shall > 1 && is >= workers)
}

/// The addresses of a listener for people: with its name, if it has one of its own.
fn shown(listener: &str, lines: &Lines) -> Vec<String> {
    if listener == SLOT_LISTENER && lines.len() > 1 {
        let first = lines.keys().next().map_or("", String::as_str);
        return vec![format!("{first} and {} more (slots)", lines.len() - 1)];
    }
    let named = |address: &String| {
        let parsed = address.parse::<ListenAddress>().ok();
        let own = parsed.and_then(|address| Listen::unnamed(address).ok());
        match own {
            Some(unnamed) if unnamed.name == listener => address.clone(),
            _ => format!("{address} ({listener})"),
        }
    };
    lines.keys().map(named).collect()
}

/// An address as a socket says it: a port alone is `[::]`, or `0.0.0.0` without IPv6.
fn canonical(address: &str) -> String {
    match address.parse::<ListenAddress>() {
        Ok(ListenAddress::Port(port)) => format!("[::]:{port}"),
        _ => address.to_owned(),
    }
}

/// `changes`, the commands that make them, and what these cost.
pub fn remedy(
    name: &str,
    config: &Config,
    wanted: &View,
    present: &Present,
    changes: &[Change],
) -> String {
    let mut text = String::new();
    for change in changes {
        let _ = writeln!(text, "  {}", change.text);
    }
    let drain = show_duration(config.drain_timeout);
    let (service, socket) = (service(name), socket(name));
    text += "to apply it:\n  systemctl daemon-reload\n";
    if !changes.iter().any(|change| change.sockets) {
        let _ = writeln!(text, "  systemctl restart {service}");
        let _ = write!(
            text,
            "the workers finish what they have accepted (drain_timeout, {drain}), and new \
             connections wait until the new ones are ready"
        );
        return text;
    }
    let _ = writeln!(text, "  systemctl restart {service} {socket}");
    let left = present.view.sockets.keys();
    let left: Vec<&str> = left
        .filter(|unit| **unit != socket && !wanted.sockets.contains_key(*unit))
        .map(String::as_str)
        .collect();
    if !left.is_empty() {
        let _ = writeln!(text, "  systemctl stop {}", left.join(" "));
    }
    let _ = write!(
        text,
        "the workers finish what they have accepted (drain_timeout, {drain}); connections that \
         wait are dropped, and new ones refused until the sockets are open again"
    );
    text
}
