// SPDX-License-Identifier: MIT OR Apache-2.0
//! An app from the command line: made, started and deleted.

use std::path::Path;

use crate::app::WORKER;
use crate::harness::{Output, Test, TestBox, test};
use crate::service::{LONG, ask, long};

pub const TESTS: &[Test] = &[
    test!(start_as_root_and_as_an_ordinary_user),
    test!(start_finds_out_where_a_node_program_listens),
    test!(delete_leaves_nothing),
    test!(a_port_that_somebody_holds),
    test!(start_of_a_broken_program),
];

/// A Node program in /home/alice/shop, a Python one in /srv/mail.
pub fn set_up(b: &TestBox) {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/listen-fds/node/server.js");
    let example = std::fs::read_to_string(example).expect("the example");
    b.sh("useradd --create-home alice; useradd --system bob")
        .ok();
    b.write("/home/alice/shop/server.js", &example);
    b.write("/srv/mail/worker.py", WORKER);
    b.sh("chown -R alice: /home/alice; chmod 700 /home/alice")
        .ok();
}

/// Runs `app-cluster start` with `arguments` in `directory`, as root.
pub fn start(b: &TestBox, directory: &str, arguments: &str) -> Output {
    long(b, &format!("cd {directory}; app-cluster start {arguments}"))
}

/// The same as sudo would for alice.
fn sudo_start(b: &TestBox, directory: &str, arguments: &str) -> Output {
    let script = format!(
        "cd {directory}
         SUDO_UID=$(id -u alice) SUDO_GID=$(id -g alice) SUDO_USER=alice \
         app-cluster start {arguments}"
    );
    long(b, &script)
}

#[track_caller]
fn answers_as(b: &TestBox, address: &str, user: &str) {
    let pid = ask(b, &format!("http://{address}/"))["pid"].to_string();
    let owner = b.run(&["ps", "-o", "user:32=", "-p", &pid]).ok();
    assert_eq!(owner, user, "{address}");
}

#[track_caller]
fn says(b: &TestBox, name: &str, line: &str) {
    let file = b.read(&format!("/etc/app-cluster/{name}.toml"));
    assert!(file.lines().any(|l| l == line), "{line}\n{file}");
}

fn start_as_root_and_as_an_ordinary_user(b: &TestBox) {
    set_up(b);
    // Root, nobody's home: the user of the units.
    let out = start(b, "/srv/mail", "./worker.py -i 2 -l 127.0.0.1:4001");
    assert!(out.stdout.contains("2/2 ready"), "{out}");
    out.ok();
    answers_as(b, "127.0.0.1:4001", "app-cluster");
    says(
        b,
        "worker",
        "command = [\"/usr/bin/python3\", \"./worker.py\"]",
    );
    says(b, "worker", "directory = \"/srv/mail\"");
    // Somebody through sudo, from her closed home; a socket for each slot.
    let arguments = "./server.js --name api -w 2 -l http=4002 --balance even";
    sudo_start(b, "/home/alice/shop", arguments).ok();
    answers_as(b, "127.0.0.1:4002", "alice");
    answers_as(b, "[::1]:4002", "alice");
    says(b, "api", "user = \"alice\"");
    // Root, in her home.
    start(b, "/home/alice/shop", "server.js -i 1 -l 127.0.0.1:4003").ok();
    answers_as(b, "127.0.0.1:4003", "alice");
    // As is said; a command; variables; two listeners, of which the first is descriptor 3.
    let arguments = "--name mail --user bob -i 1 -l zz=127.0.0.1:4004 -l aa=unix:/run/mail.sock \
                     --env GREETING=hello --cwd /srv -- python3 mail/worker.py";
    start(b, "/", arguments).ok();
    answers_as(b, "127.0.0.1:4004", "bob");
    let pid = ask(b, "http://127.0.0.1:4004/")["pid"].to_string();
    let environment = b.sh(&format!("tr '\\0' '\\n' </proc/{pid}/environ")).ok();
    assert!(environment.contains("\nGREETING=hello\n"), "{environment}");

    // Never over another, and by its name when it was stopped.
    let out = start(b, "/srv/mail", "./worker.py -l 127.0.0.1:4005").fails();
    assert!(out.stderr.contains("app-cluster delete worker"), "{out}");
    long(b, "app-cluster stop api").ok();
    assert!(start(b, "/", "api").ok().contains("2/2 ready"));
    answers_as(b, "127.0.0.1:4002", "alice");
    let out = start(b, "/", "api").ok();
    assert!(out.contains("2/2 ready"), "{out}");
    // What cannot work is said before anything is written.
    b.write("/root/private/worker.py", WORKER);
    let out = start(b, "/root/private", "worker.py --name no -l 4006").fails();
    assert!(out.stderr.contains("/root is closed"), "{out}");
    let script = "cd /srv/mail; exec app-cluster start worker.py --name no -l 4006";
    let out = b.run(&["runuser", "-u", "alice", "--", "sh", "-c", script]);
    assert_eq!(out.code, 4, "{out}");
    let again = "sudo app-cluster start worker.py --name no -l 4006";
    assert!(out.stderr.contains(again), "{out}");
    assert!(!b.exists("/etc/app-cluster/no.toml"));
}

fn start_finds_out_where_a_node_program_listens(b: &TestBox) {
    set_up(b);
    let program = "require('http').createServer((q, r) => r.end(JSON.stringify({\
                   pid: process.pid }))).listen(4021, '127.0.0.1')";
    b.write("/home/alice/plain/server.js", program);
    b.sh("chown -R alice: /home/alice").ok();
    let out = sudo_start(b, "/home/alice/plain", "./server.js --name plain -i 2").ok();
    assert!(out.contains("2/2 ready"), "{out}");
    says(b, "plain", "listen = [\"127.0.0.1:4021\"]");
    answers_as(b, "127.0.0.1:4021", "alice");
    // Behind npm, by whoever has the app's user.
    b.write(
        "/home/alice/npm/package.json",
        r#"{ "scripts": { "start": "node main.js" } }"#,
    );
    b.write(
        "/home/alice/npm/main.js",
        "require('http').createServer((q, r) => r.end('{}')).listen(4022)",
    );
    b.sh("chown -R alice: /home/alice; which npm || printf '#!/bin/sh\\nexec sh -c \"node main.js\"\\n' \
          >/usr/local/bin/npm; chmod +x /usr/local/bin/npm")
        .ok();
    sudo_start(b, "/home/alice/npm", "--name viaNpm -i 1 -- npm start").ok();
    says(b, "viaNpm", "listen = [\"4022\"]");
    // What does not tell.
    for (program, arguments, why) in [
        ("setInterval(() => {}, 1000)", "--dry-run", "--dry-run"),
        (
            "console.error('no flux'); process.exit(3)",
            "",
            "exited with status 3",
        ),
        (
            "require('http').createServer().listen(0)",
            "",
            "asks for port 0",
        ),
    ] {
        b.write("/srv/no/no.js", program);
        let out = start(b, "/srv/no", &format!("./no.js {arguments}")).fails();
        assert!(
            out.stderr.contains(why) && out.stderr.contains("-l 3000"),
            "{out}"
        );
        assert!(!b.exists("/etc/app-cluster/no.toml"));
    }
    let left = b
        .sh("pgrep -f '[n]o[.]js' || true; ls /run /tmp | grep preload || true")
        .ok();
    assert_eq!(left, "");
}

/// All files that are ours, or could be, and what systemd knows of us.
pub fn traces(b: &TestBox) -> String {
    b.sh(
        "find /etc /run /var/lib /usr/lib/systemd -xdev \\( -path /run/systemd/units \
            -o -path /run/log -o -path /run/systemd/journal \
            -o -path /var/lib/systemd -o -path /run/systemd/transient \\) -prune \
            -o -printf '%p %y %m %u\\n' | sort
          systemctl list-units --all --plain --no-legend 'app-cluster*' |
            awk '{ print $1, $2, $3 }' | sort
          ls /srv/mail /home/alice/shop",
    )
    .ok()
}

fn delete_leaves_nothing(b: &TestBox) {
    set_up(b);
    b.run(&["app-cluster", "stop"]).ok();
    let program = "for (const fd of [3, 4])\n\
                   require('http').createServer((q, r) => r.end('{}')).listen({ fd });\n";
    b.write("/home/alice/shop/both.js", program);
    let before = traces(b);
    let arguments = "./both.js --name api -i 2 -l 127.0.0.1:4001 -l unix:/run/api.sock \
                     --balance sticky";
    sudo_start(b, "/home/alice/shop", arguments).ok();
    long(b, "app-cluster scale api 3").ok();
    long(b, "app-cluster scale api 1 --runtime").ok();
    b.run(&["app-cluster", "disable", "api"]).ok();
    for unit in ["service", "socket"] {
        let edited = format!("/etc/systemd/system/app-cluster@api.{unit}.d/override.conf");
        b.write(&edited, "[Unit]\nDescription=edited\n");
    }
    // A link that an earlier version asked for.
    b.sh("mkdir -p /etc/systemd/system/sockets.target.wants
          ln -s /usr/lib/systemd/system/app-cluster@.socket \
            /etc/systemd/system/sockets.target.wants/app-cluster@api.socket")
        .ok();
    let out = b.sh("app-cluster delete api </dev/null");
    assert_eq!(out.code, 2, "{out}");
    assert!(b.exists("/etc/app-cluster/api.toml"), "{out}");
    b.run(&["app-cluster", "delete", "api", "--yes"]).ok();
    // One that has failed, and is tried again and again.
    b.write("/srv/mail/broken.py", "raise SystemExit(3)\n");
    let broken = "app-cluster@broken.service";
    // Long enough to find it between two attempts, where systemd 252 leaves more behind.
    b.write(
        &format!("/etc/systemd/system/{broken}.d/override.conf"),
        "[Service]\nRestartSec=60\n",
    );
    start(b, "/srv/mail", "broken.py -l 127.0.0.1:4002").fails();
    b.wait_until("the next attempt", || {
        b.show(broken, "SubState") == "auto-restart"
    });
    b.run(&["app-cluster", "delete", "broken", "--yes"]).ok();
    b.run(&["rm", "/srv/mail/broken.py"]).ok();
    let after = traces(b);
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (old, new) = (lines(&before), lines(&after));
    let added: Vec<_> = new.iter().filter(|line| !old.contains(line)).collect();
    // Empty by now: the copies of the app `app-cluster` were there.
    let spent = |line: &&String| line.starts_with("/run/app-cluster/.units ");
    let gone = old.iter().filter(|line| !new.contains(line));
    let gone: Vec<_> = gone.filter(|line| !spent(line)).collect();
    assert!(
        added.is_empty() && gone.is_empty(),
        "+ {added:#?}\n- {gone:#?}"
    );
    let out = b.run(&["app-cluster", "delete", "api", "--yes"]);
    assert_eq!(out.code, 4, "{out}");
    // The name is free again.
    start(
        b,
        "/srv/mail",
        "worker.py --name api -i 1 -l 127.0.0.1:4001",
    )
    .ok();
}

fn a_port_that_somebody_holds(b: &TestBox) {
    set_up(b);
    let script = "exec systemd-run -q --unit=other python3 -m http.server 4001";
    b.sh(script).ok();
    b.wait_until("the other server", || {
        b.run(&["curl", "-s", "-o", "/dev/null", "http://127.0.0.1:4001/"])
            .code
            == 0
    });
    let refused = |arguments: &str, who: &str| {
        let out = start(b, "/srv/mail", &format!("worker.py {arguments}"));
        assert_eq!(out.code, 1, "{out}");
        assert!(out.stderr.contains(who), "{who}\n{out}");
        assert!(!b.exists("/etc/app-cluster/worker.toml"), "{out}");
    };
    let pid = b.show("other.service", "MainPID");
    refused("-l 4001", &format!("pid {pid} of other.service: "));
    refused("-l 127.0.0.1:4001", "http.server 4001");
    // What systemd itself holds: the unit.
    refused("-l 3000", "app-cluster.socket (systemd)");
    refused("-l 4002 -l 192.0.2.1:80", "no address of this machine");
    let text = "[Socket]\nListenStream=/run/other.sock\n";
    b.write("/run/systemd/system/other-path.socket", text);
    let text = "[Service]\nExecStart=/bin/true\n";
    b.write("/run/systemd/system/other-path.service", text);
    b.sh("systemctl daemon-reload; systemctl start other-path.socket")
        .ok();
    refused("-l unix:/run/other.sock", "other-path.socket (systemd)");
    // An app that cannot have its port because of another app's.
    start(b, "/srv/mail", "worker.py -i 1 -l 127.0.0.1:4003").ok();
    let out = start(b, "/srv/mail", "worker.py --name two -l 4003").fails();
    assert!(out.stderr.contains("sudo app-cluster stop worker"), "{out}");
}

fn start_of_a_broken_program(b: &TestBox) {
    set_up(b);
    b.write(
        "/srv/mail/broken.py",
        "print('no database here', flush=True)\nraise SystemExit(3)\n",
    );
    let out = start(b, "/srv/mail", "broken.py -i 2 -l 127.0.0.1:4001");
    assert_eq!(out.code, 1, "{out}");
    for part in [
        "exited with status 3 before it was ready",
        "  | no database here",
        "/etc/app-cluster/broken.toml stays",
        "app-cluster delete broken",
    ] {
        assert!(out.stderr.contains(part), "{part}\n{out}");
    }
    // Clients wait meanwhile, and are answered when it is mended.
    let client = "exec curl -sS --max-time 100 http://127.0.0.1:4001/";
    let waiting = b.spawn(client, LONG);
    let out = start(b, "/", "broken").fails();
    assert!(out.stderr.contains("  | no database here"), "{out}");
    b.run(&["cp", "/srv/mail/worker.py", "/srv/mail/broken.py"])
        .ok();
    assert!(start(b, "/", "broken").ok().contains("2/2 ready"));
    assert!(waiting.wait().ok().contains("\"slot\""));
    // A configuration that cannot be used.
    long(b, "app-cluster stop broken").ok();
    b.sh("echo 'batch = 0' >>/etc/app-cluster/broken.toml").ok();
    let out = start(b, "/", "broken").fails();
    assert!(out.stderr.contains("broken.toml:"), "{out}");
    assert_eq!(
        b.show("app-cluster@broken.service", "ActiveState"),
        "inactive"
    );
}
