// SPDX-License-Identifier: MIT OR Apache-2.0
//! An app's own `server.close()` loses as little as a drain, before, during and after one.

use crate::client::{Connection, Program, certificate};
use crate::load::{Kind, Load, LoadSpec};
use crate::node_primary::Sockets;
use crate::node_tools::Node;
use crate::{Test, app, program, scale, start};
use serde_json::json;
use std::time::Duration;

pub const TESTS: &[(&str, Test)] = &[
    ("own_close_loses_nothing", own_close_loses_nothing),
    (
        "own_close_of_tls_loses_nothing",
        own_close_of_tls_loses_nothing,
    ),
    (
        "own_close_in_a_drain_is_called_back",
        own_close_in_a_drain_is_called_back,
    ),
    (
        "own_close_twice_is_an_error_as_ever",
        own_close_twice_is_an_error_as_ever,
    ),
];

fn own_close_loses_nothing(node: &Node) {
    let (sockets, address) = Sockets::with_one();
    let begin = || {
        let app = app(node, "http").env("PORT", address.port());
        let worker = app.spawn(&["node", &program("app.cjs")], &sockets);
        worker.listening();
        worker
    };
    let mut current = begin();
    let mut spec = LoadSpec::tcp(address).with(Kind::KeepAlive, 2);
    for think in [3, 7, 11] {
        spec = spec.with_pace(Kind::KeepAlive, 3, 1000 / think);
    }
    let load = Load::start(spec.with(Kind::Slow { ms: 400 }, 2)).expect("a load");
    for _ in 0..scale(10, 3) {
        let new = begin();
        load.wait_for_more(6, Duration::from_secs(60))
            .expect("requests");
        // It also closes its idle connections, as programs for older versions do.
        current.send(&json!({"do": "close"}));
        let closed = current.event("closed");
        assert!(closed["error"].is_null(), "{closed}");
        assert_eq!((current.events("closed"), current.events("close")), (1, 1));
        current = new;
    }
    load.stop().assert_lossless(20);
}

fn own_close_of_tls_loses_nothing(node: &Node) {
    let app = app(node, "https").env("TLS", certificate().display());
    let (worker, address) = start(app);
    let client = Program::start(node, "https", address, 1);
    worker.send(&json!({"do": "close"}));
    let closed = worker.event("closed");
    assert!(closed["error"].is_null(), "{closed}");
    let mut said = [client.next(), client.next()].map(|line| line.to_string());
    said.sort();
    assert_eq!(said, ["\"idle ended\"", "\"last\""]);
}

fn own_close_in_a_drain_is_called_back(node: &Node) {
    for drained in [false, true] {
        let (worker, address) = start(app(node, "http"));
        let mut busy = Connection::open(address);
        busy.ask("/slow?ms=600");
        worker.event("asked");
        worker.drain(200, 20_000);
        if drained {
            busy.answer();
            worker.wait_for("drained");
        }
        assert_eq!(worker.events("close"), 0, "the app has not asked for it");
        worker.send(&json!({"do": "close"}));
        if !drained {
            assert!(busy.answer().is_last());
            worker.wait_for("drained");
        }
        let closed = worker.event("closed");
        assert!(closed["error"].is_null(), "{closed}");
        worker.send(&json!({"do": "state"}));
        assert_eq!(worker.event("state")["listening"], false);
        worker.act("release");
        assert_eq!((worker.events("closed"), worker.events("close")), (1, 1));
    }
}

fn own_close_twice_is_an_error_as_ever(node: &Node) {
    let (worker, _) = start(app(node, "http"));
    worker.drain(200, 20_000);
    worker.wait_for("drained");
    for (nth, error) in [(1, None), (2, Some("ERR_SERVER_NOT_RUNNING"))] {
        worker.send(&json!({"do": "close"}));
        let (_, closed) = worker.wait_nth("closed", nth, |m| m["event"] == "closed");
        assert_eq!(closed["error"].as_str(), error, "{closed}");
    }
}
