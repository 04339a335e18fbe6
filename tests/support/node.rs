// SPDX-License-Identifier: MIT OR Apache-2.0
//! Real Node binaries, each of one version, from the npm registry. They are kept in
//! `~/.cache/app-cluster/node/VERSION/bin/node` and may be deleted at any time when no test
//! runs.

#![allow(dead_code)] // each test uses its part

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The newest of each release line, oldest first.
pub const VERSIONS: [&str; 5] = ["18.20.8", "20.20.2", "22.23.3", "24.21.0", "26.10.0"];

/// The one that the gate tests in full.
pub const MAIN: &str = "20.20.2";

/// Longest that a download may take.
const FETCH_WITHIN: Duration = Duration::from_secs(300);

/// One Node binary.
#[derive(Clone, Debug)]
pub struct Node {
    pub version: &'static str,
    pub major: u32,
    pub binary: PathBuf,
}

impl Node {
    /// The binary of this version, which is fetched if it is not there.
    ///
    /// # Errors
    ///
    /// Why it cannot be had.
    pub fn get(version: &'static str) -> Result<Node, String> {
        let binary = cached(version, &format!("node-linux-{}", machine()?), "bin/node")?;
        let major = version.split('.').next().and_then(|m| m.parse().ok());
        Ok(Node {
            version,
            major: major.ok_or("no version")?,
            binary,
        })
    }

    /// What the shell calls it in `command`.
    pub fn word(&self) -> &str {
        self.binary.to_str().expect("UTF-8")
    }

    /// PATH with this Node first.
    pub fn search_path(&self) -> String {
        let own = self.binary.parent().expect("a directory").display();
        let rest = std::env::var("PATH").unwrap_or_else(|_| "/usr/bin:/bin".into());
        format!("{own}:{rest}")
    }
}

/// The binary of Deno, which is fetched if it is not there.
///
/// # Errors
///
/// Why it cannot be had.
pub fn deno() -> Result<PathBuf, String> {
    let package = format!("@deno/linux-{}-glibc", machine()?);
    cached("2.9.6", &package, "deno")
}

fn machine() -> Result<&'static str, String> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("x64"),
        "aarch64" => Ok("arm64"),
        other => Err(format!("there is no package for {other}")),
    }
}

/// `file` of a package that consists of little else than a binary.
fn cached(version: &str, package: &str, file: &str) -> Result<PathBuf, String> {
    // Those that want the same one wait for the first.
    static FETCHING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = FETCHING.lock().unwrap_or_else(PoisonError::into_inner);
    let home = std::env::var_os("HOME").ok_or("HOME is not set")?;
    let name = Path::new(file).file_name().ok_or("no file name")?;
    let kept = Path::new(&home)
        .join(".cache/app-cluster")
        .join(name)
        .join(version);
    let binary = kept.join(file);
    if !runs(&binary, version) {
        fetch(&format!("{package}@{version}"), &kept)?;
    }
    match runs(&binary, version) {
        true => Ok(binary),
        false => Err(format!("{} does not run here", binary.display())),
    }
}

fn runs(binary: &Path, version: &str) -> bool {
    let output = Command::new(binary).arg("--version").output();
    output.is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains(version))
}

/// Unpacks a package into `kept`. Another process may do the same at the same time.
fn fetch(package: &str, kept: &Path) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{package}: {e}");
    let parent = kept.parent().ok_or("no directory")?;
    std::fs::create_dir_all(parent).map_err(failed)?;
    let work = tempfile::tempdir_in(parent).map_err(failed)?;
    let directory = work.path();
    run("npm", &["pack", "--silent", package], directory)?;
    let archive = std::fs::read_dir(directory)
        .map_err(failed)?
        .flatten()
        .find(|entry| entry.path().extension().is_some_and(|e| e == "tgz"))
        .ok_or_else(|| format!("{package}: npm pack made no archive"))?;
    let archive = archive.file_name().to_string_lossy().into_owned();
    run("tar", &["-xzf", &archive], directory)?;
    // What is there and does not run is in the way; what a faster one has put there stays.
    let new = directory.join("package");
    if std::fs::rename(&new, kept).is_err() {
        let old = directory.join("old");
        let _ = std::fs::rename(kept, old);
        std::fs::rename(&new, kept).map_err(failed)?;
    }
    Ok(())
}

fn run(program: &str, arguments: &[&str], directory: &Path) -> Result<(), String> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory);
    let log = std::fs::File::create(directory.join("log")).map_err(|e| e.to_string())?;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    let mut child = command.spawn().map_err(|e| format!("{program}: {e}"))?;
    let deadline = Instant::now() + FETCH_WITHIN;
    let status = loop {
        match child.try_wait().map_err(|e| e.to_string())? {
            Some(status) => break status,
            None if Instant::now() < deadline => {}
            None => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("{program} was not done within {FETCH_WITHIN:?}"));
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    if status.success() {
        return Ok(());
    }
    let said = std::fs::read_to_string(directory.join("log")).unwrap_or_default();
    let last = said.lines().last().unwrap_or_default();
    Err(format!("{program} {}: {last}", arguments.join(" ")))
}
