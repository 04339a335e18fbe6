// SPDX-License-Identifier: MIT OR Apache-2.0
//! `app-cluster check` sees an app as its unit does.

use crate::app::WORKER;
use crate::harness::{Output, Test, TestBox, test};
use crate::service::run_as;

pub const TESTS: &[Test] = &[test!(check_looks_from_inside_the_unit)];

const CONFIG: &str = "/etc/app-cluster/shop.toml";

fn check(b: &TestBox) -> Output {
    b.run(&["app-cluster", "check", "shop"])
}

#[track_caller]
fn finds(b: &TestBox, part: &str) {
    let out = check(b);
    assert_eq!(out.code, 1, "{part}\n{out}");
    assert!(out.stderr.contains(part), "{part}\n{out}");
}

fn check_looks_from_inside_the_unit(b: &TestBox) {
    b.sh("useradd --create-home alice; useradd --system bob")
        .ok();
    b.write("/home/alice/shop/worker.py", WORKER);
    b.sh("chown -R alice: /home/alice; chmod 700 /home/alice")
        .ok();
    let config = |user: &str, more: &str| {
        let text = format!(
            "command = [\"python3\", \"worker.py\"]\ndirectory = \"/home/alice/shop\"\n\
             user = \"{user}\"\nlisten = [\"127.0.0.1:4001\"]\nworkers = 2\n{more}"
        );
        b.write(CONFIG, &text);
    };
    config("alice", "");
    let out = check(b);
    assert!(!out.stderr.contains("note:"), "{out}");
    assert_eq!(out.ok(), format!("{CONFIG}: ok"));
    // What systemd has not read yet counts.
    config("bob", "");
    finds(b, "user `bob` may not enter `/home/alice`");
    config("nobody-there", "");
    finds(b, "there is no user `nobody-there`");
    // The sandbox: root sees the file, the unit does not.
    config("alice", "environment_files = [\"/opt/secret.env\"]\n");
    b.write("/opt/secret.env", "A=1\n");
    check(b).ok();
    let edited = "/etc/systemd/system/app-cluster@shop.service.d/override.conf";
    b.write(edited, "[Service]\nInaccessiblePaths=/opt\n");
    b.run(&["systemctl", "daemon-reload"]).ok();
    finds(b, "/opt");
    b.sh(&format!("rm {edited}; systemctl daemon-reload")).ok();
    config("alice", "sandbox = \"strict\"\n");
    check(b).ok();
    // Doubts are no errors.
    b.write(
        "/etc/app-cluster/shop.toml.d/50-scale.toml",
        "workers = 3\n",
    );
    config("alice", "balance = \"even\"\nmax_workers = 2\n");
    let out = check(b);
    for part in ["50-scale.toml says this over", "3 workers have 2 sockets"] {
        assert!(out.stderr.contains(part), "{part}\n{out}");
    }
    assert_eq!(out.ok(), format!("{CONFIG}: ok, 2 warnings"));
    // Others see less, and are told.
    b.sh("rm -r /etc/app-cluster/shop.toml.d").ok();
    let out = run_as(b, "alice", "check shop");
    assert!(out.stderr.contains("looked at as you"), "{out}");
    b.sh("cp /etc/app-cluster/shop.toml '/etc/app-cluster/a b.toml'")
        .ok();
    let out = b.run(&["app-cluster", "check", "/etc/app-cluster/a b.toml"]);
    assert!(
        out.fails()
            .stderr
            .contains("nothing reads a file of that name")
    );
}
