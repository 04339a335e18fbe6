// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of the installed package on real systemd, in containers.
//!
//!     make deb && cargo test --test box                  # both Debian releases
//!     cargo test --test box -- trixie::upgrade           # some of one
//!
//! Needs root and, for the first run, a Debian mirror; where boxes cannot run,
//! the tests count as ignored and the reason is printed.
//!
//! | variable | meaning |
//! |---|---|
//! | `APPC_DEB` | the package to test; else the newest in `target/debian` |
//! | `APPC_FULL=1` | full counts instead of reduced ones |
//! | `APPC_BOX_REQUIRE=1` | fail where boxes cannot run |
//! | `APPC_BOX_NO_INSTALL=1` | do not install systemd-nspawn and mmdebstrap |
//!
//! Roots are kept in `~/.cache/app-cluster/box/roots` and may be deleted at any
//! time when no test runs.

mod app;
mod balance;
mod changes;
mod check;
mod config;
mod crash;
mod examples;
mod fate;
mod fate_app;
mod fate_end;
mod fate_odd;
mod fate_upgrade;
mod fault;
mod fault_lines;
mod fault_node;
mod fault_trust;
mod generator;
#[allow(dead_code, reason = "tools for all tests, not all in use at all times")]
mod harness;
mod home;
mod hostile;
mod itself;
mod kept;
mod learn;
mod lines;
#[path = "../support/load.rs"]
mod load;
mod logs;
mod package;
#[path = "../support/packages.rs"]
mod packages;
mod programs;
mod proxy;
mod reboot;
mod recycle;
mod release;
mod releases;
mod reload;
mod serve;
mod service;
mod start;
mod sticky;
mod stop;
mod sweep;
mod third_party;
mod units;
mod verbs;
#[path = "../support/node.rs"]
mod versions;
#[path = "../support/websocket.rs"]
mod websockets;

use std::process::ExitCode;

use harness::{Host, Root, SUITES, Test};
use libtest_mimic::{Arguments, Trial};

/// At most this many boxes at once: more of them than processors makes every
/// bound in the tests a matter of luck.
const AT_ONCE: usize = 2;

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    args.test_threads = Some(args.test_threads.unwrap_or(AT_ONCE).clamp(1, AT_ONCE));
    let tests = [
        itself::TESTS,
        units::TESTS,
        generator::TESTS,
        changes::TESTS,
        package::TESTS,
        check::TESTS,
        config::TESTS,
        crash::TESTS,
        hostile::TESTS,
        logs::TESTS,
        serve::TESTS,
        reload::TESTS,
        recycle::TESTS,
        release::TESTS,
        releases::TESTS,
        start::TESTS,
        kept::TESTS,
        learn::TESTS,
        stop::TESTS,
        sweep::TESTS,
        third_party::TESTS,
        examples::TESTS,
        fault::TESTS,
        fault_lines::TESTS,
        fault_node::TESTS,
        fault_trust::TESTS,
        home::TESTS,
        verbs::TESTS,
        balance::TESTS,
        sticky::TESTS,
        proxy::TESTS,
        reboot::TESTS,
        fate::TESTS,
        fate_end::TESTS,
        fate_odd::TESTS,
        fate_upgrade::TESTS,
    ]
    .concat();
    if args.list {
        let all = SUITES
            .iter()
            .flat_map(|s| tests.iter().map(|t| harness::ignored(s, *t)));
        return libtest_mimic::run(&args, all.collect()).exit_code();
    }
    harness::keep_panics_for_the_report();
    // Alive until the end: tests hold on to it, and so does its lock.
    let host: &'static _ = Box::leak(Box::new(Host::prepare()));
    let mut trials = Vec::new();
    let mut reasons = Vec::new();
    for suite in SUITES.iter().filter(|suite| wanted(&args, suite, &tests)) {
        let root = match host {
            Ok(host) => Root::get(host, suite).map(|root| (host, root)),
            Err(why) => Err(anyhow::anyhow!("{why:#}")),
        };
        match root {
            Ok((host, root)) => trials.extend(run_all(host, &root, &tests)),
            Err(why) => {
                reasons.push(format!("{suite}: {why:#}"));
                trials.extend(tests.iter().map(|test| harness::ignored(suite, *test)));
            }
        }
    }
    for reason in &reasons {
        eprintln!("box: tests ignored, {reason}");
    }
    let conclusion = libtest_mimic::run(&args, trials);
    if let Ok(host) = host {
        host.finish();
    }
    if !reasons.is_empty() && std::env::var_os("APPC_BOX_REQUIRE").is_some() {
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

fn run_all(host: &'static Host, root: &Root, tests: &[Test]) -> Vec<Trial> {
    tests
        .iter()
        .map(|test| match lacking(root.suite(), test.name) {
            Some(why) => {
                eprintln!("box: {}::{} is ignored: {why}", root.suite(), test.name);
                harness::ignored(root.suite(), *test)
            }
            None => harness::trial(host, root.clone(), *test),
        })
        .collect()
}

/// Why a test does not run here.
fn lacking(suite: &str, test: &str) -> Option<&'static str> {
    third_party::lacking(test).or_else(|| fate::lacking(suite, test))
}

/// Whether the name given on the command line is that of a test in `suite`: a
/// root takes a minute to build.
fn wanted(args: &Arguments, suite: &str, tests: &[Test]) -> bool {
    let Some(filter) = &args.filter else {
        return true;
    };
    tests
        .iter()
        .any(|test| format!("{suite}::{}", test.name).contains(filter))
}
