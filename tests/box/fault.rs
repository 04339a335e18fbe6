// SPDX-License-Identifier: MIT OR Apache-2.0
//! The supervisor is killed at the worst moments (`APP_CLUSTER_FAULT`), under load, and the next
//! one goes on.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::app::{self, LONG, SERVICE};
use crate::harness::{Test, TestBox, scale, test};
use crate::load::Kind;

pub const TESTS: &[Test] = &[
    test!(killed_at_a_point),
    test!(killed_at_every_point),
    test!(killed_at_every_point_with_a_line_each),
    test!(killed_while_it_stops),
];

/// A reload does not take longer than it has to.
pub const QUICK: &str = "canary_time = \"100ms\"\nmin_ready_time = \"50ms\"\n";
const BOTH: &[Kind] = &[Kind::NewConnection, Kind::KeepAlive];
/// In the runtime directory, so that the supervisor may change it.
pub const FAULT: &str = "/run/app-cluster/app-cluster/fault";
pub const WORKERS: usize = 3;

/// What makes the supervisor pass a point.
#[derive(Clone, Copy, Debug)]
pub enum Trigger {
    Reload,
    /// A reload to a program that does not start.
    BadReload,
    Scale,
    /// A worker ends by itself.
    Leave,
    Upgrade,
    /// A Node worker does not read a long message.
    Send,
    /// What clients do.
    Load,
    /// The supervisor is killed; the point is passed by the next one.
    Kill,
}

/// A table, and what it is about.
pub struct Table<'a> {
    pub rows: &'a [(Trigger, &'a [&'a str])],
    /// A configuration with so many workers.
    pub good: String,
    /// One whose workers do not start.
    pub bad: String,
    /// So many requests may fail at each kill: the supervisor had their connections.
    pub lost: u64,
}

/// Of what each test passes: the names at which the supervisor is killed, one after the other.
const FEW: &[(Trigger, &[&str])] = &[
    (Trigger::Reload, &["after-spawn"]),
    (Trigger::Leave, &["after-datagram"]),
    (Trigger::Reload, &["after-signal"]),
    (Trigger::BadReload, &["rollout-reverting-recorded"]),
    (Trigger::Kill, &["mid-adoption", "after-adoption"]),
];

const ALL: &[(Trigger, &[&str])] = &[
    (Trigger::Reload, &["loading"]),
    (Trigger::Reload, &["rollout-started"]),
    (Trigger::Reload, &["rollout-started-recorded"]),
    (Trigger::Reload, &["after-intent"]),
    (Trigger::Reload, &["before-spawn"]),
    (Trigger::Reload, &["after-spawn"]),
    (Trigger::Reload, &["before-store"]),
    (Trigger::Reload, &["after-store"]),
    (Trigger::Reload, &["worker-starting-recorded"]),
    (Trigger::Reload, &["after-datagram"]),
    (Trigger::Reload, &["worker-ready"]),
    (Trigger::Reload, &["worker-ready-recorded"]),
    (Trigger::Reload, &["rollout-progress"]),
    (Trigger::Reload, &["rollout-progress-recorded"]),
    (Trigger::Reload, &["worker-draining"]),
    (Trigger::Reload, &["worker-draining-recorded"]),
    (Trigger::Reload, &["before-signal"]),
    (Trigger::Reload, &["after-signal"]),
    (Trigger::Reload, &["after-signal-recorded"]),
    (Trigger::Reload, &["worker-exited"]),
    (Trigger::Reload, &["rollout-finished"]),
    (Trigger::Reload, &["rollout-finished-recorded"]),
    (Trigger::Reload, &["mid-snapshot"]),
    (Trigger::BadReload, &["rollout-reverting"]),
    (Trigger::BadReload, &["rollout-reverting-recorded"]),
    (Trigger::BadReload, &["rollout-undone"]),
    (Trigger::Scale, &["after-spawn"]),
    (Trigger::Scale, &["worker-ready"]),
    (Trigger::Leave, &["worker-exited"]),
    (Trigger::Leave, &["worker-exited-recorded"]),
    (Trigger::Leave, &["after-intent"]),
    (Trigger::Leave, &["after-spawn"]),
    (Trigger::Leave, &["after-datagram"]),
    (Trigger::Kill, &["before-adoption"]),
    (Trigger::Kill, &["mid-adoption", "mid-adoption"]),
    (Trigger::Kill, &["after-adoption", "mid-snapshot"]),
    (Trigger::Upgrade, &["before-hand-over"]),
    (Trigger::Upgrade, &["before-exec"]),
];

fn killed_at_a_point(b: &TestBox) {
    at_each(b, &hello(FEW, ""));
}

fn killed_at_every_point(b: &TestBox) {
    at_each(b, &hello(ALL, ""));
}

fn killed_at_every_point_with_a_line_each(b: &TestBox) {
    at_each(b, &hello(ALL, "balance = \"even\"\nmax_workers = 8\n"));
}

fn hello<'a>(rows: &'a [(Trigger, &'a [&'a str])], more: &str) -> Table<'a> {
    let good = config(more);
    let bad = "environment = { APP_CLUSTER_HELLO_FAIL = \"1\" }\n";
    Table {
        rows,
        bad: good.replace("\"hello\"]", "\"hello\", \"--no-such-option\"]") + bad,
        good,
        lost: 0,
    }
}

/// What a fault needs of the unit.
pub fn prepare(b: &TestBox) {
    let text = format!("[Service]\nEnvironment=APP_CLUSTER_FAULT={FAULT}\n");
    app::drop_in(b, &text);
}

fn config(more: &str) -> String {
    app::hello(WORKERS) + more + QUICK + "drain_timeout = \"10s\"\n"
}

/// The supervisor is killed at each point, and all is as it should be afterwards.
#[track_caller]
pub fn at_each(b: &TestBox, table: &Table) {
    prepare(b);
    app::configure(b, &table.good);
    if table.good.contains("balance") {
        b.run(&["app-cluster", "units", "--apply"]);
        b.run(&["systemctl", "daemon-reload"]).ok();
    }
    app::start(b, &table.good);
    app::all_ready(b, WORKERS);
    let load = app::load(b, BOTH);
    let (mut kills, mut failed) = (0, 0);
    for (trigger, points) in table.rows {
        let row = format!("{trigger:?} {points:?}");
        load.wait_for_more(20, LONG).expect("answers");
        let (before, workers) = (incarnation(b), app::pids(b));
        let strikes = points.len() as u64 + u64::from(matches!(trigger, Trigger::Kill));
        kills += strikes;
        b.write(FAULT, &points.join("\n"));
        pull(b, *trigger, &table.bad);
        b.wait_for(&format!("{row}: to be killed"), LONG, || !b.exists(FAULT));
        // One that is killed before it has recorded anything is not counted by the next.
        b.wait_for(&format!("{row}: the next"), LONG, || {
            app::ask_status(b).is_some_and(|s| {
                let now = s["incarnation"].as_u64().unwrap_or(0);
                now > before && now <= before + strikes && s["taken_over"]["how"] == "crash"
            })
        });
        app::configure(b, &table.good);
        if matches!(trigger, Trigger::Scale) {
            b.wait_for(&format!("{row}: a scale"), LONG, || {
                let text = WORKERS.to_string();
                b.run(&["app-cluster", "scale", "app-cluster", &text]).code == 0
            });
        }
        whole(b, &row, WORKERS);
        if matches!(trigger, Trigger::Send | Trigger::Load) {
            assert_eq!(app::pids(b), workers, "{row}: other workers");
        }
        load.wait_for_more(20, LONG).expect("answers afterwards");
        let report = load.snapshot();
        let lost = report.total().failed - std::mem::replace(&mut failed, report.total().failed);
        assert!(lost <= strikes * table.lost, "{row}: {report}");
    }
    b.run(&["systemctl", "reload", SERVICE]).ok();
    whole(b, "a reload afterwards", WORKERS);
    let report = load.stop();
    match table.lost {
        0 => report.assert_lossless(20),
        some => {
            let failed = report.total().failed;
            eprintln!("{}: {failed} request(s) failed at {kills} kills", b.suite());
            app::only_accepted_ones_failed(&report, kills * some);
        }
    }
    let told = b.journal(&["-u", SERVICE]);
    assert!(!told.contains("panicked"), "{told}");
}

fn incarnation(b: &TestBox) -> u64 {
    app::status(b)["incarnation"].as_u64().expect("a number")
}

fn pull(b: &TestBox, trigger: Trigger, bad: &str) {
    let quick = Duration::from_secs(60);
    let script = match trigger {
        Trigger::Reload => format!("systemctl reload {SERVICE} || true"),
        Trigger::BadReload => {
            app::configure(b, bad);
            format!("systemctl reload {SERVICE} || true")
        }
        Trigger::Scale => format!("app-cluster scale app-cluster {} || true", WORKERS + 1),
        Trigger::Leave => format!("kill -TERM {}", app::pids(b)[0]),
        Trigger::Upgrade => "app-cluster upgrade app-cluster || true".to_owned(),
        Trigger::Send => format!(
            "kill -STOP {0}; trap 'kill -CONT {0}' EXIT
             (printf '\"'; head -c 600000 /dev/zero | tr '\\0' x; printf '\"') |
             timeout 20 app-cluster send app-cluster - || true",
            app::pids(b)[0]
        ),
        Trigger::Load => "true".to_owned(),
        Trigger::Kill => format!("kill -KILL {}", app::supervisor(b)),
    };
    // Nobody waits for it: what it says depends on when its connection ends.
    b.spawn(&script, quick).wait();
}

/// So many ready workers, one in each slot, and nothing else in the unit's cgroup.
#[track_caller]
pub fn whole(b: &TestBox, when: &str, workers: usize) {
    let limit = std::time::Instant::now() + LONG;
    loop {
        let status = app::ask_status(b).unwrap_or_default();
        let slots = status["slots"].as_array().cloned().unwrap_or_default();
        let quiet = |s: &&Value| s["state"] == "ready" && s["draining"] == Value::Array(vec![]);
        let ready = slots.iter().filter(quiet).filter_map(|s| s["pid"].as_i64());
        let mut known: BTreeSet<String> = ready.map(|pid| pid.to_string()).collect();
        let whole = known.len() == workers && slots.len() == workers;
        known.insert(app::supervisor(b));
        let there: BTreeSet<String> = app::processes(b).into_iter().collect();
        if whole && known == there && !status["rollout"].is_object() {
            return;
        }
        assert!(
            std::time::Instant::now() < limit,
            "{when}: not whole: {known:?} of {there:?}\n{status:#}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Told to stop, it is killed: what is left ends as well, and the next start begins afresh.
fn killed_while_it_stops(b: &TestBox) {
    prepare(b);
    app::start(b, &config(""));
    let all = [
        "stopping",
        "worker-draining",
        "after-signal",
        "worker-exited",
        "before-end",
        "after-end",
        "before-signal",
    ];
    for point in &all[scale(0, 3)..scale(all.len(), 5)] {
        app::all_ready(b, WORKERS);
        b.write(FAULT, point);
        b.run(&["systemctl", "stop", SERVICE]);
        assert!(!b.exists(FAULT), "{point}: it was not killed");
        b.wait_for(&format!("{point}: nothing to be left"), LONG, || {
            app::processes(b).is_empty()
        });
        b.run(&["systemctl", "start", SERVICE]).ok();
        whole(b, point, WORKERS);
        assert_eq!(
            incarnation(b),
            1,
            "{point}: taken over from one that has ended"
        );
        app::all_slots_answer(b, WORKERS);
    }
}
