// SPDX-License-Identifier: MIT OR Apache-2.0
//! What operators send, and what `status` tells of event loops.

use crate::Row;
use crate::app::{App, assert_no_crash, eval, eval_in};
use crate::dev::{Dev, Said, wait};
use crate::node_tools::Node;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

pub const ROWS: &[Row] = &[
    ("send_says_how_many_got_it", counted),
    ("send_to_a_worker_that_does_not_read", full),
    ("messages_of_one_slot", one_slot),
    ("messages_tell_what_was_lost", lost),
    ("status_of_event_loops", event_loops),
];

/// `send` with the message on standard input.
fn send_long(dev: &Dev, target: &str, text: &str) -> Said {
    let mut command = dev.command(&["send", target, "-"]);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().expect("send");
    let mut to = child.stdin.take().expect("its input");
    // It reads no more than it has to.
    let _ = to.write_all(text.as_bytes());
    drop(to);
    Said::from(child.wait_with_output().expect("its end"))
}

fn counted(node: &Node) -> Result<(), String> {
    let dev = App::kit(node).workers(3).start();
    let said = dev.cli(&["send", "web", "{\"op\":1}"]).succeeded();
    assert_eq!(said.stdout, "web: 3 workers got it\n");
    let said = dev.cli(&["send", "web[1]", "-5", "--json"]).succeeded();
    let told: Value = serde_json::from_str(&said.stdout).expect("JSON");
    assert_eq!(told, json!({ "message": "1 worker got it", "workers": 1 }));
    // Line breaks between values are no part of the message.
    send_long(&dev, "web[1]", " [1,\r\n2]\n").succeeded();
    let long = format!("\"{}\"", "x".repeat((1 << 20) - 2));
    send_long(&dev, "web[1]", &long).succeeded();
    let seen = json!([{ "op": 1 }, -5, [1, 2], (1 << 20) - 2]);
    wait("the messages", || {
        let code = "return seen.map((m) => m.length > 99 ? m.length : m)";
        (eval_in(&dev, 1, code) == seen).then_some(())
    });
    assert_eq!(eval_in(&dev, 0, "return seen"), json!([{ "op": 1 }]));
    dev.cli(&["send", "web[3]", "1"])
        .failed(4, &["there is no slot 3: they are 0 to 2"]);
    dev.cli(&["send", "web", "{\"cmd\":\"NODE_HANDLE_ACK\"}"])
        .failed(1, &["begins with NODE_, which is Node's own"]);
    send_long(&dev, "web", &format!("\"{long}\""))
        .failed(2, &["the message is longer than 1048576 bytes"]);
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

/// It is told, costs a bounded amount, and keeps nobody else from getting theirs.
fn full(node: &Node) -> Result<(), String> {
    let dev = App::kit(node).keys("hung_timeout = 0").start();
    let pid = nix::unistd::Pid::from_raw(dev.pids()[0]);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).expect("a signal");
    let long = format!("\"{}\"", "x".repeat(400_000));
    let refused = wait("it is full", || {
        let said = send_long(&dev, "web[0]", &long);
        (said.code != Some(0)).then_some(said)
    });
    refused.failed(
        1,
        &["the worker of slot 0 does not read what was sent to it"],
    );
    send_long(&dev, "web", &long).failed(
        1,
        &["slot 0 does not read what was sent to it before; 1 worker got it"],
    );
    let peak = crate::hostile::peak_memory(dev.pid());
    assert!(peak < 64 << 20, "{peak} bytes");
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).expect("a signal");
    wait("it has read", || {
        let said = dev.cli(&["send", "web[0]", "\"again\""]);
        (said.code == Some(0)).then_some(())
    });
    wait("the message", || {
        let code = "return seen.map((m) => m.length > 99 ? 'long' : m)";
        let seen = eval_in(&dev, 0, code);
        let seen = seen.as_array().expect("messages");
        let (last, others) = seen.split_last()?;
        assert!(others.iter().all(|m| m == "long"), "{others:?}");
        (last == "again" && others.len() >= 2).then_some(())
    });
    dev.stop();
    Ok(())
}

fn one_slot(node: &Node) -> Result<(), String> {
    let dev = App::kit(node).start();
    dev.cli(&["messages", "web[2]"])
        .failed(4, &["there is no slot 2"]);
    let mut command = dev.command(&["messages", "web[1]"]);
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("messages");
    // From that line on it misses nothing.
    let mut errors = BufReader::new(child.stderr.take().expect("its errors"));
    let mut line = String::new();
    errors.read_line(&mut line).expect("a line");
    assert_eq!(line, "web | messages from now on\n");
    for slot in [0, 1] {
        eval_in(
            &dev,
            slot,
            "process.send({ from: process.env.APP_CLUSTER_SLOT })",
        );
    }
    let worker = dev.slot(1).worker.expect("a worker");
    let mut out = BufReader::new(child.stdout.take().expect("its output"));
    line.clear();
    out.read_line(&mut line).expect("a line");
    let expected = format!("{{\"slot\":1,\"worker\":{worker},\"message\":{{\"from\":\"1\"}}}}\n");
    assert_eq!(line, expected);
    // It ends with the app, and says so.
    dev.stop();
    line.clear();
    errors.read_line(&mut line).expect("a line");
    assert_eq!(line, "web | the app has ended\n");
    assert!(child.wait().expect("its end").success());
    Ok(())
}

/// A reader that is slower than the messages come learns how many it has missed, and where.
fn lost(node: &Node) -> Result<(), String> {
    let dev = App::kit(node).start();
    let mut command = dev.command(&["messages", "web"]);
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("messages");
    let mut line = String::new();
    let mut errors = BufReader::new(child.stderr.take().expect("its errors"));
    errors.read_line(&mut line).expect("a line");
    let code = "const text = 'z'.repeat(1000); let n = 0; \
        await new Promise((done) => { (function more() { \
          for (let i = 0; i < 500; i++) process.send({ n: n++, text }); \
          if (n < 20_000) setImmediate(more); else process.send({ n: n++ }, done); })(); });";
    eval_in(&dev, 0, code);
    // What the worker has written has been taken when it answers on the same channel.
    eval(&dev, "process.send({ end: true })");
    let (mut next, mut missed) = (0, 0);
    let out = BufReader::new(child.stdout.take().expect("its output"));
    for line in out.lines() {
        let told: Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
        if let Some(count) = told["lost"].as_u64() {
            missed += count;
            next += count;
            continue;
        }
        if next >= 20_001 || told["message"]["end"] == true {
            break;
        }
        assert_eq!(told["message"]["n"], next, "after {missed} lost ones");
        next += 1;
    }
    assert!(missed > 10_000, "{missed} lost of {next}");
    child.kill().expect("a kill");
    child.wait().expect("its end");
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

fn event_loops(node: &Node) -> Result<(), String> {
    let dev = App::kit(node).keys("blocked_timeout = \"300ms\"").start();
    let told = wait("figures of both", || {
        let slots = dev.status().slots;
        let all = slots.into_iter().map(|slot| slot.event_loop);
        let all: Vec<_> = all.map(|found| found.expect("a Node worker")).collect();
        let whole = all.iter().all(|f| f.lag_ms.is_some() && f.heap.is_some());
        whole.then_some(all)
    });
    for figures in told {
        let heap = figures.heap.expect("a heap");
        assert!(heap > 1 << 20 && heap < 1 << 30, "{heap}");
        let share = figures.utilization.expect("a share");
        assert!((0.0..=1.0).contains(&share), "{share}");
        assert!(figures.lag_ms.is_some_and(|lag| lag > 0.0));
    }
    let text = dev.cli(&["status", "web"]).succeeded().stdout;
    assert!(text.contains(" LAG ") && text.contains("ms "), "{text}");
    // One that is busy all the time is seen to be, and then not to answer.
    let code = "setTimeout(() => { const end = Date.now() + 4000; while (Date.now() < end); }, 20)";
    eval_in(&dev, 0, code);
    dev.until("it is blocked", |s| s.slots[0].state == "blocked");
    let after = dev.until("it answers", |s| s.slots[0].state == "ready");
    let lag = after.slots[0].event_loop.as_ref().and_then(|f| f.lag_ms);
    assert!(lag.is_some_and(|lag| lag > 300.0), "{lag:?}");
    dev.until("it was busy", |s| {
        let figures = s.slots[0].event_loop.as_ref();
        figures.is_some_and(|f| f.utilization > Some(0.5))
    });
    dev.stop();
    Ok(())
}
