// SPDX-License-Identifier: MIT OR Apache-2.0

use super::changes::{Change, Present, Real, View, changes, remedy};
use super::*;

fn config(text: &str) -> Config {
    let text = format!("command = [\"/bin/true\"]\n{text}");
    Config::parse(&text, "web.toml").unwrap_or_else(|e| panic!("{e}"))
}

fn rendered(name: &str, text: &str) -> String {
    let units = match render(name, &config(text)) {
        Ok(units) => units,
        Err(error) => return error.to_string(),
    };
    let mut shown = String::new();
    for (path, contents) in &units.files {
        let lines: Vec<&str> = contents.lines().skip(2).collect();
        let _ = write!(shown, "--- {path}\n{}\n", lines.join("\n"));
    }
    for (path, target) in &units.links {
        let _ = writeln!(shown, "{path} -> {target}");
    }
    shown
}

#[test]
fn units() {
    let all = [
        rendered("app-cluster", ""),
        rendered(
            "shop",
            "listen = [\"127.0.0.1:3000\"]\nautostart = \"connection\"",
        ),
        rendered(
            "shop",
            "listen = { http = \"80\", admin = \"unix:/run/with space 100%/a b.sock\" }\n\
             slot_listen = \"127.0.0.1:31{slot:02}\"\nmax_workers = 2\nbalance = \"sticky\"\n\
             user = \"shop\"\nsocket_group = \"www-data\"\nsocket_mode = \"0666\"\n\
             drain_timeout = \"5min\"\npre_stop_delay = \"20s\"",
        ),
        rendered(
            "app-cluster",
            "listen = [\"[::1]:80\", \"[fe80::1%2]:81\"]\nsandbox = \"strict\"\n\
             directory = \"/home/shop/current\"\nautostart = \"never\"",
        ),
    ];
    insta::assert_snapshot!(all.join("=====\n"));
}

#[test]
fn what_no_unit_can_have() {
    for (listen, part) in [
        ("\"127.0.0.1:0\"", "needs a port"),
        ("\"a=unix:/run/x\\nExecStartPost=/bin/evil\"", "cannot"),
        ("\"unix:/run/x\\\\\"", "cannot"),
        ("\"unix:/run/x \"", "cannot"),
    ] {
        let text = listen.replace("a=", "");
        let table = format!("listen = {{ a = {text} }}");
        let error = render("shop", &config(&table)).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(part), "{listen}: {error}");
    }
    let long = format!("listen = {{ a = \"1\", {} = \"2\" }}", "x".repeat(240));
    let error = render("shop", &config(&long)).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("too long"), "{error}");
    // The longest names that are taken make files that can be.
    let long = format!("listen = {{ a = \"1\", {} = \"2\" }}", "x".repeat(169));
    let units = render(&"n".repeat(64), &config(&long)).unwrap();
    let names = units.files.keys().map(|path| path.split('/').next());
    assert_eq!(names.flatten().map(str::len).max(), Some(255));
}

fn now(text: &str) -> (View, Present) {
    let view = View::of("shop", &render("shop", &config(text)).unwrap());
    let present = Present {
        view: view.clone(),
        user: "root".to_owned(),
        group: "root".to_owned(),
        sandbox: Some("default".to_owned()),
        ..Present::default()
    };
    (view, present)
}

fn real(sockets: &[(&str, &str, u32)]) -> Vec<Real> {
    let own = |(name, address, lines): &(&str, &str, u32)| {
        (name.to_string(), address.to_string(), *lines)
    };
    sockets.iter().map(own).collect()
}

/// What changes between two configurations, when `sockets` are those of the first.
fn between(before: &str, sockets: &[(&str, &str, u32)], after: &str) -> Vec<String> {
    let (_, present) = now(before);
    let (wanted, _) = now(after);
    let found = changes("shop", &config(after), &wanted, &real(sockets), &present);
    found.into_iter().map(|change| change.text).collect()
}

#[track_caller]
fn differ(before: &str, sockets: &[(&str, &str, u32)], after: &str, expected: &[&str]) {
    let found = between(before, sockets, after);
    assert_eq!(found, expected, "{before} -> {after}");
}

const TCP: &str = "listen = [\"127.0.0.1:3000\"]";
const AT: [(&str, &str, u32); 1] = [("3000", "127.0.0.1:3000", 1)];

#[test]
fn changes_of_sockets() {
    let to = |address: &str| format!("listen = [{address:?}]");
    let moved = "listen: 127.0.0.1:3000 -> 127.0.0.1:4000";
    differ(TCP, &AT, &to("127.0.0.1:4000"), &[moved]);
    let two = "listen = { \"3000\" = \"127.0.0.1:3000\", admin = \"unix:/run/a\" }";
    differ(TCP, &AT, two, &["listen: nothing -> unix:/run/a (admin)"]);
    let given_up = "listen: 127.0.0.1:3000 -> the socket unit's";
    differ(TCP, &AT, "", &[given_up]);
    // Where the unit says where, it is not the configuration's business.
    differ("", &AT, "", &[]);
    differ("", &AT, &to("127.0.0.1:4000"), &[moved]);
    differ(&to("3000"), &[("3000", "[::]:3000", 1)], &to("3000"), &[]);
    differ(
        &to("3000"),
        &[("3000", "[::]:3000", 1)],
        &to("[::]:3000"),
        &[],
    );

    let even = format!("{TCP}\nbalance = \"even\"\nmax_workers = 4");
    let lines = "balance: 1 -> 4 sockets at 127.0.0.1:3000";
    differ(TCP, &AT, &even, &[lines]);
    let four = [("3000", "127.0.0.1:3000", 4)];
    let lines = "max_workers: 4 -> 8 sockets at 127.0.0.1:3000";
    differ(&even, &four, &even.replace('4', "8"), &[lines]);
    // The number of processors is no reason.
    let many = [("3000", "127.0.0.1:3000", 999)];
    differ(&even, &many, &even.replace("\nmax_workers = 4", ""), &[]);

    let slots = "slot_listen = \"127.0.0.1:31{slot:02}\"\nmax_workers = 2";
    let (unit, zero, one) = (
        ("http", "[::]:80", 1),
        ("slot", "127.0.0.1:3100", 1),
        ("slot", "127.0.0.1:3101", 1),
    );
    differ(slots, &[unit, zero, one], slots, &[]);
    let more = "listen: 127.0.0.1:3100 and 1 more (slots) -> 127.0.0.1:3100 and 2 more (slots)";
    differ(
        slots,
        &[unit, zero, one],
        &slots.replace("= 2", "= 3"),
        &[more],
    );
}

#[test]
fn changes_of_settings() {
    let with = |more: &str| format!("{TCP}\n{more}");
    let mere = "batch = 2\nworkers = 9\ndrain_timeout = \"1h\"\nautostart = \"never\"";
    differ(TCP, &AT, &with(mere), &[]);
    differ(
        TCP,
        &AT,
        &with("user = \"daemon\""),
        &["user: root -> daemon"],
    );
    differ(TCP, &AT, &with("user = \"root\"\ngroup = 0"), &[]);
    let group = "user = \"root\"\ngroup = \"daemon\"";
    differ(TCP, &AT, &with(group), &["group: root -> daemon"]);
    let gone = "user: root -> the unit's";
    differ(&with("user = \"root\""), &AT, TCP, &[gone]);
    let strict = "sandbox: default -> strict";
    differ(TCP, &AT, &with("sandbox = \"strict\""), &[strict]);
    let file = "listen = [\"unix:/run/a\"]";
    let mode = format!("{file}\nsocket_mode = \"0666\"");
    let is = [("a", "unix:/run/a", 1)];
    differ(file, &is, &mode, &["socket_mode: the unit's -> 0666"]);
    // Of no file at all.
    differ(TCP, &AT, &with("socket_mode = \"0666\""), &[]);
}

#[test]
fn a_later_drop_in_is_the_operators_word() {
    let (wanted, _) = now("listen = [\"127.0.0.1:3000\"]\nuser = \"daemon\"");
    let (_, mut present) = now("");
    let keys = ["ListenStream".to_owned(), "User".to_owned()];
    present.overridden.extend(keys);
    let config = config("listen = [\"127.0.0.1:3000\"]\nuser = \"daemon\"");
    let sockets = real(&[("http", "127.0.0.1:9", 1)]);
    let found = changes("shop", &config, &wanted, &sockets, &present);
    assert_eq!(found, []);
}

#[test]
fn remedies() {
    let before = "listen = { http = \"127.0.0.1:3000\", admin = \"unix:/run/a\" }";
    let (_, present) = now(before);
    let after = config("listen = { http = \"127.0.0.1:4000\" }\nuser = \"daemon\"");
    let wanted = View::of("shop", &render("shop", &after).unwrap());
    let sockets = real(&[("http", "127.0.0.1:3000", 1), ("admin", "unix:/run/a", 1)]);
    let found = changes("shop", &after, &wanted, &sockets, &present);
    let all = remedy("shop", &after, &wanted, &present, &found);
    let some: Vec<Change> = found.into_iter().filter(|c| !c.sockets).collect();
    let less = remedy("shop", &after, &wanted, &present, &some);
    insta::assert_snapshot!(format!("{all}\n\n{less}"));
}
