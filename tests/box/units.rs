// SPDX-License-Identifier: MIT OR Apache-2.0
//! The unit files, as systemd reads them.

use std::time::Duration;

use crate::harness::{Test, TestBox, scale, test};

pub const TESTS: &[Test] = &[
    test!(verify_says_nothing),
    test!(plain_and_template_agree),
    test!(sandbox_lets_an_application_live),
    test!(socket_file_is_for_its_group),
    test!(restarts_in_a_row_are_no_failure),
    test!(crash_loop_leaves_the_socket_open),
];

/// systemd warns about a key it does not know and goes on, with exit code 0:
/// only silence means that it understood.
fn verify_says_nothing(b: &TestBox) {
    let units = "app-cluster.service app-cluster.socket app-cluster@shop.service \
                 app-cluster@shop.socket";
    // Whether the manual page is there is for the package's tests.
    let out = b.sh(&format!("systemd-analyze verify --man=no {units}"));
    assert_eq!(
        (out.code, out.stdout.as_str(), out.stderr.as_str()),
        (0, "", ""),
        "{out}"
    );
}

/// Two files for one thing drift apart; they may differ in the name only.
fn plain_and_template_agree(b: &TestBox) {
    for kind in ["service", "socket"] {
        let read = |name: &str| {
            let text = b.read(&format!("/usr/lib/systemd/system/{name}.{kind}"));
            let keys = text
                .lines()
                .filter(|l| !l.starts_with('#') && !l.is_empty());
            // The address is what they are meant to differ in.
            let keys = keys.filter(|l| !l.starts_with("ListenStream="));
            // Instances are enabled by their configuration.
            keys.take_while(|line| *line != "[Install]")
                .map(str::to_string)
                .collect::<Vec<_>>()
        };
        let named = |line: &String| {
            let line = line.replace("app-cluster@%i", "app-cluster");
            line.replace(" of %i", "").replace("%i", "app-cluster")
        };
        let template: Vec<_> = read("app-cluster@").iter().map(named).collect();
        assert_eq!(template, read("app-cluster"), "{kind}");
    }
}

/// Runs `command` once in place of the supervisor, as user and in the sandbox
/// of the unit; `systemctl start` gives its exit code.
const INSTEAD: &str = "[Service]\nType=oneshot\nRestart=no\nWatchdogSec=0\nExecStart=\n";

fn sandbox_lets_an_application_live(b: &TestBox) {
    b.write("/home/shop/server.js", APPLICATION);
    b.sh("chown -R app-cluster: /home/shop; echo secret >/root/f; chmod 600 /root/f")
        .ok();
    let drop_in = format!("{INSTEAD}ExecStart=/usr/bin/node server.js\n");
    let drop_in = format!("{drop_in}WorkingDirectory=/home/shop\n");
    b.write(
        "/etc/systemd/system/app-cluster.service.d/test.conf",
        &drop_in,
    );
    b.run(&["systemctl", "daemon-reload"]).ok();
    b.run(&["systemctl", "start", "app-cluster.service"]).ok();
    assert_eq!(b.read("/home/shop/uploads/photo"), "beside itself");
    assert!(
        b.exists("/tmp/of-the-app"),
        "its /tmp is not the /tmp of all"
    );
}

/// Does what applications do, and what only a sandbox forbids.
const APPLICATION: &str = r#"
const fs = require('fs'), os = require('os'), assert = require('assert');
const { Worker } = require('worker_threads');
fs.mkdirSync('uploads', { recursive: true });
fs.writeFileSync('uploads/photo', 'beside itself');
fs.writeFileSync('/tmp/of-the-app', '');
assert(os.cpus().length > 0, 'no processors');
assert(os.networkInterfaces().lo, 'no network interfaces');
assert.strictEqual(require('child_process').execSync('echo child').toString(), 'child\n');
let sum = 0; // long enough to be compiled
for (let i = 0; i < 1e7; i++) sum = (sum + i * i) % 1000003;
assert.throws(() => fs.readFileSync('/root/f'));
assert.throws(() => fs.writeFileSync('/usr/evil', ''));
assert.throws(() => fs.writeFileSync('/etc/evil', ''));
new Worker('', { eval: true }).on('exit', (code) => process.exit(code));
"#;

fn socket_file_is_for_its_group(b: &TestBox) {
    b.run(&["systemctl", "start", "app-cluster@shop.socket"])
        .ok();
    let file = b
        .run(&["stat", "-c", "%U %G %a", "/run/app-cluster/shop.sock"])
        .ok();
    assert_eq!(file, "app-cluster app-cluster 660");
}

fn restarts_in_a_row_are_no_failure(b: &TestBox) {
    let units = "app-cluster.socket app-cluster@shop.socket";
    b.sh(&format!(
        "for n in 1 2 3 4 5 6 7 8; do systemctl restart {units}; done"
    ))
    .ok();
    assert_eq!(b.show("app-cluster.socket", "SubState"), "listening");
}

/// Neither the start limit (5 in 10 s) nor the socket's trigger limit (20 in
/// 2 s) may close the port while clients wait and the service cannot start.
fn crash_loop_leaves_the_socket_open(b: &TestBox) {
    let drop_in = "[Service]\nType=exec\nExecStart=\nExecStart=/usr/bin/false\n";
    b.write(
        "/etc/systemd/system/app-cluster.service.d/test.conf",
        drop_in,
    );
    b.run(&["systemctl", "daemon-reload"]).ok();
    let mut client = b.spawn("curl -s http://localhost:3000/", Duration::from_secs(60));
    let starts = scale(100, 25);
    let restarts = || b.show("app-cluster.service", "NRestarts").parse::<usize>();
    b.wait_for("restarts", Duration::from_secs(50), || {
        restarts().is_ok_and(|n| n >= starts)
    });
    assert_eq!(b.show("app-cluster.socket", "SubState"), "running");
    assert!(client.is_running(), "{}", client.wait());
}
