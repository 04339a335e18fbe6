// SPDX-License-Identifier: MIT OR Apache-2.0
//! The supervisor is not on the fate path: killed, executed again, or left alone by a
//! systemd that does so itself, nobody who talks to the workers notices.

use std::collections::BTreeSet;

use crate::fate_app::{
    App, Blow, SLOTS, incarnation, is_active, is_unharmed, more, survive, workers,
};
use crate::harness::{Test, TestBox, scale, test};
use crate::service::{LONG, SERVICE, all_run_generation, pids, processes_of, reload, status};

pub const TESTS: &[Test] = &[
    test!(fate_of_hello),
    test!(fate_of_hello_even),
    test!(fate_of_node),
    test!(fate_of_node_even),
    test!(fate_of_node_round_robin),
    test!(fate_of_gunicorn),
];

/// Why a test does not run here: of some, one suite is enough for the gate.
pub fn lacking(suite: &str, test: &str) -> Option<&'static str> {
    let wanted = match test {
        "fate_of_hello"
        | "fate_of_node_even"
        | "a_torn_snapshot_and_node"
        | "an_upgrade_of_the_package_loses_nothing"
        | "a_stop_after_an_adoption_leaves_nothing"
        | "a_restart_in_the_moment_of_a_crash"
        | "workers_behind_a_launcher"
        | "killed_between_listens" => &["bookworm"],
        "fate_of_hello_even"
        | "fate_of_node"
        | "fate_of_gunicorn"
        | "a_torn_snapshot_and_node_without_the_preload"
        | "many_supervisors_leak_nothing"
        | "what_would_leave_workers_alone"
        | "the_user_was_changed"
        | "no_room_in_the_runtime_directory"
        | "a_socket_was_opened_meanwhile"
        | "a_reboot_after_an_adoption_is_quick"
        | "killed_while_a_node_worker_starts" => &["trixie"],
        "fate_of_node_round_robin"
        | "killed_at_every_point"
        | "killed_at_every_point_with_node"
        | "killed_at_every_point_with_node_round_robin"
        | "killed_at_every_point_with_a_line_each" => &[""],
        // Files and numbers: the same everywhere.
        "a_pid_that_is_anothers_by_now" => &["trixie"],
        _ => return None,
    };
    let missing = scale(1, 0) == 0 && !wanted.contains(&suite);
    missing.then_some("in the full tier only (APPC_FULL=1)")
}

fn fate_of_hello(b: &TestBox) {
    outlives(b, App::Hello, "shared");
}

fn fate_of_hello_even(b: &TestBox) {
    outlives(b, App::Hello, "even");
}

fn fate_of_node(b: &TestBox) {
    outlives(b, App::Node, "shared");
}

fn fate_of_node_even(b: &TestBox) {
    outlives(b, App::Node, "even");
}

fn fate_of_node_round_robin(b: &TestBox) {
    outlives(b, App::Node, "round-robin");
}

fn fate_of_gunicorn(b: &TestBox) {
    outlives(b, App::Gunicorn, "shared");
}

/// Under load all the time: nothing is lost, nothing is broken.
#[track_caller]
fn outlives(b: &TestBox, app: App, balance: &str) {
    app.start(b, balance);
    let load = app.load(b);
    let talks = app.talks(b);
    let before = workers(&status(b));
    assert_eq!(before.len(), SLOTS);
    let all = processes(b);
    let strike = |blow| {
        survive(b, blow);
        more(&load);
    };
    for n in 0..scale(5, 2) {
        strike(if n % 2 == 0 {
            Blow::Signal
        } else {
            Blow::Upgrade
        });
    }
    for _ in 0..scale(5, 2) {
        strike(Blow::Kill);
    }
    for verb in ["daemon-reload", "daemon-reexec"] {
        let known = incarnation(&status(b));
        b.run(&["systemctl", verb]).ok();
        assert_eq!(incarnation(&status(b)), known, "{verb}");
        assert_eq!(workers(&status(b)), before, "{verb}");
        is_active(b);
        more(&load);
    }
    // systemd has kept what it was given.
    strike(Blow::Kill);
    strike(Blow::Signal);
    // Long answers as well: whoever had one served has had it from these.
    load.wait_for(1, LONG).expect("an answer of each kind");
    let report = load.snapshot();
    assert!(!report.total().by_pid.is_empty(), "{report}");
    let known = |pid: u64| all.contains(&pid.to_string());
    assert!(report.total().by_pid.into_keys().all(known), "{report}");
    assert_eq!(processes(b), all);
    if let Some(talks) = talks {
        assert!(talks.said() > 100, "{}", talks.said());
        talks.end();
    }
    reload(b).ok();
    all_run_generation(b, 2, SLOTS);
    let after = pids(b);
    assert!(
        before.iter().all(|(pid, _)| !after.contains(pid)),
        "{after:?}"
    );
    more(&load);
    load.stop().assert_lossless(1);
    is_active(b);
    assert_eq!(b.show(SERVICE, "NRestarts"), (scale(5, 2) + 1).to_string());
    is_unharmed(b);
}

/// All processes of all workers.
#[track_caller]
fn processes(b: &TestBox) -> BTreeSet<String> {
    let main = b.show(SERVICE, "MainPID");
    let mut all: BTreeSet<String> = processes_of(b, SERVICE).into_iter().collect();
    all.remove(&main);
    all
}
