// SPDX-License-Identifier: MIT OR Apache-2.0
//! Workers that send nonsense, too much, or nothing: only they suffer.

use crate::Row;
use crate::app::{App, request, script};
use crate::dev::{Dev, wait};
use crate::messages::Follow;
use crate::node_tools::Node;
use crate::robin::ticks;
use std::time::Duration;

pub const ROWS: &[Row] = &[
    ("hostile_garbage", garbage),
    ("hostile_binary", binary),
    ("hostile_nested", nested),
    ("hostile_100_megabytes_in_a_line", long),
    ("hostile_a_million_messages", many),
    ("hostile_queries_without_end", queries),
    ("hostile_servers_that_come_and_go", closes),
    ("hostile_ready_again_and_again", ready),
    ("hostile_acknowledgements", acknowledgements),
    ("hostile_wrong_types", types),
    ("hostile_dies_within_a_line", torn),
    ("hostile_writes_byte_by_byte", bytewise),
    ("hostile_never_reads", never_reads),
];

/// The most memory that a process ever had, in bytes (VmHWM of proc_pid_status(5)).
pub fn peak_memory(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kilobytes
        .and_then(|k| k.parse::<u64>().ok())
        .expect("kilobytes")
        * 1024
}

/// The first worker of slot 0 is `wire.cjs`; its successors and the other slot are `kit.cjs`.
fn start(node: &Node, act: &str, then: &str) -> Dev {
    let (wire, kit) = (script("wire.cjs"), script("kit.cjs"));
    let program = format!(
        "if [ \"$APP_CLUSTER_SLOT\" = 0 ] && mkdir spent 2>/dev/null; then \
           exec env -u NODE_CHANNEL_FD -u NODE_UNIQUE_ID -u NODE_OPTIONS \
             node '{wire}' {act} {then}; \
         fi; exec node '{kit}'"
    );
    // The others are in nobody's way with one socket for all.
    App::command(node, &["sh", "-c", &program])
        .keys("protocol = \"node\"\nbalance = \"shared\"\nblocked_timeout = \"100s\"")
        .keys("drain_timeout = \"4s\"")
        .start()
}

/// Lets it act. The other worker has not noticed, the supervisor has stayed small, and its log
/// has a line with each of `words`.
fn acts(node: &Node, act: &str, then: &str, words: &[&str]) -> Dev {
    let dev = start(node, act, then);
    let (pids, idle) = (dev.pids(), peak_memory(dev.pid()));
    dev.write("go", "");
    // Others are served while it acts.
    wait("it has acted", || {
        let begun = std::time::Instant::now();
        let answer = request(dev.address(), "GET /", "").expect("an answer");
        assert_eq!(answer["pid"], pids[1], "{}", dev.output());
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(3), "{took:?}");
        let ended = !std::path::Path::new(&format!("/proc/{}", pids[0])).exists();
        let told = !words.is_empty() && words.iter().all(|w| dev.output().contains(w));
        (dev.path("done").exists() || ended || told).then_some(())
    });
    for word in words {
        let line = dev.wait_for_line(word);
        assert!(line.contains("slot 0") || line.contains("web[0]"), "{line}");
    }
    let peak = peak_memory(dev.pid());
    let grown = peak.saturating_sub(idle);
    assert!(
        grown < 24 << 20,
        "{idle} bytes, {grown} more\n{}",
        dev.output()
    );
    // A log that is flooded is of no use.
    assert!(dev.line_count() < 200, "{} lines", dev.line_count());
    let slot = dev.slot(1);
    assert_eq!((slot.pid, slot.restarts), (Some(pids[1]), 0));
    dev
}

/// Lines that make no sense are dropped.
const DROPPED: &str = "a line on its channel was dropped";

fn garbage(node: &Node) -> Result<(), String> {
    acts(node, "garbage", "", &[DROPPED]).stop();
    acts(node, "empty", "", &[DROPPED]).stop();
    Ok(())
}

fn binary(node: &Node) -> Result<(), String> {
    acts(node, "binary", "", &[DROPPED]).stop();
    Ok(())
}

fn nested(node: &Node) -> Result<(), String> {
    acts(node, "deep", "", &[DROPPED]).stop();
    Ok(())
}

fn long(node: &Node) -> Result<(), String> {
    acts(node, "long", "", &["it is 100000011 bytes long"]).stop();
    Ok(())
}

fn many(node: &Node) -> Result<(), String> {
    acts(node, "many", "", &[]).stop();
    Ok(())
}

/// It does not read the answers.
fn queries(node: &Node) -> Result<(), String> {
    let dev = acts(node, "queries", "", &["its channel is full"]);
    let sockets = descriptors(&dev);
    assert!(sockets < 450, "{sockets} descriptors");
    dev.stop();
    Ok(())
}

fn descriptors(dev: &Dev) -> usize {
    let all = std::fs::read_dir(format!("/proc/{}/fd", dev.pid()));
    all.expect("descriptors").count()
}

/// Nor these, though it says that it has them.
fn closes(node: &Node) -> Result<(), String> {
    let dev = acts(node, "closes", "", &["its channel is full"]);
    let sockets = descriptors(&dev);
    assert!(sockets < 450, "{sockets} descriptors");
    dev.stop();
    Ok(())
}

/// Once it is ready that is a message like any other.
fn ready(node: &Node) -> Result<(), String> {
    let used = ["said", "ready"].map(|act| {
        let dev = start(node, act, "");
        let before = ticks(&dev);
        dev.write("go", "");
        wait("it has acted", || dev.path("done").exists().then_some(()));
        // What it has said is ahead of what it is asked then.
        request(dev.address(), "GET /", "").expect("an answer");
        ticks(&dev) - before
    });
    assert!(used[1] < 2 * used[0] + 10, "ticks: {used:?}");
    Ok(())
}

fn acknowledgements(node: &Node) -> Result<(), String> {
    for act in ["ack", "nack"] {
        acts(node, act, "", &["acknowledges a socket that was not sent"]).stop();
    }
    acts(node, "unwrapped", "", &[]).stop();
    Ok(())
}

fn types(node: &Node) -> Result<(), String> {
    acts(node, "types", "", &[]).stop();
    Ok(())
}

/// Another worker has its place.
fn torn(node: &Node) -> Result<(), String> {
    let dev = acts(
        node,
        "torn",
        "die",
        &["it ends in the middle, after 33 bytes"],
    );
    dev.until("another worker", |s| {
        s.workers.ready == 2 && s.slots[0].restarts == 1
    });
    dev.everybody_answers();
    dev.stop();
    Ok(())
}

fn bytewise(node: &Node) -> Result<(), String> {
    let dev = start(node, "bytewise", "");
    let mut follow = Follow::start(&dev);
    dev.write("go", "");
    follow.wait_for("ä😀");
    follow.wait_for("{\"whole\":2}");
    drop(follow);
    dev.stop();
    Ok(())
}

fn never_reads(node: &Node) -> Result<(), String> {
    let dev = acts(node, "silent", "", &[]);
    let idle = peak_memory(dev.pid());
    let text = serde_json::json!({ "filler": "f".repeat(120_000) }).to_string();
    let mut refused = 0;
    for _ in 0..300 {
        let said = dev.cli(&["send", "web[0]", &text]);
        refused += i32::from(said.code != Some(0));
    }
    assert!(
        refused > 0,
        "300 messages of 120 kB for a worker that reads none"
    );
    let grown = peak_memory(dev.pid()) - idle;
    assert!(grown < 24 << 20, "{grown} bytes");
    // The other one has its messages.
    dev.cli(&["send", "web[1]", "\"for you\""]).succeeded();
    wait("a message", || {
        let seen = request(dev.address(), "POST /eval", "return seen").expect("an answer");
        (seen == serde_json::json!(["for you"])).then_some(())
    });
    dev.stop();
    Ok(())
}
