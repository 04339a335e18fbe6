// SPDX-License-Identifier: MIT OR Apache-2.0
//! In force in the app's main process alone, and hardly to be seen there.

use crate::node_primary::{PRELOAD, Sockets, Start};
use crate::node_tools::Node;
use crate::{Test, program};
use serde_json::{Value, json};
use std::process::Command;

pub const TESTS: &[(&str, Test)] = &[
    (
        "children_and_threads_see_nothing",
        children_and_threads_see_nothing,
    ),
    (
        "without_a_channel_it_does_nothing",
        without_a_channel_it_does_nothing,
    ),
    ("it_survives_what_is_missing", it_survives_what_is_missing),
];

fn children_and_threads_see_nothing(node: &Node) {
    let own = "--max-old-space-size=300 --no-deprecation";
    for (late, options) in [(false, ""), (false, own), (true, own), (true, "")] {
        let mut begin = Start::new(node);
        if late {
            begin = begin.late();
        }
        if !options.is_empty() {
            begin = begin.options(options);
        }
        let file = program("environment.cjs");
        let worker = begin.spawn(&["node", &file], &Sockets::default());
        let expected = if options.is_empty() {
            Value::Null
        } else {
            json!(options)
        };
        for (name, inside) in [
            ("app", true),
            ("child", false),
            ("fork", false),
            ("thread", false),
        ] {
            let seen = worker.event(name);
            assert_eq!(seen["options"], expected, "{name}: {seen}");
            assert_eq!(seen["ours"], json!([]), "{name}: {seen}");
            assert_eq!(seen["worker"], inside, "{name}: {seen}");
            assert_eq!(seen["patched"], inside, "{name}: {seen}");
            assert_eq!(seen["loaded"], false, "{name}: {seen}");
            assert_eq!(seen["arguments"], json!([]), "{name}: {seen}");
        }
        let app = worker.event("app");
        assert_eq!((&app["id"], &app["primary"]), (&json!(7), &json!(false)));
        assert_eq!(app["connected"], true);
        let hellos = worker.said(|m| m["act"] == "hello");
        assert_eq!(hellos.len(), 1, "{hellos:?}");
        assert_eq!(hellos[0].1["pid"], app["pid"]);
    }
}

/// Runs `script` with the preload, but no channel.
fn run(node: &Node, options: &str, script: &str) -> String {
    let out = Command::new(&node.program)
        .args(["-e", script])
        .env("NODE_OPTIONS", options)
        .output()
        .expect("node");
    assert!(out.status.success(), "{out:?}");
    String::from_utf8(out.stdout).expect("UTF-8")
}

fn without_a_channel_it_does_nothing(node: &Node) {
    let ours = format!("--require \"{PRELOAD}\"");
    let script = "console.log(JSON.stringify([process.env.NODE_OPTIONS || null, \
        require('cluster').isPrimary, require('net').Server.prototype.listen.toString().includes('watch(')]))";
    for (before, after, left) in [
        ("", "", Value::Null),
        ("--no-deprecation ", "", json!("--no-deprecation")),
        ("", " --no-deprecation", json!(" --no-deprecation")),
        (
            "--no-deprecation  --no-warnings ",
            "",
            json!("--no-deprecation  --no-warnings"),
        ),
    ] {
        let said = run(node, &format!("{before}{ours}{after}"), script);
        let said: Value = serde_json::from_str(&said).expect("JSON");
        assert_eq!(said, json!([left, true, false]), "{before:?} {after:?}");
    }
    // A variable that is there by mistake names no channel.
    let out = Command::new(&node.program)
        .args(["-p", "process.env.APP_CLUSTER_FD"])
        .env("NODE_OPTIONS", &ours)
        .envs([("APP_CLUSTER_FD", "20"), ("APP_CLUSTER_ID", "1")])
        .output()
        .expect("node");
    assert_eq!(
        String::from_utf8_lossy(&out.stdout),
        "undefined\n",
        "{out:?}"
    );
}

/// A Node that has not what it needs runs the app all the same.
fn it_survives_what_is_missing(node: &Node) {
    let home = tempfile::tempdir().expect("a directory");
    let spoil = home.path().join("spoil.cjs");
    for (number, text) in [
        "delete require('net').Server.prototype.listen",
        "Object.freeze(require('net').Server.prototype)",
        "require('http').ServerResponse.prototype._storeHeader = null",
        "require('child_process')._forkChild = null; delete require('cluster')._setupWorker",
        "process.channel = undefined",
    ]
    .iter()
    .enumerate()
    {
        std::fs::write(&spoil, text).expect("a file");
        let options = format!("--require {}", spoil.display());
        let file = home.path().join("app.cjs");
        std::fs::write(&file, "process.send({ event: 'here' })").expect("a file");
        let begin = Start::new(node).options(&options);
        let worker = begin.spawn(&["node", &file.display().to_string()], &Sockets::default());
        assert_eq!(worker.event("here"), json!({"event": "here"}), "{number}");
        worker.send(&json!({"cmd": "NODE_APP_CLUSTER", "act": "drain", "quiet": 10}));
        worker.act("vitals");
        worker.act("release");
    }
}
