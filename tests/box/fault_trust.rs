// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a supervisor that takes over cannot trust, or does not find.

use std::time::Duration;

use serde_json::Value;

use crate::app::{self, LONG, SERVICE};
use crate::fault::whole;
use crate::harness::{Test, TestBox, test};
use crate::load::{Kind, Load, LoadSpec};

pub const TESTS: &[Test] = &[
    test!(descriptors_that_are_missing),
    test!(nothing_was_kept),
    test!(a_torn_snapshot_and_node),
    test!(a_torn_snapshot_and_node_without_the_preload),
    test!(strangers_and_the_dead),
    test!(taking_over_without_groups),
    test!(the_configuration_broke_meanwhile),
    test!(what_adopted_workers_see_and_write),
    test!(a_pid_that_is_anothers_by_now),
];

const BOTH: &[Kind] = &[Kind::NewConnection, Kind::KeepAlive];
const CONFIG: &str = "/etc/app-cluster/app-cluster.toml";
const WORKERS: usize = 2;

fn config() -> String {
    app::hello(WORKERS) + "canary_time = \"100ms\"\ndrain_timeout = \"5s\"\n"
}

/// Kills the supervisor, does `more` in the same breath, and waits for the next one.
#[track_caller]
fn kill_supervisor(b: &TestBox, more: &str) {
    let before = app::supervisor(b);
    b.sh(&format!("kill -KILL {before} {more}")).ok();
    b.wait_for("another supervisor", LONG, || {
        let now = app::supervisor(b);
        now != "0" && now != before && app::ask_status(b).is_some()
    });
}

#[track_caller]
fn told(b: &TestBox, text: &str) {
    b.wait_for(text, Duration::from_secs(10), || {
        b.journal(&["-u", SERVICE]).contains(text)
    });
}

/// Takes descriptors out of systemd's store, as a process of the unit.
fn forget(b: &TestBox, name: &str) {
    let group = format!("/sys/fs/cgroup/system.slice/{SERVICE}/w1/cgroup.procs");
    let script = format!(
        "import os, socket\n\
         open('{group}', 'w').write(str(os.getpid()))\n\
         line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
         line.connect('/run/systemd/notify')\n\
         line.send(b'FDSTOREREMOVE=1\\nFDNAME={name}')\n\
         r, w = os.pipe()\n\
         socket.send_fds(line, [b'BARRIER=1'], [w])\n\
         os.close(w)\n\
         os.read(r, 1)\n"
    );
    b.write("/tmp/forget.py", &script);
    b.run(&["python3", "/tmp/forget.py"]).ok();
}

fn descriptors_that_are_missing(b: &TestBox) {
    app::drop_in(b, "[Service]\nNotifyAccess=all\n");
    app::start(b, &config());
    let before = app::all_ready(b, WORKERS);
    let load = app::load(b, BOTH);
    for name in ["appc.pidfd.w1", "appc.notify.w1", "appc.control"] {
        forget(b, name);
        kill_supervisor(b, "");
        whole(b, name, WORKERS);
        assert_eq!(app::all_ready(b, WORKERS), before, "{name}");
    }
    // Nobody knows of the workers any more: they end, and have others in their place.
    forget(b, "appc.snapshot");
    kill_supervisor(b, "");
    told(b, "there is none among the descriptors that it left");
    told(b, "cannot be taken over are asked to end");
    whole(b, "without a snapshot", WORKERS);
    let now = app::all_ready(b, WORKERS);
    assert!(before.iter().all(|pid| !now.contains(pid)));
    load.stop().assert_lossless(20);
    b.run(&["systemctl", "reload", SERVICE]).ok();
    whole(b, "a reload", WORKERS);
}

/// A unit of before: systemd keeps nothing.
fn nothing_was_kept(b: &TestBox) {
    app::drop_in(b, "[Service]\nFileDescriptorStoreMax=0\n");
    app::start(b, &config());
    let before = app::all_ready(b, WORKERS);
    let load = app::load(b, BOTH);
    kill_supervisor(b, "");
    told(b, "cannot be taken over are asked to end");
    whole(b, "without a store", WORKERS);
    let now = app::all_ready(b, WORKERS);
    assert!(before.iter().all(|pid| !now.contains(pid)));
    load.stop().assert_lossless(20);
}

/// Node ends with its channel, so that has to stay until what is in flight is answered.
fn a_torn_snapshot_and_node(b: &TestBox) {
    torn_under_node(b, "", &[Kind::KeepAlive, Kind::Slow { ms: 2000 }]);
}

/// Node closes kept-alive connections then, whatever comes on them.
fn a_torn_snapshot_and_node_without_the_preload(b: &TestBox) {
    torn_under_node(b, "[node]\npreload = false\n", &[]);
}

fn torn_under_node(b: &TestBox, keys: &str, more: &[Kind]) {
    b.write("/srv/app/fate.js", include_str!("workers/fate.js"));
    let config = format!(
        "command = \"node fate.js\"\ndirectory = \"/srv/app\"\nworkers = {WORKERS}\n\
         canary_time = \"100ms\"\ndrain_timeout = \"40s\"\n{keys}"
    );
    crate::fault::prepare(b);
    app::start(b, &config);
    a_worker_was_just_spawned(b);
    let before = app::all_ready(b, WORKERS);
    let stored = b.show(SERVICE, "NFileDescriptorStore");
    let spec = crate::service::clients(b).with(Kind::NewConnection, 4);
    let spec = LoadSpec {
        path: "/slow?ms=2000".to_owned(),
        ..spec
    };
    let load = Load::start(more.iter().fold(spec, |spec, kind| spec.with(*kind, 2)));
    let load = load.expect("a load");
    load.wait_for_more(6, LONG).expect("answers");
    tear(b);
    told(b, "no record of it is whole");
    told(b, "cannot be taken over are asked to end");
    whole(b, "with a torn snapshot", WORKERS);
    let now = app::all_ready(b, WORKERS);
    assert!(before.iter().all(|pid| !now.contains(pid)));
    load.wait_for_more(6, LONG).expect("answers afterwards");
    load.stop().assert_lossless(12);
    // Nobody is left at the other end of a channel that is kept.
    b.wait_for("the store to be as it was", LONG, || {
        b.show(SERVICE, "NFileDescriptorStore") == stored
    });
    // A stop is no reason to break off either.
    let curl = "curl -sS --max-time 60 'http://127.0.0.1:3000/slow?ms=8000'";
    let request = b.spawn(curl, LONG);
    b.wait_for("a connection", LONG, || {
        let all = b.sh("ss -Htn state established sport = :3000").ok();
        !all.is_empty()
    });
    tear(b);
    b.run(&["systemctl", "stop", SERVICE]).ok();
    let answer = request.wait().ok();
    assert!(
        now.iter().any(|pid| answer.contains(&pid.to_string())),
        "{answer}"
    );
    assert_eq!(app::processes(b), [""; 0]);
}

/// It is in the snapshot without anything that is known of it, but its channel is there.
fn a_worker_was_just_spawned(b: &TestBox) {
    let before = app::all_ready(b, WORKERS);
    b.write(crate::fault::FAULT, "after-spawn");
    b.run(&["kill", "-KILL", &before[0].to_string()]).ok();
    b.wait_for("to be killed", LONG, || !b.exists(crate::fault::FAULT));
    whole(b, "after a spawn", WORKERS);
    let status = app::status(b);
    assert_eq!(status["taken_over"]["how"], "crash", "{status:#}");
    // That one is ready now, not another one in its place.
    assert_eq!(status["slots"][0]["restarts"], 1, "{status:#}");
}

/// Makes the snapshot useless and kills the supervisor, which cannot write another meanwhile.
fn tear(b: &TestBox) {
    let script = "kill -STOP $MAIN; for fd in /proc/$MAIN/fd/*; do \
                  case $(readlink $fd) in *'app-cluster snapshot'*) : > $fd;; esac; done; true";
    let main = app::supervisor(b);
    b.sh(&script.replace("$MAIN", &main)).ok();
    kill_supervisor(b, "");
}

fn strangers_and_the_dead(b: &TestBox) {
    app::start(b, &config());
    let before = app::all_ready(b, WORKERS);
    // One in a group that nobody knows of, one in none.
    let script = format!(
        "cd /sys/fs/cgroup/system.slice/{SERVICE}; mkdir w77; chown -R app-cluster: w77; \
         setpriv --reuid app-cluster --clear-groups setsid sleep 1001 & \
         setpriv --reuid app-cluster --clear-groups setsid sleep 1002 & \
         until pgrep -f '^sleep 1001' && pgrep -f '^sleep 1002'; do sleep 0.02; done; \
         pgrep -f '^sleep 1001' > w77/cgroup.procs && pgrep -f '^sleep 1002' > cgroup.procs"
    );
    let task = b.spawn(&script, Duration::from_secs(120));
    b.wait_for("strangers", LONG, || app::processes(b).len() == WORKERS + 3);
    // And one that has died when nobody looked.
    kill_supervisor(b, &before[0].to_string());
    whole(b, "with strangers", WORKERS);
    assert_eq!(b.sh("pgrep -f '^sleep 100' || true").ok(), "");
    drop(task);
    let now = app::all_ready(b, WORKERS);
    assert_eq!(now[1], before[1]);
    assert_ne!(now[0], before[0]);
    let slot = &app::status(b)["slots"][0];
    let exit = slot["last_exit"].to_string();
    // Linux tells since 6.15.
    assert!(
        exit.contains("SIGKILL") || exit.contains("unknown"),
        "{exit}"
    );
    // Of one that was taken over as well.
    b.run(&["kill", "-KILL", &before[1].to_string()]).ok();
    whole(b, "after a death", WORKERS);
    let exit = app::status(b)["slots"][1]["last_exit"].to_string();
    assert!(
        exit.contains("SIGKILL") || exit.contains("unknown"),
        "{exit}"
    );
}

/// Where there are no groups a worker is its pid and when it was started.
fn taking_over_without_groups(b: &TestBox) {
    app::drop_in(b, "[Service]\nDelegate=no\nNotifyAccess=all\n");
    app::start(b, &config());
    let before = app::all_ready(b, WORKERS);
    let load = app::load(b, BOTH);
    kill_supervisor(b, "");
    whole(b, "without groups", WORKERS);
    assert_eq!(app::all_ready(b, WORKERS), before);
    app::drop_in(b, "[Service]\nDelegate=no\nFileDescriptorStoreMax=0\n");
    b.run(&["systemctl", "restart", SERVICE]).ok();
    let before = app::all_ready(b, WORKERS);
    kill_supervisor(b, "");
    told(b, "cannot be taken over are asked to end");
    whole(b, "without groups and store", WORKERS);
    let now = app::all_ready(b, WORKERS);
    assert!(before.iter().all(|pid| !now.contains(pid)));
    load.stop().assert_lossless(20);
}

fn the_configuration_broke_meanwhile(b: &TestBox) {
    app::start(b, &config());
    let before = app::all_ready(b, WORKERS);
    let degraded = |b: &TestBox| app::status(b)["degraded"].clone();
    let broken = [
        format!("printf 'nonsense = [' > {CONFIG}"),
        format!("rm {CONFIG}"),
        format!("printf 'command = \"/no/such/program\"\\nworkers = 2\\n' > {CONFIG}"),
    ];
    for script in broken {
        b.sh(&script).ok();
        kill_supervisor(b, "");
        whole(b, &script, WORKERS);
        assert_eq!(app::all_ready(b, WORKERS), before, "{script}");
        let why = degraded(b);
        assert!(why.to_string().contains("configuration"), "{script}: {why}");
        b.wait_for("a degraded status", LONG, || {
            b.show(SERVICE, "StatusText").starts_with("degraded: ")
        });
    }
    // A worker that dies now gets another one all the same.
    b.run(&["kill", "-TERM", &before[0].to_string()]).ok();
    b.wait_for("another worker", LONG, || {
        !app::pids(b).contains(&before[0])
    });
    whole(b, "a death", WORKERS);
    b.write(CONFIG, &config());
    b.run(&["systemctl", "reload", SERVICE]).ok();
    assert_eq!(degraded(b), Value::Null);
    let text = b.journal(&["-u", SERVICE]);
    assert!(!text.contains("INVOCATION_ID") && !text.contains("JOURNAL_STREAM"));
    app::all_slots_answer(b, WORKERS);
}

/// Answers with what is in /tmp, leaves a file there, and writes a line.
const SEEN: &str = r#"
import http.server, os, socket
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        open(f"/tmp/was-here-{os.getpid()}", "w").close()
        print("asked", os.getpid(), flush=True)
        body = " ".join(os.listdir("/tmp")).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
server = http.server.HTTPServer(("", 0), Handler, bind_and_activate=False)
server.socket = socket.socket(fileno=3)
server.serve_forever()
"#;

fn what_adopted_workers_see_and_write(b: &TestBox) {
    b.write("/srv/app/seen.py", SEEN);
    let config = "command = \"/usr/bin/python3 /srv/app/seen.py\"\nworkers = 1\n\
                  ready = { delay = \"500ms\" }\n";
    app::start(b, config);
    let before = app::all_ready(b, 1);
    kill_supervisor(b, "");
    b.write("/tmp/of-root", "");
    let listed = app::get(b, "/").ok();
    assert!(listed.contains("of-root"), "{listed}");
    assert_eq!(app::all_ready(b, 1), before);
    let pid = format!("_PID={}", before[0]);
    let unit = format!("_SYSTEMD_UNIT={SERVICE}");
    let line = format!("asked {}", before[0]);
    b.wait_for("its line in the journal", LONG, || {
        b.journal(&[&pid, &unit]).contains(&line)
    });
    // Who comes after it sees what it has left.
    b.run(&["systemctl", "reload", SERVICE]).ok();
    let listed = app::get(b, "/").ok();
    let left = format!("was-here-{}", before[0]);
    assert!(listed.contains(&left), "{listed}");
}

/// The worker dies while no supervisor runs, and its pid is given to somebody else, who does not
/// notice.
fn a_pid_that_is_anothers_by_now(b: &TestBox) {
    app::drop_in(b, "[Service]\nNotifyAccess=all\nRestartSec=3s\n");
    app::start(b, &config());
    let before = app::all_ready(b, WORKERS);
    forget(b, "appc.pidfd.w1");
    let pid = before[0];
    // As many processes as it takes until one has the pid (it may take all of them).
    let script = format!(
        "import os, subprocess, time\n\
         wanted = {pid}\n\
         while os.path.exists(f'/proc/{{wanted}}'): time.sleep(0.01)\n\
         open('/proc/sys/kernel/ns_last_pid', 'w').write(str(wanted - 1))\n\
         p = subprocess.Popen(['sleep', '1003'], start_new_session=True)\n\
         print(p.pid)\n\
         p.pid == wanted and time.sleep(60)\n"
    );
    b.write("/tmp/same.py", &script);
    let task = b.spawn(
        "mount -o remount,rw /proc/sys 2>/dev/null; exec python3 -u /tmp/same.py",
        Duration::from_secs(90),
    );
    kill_supervisor(b, &pid.to_string());
    let name = b.sh(&format!("cat /proc/{pid}/comm || true")).ok();
    whole(b, "with its pid taken", WORKERS);
    let now = app::all_ready(b, WORKERS);
    assert_eq!(now[1], before[1]);
    assert_ne!(now[0], pid);
    assert_eq!(name.trim(), "sleep", "the pid was not to be had");
    let still = b.sh(&format!("cat /proc/{pid}/comm")).ok();
    assert_eq!(still.trim(), "sleep", "it was touched");
    b.sh("pkill -f 'sleep 100[3]' || true").ok();
    drop(task);
}
