// SPDX-License-Identifier: MIT OR Apache-2.0
//! The preload of Node workers, in real processes of each Node version, on a real channel.
//! The gate runs one version, `APPC_FULL=1` all; what cannot be had is skipped with its reason.

#[path = "support/load.rs"]
mod load;
#[path = "support/node_primary.rs"]
mod node_primary;
#[path = "support/node_tools.rs"]
mod node_tools;

#[path = "preload/client.rs"]
mod client;
#[path = "preload/drain.rs"]
mod drain;
#[path = "preload/environment.rs"]
mod environment;
#[path = "preload/late.rs"]
mod late;
#[path = "preload/own_close.rs"]
mod own_close;
#[path = "preload/websocket.rs"]
mod websocket;

use libtest_mimic::{Arguments, Failed, Trial};
use node_primary::{Sockets, Start, Worker};
use node_tools::Node;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;

/// A test, for one Node version.
type Test = fn(&Node);

const PACKAGES: [&str; 5] = [
    "ws@8.23.0",
    "socket.io@4.8.4",
    "socket.io-client@4.8.4",
    "tsx@4.23.15",
    "cross-env@10.1.0",
];

fn main() -> ExitCode {
    let full = scale(true, false);
    let versions = if full {
        &node_tools::VERSIONS[..]
    } else {
        &[node_tools::GATE][..]
    };
    let mut trials = Vec::new();
    let lacking = packages().err();
    if let Some(why) = &lacking {
        eprintln!("skipped what needs npm packages: {why}");
    }
    for version in versions {
        let node = node_tools::node(version);
        if let Err(why) = &node {
            eprintln!("skipped Node {version}: {why}");
        }
        let tests = [drain::TESTS, own_close::TESTS, environment::TESTS].concat();
        let more = [websocket::TESTS, late::TESTS].concat();
        let tests = tests.into_iter().map(|test| (test, false));
        for ((name, test), packed) in tests.chain(more.into_iter().map(|test| (test, true))) {
            let skip = node.is_err() || (packed && lacking.is_some());
            let node = node.clone();
            let trial = Trial::test(format!("{name}_node_{version}"), move || {
                test(&node.map_err(Failed::from)?);
                Ok(())
            });
            trials.push(trial.with_ignored_flag(skip));
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// `full` with APPC_FULL=1, else `reduced`.
fn scale<T>(full: T, reduced: T) -> T {
    match std::env::var("APPC_FULL") {
        Ok(value) if value == "1" => full,
        _ => reduced,
    }
}

/// The directory with the npm packages.
fn packages() -> Result<&'static PathBuf, &'static String> {
    static HOME: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    HOME.get_or_init(|| node_tools::packages("preload-1", &PACKAGES))
        .as_ref()
}

/// The path of one of our programs.
fn program(name: &str) -> String {
    format!("{}/tests/preload/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Our app, with a server of this kind.
fn app<'a>(node: &'a Node, kind: &str) -> Start<'a> {
    let modules = packages().map_or_else(|_| PathBuf::new(), |home| home.join("node_modules"));
    Start::new(node)
        .env("KIND", kind)
        .env("NODE_PATH", modules.display())
}

/// Starts it; it listens.
fn start(app: Start<'_>) -> (Worker, std::net::SocketAddr) {
    let worker = app.spawn(&["node", &program("app.cjs")], &Sockets::default());
    let address = worker.listening();
    (worker, address)
}
