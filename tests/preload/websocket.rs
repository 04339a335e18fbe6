// SPDX-License-Identifier: MIT OR Apache-2.0
//! WebSockets are told to come back, not all at once.

use crate::client::{Program, certificate};
use crate::node_tools::Node;
use crate::{Test, app, start};
use serde_json::{Value, json};

pub const TESTS: &[(&str, Test)] = &[
    ("websockets_close_over_time", websockets_close_over_time),
    ("websockets_hurry", websockets_hurry),
    ("socket_io_clients_are_told", socket_io_clients_are_told),
];

const CLIENTS: usize = 24;
/// Of the server's messages.
const BLOCK: u64 = 100_000;

/// From the first to the last close, in ms since the drain was asked for.
fn closes(node: &Node, tls: bool, within: u64, hurry: bool) -> (u128, u128) {
    let mut app = app(node, "ws");
    if tls {
        app = app.env("TLS", certificate().display());
    }
    let (worker, address) = start(app);
    let client = Program::start(node, if tls { "wss" } else { "ws" }, address, CLIENTS);
    let begun = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .expect("a clock")
        .as_millis();
    worker.send(
        &json!({"cmd": "NODE_APP_CLUSTER", "act": "drain", "quiet": 200,
        "within": within, "hurry": hurry}),
    );
    worker.wait_for("drained");
    let mut times = Vec::new();
    for line in client.rest() {
        assert_eq!(line["code"], 1012, "{line}");
        let bytes = line["bytes"].as_u64().expect("a number");
        assert!(
            bytes > 0 && bytes % BLOCK == 0,
            "a message is not whole: {line}"
        );
        let at = line["at"].as_u64().expect("a time");
        times.push(u128::from(at).saturating_sub(begun));
    }
    times.sort_unstable();
    assert_eq!(times.len(), CLIENTS, "{times:?}");
    worker.wait_nth("all gone", CLIENTS, |m| m["event"] == "gone");
    let other = worker.said(|m| m["event"] == "gone" && m["code"] != 1012);
    assert!(other.is_empty(), "{other:?}");
    (times[0], times[CLIENTS - 1])
}

fn websockets_close_over_time(node: &Node) {
    for tls in [false, true] {
        let (first, last) = closes(node, tls, 6000, false);
        // At random within 3 s: 24 of them lie within 1 s with a chance of 1 to 10^9.
        assert!(last - first > 1000, "all between {first} and {last} ms");
        assert!(last < 6000, "the last after {last} ms");
    }
}

fn websockets_hurry(node: &Node) {
    let (_, last) = closes(node, false, 40_000, true);
    assert!(last < 10_000, "the last after {last} ms");
}

fn socket_io_clients_are_told(node: &Node) {
    let (worker, address) = start(app(node, "io"));
    let client = Program::start(node, "io", address, 1);
    worker.event("client");
    worker.drain(200, 2000);
    assert_eq!(client.next(), json!({"reason": "transport close"}));
    let gone: Value = worker.event("gone");
    assert_eq!(gone["reason"], "transport close");
    worker.wait_for("drained");
}
