// SPDX-License-Identifier: MIT OR Apache-2.0
//! Units that follow from the configuration, and what happens when it changes
//! or breaks.

use std::time::Duration;

use serde_json::Value;

use crate::harness::{Test, TestBox, test};
use crate::service::{LONG, ask, hello, long, status_of};

pub const TESTS: &[Test] = &[
    test!(systemd_understands_what_is_generated),
    test!(a_strict_sandbox_lets_a_worker_live),
    test!(a_bad_file_harms_no_other_app),
    test!(a_bad_file_leaves_a_running_app_its_sockets),
    test!(an_app_without_units_does_not_get_the_packaged_ones),
    test!(autostart_says_what_a_boot_starts),
    test!(processes_of_other_apps_are_not_of_the_group),
];

pub fn configure(b: &TestBox, name: &str, text: &str) {
    let text = format!("{}{text}\n", hello(2));
    b.write(&format!("/etc/app-cluster/{name}.toml"), &text);
}

#[track_caller]
pub fn daemon_reload(b: &TestBox) {
    b.run(&["systemctl", "daemon-reload"]).ok();
}

/// What the generator has logged, a line each.
fn complaints(b: &TestBox) -> String {
    b.journal(&["-t", "app-cluster-generator"])
}

fn systemd_understands_what_is_generated(b: &TestBox) {
    b.run(&["useradd", "shop"]).ok();
    configure(
        b,
        "app-cluster",
        "listen = [\"[::1]:3000\", \"3001\"]\nuser = \"shop\"",
    );
    configure(
        b,
        "shop",
        "listen = { http = \"127.0.0.1:4000\", admin = \"unix:/run/a b/100%.sock\" }\n\
         slot_listen = \"127.0.0.1:41{slot:02}\"\nmax_workers = 4\nbalance = \"even\"\n\
         user = \"shop\"\nsocket_group = \"www-data\"\nsocket_mode = \"0666\"",
    );
    configure(
        b,
        "strict",
        "listen = [\"4500\"]\nsandbox = \"strict\"\nbalance = \"sticky\"\ndrain_timeout = \"10min\"",
    );
    daemon_reload(b);
    // The further sockets are read as dependencies; verify takes `:` for an alias.
    let units = "app-cluster.service app-cluster.socket app-cluster@shop.service \
                 app-cluster@shop.socket app-cluster@strict.service app-cluster@strict.socket";
    let out = b.sh(&format!("systemd-analyze verify --man=no {units}"));
    assert_eq!(
        (out.code, out.stdout.as_str(), out.stderr.as_str()),
        (0, "", ""),
        "{out}"
    );
    let said = b.journal(&["_PID=1"]);
    assert!(!said.contains("50-app-cluster.conf"), "{said}");
    assert_eq!(complaints(b), "");

    long(
        b,
        "systemctl start app-cluster@shop.service app-cluster@strict.service",
    )
    .ok();
    let stat = |path: &str| b.run(&["stat", "-c", "%U %G %a", path]).ok();
    assert_eq!(stat("/run/a b/100%.sock"), "shop www-data 666");
    assert_eq!(
        stat("/run/app-cluster/shop/control"),
        "shop app-cluster 660"
    );
    assert_eq!(
        stat("/var/lib/app-cluster/strict"),
        "app-cluster app-cluster 700"
    );
    let listeners = |name: &str| {
        let status = status_of(b, name);
        let all = status["listeners"].as_array().expect("listeners").clone();
        let one = |l: &Value| format!("{} {} {}", l["name"], l["address"], l["lines"]);
        let mut all: Vec<String> = all.iter().map(one).collect();
        all.sort();
        all.join("\n").replace('"', "")
    };
    assert_eq!(
        listeners("shop"),
        "admin unix:/run/a b/100%.sock 1\nhttp 127.0.0.1:4000 4\n\
         slot 127.0.0.1:4100 to 127.0.0.1:4103 4"
    );
    // The supervisor finds what it asked for.
    long(b, "systemctl reload app-cluster@shop app-cluster@strict").ok();
    let stop = b.show("app-cluster@strict.service", "TimeoutStopUSec");
    assert_eq!(stop, "10min 30s");
    // The sockets of an app come and go together, and nothing is left.
    b.run(&["systemctl", "stop", "app-cluster@shop.socket"])
        .ok();
    let left = "systemctl list-units --plain --no-legend --state=active,failed '*@shop*'";
    assert_eq!(b.sh(left).ok(), "");
    let kept = b.sh("ls -A /run/app-cluster/.units").ok();
    assert_eq!(kept, "app-cluster\nstrict");
}

/// Does what applications do, and reports what it cannot.
const SERVER: &str = r#"
const fs = require('fs'), http = require('http'), os = require('os');
const { Worker } = require('worker_threads');
const tried = {};
const attempt = (name, what) => {
  try { tried[name] = String(what()); } catch (error) { tried[name] = error.code || String(error); }
};
attempt('tmp', () => fs.writeFileSync(`/tmp/shop.${process.pid}`, '') ?? 'done');
attempt('state', () => fs.writeFileSync(`${process.env.STATE_DIRECTORY}/x`, '') ?? 'done');
attempt('beside', () => fs.writeFileSync('x', '') ?? 'done');
attempt('usr', () => fs.writeFileSync('/usr/x', '') ?? 'done');
attempt('root', () => fs.readdirSync('/root').length);
attempt('child', () => require('child_process').execSync('echo child').toString().trim());
attempt('processors', () => os.cpus().length > 0);
attempt('interfaces', () => Boolean(os.networkInterfaces().lo));
attempt('others', () => fs.existsSync('/proc/1/status'));
attempt('sandbox', () => process.env.APP_CLUSTER_SANDBOX);
let sum = 0; // long enough to be compiled
for (let i = 0; i < 1e7; i++) sum = (sum + i * i) % 1000003;
new Worker('', { eval: true }).on('exit', (code) => {
  tried.thread = String(code);
  const server = http.createServer((_, response) => response.end(JSON.stringify(tried)));
  server.listen({ fd: 3 });
  process.on('SIGTERM', () => server.close(() => process.exit()));
});
"#;

fn a_strict_sandbox_lets_a_worker_live(b: &TestBox) {
    b.write("/home/shop/server.js", SERVER);
    b.sh("useradd -d /home/shop shop; chown -R shop: /home/shop; chmod 700 /home/shop")
        .ok();
    b.write(
        "/etc/app-cluster/shop.toml",
        "command = [\"node\", \"server.js\"]\ndirectory = \"/home/shop\"\nworkers = 2\n\
         user = \"shop\"\nsandbox = \"strict\"\nlisten = [\"4000\"]\nstart_timeout = \"60s\"\n",
    );
    daemon_reload(b);
    long(b, "systemctl start app-cluster@shop.service").ok();
    let tried = ask(b, "127.0.0.1:4000");
    for (what, wanted) in [
        ("tmp", "done"),
        ("state", "done"),
        ("beside", "EROFS"),
        ("usr", "EROFS"),
        ("root", "EACCES"),
        ("child", "child"),
        ("processors", "true"),
        ("interfaces", "true"),
        ("others", "false"),
        ("sandbox", "undefined"),
        ("thread", "0"),
    ] {
        assert_eq!(tried[what], wanted, "{what}: {tried}");
    }
    // A port alone is every address of both families.
    assert_eq!(ask(b, "[::1]:4000")["child"], "child");
    // The supervisor lives in it too.
    long(b, "systemctl reload app-cluster@shop").ok();
    assert_eq!(status_of(b, "shop")["generation"], 2);
    let pid = status_of(b, "shop")["slots"][0]["pid"].clone();
    b.sh(&format!("kill -9 {pid}")).ok();
    b.wait_for("the replacement", LONG, || {
        let slot = status_of(b, "shop")["slots"][0].clone();
        slot["state"] == "ready" && slot["pid"] != pid
    });
    long(b, "systemctl stop app-cluster@shop.socket").ok();
    assert_eq!(b.show("app-cluster@shop.service", "Result"), "success");
}

fn a_bad_file_harms_no_other_app(b: &TestBox) {
    configure(b, "good", "listen = [\"127.0.0.1:4000\"]");
    b.write(
        "/etc/app-cluster/bad.toml",
        "command = [\"x\"]\nlisten = = \"4001\"\n",
    );
    configure(b, "beside", "listen = [\"127.0.0.1:4001\"]\nwrokers = 3");
    configure(b, "later", "listen = [\"127.0.0.1:4000\"]");
    b.sh("mkfifo /etc/app-cluster/fifo.toml; ln -s /dev/zero /etc/app-cluster/zero.toml")
        .ok();
    daemon_reload(b);
    let said = complaints(b);
    for part in [
        "/etc/app-cluster/bad.toml:2:10: ",
        "bad: app-cluster@bad.socket opens nothing until that is mended",
        "/etc/app-cluster/beside.toml:4:1: unknown key `wrokers` (did you mean `workers`?)",
        "later: 127.0.0.1:4000 is the address of good",
        "fifo.toml: this is a FIFO",
        "zero.toml: this is a device",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    for (name, address) in [("good", "127.0.0.1:4000"), ("beside", "127.0.0.1:4001")] {
        let listen = b.show(&format!("app-cluster@{name}.socket"), "Listen");
        assert_eq!(listen, format!("{address} (Stream)"));
    }
    assert_eq!(
        b.sh("cd /run/systemd/generator; find -name '*@bad*' -o -name '*@later*'")
            .ok(),
        "./app-cluster@later.service.d"
    );
    long(b, "systemctl start app-cluster@good.socket").ok();
    assert_eq!(ask(b, "127.0.0.1:4000")["name"], "good");
}

/// The packaged units have another address, another user and no sandbox.
fn an_app_without_units_does_not_get_the_packaged_ones(b: &TestBox) {
    b.run(&["systemctl", "stop", "app-cluster.socket"]).ok();
    let listen = "listen = [\"127.0.0.1:4000\"]";
    configure(b, "aaa", listen);
    configure(b, "app-cluster", &format!("{listen}\nuser = \"nobody\""));
    configure(b, "broken", &format!("{listen}\n= half a li"));
    daemon_reload(b);
    for (socket, service, why) in [
        (
            "app-cluster.socket",
            "app-cluster.service",
            "is the address of aaa",
        ),
        (
            "app-cluster@broken.socket",
            "app-cluster@broken.service",
            "broken.toml:4:1: ",
        ),
    ] {
        long(b, &format!("systemctl start {service}")).fails();
        assert_eq!(b.show(socket, "ActiveState"), "failed");
        assert_eq!(b.show(service, "ActiveState"), "inactive");
        let said = b.journal(&["-u", socket]);
        assert!(said.contains(why), "{said}");
        assert!(said.contains("systemctl daemon-reload"), "{said}");
    }
    let open = b.sh("ss -Hltn; ls /run/app-cluster").ok();
    assert!(
        !open.contains(":3000") && !open.contains("broken.sock"),
        "{open}"
    );
    assert_eq!(b.show("app-cluster.service", "User"), "nobody");
    // Mended, they start.
    b.run(&["rm", "/etc/app-cluster/aaa.toml"]).ok();
    daemon_reload(b);
    long(b, "systemctl start app-cluster.service").ok();
    assert_eq!(ask(b, "127.0.0.1:4000")["name"], "app-cluster");
}

/// Any upgrade of any package may reload systemd at the wrong moment.
fn a_bad_file_leaves_a_running_app_its_sockets(b: &TestBox) {
    let good = "listen = { http = \"127.0.0.1:4000\", admin = \"127.0.0.1:4001\" }";
    configure(b, "shop", good);
    daemon_reload(b);
    long(b, "systemctl start app-cluster@shop.service").ok();
    let units = b
        .sh("cd /run/systemd/generator; grep -r . app-cluster@shop*")
        .ok();

    configure(b, "shop", &format!("{good}\n= half a li"));
    daemon_reload(b);
    let said = complaints(b);
    assert!(said.contains("shop.toml:4:1: "), "{said}");
    assert!(said.contains("its units stay as they were"), "{said}");
    assert_eq!(
        b.sh("cd /run/systemd/generator; grep -r . app-cluster@shop*")
            .ok(),
        units
    );
    for address in ["127.0.0.1:4000", "127.0.0.1:4001"] {
        assert_eq!(ask(b, address)["name"], "shop");
    }
    // The next supervisor goes on with what the last one knew.
    let service = "app-cluster@shop.service";
    b.run(&["systemctl", "kill", "-s", "KILL", service]).ok();
    assert_eq!(ask(b, "127.0.0.1:4000")["name"], "shop");
    b.wait_for("a degraded status", LONG, || {
        b.show(service, "StatusText").starts_with("degraded: ")
    });
    // After a stop it cannot start, and connections wait for the repair.
    let out = b.run(&["systemctl", "restart", service]);
    assert_ne!(out.code, 0, "{}", out.stdout);
    let client = b.spawn("curl -sS 127.0.0.1:4000", Duration::from_secs(120));
    let restarts = |b: &TestBox| b.show(service, "NRestarts").parse::<u32>().unwrap_or(0);
    let before = restarts(b);
    b.wait_for("a start that fails", LONG, || restarts(b) > before);
    configure(b, "shop", good);
    assert!(client.wait().ok().contains("shop"));
}

fn autostart_says_what_a_boot_starts(b: &TestBox) {
    for (name, autostart) in [("boot", ""), ("first", "connection"), ("hand", "never")] {
        let line = format!("autostart = \"{autostart}\"");
        configure(b, name, if autostart.is_empty() { "" } else { &line });
    }
    daemon_reload(b);
    let wanted = |target: &str| {
        let wants = b.show(target, "Wants");
        let mut ours: Vec<&str> = wants
            .split(' ')
            .filter(|w| w.contains("app-cluster"))
            .collect();
        ours.sort_unstable();
        ours.join(" ")
    };
    assert_eq!(wanted("multi-user.target"), "app-cluster@boot.service");
    assert_eq!(
        wanted("sockets.target"),
        "app-cluster.socket app-cluster@boot.socket app-cluster@first.socket"
    );
}

/// The group lets the operators in. Every app has it too, for its supervisor's
/// sake, and must not have more of other apps by that.
fn processes_of_other_apps_are_not_of_the_group(b: &TestBox) {
    b.run(&["useradd", "other"]).ok();
    b.run(&["useradd", "-G", "app-cluster", "member"]).ok();
    configure(b, "other", "user = \"other\"");
    configure(b, "shop", "");
    configure(b, "strict", "sandbox = \"strict\"");
    daemon_reload(b);
    long(
        b,
        "systemctl start app-cluster@other app-cluster@shop app-cluster@strict",
    )
    .ok();
    let worker = status_of(b, "other")["slots"][0]["pid"].clone();
    let script = format!(
        "cat >\"/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/{worker}/cgroup)/cgroup.procs\" <<E\n$$\nE\n\
         exec setpriv --reuid=other --regid=other --groups=app-cluster app-cluster"
    );
    for app in ["shop", "strict"] {
        let out = b.sh(&format!("{script} status {app}"));
        assert_eq!(out.code, 4, "{out}");
        assert!(out.stderr.contains("another app"), "{out}");
        let out = b.sh(&format!("runuser -u member -- app-cluster status {app}"));
        assert!(out.ok().contains("2/2 ready"));
    }
    assert!(
        b.sh(&format!("{script} status other"))
            .ok()
            .contains("2/2 ready")
    );
}
