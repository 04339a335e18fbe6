// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who starts an app, and as whom it is to run: never root unless that is said.

use nix::unistd::{Gid, Uid, User, geteuid, getgrouplist};
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The user of the units when the configuration names none.
pub const DEFAULT_USER: &str = "app-cluster";
/// Where the homes of people are.
const HOMES: &str = "/home";

/// Who has typed the command.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The person behind sudo, or this process's own user.
    pub user: Option<User>,
    /// Whether root's environment stands in for that person's.
    pub through_sudo: bool,
}

impl Caller {
    /// From `SUDO_UID` (sudo(8), run0(1)) or `DOAS_USER` (doas(1)), which count for root only.
    pub fn find() -> Caller {
        let own = geteuid();
        let behind = own.is_root().then(behind_root).flatten();
        match behind {
            Some(user) => Caller {
                user: Some(user),
                through_sudo: true,
            },
            None => Caller {
                user: User::from_uid(own).ok().flatten(),
                through_sudo: false,
            },
        }
    }

    /// The user that an app in `directory` gets: the caller or, if that is root, whose home
    /// it is in. `None`: nobody is meant.
    pub fn user_for(&self, directory: &Path) -> Option<User> {
        match &self.user {
            Some(user) if !user.uid.is_root() => Some(user.clone()),
            _ => owner(directory),
        }
    }
}

fn behind_root() -> Option<User> {
    let variable = |name: &str| std::env::var(name).ok();
    let by_id = variable("SUDO_UID").and_then(|uid| uid.parse().ok());
    let user = match by_id {
        Some(uid) => User::from_uid(Uid::from_raw(uid)),
        None => User::from_name(&variable("DOAS_USER")?),
    };
    user.ok().flatten().filter(|user| !user.uid.is_root())
}

/// The owner of a directory in a home; of root's in somebody's home, that somebody.
fn owner(directory: &Path) -> Option<User> {
    let real = fs::canonicalize(directory).ok()?;
    let home: PathBuf = real.components().take(3).collect();
    if !home.starts_with(HOMES) || home == Path::new(HOMES) {
        return None;
    }
    [real, home].iter().find_map(|path| {
        let uid = Uid::from_raw(fs::metadata(path).ok()?.uid());
        let user = User::from_uid(uid).ok().flatten()?;
        (!uid.is_root()).then_some(user)
    })
}

/// What file permissions ask about a user.
#[derive(Debug, Clone)]
pub struct Account {
    pub name: String,
    uid: Uid,
    /// Its main one.
    group: Gid,
    groups: Vec<Gid>,
}

impl Account {
    /// The user called `name` (or with that number). `None`: there is none.
    pub fn find(name: &str) -> Option<Account> {
        let user = match name.parse() {
            Ok(uid) => User::from_uid(Uid::from_raw(uid)),
            Err(_) => User::from_name(name),
        };
        user.ok().flatten().map(Account::from)
    }

    /// The main group of this user, which its service has too.
    pub fn group(&self) -> Gid {
        self.group
    }

    /// What a configuration calls this user: the name, or the number where the name is none
    /// that a unit can have, as those of directory services often are.
    pub fn written(&self) -> String {
        match crate::config::valid_account(&self.name) {
            Ok(()) => self.name.clone(),
            Err(_) => self.uid.to_string(),
        }
    }

    /// The first directory on the way to `path`, or `path` itself, that this user may not
    /// enter or, at the end, use: `bits` is 4 to read, 1 to run, of the mode (inode(7)).
    /// Where a mode is not all there is (acl(5)), the user may.
    pub fn stopped_at(&self, path: &Path, bits: u32) -> Option<PathBuf> {
        let real = fs::canonicalize(path).ok()?;
        let mut way: Vec<&Path> = real.ancestors().collect();
        way.reverse();
        let end = real.as_path();
        let needs = |part: &Path| if part == end { bits } else { 1 };
        let closed = way.into_iter().find(|part| !self.may(part, needs(part)));
        closed.map(Path::to_owned)
    }

    fn may(&self, path: &Path, bits: u32) -> bool {
        let Ok(found) = fs::metadata(path) else {
            return false;
        };
        let shift = match () {
            () if self.uid.is_root() => return true,
            () if found.uid() == self.uid.as_raw() => 6,
            () if self.groups.iter().any(|g| g.as_raw() == found.gid()) => 3,
            () => 0,
        };
        let allowed = (found.mode() >> shift) & bits == bits;
        allowed || has_acl(path)
    }
}

impl From<User> for Account {
    fn from(user: User) -> Account {
        let name = CString::new(user.name.as_str()).unwrap_or_default();
        Account {
            groups: getgrouplist(&name, user.gid).unwrap_or_else(|_| vec![user.gid]),
            name: user.name,
            uid: user.uid,
            group: user.gid,
        }
    }
}

fn has_acl(path: &Path) -> bool {
    let attribute = "system.posix_acl_access";
    rustix::fs::getxattr(path, attribute, &mut [0u8; 0][..]).is_ok_and(|size| size > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn users_whose_names_are_not_for_units() {
        let written = |name: &str| {
            let account = Account {
                name: name.to_owned(),
                uid: Uid::from_raw(4711),
                group: Gid::from_raw(4711),
                groups: Vec::new(),
            };
            let text = account.written();
            let file = format!("command = [\"x\"]\nuser = \"{text}\"\n");
            let config = crate::config::Config::parse(&file, "api.toml");
            assert_eq!(config.expect("a configuration").user.as_ref(), Some(&text));
            text
        };
        assert_eq!(written("alice"), "alice");
        for name in ["alice@corp.com", "DOM\\alice", "4alice", "-a", ""] {
            assert_eq!(written(name), "4711", "{name}");
        }
    }

    #[test]
    fn modes_stop_those_whom_they_mean() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("program");
        fs::write(&path, "").expect("a file");
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
        };
        let own = fs::metadata(&path).expect("metadata");
        let user = |uid, gid| Account {
            name: "somebody".to_owned(),
            uid: Uid::from_raw(uid),
            group: Gid::from_raw(gid),
            groups: vec![Gid::from_raw(gid)],
        };
        let stranger = user(own.uid() + 4711, own.gid() + 4711);
        let member = user(own.uid() + 4711, own.gid());
        mode(dir.path(), 0o755);
        mode(&path, 0o750);
        assert_eq!(stranger.stopped_at(&path, 1), fs::canonicalize(&path).ok());
        assert_eq!(member.stopped_at(&path, 1), None);
        assert_eq!(member.stopped_at(&path, 4), None);
        mode(&path, 0o705);
        // The most special class decides.
        assert!(member.stopped_at(&path, 1).is_some());
        assert_eq!(stranger.stopped_at(&path, 1), None);
        mode(dir.path(), 0o700);
        let closed = fs::canonicalize(dir.path()).ok();
        assert_eq!(stranger.stopped_at(&path, 1), closed);
        assert_eq!(user(0, 0).stopped_at(&path, 4), None);
    }
}
