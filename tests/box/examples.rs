// SPDX-License-Identifier: MIT OR Apache-2.0
//! The examples for Node, put where `examples/README.md` says, as services.
//! `tests/frameworks.rs` looks at what they do.

use std::process::Command;

use crate::harness::{Test, TestBox, test};
use crate::packages::Source;
use crate::service::long;
use crate::versions::{MAIN, Node};

pub const TESTS: &[Test] = &[test!(examples_for_node)];

/// Name, what to ask, and what is in the answer. There is no Redis in the box.
const ALL: [(&str, &str, &str); 6] = [
    ("express", "8001/", "\"worker\":"),
    ("websocket", "8002/", "new WebSocket("),
    ("redis", "", ""),
    ("graceful-shutdown", "8004/", "\"pid\":"),
    ("database-pool", "8005/pool", "\"max\":5,"),
    ("companion", "8006/stats", "\"requests\":"),
];

fn examples_for_node(b: &TestBox) {
    let mut put = Vec::new();
    for example in ALL {
        match set_up(b, example.0) {
            Ok(()) => put.push(example),
            Err(why) => eprintln!("box: the example {} is left out: {why}", example.0),
        }
    }
    // This one has no packages.
    assert!(put.iter().any(|example| example.0 == "graceful-shutdown"));
    for (name, ..) in &put {
        // The unit's view: its user, its sandbox.
        let out = b.run(&["app-cluster", "check", name]);
        let fine = format!("/etc/app-cluster/{name}.toml: ok\n");
        let rest = out.stdout.strip_prefix(&fine);
        // With "max" there is a line more, that says how many workers there will be.
        let told = |rest: &str| rest.is_empty() || rest.contains("(workers = \"max\": ");
        assert!(rest.is_some_and(told) && out.stderr.is_empty(), "{out}");
    }
    b.run(&["systemctl", "daemon-reload"]).ok();
    for (name, address, part) in put.iter().filter(|example| !example.1.is_empty()) {
        long(b, &format!("systemctl start app-cluster@{name}")).ok();
        let ask = format!("curl -sS --max-time 60 http://127.0.0.1:{address}");
        let answer = b.sh(&ask).ok();
        assert!(answer.contains(part), "{name}: {answer}");
        long(b, &format!("systemctl reload app-cluster@{name}")).ok();
        let answer = b.sh(&ask).ok();
        assert!(answer.contains(part), "{name}: {answer}");
        if *name == "companion" {
            companion_is_apart(b);
        }
        long(b, &format!("systemctl stop app-cluster@{name}")).ok();
        let result = b.show(&format!("app-cluster@{name}.service"), "Result");
        assert_eq!(result, "success", "{name}");
    }
}

/// The companion has a cgroup of its own, and is started again when all of that is killed.
fn companion_is_apart(b: &TestBox) {
    let find = "find /sys/fs/cgroup -path '*/app-cluster@companion.service/companion/cgroup.procs'";
    let members = || b.sh(&format!("{find} -exec cat {{}} +")).stdout;
    let before = members();
    assert_eq!(before.lines().count(), 1, "{before:?}");
    b.sh(&format!("kill -9 {before}")).ok();
    b.wait_until("another companion", || {
        let now = members();
        now.lines().count() == 1 && now != before
    });
    let status = b.run(&["app-cluster", "status", "companion"]).ok();
    let line = format!("Companion: running, pid {},", members().trim());
    assert!(status.contains(&line), "{status}");
    // What Node says of a warning goes to the journal, as the companion's.
    b.sh(&format!("kill -USR1 {}", members().trim())).ok();
    b.wait_until("a line in the log", || {
        let logs = b.run(&["app-cluster", "logs", "companion"]).stdout;
        let line = format!(
            "companion[companion] {} | Debugger listening",
            members().trim()
        );
        logs.contains(&line)
    });
}

/// `cp -r examples/node/NAME /srv/`, `npm install`, and the configuration.
fn set_up(b: &TestBox, name: &str) -> Result<(), String> {
    let source = Source::at(&format!("examples/node/{name}"));
    // Whichever Node installs them: they are all of JavaScript.
    let node = Node::get(MAIN)?;
    let directory = tempfile::tempdir().expect("a directory");
    source.install(&node, directory.path())?;
    let into = format!("/proc/{}/root/srv/{name}", b.leader_pid());
    let mut copy = Command::new("cp");
    // With what links lead to.
    copy.args(["-rL", "--no-preserve=all"])
        .arg(directory.path())
        .arg(into);
    assert!(copy.status().expect("cp").success(), "{name}");
    let config = format!("cp /srv/{name}/app-cluster.toml /etc/app-cluster/{name}.toml");
    b.sh(&config).ok();
    Ok(())
}
