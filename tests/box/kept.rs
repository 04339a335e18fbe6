// SPDX-License-Identifier: MIT OR Apache-2.0
//! What commands keep: the number of workers, and whether a boot starts the app.

use crate::harness::{Output, Test, TestBox, test};
use crate::service::{LONG, long, run_as, status_of};
use crate::start::{set_up, start};

pub const TESTS: &[Test] = &[test!(scale_is_kept), test!(enable_and_disable)];

const KEPT: &str = "/etc/app-cluster/worker.toml.d/50-scale.toml";
const RUNTIME: &str = "/run/app-cluster/worker.toml.d/51-scale.toml";

fn scale(b: &TestBox, change: &str) -> Output {
    long(b, &format!("app-cluster scale worker {change}"))
}

/// How many workers are ready, and why so many.
fn number(b: &TestBox) -> (u64, String) {
    let workers = status_of(b, "worker")["workers"].clone();
    let source = workers["source"].as_str().expect("a source").to_owned();
    (workers["ready"].as_u64().expect("a number"), source)
}

fn from(n: u64, file: &str) -> (u64, String) {
    (n, format!("workers = {n} ({file})"))
}

fn scale_is_kept(b: &TestBox) {
    set_up(b);
    start(b, "/srv/mail", "worker.py -i 2 -l 127.0.0.1:4001").ok();
    let scale = |change: &str| scale(b, change);
    let number = || number(b);
    scale("4").ok();
    assert_eq!(number(), from(4, KEPT));
    scale("+1").ok();
    assert_eq!(number(), from(5, KEPT));
    b.run(&["systemctl", "restart", "app-cluster@worker"]).ok();
    assert_eq!(number(), from(5, KEPT));
    b.run(&["systemctl", "reload", "app-cluster@worker"]).ok();
    assert_eq!(number(), from(5, KEPT));
    // A release that fails does not bring an older number back.
    b.sh("mv /srv/mail/worker.py /srv/mail/away").ok();
    b.run(&["systemctl", "reload", "app-cluster@worker"])
        .fails();
    b.sh("mv /srv/mail/away /srv/mail/worker.py").ok();
    assert_eq!(number(), from(5, KEPT));
    // Until the next boot, over the other; the next one that is kept ends it.
    scale("1 --runtime").ok();
    assert_eq!(number(), from(1, RUNTIME));
    b.run(&["systemctl", "restart", "app-cluster@worker"]).ok();
    assert_eq!(number(), from(1, RUNTIME));
    scale("3").ok();
    assert_eq!(number(), from(3, KEPT));
    assert!(!b.exists(RUNTIME));
    refused_numbers_change_nothing(b);
    a_reset_that_is_superseded_changes_nothing(b);
    // It is stopped now, so this is for the next start.
    scale("-- -1").ok();
    start(b, "/", "worker").ok();
    assert_eq!(number(), from(2, KEPT));
    // What the file says is found again; also what it says by now.
    b.sh("sed -i 's/^workers = .*/workers = 1/' /etc/app-cluster/worker.toml")
        .ok();
    scale("--reset").ok();
    assert_eq!(number(), (1, "workers = 1".to_owned()));
    assert!(!b.exists("/etc/app-cluster/worker.toml.d"));
    more_workers_than_sockets(b);
}

fn refused_numbers_change_nothing(b: &TestBox) {
    // Refused: nothing changes.
    let kept = b.read(KEPT);
    scale(b, "0").fails();
    scale(b, "-- -3").fails();
    assert_eq!(run_as(b, "alice", "scale worker 2").code, 4);
    b.run(&["usermod", "-aG", "app-cluster", "alice"]).ok();
    let out = run_as(b, "alice", "scale worker 2");
    assert_eq!(out.code, 4, "{out}");
    assert!(
        out.stderr.contains("sudo app-cluster scale worker 2"),
        "{out}"
    );
    assert_eq!((number(b), b.read(KEPT)), (from(3, KEPT), kept));
}

/// Leaves the app stopped.
fn a_reset_that_is_superseded_changes_nothing(b: &TestBox) {
    scale(b, "1 --runtime").ok();
    let both = || [KEPT, RUNTIME].map(|path| b.read(path));
    let before = both();
    b.sh("cd /srv/mail; mv worker.py away; echo 'import time; time.sleep(600)' >worker.py")
        .ok();
    let reset = b.spawn("exec app-cluster scale worker --reset", LONG);
    b.wait_until("the reset", || {
        status_of(b, "worker")["workers"]["desired"] == 2
    });
    let pid = b.show("app-cluster@worker.service", "MainPID");
    b.run(&["kill", "-TTIN", &pid]).ok();
    reset.wait().fails();
    assert_eq!(both(), before);
    long(b, "app-cluster stop worker").ok();
    b.run(&["mv", "/srv/mail/away", "/srv/mail/worker.py"]).ok();
    scale(b, "3").ok();
}

fn more_workers_than_sockets(b: &TestBox) {
    let arguments = "worker.py --name even -i 1 -l 127.0.0.1:4002 --balance even";
    start(b, "/srv/mail", arguments).ok();
    let lines = status_of(b, "even")["listeners"][0]["lines"]
        .as_u64()
        .expect("lines");
    let out = long(b, &format!("app-cluster scale even {}", lines + 1));
    assert!(out.stderr.contains("max_workers"), "{out}");
    out.ok();
    // It asks for no other sockets, so nothing stands in the way of a reload.
    long(b, "app-cluster reload even").ok();
}

fn enable_and_disable(b: &TestBox) {
    set_up(b);
    let wanted = |name: &str| {
        let unit = format!("app-cluster@{name}");
        let generator = "/run/systemd/generator";
        let links = [
            format!("{generator}/sockets.target.wants/{unit}.socket"),
            format!("{generator}/multi-user.target.wants/{unit}.service"),
        ];
        links.map(|link| b.run(&["test", "-L", &link]).code == 0)
    };
    start(b, "/srv/mail", "worker.py -i 1 -l 127.0.0.1:4001").ok();
    assert_eq!(wanted("worker"), [true, true]);
    b.run(&["app-cluster", "disable", "worker"]).ok();
    assert_eq!(wanted("worker"), [false, false]);
    assert_eq!(
        b.show("app-cluster@worker.service", "ActiveState"),
        "active"
    );
    b.run(&["app-cluster", "disable", "worker"]).ok();
    b.run(&["app-cluster", "enable", "worker"]).ok();
    assert_eq!(wanted("worker"), [true, true]);
    assert!(!b.exists("/etc/app-cluster/worker.toml.d"));
    start(
        b,
        "/srv/mail",
        "worker.py --name off -i 1 -l 127.0.0.1:4002 --no-autostart",
    )
    .ok();
    assert_eq!(wanted("off"), [false, false]);
    b.run(&["app-cluster", "enable", "off"]).ok();
    assert_eq!(wanted("off"), [true, true]);
    let out = run_as(b, "alice", "disable off");
    assert_eq!(out.code, 4, "{out}");
    assert_eq!(wanted("off"), [true, true]);
    the_plain_app_is_enabled_by_links(b);
}

fn the_plain_app_is_enabled_by_links(b: &TestBox) {
    let enabled = |unit: &str| b.run(&["systemctl", "is-enabled", unit]).stdout;
    assert_eq!(enabled("app-cluster.socket"), "enabled\n");
    b.run(&["app-cluster", "disable"]).ok();
    assert_eq!(enabled("app-cluster.socket"), "disabled\n");
    b.run(&["app-cluster", "enable"]).ok();
    assert_eq!(enabled("app-cluster.socket"), "enabled\n");
    assert_eq!(enabled("app-cluster.service"), "enabled\n");
    // It keeps to links when its configuration says something too, and so do these.
    let config = "/etc/app-cluster/app-cluster.toml";
    let text = b.read(config);
    b.write(config, &format!("autostart = \"never\"\n{text}"));
    let out = b.run(&["app-cluster", "check"]);
    assert!(out.stderr.contains("starts app-cluster.socket"), "{out}");
    b.run(&["app-cluster", "disable"]).ok();
    let both = || ["socket", "service"].map(|kind| enabled(&format!("app-cluster.{kind}")));
    assert_eq!(both(), ["disabled\n"; 2]);
    let out = b.run(&["app-cluster", "check"]);
    assert!(!out.stderr.contains("starts app-cluster"), "{out}");
    b.write(config, &format!("autostart = \"boot\"\n{text}"));
    b.run(&["app-cluster", "enable"]).ok();
    assert_eq!(both(), ["enabled\n"; 2]);
    b.run(&["app-cluster", "disable"]).ok();
    assert_eq!(both(), ["disabled\n"; 2]);
    b.run(&["systemctl", "enable", "app-cluster.socket"]).ok();
    b.sh("app-cluster stop; rm -r /etc/app-cluster/app-cluster.toml*")
        .ok();
    let arguments = "worker.py --name app-cluster -i 1 -l 127.0.0.1:4003 --no-autostart";
    start(b, "/srv/mail", arguments).ok();
    assert_eq!(both(), ["disabled\n"; 2]);
}
