// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unmodified programs whose workers are replaced for what they have become.

use crate::Row;
use crate::app::{App, assert_no_crash};
use crate::dev::scale;
use crate::load::{Kind, Load, LoadSpec};
use crate::node_tools::Node;
use crate::recycling::{serves_meanwhile, sizes};
use std::time::Duration;

pub const ROWS: &[Row] = &[
    ("leaking_app_is_recycled_under_load", leaking),
    ("old_workers_are_recycled_under_load", old),
];

/// Clients of all kinds, about 200 requests a second.
fn everybody(dev: &crate::dev::Dev) -> Load {
    let mut spec = LoadSpec::tcp(dev.address())
        .with_pace(Kind::NewConnection, 4, 15)
        .with_pace(Kind::Slow { ms: 200 }, 4, 5)
        .with_pace(Kind::KeepAlive, 6, 15)
        .with_think(Kind::KeepAlive, 2, Duration::from_millis(40))
        .with(Kind::SlowPost, 2);
    spec.post_bytes = 1000;
    Load::start(spec).expect("clients")
}

/// A limit well above what Node itself needs, which is reached every few seconds.
fn leaking(node: &Node) -> Result<(), String> {
    let dev = App::new(node, "leak.cjs")
        .keys("environment = { LEAK = \"128\" }\nbalance = \"even\"\nmax_memory = \"120M\"")
        .start();
    let load = everybody(&dev);
    let report = serves_meanwhile(&dev, load, scale(8, 2));
    let sizes = sizes(&dev.output());
    println!("Node {}: {sizes:?} MiB\n{report}", node.version);
    assert!(
        sizes.iter().all(|used| (120..400).contains(used)),
        "{sizes:?}"
    );
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

fn old(node: &Node) -> Result<(), String> {
    let keys = "environment = { LEAK = \"0\" }\nmax_lifetime = \"3s\"";
    let dev = App::new(node, "leak.cjs").keys(keys).start();
    let load = everybody(&dev);
    serves_meanwhile(&dev, load, scale(20, 2));
    dev.wait_for_line("has reached its max_lifetime after 2s");
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}
