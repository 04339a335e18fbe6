// SPDX-License-Identifier: MIT OR Apache-2.0
//! A configuration that needs other units, reloaded.

use crate::generator::{configure, daemon_reload};
use crate::harness::{Test, TestBox, test};
use crate::service::{ask, long, status_of};

pub const TESTS: &[Test] = &[
    test!(changes_that_a_reload_refuses_and_how_to_make_them),
    test!(what_the_operator_edits_is_not_argued_with),
];

const WEB: &str = "127.0.0.1:4001";
const ADMIN: &str = "127.0.0.1:4002";

/// The lines of a refusal that are commands.
fn commands(refused: &str) -> String {
    let lines = refused.lines().map(str::trim);
    let lines: Vec<&str> = lines.filter(|l| l.starts_with("systemctl ")).collect();
    lines.join("\n")
}

/// What a reload that is refused says; systemctl shows no more than that it failed.
#[track_caller]
fn refusal(b: &TestBox) -> String {
    long(b, "systemctl reload app-cluster@shop").fails();
    long(b, "app-cluster reload shop").fails().stderr
}

/// Configurations one after the other, and what each changes.
fn steps() -> [(String, &'static str); 8] {
    let moved = format!("listen = [\"{WEB}\"]");
    let both = format!("listen = {{ \"4001\" = \"{WEB}\", admin = \"{ADMIN}\" }}");
    let with = |more: &str| format!("{moved}\n{more}");
    let strict = with("user = \"shop\"\nsandbox = \"strict\"");
    [
        (moved.clone(), "listen: 127.0.0.1:4000 -> 127.0.0.1:4001"),
        (both.clone(), "listen: nothing -> 127.0.0.1:4002 (admin)"),
        (moved.clone(), "listen: 127.0.0.1:4002 (admin) -> nothing"),
        (with("user = \"shop\""), "user: app-cluster -> shop"),
        (strict.clone(), "sandbox: default -> strict"),
        (
            format!("{strict}\nbalance = \"even\"\nmax_workers = 2"),
            "balance: 1 -> 2 sockets",
        ),
        (
            format!("{strict}\nbalance = \"even\"\nmax_workers = 4"),
            "max_workers: 2 -> 4 sockets",
        ),
        (moved.clone(), "user: shop -> the unit's"),
    ]
}

fn changes_that_a_reload_refuses_and_how_to_make_them(b: &TestBox) {
    b.run(&["useradd", "shop"]).ok();
    let answers = |address: &str| {
        let out = b.run(&["curl", "-sS", "--max-time", "20", address]);
        (out.code == 0).then_some(out.stdout)
    };
    configure(b, "shop", "listen = [\"127.0.0.1:4000\"]");
    daemon_reload(b);
    long(b, "systemctl start app-cluster@shop.service").ok();
    assert!(answers("127.0.0.1:4000").is_some());

    let mut address = "127.0.0.1:4000";
    for (text, change) in steps() {
        configure(b, "shop", &text);
        let now = || {
            let status = status_of(b, "shop");
            (status["pid"].clone(), status["generation"].clone())
        };
        let before = now();
        let said = refusal(b);
        assert!(said.contains(change), "{change}: {said}");
        assert!(said.contains("drain_timeout"), "no cost in {said}");
        assert_eq!(now(), before);
        assert!(answers(address).is_some(), "{change}");
        // Not even a daemon-reload of somebody else's makes it forget.
        daemon_reload(b);
        let again = refusal(b);
        assert!(again.contains(change), "{change}: {again}");
        assert_eq!(now(), before);
        let all = commands(&again);
        assert!(
            all.contains("systemctl restart app-cluster@shop.service"),
            "{all}"
        );
        long(b, &all).ok();
        address = WEB;
        assert!(answers(address).is_some(), "{change}");
        long(b, "systemctl reload app-cluster@shop").ok();
    }
    assert!(answers(WEB).is_some());
    for gone in ["127.0.0.1:4000", ADMIN] {
        assert_eq!(answers(gone), None, "{gone}");
    }
    let left = "systemctl list-units --plain --no-legend --state=active,failed '*@shop*' | wc -l";
    assert_eq!(b.sh(left).ok(), "2");
}

fn what_the_operator_edits_is_not_argued_with(b: &TestBox) {
    configure(b, "shop", "listen = [\"127.0.0.1:4000\"]");
    // What the operator says over the configuration is not argued with.
    b.write(
        "/etc/systemd/system/app-cluster@shop.socket.d/override.conf",
        "[Socket]\nListenStream=\nListenStream=127.0.0.1:4009\n",
    );
    daemon_reload(b);
    long(
        b,
        "systemctl restart app-cluster@shop.service app-cluster@shop.socket",
    )
    .ok();
    long(b, "systemctl reload app-cluster@shop").ok();
    assert_eq!(ask(b, "127.0.0.1:4009")["generation"], 2);
}
