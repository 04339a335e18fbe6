// SPDX-License-Identifier: MIT OR Apache-2.0
//! The verbs of the command line against a running service, and who may use
//! which.

use crate::harness::{Output, Test, TestBox, test};
use crate::service::{
    LONG, SERVICE, SOCKET, all_run_generation, ask, hello, load, long, pids, port_is_closed, start,
    status,
};

pub const TESTS: &[Test] = &[
    test!(root_may_everything),
    test!(members_of_the_group_may_what_loses_nothing),
    test!(strangers_are_told_what_to_do),
    test!(exit_codes_of_what_is_not_there),
];

fn as_user(b: &TestBox, user: &str, script: &str) -> Output {
    b.spawn(&format!("runuser -u {user} -- {script}"), LONG)
        .wait()
}

#[track_caller]
fn refused(out: Output) {
    assert_eq!(out.code, 4, "{out}");
    assert!(
        out.stderr.contains("permission") || out.stderr.contains("only root"),
        "{out}"
    );
    assert!(out.stderr.contains("sudo"), "no hint\n{out}");
}

fn root_may_everything(b: &TestBox) {
    start(b, &hello(2));
    let load = load(b);
    assert_eq!(
        long(b, "app-cluster scale app-cluster 4").ok(),
        "app-cluster: 4 workers are ready"
    );
    all_run_generation(b, 1, 4);
    long(b, "app-cluster scale app-cluster -- -1").ok();
    all_run_generation(b, 1, 3);
    let source = status(b)["workers"]["source"].clone();
    assert!(
        source.as_str().is_some_and(|s| s.contains("scale")),
        "{source}"
    );

    let before = pids(b);
    long(b, "app-cluster restart 'app-cluster[1]'").ok();
    let after = pids(b);
    assert_ne!(before[1], after[1]);
    assert_eq!((before[0], before[2]), (after[0], after[2]));
    // Up to here nothing is lost, and a restart of all only lets them wait.
    long(b, "app-cluster restart").ok();
    all_run_generation(b, 2, 3);
    load.wait_for_more(5, LONG).expect("requests");
    load.stop().assert_lossless(5);
    let shown = b.run(&["app-cluster", "status"]).ok();
    assert!(shown.contains("3/3 ready"), "{shown}");

    long(b, "app-cluster stop").ok();
    assert_eq!(b.show(SERVICE, "ActiveState"), "inactive");
    assert_eq!(b.show(SERVICE, "Result"), "success");
    assert_eq!(b.show(SOCKET, "ActiveState"), "inactive");
    port_is_closed(b);
}

fn members_of_the_group_may_what_loses_nothing(b: &TestBox) {
    start(b, &hello(2));
    b.run(&["useradd", "-G", "app-cluster", "member"]).ok();
    let member = |script: &str| as_user(b, "member", script);
    assert!(member("app-cluster status").ok().contains("2/2 ready"));
    // The number would be kept in root's directory.
    refused(member("app-cluster scale app-cluster 3"));
    all_run_generation(b, 1, 2);
    member("app-cluster reload").ok();
    all_run_generation(b, 2, 2);
    let said = member("app-cluster rollback").ok();
    assert!(
        said.contains("generation 3, a rollback to 1: 2 workers"),
        "{said}"
    );
    all_run_generation(b, 3, 2);
    assert!(
        member("app-cluster status")
            .ok()
            .contains("a rollback to 1 (from 2)")
    );
    let before = pids(b);
    member("app-cluster restart 'app-cluster[0]'").ok();
    assert_ne!(pids(b)[0], before[0]);

    let before = pids(b);
    refused(member("app-cluster restart"));
    refused(member("app-cluster stop"));
    assert_eq!(pids(b), before);
    assert_eq!(b.show(SOCKET, "ActiveState"), "active");
}

fn strangers_are_told_what_to_do(b: &TestBox) {
    start(b, &hello(2));
    b.run(&["useradd", "stranger"]).ok();
    let before = pids(b);
    for verb in [
        "status",
        "status app-cluster --json",
        "reload",
        "rollback",
        "restart",
        "restart 'app-cluster[0]'",
        "scale app-cluster 3",
        "stop",
    ] {
        let out = as_user(b, "stranger", &format!("app-cluster {verb}"));
        match verb.contains("--json") {
            true => assert!(out.stdout.starts_with("{\"error\":\"NoSuchApp\","), "{out}"),
            false => assert_eq!(out.stdout, "", "{out}"),
        }
        refused(out);
    }
    assert_eq!(pids(b), before);
    assert_eq!(ask(b, "http://localhost:3000/")["generation"], 1);
}

fn exit_codes_of_what_is_not_there(b: &TestBox) {
    // The socket is open, so there is something to stop; then there is not.
    b.run(&["app-cluster", "stop"]).ok();
    port_is_closed(b);
    for verb in ["status", "reload", "rollback", "restart", "stop"] {
        let out = b.sh(&format!("app-cluster {verb}"));
        assert_eq!(out.code, 3, "{out}");
        let hint = "app-cluster start app-cluster";
        assert!(out.stderr.contains(hint), "{out}");
    }
    start(b, &hello(2));
    for verb in [
        "status nobody",
        "reload nobody",
        "restart nobody",
        "stop nobody",
        "scale nobody 2",
    ] {
        let out = b.sh(&format!("app-cluster {verb}"));
        assert_eq!(out.code, 4, "{out}");
        assert!(out.stderr.contains("/etc/app-cluster/nobody.toml"), "{out}");
    }
    let out = b.sh("app-cluster restart 'app-cluster[2]'");
    assert_eq!(out.code, 4, "{out}");
    assert!(out.stderr.contains("there is no slot 2"), "{out}");
    assert_eq!(b.sh("app-cluster scale app-cluster many").code, 2);
    for count in ["0", "1000000"] {
        let out = b.sh(&format!("app-cluster scale app-cluster {count}"));
        assert_eq!(out.code, 1, "{out}");
        assert!(out.stderr.contains("between 1 and"), "{out}");
    }
    all_run_generation(b, 1, 2);
}
