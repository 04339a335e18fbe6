// SPDX-License-Identifier: MIT OR Apache-2.0
//! The units of a supervisor that runs, compared with a configuration that it reads anew.

use super::changes::{Present, Real, View, changes, remedy};
use super::{DROP_IN, SANDBOX_VARIABLE, kept, render, service, socket};
use crate::config::Config;
use nix::unistd::{Group, User, getegid, geteuid};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Where drop-ins are, besides what generators make (systemd.unit(5)); most important first.
const DIRECTORIES: [&str; 4] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
];

/// What is known of our own units.
#[derive(Debug)]
pub struct Running {
    name: String,
    present: Present,
}

impl Running {
    /// Looks at the units of the app `name`, whose supervisor we have just become; `unit`
    /// is the one that we are in. `None`: it is not the packaged one, and whoever wrote it
    /// knows what is in it.
    pub fn look(name: &str, unit: Option<&str>) -> Option<Running> {
        if unit != Some(&service(name)) {
            return None;
        }
        let units = kept::on_disk(name, Path::new(kept::GENERATED)).unwrap_or_default();
        let (uid, gid) = (geteuid(), getegid());
        let user = User::from_uid(uid).ok().flatten().map(|u| u.name);
        let group = Group::from_gid(gid).ok().flatten().map(|g| g.name);
        let present = Present {
            view: View::of(name, &units),
            user: user.unwrap_or_else(|| uid.to_string()),
            uid: uid.as_raw(),
            group: group.unwrap_or_else(|| gid.to_string()),
            gid: gid.as_raw(),
            sandbox: std::env::var(SANDBOX_VARIABLE).ok(),
            overridden: BTreeSet::new(),
        };
        Some(Running {
            name: name.to_owned(),
            present,
        })
    }

    /// Whether `config` can be used with the units as they are and these `sockets`.
    ///
    /// # Errors
    /// What it would change, how to do that, and what it costs.
    pub fn fits(&self, config: &Config, sockets: &[Real]) -> Result<(), String> {
        let name = &self.name;
        let units = render(name, config).map_err(|error| error.to_string())?;
        let wanted = View::of(name, &units);
        let present = Present {
            overridden: overridden(name, &DIRECTORIES.map(Path::new)),
            ..self.present.clone()
        };
        let found = changes(name, config, &wanted, sockets, &present);
        match found.is_empty() {
            true => Ok(()),
            false => Err(remedy(name, config, &wanted, &present, &found)),
        }
    }
}

/// The keys that drop-ins for the units of `name` set after ours.
fn overridden(name: &str, directories: &[&Path]) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for unit in [service(name), socket(name)] {
        let kind = unit.rsplit('.').next().unwrap_or_default();
        let template = match unit.contains('@') {
            true => format!("app-cluster@.{kind}"),
            false => unit.clone(),
        };
        let mut files = BTreeMap::new();
        for of in [unit, template] {
            for directory in directories {
                let entries = fs::read_dir(directory.join(format!("{of}.d")));
                for entry in entries.into_iter().flatten().flatten() {
                    files.entry(entry.file_name()).or_insert(entry.path());
                }
            }
        }
        let later = files.iter().filter(|(file, _)| {
            let file = file.to_string_lossy();
            file.ends_with(".conf") && &*file >= DROP_IN
        });
        for (_, path) in later {
            let text = fs::read_to_string(path).unwrap_or_default();
            let set = text.lines().filter_map(|line| line.split_once('='));
            keys.extend(set.map(|(key, _)| key.trim().to_owned()));
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_comes_after_our_drop_in_counts() {
        let dir = tempfile::tempdir().unwrap();
        let of = |unit: &str| dir.path().join(format!("{unit}.d"));
        for (unit, file, key) in [
            ("app-cluster@shop.socket", "override.conf", "ListenStream"),
            ("app-cluster@.service", "60-all.conf", "Group"),
            ("app-cluster@shop.service", "10-early.conf", "User"),
            ("app-cluster@shop.service", "override.conf~", "User"),
            ("app-cluster@other.service", "override.conf", "User"),
        ] {
            fs::create_dir_all(of(unit)).unwrap();
            fs::write(of(unit).join(file), format!("[Socket]\n{key} = x\n")).unwrap();
        }
        let found = overridden("shop", &[dir.path()]);
        let found: Vec<&str> = found.iter().map(String::as_str).collect();
        assert_eq!(found, ["Group", "ListenStream"]);
    }
}
