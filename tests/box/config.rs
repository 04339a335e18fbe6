// SPDX-License-Identifier: MIT OR Apache-2.0
//! Configuration on an installed system: where drop-ins may be, who sees what, what a new
//! generation changes, and credentials.

use crate::app::drop_in;
use crate::harness::{Test, TestBox, test};
use crate::service::{CONFIG, SERVICE, hello, reload, run_as, start};
use serde_json::Value;

pub const TESTS: &[Test] = &[
    test!(drop_ins_as_those_of_units),
    test!(changes_in_the_journal),
    test!(credentials_are_passed_on),
];

const DIRECTORIES: [&str; 4] = [
    "/usr/lib/app-cluster",
    "/usr/local/lib/app-cluster",
    "/run/app-cluster",
    "/etc/app-cluster",
];

/// The value of `key` that holds, and where it comes from.
#[track_caller]
fn shown(b: &TestBox, key: &str) -> (Value, String) {
    let out = b.run(&["app-cluster", "config", "show", "--json"]).ok();
    let all: Value = serde_json::from_str(&out).expect("JSON");
    let found = &all["keys"][key];
    let file = found["file"].as_str().unwrap_or("default");
    (found["value"].clone(), file.to_owned())
}

/// Each more important directory over those before it, file by file.
fn drop_ins_as_those_of_units(b: &TestBox) {
    b.write(
        CONFIG,
        &(hello(2) + "environment = { TOKEN = \"s3cret\" }\n"),
    );
    assert_eq!(shown(b, "batch"), (1.into(), "default".to_owned()));
    let file = |n: usize, name: &str| format!("{}/app-cluster.toml.d/{name}.toml", DIRECTORIES[n]);
    for (n, directory) in DIRECTORIES.iter().enumerate() {
        b.sh(&format!("mkdir -p {directory}/app-cluster.toml.d"))
            .ok();
        b.write(&file(n, "50-batch"), &format!("batch = {}\n", n + 2));
        assert_eq!(shown(b, "batch"), ((n + 2).into(), file(n, "50-batch")));
    }
    // By name, whichever directory they are in.
    b.write(&file(0, "60-batch"), "batch = 9\n");
    assert_eq!(shown(b, "batch"), (9.into(), file(0, "60-batch")));
    // Masked by a link and by an empty file: what is left is not the one below it.
    b.sh(&format!("ln -s /dev/null {}", file(3, "60-batch")))
        .ok();
    assert_eq!(shown(b, "batch"), (5.into(), file(3, "50-batch")));
    b.write(&file(3, "50-batch"), "");
    assert_eq!(shown(b, "batch"), (1.into(), "default".to_owned()));
    let cat = b.run(&["app-cluster", "config", "cat"]).ok();
    let files: Vec<&str> = cat.lines().filter(|line| line.starts_with("# /")).collect();
    let expected = [format!("# {CONFIG}"), format!("# {}", file(3, "50-batch"))];
    assert_eq!(files, expected, "{cat}");

    // Only root, and only when asked.
    let values = b
        .run(&["app-cluster", "config", "show", "--show-values"])
        .ok();
    assert!(values.contains("s3cret"), "{values}");
    b.run(&["useradd", "alice"]).ok();
    for part in ["show", "cat"] {
        for out in [
            b.run(&["app-cluster", "config", part]),
            run_as(b, "alice", &format!("config {part}")),
        ] {
            assert!(!out.to_string().contains("s3cret"), "{out}");
            assert!(out.ok().contains("\"(hidden)\""));
        }
        let out = run_as(b, "alice", &format!("config {part} --show-values"));
        assert!(out.fails().stderr.contains("only root"));
    }
    let schema = "/usr/share/app-cluster/app-cluster.toml.schema.json";
    b.sh(&format!("app-cluster config schema | cmp - {schema}"))
        .ok();
}

/// One event, with fields.
fn changes_in_the_journal(b: &TestBox) {
    let config = |more: &str, secret: &str| {
        hello(2) + more + &format!("environment = {{ TOKEN = \"{secret}\" }}\n")
    };
    start(b, &config("", "s3cret-1"));
    b.write(
        CONFIG,
        &config("batch = 2\ndrain_timeout = \"10s\"\n", "s3cret-2"),
    );
    let plan = b
        .run(&["app-cluster", "reload", "--dry-run", "--json"])
        .ok();
    let plan: Value = serde_json::from_str(&plan).expect("JSON");
    reload(b).ok();
    let script = format!(
        "journalctl --sync; journalctl -u {SERVICE} -o json MESSAGE_ID={}",
        app_cluster::engine::message_id::GENERATION_CHANGES
    );
    let out = b.sh(&script).ok();
    let entries: Vec<Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let [entry] = entries.as_slice() else {
        panic!("not one event\n{out}");
    };
    assert_eq!(entry["APPC_KEYS"], "drain_timeout batch");
    assert_eq!(entry["APPC_GENERATION"], "2");
    let changes = entry["APPC_CHANGES"].as_str().expect("changes");
    let changes: Value = serde_json::from_str(changes).expect("JSON");
    assert_eq!(changes, plan["changes"]);
    assert_eq!(
        changes["variables"]["changed"],
        serde_json::json!(["TOKEN"])
    );
    let all = b.sh(&format!("journalctl -u {SERVICE} -o json")).ok();
    assert!(!all.contains("s3cret"), "{all}");
}

/// Read by each worker, over a reload too.
fn credentials_are_passed_on(b: &TestBox) {
    b.write("/etc/token", "s3cret\n");
    b.sh("chmod 600 /etc/token").ok();
    drop_in(b, "[Service]\nLoadCredential=token:/etc/token\n");
    let read = "cat \\\"$CREDENTIALS_DIRECTORY/token\\\" >/tmp/token.$APP_CLUSTER_GENERATION.$APP_CLUSTER_SLOT";
    let config =
        format!("command = [\"sh\", \"-c\", \"{read}; exec app-cluster hello\"]\nworkers = 2\n");
    start(b, &config);
    reload(b).ok();
    for worker in ["1.0", "1.1", "2.0", "2.1"] {
        let file = format!("/tmp/token.{worker}");
        assert_eq!(b.sh(&format!("cat {file}")).ok(), "s3cret", "{worker}");
    }
    b.sh("test $(stat -c %U /tmp/token.1.0) = app-cluster").ok();
}
