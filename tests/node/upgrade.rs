// SPDX-License-Identifier: MIT OR Apache-2.0
//! The supervisor executes its program again: Node workers do not notice.

use crate::Row;
use crate::app::{App, assert_no_crash, eval, eval_in, free_port, serves};
use crate::dev::{Dev, WITHIN, scale, wait};
use crate::load::crowd::Crowd;
use crate::load::{Kind, Load, LoadSpec};
use crate::node_tools::Node;
use crate::others::deno_app;
use crate::upgrades::upgrade;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

pub const ROWS: &[Row] = &[
    ("upgrade_under_load_even", even),
    ("upgrade_under_load_shared", shared),
    ("upgrade_under_load_round_robin", robin),
    ("upgrade_with_blocked_workers", blocked),
    ("upgrade_keeps_the_cluster", cluster),
    ("upgrade_during_a_drain", draining),
];
/// Of versions that are looked at in passing.
pub const SMOKE: &[Row] = &[("upgrade_keeps_the_cluster", cluster)];
/// What does not depend on the version.
pub const OTHERS: &[Row] = &[
    ("upgrade_of_deno", deno),
    ("connections_are_not_recorded", records),
];

fn even(node: &Node) -> Result<(), String> {
    under_load(node, "even")
}

fn shared(node: &Node) -> Result<(), String> {
    under_load(node, "shared")
}

fn robin(node: &Node) -> Result<(), String> {
    under_load(node, "round-robin")
}

/// A connection that the app has taken over, as WebSockets are.
fn upgraded(dev: &Dev) -> TcpStream {
    let mut stream = TcpStream::connect(dev.address()).expect("a connection");
    stream.set_read_timeout(Some(WITHIN)).expect("a timeout");
    let head = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("sent");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).expect("an answer"), 1);
        answer.extend(byte);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"), "{answer:?}");
    stream
}

#[track_caller]
fn echoes(stream: &mut TcpStream) {
    stream.write_all(b"ping").expect("sent");
    let mut got = [0; 4];
    stream.read_exact(&mut got).expect("the echo");
    assert_eq!(&got, b"ping");
}

/// And no idle connection is closed.
const ECHO: &str = "server.keepAliveTimeout = 60_000; server.on('upgrade', (request, socket) => { \
    socket.write('HTTP/1.1 101 Switching Protocols\\r\\nConnection: Upgrade\\r\\nUpgrade: echo\\r\\n\\r\\n'); \
    socket.pipe(socket); });";

fn under_load(node: &Node, balance: &str) -> Result<(), String> {
    let dev = App::kit(node)
        .keys(&format!("balance = {balance:?}\ndrain_timeout = \"5s\""))
        .start();
    for slot in 0..2 {
        eval_in(&dev, slot, ECHO);
    }
    let mut sockets: Vec<TcpStream> = (0..4).map(|_| upgraded(&dev)).collect();
    let crowd = Crowd::new(LoadSpec::tcp(dev.address()));
    let mut held = crowd.hold(10, Duration::ZERO).expect("connections");
    let mut spec = LoadSpec::tcp(dev.address())
        .with(Kind::NewConnection, 4)
        .with(Kind::Slow { ms: 400 }, 4)
        .with(Kind::SlowPost, 4);
    for ms in [0, 7] {
        spec = spec.with_think(Kind::KeepAlive, 3, Duration::from_millis(ms));
    }
    let load = Load::start(spec).expect("clients");
    load.wait_for(3, WITHIN).expect("clients at work");
    for _ in 0..scale(5, 3) {
        upgrade(&dev);
        for socket in &mut sockets {
            echoes(socket);
        }
        load.wait_for_more(2, WITHIN).expect("requests in between");
    }
    let again = crowd.ask_again(&mut held).expect("asked");
    assert!(again.iter().all(Result::is_ok), "{again:?}");
    assert_no_crash(&dev);
    drop(sockets);
    // The next one drains its predecessor's workers as its own.
    dev.cli(&["reload", "web"]).succeeded();
    load.wait_for_more(2, WITHIN).expect("requests afterwards");
    let report = load.stop();
    report.assert_lossless(10);
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

/// What a blocked worker has been sent stays for it; what it has not been sent waits.
fn blocked(node: &Node) -> Result<(), String> {
    let dev = App::kit(node)
        .keys("balance = \"round-robin\"\nblocked_timeout = \"500ms\"")
        .start();
    let load = LoadSpec::tcp(dev.address())
        .with(Kind::NewConnection, 6)
        .with_think(Kind::KeepAlive, 3, Duration::from_millis(5));
    let load = Load::start(load).expect("clients");
    load.wait_for(5, WITHIN).expect("clients at work");
    for slots in [vec![0], vec![0, 1]] {
        for slot in &slots {
            eval_in(
                &dev,
                *slot,
                "setTimeout(() => { const end = Date.now() + 2500; while (Date.now() < end); }, 20)",
            );
        }
        for _ in 0..2 {
            upgrade(&dev);
        }
        dev.until("they answer", |s| {
            s.slots.iter().all(|s| s.state == "ready")
        });
        load.wait_for_more(3, WITHIN).expect("requests afterwards");
    }
    load.stop().assert_lossless(10);
    // All answer, none rests for ever.
    let held = Crowd::new(LoadSpec::tcp(dev.address())).hold(10, Duration::from_millis(3));
    assert_eq!(held.expect("connections").by_slot().len(), 2);
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

/// Sockets that were opened for workers, their disconnection, and figures.
fn cluster(node: &Node) -> Result<(), String> {
    let dev = App::kit(node).start();
    let port = free_port();
    let listen = format!(
        "kept.other = require('http').createServer(app); return listen(kept.other, {port})"
    );
    eval_in(&dev, 0, &listen);
    assert!(serves(("127.0.0.1", port)));
    upgrade(&dev);
    assert!(serves(("127.0.0.1", port)));
    // Another worker gets the same socket.
    let at = eval_in(&dev, 1, &listen);
    assert_eq!(at["at"]["port"], json!(port), "{at}\n{}", dev.output());
    eval_in(&dev, 0, "kept.other.close()");
    upgrade(&dev);
    assert!(serves(("127.0.0.1", port)));
    eval_in(&dev, 1, "kept.other.close()");
    wait("nobody listens there", || {
        TcpStream::connect(("127.0.0.1", port))
            .is_err()
            .then_some(())
    });
    upgrade(&dev);
    // A server more on the app's own port, after all that.
    let more = eval_in(
        &dev,
        0,
        "return listen(require('http').createServer(app), 0)",
    );
    assert!(more["at"]["port"].is_number(), "{more}");
    dev.until("figures", |s| {
        let known = |s: &app_cluster::api::SlotStatus| {
            s.event_loop
                .as_ref()
                .is_some_and(|e| e.utilization.is_some())
        };
        s.slots.iter().all(known)
    });
    let pid = dev.pids()[1];
    eval_in(
        &dev,
        1,
        "setTimeout(() => require('cluster').worker.disconnect(), 20)",
    );
    dev.until("another worker", |s| {
        s.workers.ready == 2 && s.slots[1].pid != Some(pid)
    });
    assert!(!dev.output().contains("SIGKILL"), "{}", dev.output());
    dev.stop();
    Ok(())
}

/// A worker that ends in its own time is not hurried, nor forgotten.
fn draining(node: &Node) -> Result<(), String> {
    let dev = App::kit(node).keys("drain_timeout = \"30s\"").start();
    let mut stream = TcpStream::connect(dev.address()).expect("a connection");
    stream.set_read_timeout(Some(WITHIN)).expect("a timeout");
    let head = "POST /eval HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\
                Expect: 100-continue\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("sent");
    let mut going = [0; 25];
    stream.read_exact(&mut going).expect("it waits for more");
    assert_eq!(&going, b"HTTP/1.1 100 Continue\r\n\r\n");
    dev.cli(&["reload", "web"]).succeeded();
    let drains = |s: &app_cluster::api::Status| s.slots.iter().any(|s| !s.draining.is_empty());
    assert!(drains(&dev.status()), "{}", dev.output());
    let before = dev.status().incarnation;
    dev.signal(Signal::SIGUSR2);
    dev.until("the next incarnation", |s| s.incarnation == before + 1);
    assert!(drains(&dev.status()), "{}", dev.output());
    stream.write_all(b"return 1").expect("the rest");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    dev.until("it is gone", |s| !drains(s));
    let output = dev.output();
    assert!(!output.contains("SIGKILL"), "{output}");
    dev.stop();
    Ok(())
}

fn deno(node: &Node) -> Result<(), String> {
    let dev = deno_app(node)?.start();
    let spec = LoadSpec::tcp(dev.address()).with(Kind::NewConnection, 6);
    let load = Load::start(spec).expect("clients");
    load.wait_for(10, WITHIN).expect("clients at work");
    let count = 5;
    for number in 0..count {
        upgrade(&dev);
        let text = json!({ "number": number }).to_string();
        dev.cli(&["send", "web", &text]).succeeded();
        load.wait_for_more(5, WITHIN).expect("requests in between");
    }
    load.stop().assert_lossless(20);
    for slot in 0..2 {
        let all: Vec<Value> = (0..count).map(|n| json!({ "number": n })).collect();
        wait("all messages", || {
            (eval_in(&dev, slot, "return seen") == json!(all)).then_some(())
        });
    }
    dev.cli(&["reload", "web"]).succeeded();
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

/// Neither connections nor messages are anything that the next supervisor has to know.
fn records(node: &Node) -> Result<(), String> {
    let dev = App::kit(node)
        .env("APP_CLUSTER_DEBUG", "1")
        .keys("balance = \"round-robin\"")
        .start();
    let records = || {
        let before = dev.line_count();
        dev.signal(Signal::SIGUSR1);
        dev.wait_for_line_after(before, "changes were recorded")
    };
    // What follows from the start.
    let settled = wait("nothing more changes", || {
        let before = records();
        std::thread::sleep(Duration::from_millis(300));
        (records() == before).then_some(before)
    });
    let spec = LoadSpec::tcp(dev.address()).with(Kind::NewConnection, 4);
    let load = Load::start(spec).expect("clients");
    eval(&dev, "for (let n = 0; n < 500; n++) process.send({ n })");
    load.wait_for(500, WITHIN).expect("requests");
    load.stop().assert_lossless(500);
    assert_eq!(records(), settled);
    dev.stop();
    Ok(())
}
