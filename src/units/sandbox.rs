// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lines of a service that shut its workers in.

use super::SANDBOX_VARIABLE;
use crate::config::{Config, Sandbox};
use std::path::Path;

/// What ProtectHome= hides (systemd.exec(5)).
const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];

/// What `sandbox = "strict"` adds to the packaged unit. A program with a JIT, child
/// processes and threads runs in it. Left out are what such programs die of
/// (MemoryDenyWriteExecute=, ProcSubset=pid) and what breaks supervision (PrivateTmp=,
/// ProtectControlGroups=).
const STRICT: &str = "\
ProtectSystem=strict
ReadWritePaths=/tmp /var/tmp
PrivateDevices=yes
ProtectProc=invisible
SystemCallArchitectures=native
SystemCallFilter=@system-service
# Not SIGSYS: runtimes try calls and go on without.
SystemCallErrorNumber=EPERM
CapabilityBoundingSet=
UMask=0027
";

/// The lines for the sandbox level of `config`.
pub(super) fn lines(config: &Config) -> String {
    match config.sandbox {
        Sandbox::Default => format!("Environment={SANDBOX_VARIABLE}=default\n"),
        Sandbox::Strict => {
            let home = if lives_in_home(config) {
                "read-only"
            } else {
                "yes"
            };
            format!("Environment={SANDBOX_VARIABLE}=strict\n{STRICT}ProtectHome={home}\n")
        }
    }
}

/// Whether the program or its directory is where ProtectHome=yes would hide it.
fn lives_in_home(config: &Config) -> bool {
    let words = config.command.iter().map(Path::new);
    let files = config.environment_files.iter().map(|f| f.path.as_path());
    let mut paths = words.chain(files).chain([config.directory.as_path()]);
    paths.any(|path| HOMES.iter().any(|home| path.starts_with(home)))
}
