// SPDX-License-Identifier: MIT OR Apache-2.0
//! How workers end: clean-up hooks, drains, and workers that leave by themselves.

use crate::Row;
use crate::app::{App, assert_no_crash, eval_in, request, word};
use crate::dev::{Dev, WITHIN, wait};
use crate::node_tools::Node;
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;

pub const ROWS: &[Row] = &[
    ("hooks_run_once", hooks),
    ("hooks_run_once_without_preload", hooks_without_preload),
    ("hooks_of_a_message_run_once", hooks_of_a_message),
    (
        "hooks_that_report_an_error_are_no_crash",
        hooks_without_an_error,
    ),
    ("stop_no_hook_at_all", no_hook),
    ("stop_while_it_starts", starting),
    ("stop_worker_disconnects_itself", leaves),
    ("stop_requests_in_flight_are_answered", in_flight),
    ("stop_half_a_request_ends_at_the_timeout", half_a_request),
    ("stop_unknown_protocols_have_their_time", upgraded),
];

/// Ends it and waits, the home directory still there.
fn ended(dev: &mut Dev) {
    dev.signal(Signal::SIGTERM);
    let status = dev.ended();
    assert!(status.success(), "{status}\n{}", dev.output());
    dev.assert_gone();
}

/// What is written in lines `PID WORD`, by process.
fn lines_by_pid(dev: &Dev, file: &str) -> BTreeMap<i32, Vec<String>> {
    let text = std::fs::read_to_string(dev.path(file)).unwrap_or_default();
    let mut found: BTreeMap<i32, Vec<String>> = BTreeMap::new();
    for (pid, word) in text.lines().filter_map(|line| line.split_once(' ')) {
        let pid = pid.parse().expect("a process id");
        found.entry(pid).or_default().push(word.to_owned());
    }
    found
}

/// A connection that was used once and is kept.
fn idle_connection(dev: &Dev) -> TcpStream {
    let mut stream = TcpStream::connect(dev.address()).expect("a connection");
    stream.set_read_timeout(Some(WITHIN)).expect("a timeout");
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .expect("a request");
    let mut answer = [0; 4096];
    let length = stream.read(&mut answer).expect("an answer");
    assert!(answer[..length].starts_with(b"HTTP/1.1 200"));
    stream
}

/// Reload, then stop, with idle connections: the hook has run once in each worker, for that
/// reason, and each has ended by its own exit.
#[track_caller]
fn run_once(app: App, why: &str, code: &str) {
    let mut dev = app.start();
    let idle: Vec<TcpStream> = (0..8).map(|_| idle_connection(&dev)).collect();
    let mut pids = dev.pids();
    dev.cli(&["reload", "web"]).succeeded();
    pids.extend(dev.pids());
    assert_eq!(pids.len(), 4);
    let more: Vec<TcpStream> = (0..8).map(|_| idle_connection(&dev)).collect();
    wait("the old ones are gone", || {
        let draining = dev
            .status()
            .slots
            .iter()
            .map(|s| s.draining.len())
            .sum::<usize>();
        (draining == 0).then_some(())
    });
    assert_no_crash(&dev);
    ended(&mut dev);
    drop((idle, more));
    let output = dev.output();
    let (hooks, exits) = (lines_by_pid(&dev, "hooks"), lines_by_pid(&dev, "exits"));
    for pid in &pids {
        assert_eq!(
            hooks.get(pid),
            Some(&vec![why.to_owned()]),
            "{hooks:?}\n{output}"
        );
        assert_eq!(
            exits.get(pid),
            Some(&vec![code.to_owned()]),
            "{exits:?}\n{output}"
        );
    }
    assert_eq!(hooks.len(), 4, "{hooks:?}");
    assert!(!output.contains("failed"), "{output}");
}

fn hooked(node: &Node, hooks: &str) -> App {
    App::new(node, "hooks.cjs").env("HOOKS", hooks)
}

const EVERY_HOOK: [(&str, &str); 3] = [
    ("SIGTERM", "SIGTERM"),
    ("SIGINT", "SIGINT"),
    ("SIGTERM SIGINT message", "SIGTERM"),
];

fn hooks(node: &Node) -> Result<(), String> {
    for (hooks, why) in EVERY_HOOK {
        run_once(hooked(node, hooks), why, "0");
    }
    Ok(())
}

/// Nobody tells us which signal it acts on: the configuration says so.
fn hooks_without_preload(node: &Node) -> Result<(), String> {
    for (hooks, why) in EVERY_HOOK {
        let keys = format!("node.preload = false\nstop_signal = {why:?}");
        run_once(hooked(node, hooks).keys(&keys), why, "0");
    }
    Ok(())
}

fn hooks_of_a_message(node: &Node) -> Result<(), String> {
    for preload in [true, false] {
        let app = hooked(node, "SIGTERM SIGINT message");
        let app = app.keys(&format!("node.preload = {preload}"));
        run_once(app.keys("stop_message = \"shutdown\""), "message", "0");
    }
    Ok(())
}

/// Their `server.close()` succeeds, though the drain has closed the server already.
fn hooks_without_an_error(node: &Node) -> Result<(), String> {
    let mut dev = hooked(node, "SIGTERM").env("HOW", "error").start();
    let pids = dev.pids();
    dev.cli(&["reload", "web"]).succeeded();
    assert_no_crash(&dev);
    ended(&mut dev);
    let (hooks, exits) = (lines_by_pid(&dev, "hooks"), lines_by_pid(&dev, "exits"));
    assert_eq!((hooks.len(), exits.len()), (4, 4), "{hooks:?} {exits:?}");
    assert!(
        pids.iter().all(|pid| hooks[pid] == ["SIGTERM"]),
        "{hooks:?}"
    );
    let output = dev.output();
    assert!(!output.contains("failed"), "{output}");
    Ok(())
}

/// An app without any hook, that has timers: it is ended soon, not at `drain_timeout`.
fn no_hook(node: &Node) -> Result<(), String> {
    for preload in [true, false] {
        let keys = format!("node.preload = {preload}\ndrain_timeout = \"60s\"");
        let dev = App::kit(node).keys(&keys).start();
        for slot in 0..2 {
            eval_in(&dev, slot, "setInterval(() => {}, 1000)");
        }
        let begun = std::time::Instant::now();
        dev.cli(&["reload", "web"]).succeeded();
        assert_no_crash(&dev);
        dev.stop();
        assert!(begun.elapsed().as_secs() < 40, "{:?}", begun.elapsed());
    }
    Ok(())
}

/// Before it listens; before Node has even begun.
fn starting(node: &Node) -> Result<(), String> {
    for (text, said) in [
        (
            "console.log('it runs'); setInterval(() => {}, 1000)",
            "it runs",
        ),
        ("", "worker"),
    ] {
        let setup = App::command(node, &[word(node), "slow.js"]).setup();
        setup.write("slow.js", text);
        let dev = setup.spawn();
        dev.wait_for_line(said);
        let begun = std::time::Instant::now();
        dev.stop();
        assert!(begun.elapsed().as_secs() < 15, "{:?}", begun.elapsed());
    }
    Ok(())
}

/// Each way to leave: another worker takes the slot, the other slot is not touched.
fn leaves(node: &Node) -> Result<(), String> {
    let keys = "backoff_min = \"10ms\"\nbackoff_max = \"20ms\"\ncrash_budget = 50";
    let dev = App::kit(node).keys(keys).start();
    let other = dev.pids()[1];
    for (code, exit) in [
        (
            "require('cluster').worker.disconnect()",
            "exited with status 0",
        ),
        ("require('cluster').worker.kill()", "exited with status 0"),
        ("process.disconnect()", "exited with status 0"),
        ("process.exit(0)", "exited with status 0"),
        ("process.exit(3)", "exited with status 3"),
        ("throw new Error('crash')", "exited with status 1"),
        ("process.abort()", "was killed by SIGABRT"),
    ] {
        let before = dev.pids()[0];
        eval_in(&dev, 0, &format!("setTimeout(() => {{ {code} }}, 30)"));
        let status = dev.until(code, |s| {
            s.workers.ready == 2 && s.slots[0].pid.is_some_and(|pid| pid != before)
        });
        let told = status.slots[0].last_exit.clone().unwrap_or_default();
        assert!(told.starts_with(exit), "{code}: {told}\n{}", dev.output());
        assert_eq!(status.slots[1].pid, Some(other));
    }
    dev.everybody_answers();
    dev.stop();
    Ok(())
}

fn in_flight(node: &Node) -> Result<(), String> {
    for preload in [true, false] {
        let dev = App::kit(node)
            .keys(&format!("node.preload = {preload}"))
            .start();
        let (address, old) = (dev.address(), dev.pids());
        let slow = || std::thread::spawn(move || request(address, "GET /slow?ms=2500", ""));
        let asked: Vec<_> = (0..6).map(|_| slow()).collect();
        // A worker that has answered later connections has these as well.
        dev.everybody_answers();
        dev.cli(&["reload", "web"]).succeeded();
        for thread in asked {
            let answer = thread.join().expect("a thread").expect("an answer");
            assert!(old.iter().any(|pid| answer["pid"] == *pid), "{answer}");
        }
        assert_no_crash(&dev);
        dev.stop();
    }
    Ok(())
}

/// What never becomes a request does not keep a worker for longer than `drain_timeout`.
fn half_a_request(node: &Node) -> Result<(), String> {
    let dev = App::kit(node)
        .workers(1)
        .keys("drain_timeout = \"3s\"")
        .start();
    let old = dev.pids()[0];
    let mut stream = TcpStream::connect(dev.address()).expect("a connection");
    stream.write_all(b"GET / HT").expect("half a request");
    dev.everybody_answers();
    dev.cli(&["reload", "web"]).succeeded();
    let begun = std::time::Instant::now();
    wait("the old worker ends", || {
        let gone = dev.status().slots[0].draining.is_empty();
        (gone && !std::path::Path::new(&format!("/proc/{old}")).exists()).then_some(())
    });
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    dev.stop();
    Ok(())
}

/// What took a connection over, and is not known to be a WebSocket, is left alone until the
/// end: nobody writes between its bytes.
fn upgraded(node: &Node) -> Result<(), String> {
    let keys = "drain_timeout = \"4s\"";
    let dev = App::kit(node).workers(1).keys(keys).start();
    let code = "server.on('upgrade', (request, socket) => { \
        socket.on('error', () => {}); socket.on('end', () => socket.end()); \
        socket.write('HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: own\\r\\n' + \
          'Connection: Upgrade\\r\\n\\r\\n'); });";
    eval_in(&dev, 0, code);
    let upgrade = b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: own\r\nConnection: Upgrade\r\n\r\n";
    let mut stream = TcpStream::connect(dev.address()).expect("a connection");
    stream.set_read_timeout(Some(WITHIN)).expect("a timeout");
    stream.write_all(upgrade).expect("a request");
    let mut answer = [0; 1024];
    let length = stream.read(&mut answer).expect("an answer");
    assert!(answer[..length].starts_with(b"HTTP/1.1 101"));
    let begun = std::time::Instant::now();
    let client = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A reset is an end as well.
        let _ = stream.read_to_end(&mut bytes);
        (begun.elapsed(), bytes)
    });
    dev.cli(&["reload", "web"]).succeeded();
    let (lasted, bytes) = client.join().expect("a thread");
    assert_eq!(bytes, b"");
    assert!(lasted.as_millis() >= 2900, "{lasted:?}\n{}", dev.output());
    assert!(lasted.as_secs() < 20, "{lasted:?}");
    dev.stop();
    Ok(())
}
