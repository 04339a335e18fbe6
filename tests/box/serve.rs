// SPDX-License-Identifier: MIT OR Apache-2.0
//! Socket in, workers out: the first connection, and apps beside each other.

use std::collections::BTreeSet;

use crate::harness::{Test, TestBox, test};
use crate::service::{
    LONG, SERVICE, SOCKET, all_run_generation, ask, hello, long, pids, status, status_of,
};

pub const TESTS: &[Test] = &[
    test!(first_connection_brings_the_workers),
    test!(apps_stand_beside_each_other),
];

/// As somebody who has just installed the package does it, with the
/// configuration that came with it.
fn first_connection_brings_the_workers(b: &TestBox) {
    b.run(&["systemctl", "start", SOCKET]).ok();
    assert_eq!(b.show(SERVICE, "ActiveState"), "inactive");
    let answer = ask(b, "http://localhost:3000/");
    assert_eq!(answer["name"], "app-cluster", "{answer}");
    assert_eq!(answer["generation"], 1, "{answer}");

    // One for each processor. A box may have one only; several are wanted.
    b.wait_for("the service to be ready", LONG, || {
        b.show(SERVICE, "ActiveState") == "active"
    });
    let processors: usize = b.run(&["nproc"]).ok().parse().expect("a number");
    assert_eq!(pids(b).len(), processors);
    let slots = processors.max(3);
    long(b, &format!("app-cluster scale app-cluster {slots}")).ok();
    let shown = long(b, "systemctl status app-cluster").ok();
    assert!(shown.contains(&format!("{slots}/{slots} ready")), "{shown}");
    all_run_generation(b, 1, slots);

    let mut seen = BTreeSet::new();
    b.wait_for("an answer of each slot", LONG, || {
        // Some at the same time: for one after the other a single worker will do.
        let script =
            "for n in 1 2 3 4 5 6 7 8; do curl -sS 'localhost:3000/slow?ms=50' & done; wait";
        for line in b.sh(script).ok().lines() {
            let answer: serde_json::Value = serde_json::from_str(line).expect("JSON");
            seen.insert(answer["pid"].as_i64().expect("a pid"));
        }
        seen.len() == slots
    });
    let all: BTreeSet<i64> = pids(b).into_iter().collect();
    assert_eq!(seen, all);
}

fn apps_stand_beside_each_other(b: &TestBox) {
    b.write("/etc/app-cluster/web.toml", &hello(3));
    b.write(
        "/etc/systemd/system/app-cluster@web.socket.d/port.conf",
        "[Socket]\nListenStream=\nListenStream=4000\n",
    );
    b.run(&["systemctl", "daemon-reload"]).ok();
    b.run(&["systemctl", "start", SOCKET, "app-cluster@web.socket"])
        .ok();
    assert_eq!(ask(b, "http://localhost:3000/")["name"], "app-cluster");
    assert_eq!(ask(b, "http://localhost:4000/")["name"], "web");
    assert!(!b.exists("/run/app-cluster/web.sock"), "the default path");
    let web = status_of(b, "web");
    assert_eq!(web["unit"], "app-cluster@web.service", "{web:#}");
    b.wait_for("all to be ready", LONG, || {
        status_of(b, "web")["workers"]["ready"] == 3 && status(b)["state"] == "running"
    });

    // What is done to one is done to that one.
    let before = pids(b);
    long(b, "systemctl reload app-cluster@web").ok();
    assert_eq!(status_of(b, "web")["generation"], 2);
    assert_eq!(status(b)["generation"], 1);
    long(b, "app-cluster stop web").ok();
    assert_eq!(b.show("app-cluster@web.socket", "ActiveState"), "inactive");
    assert_eq!(b.show("app-cluster@web.service", "ActiveState"), "inactive");
    assert_eq!(b.run(&["app-cluster", "status", "web"]).code, 3);
    assert_eq!(pids(b), before);
    assert_eq!(ask(b, "http://localhost:3000/")["generation"], 1);
}
