// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sticky`: the secret from which the places of clients are computed.

use super::super::Engine;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Its file in the app's state directory.
pub const FILE: &str = "balance-secret";
/// What distinguishes a line in the hash: all 32 bits depend on all of the secret
/// (splitmix64, a public domain algorithm by Sebastiano Vigna).
pub fn seed(secret: u64, line: u32) -> u32 {
    let mut z = secret.wrapping_add((u64::from(line) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 32) as u32
}

impl Engine {
    /// The app's secret. One that cannot be kept holds until the supervisor ends.
    pub(super) fn secret(&mut self) -> u64 {
        if let Some(secret) = self.steering.secret {
            return secret;
        }
        let directory = state_directory(&self.name);
        let kept = match &directory {
            Some(directory) => keep(&directory.join(FILE)),
            None => Err(io::Error::other("there is no state directory")),
        };
        let secret = kept.unwrap_or_else(|error| {
            let shown = directory.unwrap_or_default();
            self.warn(format!(
                "cannot keep the secret of `balance = \"sticky\"` in {}: {error}; clients will \
                 move to other slots when the supervisor starts again",
                shown.display()
            ));
            random().unwrap_or(0)
        });
        self.steering.secret = Some(secret);
        secret
    }
}

/// $STATE_DIRECTORY, which systemd makes (systemd.exec(5)), else the user's own.
fn state_directory(name: &str) -> Option<PathBuf> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if let Some(given) = variable("STATE_DIRECTORY") {
        return given.split(':').next().map(PathBuf::from);
    }
    let home = || variable("HOME").map(|home| Path::new(&home).join(".local/state"));
    let state = variable("XDG_STATE_HOME")
        .map(PathBuf::from)
        .or_else(home)?;
    Some(state.join("app-cluster").join(name))
}

/// Reads the secret in `file`, or makes one and writes it there, for nobody else to read.
fn keep(file: &Path) -> io::Result<u64> {
    match fs::read_to_string(file) {
        Ok(text) => {
            if let Ok(secret) = u64::from_str_radix(text.trim(), 16) {
                return Ok(secret);
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let directory = file.parent().unwrap_or(Path::new("/"));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let secret = random()?;
    // Under another name first: half a secret would be another one.
    let new = file.with_extension("new");
    let _ = fs::remove_file(&new);
    let mut options = OpenOptions::new();
    let mut written = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    writeln!(written, "{secret:016x}")?;
    written.sync_all()?;
    fs::rename(&new, file)?;
    Ok(secret)
}

fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_secret_stays_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a/b").join(FILE);
        let secret = keep(&file).unwrap();
        assert_eq!(keep(&file).unwrap(), secret);
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(&file, "garbage").unwrap();
        let other = keep(&file).unwrap();
        assert_eq!(keep(&file).unwrap(), other);
    }

    #[test]
    fn seeds_differ() {
        let mut seeds: Vec<u32> = (0..256).map(|line| seed(1, line)).collect();
        seeds.extend((0..256).map(|line| seed(2, line)));
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), 512);
    }
}
