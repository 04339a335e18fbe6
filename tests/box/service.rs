// SPDX-License-Identifier: MIT OR Apache-2.0
//! The installed service, as the tests of its main job see it: configured,
//! under load, and asked how it is.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Output, TestBox};
use crate::load::{Kind, Load, LoadSpec, Report};

pub const SERVICE: &str = "app-cluster.service";
pub const SOCKET: &str = "app-cluster.socket";
pub const CONFIG: &str = "/etc/app-cluster/app-cluster.toml";
/// Time for what takes seconds on an idle machine.
pub const LONG: Duration = Duration::from_secs(240);

/// Requests that are under way when something is done to their workers.
pub const SLOW: Kind = Kind::Slow { ms: 300 };
/// Those that come as fast as they are answered.
pub const FAST: [Kind; 2] = [Kind::NewConnection, Kind::KeepAlive];

/// A configuration: the built-in worker, so many times.
pub fn hello(workers: usize) -> String {
    format!("command = [\"/usr/bin/app-cluster\", \"hello\"]\nworkers = {workers}\n")
}

/// Writes a configuration, starts the service and waits until it is ready.
#[track_caller]
pub fn start(b: &TestBox, config: &str) {
    b.write(CONFIG, config);
    long(b, "systemctl start app-cluster.service").ok();
}

/// Runs a shell script that may take long on a busy machine.
pub fn long(b: &TestBox, script: &str) -> Output {
    b.spawn(script, LONG).wait()
}

/// Runs `app-cluster` with `arguments` as `user`, as a shell would split them.
pub fn run_as(b: &TestBox, user: &str, arguments: &str) -> Output {
    b.sh(&format!(
        "exec runuser -u {user} -- app-cluster {arguments}"
    ))
}

#[track_caller]
pub fn reload(b: &TestBox) -> Output {
    long(b, "systemctl reload app-cluster")
}

/// `app-cluster status NAME --json`.
#[track_caller]
pub fn status_of(b: &TestBox, name: &str) -> Value {
    let out = b.run(&["app-cluster", "status", name, "--json"]).ok();
    serde_json::from_str(&out).expect("JSON")
}

#[track_caller]
pub fn status(b: &TestBox) -> Value {
    status_of(b, "app-cluster")
}

/// The process ids of the ready workers, by slot. Panics when a slot has none.
#[track_caller]
pub fn pids(b: &TestBox) -> Vec<i64> {
    let status = status(b);
    let slots = status["slots"].as_array().expect("slots");
    let pid = |slot: &Value| {
        assert_eq!(slot["state"], "ready", "{status:#}");
        slot["pid"].as_i64().expect("a pid")
    };
    slots.iter().map(pid).collect()
}

/// Every one of `slots` slots has a ready worker of this generation, and nothing
/// is under way any more.
#[track_caller]
pub fn all_run_generation(b: &TestBox, generation: usize, slots: usize) {
    let status = status(b);
    assert_eq!(status["generation"], generation, "{status:#}");
    assert_eq!(status["state"], "running", "{status:#}");
    assert!(status["rollout"].is_null(), "{status:#}");
    assert_eq!(status["workers"]["ready"], slots, "{status:#}");
    let found = status["slots"].as_array().expect("slots");
    assert_eq!(found.len(), slots, "{status:#}");
    for slot in found {
        assert_eq!(slot["generation"], generation, "{status:#}");
        assert_eq!(slot["state"], "ready", "{status:#}");
    }
}

/// The answer of some worker on a new connection.
#[track_caller]
pub fn ask(b: &TestBox, url: &str) -> Value {
    let out = b.run(&["curl", "-sS", "--max-time", "55", url]).ok();
    serde_json::from_str(&out).expect("JSON")
}

/// Clients in the box's network that find the service at its port.
pub fn clients(b: &TestBox) -> LoadSpec {
    let mut spec = LoadSpec::tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 3000)));
    spec.netns = Some(b.leader_pid() as i32);
    // A machine with other work to do is no reason to call a request lost.
    spec.answer_within = Duration::from_secs(60);
    spec
}

/// Clients of each kind: fast, 300 ms, and with bodies that come slowly.
#[track_caller]
pub fn load(b: &TestBox) -> Load {
    let spec = clients(b)
        .with(Kind::NewConnection, 2)
        .with(Kind::KeepAlive, 2)
        .with(SLOW, 6)
        .with(Kind::SlowPost, 2);
    let load = Load::start(spec).expect("a load");
    load.wait_for(1, LONG).expect("first answers");
    load
}

/// Waits until each fast kind has made so many requests in all.
#[track_caller]
pub fn wait_for_requests(load: &Load, requests: u64) {
    let enough = |report: &Report| {
        let made = |kind| report.kinds.get(&kind).map_or(0, |k| k.ok + k.failed);
        FAST.into_iter().all(|kind| made(kind) >= requests)
    };
    load.wait_until(LONG, enough).expect("requests");
}

/// Processes that are left of a unit, whatever they call themselves.
#[track_caller]
pub fn processes_of(b: &TestBox, unit: &str) -> Vec<String> {
    let script = format!(
        "find /sys/fs/cgroup -path '*/{unit}/*' -name cgroup.procs -exec cat {{}} + 2>/dev/null || true"
    );
    b.sh(&script).ok().lines().map(str::to_owned).collect()
}

/// The port answers nobody: connections are refused.
#[track_caller]
pub fn port_is_closed(b: &TestBox) {
    let out = b.run(&["curl", "-sS", "--max-time", "5", "http://127.0.0.1:3000/"]);
    assert_eq!(out.code, 7, "expected a refusal\n{out}");
}
