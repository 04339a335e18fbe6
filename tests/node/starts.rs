// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ways to start a Node program, and when it counts as ready.

use crate::Row;
use crate::app::{
    App, assert_no_crash, assert_nothing_blocks, eval, eval_in, program, request, script,
    search_path, serves, word,
};
use crate::dev::{Dev, wait};
use crate::messages::Follow;
use crate::node_tools::Node;

pub const ROWS: &[Row] = &[
    ("smoke", smoke),
    ("start_es_module", es_module),
    ("start_typescript", typescript),
    ("start_script_with_interpreter", interpreter),
    ("start_through_shells_and_prefixes", prefixes),
    ("start_npm_start_and_run", npm),
    ("start_npx", npx),
    ("start_node_run", node_run),
    ("start_options_of_node", options),
    ("ready_when_it_says_so", ready_by_message),
    ("ready_when_all_ports_are_served", ready_with_all_ports),
    ("ready_never_is_explained", never_ready),
];

/// For the versions that are not tested in full.
pub const SMOKE: &[Row] = &[("smoke", smoke)];

/// Serve, message, reload, stop.
fn smoke(node: &Node) -> Result<(), String> {
    let dev = App::kit(node).start();
    assert_nothing_blocks(&dev);
    let mut follow = Follow::start(&dev);
    let seen = eval_in(
        &dev,
        1,
        "process.send({ hello: 1 }); return process.version",
    );
    assert_eq!(seen, format!("v{}", node.version));
    follow.wait_for("{\"hello\":1}");
    dev.cli(&["send", "web[0]", "{\"to\":\"you\"}"]).succeeded();
    wait("the message", || {
        (eval_in(&dev, 0, "return seen") == serde_json::json!([{ "to": "you" }])).then_some(())
    });
    serves_reloads_stops(dev);
    Ok(())
}

/// An app that is a cluster worker, whichever way it was started.
#[track_caller]
fn serves_reloads_stops(dev: Dev) {
    let before = dev.pids();
    for generation in ["1", "2"] {
        let about = request(dev.address(), "GET /", "").expect("an answer");
        assert_eq!(about["isWorker"], true, "{about}\n{}", dev.output());
        assert!(about["id"].as_u64() > Some(0), "{about}");
        let told = about["generation"].to_string();
        assert_eq!(told.trim_matches('"'), generation, "{about}");
        if generation == "1" {
            dev.cli(&["reload", "web"]).succeeded();
        }
    }
    assert!(dev.pids().iter().all(|pid| !before.contains(pid)));
    assert_no_crash(&dev);
    dev.stop();
}

fn es_module(node: &Node) -> Result<(), String> {
    serves_reloads_stops(App::new(node, "top.mjs").start());
    Ok(())
}

fn typescript(node: &Node) -> Result<(), String> {
    if node.major() < 22 {
        return Err("runs no TypeScript".into());
    }
    serves_reloads_stops(App::new(node, "typed.ts").start());
    Ok(())
}

fn interpreter(node: &Node) -> Result<(), String> {
    let setup = App::command(node, &["./app"]).setup();
    program(&setup.path("app"), &required());
    serves_reloads_stops(setup.start());
    Ok(())
}

/// A script that names its interpreter, and is `kit.cjs`.
fn required() -> String {
    format!("#!/usr/bin/env node\nrequire({:?});\n", script("kit.cjs"))
}

fn prefixes(node: &Node) -> Result<(), String> {
    let kit = script("kit.cjs");
    let line = format!("node '{kit}'");
    let lines = format!("cd / && node '{kit}'; true");
    for words in [
        vec!["sh", "-c", &line],
        vec!["bash", "-c", &lines],
        vec!["env", "A=1", "nice", "-n", "1", "node", &kit],
        vec!["timeout", "1000", "node", &kit],
    ] {
        let app = App::command(node, &words).workers(1);
        serves_reloads_stops(app.keys("protocol = \"node\"").start());
    }
    Ok(())
}

/// A directory with a package whose scripts run `kit.cjs`.
fn package(node: &Node, words: &[&str]) -> crate::dev::Setup {
    let setup = App::command(node, words)
        .workers(1)
        .env("npm_config_update_notifier", "false")
        .setup();
    let kit = script("kit.cjs");
    let text = format!(
        "{{\"name\":\"a\",\"version\":\"1.0.0\",\"bin\":{{\"kit\":\"kit.cjs\"}},\
         \"scripts\":{{\"start\":\"node {kit}\",\"serve\":\"node {kit}\"}}}}"
    );
    setup.write("package.json", &text);
    setup
}

/// Whether the machine's npm can be run by this Node.
fn has_npm(node: &Node) -> Result<(), String> {
    let mut npm = std::process::Command::new("npm");
    npm.arg("--version").env("PATH", search_path(node));
    let output = npm.output().map_err(|e| format!("npm: {e}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err("npm does not run with this Node".into()),
    }
}

fn npm(node: &Node) -> Result<(), String> {
    has_npm(node)?;
    for words in [&["npm", "start"] as &[&str], &["npm", "run", "serve"]] {
        serves_reloads_stops(package(node, words).start());
    }
    Ok(())
}

fn npx(node: &Node) -> Result<(), String> {
    has_npm(node)?;
    let setup = package(node, &["npx", "--no-install", "kit"]);
    let bin = setup.path("node_modules/.bin");
    std::fs::create_dir_all(&bin).expect("a directory");
    program(&bin.join("kit"), &required());
    serves_reloads_stops(setup.start());
    Ok(())
}

fn node_run(node: &Node) -> Result<(), String> {
    if node.major() < 22 {
        return Err("has no --run".into());
    }
    serves_reloads_stops(package(node, &["node", "--run", "start"]).start());
    Ok(())
}

fn options(node: &Node) -> Result<(), String> {
    let kit = script("kit.cjs");
    let mut all = vec![vec!["--inspect=0"], vec!["--enable-source-maps"]];
    if node.major() >= 24 {
        all.push(vec!["--permission", "--allow-fs-read=*"]);
    }
    if node.major() >= 25 {
        all[2].push("--allow-net");
    }
    for options in all {
        let words = [vec![word(node)], options, vec![kit.as_str()]].concat();
        serves_reloads_stops(App::command(node, &words).workers(1).start());
    }
    Ok(())
}

fn ready_by_message(node: &Node) -> Result<(), String> {
    let dev = App::kit(node).keys("ready = \"message\"").workers(1);
    let dev = dev.setup().spawn();
    dev.until("a worker", |s| !s.listeners.is_empty());
    let address = dev.address();
    wait("it serves", || serves(address).then_some(()));
    assert_eq!(dev.status().workers.ready, 0, "{}", dev.output());
    eval(
        &dev,
        "process.send({ ready: false }); process.send('ready!')",
    );
    assert_eq!(dev.status().workers.ready, 0, "{}", dev.output());
    eval(&dev, "process.send('ready')");
    dev.until("ready", |s| s.workers.ready == 1);
    dev.stop();
    Ok(())
}

fn ready_with_all_ports(node: &Node) -> Result<(), String> {
    let dev = App::kit(node)
        .listen("one=127.0.0.1:0")
        .listen("two=127.0.0.1:0")
        .workers(1)
        .setup()
        .spawn();
    dev.until("two listeners", |s| s.listeners.len() == 2);
    let two: std::net::SocketAddr = dev.status().listeners[1].address.parse().expect("TCP");
    wait("the first is served", || {
        serves(dev.address()).then_some(())
    });
    // A socket that nobody asked for says nothing, as the pipe of a launcher.
    let more = "kept.pipe = require('net').createServer(); return listen(kept.pipe, './pipe');";
    assert!(eval(&dev, more)["at"].is_string());
    let more = "kept.other = require('net').createServer(); return listen(kept.other, 0);";
    assert!(eval(&dev, more)["at"].is_object());
    assert_eq!(dev.status().workers.ready, 0, "{}", dev.output());
    let port = two.port();
    let code =
        format!("kept.two = require('http').createServer(app); return listen(kept.two, {port});");
    assert_eq!(eval(&dev, &code)["at"]["port"], port);
    dev.until("ready", |s| s.workers.ready == 1);
    assert!(serves(two));
    dev.stop();
    Ok(())
}

/// It listens, but not where it should: the error says where it does.
fn never_ready(node: &Node) -> Result<(), String> {
    let port = crate::app::free_port();
    let mut dev = App::kit(node)
        .workers(1)
        .arg(&format!("{{\"port\":{port}}}"))
        .keys("start_timeout = \"3s\"")
        .setup()
        .spawn();
    dev.wait_for_line(&format!("{port}, which is not one of the app's addresses"));
    let line = dev.wait_for_line("was not ready within");
    assert!(line.contains("does not listen on every address"), "{line}");
    assert!(!dev.ended().success());
    dev.assert_gone();
    Ok(())
}
