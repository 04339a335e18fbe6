// SPDX-License-Identifier: MIT OR Apache-2.0
//! For tests: being killed at a named point.
//!
//! `APP_CLUSTER_FAULT` names a file. Where its text is the name of a point, the file is removed
//! and the process ends as by `kill -9`, there and once.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::PathBuf;
use std::sync::OnceLock;

/// The variable; workers do not get it.
pub const VARIABLE: &str = "APP_CLUSTER_FAULT";

static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();

/// A point at which we may be killed.
pub fn point(name: &str) {
    let file = FILE.get_or_init(|| std::env::var_os(VARIABLE).map(PathBuf::from));
    let Some(file) = file else {
        return;
    };
    if std::fs::read_to_string(file).is_ok_and(|wanted| wanted.trim() == name)
        && std::fs::remove_file(file).is_ok()
    {
        let _ = kill(Pid::this(), Signal::SIGKILL);
    }
}
