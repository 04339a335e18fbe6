// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is left of an app when its supervisor is gone: nothing after a stop, all its workers
//! after a crash.

use crate::app::{self, LONG, SERVICE};
use crate::harness::{Test, TestBox, test};

pub const TESTS: &[Test] = &[
    test!(stop_leaves_nothing),
    test!(what_workers_write_saves_none_of_them),
    test!(a_crash_leaves_the_workers),
    test!(a_stop_between_two_starts_is_finished_by_our_own),
    test!(a_stop_between_two_starts_is_finished_by_the_next_start),
    test!(a_supervisor_that_is_killed_while_it_stops_leaves_nothing),
    test!(a_supervisor_that_does_not_stop_leaves_nothing),
    test!(workers_of_another_user_are_swept_too),
    test!(nobody_else_can_be_swept),
];

const CGROUP: &str = "/sys/fs/cgroup/system.slice/app-cluster.service";
const RUNTIME: &str = "/run/app-cluster/app-cluster";

/// Not started again for now.
fn stays_down(b: &TestBox) {
    app::drop_in(b, "[Service]\nRestartSec=1h\n");
}

/// Kills the supervisor, and waits until systemd has seen to it.
#[track_caller]
fn kill_the_supervisor(b: &TestBox) {
    b.run(&["kill", "-KILL", &app::supervisor(b)]).ok();
    b.wait_for("systemd to wait for the next start", LONG, || {
        b.show(SERVICE, "SubState") == "auto-restart"
    });
}

#[track_caller]
fn nothing_is_left(b: &TestBox) {
    let left = app::processes(b);
    assert_eq!(left, Vec::<String>::new());
    assert!(!b.exists(CGROUP), "the cgroup is still there");
    let left = b.run(&["pgrep", "-a", "-u", "app-cluster"]);
    assert_eq!(left.code, 1, "{left}");
    assert!(!b.exists(RUNTIME), "the runtime directory is still there");
}

/// A process of the app's user somewhere in the service's cgroup, of which no supervisor
/// knows; gives its pid.
#[track_caller]
fn stray(b: &TestBox, cgroup: &str, script: &str) -> String {
    let ready = format!("/tmp/stray-{}", cgroup.replace('/', "-"));
    let run = format!(
        "mkdir -p {CGROUP}/{cgroup}; chown app-cluster: {CGROUP}/{cgroup}
         sh -c 'echo $$ >{CGROUP}/{cgroup}/cgroup.procs; echo $$ >{ready}.new
                exec setpriv --reuid app-cluster --regid app-cluster --clear-groups \
                     setsid sh -c \"$1\"' sh '{script}' >/dev/null 2>&1 &
         until [ -e {ready}.new ]; do sleep 0.01; done; mv {ready}.new {ready}; cat {ready}"
    );
    let pid = b.sh(&run).ok();
    b.wait_for("the stray process to be what it is", LONG, || {
        b.sh(&format!("tr '\\0' ' ' </proc/{pid}/cmdline"))
            .stdout
            .starts_with("sleep")
    });
    pid
}

fn lines_of_sweep(b: &TestBox) -> Vec<String> {
    let all = b.journal(&["-u", SERVICE, "-o", "cat"]);
    let ours = all
        .lines()
        .filter(|line| line.contains("processes are left") || line.contains("process is left"));
    ours.map(str::to_owned).collect()
}

fn stop_leaves_nothing(b: &TestBox) {
    app::start(b, &(app::hello(2) + "drain_timeout = \"1s\"\n"));
    let all = [
        stray(b, "", "exec sleep 1001"),
        stray(b, "w901", "exec sleep 1002"),
        stray(b, "w902/below", "trap \"\" TERM; exec sleep 1003"),
        // systemd's own, in which sweep runs.
        stray(b, ".control/w903", "exec sleep 1004"),
    ];
    let known = app::processes(b);
    assert!(
        all.iter().all(|pid| known.contains(pid)),
        "{known:?} {all:?}"
    );
    b.run(&["systemctl", "stop", "app-cluster.socket", SERVICE])
        .ok();
    assert_eq!(b.show(SERVICE, "Result"), "success");
    nothing_is_left(b);
    let said = lines_of_sweep(b);
    assert_eq!(said.len(), 2, "{said:#?}");
    assert!(said[0].starts_with("4 processes are left"), "{said:#?}");
    assert!(said[0].contains("w901") && said[0].contains(&format!("pid {}", all[0])));
    assert!(
        said[0].ends_with("asked to finish (SIGTERM, 1s)"),
        "{said:#?}"
    );
    assert_eq!(said[1], "1 process is left (w902): killed", "{said:#?}");
    // A stop after which there is nothing to do is silent.
    b.run(&["systemctl", "start", SERVICE]).ok();
    b.run(&["systemctl", "stop", "app-cluster.socket", SERVICE])
        .ok();
    nothing_is_left(b);
    assert_eq!(lines_of_sweep(b).len(), 2);
}

/// The runtime directory is theirs too: at a stop it is systemd's word that counts.
fn what_workers_write_saves_none_of_them(b: &TestBox) {
    app::start(b, &app::hello(2));
    stray(b, "w901", "exec sleep 1005");
    b.sh(&format!("mkdir {RUNTIME}/ending; touch {RUNTIME}/keep"))
        .ok();
    b.run(&["systemctl", "stop", "app-cluster.socket", SERVICE])
        .ok();
    nothing_is_left(b);
    assert_eq!(lines_of_sweep(b).len(), 1);
}

fn a_crash_leaves_the_workers(b: &TestBox) {
    stays_down(b);
    for signal in ["KILL", "ABRT"] {
        app::start(b, &app::hello(2));
        let workers = app::all_ready(b, 2);
        let supervisor = app::supervisor(b);
        b.run(&["kill", &format!("-{signal}"), &supervisor]).ok();
        b.wait_for("systemd to wait for the next start", LONG, || {
            b.show(SERVICE, "SubState") == "auto-restart"
        });
        let mut left = app::processes(b);
        left.sort();
        let mut workers: Vec<String> = workers.iter().map(i64::to_string).collect();
        workers.sort();
        assert_eq!(left, workers, "{signal}");
        app::get(b, "/").ok();
        let post = b.show(SERVICE, "ExecStopPost");
        assert!(post.contains("status=0"), "{post}");
        // What does not answer is said, and is not waited for.
        let out = b.run(&["app-cluster", "status"]);
        assert!(out.clone().fails().stderr.contains("hint: "), "{out}");
        b.run(&["app-cluster", "stop"]).ok();
        nothing_is_left(b);
    }
}

/// systemd knows of nothing to stop then, and does not run ExecStopPost= again.
fn a_stop_between_two_starts_is_finished_by_our_own(b: &TestBox) {
    stays_down(b);
    for by_hand in [false, true] {
        app::start(b, &app::hello(2));
        let workers = app::all_ready(b, 2);
        kill_the_supervisor(b);
        if by_hand {
            b.run(&["systemctl", "stop", "app-cluster.socket", SERVICE])
                .ok();
            assert_eq!(app::processes(b).len(), 2, "the premise");
        }
        let out = b.run(&["app-cluster", "stop"]);
        assert!(out.stderr.contains("2 processes are left (w"), "{out}");
        assert!(out.ok().contains("stopped"));
        assert_eq!(b.show(SERVICE, "ActiveState"), "inactive");
        nothing_is_left(b);
        for pid in workers {
            assert!(!b.exists(&format!("/proc/{pid}")));
        }
    }
    app::start(b, &app::hello(2));
    kill_the_supervisor(b);
    b.run(&["app-cluster", "delete", "--yes", "app-cluster"])
        .ok();
    nothing_is_left(b);
}

fn a_stop_between_two_starts_is_finished_by_the_next_start(b: &TestBox) {
    stays_down(b);
    app::start(b, &app::hello(2));
    let before = app::all_ready(b, 2);
    kill_the_supervisor(b);
    b.run(&["systemctl", "stop", SERVICE]).ok();
    assert_eq!(app::processes(b).len(), 2, "the premise");
    b.run(&["systemctl", "start", SERVICE]).ok();
    let after = app::all_ready(b, 2);
    b.wait_for("no process but those that are known", LONG, || {
        let mut known: Vec<String> = after.iter().map(i64::to_string).collect();
        known.push(app::supervisor(b));
        let mut all = app::processes(b);
        known.sort();
        all.sort();
        all == known
    });
    assert!(after.iter().all(|pid| !before.contains(pid)), "{before:?}");
    b.run(&["systemctl", "stop", "app-cluster.socket", SERVICE])
        .ok();
    nothing_is_left(b);
}

fn a_supervisor_that_is_killed_while_it_stops_leaves_nothing(b: &TestBox) {
    app::start(b, &(app::hello(2) + "drain_timeout = \"20s\"\n"));
    // Somebody who keeps a worker from ending for a while.
    let slow = b.spawn("curl -s 'http://127.0.0.1:3000/slow?ms=6000'", LONG);
    b.wait_for("the request to be accepted", LONG, || {
        b.sh("ss -Htn state established 'sport = :3000'").ok() != ""
    });
    let supervisor = app::supervisor(b);
    let stop = b.spawn(
        &format!("systemctl stop app-cluster.socket {SERVICE}"),
        LONG,
    );
    b.wait_for("the supervisor to know of it", LONG, || {
        b.exists(&format!("{RUNTIME}/ending"))
    });
    b.run(&["kill", "-KILL", &supervisor]).ok();
    stop.wait().ok();
    nothing_is_left(b);
    assert!(slow.wait().ok().contains("\"slot\""), "it was not finished");
    assert_eq!(lines_of_sweep(b).len(), 1, "{:?}", lines_of_sweep(b));
}

/// It does not hear of the stop: systemd kills it when the time is over, and the workers have had theirs.
fn a_supervisor_that_does_not_stop_leaves_nothing(b: &TestBox) {
    app::drop_in(b, "[Service]\nTimeoutStopSec=2s\nKillSignal=SIGURG\n");
    app::start(b, &app::hello(2));
    b.run(&["systemctl", "stop", "app-cluster.socket", SERVICE])
        .ok();
    assert_eq!(b.show(SERVICE, "Result"), "timeout");
    nothing_is_left(b);
    let said = lines_of_sweep(b);
    assert!(said.len() == 1 && said[0].ends_with(": killed"), "{said:?}");
}

/// The unit's user is another one already when its workers are to be ended.
fn workers_of_another_user_are_swept_too(b: &TestBox) {
    b.sh("useradd -m shop").ok();
    app::start(b, &app::hello(2));
    app::configure(b, &(app::hello(2) + "user = \"shop\"\n"));
    stays_down(b);
    assert_eq!(b.show(SERVICE, "User"), "shop");
    assert_eq!(app::processes(b).len(), 3);
    // As a supervisor leaves it that was told to stop, and is killed then.
    b.sh(&format!("touch {RUNTIME}/ending")).ok();
    kill_the_supervisor(b);
    assert_eq!(app::processes(b), Vec::<String>::new());
    let said = lines_of_sweep(b);
    assert!(
        said.len() == 1 && said[0].starts_with("2 processes"),
        "{said:?}"
    );
}

fn nobody_else_can_be_swept(b: &TestBox) {
    app::start(b, &app::hello(2));
    let before = app::processes(b);
    // Neither what runs, nor the caller's own cgroup, whatever its environment says.
    let out = b.run(&["app-cluster", "sweep", "app-cluster"]).fails();
    assert!(out.stderr.contains("is not stopped"), "{out}");
    let script = "SYSTEMD_EXEC_PID=$$ SERVICE_RESULT=success exec app-cluster sweep app-cluster";
    let out = b.sh(script).fails();
    assert!(out.stderr.contains("this is no service"), "{out}");
    assert_eq!(app::processes(b), before);
    assert_eq!(app::all_ready(b, 2).len(), 2);
}
