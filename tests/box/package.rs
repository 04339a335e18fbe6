// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Debian package: what installing, upgrading, removing and purging do.

use crate::app;
use crate::harness::{Test, TestBox, test};

pub const TESTS: &[Test] = &[
    test!(bare files_are_where_they_belong),
    test!(socket_listens_after_install),
    test!(upgrade_restarts_only_what_runs),
    test!(upgrade_keeps_the_workers),
    test!(upgrade_does_what_policy_says),
    test!(upgrade_respects_a_disabled_socket),
    test!(upgrade_leaves_the_administrators_sysctl),
    test!(remove_stops_everything),
    test!(remove_ends_workers_without_a_supervisor),
    test!(purge_leaves_nothing),
    test!(reinstall_after_remove),
    test!(the_journal_explains_our_events),
];

fn files_are_where_they_belong(b: &TestBox) {
    assert_eq!(
        b.sh("id app-cluster").fails().stdout,
        "",
        "the user is there already"
    );
    b.install();
    for (path, wanted) in [
        ("/usr/bin/app-cluster", "root root 755"),
        (
            "/usr/lib/systemd/system/app-cluster.service",
            "root root 644",
        ),
        (
            "/usr/lib/systemd/system/app-cluster@.socket",
            "root root 644",
        ),
        (
            "/usr/lib/systemd/catalog/app-cluster.catalog",
            "root root 644",
        ),
        ("/usr/share/doc/app-cluster/copyright", "root root 644"),
        (
            "/usr/share/doc/app-cluster/changelog.Debian.gz",
            "root root 644",
        ),
        (
            "/usr/share/app-cluster/app-cluster.toml.schema.json",
            "root root 644",
        ),
        ("/etc/app-cluster/app-cluster.toml", "root root 644"),
        ("/run/app-cluster", "root root 755"),
        ("/usr/lib/sysctl.d/50-app-cluster.conf", "root root 644"),
        ("/var/lib/app-cluster", "root root 755"),
        ("/var/lib/app-cluster/.home", "app-cluster app-cluster 750"),
    ] {
        assert_eq!(
            b.run(&["stat", "-c", "%U %G %a", path]).ok(),
            wanted,
            "{path}"
        );
    }
    let generator = "/usr/lib/systemd/system-generators/app-cluster-generator";
    assert_eq!(
        b.run(&["readlink", "-f", generator]).ok(),
        "/usr/bin/app-cluster"
    );
    assert_eq!(b.read("/proc/sys/net/ipv4/tcp_migrate_req").trim(), "1");
    let conffiles = b.sh("dpkg-query -W -f '${Conffiles}' app-cluster").ok();
    assert!(
        conffiles.contains(" /etc/app-cluster/app-cluster.toml "),
        "{conffiles}"
    );
    let user = b.sh("getent passwd app-cluster").ok();
    assert!(
        user.ends_with(":/var/lib/app-cluster/.home:/usr/sbin/nologin"),
        "{user}"
    );
    b.sh("dpkg -V app-cluster | tee /dev/stderr | wc -l | grep -x 0")
        .ok();
}

fn socket_listens_after_install(b: &TestBox) {
    assert_eq!(
        b.run(&["systemctl", "is-enabled", "app-cluster.socket"])
            .ok(),
        "enabled"
    );
    assert_eq!(b.show("app-cluster.socket", "SubState"), "listening");
    // One socket for both families, with the kernel's longest queue.
    let line = b.sh("ss -Hltn 'sport = :3000'").ok();
    let fields: Vec<_> = line.split_whitespace().collect();
    let somaxconn = b.read("/proc/sys/net/core/somaxconn");
    assert_eq!(
        fields[..4],
        ["LISTEN", "0", somaxconn.trim(), "*:3000"],
        "{line}"
    );
    assert_eq!(b.show("app-cluster.service", "ActiveState"), "inactive");
    assert_eq!(b.show("app-cluster.service", "UnitFileState"), "disabled");
}

/// Lets the services run without a supervisor: these tests are about dpkg.
fn stand_in(b: &TestBox) {
    let text = "[Service]\nType=exec\nWatchdogSec=0\nExecStart=\nExecStart=/usr/bin/sleep 600\n";
    for unit in ["app-cluster.service", "app-cluster@.service"] {
        b.write(&format!("/etc/systemd/system/{unit}.d/test.conf"), text);
    }
    b.run(&["systemctl", "daemon-reload"]).ok();
}

/// What changes when a unit is stopped or started, whatever it is now.
fn life(b: &TestBox, unit: &str) -> String {
    b.show(unit, "InvocationID")
}

fn upgrade_restarts_only_what_runs(b: &TestBox) {
    stand_in(b);
    b.run(&["systemctl", "start", "app-cluster@shop.service"])
        .ok();
    let service = life(b, "app-cluster@shop.service");
    let units = ["app-cluster.socket", "app-cluster@shop.socket"];
    let sockets = units.map(|unit| life(b, unit));
    b.install_file(&b.repack("99.0"));
    assert_eq!(b.show("app-cluster@shop.service", "ActiveState"), "active");
    assert_ne!(
        life(b, "app-cluster@shop.service"),
        service,
        "old binary still runs"
    );
    assert_eq!(
        units.map(|unit| life(b, unit)),
        sockets,
        "a socket was closed"
    );
    assert_eq!(b.show("app-cluster.service", "ActiveState"), "inactive");
}

fn upgrade_keeps_the_workers(b: &TestBox) {
    app::start(b, &app::hello(2));
    let (workers, supervisor) = (app::all_ready(b, 2), app::supervisor(b));
    let file = b.repack("99.0");
    // As dpkg leaves it on a disk; what runs is then "deleted".
    let out = b.run(&["dpkg", "-i", "--force-confold", &file]);
    let said = format!("{}{}", out.stdout, out.stderr);
    assert!(said.contains("2 workers kept"), "{said}");
    assert_eq!(out.code, 0, "{said}");
    assert_eq!(app::all_ready(b, 2), workers);
    assert_eq!(app::supervisor(b), supervisor);
    let status = app::status(b);
    assert_eq!(status["taken_over"]["how"], "re-exec", "{status}");
    assert_eq!(status["incarnation"], 2, "{status}");
    let shown = b.run(&["app-cluster", "status"]).ok();
    assert!(
        shown.contains("Taken over: ") && shown.contains("by re-exec"),
        "{shown}"
    );
    // An answer that machines read, and the other way to do it.
    let json = b.run(&["app-cluster", "upgrade", "--json"]).ok();
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(
        (&json["workers"], &json["incarnation"]),
        (&2.into(), &3.into()),
        "{json}"
    );
    let out = b.run(&["app-cluster", "restart", "--keep-workers"]).ok();
    assert!(out.contains("2 workers kept"), "{out}");
    assert_eq!(app::all_ready(b, 2), workers);
    assert_ne!(app::supervisor(b), supervisor);
    assert_eq!(app::status(b)["taken_over"]["how"], "restart");
}

fn upgrade_does_what_policy_says(b: &TestBox) {
    app::start(b, &app::hello(1));
    b.write("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n");
    b.sh("chmod 755 /usr/sbin/policy-rc.d").ok();
    b.install_file(&b.repack("99.0"));
    assert_eq!(app::status(b)["incarnation"], 1);
}

fn upgrade_respects_a_disabled_socket(b: &TestBox) {
    b.sh("systemctl disable --now app-cluster.socket").ok();
    b.sh("echo '# mine' >>/etc/app-cluster/app-cluster.toml")
        .ok();
    b.install_file(&b.repack("99.0"));
    assert_eq!(b.show("app-cluster.socket", "UnitFileState"), "disabled");
    assert_eq!(b.show("app-cluster.socket", "ActiveState"), "inactive");
    assert!(
        b.read("/etc/app-cluster/app-cluster.toml")
            .ends_with("# mine\n")
    );
}

fn upgrade_leaves_the_administrators_sysctl(b: &TestBox) {
    let value = || {
        b.read("/proc/sys/net/ipv4/tcp_migrate_req")
            .trim()
            .to_owned()
    };
    assert_eq!(value(), "1");
    b.write(
        "/etc/sysctl.d/90-own.conf",
        "net.ipv4.tcp_migrate_req = 0\n",
    );
    b.sh("echo 0 >/proc/sys/net/ipv4/tcp_migrate_req").ok();
    b.install_file(&b.repack("99.0"));
    assert_eq!(value(), "0");
}

fn remove_stops_everything(b: &TestBox) {
    stand_in(b);
    b.sh("systemctl start app-cluster@shop.service app-cluster@mail.socket app-cluster.service")
        .ok();
    b.run(&["dpkg", "-r", "app-cluster"]).ok();
    let list = "systemctl list-units --plain --no-legend --state=active,failed 'app-cluster*'";
    assert_eq!(b.sh(list).ok(), "");
    assert_eq!(b.sh("ss -Hltn 'sport = :3000'").ok(), "");
    assert!(
        b.exists("/etc/app-cluster/app-cluster.toml"),
        "removed is not purged"
    );
    assert!(b.exists("/var/lib/app-cluster"), "removed is not purged");
}

/// Their supervisor has crashed, and the next one is not there yet.
fn remove_ends_workers_without_a_supervisor(b: &TestBox) {
    app::drop_in(b, "[Service]\nRestartSec=1h\n");
    app::start(b, &app::hello(2));
    b.run(&["kill", "-KILL", &app::supervisor(b)]).ok();
    b.wait_until("systemd to wait for the next start", || {
        b.show(app::SERVICE, "SubState") == "auto-restart"
    });
    assert_eq!(app::processes(b).len(), 2);
    b.run(&["dpkg", "-r", "app-cluster"]).ok();
    assert_eq!(app::processes(b), Vec::<String>::new());
    let left = b.run(&["pgrep", "-a", "-u", "app-cluster"]);
    assert_eq!(left.code, 1, "{left}");
}

fn purge_leaves_nothing(b: &TestBox) {
    b.write(
        "/etc/app-cluster/shop.toml",
        "command = [\"/usr/bin/app-cluster\", \"hello\"]\nlisten = [\"127.0.0.1:4000\"]\n\
         balance = \"sticky\"\n",
    );
    b.sh("systemctl daemon-reload; systemctl enable app-cluster.service; systemctl start app-cluster@shop")
        .ok();
    b.write("/var/lib/app-cluster/data", "of an application");
    // What the administrator has made is his to remove.
    b.sh("rm /etc/app-cluster/shop.toml; dpkg -P app-cluster")
        .ok();
    let left =
        b.sh("find / /run -xdev -name '*app-cluster*' -not -path '/run/app-cluster-test.deb'");
    assert_eq!(left.ok(), "");
    assert_eq!(b.sh("systemctl --failed --plain --no-legend").ok(), "");
}

fn reinstall_after_remove(b: &TestBox) {
    b.run(&["dpkg", "-r", "app-cluster"]).ok();
    b.install();
    assert_eq!(b.show("app-cluster.socket", "UnitFileState"), "enabled");
    assert_eq!(b.show("app-cluster.socket", "SubState"), "listening");
}

fn the_journal_explains_our_events(b: &TestBox) {
    b.run(&["systemctl", "start", "app-cluster.service"]).ok();
    b.wait_until("an entry that is explained", || {
        let explained = b.sh("journalctl -x -u app-cluster.service --no-pager").ok();
        // With the fields of the entry put in.
        explained.contains("Subject: A worker of app-cluster is ready")
            && explained.contains("Defined-By: app-cluster")
    });
    b.run(&["dpkg", "-r", "app-cluster"]).ok();
    let explained = b.sh("journalctl -x -u app-cluster.service --no-pager").ok();
    assert!(
        !explained.contains("Defined-By: app-cluster"),
        "{explained}"
    );
}
