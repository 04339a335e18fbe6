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
             drain_timeout = \"5min\"",
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

#[test]
fn changes_that_need_new_units() {
    let tcp = "listen = [\"127.0.0.1:3000\"]";
    let at = [("3000", "127.0.0.1:3000", 1)];
    let even = format!("{tcp}\nbalance = \"even\"\nmax_workers = 4");
    for (before, sockets, after, expected) in [
        (
            tcp,
            &at[..],
            format!("{tcp}\nbatch = 2\nworkers = 9\ndrain_timeout = \"1h\""),
            &[][..],
        ),
        (
            tcp,
            &at,
            tcp.replace("3000", "4000"),
            &["listen: 127.0.0.1:3000 -> 127.0.0.1:4000"],
        ),
        (
            tcp,
            &at,
            "listen = { \"3000\" = \"127.0.0.1:3000\", admin = \"unix:/run/a\" }".into(),
            &["listen: nothing -> unix:/run/a (admin)"],
        ),
        (
            tcp,
            &at,
            String::new(),
            &["listen: 127.0.0.1:3000 -> the socket unit's"],
        ),
        ("", &at, String::new(), &[]),
        (
            "",
            &at,
            tcp.replace("3000", "1"),
            &["listen: 127.0.0.1:3000 -> 127.0.0.1:1"],
        ),
        (
            "listen = \"3000\"",
            &[("3000", "[::]:3000", 1)],
            "listen = [\"3000\"]".into(),
            &[],
        ),
        (
            tcp,
            &at,
            even.clone(),
            &["balance: 1 -> 4 sockets at 127.0.0.1:3000"],
        ),
        (
            &even,
            &[("3000", "127.0.0.1:3000", 4)],
            even.replace('4', "8"),
            &["max_workers: 4 -> 8 sockets at 127.0.0.1:3000"],
        ),
        // The number of processors is no reason.
        (
            &even,
            &[("3000", "127.0.0.1:3000", 999)],
            even.replace("\nmax_workers = 4", ""),
            &[],
        ),
        (
            tcp,
            &at,
            format!("{tcp}\nuser = \"daemon\""),
            &["user: root -> daemon"],
        ),
        (tcp, &at, format!("{tcp}\nuser = \"root\"\ngroup = 0"), &[]),
        (
            tcp,
            &at,
            format!("{tcp}\nuser = \"root\"\ngroup = \"daemon\""),
            &["group: root -> daemon"],
        ),
        (
            &format!("{tcp}\nuser = \"root\""),
            &at,
            tcp.into(),
            &["user: root -> the unit's"],
        ),
        (
            tcp,
            &at,
            format!("{tcp}\nsandbox = \"strict\""),
            &["sandbox: default -> strict"],
        ),
        (
            "listen = [\"unix:/run/a\"]",
            &[("a", "unix:/run/a", 1)],
            "listen = [\"unix:/run/a\"]\nsocket_mode = \"0666\"".into(),
            &["socket_mode: the unit's -> 0666"],
        ),
        (
            "slot_listen = \"127.0.0.1:31{slot:02}\"\nmax_workers = 2",
            &[
                ("http", "[::]:80", 1),
                ("slot", "127.0.0.1:3100", 1),
                ("slot", "127.0.0.1:3101", 1),
            ],
            "slot_listen = \"127.0.0.1:31{slot:02}\"\nmax_workers = 3".into(),
            &["listen: 127.0.0.1:3100 and 1 more (slots) -> 127.0.0.1:3100 and 2 more (slots)"],
        ),
    ] {
        let before = before.replace("listen = \"3000\"", "listen = [\"3000\"]");
        assert_eq!(
            between(&before, sockets, &after),
            expected,
            "{before} -> {after}"
        );
    }
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
