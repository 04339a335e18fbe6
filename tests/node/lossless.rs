// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rolling reloads under load.

use crate::Row;
use crate::app::{App, assert_no_crash};
use crate::dev::{Dev, scale, wait};
use crate::load::{Kind, Load, LoadSpec, Report};
use crate::node_tools::Node;
use std::time::Duration;

pub const ROWS: &[Row] = &[
    ("lossless_reloads", with_preload),
    ("lossless_reloads_without_preload", without_preload),
    ("lossless_keep_alive_without_preload", measured),
];

/// Longest that anything of a load may take.
const LONG: Duration = Duration::from_secs(300);

/// `reloads` under load, so that `requests` are answered in all.
fn reload(dev: &Dev, load: &Load, reloads: u64, requests: u64) {
    let done = |report: &Report| report.total().ok + report.total().failed;
    for number in 0..reloads {
        // Spread over the load; at least a few of each kind in between.
        load.wait_for_more(3, LONG).expect("requests in between");
        let share = requests * number / reloads;
        load.wait_until(LONG, |report| done(report) >= share)
            .expect("requests in between");
        dev.cli(&["reload", "web"]).succeeded();
    }
    load.wait_until(LONG, |report| done(report) >= requests)
        .expect("enough requests");
    load.wait_for_more(3, LONG).expect("requests afterwards");
    wait("the old workers end", || {
        let draining = dev
            .status()
            .slots
            .iter()
            .map(|s| s.draining.len())
            .sum::<usize>();
        (draining == 0).then_some(())
    });
}

fn think(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// All kinds of clients.
fn everybody(dev: &Dev) -> LoadSpec {
    let mut spec = LoadSpec::tcp(dev.address())
        .with(Kind::NewConnection, 4)
        .with(Kind::Slow { ms: 400 }, 6)
        .with(Kind::SlowPost, 6);
    spec.post_bytes = 16 << 10;
    for ms in [0, 3, 7, 11] {
        spec = spec.with_think(Kind::KeepAlive, 6, think(ms));
    }
    spec
}

fn with_preload(node: &Node) -> Result<(), String> {
    let dev = App::kit(node).keys("balance = \"even\"").start();
    let load = Load::start(everybody(&dev)).expect("clients");
    reload(&dev, &load, scale(10, 2), scale(50_000, 6_000));
    let report = load.stop();
    println!("Node {}: {}", node.version, summary(&report));
    report.assert_lossless(10);
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

/// New connections and requests in flight; Node 26 destroys connections that have not sent
/// anything yet.
fn without_preload(node: &Node) -> Result<(), String> {
    let keys = "balance = \"even\"\nnode.preload = false";
    let dev = App::kit(node).keys(keys).start();
    let spec = LoadSpec::tcp(dev.address())
        .with(Kind::NewConnection, 6)
        .with(Kind::SlowPost, 6);
    let load = Load::start(spec).expect("clients");
    let mut slow = LoadSpec::tcp(dev.address()).with(Kind::NewConnection, 6);
    slow.path = "/slow?ms=400".to_owned();
    let slow = Load::start(slow).expect("clients");
    reload(&dev, &load, scale(10, 2), scale(20_000, 2_000));
    for (load, what) in [(load, "at once"), (slow, "after 400 ms")] {
        let report = load.stop();
        let summary = summary(&report);
        println!(
            "Node {} without preload, answers {what}: {summary}",
            node.version
        );
        if node.major() <= 24 {
            report.assert_lossless(10);
        }
    }
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

/// What is lost there without the preload is for the documentation: it is printed.
fn measured(node: &Node) -> Result<(), String> {
    let keys = "balance = \"even\"\nnode.preload = false\ndrain_timeout = \"5s\"";
    let dev = App::kit(node).keys(keys).start();
    let mut spec = LoadSpec::tcp(dev.address()).with(Kind::Slow { ms: 400 }, 6);
    for ms in [0, 3, 7, 11] {
        spec = spec.with_think(Kind::KeepAlive, 6, think(ms));
    }
    let load = Load::start(spec).expect("clients");
    reload(&dev, &load, scale(10, 2), scale(20_000, 2_000));
    let report = load.stop();
    println!(
        "Node {} without preload, keep-alive: {}",
        node.version,
        summary(&report)
    );
    // Lost or not, they were answered in the end.
    assert!(report.total().ok > report.total().failed * 10, "{report}");
    dev.stop();
    Ok(())
}

/// `KIND lost of sent` of each kind.
fn summary(report: &Report) -> String {
    let kinds = report.kinds.iter().map(|(kind, r)| {
        format!(
            "{kind:?} {} lost of {}, slowest {:?}",
            r.failed, r.sent, r.slowest
        )
    });
    kinds.collect::<Vec<_>>().join("; ")
}
