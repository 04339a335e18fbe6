// SPDX-License-Identifier: MIT OR Apache-2.0
//! An unmodified `http` server of Node: what each way to share out its connections gives.
//!
//! All contenders run at once, and are measured in turn, round by round, so that whatever else
//! the machine does meets them all. Figures are ratios to `node:cluster` with SCHED_RR.

mod client;
mod contender;
#[path = "../../tests/support/node_tools.rs"]
mod node_tools;

use crate::{Table, median};
use client::{Outcome, Run};
use contender::{By, Contender};
use node_tools::Node;
use std::fs;
use std::process::Command;
use std::thread::available_parallelism;
use std::time::Duration;

/// The Node to measure with, if it can be had; else the system's.
const VERSION: &str = "24.21.0";
/// What others are compared with.
const NODES_OWN: By = By::Cluster("SCHED_RR");
const CONTENDERS: [By; 8] = [
    NODES_OWN,
    By::Cluster("SCHED_NONE"),
    By::Pm2,
    By::Nobody,
    By::Us("even"),
    By::Us("shared"),
    By::Us("sticky"),
    By::Us("round-robin"),
];
const WORKERS: usize = 2;
const CLIENTS: usize = 40;
/// Many short ones: what else the machine does changes from second to second.
const ROUNDS: usize = 21;
const TIME: Duration = Duration::from_millis(500);

pub fn measure(table: &mut Table) {
    let node = match node() {
        Ok(node) => node,
        Err(why) => return table.row("an application of Node", "skipped".to_owned(), "", &why),
    };
    connections_and_requests(table, &node);
    scaling(table, &node);
}

fn node() -> Result<Node, String> {
    node_tools::node(VERSION).or_else(|why| {
        let out = Command::new("node").arg("--version").output();
        let out = out.map_err(|e| format!("{why}; node: {e}"))?;
        let version = String::from_utf8_lossy(&out.stdout);
        Ok(Node {
            version: version.trim().trim_start_matches('v').to_owned(),
            program: "node".into(),
        })
    })
}

/// What was measured of one contender, round by round.
struct Measured {
    contender: Contender,
    /// Connections, each for one request.
    connections: Vec<Outcome>,
    /// Requests over connections that are kept.
    requests: Vec<Outcome>,
    /// Processor time of the primary while connections were made, and of all processes.
    cpu: [Duration; 2],
}

impl Measured {
    /// Microseconds of each.
    fn per_connection(&self) -> [f64; 2] {
        let all: u64 = self.connections.iter().map(|o| o.answers).sum();
        self.cpu.map(|c| c.as_secs_f64() * 1e6 / all.max(1) as f64)
    }

    fn cpu_so_far(&self) -> [Duration; 2] {
        let root = self.contender.root;
        let workers = children(root).into_iter().map(cpu).sum::<Duration>();
        [cpu(root), cpu(root) + workers]
    }
}

fn connections_and_requests(table: &mut Table, node: &Node) {
    let mut all = Vec::new();
    for by in CONTENDERS {
        eprintln!("  {} starts", by.name());
        match Contender::start(by, node, WORKERS) {
            Ok(contender) => all.push(Measured {
                contender,
                connections: Vec::new(),
                requests: Vec::new(),
                cpu: [Duration::ZERO; 2],
            }),
            Err(why) => table.row(&by.name(), "skipped".to_owned(), "", &why),
        }
    }
    for _ in 0..ROUNDS {
        for one in &mut all {
            let before = one.cpu_so_far();
            let made = load(&one.contender, "/", CLIENTS, false, TIME);
            one.connections.push(made);
            for (n, after) in one.cpu_so_far().into_iter().enumerate() {
                one.cpu[n] += after.saturating_sub(before[n]);
            }
        }
        for one in &mut all {
            one.requests
                .push(load(&one.contender, "/", CLIENTS, true, TIME));
        }
    }
    let how = format!(
        "Node {}, {WORKERS} workers, {CLIENTS} clients, against {}, median of {ROUNDS} rounds",
        node.version,
        NODES_OWN.name()
    );
    let even = By::Us("even");
    let rates = |table: &mut Table, what: &str, of: fn(&Measured) -> &[Outcome], goal: &str| {
        for one in &all {
            let value = compared(of(one), of(&all[0]));
            let goal = if one.contender.by == even { goal } else { "" };
            let what = format!("{what}, {}", one.contender.by.name());
            table.row(&what, value, goal, &how);
        }
    };
    rates(table, "connections/s", |m| &m.connections, "≥ 1.8×");
    rates(table, "requests/s, kept alive", |m| &m.requests, "");
    processor_time(table, &all);
}

fn processor_time(table: &mut Table, all: &[Measured]) {
    let base = all[0].per_connection();
    for (n, who) in ["primary's", "all processes'"].into_iter().enumerate() {
        for one in all
            .iter()
            .filter(|one| n > 0 || one.contender.has_primary())
        {
            let each = one.per_connection()[n];
            let value = format!("{:.2}× ({each:.1} µs)", each / base[n]);
            let what = format!("{who} CPU per connection, {}", one.contender.by.name());
            let goal = match one.contender.by {
                By::Us("round-robin") if n == 0 => "≤ 0.6×",
                _ => "",
            };
            table.row(&what, value, goal, "utime + stime over all rounds");
        }
    }
}

/// The ratio of two that were measured in the same rounds, the rate, and what was lost.
fn compared(these: &[Outcome], those: &[Outcome]) -> String {
    let pairs = these.iter().zip(those);
    let ratio = median(pairs.map(|(a, b)| a.rate() / b.rate()).collect());
    let rate = median(these.iter().map(Outcome::rate).collect());
    match these.iter().map(|o| o.lost).sum() {
        0_u64 => format!("{ratio:.2}× ({rate:.0}/s)"),
        lost => format!("{ratio:.2}× ({rate:.0}/s, {lost} lost)"),
    }
}

fn load(
    contender: &Contender,
    path: &'static str,
    clients: usize,
    kept: bool,
    time: Duration,
) -> Outcome {
    let run = Run {
        address: contender.address,
        path,
        clients,
        kept,
        time,
    };
    run.go().expect("connections")
}

/// Time that a process has been on a processor, its threads included (proc_pid_stat(5)).
fn cpu(process: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name, in brackets, may have spaces in it.
    let after = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let fields = after.split_whitespace().skip(11).take(2);
    let ticks: u64 = fields.filter_map(|f| f.parse::<u64>().ok()).sum();
    // USER_HZ is 100 on all Linux that Node runs on.
    Duration::from_millis(ticks * 10)
}

/// Children of all threads of a process (proc_pid_task(5)).
fn children(process: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{process}/task"))
        .into_iter()
        .flatten();
    let lists = tasks
        .flatten()
        .map(|t| fs::read_to_string(t.path().join("children")));
    let all: String = lists.map(Result::unwrap_or_default).collect();
    all.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// The table of the guides: a route that waits, more clients than one process takes well.
fn scaling(table: &mut Table, node: &Node) {
    const SLOW_CLIENTS: usize = 500;
    const SLOW_ROUNDS: usize = 5;
    const SLOW_TIME: Duration = Duration::from_millis(1500);
    let cpus = available_parallelism().map_or(2, usize::from);
    let mut counts = vec![1, 2, 2 * cpus];
    counts.dedup();
    for by in [NODES_OWN, By::Us("even")] {
        let start = |count: &usize| Contender::start(by, node, *count).expect("workers");
        let contenders: Vec<Contender> = counts.iter().map(start).collect();
        let mut all = vec![Vec::new(); counts.len()];
        for _ in 0..SLOW_ROUNDS {
            for (contender, rounds) in contenders.iter().zip(&mut all) {
                rounds.push(load(contender, "/slow", SLOW_CLIENTS, true, SLOW_TIME));
            }
        }
        for (count, rounds) in counts.iter().zip(&all) {
            let what = format!(
                "requests/s of a 50 ms route, {count} workers, {}",
                by.name()
            );
            let how = format!("{SLOW_CLIENTS} connections, {cpus} CPUs, against 1 worker");
            table.row(&what, compared(rounds, &all[0]), "", &how);
        }
    }
}
