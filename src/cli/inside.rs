// SPDX-License-Identifier: MIT OR Apache-2.0
//! The unit's view: `check` run as the unit's user and inside its sandbox, in a transient
//! unit (systemd-run(1)) with what the unit would have after a `daemon-reload`.

use super::check::Workers;
use super::systemd::Systemd;
use super::{Fail, units};
use crate::config::{Config, Diagnostic};
use crate::units::{kept, render};
use serde::Deserialize;
use std::path::Path;
use std::process::{Command, Stdio};

/// Settings of systemd.exec(5) that decide what a program can see and run.
const KEYS: &[&str] = &[
    "User",
    "Group",
    "SupplementaryGroups",
    "UMask",
    "NoNewPrivileges",
    "LockPersonality",
    "MemoryDenyWriteExecute",
    "CapabilityBoundingSet",
    "AmbientCapabilities",
    "RootDirectory",
    "TemporaryFileSystem",
    "ProcSubset",
    "Environment",
    "EnvironmentFile",
    "PassEnvironment",
    "UnsetEnvironment",
    "DevicePolicy",
    "DeviceAllow",
    // How many workers there will be.
    "Slice",
    "CPUAffinity",
    "NUMAPolicy",
    "NUMAMask",
    "AllowedCPUs",
    "CPUQuota",
    "CPUQuotaPeriodSec",
];
/// Beginnings and ends of the names of others.
const BEGINNINGS: &[&str] = &["Protect", "Private", "Restrict", "SystemCall"];
const ENDS: &[&str] = &["Paths"];

/// What was seen from there.
#[derive(Debug, Deserialize)]
pub struct View {
    /// What is wrong or doubtful.
    pub diagnostics: Vec<Diagnostic>,
    /// How many workers there will be.
    pub workers: Option<Workers>,
}

/// What `check` of `file`, the configuration of the app `name`, finds inside the unit.
///
/// # Errors
/// One line for people: it could not be looked at that way.
pub fn look(name: &str, file: &Path, config: &Config) -> Result<View, String> {
    let fail = |fail: Fail| fail.message().to_owned();
    let (service, _) = units(name);
    let systemd = Systemd::connect("").map_err(fail)?;
    let files = systemd.files(&service).map_err(fail)?;
    let fresh = render(name, config).map_err(|error| error.to_string())?;
    let fresh = fresh
        .files
        .iter()
        .filter(|(path, _)| path.starts_with(&service));
    let mut texts: Vec<(String, String)> = fresh
        .map(|(path, text)| (base(path), text.clone()))
        .collect();
    let (fragment, drop_ins) = files;
    for path in drop_ins
        .iter()
        .filter(|path| !path.starts_with(kept::GENERATED))
    {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
        texts.push((base(path), text));
    }
    // systemd reads drop-ins by name, wherever they are.
    texts.sort_by(|a, b| a.0.cmp(&b.0));
    let text = std::fs::read_to_string(&fragment).map_err(|e| format!("{fragment}: {e}"))?;
    texts.insert(0, (String::new(), text));
    // Where it is without saying so itself depends on its name.
    let slice = systemd.slice(&service).map_err(fail)?;
    let mut all = vec![format!("Slice={slice}")];
    all.extend(texts.iter().flat_map(|(_, text)| settings(text, name)));
    run(file, all)
}

fn base(path: &str) -> String {
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

/// The settings in the section `[Service]` of a unit file that matter here.
fn settings(text: &str, name: &str) -> Vec<String> {
    let whole = text.replace("\\\n", " ");
    let mut in_service = false;
    let mut found = Vec::new();
    for line in whole.lines().map(str::trim) {
        if line.starts_with('[') {
            in_service = line == "[Service]";
        } else if let Some((key, value)) = line.split_once('=')
            && in_service
            && matters(key)
        {
            found.push(format!("{key}={}", expand(value, name)));
        }
    }
    found
}

fn matters(key: &str) -> bool {
    KEYS.contains(&key)
        || BEGINNINGS.iter().any(|part| key.starts_with(part))
        || ENDS.iter().any(|part| key.ends_with(part))
}

/// The specifiers that the packaged and the generated files use (systemd.unit(5)).
fn expand(value: &str, name: &str) -> String {
    let parts = value.split("%%");
    let parts: Vec<String> = parts.map(|part| part.replace("%i", name)).collect();
    parts.join("%")
}

fn run(file: &Path, settings: Vec<String>) -> Result<View, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new("systemd-run");
    command.args(["--quiet", "--pipe", "--wait", "--collect"]);
    // A file system that hangs must not hold up the check.
    command.args(["-p", "RuntimeMaxSec=30", "-p", "Type=exec"]);
    for setting in &settings {
        command.args(["-p", setting]);
    }
    command
        .arg("--")
        .arg(own)
        .args(["check", "--json", "--as-is"])
        .arg(file);
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("systemd-run: {error}"))?;
    serde_json::from_slice(&output.stdout).map_err(|_| {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().next().unwrap_or_default();
        format!("systemd-run, {}: {said}", output.status)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_matter() {
        let text = "[Unit]\nPrivateTmp=no\n[Service]\n# User=root\nUser=shop\nExecStart=/x\n\
                    RestrictAddressFamilies=AF_UNIX \\\n  AF_INET\nReadWritePaths=/srv/%i 5%%i\n\
                    StateDirectory=x\nGroup=\n[Install]\nUser=no\n";
        let expected = [
            "User=shop",
            "RestrictAddressFamilies=AF_UNIX    AF_INET",
            "ReadWritePaths=/srv/web 5%i",
            "Group=",
        ];
        assert_eq!(settings(text, "web"), expected);
    }
}
