// SPDX-License-Identifier: MIT OR Apache-2.0
//! Health by a command, signs of life, and workers that serve on before a stop, for programs
//! in any language.

use crate::dev::{BINARY, Dev, Setup, wait};
use crate::readiness::python;
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

/// What it says stands in the file `health-SLOT`: a line and an exit status; `hang` starts
/// another process and waits for it.
const CHECK: &str = r#"
test -d /proc/$APP_CLUSTER_PID || exit 99
read -r status said < health-$APP_CLUSTER_SLOT || exit 0
test "$status" = hang && { sleep 1000; exit; }
echo "$said" >&2
exit "$status"
"#;

fn config(timeout: &str) -> String {
    let command = [BINARY, "hello"];
    format!(
        "command = {command:?}\nworkers = 2\nmax_workers = 2\nbalance = \"even\"\n\
         canary_time = \"50ms\"\nhealth = {{ exec = [\"sh\", \"check\"], interval = \"50ms\", \
         timeout = {timeout:?}, failures = 2 }}\n"
    )
}

fn started(timeout: &str) -> Dev {
    let setup = Setup::with_config(&config(timeout));
    setup.write("check", CHECK);
    let dev = setup.start();
    dev.until_well();
    dev
}

fn says(dev: &Dev, slot: u32, line: &str) {
    // In one step: it is read at any time.
    dev.write("new", &format!("{line}\n"));
    std::fs::rename(dev.path("new"), dev.path(&format!("health-{slot}"))).expect("renamed");
}

fn is(dev: &Dev, slot: usize, state: &str) {
    dev.until(state, |s| s.slots[slot].state == state);
}

#[test]
fn a_command_that_says_not_ready() {
    let dev = started("20s");
    let pids = dev.pids();
    says(&dev, 0, "75 warming up");
    is(&dev, 0, "not-ready");
    let health = dev.slot(0).health.unwrap_or_default();
    assert_eq!(health, "`sh check` exited with status 75: warming up");
    let shown = dev.cli(&["status", "web"]).stdout;
    assert!(
        shown.contains("Health: slot 0: `sh check` exited"),
        "{shown}"
    );
    let ready = dev.cli(&["status", "web", "--ready"]);
    assert_eq!(ready.code, Some(0), "{ready:?}");
    assert_eq!(ready.stdout.trim(), "1 of 2 workers are ready for traffic");
    let other = i64::from(pids[1]);
    wait("only the other one answers", || {
        let mut asked = (0..20).map(|_| dev.get("/")["pid"].as_i64());
        asked.all(|pid| pid == Some(other)).then_some(())
    });
    says(&dev, 0, "0 well");
    is(&dev, 0, "ready");
    dev.everybody_answers();
    assert_eq!(dev.pids(), pids);
    dev.stop();
}

#[test]
fn a_command_that_fails_or_hangs() {
    for (timeout, answer, told) in [
        (
            "20s",
            "1 no database",
            "`sh check` exited with status 1: no database (2 times in a row)",
        ),
        (
            "2s",
            "hang",
            "`sh check` did not end within 2s (2 times in a row)",
        ),
    ] {
        let dev = started(timeout);
        let pids = dev.pids();
        says(&dev, 1, answer);
        let line = dev.wait_for_line("is not healthy: ");
        assert!(line.contains(told), "{line}");
        assert!(
            line.contains(&format!("slot 1: worker {} ", pids[1])),
            "{line}"
        );
        says(&dev, 1, "0 well");
        let status = dev.until("replaced", |s| {
            let slot = &s.slots[1];
            slot.pid.is_some_and(|pid| pid != pids[1]) && slot.draining.is_empty()
        });
        assert_eq!(status.slots[0].pid, Some(pids[0]));
        dev.everybody_answers();
        // With it, nothing is left of the commands either.
        dev.stop();
    }
}

#[test]
fn a_release_whose_command_fails() {
    let dev = started("20s");
    let pids = dev.pids();
    let bad = config("20s").replace("\"check\"", "\"-c\", \"echo wrong schema; exit 3\"");
    dev.configure(&bad);
    let said = dev.cli(&["reload", "web"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    let told = "exited with status 3: wrong schema (2 times in a row)";
    assert!(said.stderr.contains(told), "{said:?}");
    dev.until("no rollout", |s| s.rollout.is_none());
    assert_eq!(dev.pids(), pids, "{}", dev.output());
    dev.stop();
}

const WATCHED: &str = r#"
import os, socket, time
assert os.environ["WATCHDOG_PID"] == str(os.getpid()), os.environ["WATCHDOG_PID"]
interval = int(os.environ["WATCHDOG_USEC"]) / 1e6
slot = os.environ["APP_CLUSTER_SLOT"]
to = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
to.connect(os.environ["NOTIFY_SOCKET"])
to.send(b"READY=1")
def said(what):
    try:
        os.unlink(f"{what}-{slot}")
        return True
    except FileNotFoundError:
        return False
while True:
    if said("silent"):
        time.sleep(1000)
    elif said("trigger"):
        to.send(b"WATCHDOG=trigger")
        time.sleep(1000)
    elif said("never"):
        to.send(b"WATCHDOG_USEC=0\nSTATUS=alone")
        time.sleep(1000)
    to.send(b"WATCHDOG=1")
    time.sleep(interval / 10)
"#;

fn watched(every: &str) -> Option<(Dev, Vec<i32>)> {
    let python = python()?;
    let setup = Setup::with_config(&format!(
        "command = [{python:?}, \"program\"]\nworkers = 2\nready = \"notify\"\nwatchdog = {every:?}"
    ));
    setup.write("program", WATCHED);
    let dev = setup.start();
    let pids = dev.pids();
    Some((dev, pids))
}

fn replaced(dev: &Dev, slot: usize, old: i32) {
    dev.until("replaced", |s| {
        let slot = &s.slots[slot];
        slot.pid.is_some_and(|pid| pid != old) && slot.draining.is_empty()
    });
}

#[test]
fn one_that_gives_no_more_signs_of_life() {
    let Some((dev, pids)) = watched("1s") else {
        return;
    };
    dev.write("silent-0", "");
    let line = dev.wait_for_line("it is replaced, and serves until then");
    let told = format!("slot 0: worker {} has sent no WATCHDOG=1 for 1.", pids[0]);
    assert!(line.contains(&told), "{line}");
    replaced(&dev, 0, pids[0]);
    dev.write("trigger-1", "");
    dev.wait_for_line("says that it is not well (WATCHDOG=trigger)");
    replaced(&dev, 1, pids[1]);
    let now = dev.pids();
    dev.write("never-0", "");
    dev.until("it said so", |s| {
        s.slots[0].status.as_deref() == Some("alone")
    });
    let began = Instant::now();
    wait("it would be late", || {
        (began.elapsed() > Duration::from_millis(2500)).then_some(())
    });
    assert_eq!(dev.pids(), now, "{}", dev.output());
    dev.stop();
}

/// Nobody is judged by time in which we did not listen.
#[test]
fn a_supervisor_that_was_stopped_itself() {
    let Some((dev, pids)) = watched("500ms") else {
        return;
    };
    dev.signal(Signal::SIGSTOP);
    let began = Instant::now();
    wait("everybody would be late", || {
        (began.elapsed() > Duration::from_millis(1800)).then_some(())
    });
    dev.signal(Signal::SIGCONT);
    let began = Instant::now();
    wait("they go on", || {
        assert_eq!(dev.pids(), pids, "{}", dev.output());
        (began.elapsed() > Duration::from_millis(1200)).then_some(())
    });
    assert!(!dev.output().contains("WATCHDOG=1"), "{}", dev.output());
    dev.stop();
}

#[test]
fn workers_serve_on_before_a_stop() {
    let command = [BINARY, "hello"];
    let config = format!("command = {command:?}\nworkers = 2\npre_stop_delay = \"2s\"\n");
    let mut dev = Setup::with_config(&config).start();
    let address = dev.address();
    let ready = dev.cli(&["status", "web", "--ready"]);
    assert_eq!(ready.code, Some(0), "{ready:?}");
    let file = dev.path("run/web/stopping");
    assert!(!file.exists());
    let environment = std::fs::read(format!("/proc/{}/environ", dev.pids()[0])).expect("it runs");
    let environment = String::from_utf8_lossy(&environment).into_owned();
    let variable = format!("APP_CLUSTER_STOPPING={}\0", file.display());
    assert!(environment.contains(&variable), "{environment}");
    let began = Instant::now();
    dev.signal(Signal::SIGTERM);
    dev.until("stopping", |s| s.state == "stopping");
    let ready = dev.cli(&["status", "web", "--ready"]);
    assert_eq!(ready.code, Some(1), "{ready:?}");
    assert!(ready.stderr.contains("web is stopping"), "{ready:?}");
    assert!(file.exists());
    let stream = std::net::TcpStream::connect(address).expect("it serves");
    crate::dev::get(stream, "/").expect("an answer");
    let status = dev.status();
    assert!(
        status.slots.iter().all(|s| s.state == "ready"),
        "{status:?}"
    );
    assert!(dev.ended().success(), "{}", dev.output());
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(2), "{took:?}");
    dev.assert_gone();
}
