// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bad releases and crashes: what serves goes on serving, and the cause is told.

use crate::dev::{Dev, Setup, WITHIN};
use crate::environment::write_script;
use crate::load::{Kind, Load, LoadSpec};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const CONFIG: &str = "command = [\"./app\"]\nworkers = 2\ncanary_time = \"100ms\"\n\
    start_timeout = \"30s\"\n";

/// An app whose program is the script `app`.
fn app(config: &str) -> Setup {
    let setup = Setup::with_config(config);
    good(&setup.path("app"));
    setup
}

fn good(path: &std::path::Path) {
    write_script(path, &format!("exec {:?} hello", crate::dev::BINARY));
}

fn sigkill(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("a signal");
}

/// Runs `fail` under load: the same workers serve, and nothing is lost. A reload of
/// what is right again goes through.
fn nothing_changes(dev: &Dev, fail: impl FnOnce()) {
    let load = LoadSpec::tcp(dev.address())
        .with_pace(Kind::NewConnection, 2, 100)
        .with_pace(Kind::KeepAlive, 2, 100);
    let load = Load::start(load).expect("clients");
    load.wait_for(3, WITHIN).expect("clients at work");
    let before = dev.status();
    let pids = dev.pids();
    fail();
    let after = dev.status();
    assert_eq!(dev.pids(), pids);
    assert_eq!(
        (after.state.as_str(), after.generation),
        ("running", before.generation)
    );
    assert_eq!((after.workers.ready, after.degraded), (2, None));
    good(&dev.path("app"));
    dev.configure(CONFIG);
    let said = dev.cli(&["reload", "web"]).succeeded();
    assert!(said.stdout.contains(": 2 workers"), "{said:?}");
    assert!(dev.pids().iter().all(|pid| !pids.contains(pid)));
    load.wait_for_more(3, WITHIN).expect("clients at work");
    load.stop().assert_lossless(3);
}

#[test]
fn a_release_that_exits() {
    let dev = app(CONFIG).start();
    nothing_changes(&dev, || {
        write_script(
            &dev.path("app"),
            "echo starting; echo cannot find flux >&2; exit 3",
        );
        dev.cli(&["reload", "web"]).failed(
            1,
            &[
                "error: generation 2 failed: the worker of slot 0",
                "exited with status 3 before it was ready",
                "generation 1 serves on, untouched",
                "last lines of the worker of slot 0",
                "  | cannot find flux",
            ],
        );
    });
    dev.stop();
}

#[test]
fn a_release_that_never_listens() {
    let dev = app(CONFIG).start();
    nothing_changes(&dev, || {
        write_script(&dev.path("app"), "echo almost there; exec sleep 1000");
        dev.configure(&CONFIG.replace("\"30s\"", "\"500ms\""));
        dev.cli(&["reload", "web"]).failed(
            1,
            &[
                "was not ready within ",
                "sd_notify",
                "ready = { delay",
                "generation 1 serves on, untouched",
                "  | almost there",
            ],
        );
    });
    dev.stop();
}

#[test]
fn a_release_that_cannot_be_executed() {
    let dev = app(CONFIG).start();
    nothing_changes(&dev, || {
        std::fs::remove_file(dev.path("app")).expect("removed");
        let said = dev.cli(&["reload", "web"]);
        said.failed(
            1,
            &[
                "error: the configuration cannot be used, nothing was changed:",
                "./app",
                "app.toml:",
            ],
        );
        std::fs::create_dir(dev.path("app")).expect("a directory");
        let said = dev.cli(&["reload", "web"]);
        said.failed(
            1,
            &[
                "error: the configuration cannot be used, nothing was changed:",
                "directory",
            ],
        );
        std::fs::remove_dir(dev.path("app")).expect("removed");
    });
    dev.stop();
}

#[test]
fn a_configuration_with_a_mistake() {
    let dev = app(CONFIG).start();
    nothing_changes(&dev, || {
        dev.configure("command = [\"./app\"]\nwrokers = 3\n");
        let place = format!("{}:3:1", dev.path("app.toml").display());
        let said = dev.cli(&["reload", "web"]);
        said.failed(1, &["wrokers", "workers", &place]);
        // What would need new sockets is not half done.
        dev.configure(&format!("{CONFIG}blocking = true\n"));
        let said = dev.cli(&["reload", "web"]);
        said.failed(1, &["`blocking` has changed", "restart the app"]);
        std::fs::remove_file(dev.path("app.toml")).expect("removed");
        dev.cli(&["reload", "web"]).failed(1, &["no such file"]);
    });
    dev.stop();
}

#[test]
fn a_new_worker_that_is_killed() {
    let dev = app(CONFIG).start();
    nothing_changes(&dev, || {
        write_script(&dev.path("app"), "echo slowly; exec sleep 1000");
        let mut reload = dev.command(&["reload", "web"]);
        reload.stderr(std::process::Stdio::piped());
        let reload = reload.spawn().expect("reload");
        let status = dev.until("a new worker", |s| {
            s.slots.iter().any(|slot| !slot.draining.is_empty())
        });
        let others = status.slots.iter().flat_map(|slot| &slot.draining);
        let new: Vec<i32> = others.filter_map(|w| w.pid).collect();
        assert_eq!(new.len(), 1, "one at a time: {status:?}");
        sigkill(new[0]);
        let said = crate::dev::Said::from(reload.wait_with_output().expect("its end"));
        said.failed(1, &["was killed by SIGKILL before it was ready"]);
    });
    dev.stop();
}

#[test]
fn a_later_slot_that_fails_brings_all_back() {
    let dev = app(CONFIG).start();
    let script = format!(
        "[ $APP_CLUSTER_SLOT = 0 ] || {{ echo no room >&2; exit 1; }}; exec {:?} hello",
        crate::dev::BINARY
    );
    write_script(&dev.path("app"), &script);
    let said = dev.cli(&["reload", "web"]);
    said.failed(
        1,
        &[
            "slot 1",
            "1 slot(s) already replaced went back to generation 1",
            "no room",
        ],
    );
    let status = dev.status();
    assert_eq!((status.generation, status.workers.ready), (1, 2));
    assert!(status.slots.iter().all(|slot| slot.generation == Some(1)));
}

#[test]
fn a_killed_worker_is_replaced() {
    let dev = app(CONFIG).start();
    let pids = dev.pids();
    sigkill(pids[1]);
    let status = dev.until("replaced", |s| {
        s.workers.ready == 2 && s.slots[1].pid != Some(pids[1])
    });
    assert_eq!(status.slots[0].pid, Some(pids[0]));
    let slot = &status.slots[1];
    assert_eq!(slot.restarts, 1);
    assert_eq!(slot.last_exit.as_deref(), Some("was killed by SIGKILL"));
    dev.everybody_answers();
    dev.stop();
}

#[test]
fn crashes_in_a_row_wait_longer_and_longer() {
    let config = format!("{CONFIG}backoff_min = \"20s\"\nbackoff_max = \"50s\"\n");
    let dev = app(&config).start();
    let first = dev.pids();
    // The first costs no wait.
    sigkill(first[1]);
    let status = dev.until("replaced", |s| {
        s.workers.ready == 2 && s.slots[1].pid != Some(first[1])
    });
    sigkill(status.slots[1].pid.expect("a pid"));
    let status = dev.until("backoff", |s| s.slots[1].state == "backoff");
    assert_eq!((status.workers.ready, status.slots[1].pid), (1, None));
    let line = dev.wait_for_line("slot 1: 2 failures in a row");
    assert!(line.contains("next attempt in 2"), "{line}");
    assert_eq!(dev.get("/")["pid"], first[0], "the other one serves");
    // A reload does not wait for it.
    dev.cli(&["reload", "web"]).succeeded();
    assert_eq!(dev.status().workers.ready, 2);
    dev.stop();
}

#[test]
fn too_many_crashes_degrade() {
    let config =
        format!("{CONFIG}backoff_min = \"10ms\"\nbackoff_max = \"300ms\"\ncrash_budget = 2\n");
    let dev = app(&config).start();
    let other = dev.pids()[0];
    for _ in 0..3 {
        let status = dev.until("ready", |s| s.slots[1].state == "ready");
        let pid = status.slots[1].pid.expect("a pid");
        sigkill(pid);
        dev.until("noticed", |s| s.slots[1].pid != Some(pid));
    }
    dev.wait_for_line("degraded: ");
    let text = dev.cli(&["status", "web"]).succeeded().stdout;
    assert!(text.contains("Degraded: "), "{text}");
    let status = dev.until("recovered", |s| {
        s.degraded.is_none() && s.workers.ready == 2
    });
    assert_eq!(status.slots[0].pid, Some(other));
    dev.wait_for_line("no longer degraded");
    dev.stop();
}

/// Workers that end with the status in the file `exit`, when it is there.
fn ending(keys: &str) -> Dev {
    let script = "while ! [ -s exit ]; do sleep 0.02; done; read s <exit; \
        [ $APP_CLUSTER_SLOT = 1 ] || exec sleep 1000; exit $s";
    let config = format!(
        "command = [\"sh\", \"-c\", {script:?}]\nworkers = 2\nready = {{ delay = \"50ms\" }}\n{keys}"
    );
    Setup::with_config(&config).start()
}

#[test]
fn exits_after_which_no_worker_follows() {
    for (keys, code) in [
        ("restart = \"never\"", 0),
        ("restart = \"never\"", 1),
        ("restart = \"on-failure\"", 0),
        ("stop_exit_codes = [7, 9]", 9),
    ] {
        let dev = ending(keys);
        dev.write("exit.new", &format!("{code}\n"));
        std::fs::rename(dev.path("exit.new"), dev.path("exit")).expect("renamed");
        let status = dev.until("it stays away", |s| s.slots[1].state == "stopped");
        let told = format!("exited with status {code}");
        assert_eq!(status.slots[1].last_exit, Some(told), "{keys}");
        assert_eq!(status.slots[0].state, "ready", "{keys}");
        dev.stop();
    }
}

#[test]
fn exits_after_which_a_worker_follows() {
    for (keys, code) in [
        ("restart = \"always\"", 0),
        ("restart = \"on-failure\"", 1),
        ("stop_exit_codes = [7, 9]", 8),
    ] {
        let dev = ending(&format!("{keys}\nbackoff_min = \"10ms\""));
        assert_eq!(dev.slot(1).restarts, 0);
        dev.write("exit.new", &format!("{code}\n"));
        std::fs::rename(dev.path("exit.new"), dev.path("exit")).expect("renamed");
        let status = dev.until("another", |s| s.slots[1].restarts > 0);
        assert_ne!(status.slots[1].state, "stopped", "{keys}");
        dev.stop();
    }
}

/// A unix socket that has been shut down stays so. That is said once, and the loop does
/// not turn for it.
#[test]
fn a_unix_listener_that_a_worker_shuts_down() {
    let Some(python) = crate::readiness::python() else {
        return;
    };
    let program = "import socket, time\n\
        socket.socket(fileno=3).shutdown(socket.SHUT_RDWR)\ntime.sleep(1000)\n";
    let keys = format!("command = [{python:?}, \"program\"]\nready = {{ delay = \"100ms\" }}\n");
    let setup = Setup::with_config(&keys);
    setup.write("program", program);
    let address = format!("unix:{}", setup.path("web.sock").display());
    let dev = setup.arguments(&["-l", &address]).workers(1).start();
    dev.wait_for_line("cannot be mended");
    let status = dev.until("degraded", |s| s.degraded.is_some());
    assert!(
        status
            .degraded
            .is_some_and(|why| why.contains("was shut down"))
    );
    dev.cli(&["status", "web"]).succeeded();
    let told = dev.output().matches("was shut down").count();
    assert_eq!(told, 1, "{}", dev.output());
    dev.stop();
}
