// SPDX-License-Identifier: MIT OR Apache-2.0
//! The same as [`crate::fault`] with Node: what is said over a worker's channel may be lost with
//! whoever has read it.

use crate::fault::Trigger::{BadReload, Kill, Load, Reload, Scale, Send, Upgrade};
use crate::fault::{QUICK, Table, Trigger, WORKERS, at_each};
use crate::harness::{Test, TestBox, scale, test};

pub const TESTS: &[Test] = &[
    test!(killed_at_every_point_with_node),
    test!(killed_at_every_point_with_node_round_robin),
    test!(killed_while_a_node_worker_starts),
];

/// Between what a worker says once and what follows from it.
const STARTS: &[(Trigger, &[&str])] = &[
    (Reload, &["before-answer"]),
    (Reload, &["before-hello"]),
    (Reload, &["after-answer"]),
    (Reload, &["before-listening"]),
    (Reload, &["before-hello", "before-answer", "before-answer"]),
];

/// Those at which Node workers differ from others.
const ALL: &[(Trigger, &[&str])] = &[
    (Reload, &["after-intent"]),
    (Reload, &["after-spawn"]),
    (Reload, &["before-store"]),
    (Reload, &["worker-starting-recorded"]),
    (Reload, &["before-hello"]),
    (Reload, &["before-hello-recorded"]),
    (Reload, &["before-answer", "before-answer"]),
    (Reload, &["after-answer"]),
    (Reload, &["after-answer-recorded"]),
    (Reload, &["before-listening"]),
    (Reload, &["worker-ready"]),
    (Reload, &["worker-ready-recorded"]),
    (Reload, &["rollout-progress"]),
    (Reload, &["worker-draining"]),
    (Reload, &["worker-draining-recorded"]),
    (Reload, &["before-drained"]),
    (Reload, &["before-drained-recorded"]),
    (Reload, &["worker-exited"]),
    (Reload, &["rollout-finished"]),
    (Reload, &["mid-snapshot"]),
    (BadReload, &["rollout-reverting-recorded"]),
    (Scale, &["before-answer"]),
    (Send, &["half-line-recorded"]),
    (Kill, &["mid-adoption", "after-adoption"]),
    (Upgrade, &["before-hand-over"]),
    (Upgrade, &["before-exec"]),
];

/// And those at which the supervisor has connections.
const DEALT: &[(Trigger, &[&str])] = &[
    (Load, &["before-handing"]),
    (Load, &["after-handing"]),
    (Load, &["taken"]),
];

fn killed_at_every_point_with_node(b: &TestBox) {
    at_each(b, &table(b, ALL, "even", 0));
}

fn killed_at_every_point_with_node_round_robin(b: &TestBox) {
    // As many as there are clients.
    at_each(b, &table(b, &[DEALT, ALL].concat(), "round-robin", 4));
}

/// The rollout goes on: a worker that has asked and gets no answer would wait until
/// `start_timeout`.
fn killed_while_a_node_worker_starts(b: &TestBox) {
    let mut table = table(b, &STARTS[..scale(STARTS.len(), 1)], "even", 0);
    table.good += "on_failure = \"hold\"\n";
    at_each(b, &table);
}

fn table<'a>(
    b: &TestBox,
    rows: &'a [(Trigger, &'a [&'a str])],
    balance: &str,
    lost: u64,
) -> Table<'a> {
    b.write("/srv/fate/fate.js", include_str!("workers/fate.js"));
    let good = format!(
        "command = \"node fate.js\"\ndirectory = \"/srv/fate\"\nworkers = {WORKERS}\n\
         balance = \"{balance}\"\nmax_workers = 8\nstart_timeout = \"10m\"\n{QUICK}"
    );
    Table {
        rows,
        bad: good.clone() + "environment = { NODE_OPTIONS = \"--no-such-option\" }\n",
        good,
        lost,
    }
}
