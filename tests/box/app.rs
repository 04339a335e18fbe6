// SPDX-License-Identifier: MIT OR Apache-2.0
//! The app in a box, as the tests of failures see it: its configuration, its
//! status, its events in the journal, and somebody who sends requests.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Output, TestBox};
use crate::load::{Kind, Load, LoadSpec, Report};

pub const SERVICE: &str = "app-cluster.service";
const CONFIG: &str = "/etc/app-cluster/app-cluster.toml";
/// Time for what takes no time on an idle machine.
pub const LONG: Duration = Duration::from_secs(60);

/// The worker of many bad habits, see its head.
pub const WORKER: &str = include_str!("workers/worker.py");
pub const WORKER_FILE: &str = "/srv/app/worker.py";

/// `command = …` for [`WORKER`] with its words, and so many of them.
pub fn python(workers: usize, words: &str) -> String {
    format!(
        "command = \"/usr/bin/python3 {WORKER_FILE} {words}\"\nworkers = {workers}\n\
         start_timeout = \"60s\"\n"
    )
}

/// `command = …` for the built-in worker.
pub fn hello(workers: usize) -> String {
    format!("command = [\"/usr/bin/app-cluster\", \"hello\"]\nworkers = {workers}\n")
}

/// Writes the configuration; it counts from the next reload or start on.
pub fn configure(b: &TestBox, config: &str) {
    b.write(WORKER_FILE, WORKER);
    b.write(CONFIG, config);
}

/// Writes the configuration, starts the service and waits until it is ready.
#[track_caller]
pub fn start(b: &TestBox, config: &str) {
    configure(b, config);
    b.run(&["systemctl", "start", SERVICE]).ok();
}

/// Adds a drop-in to the service's unit.
#[track_caller]
pub fn drop_in(b: &TestBox, text: &str) {
    b.write("/etc/systemd/system/app-cluster.service.d/test.conf", text);
    b.run(&["systemctl", "daemon-reload"]).ok();
}

/// `app-cluster status --json`; `None`: there is nobody to ask.
pub fn ask_status(b: &TestBox) -> Option<Value> {
    let out = b.run(&["app-cluster", "status", "--json"]);
    (out.code == 0).then(|| serde_json::from_str(&out.stdout).expect("JSON"))
}

#[track_caller]
pub fn status(b: &TestBox) -> Value {
    serde_json::from_str(&b.run(&["app-cluster", "status", "--json"]).ok()).expect("JSON")
}

/// The ready workers' process ids by slot; 0 where there is none.
#[track_caller]
pub fn pids(b: &TestBox) -> Vec<i64> {
    let status = status(b);
    let slots = status["slots"].as_array().expect("slots");
    let pid = |slot: &Value| match slot["state"] == "ready" {
        true => slot["pid"].as_i64().unwrap_or(0),
        false => 0,
    };
    slots.iter().map(pid).collect()
}

/// Waits until every slot has a ready worker and none drains; gives their pids.
#[track_caller]
pub fn all_ready(b: &TestBox, slots: usize) -> Vec<i64> {
    let mut found = Vec::new();
    b.wait_for("all slots to be ready", LONG, || {
        let Some(status) = ask_status(b) else {
            return false;
        };
        let slots_now = status["slots"].as_array().expect("slots").clone();
        let quiet = |s: &Value| s["state"] == "ready" && s["draining"] == Value::Array(vec![]);
        found = slots_now
            .iter()
            .filter(|s| quiet(s))
            .collect::<Vec<_>>()
            .iter()
            .filter_map(|s| s["pid"].as_i64())
            .collect();
        found.len() == slots && slots_now.len() == slots
    });
    found
}

/// The supervisor's process id.
#[track_caller]
pub fn supervisor(b: &TestBox) -> String {
    b.show(SERVICE, "MainPID")
}

/// Processes of the service's cgroup, its sub-cgroups included.
pub fn processes(b: &TestBox) -> Vec<String> {
    let script = "find /sys/fs/cgroup/system.slice/app-cluster.service -name cgroup.procs \
                  -exec cat {} + 2>/dev/null || true";
    b.sh(script).ok().lines().map(str::to_owned).collect()
}

/// Journal entries that match, oldest first, with all their fields.
#[track_caller]
pub fn entries(b: &TestBox, matches: &[&str]) -> Vec<Value> {
    let text = b.journal(&[&["-o", "json", "-a"], matches].concat());
    let lines = text.lines().filter(|l| l.starts_with('{'));
    lines
        .map(|l| serde_json::from_str(l).expect("JSON"))
        .collect()
}

/// Our events of one kind, oldest first.
#[track_caller]
pub fn events(b: &TestBox, id: &str) -> Vec<Value> {
    entries(b, &[&format!("MESSAGE_ID={id}")])
}

/// A field of a journal entry as text.
pub fn field<'a>(entry: &'a Value, name: &str) -> &'a str {
    entry[name].as_str().unwrap_or_default()
}

/// When journald got it (CLOCK_MONOTONIC).
pub fn at(entry: &Value) -> Duration {
    let micros = field(entry, "__MONOTONIC_TIMESTAMP").parse();
    Duration::from_micros(micros.expect("a number"))
}

/// An answer to `GET path`.
pub fn get(b: &TestBox, path: &str) -> Output {
    let url = format!("http://127.0.0.1:3000{path}");
    b.run(&["curl", "-sS", "--max-time", "30", &url])
}

/// Every worker is asked until each slot has answered on a connection of its own.
#[track_caller]
pub fn all_slots_answer(b: &TestBox, slots: usize) {
    let mut seen = std::collections::BTreeSet::new();
    b.wait_for("an answer of each slot", LONG, || {
        let who: Value = serde_json::from_str(&get(b, "/").ok()).expect("JSON");
        seen.insert(who["slot"].as_u64().expect("a slot"));
        seen.len() == slots
    });
}

/// Requests from outside into the box, two clients of each kind.
pub fn load(b: &TestBox, kinds: &[Kind]) -> Load {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 3000));
    let mut spec = LoadSpec::tcp(address);
    spec.netns = Some(b.leader_pid() as i32);
    for kind in kinds {
        // With some air: the machine has other work.
        spec = spec.with_pace(*kind, 2, 200);
    }
    Load::start(spec).expect("a load")
}

/// Of a request that fails, a worker had the connection: nobody was refused or
/// left waiting. At most `most` failed.
#[track_caller]
pub fn only_accepted_ones_failed(report: &Report, most: u64) {
    let total = report.total();
    assert!(total.ok > 0 && total.failed <= most, "{report}");
    for failure in &total.failures {
        let waiting = ["connect:", "no answer in time"];
        assert!(
            !waiting.iter().any(|word| failure.text.contains(word)),
            "{}\n{report}",
            failure.text
        );
    }
}

/// Nothing in the supervisor has panicked, and it is the process it was.
#[track_caller]
pub fn unharmed(b: &TestBox, supervisor_before: &str) {
    assert_eq!(
        supervisor(b),
        supervisor_before,
        "the supervisor was replaced"
    );
    assert_eq!(b.show(SERVICE, "ActiveState"), "active");
    let journal = b.journal(&["-u", SERVICE]);
    assert!(!journal.contains("panicked"), "{journal}");
}
