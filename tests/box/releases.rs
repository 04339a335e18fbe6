// SPDX-License-Identifier: MIT OR Apache-2.0
//! Releases that are no good, one after the other over one that serves: a table. After
//! each the old workers serve as before, under load, and whoever asked has been told why.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::harness::{Test, TestBox, scale, test};
use crate::load::{Kind, Load};
use crate::service::{
    CONFIG, LONG, SERVICE, all_run_generation, clients, long, pids, processes_of, reload, status,
};

pub const TESTS: &[Test] = &[
    test!(bad_releases_of_a_node_app),
    test!(bad_releases_of_a_python_app),
];

const SLOTS: usize = 2;
const HOME: &str = "/srv/shop";

/// An app in one of two languages.
#[derive(Clone, Copy)]
struct App {
    /// Which of two.
    index: usize,
    program: &'static str,
    text: &'static str,
    command: &'static str,
    fault: &'static str,
}

const NODE: App = App {
    index: 0,
    program: "shop.js",
    text: include_str!("workers/shop.js"),
    command: "\"node shop.js\"",
    fault: "fault.js",
};
const PYTHON: App = App {
    index: 1,
    program: "shop.py",
    text: include_str!("workers/shop.py"),
    command: "\"/usr/bin/python3 shop.py\"",
    fault: "fault.py",
};

/// A release that is no good. What differs between [`NODE`] and [`PYTHON`] is there twice.
#[derive(Default)]
struct Bad {
    name: &'static str,
    /// What the program does wrong.
    fault: [&'static str; 2],
    /// A script that is run where the program is.
    script: &'static str,
    /// Keys of the configuration that are other ones, and what they are.
    keys: [&'static [(&'static str, &'static str)]; 2],
    /// What has to be said.
    cause: &'static [&'static str],
    /// And in this language.
    also: [&'static [&'static str]; 2],
    /// What its worker said last.
    last_lines: [&'static [&'static str]; 2],
}

/// Asks just this worker, whose socket the others do not have.
const CHECK: &str = "#!/bin/sh\nexec curl -fsS -o /dev/null --max-time 10 \
    --abstract-unix-socket shop.$APP_CLUSTER_PID http://localhost/health\n";
/// Longer than anything in the table takes to go wrong.
const LONG_CANARY: (&str, &str) = ("canary_time", "\"30s\"");

fn table() -> Vec<Bad> {
    vec![
        Bad {
            name: "exits at start",
            fault: [
                "console.error('cannot reach the database'); process.exit(3);",
                "import sys; print('cannot reach the database', file=sys.stderr); sys.exit(3)",
            ],
            cause: &["slot 0", "exited with status 3 before it was ready"],
            last_lines: [&["cannot reach the database"]; 2],
            ..Bad::default()
        },
        Bad {
            name: "exits after 1.2 s",
            fault: [
                "exports.at = 1200;\n\
                 exports.act = () => { console.error('no licence'); process.exit(4); };",
                "import sys\nat = 1.2\ndef act():\n    sys.exit('no licence')",
            ],
            keys: [&[LONG_CANARY]; 2],
            cause: &["slot 0", "exited with status ", "s after it was ready"],
            last_lines: [&["no licence"]; 2],
            ..Bad::default()
        },
        Bad {
            name: "never listens",
            fault: [
                "console.log('waiting for the lock'); exports.silent = true;",
                "print('waiting for the lock', flush=True)\nsilent = True",
            ],
            keys: [&[("start_timeout", "\"3s\"")]; 2],
            cause: &["slot 0", "was not ready within 3"],
            also: [
                &[
                    "it has not listened on anything",
                    "waits for something first",
                ],
                &["did not send READY=1", "ready = { delay = "],
            ],
            last_lines: [&["waiting for the lock"]; 2],
            ..Bad::default()
        },
        Bad {
            name: "listens but /health is 500",
            fault: [
                "console.error('no queue'); exports.health = 500;",
                "print('no queue', flush=True)\nhealth = 500",
            ],
            keys: [
                &[
                    LONG_CANARY,
                    (
                        "health",
                        "{ http = \"/health\", interval = \"100ms\", failures = 2 }",
                    ),
                ],
                &[
                    LONG_CANARY,
                    (
                        "health",
                        "{ exec = [\"./check\"], interval = \"100ms\", failures = 2 }",
                    ),
                ],
            ],
            cause: &["slot 0", "is not healthy: ", "(2 times in a row)"],
            also: [
                &["/health answered 500 Internal Server Error"],
                &["./check", "returned error: 500"],
            ],
            last_lines: [&["no queue"]; 2],
            ..Bad::default()
        },
        Bad {
            name: "blocks its loop after 500 ms",
            fault: [
                "exports.at = 500;\n\
                 exports.act = () => { console.log('sorting everything'); for (;;); };",
                "at = 0.5\ndef act():\n    print('sorting everything', flush=True)\n    \
                 while True: pass",
            ],
            // Node is asked at the end of canary_time; others owe signs of life.
            keys: [
                &[
                    ("canary_time", "\"2s\""),
                    ("blocked_timeout", "\"500ms\""),
                    ("hung_timeout", "\"500ms\""),
                ],
                &[
                    LONG_CANARY,
                    ("watchdog", "\"2s\""),
                    ("drain_timeout", "\"1s\""),
                ],
            ],
            cause: &["slot 0"],
            also: [
                &["has not answered for ", "its event loop is blocked"],
                &["has sent no WATCHDOG=1 for "],
            ],
            last_lines: [&["sorting everything"]; 2],
            ..Bad::default()
        },
        Bad {
            name: "misses a variable",
            keys: [&[("environment", "{}")]; 2],
            cause: &["slot 0", "exited with status 1 before it was ready"],
            last_lines: [
                &["DATABASE_URL is not set", "shop.js:"],
                &["KeyError: 'DATABASE_URL'", "shop.py\", line "],
            ],
            ..Bad::default()
        },
        Bad {
            name: "syntax error in the program",
            fault: ["exports.act = () => {\n", "def act(:\n"],
            cause: &["slot 0", "exited with status 1 before it was ready"],
            last_lines: [
                &["SyntaxError", "/srv/shop/fault.js"],
                &["SyntaxError", "/srv/shop/fault.py\", line 1"],
            ],
            ..Bad::default()
        },
        Bad {
            name: "config typo",
            keys: [&[("wrokers", "3")]; 2],
            cause: &[
                "/etc/app-cluster/app-cluster.toml:",
                "`wrokers`",
                "`workers`",
                "^^^^^^^",
            ],
            ..Bad::default()
        },
        Bad {
            name: "program not executable",
            script: "chmod -x shop.*",
            keys: [
                &[("command", "\"./shop.js\"")],
                &[("command", "\"./shop.py\"")],
            ],
            cause: &["/srv/shop/shop.", "executable", "chmod +x"],
            ..Bad::default()
        },
        Bad {
            name: "user does not exist",
            keys: [&[("user", "\"shopp\"")]; 2],
            cause: &["no user", "shopp"],
            ..Bad::default()
        },
        Bad {
            name: "too few socket lines",
            keys: [&[("workers", "4"), ("max_workers", "4")]; 2],
            cause: &[
                "max_workers: 2 -> 4 sockets at 127.0.0.1:3000",
                "systemctl daemon-reload",
                "systemctl restart app-cluster.service app-cluster.socket",
            ],
            ..Bad::default()
        },
    ]
}

/// The configuration of a good release, with `keys` instead of or besides its own.
fn config(app: App, keys: &[(&str, &str)]) -> String {
    let mut all: BTreeMap<&str, &str> = [
        ("command", app.command),
        ("directory", "\"/srv/shop\""),
        ("environment", "{ DATABASE_URL = \"db.example\" }"),
        ("listen", "[\"127.0.0.1:3000\"]"),
        ("balance", "\"even\""),
        ("workers", "2"),
        ("max_workers", "2"),
        ("start_timeout", "\"60s\""),
    ]
    .into();
    all.extend(keys.iter().copied());
    let line = |(key, value): (&str, &str)| format!("{key} = {value}\n");
    all.into_iter().map(line).collect()
}

/// Puts a release where the service finds it.
#[track_caller]
fn put(b: &TestBox, app: App, bad: &Bad) {
    b.write(&format!("{HOME}/{}", app.program), app.text);
    b.write(&format!("{HOME}/{}", app.fault), bad.fault[app.index]);
    b.write(&format!("{HOME}/check"), CHECK);
    b.sh(&format!(
        "cd {HOME}; chmod 755 shop.* check; {}",
        bad.script
    ))
    .ok();
    b.write(CONFIG, &config(app, bad.keys[app.index]));
}

#[track_caller]
fn contains_all(name: &str, text: &str, parts: &[&str]) {
    for part in parts {
        assert!(
            text.contains(part),
            "{name}: {part:?} is missing in\n{text}"
        );
    }
}

/// Clients of every kind that the app can serve.
#[track_caller]
fn load(b: &TestBox, app: App) -> Load {
    let pace = scale(200, 40) as u32;
    let mut spec = clients(b)
        .with_pace(Kind::NewConnection, 2, pace)
        .with_pace(Kind::KeepAlive, 2, pace)
        .with_pace(Kind::SlowPost, 1, 2);
    if app.index == NODE.index {
        spec = spec.with(Kind::Slow { ms: 300 }, 2);
    }
    let load = Load::start(spec).expect("a load");
    load.wait_for(3, LONG).expect("first answers");
    load
}

fn bad_releases_of_a_node_app(b: &TestBox) {
    all_rows(b, NODE);
}

fn bad_releases_of_a_python_app(b: &TestBox) {
    all_rows(b, PYTHON);
}

#[track_caller]
fn all_rows(b: &TestBox, app: App) {
    let good = Bad::default();
    put(b, app, &good);
    crate::lines::start(b, &config(app, &[]));
    let load = load(b, app);
    let before = pids(b);
    for bad in table() {
        put(b, app, &bad);
        refused(b, app, &bad);
        put(b, app, &good);
        nothing_has_changed(b, bad.name, &before);
        load.wait_for_more(1, LONG).expect("requests");
    }
    reload(b).ok();
    let generation = status(b)["generation"].as_u64().expect("a number");
    all_run_generation(b, generation as usize, SLOTS);
    let after = pids(b);
    assert!(before.iter().all(|pid| !after.contains(pid)), "{after:?}");
    load.wait_for_more(3, LONG).expect("requests");
    load.stop().assert_lossless(20);
}

/// A reload of it fails, whoever asks for it, and says why.
#[track_caller]
fn refused(b: &TestBox, app: App, bad: &Bad) {
    let name = bad.name;
    let cursor = b
        .run(&["journalctl", "-q", "-n", "0", "--show-cursor"])
        .ok();
    let cursor = cursor.rsplit(' ').next().unwrap_or_default().to_owned();
    reload(b).fails();
    let journal = b.journal(&["-u", SERVICE, &format!("--after-cursor={cursor}")]);
    let parts = [bad.cause, bad.also[app.index]].concat();
    contains_all(name, &journal, &parts);
    contains_all(name, &journal, bad.last_lines[app.index]);

    let out = long(b, "app-cluster reload").fails();
    assert_eq!((out.code, out.stdout.as_str()), (1, ""), "{name}: {out}");
    contains_all(name, &out.stderr, &parts);
    for line in bad.last_lines[app.index] {
        let shown = |l: &str| l.starts_with("  | ") && l.contains(line);
        assert!(out.stderr.lines().any(shown), "{name}: {line:?}\n{out}");
    }
}

/// The workers are the same, and of the new ones nothing is left.
#[track_caller]
fn nothing_has_changed(b: &TestBox, name: &str, before: &[i64]) {
    assert_eq!(pids(b), before, "{name}");
    all_run_generation(b, 1, SLOTS);
    assert_eq!(status(b)["degraded"], Value::Null, "{name}");
    assert_eq!(b.run(&["systemctl", "is-active", SERVICE]).ok(), "active");
    b.wait_for(&format!("{name}: an end of the new ones"), LONG, || {
        processes_of(b, SERVICE).len() == SLOTS + 1
    });
}
