// SPDX-License-Identifier: MIT OR Apache-2.0
//! The node:cluster primary against real Node: unmodified programs under a supervisor in the
//! foreground.
//!
//!     cargo test --test node                          # one version in full, the others smoke
//!     APPC_FULL=1 cargo test --test node -- node26    # all of one version
//!
//! Versions are fetched from the npm registry when first needed (`support/node_tools.rs`). Where one
//! cannot be had its tests count as ignored, with the reason.

#[path = "support/dev.rs"]
mod dev;
#[path = "support/load.rs"]
mod load;
#[path = "support/node_tools.rs"]
mod node_tools;
#[path = "support/releases.rs"]
mod releases;

#[path = "node/app.rs"]
mod app;
#[path = "node/blocked.rs"]
mod blocked;
#[path = "node/companion.rs"]
mod companion;
#[path = "node/figures.rs"]
mod figures;
#[path = "node/health.rs"]
mod health;
#[path = "node/hostile.rs"]
mod hostile;
#[path = "node/isolation.rs"]
mod isolation;
#[path = "node/lines.rs"]
mod lines;
#[path = "node/listen.rs"]
mod listen;
#[path = "node/lossless.rs"]
mod lossless;
#[path = "node/messages.rs"]
mod messages;
#[path = "node/others.rs"]
mod others;
#[path = "node/recycle.rs"]
mod recycle;
#[path = "support/recycling.rs"]
mod recycling;
#[path = "node/robin.rs"]
mod robin;
#[path = "node/rollback.rs"]
mod rollback;
#[path = "node/second.rs"]
mod second;
#[path = "node/starts.rs"]
mod starts;
#[path = "node/stop.rs"]
mod stop;
#[path = "node/upgrade.rs"]
mod upgrade;
#[path = "node/upgrade_queue.rs"]
mod upgrade_queue;
#[path = "support/upgrades.rs"]
mod upgrades;

use libtest_mimic::{Arguments, Completion, Trial};
use node_tools::{GATE, Node, VERSIONS};
use std::process::ExitCode;

/// What is checked with one version of Node. What cannot be had is an `Err` with the reason.
type Row = (&'static str, fn(&Node) -> Result<(), String>);

/// At once: the rows wait most of the time.
const AT_ONCE: usize = 4;

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    args.test_threads = Some(args.test_threads.unwrap_or(AT_ONCE));
    let full = dev::scale(true, false);
    let suites = [
        starts::ROWS,
        listen::ROWS,
        messages::ROWS,
        stop::ROWS,
        isolation::ROWS,
        robin::ROWS,
        blocked::ROWS,
        lines::ROWS,
        second::ROWS,
        lossless::ROWS,
        recycle::ROWS,
        rollback::ROWS,
        companion::ROWS,
        figures::ROWS,
        health::ROWS,
        upgrade::ROWS,
        upgrade_queue::ROWS,
    ];
    let rows = suites.concat();
    let smoke = [starts::SMOKE, upgrade::SMOKE].concat();
    let mut trials = Vec::new();
    for version in VERSIONS {
        let rows = match full || version == GATE {
            true => rows.as_slice(),
            false => &smoke,
        };
        trials.extend(rows.iter().map(|row| trial(version, *row)));
    }
    // What does not depend on the version.
    for row in [hostile::ROWS, others::ROWS, upgrade::OTHERS].concat() {
        trials.push(trial(GATE, row));
    }
    libtest_mimic::run(&args, trials).exit_code()
}

fn trial(version: &'static str, (name, row): Row) -> Trial {
    let major = version.split('.').next().unwrap_or_default();
    Trial::ignorable_test(format!("node{major}::{name}"), move || {
        let ignored = |why: String| Completion::ignored_with(why);
        let node = match node_tools::node(version) {
            Ok(node) => node,
            Err(why) => return Ok(ignored(why)),
        };
        Ok(row(&node).map_or_else(ignored, |()| Completion::Completed))
    })
}
