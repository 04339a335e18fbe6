// SPDX-License-Identifier: MIT OR Apache-2.0
//! A drain loses nothing, and ends.

use crate::client::{Connection, Program, certificate};
use crate::load::{Kind, Load, LoadSpec};
use crate::node_primary::{Sockets, Worker};
use crate::node_tools::Node;
use crate::{Test, app, program, scale, start};
use nix::sys::signal::Signal;
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

pub const TESTS: &[(&str, Test)] = &[
    (
        "replaced_workers_lose_nothing",
        replaced_workers_lose_nothing,
    ),
    (
        "what_is_under_way_is_finished",
        what_is_under_way_is_finished,
    ),
    ("quiet_connections_are_closed", quiet_connections_are_closed),
    (
        "pipelined_requests_are_answered",
        pipelined_requests_are_answered,
    ),
    (
        "a_request_in_parts_is_answered",
        a_request_in_parts_is_answered,
    ),
    ("an_early_answer_arrives", an_early_answer_arrives),
    ("new_servers_get_nothing", new_servers_get_nothing),
    (
        "plain_connections_are_waited_for",
        plain_connections_are_waited_for,
    ),
    ("http2_streams_are_finished", http2_streams_are_finished),
    ("tls_requests_are_finished", tls_requests_are_finished),
    ("it_ends_when_released", it_ends_when_released),
    ("vitals_are_told", vitals_are_told),
    ("nonsense_harms_nothing", nonsense_harms_nothing),
];

/// Long enough that no client of the load is quiet, however busy the machine.
const LOADED_QUIET: u64 = 3000;
const QUIET: u64 = 400;

fn replaced_workers_lose_nothing(node: &Node) {
    let (sockets, address) = Sockets::with_one();
    let begin = || {
        let app = app(node, "http")
            .env("PORT", address.port())
            .env("ON_TERM", "close");
        let worker = app.spawn(&["node", &program("app.cjs")], &sockets);
        worker.listening();
        worker
    };
    let mut current = begin();
    let mut spec = LoadSpec::tcp(address).with(Kind::KeepAlive, 2);
    for think in [3, 7, 11] {
        spec = spec.with_pace(Kind::KeepAlive, 3, 1000 / think);
    }
    spec = spec.with_pace(Kind::NewConnection, 2, 200);
    spec = spec.with(Kind::Slow { ms: 400 }, 3).with(Kind::SlowPost, 2);
    let load = Load::start(spec).expect("a load");
    for _ in 0..scale(20, 4) {
        let new = begin();
        load.wait_for_more(6, Duration::from_secs(60))
            .expect("requests");
        current.drain(LOADED_QUIET, 20_000);
        assert_eq!(
            current.wait_for("draining").1["signals"],
            json!(["SIGTERM"])
        );
        current.wait_for("drained");
        current.signal(Signal::SIGTERM);
        current.wait_for_exit_by_itself();
        current = new;
    }
    let report = load.stop();
    report.assert_lossless(20);
}

impl Worker {
    /// It catches the signal, closes its server, is told so without an error, and ends with 0.
    #[track_caller]
    fn wait_for_exit_by_itself(&mut self) {
        let closed = self.event("closed");
        assert!(closed["error"].is_null(), "{closed}");
        assert_eq!(self.exit().code(), Some(0));
        assert_eq!((self.events("closed"), self.events("close")), (1, 1));
    }
}

fn what_is_under_way_is_finished(node: &Node) {
    let (worker, address) = start(app(node, "http"));
    let [mut slow, mut stream, mut post, mut insisting] = [0; 4].map(|_| Connection::open(address));
    slow.ask("/slow?ms=900");
    worker.event("asked");
    stream.ask("/stream?ms=900");
    worker.event("streaming");
    post.send("POST /post HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345");
    insisting.get("/insists");
    worker.drain(QUIET, 20_000);
    let last = insisting.get("/insists");
    assert!(last.is_last(), "{last:?}");
    insisting.end();
    assert!(slow.answer().is_last());
    slow.end();
    // Its head was sent before: it could not say so, and its client may ask again.
    assert!(!stream.answer().is_last());
    assert!(stream.get("/").is_last());
    assert!(!worker.is_drained());
    post.send("67890");
    let answer = post.answer();
    assert!(answer.is_last() && answer.body["bytes"] == 10, "{answer:?}");
    worker.wait_for("drained");
}

fn quiet_connections_are_closed(node: &Node) {
    let (worker, address) = start(app(node, "http"));
    // In this order they are accepted: the answers tell that all are.
    let [mut fresh, mut idle, mut used] = [0; 3].map(|_| Connection::open(address));
    idle.get("/");
    used.get("/");
    const QUIET: u64 = 2000;
    let begun = worker.drain(QUIET, 20_000);
    std::thread::sleep(Duration::from_millis(300));
    assert!(idle.is_open() && fresh.is_open() && used.is_open());
    assert!(used.get("/").is_last());
    used.end();
    for connection in [&mut idle, &mut fresh] {
        let took = connection.end() - begun;
        let (from, to) = (Duration::from_millis(QUIET - 20), Duration::from_secs(20));
        assert!(took >= from && took < to, "closed after {took:?}");
    }
    let (at, _) = worker.wait_for("drained");
    assert!(at - begun >= Duration::from_millis(QUIET - 20));
    assert!(
        TcpStream::connect(address).is_ok(),
        "the test keeps the socket"
    );
}

fn pipelined_requests_are_answered(node: &Node) {
    let (worker, address) = start(app(node, "http"));
    let [mut before, mut within] = [0; 2].map(|_| Connection::open(address));
    let one = |ms: u32| format!("GET /slow?ms={ms} HTTP/1.1\r\nHost: a\r\n\r\n");
    let three = [one(300), one(200), one(100)].concat();
    before.send(&three);
    worker.wait_nth("three requests", 3, |m| m["event"] == "asked");
    within.get("/");
    worker.drain(QUIET * 3, 20_000);
    within.send(&three);
    for connection in [&mut before, &mut within] {
        let last = [0; 3].map(|_| connection.answer().is_last());
        assert_eq!(last, [false, false, true]);
        connection.end();
    }
    worker.wait_for("drained");
}

fn a_request_in_parts_is_answered(node: &Node) {
    let (worker, address) = start(app(node, "http"));
    let [mut first, mut second, mut other] = [0; 3].map(|_| Connection::open(address));
    second.get("/");
    for connection in [&mut first, &mut second] {
        connection.send("GET / HTTP/1.1\r\nHo");
    }
    // What was sent before has been read when this is answered.
    other.get("/");
    let begun = worker.drain(QUIET, 20_000);
    other.end();
    assert!(begun.elapsed() >= Duration::from_millis(QUIET - 20));
    assert!(first.is_open() && second.is_open());
    for connection in [&mut first, &mut second] {
        connection.send("st: a\r\n\r\n");
        assert!(connection.answer().is_last());
    }
    worker.wait_for("drained");
}

/// An answer before the end of the body is not followed by a reset.
fn an_early_answer_arrives(node: &Node) {
    let (worker, address) = start(app(node, "http"));
    let mut connection = Connection::open(address);
    connection.get("/");
    worker.drain(QUIET, 20_000);
    connection.send("POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 50000\r\n\r\n");
    connection.send(&"x".repeat(25_000));
    assert!(!connection.answer().is_last());
    connection.send(&"x".repeat(25_000));
    assert!(connection.get("/").is_last());
    connection.end();
    worker.wait_for("drained");
}

fn new_servers_get_nothing(node: &Node) {
    let (worker, address) = start(app(node, "http"));
    let mut busy = Connection::open(address);
    busy.ask("/slow?ms=1000");
    worker.event("asked");
    worker.drain(QUIET, 20_000);
    worker.send(&json!({"do": "another"}));
    worker.event("another");
    // To the app its server still listens.
    worker.send(&json!({"do": "state"}));
    let state = worker.event("state");
    assert_eq!(state["listening"], true, "{state}");
    assert_eq!(state["address"]["port"], address.port(), "{state}");
    assert_eq!(worker.said(|m| m["act"] == "queryServer").len(), 1);
    busy.answer();
    worker.wait_for("drained");
}

fn plain_connections_are_waited_for(node: &Node) {
    let (worker, address) = start(app(node, "net"));
    let mut stream = TcpStream::connect(address).expect("a connection");
    let mut echo = |text: &[u8]| {
        let mut back = vec![0; text.len()];
        stream
            .write_all(text)
            .and_then(|()| stream.read_exact(&mut back))
            .expect("an echo");
        assert_eq!(back, text);
    };
    echo(b"before");
    worker.drain(QUIET, 20_000);
    std::thread::sleep(Duration::from_millis(QUIET * 2));
    echo(b"after");
    assert!(!worker.is_drained());
    drop(stream);
    worker.wait_for("drained");
}

fn http2_streams_are_finished(node: &Node) {
    for kind in ["h2", "h2c"] {
        let app = app(node, kind).env("TLS", certificate().display());
        let (worker, address) = start(app);
        let client = Program::start(node, kind, address, 1);
        worker.event("asked");
        let begun = worker.drain(QUIET, 20_000);
        worker.wait_for("drained");
        assert!(begun.elapsed() < Duration::from_secs(20));
        let said = client.rest();
        let whole =
            |line: &serde_json::Value| line["slow"].as_str().is_some_and(|s| s.contains("pid"));
        assert!(said.iter().any(whole), "{kind}: {said:?}");
        let bad = said
            .iter()
            .find(|line| !line["lost"].is_null() || !line["error"].is_null());
        assert_eq!(bad, None, "{kind}: {said:?}");
        assert!(
            said.iter().any(|line| line["goaway"] == 0),
            "{kind}: {said:?}"
        );
    }
}

fn tls_requests_are_finished(node: &Node) {
    for kind in ["https", "h2"] {
        let app = app(node, kind).env("TLS", certificate().display());
        let (worker, address) = start(app);
        // Below TLS: it never says hello.
        let mut silent = Connection::open(address);
        let client = Program::start(node, "https", address, 1);
        worker.drain(QUIET, 20_000);
        silent.end();
        worker.wait_for("drained");
        let mut said = [client.next(), client.next()].map(|line| line.to_string());
        said.sort();
        assert_eq!(said, ["\"idle ended\"", "\"last\""], "{kind}");
    }
}

fn it_ends_when_released(node: &Node) {
    let (mut worker, _) = start(app(node, "http"));
    worker.drain(QUIET, 20_000);
    worker.wait_for("drained");
    // The channel holds it, and the app has not been told yet.
    worker.act("vitals");
    worker.wait_for("vitals");
    assert_eq!(worker.events("close"), 0);
    worker.act("release");
    assert_eq!(worker.exit().code(), Some(0));
    assert_eq!(worker.events("close"), 1);
    assert_eq!(worker.said(|m| m["act"] == "drained").len(), 1);
}

fn vitals_are_told(node: &Node) {
    let (worker, address) = start(app(node, "http"));
    let (_, hello) = worker.wait_for("hello");
    assert_eq!(hello["version"], 1);
    assert_eq!(hello["node"], format!("v{}", node.version));
    assert_eq!(hello["pid"], worker.pid());
    let ask = |count| {
        worker.act("vitals");
        worker.wait_nth("vitals", count, |m| m["act"] == "vitals").1
    };
    ask(1);
    let load = Load::start(LoadSpec::tcp(address).with(Kind::KeepAlive, 4)).expect("a load");
    load.wait_for(1000, Duration::from_secs(60))
        .expect("requests");
    let vitals = ask(2);
    let [busy, used] = ["utilization", "heap"].map(|key| vitals[key].as_f64().expect("a number"));
    drop(load);
    assert!((0.05..=1.0).contains(&busy), "{busy}");
    assert!(used > 1e6, "{used}");
    let idle = Instant::now();
    ask(3);
    while idle.elapsed() < Duration::from_millis(500) {
        std::thread::sleep(Duration::from_millis(50));
    }
    let vitals = ask(4);
    assert!(
        vitals["utilization"]
            .as_f64()
            .is_some_and(|idle| idle < busy),
        "{vitals}"
    );
    assert!(vitals["rss"].as_f64() > vitals["heap"].as_f64(), "{vitals}");
}

fn nonsense_harms_nothing(node: &Node) {
    let (worker, address) = start(app(node, "http"));
    for message in [
        json!({"cmd": "NODE_APP_CLUSTER"}),
        json!({"cmd": "NODE_APP_CLUSTER", "act": 7}),
        json!({"cmd": "NODE_APP_CLUSTER", "act": "constructor"}),
    ] {
        worker.send(&message);
    }
    let mut connection = Connection::open(address);
    assert!(!connection.get("/").is_last());
    worker.send(&json!({"cmd": "NODE_APP_CLUSTER", "act": "drain", "quiet": "x", "within": -1}));
    connection.end();
    worker.wait_for("drained");
}
