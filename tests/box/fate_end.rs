// SPDX-License-Identifier: MIT OR Apache-2.0
//! What many supervisors one after the other leave behind: nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::fate_app::{App, Blow, incarnation, is_unharmed, survive, workers};
use crate::harness::{Test, TestBox, scale, test};
use crate::service::{SERVICE, ask, long, processes_of, status};

pub const TESTS: &[Test] = &[
    test!(many_supervisors_leak_nothing),
    test!(a_stop_after_an_adoption_leaves_nothing),
    test!(a_reboot_after_an_adoption_is_quick),
];

/// Memory that may have come to be in use, in KiB.
const GROWTH: u64 = 1024;

fn many_supervisors_leak_nothing(b: &TestBox) {
    App::Node.start(b, "even");
    // What only the first of them does has been done.
    for blow in [Blow::Kill, Blow::Signal, Blow::Kill] {
        survive(b, blow);
    }
    let (before, memory) = settled(b);
    for _ in 0..scale(20, 8) {
        survive(b, Blow::Kill);
    }
    same_as(b, &before, memory);
    for _ in 0..scale(20, 8) {
        survive(b, Blow::Signal);
    }
    // The last one after a crash, as the first one was.
    survive(b, Blow::Kill);
    same_as(b, &before, memory);
    is_unharmed(b);
}

/// What somebody has, sorted.
type Things = BTreeMap<&'static str, Vec<String>>;

/// What there is of all that could become more and more; and memory.
fn things(b: &TestBox) -> (Things, u64) {
    let main = b.show(SERVICE, "MainPID");
    let look = |script: String| -> Vec<String> {
        let mut lines: Vec<String> = b.sh(&script).ok().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    // Without numbers that are others each time: of sockets, and of processes.
    let files = |pid: &str| {
        look(format!(
            "find /proc/{pid}/fd -type l -printf '%l\\n' | sed -E 's/:\\[?[0-9]+\\]?$//; \
             s,/proc/[0-9]+,/proc/N,'"
        ))
    };
    let found = Things::from([
        ("descriptors of the supervisor", files(&main)),
        ("descriptors of systemd", files("1")),
        ("its threads", look(format!("ls /proc/{main}/task | wc -l"))),
        (
            "what systemd keeps",
            vec![b.show(SERVICE, "NFileDescriptorStore")],
        ),
        (
            "cgroups",
            look(format!(
                "find /sys/fs/cgroup/system.slice/{SERVICE} -type d"
            )),
        ),
        (
            "files of the service",
            look("find /run/app-cluster /var/lib/app-cluster /tmp".to_owned()),
        ),
        ("processes", {
            let mut pids = processes_of(b, SERVICE);
            pids.retain(|pid| *pid != main);
            pids.sort();
            pids
        }),
    ]);
    let memory = b.sh(&format!(
        "awk '/^VmRSS:/ {{ print $2 }}' /proc/{main}/status"
    ));
    (found, memory.ok().parse().expect("a number"))
}

/// [`things`], when twice in a row they were the same.
#[track_caller]
fn settled(b: &TestBox) -> (Things, u64) {
    let mut last = things(b);
    b.wait_until("what is there to stay the same", || {
        let now = things(b);
        let same = now.0 == last.0;
        last = now;
        same
    });
    last
}

#[track_caller]
fn same_as(b: &TestBox, before: &Things, memory: u64) {
    let mut now = things(b);
    let deadline = Instant::now() + Duration::from_secs(20);
    while now.0 != *before && Instant::now() < deadline {
        now = things(b);
    }
    for (what, before) in before {
        assert_eq!(now.0[what], *before, "{what}");
    }
    assert!(
        now.1 <= memory + GROWTH,
        "{memory} KiB before, {} now",
        now.1
    );
}

fn a_stop_after_an_adoption_leaves_nothing(b: &TestBox) {
    App::Node.start(b, "shared");
    for blow in [Blow::Kill, Blow::Signal] {
        survive(b, blow);
        let gone = workers(&status(b));
        long(b, &format!("systemctl stop {SERVICE}")).ok();
        assert_eq!(processes_of(b, SERVICE), [""; 0]);
        for (pid, _) in gone {
            assert!(!b.exists(&format!("/proc/{pid}")), "{pid}");
        }
        let show = |property| b.show(SERVICE, property);
        assert_eq!(show("NFileDescriptorStore"), "0");
        assert_eq!(show("Result"), "success");
        assert_eq!(show("ActiveState"), "inactive");
        assert_eq!(
            b.sh(&format!(
                "ls /sys/fs/cgroup/system.slice/{SERVICE} 2>&1 || true"
            ))
            .ok(),
            format!(
                "ls: cannot access '/sys/fs/cgroup/system.slice/{SERVICE}': No such file or directory"
            )
        );
        long(b, &format!("systemctl start {SERVICE}")).ok();
        let first = status(b);
        assert_eq!(incarnation(&first), 1, "{first:#}");
        assert!(first["taken_over"].is_null(), "{first:#}");
        assert_eq!(first["generation"], 1, "{first:#}");
    }
    is_unharmed(b);
}

fn a_reboot_after_an_adoption_is_quick(b: &TestBox) {
    App::Node.start(b, "even");
    b.run(&["systemctl", "enable", SERVICE]).ok();
    survive(b, Blow::Kill);
    let began = Instant::now();
    b.reboot();
    // Nobody had to wait until somebody was killed: that takes 90 s.
    assert!(
        began.elapsed() < Duration::from_secs(60),
        "{:?}",
        began.elapsed()
    );
    let answer = ask(b, "http://127.0.0.1:3000/");
    assert_eq!(answer["generation"], "1", "{answer}");
    assert_eq!(incarnation(&status(b)), 1);
    let before = b.journal(&["-b", "-1", "-u", SERVICE]);
    assert!(!before.contains("timed out"), "{before}");
    is_unharmed(b);
}
