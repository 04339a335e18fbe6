// SPDX-License-Identifier: MIT OR Apache-2.0
//! Start, reload, scale and restart, with clients that notice every lost request.

use crate::dev::{Dev, Setup, WITHIN, scale};
use crate::load::{Kind, Load, LoadSpec};
use std::time::Duration;

/// `hello` with short waits.
fn hello(workers: u32) -> Dev {
    let config = format!(
        "command = [{:?}, \"hello\"]\nworkers = {workers}\ncanary_time = \"100ms\"\n",
        crate::dev::BINARY
    );
    Setup::with_config(&config).start()
}

/// Clients of all kinds, paced so that they measure losses, not the machine.
pub fn clients(dev: &Dev) -> Load {
    let spec = LoadSpec::tcp(dev.address())
        .with_pace(Kind::NewConnection, 4, 200)
        .with_pace(Kind::KeepAlive, 4, 200)
        .with(Kind::Slow { ms: 300 }, 3)
        .with(Kind::SlowPost, 3);
    let load = Load::start(spec).expect("clients");
    load.wait_for(3, WITHIN).expect("clients at work");
    load
}

/// Ends the load: nothing was lost.
fn lossless(load: Load, at_least: u64) {
    load.wait_for(at_least, WITHIN).expect("enough requests");
    load.stop().assert_lossless(at_least);
}

#[test]
fn workers_answer_and_status_tells() {
    let dev = Setup::new("web").workers(3).start();
    dev.everybody_answers();
    let status = dev.status();
    assert_eq!(
        (status.app.as_str(), status.state.as_str()),
        ("web", "running")
    );
    assert_eq!((status.workers.desired, status.workers.ready), (3, 3));
    assert_eq!((status.generation, status.pid), (1, dev.pid()));
    assert_eq!((status.unit, status.degraded), (None, None));
    assert_eq!(status.config, "built-in hello worker");
    assert_eq!(status.listeners.len(), 1);
    let mut pids = Vec::new();
    for (index, slot) in status.slots.iter().enumerate() {
        assert_eq!(slot.slot as usize, index);
        assert_eq!((slot.state.as_str(), slot.generation), ("ready", Some(1)));
        assert_eq!((slot.restarts, &slot.last_exit), (0, &None));
        assert!(slot.memory.is_some_and(|m| m > 100_000), "{slot:?}");
        assert!(slot.cpu.is_some() && slot.draining.is_empty(), "{slot:?}");
        pids.extend(slot.pid);
    }
    let answer = dev.get("/");
    let slot = answer["slot"].as_u64().expect("a slot") as usize;
    assert_eq!(answer["pid"].as_i64(), Some(i64::from(pids[slot])));
    assert_eq!(
        (&answer["generation"], &answer["name"]),
        (&1.into(), &"web".into())
    );
    let text = dev.cli(&["status", "web"]).succeeded().stdout;
    assert!(text.contains("3/3 ready"), "{text}");
    dev.stop();
}

#[test]
fn reloads_under_load_lose_nothing() {
    let dev = hello(3);
    let load = clients(&dev);
    let reloads = scale(10, 3);
    for generation in 2..2 + reloads {
        let old = dev.pids();
        let said = dev.cli(&["reload", "web"]).succeeded();
        let told = format!("web: generation {generation}: 3 workers");
        assert!(said.stdout.contains(&told), "{said:#?}");
        assert!(said.stderr.contains("is ready after"), "{said:#?}");
        let status = dev.status();
        assert_eq!((status.generation, status.workers.ready), (generation, 3));
        for slot in &status.slots {
            assert_eq!(slot.generation, Some(generation));
            assert!(!old.contains(&slot.pid.expect("a pid")), "{slot:?}");
            assert_eq!(slot.restarts, 0);
        }
        load.wait_for_more(2, WITHIN).expect("requests in between");
    }
    let report = load.snapshot();
    assert_eq!(report.generations().map(|g| g.0), Some(1), "{report}");
    lossless(load, scale(200, 20));
    dev.stop();
}

#[test]
fn scaling_under_load_loses_nothing() {
    let dev = hello(2);
    let load = clients(&dev);
    for (change, count) in [("+2", 4), ("1", 1), ("3", 3), ("-1", 2)] {
        let said = dev.cli(&["scale", "web", change]).succeeded();
        assert_eq!(said.stdout, format!("web: {count} workers are ready\n"));
        let status = dev.until("surplus slots gone", |s| s.slots.len() == count as usize);
        assert_eq!(status.workers.ready, count);
        assert!(status.workers.source.contains("scale"), "{status:?}");
        load.wait_for_more(2, WITHIN).expect("requests in between");
    }
    // It is the operator's word, so it holds over a reload.
    dev.cli(&["reload", "web"]).succeeded();
    assert_eq!(dev.status().workers.desired, 2);
    lossless(load, 10);
    for change in ["0", "-2", "5000"] {
        let said = dev.cli(&["scale", "web", change]);
        said.failed(1, &["must be between 1 and 1024"]);
    }
    assert_eq!(dev.status().workers.ready, 2);
    dev.stop();
}

#[test]
fn restart_of_all_lets_connections_wait() {
    let dev = hello(2);
    let load = clients(&dev);
    let old = dev.pids();
    dev.cli(&["restart", "web"]).succeeded();
    let status = dev.status();
    assert_eq!((status.generation, status.workers.ready), (2, 2));
    assert!(dev.pids().iter().all(|pid| !old.contains(pid)));
    lossless(load, 10);
    dev.stop();
}

#[test]
fn restart_of_a_slot_leaves_the_others_alone() {
    let dev = hello(3);
    let load = clients(&dev);
    let old = dev.pids();
    let said = dev.cli(&["restart", "web[1]"]).succeeded();
    assert_eq!(said.stdout, "web: slot 1 has a new worker\n");
    let new = dev.pids();
    assert_eq!((new[0], new[2]), (old[0], old[2]));
    assert_ne!(new[1], old[1]);
    dev.cli(&["restart", "web[9]"])
        .failed(4, &["there is no slot 9"]);
    lossless(load, 10);
    dev.stop();
}

#[test]
fn two_reloads_at_once_both_succeed() {
    let dev = hello(2);
    let mut first = dev.command(&["reload", "web"]).spawn().expect("reload");
    dev.until("reloading", |s| s.state == "reloading" || s.generation > 1);
    dev.cli(&["reload", "web"]).succeeded();
    assert!(first.wait().expect("its end").success());
    assert!(dev.status().generation >= 2);
    dev.stop();
}

#[test]
fn many_workers() {
    let dev = Setup::new("many").workers(64).start();
    assert_eq!(dev.pids().len(), 64);
    // Which of so many takes a connection is chance; that one does is not.
    assert!(dev.get("/")["pid"].is_number());
    let load = LoadSpec::tcp(dev.address()).with_pace(Kind::NewConnection, 2, 100);
    let load = Load::start(load).expect("clients");
    dev.cli(&["reload", "many"]).succeeded();
    let status = dev.status();
    assert_eq!((status.generation, status.workers.ready), (2, 64));
    lossless(load, 10);
    dev.stop();
}

#[test]
fn an_idle_supervisor_sleeps() {
    let dev = hello(2);
    dev.everybody_answers();
    let switches = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", dev.pid())).expect("tasks");
        let mut all = Vec::new();
        for task in tasks.flatten() {
            let status = std::fs::read_to_string(task.path().join("status")).expect("status");
            let find = |line: &&str| line.starts_with("voluntary_ctxt_switches");
            let line = status.lines().find(find).expect("switches").to_owned();
            all.push((task.file_name(), line));
        }
        all.sort();
        all
    };
    // Until the last timers of the start have run.
    let mut before = switches();
    crate::dev::wait("quiet", || {
        std::thread::sleep(Duration::from_millis(300));
        let now = switches();
        (std::mem::replace(&mut before, now.clone()) == now).then_some(())
    });
    std::thread::sleep(Duration::from_secs(2)); // what is measured, not a synchronisation
    assert_eq!(switches(), before);
    dev.stop();
}
