// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stops, restarts, and what is done to systemd itself, in the middle of traffic.

use crate::harness::{Test, TestBox, scale, test};
use crate::load::{Kind, Load};
use crate::service::{
    LONG, SERVICE, SLOW, SOCKET, all_run_generation, ask, clients, hello, load, long, pids,
    port_is_closed, processes_of, reload, start, status, wait_for_requests,
};

pub const TESTS: &[Test] = &[
    test!(stop_finishes_what_has_begun),
    test!(stop_of_the_service_alone_refuses_nobody),
    test!(restart_under_load_refuses_nobody),
    test!(restart_with_a_line_for_each_slot_refuses_nobody),
    test!(restart_of_the_socket_finishes_what_has_begun),
    test!(daemon_reload_and_reexec_are_not_noticed),
    test!(stop_ends_a_reload),
    test!(stop_ends_a_reload_at_any_moment),
];

/// Clients of whom each makes one request, and all of these are in a worker.
#[track_caller]
fn in_flight(b: &TestBox, ms: u32) -> Load {
    const CLIENTS: usize = 8;
    let mut spec = clients(b).with(Kind::Slow { ms }, CLIENTS);
    spec.limit = Some(CLIENTS as u64);
    let load = Load::start(spec).expect("a load");
    b.wait_for("the requests to be accepted", LONG, || {
        let queued = b.sh("ss -Hltn 'sport = :3000'").ok();
        let connected = b.sh("ss -Htn state established 'sport = :3000'").ok();
        let none_waits = queued.split_whitespace().nth(1) == Some("0");
        let all_read = |line: &str| line.split_whitespace().next() == Some("0");
        none_waits && connected.lines().count() == CLIENTS && connected.lines().all(all_read)
    });
    let report = load.snapshot();
    assert_eq!(report.total().ok, 0, "too late to be in flight\n{report}");
    load
}

#[track_caller]
fn is_all_over(b: &TestBox) {
    assert_eq!(b.show(SERVICE, "ActiveState"), "inactive");
    assert_eq!(b.show(SERVICE, "Result"), "success");
    assert_eq!(processes_of(b, SERVICE), Vec::<String>::new());
    let left = b.run(&["pgrep", "-a", "-u", "app-cluster"]);
    assert_eq!(left.code, 1, "{left}");
}

fn stop_finishes_what_has_begun(b: &TestBox) {
    start(b, &hello(3));
    let load = in_flight(b, 5_000);
    long(b, "systemctl stop app-cluster.socket app-cluster.service").ok();
    load.stop().assert_lossless(8);
    is_all_over(b);
    port_is_closed(b);
}

/// The socket stays: who comes during the stop waits in it and starts the
/// service again.
fn stop_of_the_service_alone_refuses_nobody(b: &TestBox) {
    start(b, &hello(3));
    let load = load(b);
    for _ in 0..scale(5, 2) {
        let before = b.show(SERVICE, "InvocationID");
        long(b, "systemctl stop app-cluster.service").ok();
        b.wait_for("the next connection to start it", LONG, || {
            b.show(SERVICE, "ActiveState") == "active"
        });
        assert_ne!(b.show(SERVICE, "InvocationID"), before);
        load.wait_for_more(20, LONG).expect("requests");
    }
    load.stop().assert_lossless(20);
    long(b, "systemctl stop app-cluster.service").ok();
    is_all_over(b);
}

fn restart_under_load_refuses_nobody(b: &TestBox) {
    start(b, &hello(3));
    restarts_refuse_nobody(b);
}

/// `even`, and lines to spare, where connections may wait while nobody is there.
fn restart_with_a_line_for_each_slot_refuses_nobody(b: &TestBox) {
    crate::lines::start(b, &(hello(3) + &crate::lines::on("even", 6)));
    restarts_refuse_nobody(b);
}

#[track_caller]
fn restarts_refuse_nobody(b: &TestBox) {
    let load = load(b);
    let (restarts, requests) = (scale(5, 2), scale(20_000, 1_000) as u64);
    for n in 1..=restarts {
        let before = processes_of(b, SERVICE);
        long(b, "systemctl restart app-cluster.service").ok();
        all_run_generation(b, 1, 3);
        let after = processes_of(b, SERVICE);
        assert_eq!(after.len(), 4, "{after:?}");
        assert!(
            before.iter().all(|pid| !after.contains(pid)),
            "{before:?} {after:?}"
        );
        wait_for_requests(&load, requests * n as u64 / restarts as u64);
    }
    load.wait_for_more(5, LONG).expect("requests");
    let report = load.stop();
    report.assert_lossless(5);
    assert!(report.kinds[&SLOW].ok > 0, "{report}");
    long(b, "systemctl stop app-cluster.socket app-cluster.service").ok();
    is_all_over(b);
}

fn restart_of_the_socket_finishes_what_has_begun(b: &TestBox) {
    start(b, &hello(3));
    let others = Load::start(clients(b).with(Kind::NewConnection, 2)).expect("a load");
    others.wait_for(50, LONG).expect("requests");
    let load = in_flight_beside(b, 3_000);
    long(b, "systemctl restart app-cluster.socket").ok();
    load.stop().assert_lossless(8);
    assert_eq!(b.show(SOCKET, "ActiveState"), "active");
    // Those may have been refused for a moment; now they are served.
    let known = others.snapshot().total().ok;
    let served = |report: &crate::load::Report| report.total().ok >= known + 50;
    others.wait_until(LONG, served).expect("answers");
    drop(others);
    assert_eq!(ask(b, "http://localhost:3000/")["name"], "app-cluster");
    b.wait_for("the service to be ready", LONG, || {
        b.show(SERVICE, "ActiveState") == "active"
    });
    all_run_generation(b, 1, 3);
}

/// Slow requests that have reached a worker while others come and go.
#[track_caller]
fn in_flight_beside(b: &TestBox, ms: u32) -> Load {
    let mut spec = clients(b).with(Kind::Slow { ms }, 8);
    spec.limit = Some(8);
    let load = Load::start(spec).expect("a load");
    load.wait_until(LONG, |report| report.total().sent == 8)
        .expect("requests");
    // The queue is first in, first out: who comes now is answered after them.
    ask(b, "http://localhost:3000/");
    let report = load.snapshot();
    assert_eq!(report.total().ok, 0, "too late to be in flight\n{report}");
    load
}

fn daemon_reload_and_reexec_are_not_noticed(b: &TestBox) {
    start(b, &hello(3));
    let before = pids(b);
    let load = load(b);
    for verb in ["daemon-reload", "daemon-reexec"] {
        for _ in 0..scale(5, 2) {
            long(b, &format!("systemctl {verb}")).ok();
            load.wait_for_more(20, LONG).expect("requests");
        }
        assert_eq!(b.show(SERVICE, "ActiveState"), "active", "{verb}");
        assert!(
            b.show(SERVICE, "StatusText").contains("3/3 ready"),
            "{verb}"
        );
        assert_eq!(pids(b), before, "{verb}");
    }
    reload(b).ok();
    all_run_generation(b, 2, 3);
    assert!(b.show(SERVICE, "StatusText").contains("generation 2"));
    load.stop().assert_lossless(20);
    long(b, "systemctl stop app-cluster.socket app-cluster.service").ok();
    is_all_over(b);
}

fn stop_ends_a_reload(b: &TestBox) {
    start(b, &format!("{}canary_time = \"1h\"\n", hello(3)));
    let load = in_flight(b, 8_000);
    let by_systemd = b.spawn("systemctl reload app-cluster", LONG);
    b.wait_for("the new generation's first worker", LONG, || {
        let status = status(b);
        status["rollout"]["stage"] == "advancing" && processes_of(b, SERVICE).len() > 5
    });
    let by_hand = b.spawn("app-cluster reload", LONG);
    long(b, "systemctl stop app-cluster.socket app-cluster.service").ok();
    is_all_over(b);
    load.stop().assert_lossless(8);
    // Both come back, and neither says that it went well.
    let out = by_hand.wait().fails();
    assert!(out.stderr.contains("the supervisor is stopping"), "{out}");
    by_systemd.wait().fails();
    assert_eq!(
        b.run(&["systemctl", "is-failed", SERVICE]).stdout.trim(),
        "inactive"
    );
}

/// Nothing holds the supervisor up: it may be gone before its reload command
/// has read the answer, or before the command has asked.
fn stop_ends_a_reload_at_any_moment(b: &TestBox) {
    for n in 0..scale(30, 6) {
        start(b, &format!("{}canary_time = \"1h\"\n", hello(2)));
        let script = format!(
            "systemctl reload --no-block app-cluster; sleep 0.0{n}
             systemctl stop app-cluster.service"
        );
        long(b, &script).ok();
        is_all_over(b);
    }
}
