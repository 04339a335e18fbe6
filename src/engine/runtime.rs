// SPDX-License-Identifier: MIT OR Apache-2.0
//! The runtime directory of an app: control socket, notify sockets, lock.

use crate::core::WorkerId;
use anyhow::{Context, Result, anyhow, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// An app's runtime directory, locked: no second supervisor can use it.
#[derive(Debug)]
pub struct Runtime {
    directory: PathBuf,
    _lock: Flock<File>,
    swept: bool,
}

/// `app-cluster sweep` has ended what the supervisor before had left.
const SWEPT: &str = "swept";
/// Sockets are shut down for a moment.
const SHUT: &str = "shut";

/// An empty file, whatever a worker has put there. There is nothing to be done about it if it
/// fails.
fn make_mark(path: &Path) {
    let _ = fs::remove_file(path);
    let _ = File::options().write(true).create_new(true).open(path);
}

impl Runtime {
    /// Makes `directory` usable and locks it.
    ///
    /// # Errors
    /// It cannot be made, or another supervisor uses it.
    pub fn claim(directory: &Path) -> Result<Runtime> {
        let shown = directory.display();
        let private = directory.join("notify");
        make(directory, 0o755)
            .and_then(|()| make(&private, 0o700))
            .map_err(|error| {
                anyhow!(
                    "cannot make the runtime directory {shown}: {error}\n  \
                     hint: set XDG_RUNTIME_DIR to a directory of your own, or \
                     RUNTIME_DIRECTORY to one for this app alone"
                )
            })?;
        fs::set_permissions(&private, Permissions::from_mode(0o700))?;
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(directory.join("lock"))
            .with_context(|| format!("cannot make {shown}/lock"))?;
        let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
            bail!(
                "another supervisor of this app runs already (it holds {shown}/lock)\n  \
                 hint: `app-cluster status NAME` shows it; a second one needs another name"
            );
        };
        // Workers can write there too, but not as root.
        let swept = fs::symlink_metadata(directory.join(SWEPT));
        let swept = swept.is_ok_and(|found| found.is_file() && found.uid() == 0);
        for marker in ["keep", "ending", SHUT] {
            let _ = fs::remove_file(directory.join(marker));
        }
        Ok(Runtime {
            directory: directory.to_owned(),
            _lock: lock,
            swept,
        })
    }

    /// Whether the supervisor before us was stopped, so that nothing is to be gone on with:
    /// what it has left is at its end. So it is until [`Runtime::begins_afresh`].
    pub fn was_swept(&self) -> bool {
        self.swept
    }

    /// Nothing is left of what was swept.
    pub fn begins_afresh(&self) {
        let _ = fs::remove_file(self.directory.join(SWEPT));
    }

    /// Says that to the next one, if there is a runtime directory.
    pub fn say_swept(directory: &Path) {
        make_mark(&directory.join(SWEPT));
    }

    /// Removes a runtime directory that no supervisor uses. systemd does it when a service ends,
    /// but not all versions do when it is stopped between two attempts to start.
    ///
    /// # Errors
    /// Something in it cannot be removed.
    pub fn remove_left(directory: &Path) -> std::io::Result<()> {
        let flags = nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK;
        let lock = File::options()
            .write(true)
            .custom_flags(flags.bits())
            .open(directory.join("lock"));
        let lock = lock.map(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock));
        if let Ok(Err(_)) = lock {
            return Ok(());
        }
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    /// Where the control socket is.
    pub fn control(&self) -> PathBuf {
        self.directory.join("control")
    }

    /// Where the order of lines is told, if it is another than theirs.
    pub fn order(&self) -> PathBuf {
        self.directory.join("order")
    }

    /// Says to `app-cluster sweep` whether sockets are shut down for a moment: if we are killed
    /// then, systemd must not look at them before the next supervisor has.
    pub fn say_shut(&self, shut: bool) {
        let path = self.directory.join(SHUT);
        match shut {
            true => make_mark(&path),
            false => drop(fs::remove_file(path)),
        }
    }

    /// Where the file is that is there once the app is to stop.
    pub fn stopping(&self) -> PathBuf {
        self.directory.join("stopping")
    }

    /// Puts that file there.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn say_stopping(&self) -> std::io::Result<()> {
        fs::write(self.stopping(), "")
    }

    /// Removes what a supervisor has left that we do not go on from.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn clear(&self) -> std::io::Result<()> {
        for entry in fs::read_dir(self.directory.join("notify"))?.flatten() {
            let _ = fs::remove_file(entry.path());
        }
        let _ = fs::remove_file(self.stopping());
        Ok(())
    }

    /// Says to `app-cluster sweep` that the workers are to stay: we leave them to the next
    /// supervisor.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn say_keep(&self) -> std::io::Result<()> {
        fs::write(self.directory.join("keep"), "")
    }

    /// Says to it that they are not, whatever becomes of us: the app ends.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn say_ending(&self) -> std::io::Result<()> {
        fs::write(self.directory.join("ending"), "")
    }

    /// Where the file is that Node workers load ahead of the app.
    pub fn preload(&self) -> PathBuf {
        self.directory.join("preload.cjs")
    }

    /// Puts that file there.
    ///
    /// # Errors
    /// It cannot be written; one that was there is as it was.
    pub fn write_preload(&self, text: &str) -> std::io::Result<()> {
        let path = self.preload();
        if fs::read(&path).is_ok_and(|found| found == text.as_bytes()) {
            return Ok(());
        }
        let new = path.with_extension("new");
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &path))
            .inspect_err(|_| {
                let _ = fs::remove_file(&new);
            })
    }

    /// Where the notify sockets of workers are.
    pub fn notify_directory(&self) -> PathBuf {
        self.directory.join("notify")
    }

    /// Where a worker's notify socket is.
    pub fn notify(&self, worker: WorkerId) -> PathBuf {
        self.notify_directory().join(worker.to_string())
    }
}

fn make(directory: &Path, mode: u32) -> std::io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(directory)
}

/// The runtime directory for an app that is started now: systemd's `$RUNTIME_DIRECTORY`
/// (systemd.exec(5)) or, in the foreground, the user's own.
///
/// # Errors
/// When the fallback in /tmp belongs to somebody else.
pub fn directory(name: &str) -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("RUNTIME_DIRECTORY") {
        let given = given.to_string_lossy().into_owned();
        let first = given.split(':').next().unwrap_or_default();
        if !first.is_empty() {
            return Ok(PathBuf::from(first));
        }
    }
    if geteuid().is_root() {
        return Ok(Path::new("/run/app-cluster").join(name));
    }
    if let Some(user) = std::env::var_os("XDG_RUNTIME_DIR").filter(|d| !d.is_empty()) {
        return Ok(Path::new(&user).join("app-cluster").join(name));
    }
    let own = temporary();
    make(&own, 0o700).with_context(|| format!("cannot make {}", own.display()))?;
    let found = fs::symlink_metadata(&own)?;
    if !found.is_dir() || found.uid() != geteuid().as_raw() || found.mode() & 0o077 != 0 {
        bail!(
            "{} is not ours alone: remove it, or set XDG_RUNTIME_DIR",
            own.display()
        );
    }
    Ok(own.join(name))
}

fn temporary() -> PathBuf {
    PathBuf::from(format!("/tmp/app-cluster-{}", geteuid().as_raw()))
}

/// Where the control socket of an app may be, most likely first. `$RUNTIME_DIRECTORY`
/// counts when it is called after the app: a worker inherits that of its own.
pub fn candidates(name: &str) -> Vec<PathBuf> {
    let given = std::env::var("RUNTIME_DIRECTORY").unwrap_or_default();
    let given = PathBuf::from(given.split(':').next().unwrap_or_default());
    let mut found = Vec::new();
    if given.is_absolute() && given.ends_with(name) {
        found.push(given);
    }
    found.push(Path::new("/run/app-cluster").join(name));
    if let Some(user) = std::env::var_os("XDG_RUNTIME_DIR").filter(|d| !d.is_empty()) {
        found.push(Path::new(&user).join("app-cluster").join(name));
    }
    found.push(temporary().join(name));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_in_use_is_not_removed() {
        let parent = tempfile::tempdir().expect("a directory");
        let directory = parent.path().join("api");
        let runtime = Runtime::claim(&directory).expect("a runtime directory");
        Runtime::remove_left(&directory).expect("nothing to do");
        assert!(directory.join("notify").is_dir());
        drop(runtime);
        Runtime::remove_left(&directory).expect("removed");
        assert!(!directory.exists());
        Runtime::remove_left(&directory).expect("nothing to do");
    }

    #[test]
    fn only_root_says_that_it_was_swept_and_once() {
        let parent = tempfile::tempdir().expect("a directory");
        let directory = parent.path().join("api");
        Runtime::say_swept(&directory); // Where there is none there is nobody to tell.
        drop(Runtime::claim(&directory).expect("a runtime directory"));
        fs::create_dir(directory.join(SWEPT)).expect("a directory");
        let claimed = Runtime::claim(&directory).expect("claimed");
        assert!(!claimed.was_swept());
        drop(claimed);
        fs::remove_dir(directory.join(SWEPT)).expect("removed");
        Runtime::say_swept(&directory);
        let claimed = Runtime::claim(&directory).expect("claimed");
        assert_eq!(claimed.was_swept(), geteuid().is_root());
        drop(claimed);
        // Whoever did not get as far as to begin changes nothing.
        let claimed = Runtime::claim(&directory).expect("claimed");
        assert_eq!(claimed.was_swept(), geteuid().is_root());
        claimed.begins_afresh();
        drop(claimed);
        assert!(!Runtime::claim(&directory).expect("claimed").was_swept());
    }

    #[test]
    fn a_second_claim_is_refused_until_the_first_is_gone() {
        let dir = tempfile::tempdir().expect("tempdir");
        let app = dir.path().join("a").join("app");
        let first = Runtime::claim(&app).expect("claim");
        let refused = Runtime::claim(&app).expect_err("a refusal").to_string();
        assert!(refused.contains("another supervisor"), "{refused}");
        drop(first);
        Runtime::claim(&app).expect("claim again");
    }
}
