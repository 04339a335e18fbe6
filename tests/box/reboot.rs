// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is there again after the machine was off.

use std::path::Path;

use crate::harness::{Test, TestBox, test};
use crate::service::{LONG, ask, hello, status_of};

pub const TESTS: &[Test] = &[
    test!(apps_are_back_after_a_reboot),
    test!(apps_are_back_after_a_power_failure),
];

fn apps_are_back_after_a_reboot(b: &TestBox) {
    apps_are_back(b, TestBox::reboot);
}

fn apps_are_back_after_a_power_failure(b: &TestBox) {
    apps_are_back(b, TestBox::power_cycle);
}

/// A Node and a Python program, of root and of a user, and ones that start later
/// or not at all.
fn apps_are_back(b: &TestBox, reboot: fn(&TestBox)) {
    const BOOT: [(&str, u16, &str); 2] = [("shop", 4001, "root"), ("mail", 4002, "alice")];
    set_up(b);
    b.run(&["systemctl", "daemon-reload"]).ok();
    for (name, port, user) in BOOT {
        b.run(&["systemctl", "start", &format!("app-cluster@{name}")])
            .ok();
        answers_as(b, name, port, user);
    }
    b.run(&[
        "systemctl",
        "start",
        "app-cluster@late",
        "app-cluster@never",
    ])
    .ok();

    reboot(b);
    let state = |unit: &str| b.show(unit, "ActiveState");
    for (name, port, user) in BOOT {
        // Before anybody has connected.
        assert_eq!(state(&format!("app-cluster@{name}.service")), "active");
        assert_eq!(status_of(b, name)["workers"]["ready"], 2);
        answers_as(b, name, port, user);
    }
    assert_eq!(state("app-cluster@late.socket"), "active");
    assert_eq!(state("app-cluster@late.service"), "inactive");
    assert_eq!(ask(b, "http://127.0.0.1:4003/")["slot"], 0);
    b.wait_for("the service to be ready", LONG, || {
        state("app-cluster@late.service") == "active"
    });
    assert_eq!(state("app-cluster@never.socket"), "inactive");
    assert_eq!(state("app-cluster@never.service"), "inactive");
    let refused = b.run(&["curl", "-sS", "http://127.0.0.1:4004/"]);
    assert_eq!(refused.code, 7, "{refused}");
    assert_eq!(b.sh("systemctl --failed --plain --no-legend").ok(), "");
}

fn set_up(b: &TestBox) {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/listen-fds/node/server.js");
    let example = std::fs::read_to_string(example).expect("the example");
    b.write("/srv/shop/server.js", &example);
    b.sh("useradd --create-home alice").ok();
    b.write("/home/alice/mail/worker.py", crate::app::WORKER);
    b.sh("chown -R alice: /home/alice; chmod 700 /home/alice")
        .ok();
    let app = |name: &str, port: u16, keys: &str| {
        let listen = format!("listen = [\"127.0.0.1:{port}\"]\n{keys}");
        b.write(&format!("/etc/app-cluster/{name}.toml"), &listen);
    };
    let node = "command = \"node server.js\"\ndirectory = \"/srv/shop\"\nuser = \"root\"\n";
    app("shop", 4001, &format!("{node}workers = 2\n"));
    let python = "command = \"python3 worker.py\"\ndirectory = \"/home/alice/mail\"\n";
    let keys = format!("{python}user = \"alice\"\nworkers = 2\nbalance = \"even\"\n");
    app("mail", 4002, &keys);
    app("late", 4003, &(hello(1) + "autostart = \"connection\"\n"));
    app("never", 4004, &(hello(1) + "autostart = \"never\"\n"));
}

/// The app answers at its port, by a process of this user.
#[track_caller]
fn answers_as(b: &TestBox, name: &str, port: u16, user: &str) {
    let answer = ask(b, &format!("http://127.0.0.1:{port}/"));
    let pid = answer["pid"].to_string();
    assert_eq!(
        b.run(&["ps", "-o", "user=", "-p", &pid]).ok(),
        user,
        "{name}"
    );
}
