// SPDX-License-Identifier: MIT OR Apache-2.0
//! The supervisor executes its program again: nobody notices.

use crate::dev::{BINARY, Dev, Setup, WITHIN, get, install, scale, wait};
use crate::serving::clients;
use crate::upgrades::{call, refusal, upgrade};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// `hello` with short waits, and more keys.
fn hello(workers: u32, keys: &str) -> Setup {
    Setup::with_config(&format!(
        "command = [{BINARY:?}, \"hello\"]\nworkers = {workers}\ncanary_time = \"50ms\"\n{keys}\n"
    ))
}

/// A request that is answered in so many milliseconds.
fn slow(dev: &Dev, ms: u32) -> std::thread::JoinHandle<Result<serde_json::Value, String>> {
    let stream = TcpStream::connect(dev.address()).expect("a connection");
    stream.set_read_timeout(Some(WITHIN)).expect("a timeout");
    std::thread::spawn(move || get(stream, &format!("/slow?ms={ms}")))
}

#[test]
fn under_load_nothing_is_lost() {
    for (balance, workers) in [("shared", 3), ("even", 2), ("sticky", 2)] {
        let dev = hello(workers, &format!("balance = {balance:?}")).start();
        let load = clients(&dev);
        let long = slow(&dev, 3000);
        let upgrades = match balance {
            "shared" => 5,
            _ => scale(5, 1),
        };
        for _ in 0..upgrades {
            upgrade(&dev);
            load.wait_for_more(2, WITHIN).expect("requests in between");
        }
        long.join().expect("a thread").expect("an answer");
        let report = load.snapshot();
        let pids: Vec<i64> = dev.pids().iter().map(|p| i64::from(*p)).collect();
        for kind in report.kinds.values() {
            let strange = kind.by_pid.keys().find(|p| !pids.contains(&(**p as i64)));
            assert_eq!(strange, None, "{report}");
        }
        dev.cli(&["reload", "web"]).succeeded();
        assert_eq!(dev.status().generation, 2);
        load.wait_for_more(2, WITHIN).expect("requests afterwards");
        load.stop().assert_lossless(10);
        let output = dev.output();
        assert_eq!(output.matches("listening on").count(), 1, "{output}");
        assert!(
            !output.contains("warning") && !output.contains("error"),
            "{output}"
        );
        dev.stop();
    }
}

#[test]
fn many_workers() {
    let dev = Setup::new("web").workers(64).start();
    for _ in 0..scale(5, 2) {
        upgrade(&dev);
    }
    assert!(dev.get("/")["pid"].is_number());
    dev.stop();
}

/// What is open: how many descriptors, and the highest.
fn open(pid: i32) -> (usize, i32) {
    let directory = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors");
    let numbers = directory.flatten();
    let numbers: Vec<i32> = numbers
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    (numbers.len(), numbers.into_iter().max().unwrap_or(0))
}

#[test]
fn twenty_leave_nothing_behind() {
    let dev = Setup::new("web").workers(4).start();
    // One to begin with: the first has numbers from elsewhere.
    upgrade(&dev);
    upgrade(&dev);
    let before = wait("no client", || {
        let found = open(dev.pid());
        std::thread::sleep(Duration::from_millis(20));
        (open(dev.pid()) == found).then_some(found)
    });
    let worker = open(dev.pids()[0]).0;
    let threads = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", dev.pid()));
        tasks.expect("tasks").count()
    };
    let before_threads = threads();
    for _ in 0..20 {
        upgrade(&dev);
    }
    wait("no more descriptors", || {
        (open(dev.pid()).0 <= before.0).then_some(())
    });
    let (_, highest) = open(dev.pid());
    assert!(highest <= before.1 + 64, "{highest} after {before:?}");
    wait("no more threads", || {
        (threads() <= before_threads).then_some(())
    });
    dev.cli(&["restart", "web[0]"]).succeeded();
    let new = dev.pids()[0];
    wait("its descriptors", || (open(new).0 == worker).then_some(()));
    assert_eq!(dev.status().incarnation, 23);
    dev.stop();
}

#[test]
fn what_went_on_goes_on() {
    let keys = "backoff_min = \"10ms\"\nmax_workers = 4\n\
                health = { exec = [\"sh\", \"-c\", \"! test -e bad-$APP_CLUSTER_SLOT\"], \
                interval = \"50ms\", failures = 2 }";
    let dev = hello(2, keys).start();
    upgrade(&dev);
    // A child is still a child: its end is seen, and how.
    let first = dev.pids()[0];
    kill(Pid::from_raw(first), Signal::SIGKILL).expect("a kill");
    let status = dev.until("its replacement", |s| {
        s.workers.ready == 2 && s.slots[0].pid != Some(first)
    });
    let told = status.slots[0].last_exit.clone().unwrap_or_default();
    assert!(told.contains("SIGKILL"), "{told}");
    // Also of one that ends just then.
    for _ in 0..scale(10, 3) {
        let (pid, before) = (dev.pids()[0], dev.line_count());
        let next = dev.status().incarnation + 1;
        dev.signal(Signal::SIGUSR2);
        dev.wait_for_line_after(before, "executing /");
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("a kill");
        let status = dev.until("its replacement", |s| {
            s.incarnation == next && s.workers.ready == 2 && s.slots[0].pid != Some(pid)
        });
        let told = status.slots[0].last_exit.clone().unwrap_or_default();
        assert!(told.contains("SIGKILL"), "{told}\n{}", dev.output());
    }
    // One that is not well is found.
    upgrade(&dev);
    let other = dev.pids()[1];
    dev.write("bad-1", "");
    dev.until("it is replaced", |s| {
        s.slots[1].pid.is_some_and(|pid| pid != other)
    });
    std::fs::remove_file(dev.path("bad-1")).expect("removed");
    dev.until("all are well", |s| s.workers.ready == 2);
    dev.cli(&["scale", "web", "3"]).succeeded();
    upgrade(&dev);
    assert_eq!(dev.status().workers.desired, 3);
    dev.everybody_answers();
    dev.stop();
}

/// Runs a copy of our program, which can be replaced.
fn copied(workers: u32) -> (Dev, PathBuf) {
    let setup = Setup::new("web").workers(workers);
    let copy = setup.path("app-cluster");
    install(BINARY.as_ref(), &copy);
    let text = copy.display().to_string();
    let run = "shift; exec \"$APPC_COPY\" \"$@\"";
    (setup.env("APPC_COPY", &text).wrapper(run).start(), copy)
}

#[test]
fn programs_that_cannot_go_on_are_refused() {
    let (dev, copy) = copied(2);
    let pids = dev.pids();
    let serves_on = || {
        assert_eq!(dev.pids(), pids);
        assert_eq!(dev.status().incarnation, 1);
        dev.everybody_answers();
    };
    crate::dev::install_text(&copy, "#!/bin/sh\necho it is broken; exit 1\n");
    let why = refusal(&dev);
    assert!(
        why.contains("it is broken") && why.contains("nothing was changed"),
        "{why}"
    );
    serves_on();
    // By signal it is said in the log.
    let before = dev.line_count();
    dev.signal(Signal::SIGUSR2);
    dev.wait_for_line_after(before, "not upgraded: ");
    std::fs::remove_file(&copy).expect("removed");
    let why = refusal(&dev);
    assert!(why.contains("app-cluster"), "{why}");
    serves_on();
    if scale(true, false) {
        crate::dev::install_text(&copy, "#!/bin/sh\nexec sleep 1000\n");
        let why = refusal(&dev);
        assert!(why.contains("did not answer"), "{why}");
        serves_on();
    }
    install(BINARY.as_ref(), &copy);
    upgrade(&dev);
    dev.everybody_answers();
    dev.cli(&["reload", "web"]).succeeded();
    dev.stop();
}

#[test]
fn a_rollout_is_waited_for_or_taken_back() {
    let text =
        format!("command = [{BINARY:?}, \"hello\"]\nworkers = 2\ncanary_time = \"1500ms\"\n");
    let dev = Setup::with_config(&text).start();
    let reload = || {
        let mut reload = dev.command(&["reload", "web"]);
        let reload = reload.stderr(std::process::Stdio::piped());
        let reload = reload.stdout(std::process::Stdio::piped()).spawn();
        dev.until("reloading", |s| s.state == "reloading");
        reload.expect("a reload")
    };
    let rolled = reload();
    let reply = call(&dev, false);
    assert_eq!(
        reply["parameters"]["incarnation"],
        2,
        "{reply}\n{}",
        dev.output()
    );
    let status = dev.until("the next incarnation", |s| s.incarnation == 2);
    assert_eq!((status.generation, status.workers.ready), (2, 2));
    let said = rolled.wait_with_output().expect("its end");
    assert!(said.status.success(), "{said:?}\n{}", dev.output());
    let rolled = reload();
    let reply = call(&dev, true);
    assert_eq!(
        reply["parameters"]["incarnation"],
        3,
        "{reply}\n{}",
        dev.output()
    );
    dev.until("the next incarnation", |s| {
        s.incarnation == 3 && s.workers.ready == 2
    });
    let said = rolled.wait_with_output().expect("its end");
    assert!(!said.status.success(), "{said:?}\n{}", dev.output());
    dev.everybody_answers();
    dev.stop();
}

#[test]
fn signals_that_come_then_are_not_lost() {
    for round in 0..scale(10, 3) {
        let mut dev = Setup::new("web").workers(1).start();
        dev.signal(Signal::SIGUSR2);
        if round % 2 == 0 {
            dev.wait_for_line("executing");
        }
        dev.signal(Signal::SIGTERM);
        let status = dev.ended();
        assert!(status.success(), "{status}\n{}", dev.output());
        dev.assert_gone();
    }
    let dev = Setup::new("web").workers(1).start();
    for generation in 2..=scale(10, 4) {
        let before = dev.status().incarnation;
        dev.signal(Signal::SIGUSR2);
        dev.wait_for_line("executing");
        dev.signal(Signal::SIGHUP);
        dev.until("both", |s| {
            s.incarnation == before + 1 && s.generation == generation && s.state == "running"
        });
    }
    dev.stop();
}

#[test]
fn sockets_stay_and_go_at_the_end() {
    let path = |dev: &Dev| dev.path("web.sock");
    let setup = Setup::new("web").workers(2);
    let file = setup.path("web.sock").display().to_string();
    let mut dev = setup.arguments(&["-l", &format!("unix:{file}")]).start();
    for _ in 0..2 {
        upgrade(&dev);
        let stream = UnixStream::connect(path(&dev)).expect("a connection");
        get(stream, "/").expect("an answer");
    }
    dev.signal(Signal::SIGTERM);
    assert!(dev.ended().success());
    assert!(!path(&dev).exists(), "the socket file is left");
    dev.assert_gone();
    // The addresses of the slots.
    let setup = Setup::new("web");
    let sockets = setup.path("slot-{slot}.sock").display().to_string();
    let config = format!(
        "command = [{BINARY:?}, \"hello\"]\nworkers = 2\nlisten = [\"127.0.0.1:0\"]\n\
         slot_listen = \"unix:{sockets}\"\n"
    );
    setup.write("app.toml", &config);
    let file = setup.path("app.toml").display().to_string();
    let dev = setup.arguments(&["-c", &file]).start();
    upgrade(&dev);
    for slot in 0..2 {
        let stream = UnixStream::connect(dev.path(&format!("slot-{slot}.sock")));
        let answer = get(stream.expect("a connection"), "/").expect("an answer");
        assert_eq!(answer["slot"], slot);
    }
    dev.stop();
}

/// Every line that workers write is shown once, whole and in its order, and so is the rest of
/// one that had been begun.
#[test]
fn no_line_of_output_is_lost_or_cut() {
    let script = "i=0; while :; do i=$((i+1)); printf 'number %d ' $i; \
                  [ $((i % 7)) = 0 ] && sleep 0.002; echo $i end; done";
    let dev = Setup::with_config(&format!(
        "command = [\"sh\", \"-c\", {script:?}]\nworkers = 2\nready = {{ delay = \"50ms\" }}\n"
    ))
    .start();
    for _ in 0..scale(10, 4) {
        let before = dev.line_count();
        upgrade(&dev);
        dev.wait_for_line_after(before + 50, "number");
    }
    let pids = dev.pids();
    let output = dev.output();
    for (slot, pid) in pids.iter().enumerate() {
        let prefix = format!("web[{slot}] {pid} | ");
        let lines = output.lines().filter_map(|line| line.strip_prefix(&prefix));
        let mut count = 0;
        for (n, line) in (1..).zip(lines) {
            assert_eq!(line, format!("number {n} {n} end"));
            count = n;
        }
        assert!(count > 100, "{count}\n{output}");
    }
    dev.stop();
}
