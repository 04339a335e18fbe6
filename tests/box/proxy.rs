// SPDX-License-Identifier: MIT OR Apache-2.0
//! A proxy in front that chooses the slot: what docs/behind-a-proxy.md says,
//! word for word.

use crate::harness::{Test, TestBox, scale, test};
use crate::lines::{Map, Town, by_slot, moved};
use crate::load::{Kind, Load};
use crate::service::{LONG, clients, long, status_of};

pub const TESTS: &[Test] = &[
    test!(nginx_keeps_clients_with_their_slots),
    test!(nginx_over_socket_files),
    test!(haproxy_keeps_clients_with_their_slots),
];

const PAGE: &str = include_str!("../../docs/behind-a-proxy.md");
const SLOTS: usize = 4;

/// The `number`th listing in this language.
fn listing(language: &str, number: usize) -> String {
    let begin = format!("\n```{language}\n");
    let listing = PAGE.split(&begin).nth(1 + number).expect("a listing");
    let (text, _) = listing.split_once("```").expect("its end");
    text.to_owned()
}

/// The page's app, with the built-in worker as its program.
fn configuration() -> String {
    let text = listing("toml", 0);
    let ours = |line: &str| !line.starts_with("command") && !line.starts_with("directory");
    let mut lines: Vec<_> = text.lines().filter(|line| ours(line)).collect();
    lines.push("command = [\"/usr/bin/app-cluster\", \"hello\"]\n");
    lines.join("\n")
}

#[track_caller]
fn start(b: &TestBox, config: &str) {
    b.write("/etc/app-cluster/shop.toml", config);
    long(
        b,
        "systemctl daemon-reload; systemctl start app-cluster@shop",
    )
    .ok();
    assert_eq!(status_of(b, "shop")["workers"]["ready"], SLOTS);
}

#[track_caller]
fn nginx(b: &TestBox, snippet: &str) {
    b.write("/etc/nginx/conf.d/shop.conf", snippet);
    b.sh("rm -f /etc/nginx/sites-enabled/default; nginx -t")
        .ok();
    b.run(&["systemctl", "start", "nginx"]).ok();
}

fn nginx_keeps_clients_with_their_slots(b: &TestBox) {
    start(b, &configuration());
    nginx(b, &listing("nginx", 0));
    clients_keep_their_slots(b);
}

fn nginx_over_socket_files(b: &TestBox) {
    let mut config = configuration();
    let ports = "slot_listen = \"127.0.0.1:31{slot:02}\"\n";
    assert!(config.contains(ports), "{config}");
    config = config.replace(ports, &listing("toml", 1));
    start(b, &config);
    let mut snippet = listing("nginx", 0);
    for slot in 0..SLOTS {
        let file = format!("server unix:/run/app-cluster/shop-{slot}.sock max_fails=0;");
        snippet = snippet.replace(&format!("server 127.0.0.1:310{slot} max_fails=0;"), &file);
        if slot == 0 {
            assert!(PAGE.contains(&file));
        }
    }
    nginx(b, &snippet);
    assert!(!snippet.contains(":310"), "{snippet}");
    clients_keep_their_slots(b);
}

fn haproxy_keeps_clients_with_their_slots(b: &TestBox) {
    start(b, &configuration());
    b.write("/tmp/shop.cfg", &listing("haproxy", 0));
    b.sh("cat /tmp/shop.cfg >>/etc/haproxy/haproxy.cfg; haproxy -c -f /etc/haproxy/haproxy.cfg")
        .ok();
    b.run(&["systemctl", "start", "haproxy"]).ok();
    clients_keep_their_slots(b);
}

/// Over reloads under load, a crash and a restart, seen through the proxy.
fn clients_keep_their_slots(b: &TestBox) {
    let town = Town::new(b, 200, 80);
    let map = town.map();
    let counts = by_slot(&map);
    assert_eq!(counts.len(), SLOTS, "{counts:?}");
    assert!(counts.values().all(|n| *n >= 40), "{counts:?}");
    nobody_moved(&town, &map, "nothing");
    let mut spec = clients(b);
    spec.target = crate::load::Target::Tcp((std::net::Ipv4Addr::LOCALHOST, 80).into());
    let load = Load::start(spec.with(Kind::NewConnection, 2).with(Kind::KeepAlive, 2));
    let load = load.expect("a load");
    for _ in 0..scale(5, 1) {
        load.wait_for_more(100, LONG).expect("requests");
        long(b, "systemctl reload app-cluster@shop").ok();
        nobody_moved(&town, &map, "a reload");
    }
    load.wait_for_more(100, LONG).expect("requests");
    load.stop().assert_lossless(100);

    let before = status_of(b, "shop")["slots"][1]["pid"].clone();
    b.run(&["kill", "-KILL", &before.to_string()]).ok();
    // Those of slot 1 may have to wait, and do.
    nobody_moved(&town, &map, "a crash");
    assert_ne!(status_of(b, "shop")["slots"][1]["pid"], before);
    long(b, "systemctl restart app-cluster@shop").ok();
    nobody_moved(&town, &map, "a restart");
}

#[track_caller]
fn nobody_moved(town: &Town, before: &Map, after: &str) {
    let moved = moved(before, &town.map());
    assert!(moved.is_empty(), "moved by {after}: {moved:?}");
}
