// SPDX-License-Identifier: MIT OR Apache-2.0
//! Workers whose event loop does not turn.

use crate::Row;
use crate::app::{App, assert_no_crash, eval_in, request};
use crate::dev::{Dev, wait};
use crate::node_tools::Node;
use std::time::{Duration, Instant};

pub const ROWS: &[Row] = &[
    ("blocked_even", even),
    ("blocked_even_without_preload", even_without_preload),
    ("blocked_round_robin", round_robin),
    ("blocked_shared", shared),
    ("blocked_for_ever_is_replaced", hung),
];

/// Blocks the worker of slot 0, at once.
fn block(dev: &Dev, ms: u32) {
    let code = format!(
        "setTimeout(() => {{ require('fs').writeFileSync('blocked', ''); \
           const end = Date.now() + {ms}; while (Date.now() < end); }}, 20)"
    );
    eval_in(dev, 0, &code);
    wait("it is blocked", || {
        dev.path("blocked").exists().then_some(())
    });
}

/// Blocked for 5 s: clients that come in the meantime wait for `blocked_timeout` (1 s) and a
/// second at most, but for so many. It is told, and the same worker serves again afterwards.
fn five_seconds(node: &Node, keys: &str, stuck: usize) -> Dev {
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
    let late: Vec<_> = answers
        .iter()
        .filter(|(_, took, _)| took.as_secs() >= 2)
        .collect();
    assert!(late.len() <= stuck, "{late:?}\n{}", dev.output());
    // Later ones do not wait at all.
    let later = answers
        .iter()
        .filter(|(at, ..)| *at > Duration::from_secs(3));
    assert!(later.clone().count() > 10);
    for (at, took, pid) in later {
        assert!(
            took.as_millis() < 1000,
            "at {at:?}: {took:?}\n{}",
            dev.output()
        );
        assert_eq!(*pid, pids[1], "at {at:?}");
    }
    // The process ids of all: it is back in the balance, and has not been replaced.
    dev.everybody_answers();
    assert_eq!(dev.pids(), pids);
    assert_no_crash(&dev);
    dev
}

/// The log tells of it, and for how long.
fn told(dev: Dev) {
    let line = dev.wait_for_line("its event loop is blocked");
    assert!(line.contains("slot 0: "), "{line}");
    let line = dev.wait_for_line("answers again, after ");
    assert!(
        line.contains("after 4.") || line.contains("after 5."),
        "{line}"
    );
    dev.stop();
}

fn even(node: &Node) -> Result<(), String> {
    told(five_seconds(node, "balance = \"even\"", 0));
    Ok(())
}

fn even_without_preload(node: &Node) -> Result<(), String> {
    let keys = "balance = \"even\"\nnode.preload = false";
    told(five_seconds(node, keys, 0));
    Ok(())
}

/// What has been handed over cannot be given to another: a few wait.
fn round_robin(node: &Node) -> Result<(), String> {
    told(five_seconds(node, "balance = \"round-robin\"", 4));
    Ok(())
}

/// It takes none, so nobody notices and nothing has to be done.
fn shared(node: &Node) -> Result<(), String> {
    five_seconds(node, "balance = \"shared\"", 0).stop();
    Ok(())
}

fn hung(node: &Node) -> Result<(), String> {
    let dev = App::kit(node).keys("hung_timeout = \"3s\"").start();
    let pids = dev.pids();
    block(&dev, 600_000);
    // It is noticed when clients come.
    let address = dev.address();
    let status = dev.until("another worker", |s| {
        let _ = std::net::TcpStream::connect(address);
        s.workers.ready == 2 && s.slots[0].pid != Some(pids[0])
    });
    assert_eq!(status.slots[1].pid, Some(pids[1]));
    dev.wait_for_line("has not answered for 3s");
    dev.everybody_answers();
    dev.stop();
    Ok(())
}
