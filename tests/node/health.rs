// SPDX-License-Identifier: MIT OR Apache-2.0
//! Health over HTTP, of apps that know nothing of it.

use crate::Row;
use crate::app::{App, request};
use crate::dev::{Dev, wait};
use crate::node_tools::Node;
use app_cluster::api::Status;

pub const ROWS: &[Row] = &[
    ("health_503_and_back", not_ready_and_back),
    ("health_500_is_replaced", bad_is_replaced),
    ("health_all_503", all_not_ready),
    ("health_of_a_release", releases),
    ("health_odd_answers", odd),
    ("health_of_https", https),
];

const CHECK: &str =
    "health = { http = \"/health\", interval = \"50ms\", timeout = \"400ms\", failures = 3 }";

fn started(node: &Node, keys: &str) -> Dev {
    let dev = App::new(node, "health.cjs").keys(CHECK).keys(keys).start();
    dev.until_well();
    dev
}

/// What the worker of this slot answers from now on.
fn answers(dev: &Dev, slot: u32, answer: &str) {
    // In one step: it is read at any time.
    dev.write("new", answer);
    let to = dev.path(&format!("health-{slot}"));
    std::fs::rename(dev.path("new"), to).expect("renamed");
}

fn pid(dev: &Dev) -> i32 {
    let answer = request(dev.address(), "GET /", "").expect("an answer");
    answer["pid"].as_i64().expect("a pid") as i32
}

fn is(status: &Status, slot: usize, state: &str) -> bool {
    status.slots[slot].state == state
}

/// The worker that says so gets no connections, and is the same one when it says otherwise.
fn not_ready_and_back(node: &Node) -> Result<(), String> {
    for balance in ["even", "round-robin", "shared", "sticky"] {
        let dev = started(node, &format!("balance = {balance:?}"));
        let pids = dev.pids();
        answers(&dev, 0, "503");
        let status = dev.until("not ready", |s| is(s, 0, "not-ready"));
        assert!(is(&status, 1, "ready"), "{status:?}");
        let health = status.slots[0].health.clone().unwrap_or_default();
        assert_eq!(health, "/health answered 503 Service Unavailable");
        if balance != "shared" {
            // What was on its way when it was taken out has arrived by now.
            wait("only the other one answers", || {
                let all: Vec<i32> = (0..30).map(|_| pid(&dev)).collect();
                all.iter().all(|pid| *pid == pids[1]).then_some(())
            });
        }
        answers(&dev, 0, "204");
        dev.until("ready again", |s| is(s, 0, "ready"));
        if balance != "sticky" {
            dev.everybody_answers();
        }
        assert_eq!(dev.pids(), pids, "{balance}:\n{}", dev.output());
        dev.wait_for_line("is back in the balance, after ");
        crate::app::assert_no_crash(&dev);
        dev.stop();
    }
    Ok(())
}

/// It is replaced, its replacement first, and only it.
fn bad_is_replaced(node: &Node) -> Result<(), String> {
    for (answer, told) in [
        (
            "500",
            "/health answered 500 Internal Server Error (3 times in a row)",
        ),
        (
            "hang",
            "/health gave no answer within 400ms (3 times in a row)",
        ),
        ("close", "/health got no answer, the connection was closed"),
    ] {
        let dev = started(node, "");
        let pids = dev.pids();
        answers(&dev, 0, answer);
        // The one that comes is well.
        dev.wait_for_line(&format!("worker {} is not healthy: {told}", pids[0]));
        std::fs::remove_file(dev.path("health-0")).expect("removed");
        let status = dev.until("replaced", |s| {
            let _ = pid(&dev);
            let slot = &s.slots[0];
            slot.pid.is_some_and(|pid| pid != pids[0]) && slot.draining.is_empty()
        });
        assert_eq!(status.slots[1].pid, Some(pids[1]), "{}", dev.output());
        dev.everybody_answers();
        dev.stop();
    }
    Ok(())
}

/// Nobody is left, so all go on: better than nobody.
fn all_not_ready(node: &Node) -> Result<(), String> {
    for balance in ["even", "round-robin"] {
        let dev = started(node, &format!("balance = {balance:?}"));
        let pids = dev.pids();
        for slot in 0..2 {
            answers(&dev, slot, "503");
        }
        dev.until("not ready", |s| {
            is(s, 0, "not-ready") && is(s, 1, "not-ready")
        });
        dev.everybody_answers();
        assert_eq!(dev.pids(), pids);
        dev.stop();
    }
    Ok(())
}

/// A release that is not well is not rolled out: the old workers are the same as before.
fn releases(node: &Node) -> Result<(), String> {
    let dev = started(node, "");
    let pids = dev.pids();
    let good = std::fs::read_to_string(dev.path("app.toml")).expect("a configuration");
    for (answer, told) in [
        (
            "500",
            "is not healthy: /health answered 500 Internal Server Error",
        ),
        (
            "503",
            "is not healthy: /health answered 503 Service Unavailable",
        ),
        (
            "hang",
            "is not healthy: /health gave no answer within 400ms",
        ),
    ] {
        let bad = format!("environment = {{ HEALTH = {answer:?} }}\n{good}");
        std::fs::write(dev.path("app.toml"), bad).expect("a configuration");
        let said = dev.cli(&["reload", "web"]);
        assert_eq!(said.code, Some(1), "{said:?}\n{}", dev.output());
        assert!(said.stderr.contains(told), "{said:?}");
        dev.until("no rollout", |s| s.rollout.is_none());
        assert_eq!(dev.pids(), pids, "{}", dev.output());
    }
    std::fs::write(dev.path("app.toml"), good).expect("a configuration");
    dev.cli(&["reload", "web"]).succeeded();
    let new = dev.pids();
    assert!(new.iter().all(|pid| !pids.contains(pid)), "{new:?}");
    dev.stop();
    Ok(())
}

/// Whatever a worker answers, the supervisor goes on and has not grown.
fn odd(node: &Node) -> Result<(), String> {
    let dev = started(node, "");
    for (answer, told) in [
        ("stays open", None),
        ("huge", None),
        ("early", None),
        ("smtp", Some("/health was answered not in HTTP/1")),
        ("endless", Some("/health was answered not in HTTP/1")),
        ("drip", Some("/health gave no answer within 400ms")),
    ] {
        let pids = dev.pids();
        answers(&dev, 1, answer);
        match told {
            None => {
                // It is asked more often than it may be wrong.
                let began = std::time::Instant::now();
                wait("some questions", || {
                    (began.elapsed().as_millis() > 800).then_some(())
                });
                assert_eq!(dev.slot(1).health.as_deref(), Some("well"), "{answer}");
                assert_eq!(dev.pids(), pids, "{answer}:\n{}", dev.output());
            }
            Some(told) => {
                let line = dev.wait_for_line(&format!("worker {} is not healthy: ", pids[1]));
                assert!(line.contains(told), "{line}");
                answers(&dev, 1, "200");
                dev.until("replaced", |s| {
                    let slot = &s.slots[1];
                    slot.pid.is_some_and(|pid| pid != pids[1]) && slot.draining.is_empty()
                });
            }
        }
        dev.everybody_answers();
    }
    let grown = std::fs::read_to_string(format!("/proc/{}/status", dev.pid())).expect("it runs");
    let rss = grown.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = rss
        .and_then(|r| r.split_whitespace().next()?.parse().ok())
        .expect("VmRSS");
    assert!(kib < 100 * 1024, "{kib} KiB");
    let open = std::fs::read_dir(format!("/proc/{}/fd", dev.pid())).expect("it runs");
    let open = open.count();
    assert!(open < 60, "{open} descriptors");
    dev.stop();
    Ok(())
}

/// It cannot be asked over HTTP, and is told why.
fn https(node: &Node) -> Result<(), String> {
    let dev = App::new(node, "tls.cjs").keys(CHECK).start();
    let line = dev.wait_for_line("is not healthy: ");
    assert!(line.contains("health = { exec = [...] }"), "{line}");
    Ok(())
}
