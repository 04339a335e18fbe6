// SPDX-License-Identifier: MIT OR Apache-2.0
//! Releases that are no good: as the first of a service, and found out after the reload.

use std::time::Duration;

use serde_json::Value;

use crate::app::{events, field};
use crate::harness::{Test, TestBox, test};
use crate::service::{
    CONFIG, LONG, SERVICE, SOCKET, all_run_generation, ask, hello, long, port_is_closed, reload,
    start, status,
};

pub const TESTS: &[Test] = &[
    test!(a_release_that_crashes_later_is_left),
    test!(first_start_of_a_release_that_exits),
    test!(first_start_of_a_release_that_never_listens),
    test!(first_start_with_a_typo),
];

/// A release that is no good.
struct Bad {
    config: &'static str,
    /// What has to be said of it.
    cause: &'static [&'static str],
    /// What its worker said last.
    last_lines: &'static [&'static str],
}

const EXITS: Bad = Bad {
    config: "command = \"/srv/app/exits\"\nworkers = 2\n",
    cause: &["slot 0", "exited with status 3 before it was ready"],
    last_lines: &["Error: cannot find module 'shop'", "at line 7"],
};
const NEVER_LISTENS: Bad = Bad {
    config: "command = \"/srv/app/waits\"\nworkers = 2\nstart_timeout = \"3s\"\n",
    cause: &["slot 0", "was not ready within 3"],
    last_lines: &["connecting to the database"],
};
const TYPO: Bad = Bad {
    config: "command = [\"/usr/bin/app-cluster\", \"hello\"]\nwrokers = 2\n",
    cause: &[
        "/etc/app-cluster/app-cluster.toml:2",
        "wrokers",
        "`workers`",
    ],
    last_lines: &[],
};

#[track_caller]
fn install_programs(b: &TestBox) {
    let exits = "#!/bin/sh\necho \"Error: cannot find module 'shop'\" >&2\n\
                 printf 'at line 7' >&2\nexit 3\n";
    let waits = "#!/bin/sh\necho connecting to the database\nexec sleep 1000\n";
    b.write("/srv/app/exits", exits);
    b.write("/srv/app/waits", waits);
    b.sh("chmod 755 /srv/app/*").ok();
}

#[track_caller]
fn contains_all(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }
}

/// Its workers die some seconds after the reload has succeeded.
fn a_release_that_crashes_later_is_left(b: &TestBox) {
    let later = "#!/bin/sh\n(sleep 4; kill -ABRT $$) &\nexec app-cluster hello\n";
    b.write("/srv/app/later", later);
    b.sh("chmod 755 /srv/app/later").ok();
    start(b, &hello(3));
    let keys = "workers = 3\ncrash_budget = 2\nbackoff_max = \"1s\"\n";
    b.write(CONFIG, &format!("command = \"/srv/app/later\"\n{keys}"));
    reload(b).ok();
    let left = "generation 2 was left, and generation 1 is back: the worker of slot ";
    b.wait_for("the release before", LONG, || {
        let text = b.show(SERVICE, "StatusText");
        text.starts_with("degraded: ") && text.contains(left)
    });
    assert_eq!(b.show(SERVICE, "ActiveState"), "active");
    assert_eq!(b.show(SERVICE, "NRestarts"), "0");
    all_run_generation(b, 3, 3);
    assert_eq!(status(b)["rolled_back"]["to"], 1);
    let told = events(b, "7a1f0c5b9d0e4b6c8f35d2b1a4c6e830");
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(field(&told[0], "APPC_GENERATION"), "2");
    let text = field(&told[0], "MESSAGE");
    contains_all(
        text,
        &[
            "crashes too often, going back to generation 1",
            "was killed by SIGABRT",
        ],
    );
    b.write(CONFIG, &hello(3));
    reload(b).ok();
    assert!(status(b)["degraded"].is_null());
}

fn first_start_of_a_release_that_exits(b: &TestBox) {
    first_start(b, &EXITS, 6);
}

fn first_start_of_a_release_that_never_listens(b: &TestBox) {
    first_start(b, &NEVER_LISTENS, 3);
}

fn first_start_with_a_typo(b: &TestBox) {
    first_start(b, &TYPO, 6);
}

/// A client waits while the service fails `attempts` times, and is answered
/// when the release is good.
fn first_start(b: &TestBox, bad: &Bad, attempts: usize) {
    install_programs(b);
    b.write(CONFIG, bad.config);
    let mut client = b.spawn("exec curl -sS --max-time 230 http://localhost:3000/", LONG);
    b.wait_for("the first attempt", LONG, || !starts(b).is_empty());
    long(b, "systemctl start app-cluster.service").fails();
    contains_all(&b.journal(&["-u", SERVICE]), bad.cause);
    contains_all(&b.journal(&["-u", SERVICE]), bad.last_lines);
    // Between attempts "systemctl status" says why.
    b.wait_for("the cause in the status", LONG, || {
        let text = b.show(SERVICE, "StatusText");
        bad.cause.iter().all(|part| text.contains(part))
    });

    b.wait_for("more attempts", LONG, || starts(b).len() >= attempts);
    let starts = starts(b);
    let took = *starts.last().expect("a last") - starts[0];
    let at_least = Duration::from_secs(starts.len() as u64 - 1);
    assert!(took >= at_least, "{} starts in {took:?}", starts.len());
    assert_eq!(b.show(SOCKET, "ActiveState"), "active");
    assert!(client.is_running(), "{}", client.wait());

    b.write(CONFIG, &hello(2));
    let answer: Value = serde_json::from_str(&client.wait().ok()).expect("JSON");
    assert_eq!(answer["name"], "app-cluster", "{answer}");
    b.wait_for("the service to be ready", LONG, || {
        b.show(SERVICE, "ActiveState") == "active"
    });
    all_run_generation(b, 1, 2);
    assert_eq!(ask(b, "http://localhost:3000/")["generation"], 1);

    b.run(&["systemctl", "stop", SOCKET, SERVICE]).ok();
    assert_eq!(b.show(SERVICE, "ActiveState"), "inactive");
    port_is_closed(b);
}

/// When systemd started the service, each time (SD_MESSAGE_UNIT_STARTING).
fn starts(b: &TestBox) -> Vec<Duration> {
    let journal = b.journal(&[
        "-o",
        "json",
        "--output-fields=MESSAGE",
        "MESSAGE_ID=7d4958e842da4a758f6c1cdc7b36dcc5",
        &format!("UNIT={SERVICE}"),
    ]);
    let at = |line: &str| {
        let entry: Value = serde_json::from_str(line).expect("JSON");
        let micros = entry["__MONOTONIC_TIMESTAMP"].as_str()?.parse().ok()?;
        Some(Duration::from_micros(micros))
    };
    let lines = journal.lines().filter(|line| line.starts_with('{'));
    lines.filter_map(at).collect()
}
