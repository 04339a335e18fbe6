// SPDX-License-Identifier: MIT OR Apache-2.0
//! socket.io with its own client: by WebSocket alone with any balance; by polling, which is how
//! it begins if nothing else is said, only with `sticky`.

use crate::Row;
use crate::app::{app, assert_well, clients, drained, hooks};
use crate::dev::{Dev, Setup, scale, wait};
use crate::load::Load;
use crate::versions::Node;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

pub const QUICK: &[Row] = &[
    ("socketio_polls_with_sticky", with_sticky),
    ("socketio_fails_without_sticky", without_sticky),
];
pub const LONG: &[Row] = &[
    ("socketio_by_websocket", by_websocket),
    (
        "socketio_stays_by_polling_over_reloads",
        reloaded_with_sticky,
    ),
];

/// How many clients begin with polling.
fn polling_clients() -> usize {
    scale(40, 12)
}

/// What the clients are to do.
fn polling(clients: usize) -> Value {
    // The default: polling, then an upgrade; and polling all the way.
    json!({ "clients": clients, "rounds": 10, "options": { "reconnection": false } })
}

fn start(node: &Node, keys: &str) -> Result<Dev, String> {
    let setup: Setup = app(node, "socketio", &["node", "server.js"], keys)?;
    Ok(setup.arguments(&["-w", "4"]).start())
}

fn with_sticky(node: &Node) -> Result<(), String> {
    let dev = start(node, "balance = \"sticky\"")?;
    let count = polling_clients();
    for only_polling in [false, true] {
        let mut spec = polling(count);
        if only_polling {
            spec["options"]["transports"] = json!(["polling"]);
        }
        let mut client = Client::start(node, &dev, spec);
        client.ended(count);
        let failed = [client.seen("failed"), client.seen("disconnected")].concat();
        assert!(failed.is_empty(), "{failed:?}\n{}", dev.output());
        let answered = client.seen("answered");
        let mut workers = BTreeSet::new();
        for event in &answered {
            let pids = event["pids"].as_array().expect("process ids");
            assert_eq!(pids.len(), 1, "one worker: {event}");
            workers.insert(pids[0].as_i64());
            let transport = if only_polling { "polling" } else { "websocket" };
            assert_eq!(event["transport"], transport, "{event}");
        }
        // By chance all on one: at most 4^-11.
        assert!(workers.len() > 1, "{workers:?}");
    }
    assert_well(&dev);
    dev.stop();
    Ok(())
}

/// The same clients, and the workers share the connections: a session is not known where the
/// next request goes.
fn without_sticky(node: &Node) -> Result<(), String> {
    let dev = start(node, "balance = \"even\"")?;
    let count = polling_clients();
    let mut client = Client::start(node, &dev, polling(count));
    client.ended(count);
    let failed = client.seen("failed");
    assert!(failed.len() > count / 2, "{failed:?}");
    client.kill();
    assert_well(&dev);
    dev.stop();
    Ok(())
}

/// Clients stay connected over a reload: told to come back, they do by themselves.
fn by_websocket(node: &Node) -> Result<(), String> {
    let spec = json!({ "clients": 8, "options": { "transports": ["websocket"] } });
    // Back at a worker that has yet to be replaced, they are told again.
    assert!(stays(node, "balance = \"even\"", spec)? >= 8);
    Ok(())
}

fn reloaded_with_sticky(node: &Node) -> Result<(), String> {
    let spec = json!({ "clients": 8, "options": {} });
    // Back in their slot they meet the new worker.
    assert_eq!(stays(node, "balance = \"sticky\"", spec)?, 8);
    Ok(())
}

/// How often clients were told.
fn stays(node: &Node, keys: &str, spec: Value) -> Result<usize, String> {
    let dev = start(node, &format!("{keys}\ndrain_timeout = \"8s\""))?;
    let mut client = Client::start(node, &dev, spec);
    client.all("answered", 8);
    let load = Load::start(clients(&dev)).expect("clients");
    dev.cli(&["reload", "web"]).succeeded();
    let pids: Vec<i64> = dev.pids().iter().map(|p| i64::from(*p)).collect();
    drained(&dev);
    wait("all are with new workers", || {
        let mut with = BTreeMap::new();
        for event in client.seen("answered") {
            with.insert(event["client"].as_u64(), event["pids"][0].as_i64());
        }
        let new = |pid: &Option<i64>| pid.is_some_and(|pid| pids.contains(&pid));
        with.values().all(new).then_some(())
    });
    load.stop().assert_lossless(10);
    let left = client.seen("disconnected");
    for event in &left {
        assert_eq!(event["code"], 1012, "{left:?}");
    }
    assert_eq!(hooks(&dev).len(), 4, "{}", dev.output());
    client.kill();
    assert_well(&dev);
    dev.stop();
    Ok(left.len())
}

/// A process with socket.io's clients, and what they said.
struct Client {
    child: Child,
    events: Arc<Mutex<Vec<Value>>>,
}

impl Client {
    fn start(node: &Node, dev: &Dev, mut spec: Value) -> Client {
        spec["port"] = json!(dev.address().port());
        let mut command = Command::new(&node.binary);
        command.arg(dev.path("client.js")).arg(spec.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the client starts");
        let events: Arc<Mutex<Vec<Value>>> = Arc::default();
        let (stdout, copy) = (child.stdout.take().expect("stdout"), events.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).expect("JSON");
                copy.lock().expect("events").push(event);
            }
        });
        Client { child, events }
    }

    fn seen(&self, event: &str) -> Vec<Value> {
        let events = self.events.lock().expect("events");
        events
            .iter()
            .filter(|e| e["event"] == event)
            .cloned()
            .collect()
    }

    /// Waits for so many events of a kind.
    #[track_caller]
    fn all(&self, event: &str, count: usize) -> Vec<Value> {
        let deadline = std::time::Instant::now() + crate::dev::WITHIN;
        loop {
            let seen = self.seen(event);
            if seen.len() >= count {
                return seen;
            }
            let all = self.events.lock().expect("events").clone();
            assert!(
                std::time::Instant::now() < deadline,
                "{count} {event}: {all:#?}"
            );
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// Standard input ends, and so does it.
    fn ends(&mut self) {
        drop(self.child.stdin.take());
        let child = &mut self.child;
        wait("the client ends", || child.try_wait().expect("wait"));
    }

    /// Waits until each of so many clients has answers, or has failed, and for the end.
    #[track_caller]
    fn ended(&mut self, count: usize) {
        wait("an end of each client", || {
            let seen = [self.seen("answered"), self.seen("failed")].concat();
            let clients: BTreeSet<_> = seen.iter().map(|e| e["client"].as_u64()).collect();
            (clients.len() == count).then_some(())
        });
        self.ends();
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.kill();
    }
}
