// SPDX-License-Identifier: MIT OR Apache-2.0
//! The programs of `examples/node`, with their configuration: only directory and addresses are
//! others. `tests/box/examples.rs` has them where the README puts them.

use crate::Row;
use crate::app::{LONG, assert_well, everybody_answers, reload_under};
use crate::dev::{Dev, Setup, WITHIN, wait};
use crate::load::{Kind, Load, LoadSpec};
use crate::packages::Source;
use crate::servers::{PostgreSql, Redis};
use crate::versions::Node;
use crate::websockets::WebSocket;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;

pub const ROWS: &[Row] = &[
    ("example_express", express),
    ("example_websocket", websocket),
    ("example_redis", redis),
    ("example_graceful_shutdown", graceful_shutdown),
    ("example_graceful_shutdown_by_sigint", graceful_by_sigint),
    ("example_graceful_shutdown_by_message", graceful_by_message),
    ("example_database_pool", database_pool),
    ("example_database_pool_size", pool_size),
];

/// An example, and its configuration with some text replaced.
fn example(node: &Node, name: &str, replace: &[(&str, &str)]) -> Result<Setup, String> {
    let source = Source::at(&format!("examples/node/{name}"));
    let setup = Setup::new("web");
    let directory = source.install(node, setup.home.path())?;
    let file = setup.path("app-cluster.toml");
    let mut text = std::fs::read_to_string(&file).expect("its configuration");
    let listen = text
        .lines()
        .find(|l| l.starts_with("listen = "))
        .expect("an address");
    let (listen, place) = (
        listen.to_owned(),
        format!("{:?}", directory.display().to_string()),
    );
    let srv = format!("\"/srv/{name}\"");
    let mut all = vec![
        (srv.as_str(), place.as_str()),
        (&listen, "listen = [\"127.0.0.1:0\"]"),
    ];
    all.extend(replace);
    for (old, new) in all {
        assert_eq!(text.matches(old).count(), 1, "{old} in {text}");
        text = text.replace(old, new);
    }
    std::fs::write(&file, text).expect("a configuration");
    let file = file.display().to_string();
    Ok(setup
        .arguments(&["-c", &file])
        .env("PATH", &node.search_path()))
}

fn express(node: &Node) -> Result<(), String> {
    let dev = example(node, "express", &[])?.workers(2).start();
    everybody_answers(&dev, 2);
    let mut spec = LoadSpec::tcp(dev.address())
        .with_pace(Kind::NewConnection, 2, 50)
        .with_pace(Kind::KeepAlive, 2, 50);
    spec.path = "/slow".into();
    let report = reload_under(&dev, Load::start(spec).expect("clients"));
    report.assert_lossless(20);
    assert!(
        ask(&dev, "/", "").0["worker"].as_u64() > Some(4),
        "the ids go on"
    );
    assert_well(&dev);
    dev.stop();
    Ok(())
}

fn websocket(node: &Node) -> Result<(), String> {
    let faster = ("drain_timeout = \"30s\"", "drain_timeout = \"4s\"");
    let dev = example(node, "websocket", &[faster])?.workers(2).start();
    assert!(fetch(&dev, "/", "").1.contains("new WebSocket("));
    let open = || -> Vec<WebSocket> { (0..8).map(|_| WebSocket::open(dev.address())).collect() };
    let mut sockets = open();
    let with = |sockets: &[WebSocket]| -> BTreeSet<String> {
        sockets.iter().map(|s| s.hello.clone()).collect()
    };
    let before = with(&sockets);
    assert_eq!(before.len(), 2, "{before:?}");
    // What one says hear all of its worker, and nobody else.
    assert_eq!(sockets[0].echo("hello"), "hello");
    let (first, others) = sockets.split_first_mut().expect("sockets");
    for other in others.iter_mut().filter(|other| other.hello == first.hello) {
        assert_eq!(other.text(), "hello");
    }
    dev.cli(&["reload", "web"]).succeeded();
    for socket in &mut sockets {
        assert_eq!(socket.closed(), 1012);
    }
    let again = open();
    assert!(with(&again).is_disjoint(&before), "{again:?}");
    assert_well(&dev);
    dev.stop();
    Ok(())
}

fn redis(node: &Node) -> Result<(), String> {
    let redis = Redis::start()?;
    let url = format!("redis://127.0.0.1:{}", redis.port);
    let dev = example(node, "redis", &[("redis://127.0.0.1:6379", &url)])?.start();
    let (first, cookie) = ask(&dev, "/increment", "");
    assert_eq!((&first["count"], &first["visits"]), (&1.into(), &1.into()));
    let mut pids = BTreeSet::from([first["pid"].as_u64()]);
    for number in 2..=20 {
        let (answer, _) = ask(&dev, "/increment", &cookie);
        assert_eq!(
            (&answer["count"], &answer["visits"]),
            (&number.into(), &number.into())
        );
        pids.insert(answer["pid"].as_u64());
    }
    // By chance all on one of four: 4^-19.
    assert!(pids.len() > 1, "{pids:?}");
    let mut spec = LoadSpec::tcp(dev.address())
        .with_pace(Kind::NewConnection, 2, 50)
        .with_pace(Kind::KeepAlive, 2, 50);
    spec.path = "/increment".into();
    let report = reload_under(&dev, Load::start(spec).expect("clients"));
    report.assert_lossless(20);
    let (answer, _) = ask(&dev, "/count", &cookie);
    assert_eq!(answer["count"], 20 + report.total().ok, "{report}");
    assert_eq!(answer["visits"], 20, "the session is there yet");
    assert_eq!(
        ask(&dev, "/count", "").0["visits"],
        0,
        "and is not everybody's"
    );
    assert_well(&dev);
    dev.stop();
    Ok(())
}

fn graceful_shutdown(node: &Node) -> Result<(), String> {
    cleans_up_once(node, &[], "SIGTERM")
}

fn graceful_by_sigint(node: &Node) -> Result<(), String> {
    cleans_up_once(node, &[("#stop_signal", "stop_signal")], "SIGINT")
}

fn graceful_by_message(node: &Node) -> Result<(), String> {
    cleans_up_once(node, &[("#stop_message", "stop_message")], "message")
}

/// Each worker cleans up once, at a reload and at the end, for this reason.
fn cleans_up_once(node: &Node, replace: &[(&str, &str)], why: &str) -> Result<(), String> {
    let mut dev = example(node, "graceful-shutdown", replace)?.start();
    let mut pids = dev.pids();
    let spec = LoadSpec::tcp(dev.address())
        .with(Kind::NewConnection, 2)
        .with(Kind::KeepAlive, 2);
    let load = Load::start(spec).expect("clients");
    load.wait_for(2, WITHIN).expect("requests");
    dev.cli(&["reload", "web"]).succeeded();
    pids.extend(dev.pids());
    load.wait_for_more(2, WITHIN).expect("requests");
    load.stop().assert_lossless(2);
    dev.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(dev.ended().success(), "{}", dev.output());
    let mut expected = BTreeMap::new();
    for pid in pids {
        expected.insert(format!("{pid} | {why}: cleaning up"), 1);
    }
    let mut seen = BTreeMap::new();
    for line in dev.output().lines().filter(|l| l.contains("cleaning up")) {
        // After "web[0] ".
        let line = line.split_once(' ').expect("a prefix").1;
        *seen.entry(line.to_owned()).or_default() += 1;
    }
    assert_eq!(seen, expected, "{}", dev.output());
    assert_well(&dev);
    dev.assert_gone();
    Ok(())
}

fn database_pool(node: &Node) -> Result<(), String> {
    let database = PostgreSql::start()?;
    let home = database.directory().display().to_string();
    let here = [
        ("/var/run/postgresql", home.as_str()),
        ("\"app\"", "\"postgres\""),
    ];
    let setup = example(node, "database-pool", &here)?;
    let dev = setup.workers(2).env("PGUSER", "postgres").start();
    everybody_answers(&dev, 2);
    // Many more at once than there are connections.
    let spec = LoadSpec::tcp(dev.address()).with(Kind::NewConnection, 24);
    let load = Load::start(spec).expect("clients");
    load.wait_for(100, LONG).expect("answers");
    let mut open = BTreeMap::new();
    wait("the pools of both", || {
        let about = ask(&dev, "/pool", "").0;
        open.insert(about["pid"].as_u64(), about["open"].as_u64());
        (open.len() == 2).then_some(())
    });
    let report = reload_under(&dev, load);
    report.assert_lossless(100);
    // All workers together, the old ones of the reload too, are far below PostgreSQL's 100.
    assert!(open.values().all(|open| *open <= Some(5)), "{open:?}");
    assert!(open.values().any(|open| *open == Some(5)), "{open:?}");
    assert_well(&dev);
    dev.stop();
    // Every worker has closed its connections by itself.
    assert_eq!(database.lost_connections(), 0, "{}", database.log());
    Ok(())
}

fn pool_size(node: &Node) -> Result<(), String> {
    for (workers, size) in [("2", 5), ("20", 5), ("21", 4), ("40", 2)] {
        let setup = example(node, "database-pool", &[])?.workers(1);
        // As if there were so many.
        let dev = setup.env("WORKER_COUNT", workers).start();
        let about = ask(&dev, "/pool", "").0;
        assert_eq!(about["max"], size, "{workers}: {about}");
        dev.stop();
    }
    let dev = example(node, "database-pool", &[])?.workers(3).start();
    let about = ask(&dev, "/pool", "").0;
    assert_eq!((&about["max"], &about["workers"]), (&5.into(), &3.into()));
    dev.stop();
    Ok(())
}

/// A request on a new connection, with this cookie: the answer, and the cookie it sets.
#[track_caller]
fn ask(dev: &Dev, path: &str, cookie: &str) -> (Value, String) {
    let (head, body) = fetch(dev, path, cookie);
    let set = head.lines().find_map(|l| l.strip_prefix("Set-Cookie: "));
    let set = set.and_then(|s| s.split(';').next()).unwrap_or_default();
    let answer = serde_json::from_str(&body).unwrap_or_else(|e| panic!("{e}: {head}{body}"));
    (answer, set.to_owned())
}

/// Head and body of what comes.
#[track_caller]
fn fetch(dev: &Dev, path: &str, cookie: &str) -> (String, String) {
    let mut stream = TcpStream::connect(dev.address()).expect("a connection");
    stream.set_read_timeout(Some(WITHIN)).expect("a timeout");
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("a request");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    let (head, body) = text.split_once("\r\n\r\n").expect("a whole head");
    (head.to_owned(), body.to_owned())
}
