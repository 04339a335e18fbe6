// SPDX-License-Identifier: MIT OR Apache-2.0
//! Services whose workers are replaced for what they have become, or by the calendar, and
//! where their workers run.

use serde_json::Value;

use crate::harness::{Test, TestBox, test};
use crate::home::block;
use crate::load::{Kind, Load};
use crate::service::{LONG, clients, long, start, status, status_of};

pub const TESTS: &[Test] = &[
    test!(leaking_service_is_recycled_under_load),
    test!(reload_by_calendar_as_documented),
    test!(workers_and_cpus_of_a_service),
];

/// A worker in Python that forgets nothing, see its head.
const LEAK: &str = include_str!("../support/leak.py");
const SHOP: &str = "/etc/app-cluster/shop.toml";

/// Processes are found by the cgroup, and what they share is read inside the strict sandbox.
fn leaking_service_is_recycled_under_load(b: &TestBox) {
    b.write("/srv/leak.py", LEAK);
    let config = "command = \"/usr/bin/python3 /srv/leak.py 2 40 256\"\nworkers = 2\n\
                  start_timeout = \"60s\"\nsandbox = \"strict\"\nmax_memory = \"90M\"\n";
    b.write("/etc/app-cluster/app-cluster.toml", config);
    b.run(&["systemctl", "daemon-reload"]).ok();
    start(b, config);
    let spec = clients(b).with_pace(Kind::NewConnection, 6, 20);
    let load = Load::start(spec).expect("a load");
    b.wait_for("each slot to be recycled", LONG, || {
        let status = status(b);
        assert_eq!(status["workers"]["ready"], 2, "{status:#}");
        let slots = status["slots"].as_array().expect("slots");
        slots
            .iter()
            .all(|slot| slot["recycled"].as_u64() >= Some(1))
    });
    load.wait_for_more(20, LONG).expect("requests");
    load.stop().assert_lossless(20);
    let journal = b.journal(&["-u", "app-cluster.service", "-o", "cat"]);
    assert!(journal.contains("max_memory is 90 MiB"), "{journal}");
    assert!(!journal.contains("from the start"), "{journal}");
    let shown = b.run(&["app-cluster", "status"]).ok();
    assert!(shown.contains("Replaced: with more than 90M"), "{shown}");
}

/// What docs/running-your-app.md tells people to write.
fn reload_by_calendar_as_documented(b: &TestBox) {
    let good = "command = [\"app-cluster\", \"hello\"]\nworkers = 2\n\
                listen = [\"127.0.0.1:4001\"]\n";
    b.write(SHOP, &format!("{good}{}", block("toml", "max_memory")));
    b.run(&["app-cluster", "check", "shop"]).ok();
    b.run(&["systemctl", "daemon-reload"]).ok();
    long(b, "systemctl start app-cluster@shop").ok();
    let unit = |kind: &str| format!("/etc/systemd/system/app-cluster-reload@.{kind}");
    let document = include_str!("../../docs/running-your-app.md");
    for (kind, word) in [("service", "ExecStart"), ("timer", "OnCalendar")] {
        assert!(document.contains(&format!("`{}`:", unit(kind))), "{kind}");
        b.write(&unit(kind), &block("ini", word));
    }
    let out = b.sh(&block("sh", "list-timers").replace("sudo ", "")).ok();
    assert!(out.contains("app-cluster-reload@shop.timer"), "{out}");
    let next = b.show("app-cluster-reload@shop.timer", "NextElapseUSecRealtime");
    assert!(next.contains(" 04:0") || next.contains(" 04:10"), "{next}");

    // The same timer, every second.
    b.write(
        "/etc/systemd/system/app-cluster-reload@shop.timer.d/often.conf",
        "[Timer]\nOnCalendar=\nOnCalendar=*:*:*\nRandomizedDelaySec=0\nAccuracySec=1us\n",
    );
    let restart = "systemctl daemon-reload && systemctl restart app-cluster-reload@shop.timer";
    b.sh(restart).ok();
    let generation = |b: &TestBox| status_of(b, "shop")["generation"].as_u64();
    b.wait_for("two reloads by the timer", LONG, || {
        generation(b) >= Some(3)
    });
    b.sh("systemctl stop app-cluster-reload@shop.timer").ok();
    b.wait_for("the last reload to end", LONG, || {
        b.show("app-cluster-reload@shop.service", "ActiveState") == "inactive"
    });

    // One that fails leaves what serves, and says why.
    let before = generation(b);
    b.write(SHOP, &format!("{good}batch = \"three\"\n"));
    long(b, "systemctl start app-cluster-reload@shop").fails();
    assert_eq!(generation(b), before);
    assert_eq!(status_of(b, "shop")["workers"]["ready"], 2);
    let failed = b.sh("systemctl --failed --plain --no-legend").ok();
    assert!(
        failed.contains("app-cluster-reload@shop.service"),
        "{failed}"
    );
    let journal = b.journal(&["-u", "app-cluster-reload@shop", "-o", "cat"]);
    assert!(journal.contains("shop.toml:4:9"), "{journal}");
}

/// What `check` tells of the unit, as seen from inside, is what it gets.
fn workers_and_cpus_of_a_service(b: &TestBox) {
    let config = "command = [\"app-cluster\", \"hello\"]\nlisten = [\"127.0.0.1:4001\"]\n\
                  cpu_affinity = \"spread\"\nsandbox = \"strict\"\n";
    b.write(SHOP, config);
    let first: usize = {
        let all = b.sh("taskset -pc $$").ok();
        let list = all.rsplit(' ').next().unwrap_or_default();
        let end = list.find(|c: char| !c.is_ascii_digit());
        list[..end.unwrap_or(list.len())].parse().expect("a CPU")
    };
    let why = match b.sh("nproc").ok().as_str() {
        "1" => "1 CPU (online)",
        _ => "1 CPU (affinity)",
    };
    let edited = "/etc/systemd/system/app-cluster@shop.service.d/override.conf";
    b.write(edited, &format!("[Service]\nCPUAffinity={first}\n"));
    b.run(&["systemctl", "daemon-reload"]).ok();
    let told = format!("{SHOP}: ok\n1 worker (workers = \"max\": {why})");
    assert_eq!(b.run(&["app-cluster", "check", "shop"]).ok(), told);
    long(b, "systemctl start app-cluster@shop").ok();
    let found = status_of(b, "shop");
    assert_eq!(
        found["workers"]["source"],
        format!("workers = \"max\": {why}")
    );

    // Three share that CPU; the strict sandbox lets them be put there.
    b.write(SHOP, &format!("{config}workers = 3\n"));
    long(b, "systemctl reload app-cluster@shop").ok();
    let found = status_of(b, "shop");
    let cpus = |slot: &Value| slot["cpus"].as_str() == Some(&first.to_string());
    let slots = found["slots"].as_array().expect("slots");
    assert!(slots.len() == 3 && slots.iter().all(cpus), "{found:#}");
    b.sh(&format!("rm {edited}; systemctl daemon-reload")).ok();
    long(b, "systemctl restart app-cluster@shop").ok();
    let found = status_of(b, "shop");
    let slots = found["slots"].as_array().expect("slots").iter();
    let used: std::collections::BTreeSet<_> = slots.map(|s| s["cpus"].as_str()).collect();
    let usable: usize = b.sh("nproc").ok().parse().expect("a number");
    assert_eq!(used.len(), usable.min(3), "{found:#}");
    let journal = b.journal(&["-u", "app-cluster@shop", "-o", "cat"]);
    assert!(!journal.contains("cannot run on CPU"), "{journal}");
}
