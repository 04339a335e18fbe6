// SPDX-License-Identifier: MIT OR Apache-2.0
//! Servers that nobody wrote for us, unmodified and with the files of
//! `examples/listen-fds`, as workers: reloads lose nothing, a crash only what
//! the killed worker had accepted.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Test, TestBox, scale, test};
use crate::load::{Kind, Load, LoadSpec, Report};

pub const TESTS: &[Test] = &[
    test!(gunicorn),
    test!(uvicorn),
    test!(uvicorn_plain),
    test!(node),
    test!(puma),
    test!(go),
    test!(gunicorn_with_lines),
    test!(uvicorn_with_lines),
    test!(node_with_lines),
    test!(puma_with_lines),
    test!(go_with_lines),
];

/// Threads of the load: as many requests can be under way at once.
const CLIENTS: usize = 8;
/// How long the load may take to do what is waited for, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn gunicorn(b: &TestBox) {
    prove(b, &set_up(b, "gunicorn", &["app.py"]), 0);
}

fn node(b: &TestBox) {
    prove(b, &set_up(b, "node", &["server.js"]), 0);
}

fn uvicorn(b: &TestBox) {
    prove(b, &set_up(b, "uvicorn", &["app.py", "serve.py"]), 0);
}

/// Without the example's start script, by the command line that its
/// configuration mentions.
fn uvicorn_plain(b: &TestBox) {
    let config = set_up(b, "uvicorn", &["app.py"]);
    let config = config.replace("\ncommand", "\n#command");
    let config = config.replace(
        "#command = [\"python3\", \"-m\"",
        "command = [\"python3\", \"-m\"",
    );
    assert!(config.contains("\ncommand = [\"python3\", \"-m\", \"uvicorn\""));
    // What it had accepted and not read: 1 to 2 of all requests a reload here,
    // and never more than there are clients for each worker.
    prove(b, &config, 2 * CLIENTS as u64);
}

fn puma(b: &TestBox) {
    prove(b, &puma_configuration(b), 0);
}

fn puma_configuration(b: &TestBox) -> String {
    let mut config = set_up(b, "puma", &["config.ru", "puma.rb"]);
    if b.suite() == "bookworm" {
        // Puma 5: the line that the file says is for it.
        config = config.replace("#ready", "ready");
        assert!(config.contains("\nready = "), "{config}");
    }
    config
}

fn go(b: &TestBox) {
    prove(b, &go_configuration(b), 0);
}

fn go_configuration(b: &TestBox) -> String {
    let config = set_up(b, "go", &[]);
    let built = crate::programs::go().expect("the program in Go");
    let into = format!("/proc/{}/root/srv/go/hello", b.leader_pid());
    std::fs::copy(built, into).expect("copy the program into the box");
    config
}

/// The same with a socket for each slot, and more of these than slots.
fn with_lines(config: &str) -> String {
    config.to_owned() + "\n" + &crate::lines::on("even", 4)
}

fn gunicorn_with_lines(b: &TestBox) {
    prove(b, &with_lines(&set_up(b, "gunicorn", &["app.py"])), 0);
}

fn uvicorn_with_lines(b: &TestBox) {
    let config = set_up(b, "uvicorn", &["app.py", "serve.py"]);
    prove(b, &with_lines(&config), 0);
}

fn node_with_lines(b: &TestBox) {
    prove(b, &with_lines(&set_up(b, "node", &["server.js"])), 0);
}

fn puma_with_lines(b: &TestBox) {
    prove(b, &with_lines(&puma_configuration(b)), 0);
}

fn go_with_lines(b: &TestBox) {
    prove(b, &with_lines(&go_configuration(b)), 0);
}

/// Why a test does not run here.
pub fn lacking(test: &str) -> Option<&'static str> {
    match test {
        "go" | "go_with_lines" if !crate::harness::is_installed("go") => {
            Some("no Go compiler (package golang-go)")
        }
        "gunicorn_with_lines" | "uvicorn_with_lines" | "go_with_lines" if scale(1, 0) == 0 => {
            Some("in the full tier only (APPC_FULL=1)")
        }
        // Measures uvicorn more than us.
        "uvicorn_plain" if scale(1, 0) == 0 => Some("in the full tier only (APPC_FULL=1)"),
        _ => None,
    }
}

/// Puts an example where its configuration says, and gives the configuration.
fn set_up(b: &TestBox, name: &str, files: &[&str]) -> String {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/listen-fds");
    let read = |file: &str| {
        let path = from.join(name).join(file);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    b.run(&["mkdir", "-p", &format!("/srv/{name}")]).ok();
    for file in files {
        b.write(&format!("/srv/{name}/{file}"), &read(file));
    }
    read("app-cluster.toml")
}

/// Reloads and crashes under load; `lost` requests a reload are what the server
/// itself is known to drop.
fn prove(b: &TestBox, config: &str, lost: u64) {
    crate::lines::start(b, config);
    assert_eq!(workers(b).len(), 2, "all ready after the start");
    let reloads = scale(5, 2) as u64;
    let report = reload(b, reloads);
    let failed = report.total().failed;
    assert!(
        failed <= reloads * lost,
        "lost in {reloads} reloads\n{report}"
    );
    if failed > 0 {
        // The number that examples/README.md states.
        let suite = b.suite();
        eprintln!("{suite}: the server lost {failed} in {reloads} reloads\n{report}");
    }
    assert_eq!(
        report.generations(),
        Some((1, 1 + reloads)),
        "which generations answered\n{report}"
    );
    crash(b, 2);
}

fn start_load(b: &TestBox) -> Load {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 3000));
    let mut spec = LoadSpec::tcp(address).with(Kind::NewConnection, CLIENTS);
    spec.netns = Some(b.leader_pid() as i32);
    Load::start(spec).expect("load")
}

fn reload(b: &TestBox, times: u64) -> Report {
    let load = start_load(b);
    for done in 0..times {
        load.wait_for_more(200, PATIENCE).expect("load goes on");
        b.run(&["systemctl", "reload", "app-cluster"]).ok();
        let generations: Vec<_> = workers(b).iter().map(|w| w.1).collect();
        assert_eq!(generations, [done + 2; 2], "after reload {done}");
    }
    load.wait_for_more(200, PATIENCE).expect("load goes on");
    // Asked to go they go, long before they would be killed.
    b.wait_until("the last old workers", || {
        !b.run(&["app-cluster", "status"]).ok().contains("draining")
    });
    load.stop()
}

fn crash(b: &TestBox, times: usize) {
    let load = start_load(b);
    let mut lost = 0;
    for slot in 0..times {
        load.wait_for_more(200, PATIENCE).expect("load goes on");
        let before = workers(b);
        b.run(&["kill", "-9", &before[slot % 2].0.to_string()]).ok();
        b.wait_until("a replacement", || {
            let now = workers(b);
            now.len() == 2 && now[slot % 2].0 != before[slot % 2].0
        });
        // What failed had been accepted: no more than there are clients, and
        // nobody was refused.
        load.wait_for_more(200, PATIENCE).expect("load goes on");
        let report = load.snapshot();
        let failed = report.total().failed;
        assert!(failed - lost <= CLIENTS as u64, "crash {slot}\n{report}");
        lost = failed;
    }
    load.wait_for_more(200, PATIENCE).expect("load goes on");
    let report = load.stop();
    assert_eq!(
        report.total().failed,
        lost,
        "later than the crash\n{report}"
    );
    for failure in report.total().failures {
        assert!(!failure.text.contains("connect:"), "refused\n{report}");
        assert!(
            !failure.text.contains("in time"),
            "never answered\n{report}"
        );
    }
}

/// Process id and generation of the workers that are ready, by slot.
fn workers(b: &TestBox) -> Vec<(u64, u64)> {
    let out = b.run(&["app-cluster", "status", "--json"]);
    let status: Value = serde_json::from_str(&out.stdout).unwrap_or_else(|e| panic!("{e}\n{out}"));
    let slots = status["slots"].as_array().cloned().unwrap_or_default();
    let ready = slots.iter().filter(|slot| slot["state"] == "ready");
    ready
        .filter_map(|slot| Some((slot["pid"].as_u64()?, slot["generation"].as_u64()?)))
        .collect()
}
