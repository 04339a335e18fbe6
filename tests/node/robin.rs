// SPDX-License-Identifier: MIT OR Apache-2.0
//! `balance = "round-robin"`: the supervisor accepts and hands connections over.

use crate::Row;
use crate::app::{App, assert_no_crash, assert_nothing_blocks, eval_in, request};
use crate::dev::{Dev, WITHIN, wait};
use crate::load::crowd::Crowd;
use crate::load::{Kind, Load, LoadSpec};
use crate::node_tools::Node;
use std::time::{Duration, Instant};

pub const ROWS: &[Row] = &[
    ("robin_spreads_held_connections", spreads),
    ("robin_closed_server_takes_none", closed_server),
    ("robin_full_workers_are_not_pressed", full_workers),
    ("robin_worker_without_descriptors", no_descriptors),
    ("robin_reload_under_load", reload),
];

const ROBIN: &str = "balance = \"round-robin\"";

fn spreads(node: &Node) -> Result<(), String> {
    let dev = App::kit(node).workers(4).keys(ROBIN).start();
    assert_eq!(dev.status().listeners[0].balance, "round-robin");
    let crowd = Crowd::new(LoadSpec::tcp(dev.address()));
    let held = crowd
        .hold(80, Duration::from_millis(3))
        .expect("connections");
    let counts = held.by_slot();
    // In turn, but for one that has not answered for its last when the next one comes.
    assert!(
        counts.values().all(|count| (19..=21).contains(count)),
        "{counts:?}"
    );
    assert_eq!(counts.len(), 4, "{counts:?}");
    assert_nothing_blocks(&dev);
    drop(held);
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

/// It says `accepted: false`, and another worker gets the connection.
fn closed_server(node: &Node) -> Result<(), String> {
    let dev = App::kit(node).keys(ROBIN).start();
    eval_in(&dev, 0, "server.close()");
    let other = dev.pids()[1];
    for _ in 0..40 {
        let answer = request(dev.address(), "GET /", "").expect("an answer");
        assert_eq!(answer["pid"], other);
    }
    dev.stop();
    Ok(())
}

/// User and system time of a process so far, in ticks of 10 ms (proc_pid_stat(5)).
pub fn ticks(dev: &Dev) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", dev.pid())).expect("stat");
    let fields = stat.rsplit_once(") ").expect("a name").1;
    let fields = fields.split(' ').skip(11).take(2);
    fields
        .map(|field| field.parse::<u64>().expect("ticks"))
        .sum()
}

/// `maxConnections` reached everywhere: the connections wait, no worker is asked again and
/// again, and they are served once there is room.
fn full_workers(node: &Node) -> Result<(), String> {
    let dev = App::kit(node)
        .keys(ROBIN)
        .env("MAX_CONNECTIONS", "2")
        .start();
    let address = dev.address();
    let ask = move || std::thread::spawn(move || request(address, "GET /slow?ms=3000", ""));
    let all: Vec<_> = (0..10).map(|_| ask()).collect();
    let before = ticks(&dev);
    let begun = Instant::now();
    let answers = all
        .into_iter()
        .map(|thread| thread.join().expect("a thread"));
    let answers: Result<Vec<_>, _> = answers.collect();
    answers.expect("all are answered");
    // Ten of 3 s each, four at once.
    assert!(
        begun.elapsed() >= Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    let used = ticks(&dev) - before;
    assert!(used < 50, "{used}0 ms of processor time");
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

/// A worker that can take no descriptor answers NACK: others serve its connections.
fn no_descriptors(node: &Node) -> Result<(), String> {
    let dev = App::kit(node).keys(ROBIN).start();
    let pid = dev.pids()[0];
    // That of all processes here.
    let maximum = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let limit = |soft: u64| {
        let limits = rustix::process::Rlimit {
            current: Some(soft),
            maximum,
        };
        let pid = rustix::process::Pid::from_raw(pid);
        rustix::process::prlimit(pid, rustix::process::Resource::Nofile, limits)
            .expect("prlimit(2)");
    };
    limit(3);
    for _ in 0..20 {
        let answer = request(dev.address(), "GET /", "").expect("an answer");
        assert_ne!(answer["pid"], pid);
    }
    limit(1024);
    wait("it serves again", || {
        let answer = request(dev.address(), "GET /", "").expect("an answer");
        (answer["pid"] == pid).then_some(())
    });
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

fn reload(node: &Node) -> Result<(), String> {
    let dev = App::kit(node).keys(ROBIN).start();
    let spec = LoadSpec::tcp(dev.address())
        .with_pace(Kind::NewConnection, 3, 100)
        .with_pace(Kind::KeepAlive, 3, 100);
    let load = Load::start(spec).expect("clients");
    load.wait_for(5, WITHIN).expect("clients at work");
    for _ in 0..crate::dev::scale(5, 2) {
        dev.cli(&["reload", "web"]).succeeded();
        load.wait_for_more(5, WITHIN).expect("clients at work");
    }
    load.stop().assert_lossless(20);
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}
