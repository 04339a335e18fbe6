// SPDX-License-Identifier: MIT OR Apache-2.0
//! The supervisor is killed while a socket of a listener does not listen: it has been shut down,
//! to move what waits in it, and systemd must not find it so.

use std::time::Duration;

use crate::app::{self, LONG, SERVICE};
use crate::fault::{FAULT, prepare, whole};
use crate::harness::{Test, TestBox, scale, test};
use crate::lines::{self, crash, on, queues, waiting};
use crate::load::{Kind, Load};
use crate::service::{SOCKET, clients, hello, pids};

pub const TESTS: &[Test] = &[test!(killed_between_listens)];

const LINES: usize = 4;

/// As in `what_waits_in_a_line_without_a_worker_is_served`.
fn killed_between_listens(b: &TestBox) {
    prepare(b);
    let down = "backoff_min = \"5s\"\nbackoff_max = \"5s\"\n";
    lines::start(b, &(hello(3) + &on("even", LINES) + down));
    for turn in 0..scale(5, 1) {
        crash(b, 1);
        let victim = pids(b)[1].to_string();
        b.run(&["kill", "-STOP", &victim]).ok();
        let mut spec = clients(b).with(Kind::NewConnection, 90);
        spec.limit = Some(90);
        let load = Load::start(spec).expect("a load");
        b.wait_for("the others to be served", LONG, || {
            let waited = waiting(b).iter().sum::<u64>();
            waited > 0 && load.snapshot().total().ok + waited == 90
        });
        b.write(FAULT, "between-listens");
        b.run(&["kill", "-KILL", &victim]).ok();
        b.wait_for("a kill", LONG, || !b.exists(FAULT));
        load.wait_for(90, Duration::from_secs(20))
            .expect("answers for those who waited");
        load.stop().assert_lossless(90);
        whole(b, &format!("turn {turn}"), 3);
        assert_eq!(queues(b), [0; LINES]);
        assert_eq!(waiting(b).len(), LINES);
        assert_eq!(b.show(SOCKET, "Result"), "success");
        assert_eq!(b.show(SOCKET, "SubState"), "running");
        app::all_slots_answer(b, 3);
    }
    let told = b.journal(&["-u", SERVICE, "-u", SOCKET]);
    assert!(!told.contains("POLLHUP"), "{told}");
}
