// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sticky`: a client keeps its slot.

use crate::harness::{Test, TestBox, scale, test};
use crate::lines::{self, Map, Town, by_slot, crash, moved, on, waiting};
use crate::service::{
    CONFIG, LONG, SERVICE, all_run_generation, hello, long, pids, reload, status,
};

pub const TESTS: &[Test] = &[
    test!(clients_keep_their_slots),
    test!(a_slot_more_takes_its_part_and_no_more),
    test!(clients_come_back_after_a_shutdown_of_their_line),
    test!(a_slot_that_is_down_lends_its_clients),
    test!(networks_of_ipv6_are_one_client),
    test!(a_client_has_one_slot_at_all_listeners),
    test!(a_reload_changes_the_balance),
    test!(a_proxy_in_front_is_noticed_once),
];

const SLOTS: usize = 4;
const PORT: u16 = 3000;

/// More lines than slots.
fn config(workers: usize) -> String {
    hello(workers) + &on("sticky", 6)
}

fn nobody_moved(town: &Town, before: &Map, after: &str) {
    let moved = moved(before, &town.map());
    assert!(moved.is_empty(), "moved by {after}: {moved:?}");
}

/// The service is another process than `before` and complete.
fn ready_again(b: &TestBox, before: &str) {
    b.wait_for("the service to be ready again", LONG, || {
        b.show(SERVICE, "MainPID") != before && b.show(SERVICE, "ActiveState") == "active"
    });
    b.wait_for("all slots to be ready", LONG, || {
        status(b)["workers"]["ready"] == SLOTS
    });
}

fn clients_keep_their_slots(b: &TestBox) {
    lines::start(b, &config(SLOTS));
    let town = Town::new(b, 400, PORT);
    let map = town.map();
    // Four times a fourth, as far as chance does it: 200 ± 4 × 12.
    for (slot, clients) in by_slot(&map) {
        assert!((150..=250).contains(&clients), "slot {slot}: {clients}");
    }
    assert_eq!(by_slot(&map).len(), SLOTS);
    nobody_moved(&town, &map, "nothing");

    for n in 1..=scale(3, 2) {
        reload(b).ok();
        all_run_generation(b, n + 1, SLOTS);
        nobody_moved(&town, &map, "a reload");
    }
    for slot in 0..scale(SLOTS, 1) {
        crash(b, slot);
        nobody_moved(&town, &map, "a crash");
    }
    let supervisor = b.show(SERVICE, "MainPID");
    long(b, &format!("systemctl restart {SERVICE}")).ok();
    ready_again(b, &supervisor);
    nobody_moved(&town, &map, "a restart");

    let supervisor = b.show(SERVICE, "MainPID");
    b.run(&["kill", "-KILL", &supervisor]).ok();
    ready_again(b, &supervisor);
    nobody_moved(&town, &map, "a crash of the supervisor");

    b.reboot();
    long(b, &format!("systemctl start {SERVICE}")).ok();
    let town = Town::new(b, 400, PORT);
    nobody_moved(&town, &map, "a reboot");
}

/// While a slot is away its clients are spread over the others, who keep theirs.
fn a_slot_more_takes_its_part_and_no_more(b: &TestBox) {
    lines::start(b, &config(SLOTS));
    let town = Town::new(b, 400, PORT);
    let map = town.map();
    let scaled = |workers: usize| {
        long(b, &format!("app-cluster scale app-cluster {workers}")).ok();
        b.wait_for("the workers", LONG, || {
            let status = status(b);
            let slots = status["slots"].as_array().map(Vec::len);
            status["workers"]["ready"] == workers && slots == Some(workers)
        });
        town.map()
    };
    let more = scaled(SLOTS + 1);
    let gone = moved(&map, &more);
    let share = gone.len() as f64 / map.len() as f64;
    assert!((0.1..=0.3).contains(&share), "{share} moved: {gone:?}");
    let elsewhere = |(_, _, now): &&(_, u64, u64)| *now != SLOTS as u64;
    assert_eq!(gone.iter().filter(elsewhere).count(), 0, "{gone:?}");
    let moved_for_good = moved(&map, &scaled(SLOTS));
    assert!(moved_for_good.is_empty(), "{moved_for_good:?}");

    let fewer = scaled(SLOTS - 1);
    let kept = |(_, before, _): &&(_, u64, u64)| *before != SLOTS as u64 - 1;
    assert_eq!(moved(&map, &fewer).iter().filter(kept).count(), 0);
    assert_eq!(moved(&map, &scaled(SLOTS)).len(), 0);

    // The number may as well come from the configuration.
    b.run(&["app-cluster", "scale", "app-cluster", "--reset"]);
    b.write(CONFIG, &config(SLOTS + 1));
    reload(b).ok();
    assert_eq!(moved(&more, &town.map()).len(), 0);
    assert_eq!(pids(b).len(), SLOTS + 1);
}

fn clients_come_back_after_a_shutdown_of_their_line(b: &TestBox) {
    const LINES: usize = 6;
    b.write(crate::app::WORKER_FILE, crate::app::WORKER);
    lines::start(b, &(crate::app::python(SLOTS, "") + &on("sticky", LINES)));
    let town = Town::new(b, 200, PORT);
    let map = town.map();
    for turn in 0..scale(10, 3) {
        crate::app::get(b, "/shutdown").ok();
        b.wait_until("the line to listen again", || waiting(b).len() == LINES);
        // Asked after it has looked at its sockets.
        assert_eq!(lines::queues(b), [0; LINES], "turn {turn}");
        nobody_moved(&town, &map, "a shutdown");
    }
}

/// A client's address changes within its network of 64 bits.
fn networks_of_ipv6_are_one_client(b: &TestBox) {
    lines::start(b, &config(SLOTS));
    let town = Town::new(b, 40, PORT);
    let map = town.map();
    let neighbours = |step: u128| {
        let v6 = map.keys().filter_map(|address| match address {
            std::net::IpAddr::V6(v6) => Some(*v6),
            std::net::IpAddr::V4(_) => None,
        });
        let addresses = v6.map(|v6| (v6.to_bits() ^ step).into());
        addresses.map(std::net::IpAddr::V6).collect::<Vec<_>>()
    };
    let mut spec = crate::service::clients(b);
    spec.target = crate::load::Target::Tcp((std::net::Ipv6Addr::LOCALHOST, PORT).into());
    let crowd = crate::load::crowd::Crowd::new(spec);
    for step in [0x1, 0xffff_0000, 1 << 63] {
        let near = crowd.ask(&neighbours(step)).expect("answers");
        for (address, slot) in near {
            let std::net::IpAddr::V6(v6) = address else {
                unreachable!("all are IPv6")
            };
            let known: std::net::IpAddr = std::net::Ipv6Addr::from(v6.to_bits() ^ step).into();
            assert_eq!(slot, map[&known], "{address} and {known}");
        }
    }
}

fn a_slot_that_is_down_lends_its_clients(b: &TestBox) {
    let down = "backoff_min = \"1h\"\nbackoff_max = \"1h\"\n";
    lines::start(b, &(config(SLOTS) + down));
    let town = Town::new(b, 200, PORT);
    let map = town.map();
    crash(b, 2);
    b.run(&["kill", "-KILL", &pids(b)[2].to_string()]).ok();
    b.wait_until("the slot to be down", || {
        status(b)["slots"][2]["state"] == "backoff"
    });
    let meanwhile = town.map();
    assert_eq!(by_slot(&meanwhile).keys().collect::<Vec<_>>(), [&0, &1, &3]);
    let others = |(_, before, _): &&(_, u64, u64)| *before != 2;
    assert_eq!(moved(&map, &meanwhile).iter().filter(others).count(), 0);
    // Which does not wait.
    reload(b).ok();
    all_run_generation(b, 2, SLOTS);
    nobody_moved(&town, &map, "a slot that was down");
}

fn a_client_has_one_slot_at_all_listeners(b: &TestBox) {
    let listen = "listen = { http = \"[::]:3000\", admin = \"[::]:3001\" }\n";
    let sockets = on("sticky", 6).replace("listen = [\"3000\"]\n", listen);
    lines::start(b, &(hello(SLOTS) + &sockets));
    assert_eq!(status(b)["listeners"].as_array().map(Vec::len), Some(2));
    let map = Town::new(b, 100, 3000).map();
    nobody_moved(&Town::new(b, 100, 3001), &map, "going to another port");
}

/// With the same lines it is a matter of the program.
fn a_reload_changes_the_balance(b: &TestBox) {
    let with = |balance| hello(SLOTS) + &on(balance, 6);
    lines::start(b, &with("even"));
    let town = Town::new(b, 100, PORT);
    assert_ne!(moved(&town.map(), &town.map()), []);
    b.write(CONFIG, &with("sticky"));
    reload(b).ok();
    let map = town.map();
    nobody_moved(&town, &map, "nothing");
    b.write(CONFIG, &with("even"));
    reload(b).ok();
    assert_ne!(moved(&map, &town.map()), []);
    b.write(CONFIG, &with("sticky"));
    reload(b).ok();
    nobody_moved(&town, &map, "even for a while");
}

fn a_proxy_in_front_is_noticed_once(b: &TestBox) {
    lines::start(b, &config(SLOTS));
    let warnings = || {
        let journal = b.journal(&["-u", SERVICE, "-p", "warning"]);
        journal
            .lines()
            .filter(|l| l.contains("slot_listen"))
            .count()
    };
    let from = |address: [u8; 4]| {
        let mut spec = crate::service::clients(b);
        spec.source = Some(address.into());
        crate::load::crowd::Crowd::new(spec)
    };
    let mut held = Vec::new();
    for turn in 0..3 {
        let connections = from([127, 0, 9, 9]).hold(60, std::time::Duration::ZERO);
        held.push(connections.expect("answers"));
        if turn == 0 {
            b.wait_until("a warning", || warnings() > 0);
        }
    }
    assert_eq!(warnings(), 1);
    let text = b.journal(&["-u", SERVICE, "-p", "warning"]);
    assert!(text.contains("come from 127.0.9.9"), "{text}");
    let page = text.split_whitespace().find(|w| w.starts_with("/usr/"));
    assert!(b.exists(page.expect("a page to read")), "{text}");
}
