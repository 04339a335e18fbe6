// SPDX-License-Identifier: MIT OR Apache-2.0
//! `app-cluster start` of a program that has to tell where it listens, in surroundings
//! that could get in the way.

use crate::harness::{Test, TestBox, test};
use crate::service::{LONG, ask, long};
use crate::start::traces;

pub const TESTS: &[Test] = &[
    test!(start_learns_the_address_with_a_narrow_umask),
    test!(start_learns_the_address_with_a_closed_tmpdir),
    test!(start_that_is_interrupted_while_it_learns_leaves_nothing),
];

/// A program that listens on a port of its own choice, and one that takes its time.
#[track_caller]
fn set_up(b: &TestBox) {
    let server = "require('http').createServer((q, r) => r.end(JSON.stringify({\
                  pid: process.pid }))).listen(4031)";
    b.write("/srv/shop/server.js", server);
    // Its child ignores SIGTERM, in a session of its own.
    let slow = "require('child_process').spawn('sh', ['-c', \"trap '' TERM; sleep 1001; sleep 1002\"],\
                { detached: true });\nsetInterval(() => {}, 1000)";
    b.write("/srv/shop/slow.js", slow);
    b.sh("mkdir -p /srv/mail /home/alice/shop").ok();
}

/// Starts it after `before`, in the same shell, and asks it.
#[track_caller]
fn learns(b: &TestBox, before: &str) {
    set_up(b);
    let start = "cd /srv/shop; app-cluster start ./server.js --name x -i 2";
    let out = long(b, &format!("{before}; {start}"));
    assert!(out.stderr.contains("x | it listens on 4031"), "{out}");
    assert!(out.ok().contains("2/2 ready"));
    let file = b.read("/etc/app-cluster/x.toml");
    assert!(file.contains("\nlisten = [\"4031\"]\n"), "{file}");
    let pid = ask(b, "http://127.0.0.1:4031/")["pid"].to_string();
    let owner = b.run(&["ps", "-o", "user:32=", "-p", &pid]).ok();
    assert_eq!(owner, "app-cluster");
    let left = b.sh("ls -A /run /tmp | grep preload || true").ok();
    assert_eq!(left, "");
}

fn start_learns_the_address_with_a_narrow_umask(b: &TestBox) {
    learns(b, "umask 077");
    // It is read by whoever may read the others.
    let mode = b.run(&["stat", "-c", "%a %U", "/etc/app-cluster/x.toml"]);
    assert_eq!(mode.ok(), "644 root");
}

fn start_learns_the_address_with_a_closed_tmpdir(b: &TestBox) {
    b.sh("mkdir -m 700 /srv/closed").ok();
    learns(b, "export TMPDIR=/srv/closed");
    assert_eq!(b.sh("ls -A /srv/closed").ok(), "");
}

fn start_that_is_interrupted_while_it_learns_leaves_nothing(b: &TestBox) {
    set_up(b);
    let before = traces(b);
    let script = "cd /srv/shop; echo $$ >/tmp/pid; exec app-cluster start ./slow.js --name x";
    let learning = b.spawn(script, LONG);
    let sleeps = || b.sh("pgrep -f '^sleep 100[12]' || true").ok();
    b.wait_for("the worker and its child", LONG, || !sleeps().is_empty());
    assert!(
        b.sh("ls /run | grep preload").code == 0,
        "nothing to leave behind"
    );
    b.sh("kill -TERM $(cat /tmp/pid)").ok();
    let out = learning.wait().fails();
    assert!(!out.stdout.contains("ready"), "{out}");
    let left = b.sh("pgrep -af '[s]low[.]js|^sleep 100' || true").ok();
    assert_eq!(left, "", "{out}");
    assert!(!b.exists("/etc/app-cluster/x.toml"), "{out}");
    assert_eq!(traces(b), before, "{out}");
    let failed = b.run(&["systemctl", "--failed", "--plain", "--no-legend"]);
    assert_eq!(failed.ok(), "");
}
