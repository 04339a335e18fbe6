// SPDX-License-Identifier: MIT OR Apache-2.0
//! Garbage for every socket that we read from, and workers that break what
//! they share.

use std::time::Duration;

use crate::app::{self, SERVICE};
use crate::harness::{Test, TestBox, scale, test};
use crate::load::Kind;

pub const TESTS: &[Test] = &[
    test!(garbage_for_the_notify_sockets),
    test!(garbage_for_the_control_socket),
    test!(idle_clients_of_the_control_socket),
    test!(garbage_in_the_environment),
    test!(a_worker_shuts_the_socket_down),
];

/// Descriptors of the supervisor, which must not grow.
fn descriptors(b: &TestBox) -> usize {
    let pid = app::supervisor(b);
    let count = b.sh(&format!("ls /proc/{pid}/fd | wc -l")).ok();
    count.parse().expect("a number")
}

fn garbage_for_the_notify_sockets(b: &TestBox) {
    app::start(b, &app::python(3, ""));
    b.write("/srv/app/attack.py", include_str!("workers/attack.py"));
    let before = app::all_ready(b, 3);
    let supervisor = app::supervisor(b);
    let open = descriptors(b);
    for seed in 1..=scale(40, 4) {
        b.write("/srv/app/seed", &format!("{seed} 300"));
        app::get(b, "/run/srv/app/attack.py").ok();
    }
    // Nobody else can even name a socket.
    b.write("/srv/app/nobody.py", NOBODY);
    let nobody = "setpriv --reuid=nobody --regid=nogroup --clear-groups python3 /srv/app/nobody.py";
    let nobody = b.sh(nobody).fails();
    assert!(nobody.stderr.contains("PermissionError"), "{nobody}");

    let status = app::status(b);
    let count = |name: &str| status["counters"][name].as_u64().expect("a number");
    assert!(count("notify_garbage") > 100, "{status}");
    assert!(count("notify_refused") > 100, "{status}");
    assert!(!status.to_string().contains("stolen"), "{status}");
    let journal = b.journal(&["-u", SERVICE]);
    assert!(
        journal.contains("refused a notification for w"),
        "{journal}"
    );
    assert!(
        journal.contains("on notify sockets were not understood"),
        "{journal}"
    );
    assert!(
        journal.lines().count() < 500,
        "each line of garbage is logged"
    );
    assert_eq!(app::pids(b), before, "believed what others say");
    // That of our own question is closed in a moment.
    b.wait_for(
        "no descriptor that was sent along is kept",
        app::LONG,
        || descriptors(b) == open,
    );
    app::all_slots_answer(b, 3);
    app::unharmed(b, &supervisor);
    b.run(&["systemctl", "reload", SERVICE]).ok();
}

const NOBODY: &str = "
import socket
line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
line.sendto(b'READY=1', '/run/app-cluster/app-cluster/notify/w1')
";

fn garbage_for_the_control_socket(b: &TestBox) {
    app::start(b, &app::hello(2));
    let before = app::all_ready(b, 2);
    let supervisor = app::supervisor(b);
    let open = descriptors(b);
    b.write("/srv/app/control.py", include_str!("workers/control.py"));
    let load = app::load(b, &[Kind::NewConnection]);
    for seed in 1..=scale(20, 2) {
        let command = format!("python3 /srv/app/control.py {seed} 200");
        let refused = b.sh(&command).ok().parse::<u32>().expect("a number");
        assert!(refused > 30, "only {refused} complaints for seed {seed}");
    }
    load.stop().assert_lossless(1);
    let now = app::all_ready(b, 2);
    // `Reload` without a mistake in it may have been among the garbage.
    assert_eq!(now.len(), before.len());
    b.wait_until("descriptors as before", || descriptors(b) == open);
    app::unharmed(b, &supervisor);
    b.run(&["systemctl", "reload", SERVICE]).ok();
}

/// Whoever may connect may leave connections open; root is heard all the same.
fn idle_clients_of_the_control_socket(b: &TestBox) {
    app::start(b, &app::hello(2));
    let supervisor = app::supervisor(b);
    let script = "
import socket, time
idle = []
for number in range(100):
    line = socket.socket(socket.AF_UNIX)
    line.connect('/run/app-cluster/app-cluster/control')
    if number % 2:
        try:
            line.sendall(b'{\"method\":')
        except OSError:
            pass
    idle.append(line)
print(sum(b'too many connections' in line.recv(1000) for line in idle[32:]), flush=True)
time.sleep(600)";
    b.write("/srv/app/idle.py", script);
    let as_worker = "exec setpriv --reuid=app-cluster --regid=app-cluster --clear-groups";
    let command = format!("{as_worker} python3 /srv/app/idle.py");
    let idle = b.spawn(&command, Duration::from_secs(240));
    b.wait_for("100 clients", app::LONG, || idle.stdout() == "68\n");
    let refused = b.sh(&format!("{as_worker} app-cluster status")).fails();
    assert!(refused.stderr.contains("too many connections"), "{refused}");
    assert_eq!(app::status(b)["workers"]["ready"], 2);
    b.run(&["systemctl", "reload", SERVICE]).ok();
    app::all_slots_answer(b, 2);
    idle.stop();
    b.wait_until("room again", || {
        b.sh(&format!("{as_worker} app-cluster status")).code == 0
    });
    app::unharmed(b, &supervisor);
}

/// By a drop-in, as it may happen. Either it is refused, with the variable's
/// name in the message, or the service runs; and the next start is well.
fn garbage_in_the_environment(b: &TestBox) {
    for (assignments, refused) in [
        ("LISTEN_FDS=many", Some("LISTEN_FDS=\"many\"")),
        ("LISTEN_FDS=-1", Some("LISTEN_FDS=\"-1\"")),
        ("LISTEN_FDS=1000000", Some("LISTEN_FDS=\"1000000\"")),
        ("LISTEN_FDS=3", Some("descriptor 4 in LISTEN_FDS")),
        ("LISTEN_PID=1", Some("LISTEN_PID=\"1\"")),
        ("LISTEN_PID=x", Some("LISTEN_PID=\"x\"")),
        ("LISTEN_FDNAMES=", None),
        ("LISTEN_FDNAMES=::::a:b:c", None),
        ("WATCHDOG_USEC=often", None),
        ("WATCHDOG_USEC=1", None),
        ("WATCHDOG_PID=-7", None),
    ] {
        // A watchdog that is not served must not end the test.
        let text = format!("[Service]\nWatchdogSec=0\nRestart=no\nEnvironment={assignments}\n");
        app::drop_in(b, &text);
        let out = b.run(&["systemctl", "start", SERVICE]);
        let run = b.show(SERVICE, "InvocationID");
        let journal = b.journal(&[&format!("_SYSTEMD_INVOCATION_ID={run}")]);
        assert!(!journal.contains("panicked"), "{assignments}\n{journal}");
        match refused {
            Some(text) => {
                assert_ne!(out.code, 0, "{assignments}\n{journal}");
                assert!(journal.contains(text), "{assignments}\n{journal}");
            }
            None => {
                assert_eq!(out.code, 0, "{assignments}\n{journal}");
                app::get(b, "/").ok();
                let said = assignments.split('=').next().expect("a name");
                let odd = said.starts_with("WATCHDOG");
                assert_eq!(journal.contains(said), odd, "{assignments}\n{journal}");
            }
        }
        b.sh("systemctl stop app-cluster.service; systemctl reset-failed")
            .ok();
    }
    b.sh("rm -r /etc/systemd/system/app-cluster.service.d; systemctl daemon-reload")
        .ok();
    b.run(&["systemctl", "start", SERVICE]).ok();
    app::get(b, "/").ok();
}

fn a_worker_shuts_the_socket_down(b: &TestBox) {
    app::start(b, &app::python(3, ""));
    let before = app::all_ready(b, 3);
    let supervisor = app::supervisor(b);
    for round in 1..=scale(20, 3) {
        let load = app::load(b, &[Kind::NewConnection]);
        load.wait_for_more(20, app::LONG).expect("answers");
        // Its own connection is accepted already and lives on.
        app::get(b, "/shutdown").ok();
        b.wait_until("the supervisor to say so", || {
            let journal = b.journal(&["-u", SERVICE]);
            journal
                .matches("was shut down, by a worker: listening again")
                .count()
                >= round
        });
        load.wait_for_more(20, app::LONG).expect("answers");
        // At most what was queued, or came between the two calls.
        let total = load.stop().total();
        assert!(total.failed <= 4, "{total:?}");
        app::all_slots_answer(b, 3);
    }
    let load = app::load(b, &[Kind::NewConnection]);
    load.wait_for_more(200, app::LONG).expect("answers");
    load.stop().assert_lossless(200);
    assert_eq!(app::all_ready(b, 3), before);
    app::unharmed(b, &supervisor);
}
