// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unmodified applications of Node's frameworks, and the programs of `examples/`, under a
//! supervisor in the foreground: they serve, are reloaded under load, drain and stop.
//!
//!     cargo test --test frameworks                    # what is quick
//!     APPC_FULL=1 cargo test --test frameworks        # all
//!
//! Their packages are fetched from the npm registry when first needed
//! (`support/packages.rs`). Where one cannot be had its tests count as ignored, with the reason.

#[path = "support/dev.rs"]
mod dev;
#[path = "support/load.rs"]
mod load;
#[path = "support/packages.rs"]
mod packages;
#[path = "support/node.rs"]
mod versions;
#[path = "support/websocket.rs"]
mod websockets;

#[path = "frameworks/app.rs"]
mod app;
#[path = "frameworks/examples.rs"]
mod examples;
#[path = "frameworks/serve.rs"]
mod serve;
#[path = "frameworks/servers.rs"]
mod servers;
#[path = "frameworks/socketio.rs"]
mod socketio;
#[path = "frameworks/websocket.rs"]
mod websocket;

use libtest_mimic::{Arguments, Completion, Trial};
use std::process::ExitCode;
use versions::Node;

/// What is checked with one version of Node. What cannot be had is an `Err` with the reason.
type Row = (&'static str, fn(&Node) -> Result<(), String>);

/// In the full tier also with the newest.
const NEWEST: &str = "26.10.0";

/// At once: the rows wait most of the time.
const AT_ONCE: usize = 3;

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    args.test_threads = Some(args.test_threads.unwrap_or(AT_ONCE));
    let quick = [
        serve::QUICK,
        websocket::ROWS,
        socketio::QUICK,
        examples::ROWS,
    ];
    let long = [serve::LONG, socketio::LONG];
    let mut trials = Vec::new();
    let mut add = |version, rows: &[Row], quick| {
        trials.extend(rows.iter().map(|row| trial(version, *row, quick)));
    };
    add(versions::MAIN, &quick.concat(), true);
    add(versions::MAIN, &long.concat(), false);
    let newest = [serve::QUICK, websocket::ROWS, socketio::QUICK];
    add(NEWEST, &newest.concat(), false);
    add(NEWEST, &long.concat(), false);
    libtest_mimic::run(&args, trials).exit_code()
}

fn trial(version: &'static str, (name, row): Row, quick: bool) -> Trial {
    let major = version.split('.').next().unwrap_or_default();
    let ignored = |why: String| Completion::ignored_with(why);
    Trial::ignorable_test(format!("node{major}::{name}"), move || {
        if !quick && !dev::scale(true, false) {
            return Ok(ignored("in the full tier only (APPC_FULL=1)".into()));
        }
        let node = match Node::get(version) {
            Ok(node) => node,
            Err(why) => return Ok(ignored(why)),
        };
        Ok(row(&node).map_or_else(ignored, |()| Completion::Completed))
    })
}
