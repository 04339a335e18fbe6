// SPDX-License-Identifier: MIT OR Apache-2.0
//! The units that an app's sockets were opened with.
//!
//! systemd closes a listening socket whose address is no longer in its unit, at the next
//! `daemon-reload`, which any upgrade of any package may do. A configuration that cannot be
//! read at that moment must not have this effect. So the socket unit, when it has started,
//! lets us copy its drop-ins as systemd has read them, and the generator falls back on the
//! copy. systemd removes what a generator made before it runs it again, and lets it write
//! nowhere else, hence this detour.

use super::Units;
use super::generator::{PREFIX, is_of};
use anyhow::{Context, Result, ensure};
use std::fs::{self, DirBuilder, File};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Verb of the generator that copies the units of an app.
pub const KEEP: &str = "keep";
/// Verb that removes the copy.
pub const FORGET: &str = "forget";

/// Where the copies are: for root alone, and gone after a boot like the sockets.
pub const DIRECTORY: &str = "/run/app-cluster/.units";
/// Where systemd has what generators made (systemd.unit(5)).
pub const GENERATED: &str = "/run/systemd/generator";
/// Largest copy that is read, in bytes.
const LARGEST: u64 = 4 << 20;

/// Copies what is generated for the app `name` at present.
///
/// # Errors
/// It cannot be read or written.
pub fn keep(name: &str, generated: &Path, directory: &Path) -> Result<()> {
    let units = on_disk(name, generated)?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let path = directory.join(name);
    let temporary = directory.join(format!(".{name}"));
    let mut file = File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(&serde_json::to_vec(&units)?)?;
    fs::rename(&temporary, &path).with_context(|| format!("cannot make {}", path.display()))
}

/// Removes the copy for the app `name`, if there is one.
pub fn forget(name: &str, directory: &Path) {
    let _ = fs::remove_file(directory.join(name));
}

/// The copy for the app `name`. Only root can have made it.
///
/// # Errors
/// There is none, or it is somebody else's.
pub fn find(name: &str, directory: &Path) -> Result<Units> {
    let owner = nix::unistd::geteuid().as_raw();
    let own = |found: &fs::Metadata| found.uid() == owner && found.mode() & 0o022 == 0;
    let place = fs::symlink_metadata(directory)?;
    ensure!(place.is_dir() && own(&place), "the directory is not ours");
    let flags = nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK;
    let file = File::options()
        .read(true)
        .custom_flags(flags.bits())
        .open(directory.join(name))?;
    let found = file.metadata()?;
    ensure!(found.is_file() && own(&found), "the file is not ours");
    let mut text = Vec::new();
    file.take(LARGEST).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// The generated drop-ins and links of the app `name` in `generated`.
///
/// # Errors
/// One is there, but cannot be read. That there are none is no error.
pub fn on_disk(name: &str, generated: &Path) -> Result<Units> {
    let mut units = Units::default();
    for entry in entries(generated) {
        let directory = file_name(&entry);
        if directory.starts_with(PREFIX) && is_of(name, directory.trim_end_matches(".d")) {
            for file in entries(&entry) {
                let path = format!("{directory}/{}", file_name(&file));
                let text = fs::read_to_string(&file)
                    .with_context(|| format!("cannot read {}", file.display()))?;
                units.files.insert(path, text);
            }
        } else if directory.ends_with(".wants") {
            for link in entries(&entry) {
                let unit = file_name(&link);
                if let (true, Ok(target)) = (is_of(name, &unit), fs::read_link(&link)) {
                    let path = format!("{directory}/{unit}");
                    units.links.insert(path, target.display().to_string());
                }
            }
        }
    }
    Ok(units)
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let found = fs::read_dir(directory).into_iter().flatten().flatten();
    found.map(|entry| entry.path()).collect()
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}
