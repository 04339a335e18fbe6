// SPDX-License-Identifier: MIT OR Apache-2.0
//! Crashes: of workers, one and many, and of the supervisor.

use std::time::Duration;

use app_cluster::config::duration;
use app_cluster::engine::message_id as id;
use serde_json::Value;

use crate::app::{self, SERVICE, at, field};
use crate::harness::{Test, TestBox, scale, test};
use crate::load::Kind;

pub const TESTS: &[Test] = &[
    test!(a_killed_worker_is_replaced_at_once),
    test!(quick_crashes_are_backed_off),
    test!(nothing_of_a_worker_is_left),
    test!(a_worker_that_ignores_the_stop_signal),
    test!(without_delegation),
    test!(the_supervisor_is_killed),
];

const BOTH: &[Kind] = &[Kind::NewConnection, Kind::KeepAlive];
/// Clients of [`BOTH`]: so many requests a worker can have accepted.
const CLIENTS: u64 = 4;

fn kill(b: &TestBox, pid: impl ToString) {
    b.run(&["kill", "-KILL", &pid.to_string()]).ok();
}

fn a_killed_worker_is_replaced_at_once(b: &TestBox) {
    let config = app::hello(3) + "backoff_max = \"300ms\"\ncrash_budget = 1000\n";
    app::start(b, &config);
    let first = app::all_ready(b, 3);
    let supervisor = app::supervisor(b);
    let load = app::load(b, BOTH);
    let rounds = scale(10, 2);
    let mut before = first;
    for kills in 0..rounds * 3 {
        let slot = kills % 3;
        load.wait_for_more(50, app::LONG).expect("answers");
        kill(b, before[slot]);
        let mut now = Vec::new();
        b.wait_until("another worker in the slot", || {
            now = app::pids(b);
            now.len() == 3 && now[slot] != 0 && now[slot] != before[slot]
        });
        let others = |pids: &[i64]| [pids[(slot + 1) % 3], pids[(slot + 2) % 3]];
        assert_eq!(others(&now), others(&before), "other workers were replaced");
        b.wait_until("the slot to be well again", || {
            app::events(b, id::RECOVERED).len() == kills + 1
        });
        before = now;
    }
    let report = load.stop();
    let kills = rounds * 3;
    app::only_accepted_ones_failed(&report, kills as u64 * CLIENTS);
    let crashes: Vec<Value> = app::events(b, id::WORKER_EXITED);
    assert_eq!(crashes.len(), kills);
    assert_eq!(
        app::events(b, id::SLOT_BACKOFF).len(),
        0,
        "waited before a first crash's replacement"
    );
    let starts = app::events(b, id::WORKER_STARTED);
    for crash in crashes {
        let slot = field(&crash, "APPC_SLOT");
        let next = starts
            .iter()
            .find(|s| field(s, "APPC_SLOT") == slot && at(s) >= at(&crash));
        let gap = at(next.expect("a replacement")) - at(&crash);
        assert!(gap < Duration::from_secs(1), "replaced after {gap:?}");
    }
    app::unharmed(b, &supervisor);
}

fn quick_crashes_are_backed_off(b: &TestBox) {
    // The defaults when all is to be met as written: a minute and a half.
    let full = scale(1, 0) == 1;
    let (min, max) = if full { (100, 15_000) } else { (40, 1500) };
    let keys = format!("backoff_min = \"{min}ms\"\nbackoff_max = \"{max}ms\"\n");
    app::start(b, &(app::hello(3) + if full { "" } else { &keys }));
    let before = app::all_ready(b, 3);
    let supervisor = app::supervisor(b);
    let load = app::load(b, BOTH);
    b.write("/srv/app/killer.py", include_str!("workers/killer.py"));
    let killer = b.spawn("python3 /srv/app/killer.py 1 11", Duration::from_secs(240));
    killer.wait().ok();
    b.wait_for("a degraded status", app::LONG, || {
        b.show(SERVICE, "StatusText").starts_with("degraded: ")
    });
    let text = b.show(SERVICE, "StatusText");
    assert!(text.contains("slot 1"), "{text}");
    assert!(app::status(b)["degraded"].is_string());
    load.wait_for_more(50, app::LONG)
        .expect("the other slots serve on");

    b.wait_for("recovery", app::LONG, || {
        b.show(SERVICE, "StatusText").starts_with("3/3 ready")
    });
    let status = app::status(b);
    assert_eq!(status["degraded"], Value::Null, "{status}");
    let now = app::all_ready(b, 3);
    assert_eq!([now[0], now[2]], [before[0], before[2]]);
    app::only_accepted_ones_failed(&load.stop(), 11 * CLIENTS);
    check_series(b, Duration::from_millis(min), Duration::from_millis(max));
    assert_eq!(app::events(b, id::DEGRADED).len(), 1);
    app::unharmed(b, &supervisor);
}

/// The delays that the journal tells, and that they were kept: none after the
/// first crash, then doubling up to the longest, less up to a quarter.
fn check_series(b: &TestBox, min: Duration, max: Duration) {
    let events = app::events(b, id::SLOT_BACKOFF);
    let starts = app::events(b, id::WORKER_STARTED);
    assert_eq!(events.len(), 10, "{events:?}");
    for (index, event) in events.iter().enumerate() {
        let last = index == 9; // over the budget: the longest at once
        let whole = if last {
            max
        } else {
            (min * (1 << index)).min(max)
        };
        let text = field(event, "MESSAGE");
        let told = text.rsplit(" in ").next().map(duration);
        let told = told.expect("a delay").expect("a duration");
        let least = (whole * 3 / 4).max(min);
        assert!(
            told >= least && told <= whole,
            "{told:?} of {whole:?}: {text}"
        );
        assert_eq!(field(event, "APPC_SLOT"), "1");
        let next = starts.iter().find(|s| at(s) > at(event));
        let waited = at(next.expect("another attempt")) - at(event);
        // Both stamps are journald's, and each may be late.
        assert!(
            waited + Duration::from_millis(50) > told,
            "{waited:?} for {told:?}"
        );
    }
}

/// Children that ignore SIGTERM and lead sessions of their own, after a crash,
/// a reload and a stop.
fn nothing_of_a_worker_is_left(b: &TestBox) {
    app::start(b, &app::python(2, "family"));
    let before = app::all_ready(b, 2);
    // Each worker and its four grandchildren, and the supervisor.
    assert_eq!(app::processes(b).len(), 11);
    let family = |pid: i64| {
        let own = b.read(&format!("/proc/{pid}/cgroup"));
        let own = own
            .trim()
            .trim_start_matches("0::")
            .rsplit('/')
            .next()
            .expect("a name")
            .to_owned();
        let dir = format!("/sys/fs/cgroup/system.slice/{SERVICE}/{own}");
        let members = b.read(&format!("{dir}/cgroup.procs"));
        assert_eq!(members.lines().count(), 5, "{members}");
        (dir, members.lines().map(str::to_owned).collect::<Vec<_>>())
    };
    let gone = |b: &TestBox, (dir, members): &(String, Vec<String>)| {
        b.wait_until("the cgroup to go", || !b.exists(dir));
        let left = b
            .sh(&format!(
                "ps -o pid=,stat=,args= -p {} || true",
                members.join(",")
            ))
            .ok();
        let left: Vec<_> = left.lines().filter(|l| !l.contains(" Z")).collect();
        assert!(left.is_empty(), "{left:?}");
    };
    let crashed = family(before[0]);
    kill(b, before[0]);
    gone(b, &crashed);
    let now = app::all_ready(b, 2);
    let replaced = now.iter().map(|pid| family(*pid)).collect::<Vec<_>>();
    b.run(&["systemctl", "reload", SERVICE]).ok();
    replaced.iter().for_each(|all| gone(b, all));
    let stopped: Vec<_> = app::all_ready(b, 2)
        .iter()
        .map(|pid| family(*pid))
        .collect();
    b.run(&["systemctl", "stop", SERVICE]).ok();
    stopped.iter().for_each(|all| gone(b, all));
    assert_eq!(app::processes(b), Vec::<String>::new());
    assert_eq!(b.sh("pgrep -f 'signal[.]SIG_IGN' || true").ok(), "");
    assert_eq!(b.show(SERVICE, "Result"), "success");
}

fn a_worker_that_ignores_the_stop_signal(b: &TestBox) {
    app::start(
        b,
        &(app::python(2, "stubborn family") + "drain_timeout = \"1s\"\n"),
    );
    let before = app::all_ready(b, 2);
    let supervisor = app::supervisor(b);
    b.run(&["systemctl", "reload", SERVICE]).ok();
    let now = app::all_ready(b, 2);
    assert!(before.iter().all(|pid| !now.contains(pid)));
    assert_eq!(
        app::processes(b).len(),
        11,
        "of the old ones something is left"
    );
    let exits = app::events(b, id::WORKER_EXITED);
    assert_eq!(exits.len(), 2);
    for exit in &exits {
        let text = field(exit, "MESSAGE");
        assert!(
            text.contains("killed by SIGKILL") && text.contains("as requested"),
            "{text}"
        );
        let pid = format!("OBJECT_PID={}", field(exit, "OBJECT_PID"));
        let told = app::entries(b, &[&pid]);
        let drains = told
            .iter()
            .find(|e| field(e, "MESSAGE").contains("is draining"));
        let took = at(exit) - at(drains.expect("a drain"));
        assert!(
            took + Duration::from_millis(50) > Duration::from_secs(1),
            "killed after {took:?}"
        );
    }
    app::unharmed(b, &supervisor);
    b.run(&["systemctl", "stop", SERVICE]).ok();
    assert_eq!(app::processes(b), Vec::<String>::new());
    assert_eq!(b.show(SERVICE, "Result"), "success");
}

/// Without sub-cgroups a worker's descendants, and what of them has lost its
/// parent, are what belongs to it.
fn without_delegation(b: &TestBox) {
    app::drop_in(b, "[Service]\nDelegate=no\n");
    app::start(b, &app::python(2, "talk family"));
    let supervisor = app::supervisor(b);
    let groups = format!("find /sys/fs/cgroup/system.slice/{SERVICE} -mindepth 1 -type d");
    assert_eq!(b.sh(&groups).ok(), "");
    // The supervisor and two workers, each with a child and four grandchildren.
    let whole = 13;
    let settled = |before: &[String]| {
        b.wait_until("the old ones to go", || {
            let now = app::processes(b);
            now.len() == whole && before.iter().all(|pid| !now.contains(pid))
        });
        let now = app::processes(b);
        now.into_iter()
            .filter(|pid| *pid != supervisor)
            .collect::<Vec<_>>()
    };
    let first = app::all_ready(b, 2);
    let all = settled(&[]);
    app::all_slots_answer(b, 2);
    for pid in &first {
        kill(b, *pid);
    }
    app::all_ready(b, 2);
    let all = settled(&all);
    b.run(&["systemctl", "reload", SERVICE]).ok();
    app::all_ready(b, 2);
    settled(&all);
    let told = b.run(&["app-cluster", "logs", "app-cluster[1]"]).ok();
    assert!(told.contains("main of slot 1 generation 2"), "{told}");
    app::all_slots_answer(b, 2);
    app::unharmed(b, &supervisor);
    b.run(&["systemctl", "stop", SERVICE]).ok();
    assert_eq!(b.show(SERVICE, "Result"), "success");
}

fn the_supervisor_is_killed(b: &TestBox) {
    app::start(b, &app::python(2, "family"));
    let before = app::all_ready(b, 2);
    for _ in 0..scale(10, 2) {
        let supervisor = app::supervisor(b);
        let others = |mut all: Vec<String>, supervisor: &String| {
            all.retain(|pid| pid != supervisor);
            all.sort();
            all
        };
        let left = others(app::processes(b), &supervisor);
        assert_eq!(left.len(), 10, "{left:?}");
        kill(b, &supervisor);
        app::get(b, "/").ok();
        // Who asks waits in the socket for the next supervisor, if it must.
        assert_eq!(app::all_ready(b, 2), before);
        let next = app::supervisor(b);
        assert_ne!(next, supervisor);
        assert_eq!(others(app::processes(b), &next), left);
    }
    assert_eq!(b.show(SERVICE, "ActiveState"), "active");
    assert_eq!(b.show("app-cluster.socket", "ActiveState"), "active");
    assert_eq!(b.sh("systemctl --failed --plain --no-legend").ok(), "");
    let shown = b.sh("ls /run/app-cluster/app-cluster/notify | wc -l").ok();
    assert_eq!(shown, "2", "notify sockets of earlier workers are left");
}
