// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rolling reloads in the middle of traffic.

use crate::harness::{Test, TestBox, scale, test};
use crate::load::Kind;
use crate::service::{
    FAST, LONG, SERVICE, all_run_generation, ask, hello, load, long, pids, reload, start, status,
    wait_for_requests,
};

pub const TESTS: &[Test] = &[
    test!(reloads_lose_nothing),
    test!(reloads_with_a_line_for_each_slot_lose_nothing),
    test!(one_worker_is_enough_to_lose_nothing),
    test!(many_workers_are_replaced),
    test!(reloads_that_pile_up_become_few),
    test!(full_runtime_directory_stops_a_reload),
];

const SLOTS: usize = 4;

fn reloads_lose_nothing(b: &TestBox) {
    start(b, &hello(SLOTS));
    reloads_under_load(b);
}

/// `even`, and lines to spare.
fn reloads_with_a_line_for_each_slot_lose_nothing(b: &TestBox) {
    crate::lines::start(b, &(hello(SLOTS) + &crate::lines::on("even", 6)));
    reloads_under_load(b);
    assert_eq!(crate::lines::queues(b), [0; 6]);
}

#[track_caller]
fn reloads_under_load(b: &TestBox) {
    let (reloads, requests) = (scale(10, 3), scale(20_000, 2_000) as u64);
    let load = load(b);
    for n in 1..=reloads {
        let before = pids(b);
        reload(b).ok();
        all_run_generation(b, n + 1, SLOTS);
        let after = pids(b);
        assert!(
            before.iter().all(|pid| !after.contains(pid)),
            "{before:?} {after:?}"
        );
        wait_for_requests(&load, requests * n as u64 / reloads as u64);
    }
    let report = load.stop();
    report.assert_lossless(reloads as u64);
    for kind in FAST {
        assert!(report.kinds[&kind].ok >= requests, "{report}");
    }
    let generations: Vec<u64> = report.total().by_generation.keys().copied().collect();
    assert_eq!(
        generations,
        (1..=reloads as u64 + 1).collect::<Vec<_>>(),
        "{report}"
    );
    b.wait_for("the old workers to be gone", LONG, || {
        let slots = status(b)["slots"].clone();
        let quiet =
            |slot: &serde_json::Value| slot["draining"].as_array().is_some_and(Vec::is_empty);
        slots
            .as_array()
            .is_some_and(|slots| slots.iter().all(quiet))
    });
}

fn one_worker_is_enough_to_lose_nothing(b: &TestBox) {
    start(b, &hello(1));
    let load = load(b);
    let reloads = scale(10, 2);
    for n in 1..=reloads {
        reload(b).ok();
        all_run_generation(b, n + 1, 1);
    }
    wait_for_requests(&load, scale(20_000, 500) as u64);
    load.stop().assert_lossless(1);
}

fn many_workers_are_replaced(b: &TestBox) {
    const SLOTS: usize = 64;
    let config = |batch| {
        format!(
            "{}batch = {batch}\nstart_timeout = \"120s\"\n",
            hello(SLOTS)
        )
    };
    start(b, &config(16));
    assert!(b.show(SERVICE, "StatusText").contains("64/64 ready"));
    let load = load(b);
    reload(b).ok();
    all_run_generation(b, 2, SLOTS);
    b.write(crate::service::CONFIG, &config(1));
    reload(b).ok();
    all_run_generation(b, 3, SLOTS);
    load.stop().assert_lossless(1);
}

/// A reload during a reload waits, and those that wait become one.
fn reloads_that_pile_up_become_few(b: &TestBox) {
    start(b, &hello(2));
    let load = load(b);
    let two = "app-cluster reload & first=$!; app-cluster reload; wait $first";
    long(b, two).ok();
    let generation = status(b)["generation"].as_u64().expect("a number");
    assert!((2..=3).contains(&generation), "{generation}");

    let ten = "for n in 1 2 3 4 5 6 7 8 9 10; do app-cluster reload & pids=\"$pids $!\"; done
               for pid in $pids; do wait $pid; done";
    long(b, ten).ok();
    let after = status(b)["generation"].as_u64().expect("a number");
    // At least the first, and one more for those that came meanwhile.
    assert!(
        (generation + 2..=generation + 10).contains(&after),
        "{after}"
    );
    all_run_generation(b, after as usize, 2);

    // systemd runs one at a time, and merges those that wait.
    long(
        b,
        "for n in 1 2 3 4 5 6 7 8 9 10; do systemctl reload --no-block app-cluster; done",
    )
    .ok();
    reload(b).ok();
    let last = status(b)["generation"].as_u64().expect("a number");
    assert!(last > after, "{last}");
    all_run_generation(b, last as usize, 2);
    assert_eq!(b.show(SERVICE, "ActiveState"), "active");
    let report = load.stop();
    report.assert_lossless(1);
    assert!(report.kinds[&Kind::NewConnection].ok > 0, "{report}");
}

fn full_runtime_directory_stops_a_reload(b: &TestBox) {
    const DIRECTORY: &str = "/run/app-cluster/app-cluster";
    b.sh(&format!(
        "mkdir -p {DIRECTORY}; mount -t tmpfs none {DIRECTORY}"
    ))
    .ok();
    start(b, &hello(2));
    let load = load(b);
    let before = pids(b);
    // As many files as there are: a new worker's notification socket is one more.
    let fill = format!(
        "mount -o remount,nr_inodes=$(df --output=iused {DIRECTORY} | tail -n 1 | tr -d ' ') {DIRECTORY}"
    );
    b.sh(&fill).ok();
    let out = long(b, "app-cluster reload").fails();
    assert!(out.stderr.contains("No space left on device"), "{out}");
    assert!(out.stderr.contains(DIRECTORY), "{out}");
    reload(b).fails();
    assert_eq!(pids(b), before);
    assert_eq!(ask(b, "http://localhost:3000/")["generation"], 1);
    b.sh(&format!("mount -o remount,nr_inodes=1000 {DIRECTORY}"))
        .ok();
    reload(b).ok();
    let generation = status(b)["generation"].as_u64().expect("a number");
    all_run_generation(b, generation as usize, 2);
    load.stop().assert_lossless(1);
}
