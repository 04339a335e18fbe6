// SPDX-License-Identifier: MIT OR Apache-2.0
//! What commands write into the configuration of an app: the file itself, and drop-ins.

use super::{CONFIG_DIRECTORY, Fail, Status, config_file};
use crate::config::{ConfigError, drop_in_directory};
use nix::unistd::{AccessFlags, Gid, eaccess};
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// Where drop-ins are that a boot takes away.
const RUNTIME_DIRECTORY: &str = "/run/app-cluster";

/// A drop-in that a command owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropIn {
    /// In /etc/app-cluster/NAME.toml.d.
    Kept(&'static str),
    /// In /run/app-cluster/NAME.toml.d.
    Runtime(&'static str),
}

impl DropIn {
    /// Where it is for the app `name`.
    pub fn path(self, name: &str) -> PathBuf {
        let (directory, file) = match self {
            DropIn::Kept(file) => (CONFIG_DIRECTORY, file),
            DropIn::Runtime(file) => (RUNTIME_DIRECTORY, file),
        };
        drop_in_directory(Path::new(directory), &config_file(name)).join(file)
    }
}

/// The directories in which the app `name` may have drop-ins that commands wrote.
pub fn drop_in_directories(name: &str) -> [PathBuf; 2] {
    let below = |directory| drop_in_directory(Path::new(directory), &config_file(name));
    [CONFIG_DIRECTORY, RUNTIME_DIRECTORY].map(below)
}

/// Checks that this process may write `drop_in`; `arguments` are those it was called with.
pub fn writable(name: &str, drop_in: DropIn, arguments: &str) -> Result<(), Fail> {
    let file = drop_in.path(name);
    let directory = file.ancestors().skip(1).find(|parent| parent.exists());
    let directory = directory.unwrap_or(Path::new("/"));
    may_write(directory, arguments)
}

/// Checks that this process may write in `directory`.
pub fn may_write(directory: &Path, arguments: &str) -> Result<(), Fail> {
    let wanted = AccessFlags::W_OK | AccessFlags::X_OK;
    eaccess(directory, wanted).map_err(|error| {
        let shown = directory.display();
        match error {
            nix::errno::Errno::EACCES => {
                let text = format!("no permission to write in {shown}; nothing was changed");
                Fail::new(Status::NoSuchApp, text).hint(format!("sudo app-cluster {arguments}"))
            }
            nix::errno::Errno::ENOENT => {
                let text = format!("there is no directory {shown}: is the package installed?");
                Fail::new(Status::Failed, text)
            }
            error => Fail::new(Status::Failed, format!("cannot write in {shown}: {error}")),
        }
    })
}

/// Writes `text` so that a reader finds the old file or the new one, whole.
pub fn write(name: &str, drop_in: DropIn, text: &str) -> Result<(), Fail> {
    let path = drop_in.path(name);
    let directory = path.parent().unwrap_or(Path::new("/"));
    open_directory(directory).map_err(|error| cannot("make", directory, &error))?;
    // A name that nobody reads as a drop-in.
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let new = directory.join(format!(".{file}.{}", std::process::id()));
    let written = create(&new, text, None).and_then(|()| fs::rename(&new, &path));
    written.map_err(|error| {
        let _ = fs::remove_file(&new);
        cannot("write", &path, &error)
    })
}

/// Makes the directory of drop-ins, and that of all of them, unless it is there: readable for
/// the app's user whatever the umask.
fn open_directory(directory: &Path) -> io::Result<()> {
    let mut above: Vec<&Path> = directory.ancestors().take(2).collect();
    above.reverse();
    for one in above {
        match DirBuilder::new().mode(0o700).create(one) {
            Ok(()) => fs::set_permissions(one, fs::Permissions::from_mode(0o755))?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Makes the file `path`, which must not be there, and leaves nothing if that fails. Only
/// members of `group` may read it; `None`: everybody.
pub fn write_new(path: &Path, text: &str, group: Option<Gid>) -> Result<(), Fail> {
    create(path, text, group).map_err(|error| {
        if error.kind() != ErrorKind::AlreadyExists {
            let _ = fs::remove_file(path);
        }
        cannot("write", path, &error)
    })
}

fn create(path: &Path, text: &str, group: Option<Gid>) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    // Whatever the umask: it is read by the app's user.
    let mode = match group {
        Some(group) => {
            fchown(&file, None, Some(group.as_raw()))?;
            0o640
        }
        None => 0o644,
    };
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Takes a drop-in away as [`remove`] does; its text, for [`put_back`], if it was there.
pub fn take(name: &str, drop_in: DropIn) -> Result<Option<String>, Fail> {
    let path = drop_in.path(name);
    let text = match fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(cannot("read", &path, &error)),
    };
    remove(name, drop_in)?;
    Ok(text)
}

/// Writes what [`take`] took, unless somebody has written anew meanwhile.
pub fn put_back(name: &str, drop_in: DropIn, text: &str) -> Result<(), Fail> {
    match drop_in.path(name).exists() {
        true => Ok(()),
        false => write(name, drop_in, text),
    }
}

/// Removes a drop-in, and its directory if that is empty then; whether it was there.
pub fn remove(name: &str, drop_in: DropIn) -> Result<bool, Fail> {
    let path = drop_in.path(name);
    match fs::remove_file(&path) {
        Ok(()) => {
            if let Some(directory) = path.parent() {
                let _ = fs::remove_dir(directory);
            }
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(cannot("remove", &path, &error)),
    }
}

/// `cannot WHAT PATH: ERROR`.
pub fn cannot(what: &str, path: &Path, error: &io::Error) -> Fail {
    Fail::new(
        Status::Failed,
        format!("cannot {what} {}: {error}", path.display()),
    )
}

/// A configuration that cannot be used, where it has to be.
pub fn bad_config(error: ConfigError) -> Fail {
    let message = format!("the configuration cannot be used:\n{error}");
    Fail {
        answer: Some(serde_json::json!(crate::api::Error::ConfigInvalid {
            message: message.clone()
        })),
        ..Fail::new(Status::Failed, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn directories_that_the_app_can_read() {
        let home = tempfile::tempdir().expect("a directory");
        let directory = home.path().join("app-cluster/web.toml.d");
        let mode = |path: &Path| fs::metadata(path).expect("made").permissions().mode() & 0o777;
        open_directory(&directory).expect("mkdir");
        assert_eq!(
            (mode(&directory), mode(&home.path().join("app-cluster"))),
            (0o755, 0o755)
        );
        // One that is there is its owner's.
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o750)).expect("chmod");
        open_directory(&directory).expect("it is there");
        assert_eq!(mode(&directory), 0o750);
    }

    #[test]
    fn who_may_read_a_new_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let own = nix::unistd::getegid();
        for (group, mode) in [(None, 0o644), (Some(own), 0o640)] {
            let path = dir.path().join(format!("{mode:o}"));
            write_new(&path, "text", group).expect("a file");
            let found = fs::metadata(&path).expect("a file");
            assert_eq!((found.mode() & 0o7777, found.gid()), (mode, own.as_raw()));
            assert_eq!(fs::read_to_string(&path).expect("text"), "text");
            assert!(write_new(&path, "other", group).is_err());
        }
    }
}
