// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs that are built here to run in boxes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The example in Go as a static program, built once. An error says why there
/// is none.
pub fn go() -> Result<PathBuf, String> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BUILT.get_or_init(build_go).clone()
}

fn build_go() -> Result<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = root.join("target/box-programs/go-hello");
    let built = Command::new("go")
        .args(["build", "-o"])
        .arg(&out)
        .current_dir(root.join("examples/listen-fds/go"))
        // No libc of this machine in it, and nothing from the network.
        .envs([
            ("CGO_ENABLED", "0"),
            ("GOPROXY", "off"),
            ("GOFLAGS", "-mod=mod"),
        ])
        .envs([("GOTOOLCHAIN", "local"), ("GO111MODULE", "on")])
        .output()
        .map_err(|e| format!("go: {e}"))?;
    match built.status.success() {
        true => Ok(out),
        false => Err(String::from_utf8_lossy(&built.stderr).into_owned()),
    }
}
