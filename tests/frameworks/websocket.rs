// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ws`: at a reload and at the end each WebSocket is closed with 1012, and the client can come
//! back at once.

use crate::Row;
use crate::app::{app, assert_well, clients, drained, everybody_answers, hooks};
use crate::dev::{Dev, WITHIN};
use crate::load::Load;
use crate::versions::Node;
use crate::websockets::WebSocket;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

pub const ROWS: &[Row] = &[("ws", ws)];

/// Service restart (the registry of RFC 6455 close codes).
const RESTART: u16 = 1012;

/// WebSockets that are open at once.
const OPEN: usize = 12;

fn ws(node: &Node) -> Result<(), String> {
    let keys = "drain_timeout = \"8s\"";
    let mut dev = app(node, "ws", &["node", "server.js"], keys)?.start();
    everybody_answers(&dev, 2);
    let mut sockets = open(&dev, OPEN);
    let told = |socket: &WebSocket| -> Value { serde_json::from_str(&socket.hello).expect("JSON") };
    let pids: BTreeSet<_> = sockets.iter().map(|s| told(s)["pid"].as_i64()).collect();
    assert_eq!(pids.len(), 2, "both workers have some");
    let load = Load::start(clients(&dev)).expect("clients");
    dev.cli(&["reload", "web"]).succeeded();
    for socket in &mut sockets {
        assert_eq!(socket.closed(), RESTART);
    }
    // They come back while the old workers may be there yet, and never to these.
    let again = open(&dev, OPEN);
    assert!(
        again.iter().all(|s| told(s)["generation"] == "2"),
        "{again:?}"
    );
    drained(&dev);
    load.wait_for_more(10, WITHIN).expect("requests afterwards");
    load.stop().assert_lossless(10);
    assert_well(&dev);
    assert_eq!(hooks(&dev).len(), 2, "{}", dev.output());
    stop(&mut dev, again);
    Ok(())
}

fn stop(dev: &mut Dev, mut sockets: Vec<WebSocket>) {
    for socket in &mut sockets {
        assert_eq!(socket.echo("still there?"), "still there?");
    }
    let start = Instant::now();
    dev.signal(Signal::SIGTERM);
    for socket in &mut sockets {
        assert_eq!(socket.closed(), RESTART);
    }
    let status = dev.ended();
    assert!(status.success(), "{status}\n{}", dev.output());
    // The sockets go within 1 s, not within half of drain_timeout.
    assert!(start.elapsed() < Duration::from_secs(7), "{}", dev.output());
    assert_well(dev);
    let seen = hooks(dev);
    assert_eq!(seen.len(), 4, "{seen:?}");
    assert!(seen.values().all(|times| *times == 1), "{seen:?}");
    dev.assert_gone();
}

fn open(dev: &Dev, count: usize) -> Vec<WebSocket> {
    (0..count).map(|_| WebSocket::open(dev.address())).collect()
}
