// SPDX-License-Identifier: MIT OR Apache-2.0
//! Workers whose event loop does not turn.

use crate::Row;
use crate::app::{App, assert_no_crash, eval_in, request};
use crate::dev::Dev;
use crate::node_tools::Node;
use std::time::{Duration, Instant};

pub const ROWS: &[Row] = &[
    ("blocked_even", even),
    ("blocked_even_without_preload", even_without_preload),
    ("blocked_round_robin", round_robin),
    ("blocked_shared", shared),
    ("blocked_for_ever_is_replaced", hung),
];

/// Blocks the worker of slot 0 from 20 ms after the answer on.
fn block(dev: &Dev, ms: u32) {
    let code = format!(
        "setTimeout(() => {{ const end = Date.now() + {ms}; while (Date.now() < end); }}, 20)"
    );
    eval_in(dev, 0, &code);
}

/// Blocked for 5 s: clients that come in the meantime wait for `blocked_timeout` (1 s) and a
/// second at most. It is told, and the same worker serves again afterwards.
fn five_seconds(node: &Node, keys: &str) {
    let dev = App::kit(node).keys(keys).start();
    let (address, pids) = (dev.address(), dev.pids());
    block(&dev, 5000);
    let begun = Instant::now();
    let mut clients = Vec::new();
    while begun.elapsed() < Duration::from_millis(4500) {
        clients.push(std::thread::spawn(move || {
            let asked = Instant::now();
            let answer = request(address, "GET /", "").expect("an answer");
            (asked - begun, asked.elapsed(), answer["pid"].clone())
        }));
        std::thread::sleep(Duration::from_millis(30));
    }
    let answers: Vec<_> = clients
        .into_iter()
        .map(|c| c.join().expect("a thread"))
        .collect();
    let longest = answers
        .iter()
        .map(|(_, took, _)| *took)
        .max()
        .expect("answers");
    let late: Vec<_> = answers
        .iter()
        .filter(|(_, took, _)| took.as_secs() >= 2)
        .collect();
    assert!(late.is_empty(), "{longest:?}: {late:?}\n{}", dev.output());
    // Later ones do not wait at all.
    let second = answers
        .iter()
        .filter(|(at, ..)| *at > Duration::from_secs(3));
    assert!(second.clone().count() > 10);
    for (at, took, pid) in second {
        assert!(
            took.as_millis() < 1000,
            "at {at:?}: {took:?}\n{}",
            dev.output()
        );
        assert_eq!(*pid, pids[1], "at {at:?}");
    }
    let line = dev.wait_for_line("blocked");
    assert!(line.contains("slot 0") || line.contains("web[0]"), "{line}");
    dev.wait_for_line("answers again");
    // The pids of all: it is back in the balance, and has not been replaced.
    dev.everybody_answers();
    assert_eq!(dev.pids(), pids);
    assert_no_crash(&dev);
    dev.stop();
}

fn even(node: &Node) -> Result<(), String> {
    five_seconds(node, "balance = \"even\"");
    Ok(())
}

fn even_without_preload(node: &Node) -> Result<(), String> {
    five_seconds(node, "balance = \"even\"\nnode.preload = false");
    Ok(())
}

fn round_robin(node: &Node) -> Result<(), String> {
    five_seconds(node, "balance = \"round-robin\"");
    Ok(())
}

fn shared(node: &Node) -> Result<(), String> {
    five_seconds(node, "balance = \"shared\"");
    Ok(())
}

fn hung(node: &Node) -> Result<(), String> {
    let dev = App::kit(node).keys("hung_timeout = \"3s\"").start();
    let pids = dev.pids();
    block(&dev, 600_000);
    let status = dev.until("another worker", |s| {
        s.workers.ready == 2 && s.slots[0].pid != Some(pids[0])
    });
    assert_eq!(status.slots[1].pid, Some(pids[1]));
    dev.wait_for_line("hung_timeout");
    dev.everybody_answers();
    dev.stop();
    Ok(())
}
