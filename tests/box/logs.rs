// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the journal tells: of each worker, of each slot, of us; and that
//! supervision goes on when nobody reads.

use std::time::Duration;

use app_cluster::engine::message_id as id;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::app::{self, SERVICE, field};
use crate::harness::{Test, TestBox, scale, test};
use crate::load::Kind;

pub const TESTS: &[Test] = &[
    test!(each_worker_has_its_own_lines),
    test!(a_slot_has_the_lines_of_all_its_workers),
    test!(last_words_are_kept),
    test!(logs_follow_over_a_reload),
    test!(events_carry_their_fields),
    test!(journald_stands_still),
    test!(journald_is_flooded),
    test!(systemd_stands_still),
    test!(the_supervisor_stands_still),
];

/// Asks until slot `slot` has written `count` lines; gives its pid.
fn ask_for_lines(b: &TestBox, slot: u64, count: usize) -> String {
    let mut pid = String::new();
    b.wait_for("an answer of that slot", app::LONG, || {
        let answer = app::get(b, &format!("/lines?{count}")).ok();
        let who: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
        pid = who["pid"].to_string();
        who["slot"] == slot
    });
    pid
}

fn each_worker_has_its_own_lines(b: &TestBox) {
    app::start(b, &app::python(2, ""));
    let before = app::all_ready(b, 2);
    let asked = [0, 1].map(|slot| ask_for_lines(b, slot, 20));
    assert_eq!(asked, [before[0].to_string(), before[1].to_string()]);
    for pid in &asked {
        let lines = b.journal(&[&format!("_PID={pid}")]);
        let lines: Vec<_> = lines.lines().collect();
        assert!(lines.len() >= 20 && lines.len() % 20 == 0, "{lines:?}");
        for (index, line) in lines.iter().enumerate() {
            assert_eq!(*line, format!("line {} of {pid}", index % 20));
        }
    }
    // They come as the unit's, and our own lines are not theirs.
    let of_unit = b.journal(&["-u", SERVICE]);
    assert!(
        asked
            .iter()
            .all(|pid| of_unit.contains(&format!("line 19 of {pid}")))
    );
    assert!(
        of_unit.contains("2/2") || of_unit.contains("is ready after"),
        "{of_unit}"
    );
}

fn a_slot_has_the_lines_of_all_its_workers(b: &TestBox) {
    app::start(b, &app::python(2, "talk"));
    let generations = scale(5, 2);
    for _ in 0..generations {
        b.run(&["systemctl", "reload", SERVICE]).ok();
    }
    app::all_ready(b, 2);
    b.run(&["journalctl", "--sync"]).ok();
    let told = b.run(&["app-cluster", "logs", "app-cluster[1]"]).ok();
    let mut wanted = Vec::new();
    for generation in 1..=generations + 1 {
        for who in ["main", "child"] {
            wanted.push(format!("{who} of slot 1 generation {generation}"));
        }
    }
    let said = told
        .lines()
        .filter_map(|line| Some(line.split_once(" | ")?.1));
    assert_eq!(said.collect::<Vec<_>>(), wanted, "{told}");
    assert!(
        told.lines().all(|line| line.contains(" app-cluster[1] ")),
        "{told}"
    );
    // All of them with --json, and the last two with -n.
    let json = b
        .run(&["app-cluster", "logs", "--json", "-n", "2", "app-cluster[1]"])
        .ok();
    let json: Vec<serde_json::Value> = json
        .lines()
        .map(|l| serde_json::from_str(l).expect("JSON"))
        .collect();
    let said: Vec<_> = json
        .iter()
        .map(|l| l["message"].as_str().expect("text"))
        .collect();
    assert_eq!(said, wanted[wanted.len() - 2..]);
    assert!(json.iter().all(|line| line["slot"] == 1), "{json:?}");
    let all = b.run(&["app-cluster", "logs"]).ok();
    assert!(all.contains("main of slot 0 generation 1") && all.contains("child of slot 1"));
}

/// Of a worker that dies at once, and of one that ends in the middle of a line.
fn last_words_are_kept(b: &TestBox) {
    app::start(b, &app::python(2, ""));
    let before = app::all_ready(b, 2);
    app::configure(b, &app::python(2, "crash"));
    for attempt in 1..=scale(10, 3) {
        let out = b.run(&["systemctl", "reload", SERVICE]).fails();
        let told = b.journal(&["-u", SERVICE]);
        let cause = format!("RuntimeError: no way, slot 0 generation {}", attempt + 1);
        assert!(told.contains(&cause), "{out}{told}");
        assert!(
            told.contains("Traceback (most recent call last):"),
            "{told}"
        );
        let direct = b.run(&["app-cluster", "reload"]).fails();
        assert!(
            direct.stderr.contains("RuntimeError: no way, slot 0"),
            "{direct}"
        );
    }
    assert_eq!(app::pids(b), before);
    app::get(b, "/last").fails();
    let now = app::all_ready(b, 2);
    let died = before
        .iter()
        .find(|pid| !now.contains(pid))
        .expect("one has died");
    let words = format!("last words of {died}");
    b.wait_until("its last words", || {
        b.journal(&[&format!("_PID={died}")]) == words
    });
    assert!(b.journal(&["-u", SERVICE]).contains(&words));
    let slot = before.iter().position(|pid| pid == died).expect("a slot");
    let told = b
        .run(&["app-cluster", "logs", &format!("app-cluster[{slot}]")])
        .ok();
    assert!(told.contains(&words), "{told}");
}

fn logs_follow_over_a_reload(b: &TestBox) {
    app::start(b, &app::python(2, "talk"));
    let one = b.spawn(
        "exec app-cluster logs -f 'app-cluster[1]'",
        Duration::from_secs(240),
    );
    let all = b.spawn("exec app-cluster logs -f", Duration::from_secs(240));
    for generation in 1..=scale(5, 2) + 1 {
        let line = |slot| format!("child of slot {slot} generation {generation}");
        b.wait_for("that generation's lines", app::LONG, || {
            let (one, all) = (one.stdout(), all.stdout());
            one.contains(&line(1)) && all.contains(&line(0)) && all.contains(&line(1))
        });
        b.run(&["systemctl", "reload", SERVICE]).ok();
    }
    let told = one.stop().stdout;
    assert!(!told.contains("of slot 0"), "{told}");
    let mains = told.matches("main of slot 1 generation 2").count();
    assert_eq!(mains, 1, "{told}");
}

fn events_carry_their_fields(b: &TestBox) {
    app::start(b, &app::hello(2));
    let before = app::all_ready(b, 2);
    let status = app::status(b);
    b.run(&["kill", "-KILL", &before[1].to_string()]).ok();
    app::all_ready(b, 2);
    b.run(&["systemctl", "reload", SERVICE]).ok();
    app::all_ready(b, 2);
    let supervisor = app::supervisor(b);
    for (kind, at_least) in [
        (id::WORKER_STARTED, 5),
        (id::WORKER_READY, 5),
        (id::WORKER_EXITED, 3),
        (id::WORKER_FAILED, 1),
    ] {
        let events = app::events(b, kind);
        assert!(events.len() >= at_least, "{kind}: {events:?}");
        for event in &events {
            assert_eq!(field(event, "APPC_APP"), "app-cluster");
            assert_eq!(field(event, "_PID"), supervisor);
            assert_eq!(field(event, "_SYSTEMD_UNIT"), SERVICE);
            for name in ["APPC_SLOT", "APPC_WORKER", "APPC_GENERATION", "OBJECT_PID"] {
                assert!(
                    field(event, name).parse::<u64>().is_ok(),
                    "{name} in {event}"
                );
            }
        }
    }
    let slot = &status["slots"][1];
    let crash = app::events(b, id::WORKER_FAILED).remove(0);
    assert_eq!(field(&crash, "APPC_SLOT"), "1");
    assert_eq!(field(&crash, "APPC_GENERATION"), "1");
    assert_eq!(field(&crash, "APPC_WORKER"), slot["worker"].to_string());
    assert_eq!(field(&crash, "OBJECT_PID"), slot["pid"].to_string());
    assert_eq!(field(&crash, "PRIORITY"), "3");
    for kind in [id::ROLLOUT_STARTED, id::ROLLOUT_FINISHED] {
        let events = app::events(b, kind);
        assert_eq!(events.len(), 1);
        assert_eq!(field(&events[0], "APPC_GENERATION"), "2");
    }
}

/// More of our own lines than the journal's socket and our queue hold.
fn journald_stands_still(b: &TestBox) {
    let workers = 24;
    app::start(
        b,
        &(app::hello(workers) + "batch = 8\ncanary_time = \"10ms\"\n"),
    );
    let before = app::all_ready(b, workers);
    let supervisor = app::supervisor(b);
    let journald = b.show("systemd-journald.service", "MainPID");
    b.run(&["kill", "-STOP", &journald]).ok();
    let load = app::load(b, &[Kind::NewConnection]);
    for _ in 0..scale(30, 15) {
        b.run(&["app-cluster", "reload"]).ok();
        let status = app::status(b);
        assert_eq!(status["workers"]["ready"], workers, "{status}");
    }
    b.run(&["systemctl", "reload", SERVICE]).ok();
    let now = app::all_ready(b, workers);
    assert!(before.iter().all(|pid| !now.contains(pid)));
    // A reload that fails is told at once as well, with or without last lines.
    app::configure(b, &app::python(workers, "crash"));
    let begin = std::time::Instant::now();
    let out = b.run(&["app-cluster", "reload"]).fails();
    assert!(out.stderr.contains("exited with status 1"), "{out}");
    assert!(begin.elapsed() < Duration::from_secs(30), "{out}");
    load.stop().assert_lossless(1);
    // Crashes.
    b.run(&["kill", "-KILL", &now[3].to_string()]).ok();
    b.wait_until("a replacement", || {
        let pids = app::pids(b);
        pids.len() == workers && pids[3] != 0 && pids[3] != now[3]
    });
    b.run(&["kill", "-CONT", &journald]).ok();

    let dropped = app::status(b)["counters"]["log_dropped"]
        .as_u64()
        .expect("a number");
    assert!(
        dropped > 0,
        "the queue was never full: more reloads are needed"
    );
    b.wait_until("the drops to be told", || {
        b.run(&[
            "systemctl",
            "kill",
            "-s",
            "USR1",
            "--kill-who=main",
            SERVICE,
        ])
        .ok();
        b.journal(&["-u", SERVICE])
            .contains("log lines were dropped")
    });
    let pid = app::pids(b)[0];
    b.run(&["kill", "-KILL", &pid.to_string()]).ok();
    b.wait_until("events as before", || {
        let exit = format!("OBJECT_PID={pid}");
        b.journal(&[&exit]).contains("was killed by SIGKILL")
    });
    app::unharmed(b, &supervisor);
}

/// By a worker that writes as much as it can.
fn journald_is_flooded(b: &TestBox) {
    app::start(b, &app::python(2, "flood"));
    let supervisor = app::supervisor(b);
    for _ in 0..scale(5, 1) {
        let before = app::all_ready(b, 2);
        b.run(&["systemctl", "reload", SERVICE]).ok();
        let now = app::all_ready(b, 2);
        assert!(before.iter().all(|pid| !now.contains(pid)));
        b.run(&["kill", "-KILL", &now[0].to_string()]).ok();
        b.wait_for("a replacement", app::LONG, || {
            let pids = app::pids(b);
            pids.len() == 2 && pids[0] != 0 && pids[0] != now[0]
        });
        app::all_slots_answer(b, 2);
    }
    assert_eq!(
        b.sh("pgrep -xc yes").ok(),
        "2",
        "children of those that are gone"
    );
    app::configure(b, &app::python(2, ""));
    b.run(&["systemctl", "reload", SERVICE]).ok();
    app::all_ready(b, 2);
    assert_eq!(b.sh("pgrep -xc yes || true").ok(), "0");
    assert_eq!(app::supervisor(b), supervisor);
}

/// systemd itself does not read: nothing that we tell it may hold us up.
fn systemd_stands_still(b: &TestBox) {
    app::drop_in(b, "[Service]\nWatchdogSec=2min\n");
    app::start(b, &(app::hello(3) + "canary_time = \"10ms\"\n"));
    app::all_ready(b, 3);
    let supervisor = app::supervisor(b);
    // A container's PID 1 obeys this signal from outside only.
    let leader = Pid::from_raw(b.leader_pid() as i32);
    let load = app::load(b, &[Kind::NewConnection]);
    kill(leader, Signal::SIGSTOP).expect("stop");
    for _ in 0..scale(100, 20) {
        b.run(&["app-cluster", "reload"]).ok();
    }
    let victim = app::pids(b)[1];
    b.run(&["kill", "-KILL", &victim.to_string()]).ok();
    b.wait_until("a replacement", || {
        let pids = app::pids(b);
        pids.len() == 3 && pids[1] != 0 && pids[1] != victim
    });
    kill(leader, Signal::SIGCONT).expect("continue");
    load.wait_for_more(50, app::LONG).expect("answers");
    app::only_accepted_ones_failed(&load.stop(), 2);
    b.wait_until("the true status", || {
        let generation = app::status(b)["generation"].to_string();
        b.show(SERVICE, "StatusText") == format!("3/3 ready, generation {generation}")
    });
    app::unharmed(b, &supervisor);
}

fn the_supervisor_stands_still(b: &TestBox) {
    app::drop_in(b, "[Service]\nWatchdogSec=2s\n");
    app::start(b, &app::hello(2));
    for round in 1..=scale(5, 1) {
        let workers = app::all_ready(b, 2);
        let supervisor = app::supervisor(b);
        b.run(&["kill", "-STOP", &supervisor]).ok();
        // Nobody is left to answer, and nobody to replace them.
        b.sh(&format!("kill -KILL {} {}", workers[0], workers[1]))
            .ok();
        let clients: Vec<_> = (0..20)
            .map(|_| b.spawn("curl -sSf --max-time 60 http://127.0.0.1:3000/", app::LONG))
            .collect();
        for client in clients {
            assert!(client.wait().ok().contains("\"pid\""));
        }
        assert_ne!(app::supervisor(b), supervisor);
        assert_eq!(b.show(SERVICE, "NRestarts"), round.to_string());
    }
    app::all_ready(b, 2);
    let journal = b.journal(&["-u", SERVICE]);
    assert!(journal.contains("Watchdog timeout"), "{journal}");
    assert_eq!(b.show(SERVICE, "ActiveState"), "active");
}
