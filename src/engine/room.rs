// SPDX-License-Identifier: MIT OR Apache-2.0
//! How many descriptors the supervisor may open (RLIMIT_NOFILE of getrlimit(2)).

use super::listeners::FIRST_FD;
use super::resume::FIRST;
use anyhow::{Result, bail};
use nix::sys::resource::{Resource, getrlimit};

/// So many it needs for itself, beyond those that were passed.
pub const OWN: u32 = 64;

/// Makes room for descriptors up to where ours begin. Once there are threads, growing the
/// table waits for an RCU grace period of several milliseconds.
pub fn make() {
    // Without it the start only takes longer.
    let _ = rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), FIRST_FD);
}

/// Whether there is room for us and the `passed` descriptors that we were started with: who
/// finds out later takes workers for dead that it cannot look at.
///
/// # Errors
/// What to do. Those descriptors are closed then, so that this can be told.
pub fn check(passed: u32) -> Result<()> {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let needed = u64::from(FIRST_FD.unsigned_abs() + passed + OWN);
    if soft >= needed {
        return Ok(());
    }
    // As the listenfd crate finds them.
    let first = std::env::var(FIRST)
        .ok()
        .and_then(|first| first.parse().ok());
    for number in (first.unwrap_or(3)..).take(passed as usize) {
        drop(crate::sys::inherited(number));
    }
    bail!(
        "LimitNOFILE= (`ulimit -n`) is {soft}, and the supervisor needs {needed} descriptors; \
         workers that run serve on without one\n  \
         hint: raise it in the unit, then `systemctl daemon-reload`"
    )
}
