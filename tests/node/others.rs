// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runtimes that are not Node.

use crate::Row;
use crate::app::{App, assert_no_crash, eval_in, program, request, script};
use crate::dev::{WITHIN, scale, wait};
use crate::load::crowd::Crowd;
use crate::load::{Kind, Load, LoadSpec};
use crate::messages::Follow;
use crate::node_tools::{Node, packages};
use serde_json::json;
use std::time::Duration;

pub const ROWS: &[Row] = &[
    ("deno_serves_in_round_robin", deno),
    ("deno_gets_messages_between_connections", deno_messages),
    ("deno_gets_no_shared_handle", deno_shared),
    ("deno_listens_where_the_app_does", deno_elsewhere),
    ("bun_is_refused", bun),
];

pub fn deno_app(node: &Node) -> Result<App, String> {
    let package = "@deno/linux-x64-glibc";
    let directory = packages("deno", &[&format!("{package}@2.9.6")])?;
    let deno = directory.join("node_modules").join(package).join("deno");
    let words = [
        deno.to_str().expect("UTF-8"),
        "run",
        "-A",
        "--no-prompt",
        &script("kit.cjs"),
    ];
    Ok(App::command(node, &words).env("DENO_NO_UPDATE_CHECK", "1"))
}

fn deno(node: &Node) -> Result<(), String> {
    let app = deno_app(node)?;
    let dev = app.start();
    assert_eq!(dev.status().listeners[0].balance, "round-robin");
    let held = Crowd::new(LoadSpec::tcp(dev.address())).hold(20, Duration::ZERO);
    let counts = held.expect("connections").by_slot();
    // In turn, but for one that has not answered for its last when the next one comes.
    let fair = counts.len() == 2 && counts.values().all(|count| (9..=11).contains(count));
    assert!(fair, "{counts:?}");
    let mut follow = Follow::start(&dev);
    eval_in(&dev, 1, "process.send({ hello: 1 })");
    follow.wait_for("{\"hello\":1}");
    dev.cli(&["send", "web[0]", "{\"to\":\"you\"}"]).succeeded();
    wait("the message", || {
        let seen = eval_in(&dev, 0, "return seen");
        (seen == json!([{ "to": "you" }])).then_some(())
    });
    let before = dev.pids();
    dev.cli(&["reload", "web"]).succeeded();
    for _ in 0..10 {
        let answer = request(dev.address(), "GET /", "").expect("an answer");
        assert_eq!(
            (&answer["isWorker"], &answer["generation"]),
            (&json!(true), &json!(2))
        );
    }
    assert!(dev.pids().iter().all(|pid| !before.contains(pid)));
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

/// Deno takes a descriptor for that of the first line it reads with it: lines and connections
/// are kept apart.
fn deno_messages(node: &Node) -> Result<(), String> {
    let dev = deno_app(node)?.workers(1).start();
    let spec = LoadSpec::tcp(dev.address()).with(Kind::NewConnection, 8);
    let load = Load::start(spec).expect("clients");
    load.wait_for(50, WITHIN).expect("requests");
    let count = scale(200, 40);
    for _ in 0..count {
        dev.cli(&["send", "web", "{\"to\":\"you\"}"]).succeeded();
    }
    load.wait_for_more(50, WITHIN).expect("requests");
    load.stop().assert_lossless(100);
    wait("all messages", || {
        (eval_in(&dev, 0, "return seen.length") == json!(count)).then_some(())
    });
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

/// It would never accept from it: what asks for one is refused, with what to do.
fn deno_shared(node: &Node) -> Result<(), String> {
    for balance in ["shared", "even", "sticky"] {
        let app = deno_app(node)?.keys(&format!("balance = {balance:?}"));
        let mut dev = app.setup().spawn();
        dev.wait_for_line("Deno does not accept from a socket that is handed to it");
        dev.wait_for_line("help: leave `balance` out");
        assert!(!dev.ended().success());
        dev.assert_gone();
    }
    Ok(())
}

/// Nor for an address of its own: it is told, instead of never being asked.
fn deno_elsewhere(node: &Node) -> Result<(), String> {
    let dev = deno_app(node)?.workers(1).start();
    let port = crate::app::free_port();
    let code =
        format!("kept.own = require('http').createServer(app); return listen(kept.own, {port});");
    assert_eq!(crate::app::eval(&dev, &code)["code"], "EACCES");
    dev.wait_for_line("Deno cannot accept from a socket that it is handed: put it into `listen`");
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

fn bun(node: &Node) -> Result<(), String> {
    let app = App::command(node, &["./bun", "app.js"]);
    let setup = app.setup();
    program(&setup.path("bun"), "#!/bin/sh\nexec sleep 1000\n");
    let mut dev = setup.spawn();
    dev.wait_for_line("Bun is not supported yet");
    dev.wait_for_line("run the app with node");
    assert!(!dev.ended().success());
    dev.assert_gone();
    Ok(())
}
