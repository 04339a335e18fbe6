// SPDX-License-Identifier: MIT OR Apache-2.0
//! A socket for each slot: nobody is lost when slots come and go, whatever the
//! number of sockets, and connections that stay are spread evenly.

use std::time::Duration;

use crate::harness::{Test, TestBox, scale, test};
use crate::lines::{self, crash, crowd, on, only_accepted_ones_failed, open, queues, waiting};
use crate::load::crowd::spread;
use crate::load::{Kind, Load, Report};
use crate::service::{
    LONG, SERVICE, all_run_generation, clients, hello, load, long, pids, reload, status,
};

pub const TESTS: &[Test] = &[
    test!(early_connections_are_served_even),
    test!(early_connections_are_served_sticky),
    test!(scaling_loses_nothing_even),
    test!(scaling_loses_nothing_sticky),
    test!(crashes_lose_what_was_accepted_even),
    test!(crashes_lose_what_was_accepted_sticky),
    test!(held_connections_are_spread_evenly),
    test!(a_slot_that_stays_down_is_steered_around),
    test!(what_waits_in_a_line_without_a_worker_is_served),
    test!(a_line_that_was_shut_down_is_mended),
    test!(a_shutdown_under_load_loses_next_to_nothing),
    test!(queues_are_shown_by_line),
];

/// Requests of each kind between two things that are done to the workers; those with
/// slow bodies take 200 ms.
fn more() -> u64 {
    scale(40, 8) as u64
}

fn early_connections_are_served_even(b: &TestBox) {
    early_connections_are_served(b, "even");
}

fn early_connections_are_served_sticky(b: &TestBox) {
    early_connections_are_served(b, "sticky");
}

/// Connections that the kernel has put into all lines before there was anyone to
/// attach a program, of workers fewer than lines.
fn early_connections_are_served(b: &TestBox, balance: &str) {
    const LINES: usize = 6;
    let held_up = "[Service]\nExecStartPre=sh -c 'until [ -e /run/go ]; do sleep 0.02; done'\n";
    crate::app::drop_in(b, held_up);
    for turn in 0..scale(5, 2) {
        // New sockets, which no program has been attached to.
        open(b, &(hello(2) + &on(balance, LINES)));
        let mut spec = clients(b)
            .with(Kind::NewConnection, 24)
            .with(Kind::KeepAlive, 24);
        spec.limit = Some(24);
        let load = Load::start(spec).expect("a load");
        b.wait_for("all connections to wait", LONG, || {
            waiting(b).iter().sum::<u64>() == 48
        });
        let before = waiting(b);
        assert_eq!(before.len(), LINES, "{before:?}");
        assert!(before.iter().filter(|n| **n > 0).count() > 2, "{before:?}");
        b.write("/run/go", "");
        load.wait_for(24, LONG).expect("an answer for each");
        load.stop().assert_lossless(24);
        b.wait_for("the service to be ready", LONG, || {
            b.show(SERVICE, "ActiveState") == "active"
        });
        assert_eq!(status(b)["workers"]["ready"], 2, "turn {turn}");
        b.run(&["rm", "/run/go"]).ok();
        long(b, &format!("systemctl stop {SERVICE}")).ok();
    }
}

fn scaling_loses_nothing_even(b: &TestBox) {
    scaling_loses_nothing(b, "even");
}

fn scaling_loses_nothing_sticky(b: &TestBox) {
    scaling_loses_nothing(b, "sticky");
}

/// Down to one, up again and beyond the number of lines, under load.
fn scaling_loses_nothing(b: &TestBox, balance: &str) {
    const LINES: usize = 4;
    lines::start(b, &(hello(4) + &on(balance, LINES)));
    let load = load(b);
    for _ in 0..scale(5, 1) {
        for workers in [1, 4, 9, 4] {
            load.wait_for_more(more(), LONG).expect("requests");
            long(b, &format!("app-cluster scale app-cluster {workers}")).ok();
            b.wait_for("the workers", LONG, || {
                let status = status(b);
                let slots = status["slots"].as_array().map(Vec::len);
                status["workers"]["ready"] == workers && slots == Some(workers)
            });
            assert_eq!(queues(b).len(), LINES);
        }
    }
    load.wait_for_more(more(), LONG).expect("requests");
    load.stop().assert_lossless(5 * more());
    all_run_generation(b, 1, 4);
    // All four have a part again.
    let held = crowd(b).hold(200, Duration::ZERO).expect("answers");
    let slots: Vec<u64> = held.by_slot().into_keys().collect();
    assert_eq!(slots, [0, 1, 2, 3], "{:?}", held.by_slot());
}

fn crashes_lose_what_was_accepted_even(b: &TestBox) {
    crashes_lose_what_was_accepted(b, "even");
}

fn crashes_lose_what_was_accepted_sticky(b: &TestBox) {
    crashes_lose_what_was_accepted(b, "sticky");
}

/// More lines than workers, and every worker dies some time.
fn crashes_lose_what_was_accepted(b: &TestBox, balance: &str) {
    let config = hello(3) + &on(balance, 8) + "backoff_max = \"300ms\"\ncrash_budget = 1000\n";
    lines::start(b, &config);
    let load = load(b);
    let crashes = scale(15, 3);
    for turn in 0..crashes {
        load.wait_for_more(more(), LONG).expect("requests");
        crash(b, turn % 3);
    }
    load.wait_for_more(more(), LONG).expect("requests");
    // All clients may have had a request in the worker, but not twice.
    const CLIENTS: u64 = 12;
    only_accepted_ones_failed(load, crashes as u64 * CLIENTS);
    // With nobody in some line's slot the others serve; a reload mends nothing
    // that was not lost, and loses nothing.
    let load = self::load(b);
    reload(b).ok();
    load.wait_for_more(more(), LONG).expect("requests");
    load.stop().assert_lossless(more());
}

/// A slot whose worker has crashed twice waits before the next one.
fn a_slot_that_stays_down_is_steered_around(b: &TestBox) {
    for balance in ["even", "sticky"] {
        let down = "backoff_min = \"1h\"\nbackoff_max = \"1h\"\n";
        lines::start(b, &(hello(3) + &on(balance, 4) + down));
        crash(b, 1);
        let load = load(b);
        let before = pids(b);
        b.run(&["kill", "-KILL", &before[1].to_string()]).ok();
        b.wait_until("the slot to be down", || {
            status(b)["slots"][1]["state"] == "backoff"
        });
        only_accepted_ones_failed(load, 12);
        let load = self::load(b);
        load.wait_for_more(more(), LONG).expect("requests");
        assert_eq!(status(b)["slots"][1]["state"], "backoff", "{balance}");
        // Which does not wait.
        reload(b).ok();
        all_run_generation(b, 2, 3);
        load.wait_for_more(more(), LONG).expect("requests");
        load.stop().assert_lossless(2 * more());
        let held = crowd(b).hold(100, Duration::ZERO).expect("answers");
        assert_eq!(held.by_slot().len(), 3, "{balance}: {:?}", held.by_slot());
    }
}

/// A worker dies with connections in its queue, and no other one comes: they are for
/// the other workers, each of them and at once.
fn what_waits_in_a_line_without_a_worker_is_served(b: &TestBox) {
    for (balance, lines, slot) in [("even", 4, 1), ("sticky", 4, 0), ("even", 3, 2)] {
        let down = "backoff_min = \"1h\"\nbackoff_max = \"1h\"\n";
        lines::start(b, &(hello(3) + &on(balance, lines) + down));
        crash(b, slot);
        let victim = pids(b)[slot].to_string();
        b.run(&["kill", "-STOP", &victim]).ok();
        let mut spec = clients(b).with(Kind::NewConnection, 90);
        spec.limit = Some(90);
        let load = Load::start(spec).expect("a load");
        let mut waited = 0;
        b.wait_for("the others to be served", LONG, || {
            waited = waiting(b).iter().sum::<u64>();
            waited > 0 && load.snapshot().total().ok + waited == 90
        });
        assert!(waited > 3, "{waited} in the line of slot {slot}");
        b.run(&["kill", "-KILL", &victim]).ok();
        load.wait_for(90, Duration::from_secs(20))
            .expect("answers for those who waited");
        load.stop().assert_lossless(90);
        assert_eq!(status(b)["slots"][slot]["state"], "backoff");
        assert_eq!(queues(b), vec![0; lines]);
    }
}

/// As those of web sockets: opened one after the other, never closed.
fn held_connections_are_spread_evenly(b: &TestBox) {
    const WORKERS: usize = 8;
    let apart = Duration::from_millis(scale(30, 10) as u64);
    let mut measured = Vec::new();
    for balance in ["shared", "even"] {
        lines::start(b, &(hello(WORKERS) + &on(balance, WORKERS)));
        all_run_generation(b, 1, WORKERS);
        let held = crowd(b).hold(300, apart).expect("answers");
        let counts = held.by_slot();
        measured.push((spread(&counts, WORKERS), counts));
    }
    let [(shared, _), (even, counts)] = &measured[..] else {
        unreachable!("two were measured")
    };
    eprintln!(
        "{}: 300 connections held by 8 workers, largest over mean: even {even:.2}, shared {shared:.2}",
        b.suite()
    );
    assert!(*even <= 1.25, "{even:.2}: {counts:?}");
}

/// A worker calls shutdown(2) on its socket, which so leaves the group: the
/// numbers of the others change.
fn a_line_that_was_shut_down_is_mended(b: &TestBox) {
    const LINES: usize = 4;
    let python = crate::app::python(2, "");
    for balance in ["even", "sticky"] {
        b.write(crate::app::WORKER_FILE, crate::app::WORKER);
        lines::start(b, &(python.clone() + &on(balance, LINES)));
        for turn in 0..scale(10, 3) {
            let before = pids(b);
            crate::app::get(b, "/shutdown").ok();
            b.wait_until("the line to listen again", || waiting(b).len() == LINES);
            // Asked after it has looked at its sockets.
            assert_eq!(queues(b), [0; LINES], "{balance}, turn {turn}");
            let held = crowd(b)
                .hold(60, Duration::ZERO)
                .expect("an answer for each");
            let slots: Vec<u64> = held.by_slot().into_keys().collect();
            assert_eq!(
                slots,
                [0, 1],
                "{balance}, turn {turn}: {:?}",
                held.by_slot()
            );
            assert_eq!(pids(b), before);
        }
    }
}

/// What waits in the line when it is shut down goes to other workers. Lost may be a
/// handshake at that very moment: one in ten thousand connections.
fn a_shutdown_under_load_loses_next_to_nothing(b: &TestBox) {
    for balance in ["even", "sticky"] {
        b.write(crate::app::WORKER_FILE, crate::app::WORKER);
        lines::start(b, &(crate::app::python(3, "") + &on(balance, 4)));
        let spec = clients(b).with(Kind::NewConnection, 8);
        let load = Load::start(spec).expect("a load");
        let shutdowns = scale(30, 10);
        for _ in 0..shutdowns {
            load.wait_for_more(100, LONG).expect("requests");
            crate::app::get(b, "/shutdown").ok();
        }
        load.wait_for_more(100, LONG).expect("requests");
        let report = only_accepted_or_reset(load.stop());
        assert!(report.total().failed <= shutdowns as u64 / 5, "{report}");
    }
}

/// Nobody was left waiting.
#[track_caller]
fn only_accepted_or_reset(report: Report) -> Report {
    let total = report.total();
    assert!(total.ok > 0, "{report}");
    let reset = |text: &str| text.contains("reset") || text.contains("closed by the server");
    assert!(total.failures.iter().all(|f| reset(&f.text)), "{report}");
    report
}

fn queues_are_shown_by_line(b: &TestBox) {
    const LINES: usize = 4;
    lines::start(b, &(hello(2) + &on("even", LINES)));
    assert_eq!(queues(b), [0; LINES]);
    let workers = pids(b)
        .iter()
        .map(i64::to_string)
        .collect::<Vec<_>>()
        .join(" ");
    b.sh(&format!("kill -STOP {workers}")).ok();
    let mut spec = clients(b).with(Kind::NewConnection, 30);
    spec.limit = Some(30);
    let load = Load::start(spec).expect("a load");
    b.wait_for("all connections to wait", LONG, || {
        waiting(b).iter().sum::<u64>() == 30
    });
    let shown = queues(b);
    assert_eq!(
        (shown.len(), shown.iter().sum::<u64>()),
        (LINES, 30),
        "{shown:?}"
    );
    // In the workers' own lines, and both have some.
    assert!(shown[0] > 0 && shown[1] > 0, "{shown:?}");
    assert_eq!(shown[2..], [0, 0], "{shown:?}");
    b.sh(&format!("kill -CONT {workers}")).ok();
    load.wait_for(30, LONG).expect("answers");
    load.stop().assert_lossless(30);
    assert_eq!(queues(b), [0; LINES]);
}
