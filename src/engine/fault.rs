// SPDX-License-Identifier: MIT OR Apache-2.0
//! For tests: being killed at a named point.
//!
//! `APP_CLUSTER_FAULT` names a file with one name a line. At the point that its first line names
//! that line is taken out, and the process ends as by `kill -9`. `NAME-recorded`: not there, but
//! once what happened there has been recorded. Without the variable a point costs one load.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// The variable; workers do not get it.
pub const VARIABLE: &str = "APP_CLUSTER_FAULT";

static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
/// What was waited for has happened; it is not recorded yet.
static OWED: AtomicBool = AtomicBool::new(false);

#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Now,
    Recorded,
}

/// A point at which we may be killed.
pub fn point(name: &str) {
    let file = FILE.get_or_init(|| std::env::var_os(VARIABLE).map(PathBuf::from));
    let Some(file) = file else {
        return;
    };
    match take(file, name) {
        Some(Wanted::Now) => end(),
        Some(Wanted::Recorded) => OWED.store(true, Ordering::Relaxed),
        None => {}
    }
}

/// All that has happened is recorded.
pub fn recorded() {
    if OWED.load(Ordering::Relaxed) {
        end();
    }
}

fn end() {
    let _ = kill(Pid::this(), Signal::SIGKILL);
}

/// Takes out the first line of `file`, if it names this point.
fn take(file: &Path, name: &str) -> Option<Wanted> {
    let text = fs::read_to_string(file).ok()?;
    let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
    let wanted = match first.trim().strip_prefix(name)? {
        "" => Wanted::Now,
        "-recorded" => Wanted::Recorded,
        _ => return None,
    };
    // It may be another user's: only the directory has to be ours.
    fs::remove_file(file).ok()?;
    if !rest.trim().is_empty() {
        fs::write(file, rest).ok()?;
    }
    Some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_counts_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("fault");
        assert_eq!(take(&file, "a"), None);
        fs::write(&file, "a\na-recorded\nab\n").expect("written");
        assert_eq!(take(&file, "ab"), None);
        assert_eq!(take(&file, "a"), Some(Wanted::Now));
        assert_eq!(take(&file, "a"), Some(Wanted::Recorded));
        assert_eq!(take(&file, "a"), None);
        assert_eq!(take(&file, "ab"), Some(Wanted::Now));
        assert!(!file.exists());
    }

    #[test]
    fn nothing_happens_without_the_variable() {
        point("anything");
        recorded();
    }
}
