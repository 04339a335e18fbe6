// SPDX-License-Identifier: MIT OR Apache-2.0
//! A supervisor goes when the machine or the unit is not as it should be: the workers serve on,
//! somebody says what is wrong, and there is a way out.

use serde_json::Value;

use crate::app::{self, LONG, SERVICE};
use crate::fate_app::{Blow, survive, workers};
use crate::harness::{Test, TestBox, test};
use crate::load::Kind;

pub const TESTS: &[Test] = &[
    test!(what_would_leave_workers_alone),
    test!(a_restart_in_the_moment_of_a_crash),
    test!(the_user_was_changed),
    test!(no_room_in_the_runtime_directory),
    test!(a_socket_was_opened_meanwhile),
    test!(workers_behind_a_launcher),
];

const BOTH: &[Kind] = &[Kind::NewConnection, Kind::KeepAlive];
const DROP_IN: &str = "/etc/systemd/system/app-cluster.service.d/test.conf";

/// Kills the supervisor, and does not wait.
#[track_caller]
fn kill(b: &TestBox) {
    b.run(&["kill", "-KILL", &app::supervisor(b)]).ok();
}

#[track_caller]
fn settled(b: &TestBox, state: &str) {
    b.wait_for(state, LONG, || b.show(SERVICE, "SubState") == state);
}

#[track_caller]
fn told(b: &TestBox, text: &str) {
    b.wait_for(text, LONG, || b.journal(&["-u", SERVICE]).contains(text));
}

fn degraded(b: &TestBox) -> String {
    app::status(b)["degraded"].as_str().unwrap_or("").to_owned()
}

fn what_would_leave_workers_alone(b: &TestBox) {
    app::drop_in(b, "[Service]\nRestart=no\n");
    app::start(b, &app::hello(8));
    let before = app::all_ready(b, 8);
    let load = app::load(b, BOTH);
    // systemd would not start another one.
    let out = b.run(&["app-cluster", "restart", "--keep-workers"]).fails();
    assert!(out.stderr.contains("has Restart=no"), "{out}");
    assert!(out.stderr.contains("app-cluster upgrade"), "{out}");
    assert_eq!(app::all_ready(b, 8), before);
    survive(b, Blow::Upgrade);
    // Nobody comes between two supervisors.
    app::drop_in(b, "[Service]\nRestartSec=1h\n");
    kill(b);
    settled(b, "auto-restart");
    let out = b.run(&["app-cluster", "run", "app-cluster"]).fails();
    assert!(out.stderr.contains("is run by systemd"), "{out}");
    // One that cannot have all that was kept takes none of it for lost, however often.
    app::drop_in(b, "[Service]\nLimitNOFILE=64\nRestartSec=100ms\n");
    b.run(&["systemctl", "reset-failed", SERVICE]);
    let next = b.spawn(&format!("systemctl start {SERVICE}"), LONG);
    told(
        b,
        "LimitNOFILE= (`ulimit -n`) is 64, and the supervisor needs",
    );
    b.wait_for("more starts than one may fail in", LONG, || {
        b.show(SERVICE, "NRestarts")
            .parse()
            .is_ok_and(|n: u32| n > 5)
    });
    let mut left = app::processes(b);
    left.retain(|pid| before.iter().any(|known| known.to_string() == *pid));
    assert_eq!(left.len(), 8, "{left:?}");
    b.sh(&format!("rm {DROP_IN}; systemctl daemon-reload")).ok();
    assert_eq!(app::all_ready(b, 8), before);
    drop(next);
    load.stop().assert_lossless(20);
}

/// It is a restart: other workers, with the configuration of now, and no crashes.
fn a_restart_in_the_moment_of_a_crash(b: &TestBox) {
    // systemd is busy with the crash for as long as that.
    let held = "sh -c 'until [ -e /tmp/go ]; do sleep .05; done'";
    app::drop_in(
        b,
        &format!(
            "[Service]\nRestartSec=1h\nExecStopPost=\nExecStopPost=-/bin/{held}\n\
             ExecStopPost=-+/usr/bin/app-cluster sweep app-cluster\n"
        ),
    );
    app::start(b, &app::hello(2));
    let before = app::all_ready(b, 2);
    let load = app::load(b, BOTH);
    app::configure(b, &app::hello(3));
    kill(b);
    settled(b, "stop-post");
    b.run(&["systemctl", "restart", "--no-block", SERVICE]).ok();
    b.wait_for("a job", LONG, || {
        let job = b.show(SERVICE, "Job");
        !job.is_empty() && job != "0"
    });
    b.sh("touch /tmp/go").ok();
    let now = app::all_ready(b, 3);
    assert!(before.iter().all(|pid| !now.contains(pid)), "{now:?}");
    let status = app::status(b);
    assert!(workers(&status).iter().all(|(_, restarts)| *restarts == 0));
    assert_eq!(status["degraded"], Value::Null, "{status}");
    b.wait_for("no process but the workers and theirs", LONG, || {
        app::processes(b).len() == 4
    });
    // A moment later systemd has nothing to stop: it is the start that was to come.
    app::configure(b, &app::hello(4));
    kill(b);
    settled(b, "auto-restart");
    b.run(&["systemctl", "restart", SERVICE]).ok();
    assert_eq!(app::all_ready(b, 3), now);
    assert_eq!(app::processes(b).len(), 4);
    load.stop().assert_lossless(10);
}

fn the_user_was_changed(b: &TestBox) {
    b.sh("useradd -r other").ok();
    let keys = "drain_timeout = \"20s\"\n";
    app::start(b, &(app::hello(2) + keys));
    let before = app::all_ready(b, 2);
    let load = app::load(b, BOTH);
    app::configure(b, &(app::hello(2) + keys + "user = \"other\"\n"));
    b.run(&["systemctl", "daemon-reload"]).ok();
    kill(b);
    b.wait_for("a supervisor that tells", LONG, || {
        app::ask_status(b).is_some() && degraded(b).contains("have another user")
    });
    assert_eq!(app::all_ready(b, 2), before);
    for verb in ["reload", "restart"] {
        let out = b.run(&["app-cluster", verb]).fails();
        assert!(out.stderr.contains("systemctl restart"), "{verb}: {out}");
    }
    assert_eq!(app::all_ready(b, 2), before);
    // What they have accepted they finish, and nobody waits for the rest of drain_timeout.
    let slow = b.spawn(
        "curl -s --local-port 20001 'http://127.0.0.1:3000/slow?ms=3000'",
        LONG,
    );
    // In a queue a connection has no process.
    b.wait_for("it is accepted", LONG, || {
        let all = b.sh("ss -Htnp 'sport = :3000 and dport = :20001'").ok();
        all.contains("users:")
    });
    b.run(&["systemctl", "restart", SERVICE]).ok();
    assert!(slow.wait().ok().contains("\"slot\""), "it was not finished");
    let now = app::all_ready(b, 2);
    assert!(before.iter().all(|pid| !now.contains(pid)));
    let users = b.sh(&format!("ps -o user= -p {},{}", now[0], now[1])).ok();
    assert_eq!(users.lines().collect::<Vec<_>>(), ["other", "other"]);
    assert_eq!(degraded(b), "");
    assert!(!b.journal(&["-u", SERVICE]).contains("timed out"));
    load.stop().assert_lossless(10);
}

fn no_room_in_the_runtime_directory(b: &TestBox) {
    b.sh("mkdir -p /run/app-cluster
          mount -t tmpfs -o mode=755,size=1m,nr_inodes=40 tmpfs /run/app-cluster")
        .ok();
    let fill = "mkdir /run/app-cluster/full
                while : 2>/dev/null >/run/app-cluster/full/$((n=n+1)); do :; done; true";
    app::start(b, &app::hello(2));
    let before = app::all_ready(b, 2);
    let load = app::load(b, BOTH);
    b.run(&["sh", "-c", fill]);
    let free = b.sh("df --output=iavail /run/app-cluster | tail -n 1").ok();
    assert_eq!(free.trim(), "0");
    survive(b, Blow::Kill);
    survive(b, Blow::Upgrade);
    for verb in [&["restart", "--keep-workers"] as &[&str], &["reload"]] {
        let out = b.run(&[&["app-cluster"], verb].concat()).fails();
        assert!(out.stderr.contains("No space left"), "{verb:?}: {out}");
    }
    assert_eq!(app::all_ready(b, 2), before);
    b.sh("rm -r /run/app-cluster/full").ok();
    b.run(&["app-cluster", "reload"]).ok();
    load.stop().assert_lossless(20);
}

fn a_socket_was_opened_meanwhile(b: &TestBox) {
    app::drop_in(b, "[Service]\nRestartSec=1h\n");
    app::start(b, &app::hello(2));
    let before = app::all_ready(b, 2);
    let load = app::load(b, BOTH);
    kill(b);
    settled(b, "auto-restart");
    let listen = "listen = [\"3000\", \"127.0.0.1:4000\"]\n";
    app::configure(b, &(app::hello(2) + listen));
    // From now on it may be started; systemd 252 has `start` wait for that.
    app::drop_in(b, "[Service]\nRestartSec=100ms\n");
    b.run(&["systemctl", "start", SERVICE]).ok();
    assert_eq!(app::all_ready(b, 2), before);
    let told = degraded(b);
    assert!(
        told.contains("127.0.0.1:4000: opened since") && told.contains("app-cluster reload"),
        "{told:?}"
    );
    b.run(&["app-cluster", "reload"]).ok();
    assert_eq!(degraded(b), "");
    let get = "curl -sS -m 10 http://127.0.0.1:4000/";
    assert!(b.sh(get).ok().contains("\"slot\""));
    load.stop().assert_lossless(20);
}

/// The process that we started is not the one that serves.
fn workers_behind_a_launcher(b: &TestBox) {
    b.write("/srv/app/main.js", include_str!("workers/launched.js"));
    // As npm and yarn do: they wait for a shell that runs the script.
    b.write(
        "/srv/app/npm",
        "#!/bin/sh\nsh -c \"node main.js; exit \\$?\"\n",
    );
    b.sh("chmod +x /srv/app/npm").ok();
    let config = "command = [\"./npm\", \"start\"]\ndirectory = \"/srv/app\"\nworkers = 2\n\
                  protocol = \"node\"\nstart_timeout = \"60s\"\n";
    app::start(b, config);
    app::all_ready(b, 2);
    let family = |b: &TestBox| {
        let supervisor = app::supervisor(b);
        let mut all = app::processes(b);
        all.retain(|pid| *pid != supervisor);
        all.sort();
        all
    };
    let before = family(b);
    assert!(
        before.len() >= 6,
        "two of a launcher, a shell and Node: {before:?}"
    );
    let load = app::load(b, BOTH);
    for (n, blow) in [Blow::Kill, Blow::Upgrade, Blow::Kill]
        .into_iter()
        .enumerate()
    {
        survive(b, blow);
        assert_eq!(family(b), before, "{blow:?}");
        // The channel is still there, both ways.
        let message = format!("\"after {blow:?} {n}\"");
        b.run(&["app-cluster", "send", "app-cluster", &message])
            .ok();
        b.wait_for("both to have heard it", LONG, || {
            let log = b.run(&["cat", "/tmp/heard"]).stdout;
            log.lines().filter(|line| **line == message).count() == 2
        });
    }
    b.run(&["app-cluster", "reload"]).ok();
    app::all_ready(b, 2);
    b.wait_for("the old ones to be gone", LONG, || {
        family(b).iter().all(|pid| !before.contains(pid))
    });
    load.stop().assert_lossless(20);
}
