// SPDX-License-Identifier: MIT OR Apache-2.0
//! Applications with their packages from the npm registry. They are kept in
//! `~/.cache/app-cluster/npm/HASH` and may be deleted at any time when no test runs.

#![allow(dead_code)] // each test uses its part

use crate::versions::Node;
use serde_json::Value;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Longest that one installation, or one build, may take.
const WITHIN: &str = "300";

/// An application as it is in the repository.
#[derive(Debug)]
pub struct Source {
    directory: PathBuf,
    manifest: Value,
    manifest_text: String,
}

impl Source {
    /// The application in `directory`, relative to the repository. One without a
    /// `package.json` has no packages.
    pub fn at(directory: &str) -> Source {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
        assert!(directory.is_dir(), "no {}", directory.display());
        let text = std::fs::read_to_string(directory.join("package.json"));
        let manifest_text = text.unwrap_or_else(|_| "{}".into());
        let manifest = serde_json::from_str(&manifest_text).expect("a package.json");
        Source {
            directory,
            manifest,
            manifest_text,
        }
    }

    fn is_built(&self) -> bool {
        self.manifest["scripts"]["build"].is_string()
    }

    /// Puts the application into the empty directory `into`, ready to run, and returns where
    /// it is: there, or in the cache if it has a build step.
    ///
    /// # Errors
    ///
    /// Why its packages cannot be had.
    pub fn install(&self, node: &Node, into: &Path) -> Result<PathBuf, String> {
        if self.manifest["dependencies"].is_object() {
            let kept = self.packages(node)?;
            if self.is_built() {
                return Ok(kept);
            }
            std::os::unix::fs::symlink(kept.join("node_modules"), into.join("node_modules"))
                .expect("a link");
        }
        copy(&self.directory, into).expect("a copy of the app");
        Ok(into.to_owned())
    }

    /// The directory in the cache, complete.
    fn packages(&self, node: &Node) -> Result<PathBuf, String> {
        let home = std::env::var_os("HOME").ok_or("HOME is not set")?;
        let all = Path::new(&home).join(".cache/app-cluster/npm");
        let kept = all.join(self.key(node));
        let failed = |e: std::io::Error| format!("{}: {e}", kept.display());
        std::fs::create_dir_all(&all).map_err(failed)?;
        // One at a time, of all processes; the others find it done.
        let lock = File::create(kept.with_extension("lock")).map_err(failed)?;
        lock.lock().map_err(failed)?;
        if kept.join(".complete").exists() {
            return Ok(kept);
        }
        let _ = std::fs::remove_dir_all(&kept);
        std::fs::create_dir(&kept).map_err(failed)?;
        copy(&self.directory, &kept).map_err(failed)?;
        let quiet = [
            "--no-audit",
            "--no-fund",
            "--ignore-scripts",
            "--no-progress",
        ];
        npm(node, &kept, &[&["install"], &quiet[..]].concat())?;
        if self.is_built() {
            npm(node, &kept, &["run", "build"])?;
        }
        File::create(kept.join(".complete")).map_err(failed)?;
        Ok(kept)
    }

    /// Installed packages depend on what is asked for, a build on all files and on Node.
    fn key(&self, node: &Node) -> String {
        let mut hasher = DefaultHasher::new();
        self.manifest_text.hash(&mut hasher);
        if self.is_built() {
            node.version.hash(&mut hasher);
            for path in files(&self.directory) {
                path.hash(&mut hasher);
                let bytes = std::fs::read(self.directory.join(&path)).expect("a file");
                bytes.hash(&mut hasher);
            }
        }
        format!("{:016x}", hasher.finish())
    }
}

/// Files in a directory and below, relative to it, sorted.
fn files(directory: &Path) -> Vec<PathBuf> {
    fn collect(top: &Path, below: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(top.join(below)).expect("a directory") {
            let entry = entry.expect("an entry");
            let path = below.join(entry.file_name());
            match entry.file_type().expect("its type").is_dir() {
                true => collect(top, &path, found),
                false => found.push(path),
            }
        }
    }
    let mut found = Vec::new();
    collect(directory, Path::new(""), &mut found);
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    for path in files(from) {
        let new = to.join(&path);
        std::fs::create_dir_all(new.parent().unwrap_or(to))?;
        std::fs::copy(from.join(&path), new)?;
    }
    Ok(())
}

/// Runs npm by this Node, bounded by timeout(1).
fn npm(node: &Node, directory: &Path, arguments: &[&str]) -> Result<(), String> {
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=10", WITHIN, "npm"])
        .args(arguments);
    command.current_dir(directory).stdin(Stdio::null());
    command.env("PATH", node.search_path());
    command.env("npm_config_update_notifier", "false");
    command.env("NEXT_TELEMETRY_DISABLED", "1");
    let output = command.output().map_err(|e| format!("npm: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    let last: Vec<&str> = said.lines().rev().take(5).collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    let status = output.status;
    Err(format!(
        "npm {}: {status}: {}",
        arguments[0],
        last.join(" / ")
    ))
}
