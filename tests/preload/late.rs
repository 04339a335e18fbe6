// SPDX-License-Identifier: MIT OR Apache-2.0
//! Behind a launcher the app is a worker all the same, and the launcher is none.

use crate::node_primary::{Sockets, Start};
use crate::node_tools::Node;
use crate::{Test, packages, program};
use serde_json::json;
use std::fs;

pub const TESTS: &[(&str, Test)] = &[
    ("apps_attach_behind_launchers", apps_attach_behind_launchers),
    (
        "steps_of_a_start_script_come_to_an_end",
        steps_of_a_start_script_come_to_an_end,
    ),
];

/// A package with these scripts, our app in it, and the launchers.
fn project(scripts: &serde_json::Value) -> tempfile::TempDir {
    let home = tempfile::tempdir().expect("a directory");
    let path = |name: &str| home.path().join(name);
    let package = json!({"name": "app", "private": true, "type": "module", "scripts": scripts});
    fs::write(path("package.json"), package.to_string()).expect("a file");
    for name in ["app.mjs", "app.ts"] {
        fs::copy(program("late.mjs"), path(name)).expect("a copy");
    }
    let modules = packages().expect("packages").join("node_modules");
    std::os::unix::fs::symlink(modules, path("node_modules")).expect("a link");
    home
}

fn apps_attach_behind_launchers(node: &Node) {
    let home = project(&json!({"start": "node app.mjs", "typed": "cross-env A=1 tsx app.ts"}));
    let mut commands = vec![
        "npm start",
        "npm run --silent typed",
        "npx --no-install tsx app.ts",
        "node_modules/.bin/tsx app.ts",
        "node_modules/.bin/cross-env A=1 node app.mjs",
        "sh -c node\tapp.mjs;true",
        "node app.mjs",
    ];
    if node.major() >= 22 {
        commands.push("node --run start");
    }
    for command in commands {
        let words: Vec<String> = command.split(' ').map(|w| w.replace('\t', " ")).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let start = Start::new(node)
            .late()
            .directory(home.path())
            .options("--no-deprecation");
        let worker = start
            .env("npm_config_update_notifier", false)
            .spawn(&words, &Sockets::default());
        let up = worker.event("up");
        worker.listening();
        assert_eq!(up["worker"], true, "{command}: {up}");
        assert_eq!(
            (&up["isPrimary"], &up["id"]),
            (&json!(false), &json!(7)),
            "{command}: {up}"
        );
        assert_eq!(up["connected"], true, "{command}: {up}");
        assert_eq!(up["options"], "--no-deprecation", "{command}: {up}");
        assert!(up["fd"].is_null(), "{command}: {up}");
        let hellos = worker.said(|m| m["act"] == "hello");
        assert_eq!(hellos.len(), 1, "{command}: {hellos:?}");
        assert_eq!(hellos[0].1["pid"], up["pid"], "{command}");
        assert_eq!(worker.said(|m| m["act"] == "online").len(), 1, "{command}");
        worker.send(&json!({"a": 1}));
        assert_eq!(
            worker.event("echo")["message"],
            json!({"a": 1}),
            "{command}"
        );
        worker.drain(50, 10_000);
        worker.wait_for("drained");
    }
}

/// What runs before the app in the same script is a worker for a while, which must not hold it.
fn steps_of_a_start_script_come_to_an_end(node: &Node) {
    let scripts = json!({"prestart": "node step.mjs", "start": "node step.mjs && node app.mjs"});
    let home = project(&scripts);
    fs::write(
        home.path().join("step.mjs"),
        "process.send?.({ event: 'step' });",
    )
    .expect("a file");
    let start = Start::new(node).late().directory(home.path());
    let worker = start.spawn(&["npm", "start"], &Sockets::default());
    let up = worker.event("up");
    assert_eq!(worker.events("step"), 2);
    let hellos = worker.said(|m| m["act"] == "hello");
    assert_eq!(
        hellos.last().map(|(_, hello)| &hello["pid"]),
        Some(&up["pid"]),
        "{hellos:?}"
    );
}
