// SPDX-License-Identifier: MIT OR Apache-2.0
//! The boxes themselves: what every other test relies on.

use std::time::{Duration, Instant};

use crate::harness::{Test, TestBox, test};

pub const TESTS: &[Test] = &[
    test!(bare commands_end_and_tell_how),
    test!(bare a_task_runs_beside_the_test),
    test!(bare units_are_real),
    test!(bare its_network_is_its_own),
    test!(bare files_outlast_a_reboot_and_nothing_else_does),
    test!(bare workers_of_other_makes_are_there),
];

fn commands_end_and_tell_how(b: &TestBox) {
    let out = b.sh("echo out; echo err >&2; exit 7").fails();
    assert_eq!(
        (out.code, out.stdout.as_str(), out.stderr.as_str()),
        (7, "out\n", "err\n")
    );
    assert_ne!(
        b.sh("false; true").code,
        0,
        "a script goes on after a failure"
    );
    b.write("/tmp/new/file", "a 'quoted' \"text\"\n");
    assert_eq!(b.read("/tmp/new/file"), "a 'quoted' \"text\"\n");
    // Neither what hangs nor what is left behind hangs the test.
    let begin = Instant::now();
    assert_eq!(
        b.spawn("sleep 600", Duration::from_secs(1)).wait().code,
        124
    );
    assert_eq!(
        b.spawn("trap '' TERM; sleep 600", Duration::from_secs(1))
            .wait()
            .code,
        137
    );
    b.sh("sleep 600 & echo left").ok();
    assert!(begin.elapsed() < Duration::from_secs(30));
}

fn a_task_runs_beside_the_test(b: &TestBox) {
    let script = "echo begun; until [ -e /tmp/go ]; do sleep 0.05; done; echo gone; sleep 600";
    let mut task = b.spawn(script, Duration::from_secs(60));
    b.wait_until("its first line", || task.stdout() == "begun\n");
    b.write("/tmp/go", "");
    b.wait_until("its second line", || task.stdout() == "begun\ngone\n");
    assert!(task.is_running());
    assert_ne!(task.stop().code, 0);
    // With all it runs; what was killed takes a moment to be gone.
    b.wait_until("its end", || b.run(&["pgrep", "-x", "sleep"]).code == 1);
}

fn units_are_real(b: &TestBox) {
    let state = b.run(&["systemctl", "is-system-running"]);
    assert_eq!(
        state.stdout,
        "running\n",
        "{}",
        b.sh("systemctl --failed").stdout
    );
    let version = b.sh("systemctl --version | head -n 1").ok();
    let wanted = if b.suite() == "bookworm" {
        "systemd 252 "
    } else {
        "systemd 257 "
    };
    assert!(version.starts_with(wanted), "{version}");
    assert_eq!(
        b.run(&["stat", "-fc", "%T", "/sys/fs/cgroup"]).ok(),
        "cgroup2fs"
    );
    let out = b
        .sh_as_unit("grep -o 'run-.*service' /proc/self/cgroup; exit 9")
        .fails();
    assert_eq!(out.code, 9, "{out}");
    b.run(&[
        "systemd-run",
        "-q",
        "--wait",
        "--unit=speaker",
        "echo",
        "last words",
    ])
    .ok();
    assert!(b.journal(&["-u", "speaker"]).contains("last words"));
}

fn its_network_is_its_own(b: &TestBox) {
    assert_eq!(b.sh("ip -br link | cut -d' ' -f1").ok(), "lo");
    b.sh("ip -6 addr show lo | grep -q ::1").ok();
    let net = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).expect("is alive");
    assert_ne!(net(&b.leader_pid().to_string()), net("self"));
}

fn files_outlast_a_reboot_and_nothing_else_does(b: &TestBox) {
    let seen = |b: &TestBox| {
        b.sh("cat /etc/kept /var/lib/kept; ls /run/kept || true")
            .ok()
    };
    b.sh("echo 1 >/etc/kept; echo 2 >/var/lib/kept; echo 3 >/run/kept")
        .ok();
    for reboot in [TestBox::reboot, TestBox::power_cycle] {
        b.sh("mount -t tmpfs none /mnt; setsid sleep 600 >/dev/null 2>&1 &")
            .ok();
        b.sh("ip address add 127.0.0.2/8 dev lo").ok();
        let leader = b.leader_pid();
        reboot(b);
        assert_ne!(b.leader_pid(), leader);
        assert_eq!(seen(b), "1\n2");
        b.sh("! pgrep -x sleep; ! mountpoint -q /mnt; ! ip address | grep -q 127.0.0.2")
            .ok();
        units_are_real(b);
    }
}

fn workers_of_other_makes_are_there(b: &TestBox) {
    b.sh("node --version; gunicorn --version; python3 -c 'import uvicorn'; puma --version")
        .ok();
    // They are there and do not run.
    b.sh("nginx -v; haproxy -v; ! pgrep 'nginx|haproxy'").ok();
}
