// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an app, its children and its threads can see of us: nothing that is not Node's own.

use crate::Row;
use crate::app::{App, assert_no_crash, eval_in, script};
use crate::node_tools::Node;
use serde_json::{Value, json};

pub const ROWS: &[Row] = &[
    ("unseen_by_the_app", app),
    ("unseen_by_children_and_threads", children),
    ("unseen_options_of_its_own_are_kept", own_options),
];

/// What is the same with and without us.
const LOOK: &str = "const { default: more } = { default: {} }; \
    return { \
      execArgv: process.execArgv, options: process.env.NODE_OPTIONS || null, \
      env: Object.keys(process.env).filter((k) => /^NODE_(CHANNEL|UNIQUE|OPTIONS|APP)|^APP_CLUSTER_(FD|ID)$/.test(k)).sort(), \
      modules: Object.keys(require.cache).filter((k) => !k.endsWith('kit.cjs')), \
      main: require.main && require.main.filename.endsWith('kit.cjs'), \
      globals: Object.getOwnPropertyNames(globalThis).length, \
      signals: ['SIGTERM', 'SIGINT', 'SIGHUP', 'exit', 'beforeExit', 'uncaughtException', \
        'unhandledRejection', 'warning', 'disconnect'].map((e) => process.listenerCount(e)), \
      title: process.title, connected: process.connected, \
      keys: Object.keys(process).sort().join() , \
      handles: process.getActiveResourcesInfo().filter((r) => r === 'Timeout').length };";

fn app(node: &Node) -> Result<(), String> {
    let look = |preload: bool| {
        let keys = format!("node.preload = {preload}");
        let dev = App::kit(node).workers(1).keys(&keys).start();
        let seen = eval_in(&dev, 0, LOOK);
        dev.stop();
        seen
    };
    let (with, without) = (look(true), look(false));
    assert_eq!(with, without);
    assert_eq!(with["options"], Value::Null);
    // PM2's name for the slot, and no trace of the channel.
    assert_eq!(with["env"], json!(["NODE_APP_INSTANCE"]));
    assert_eq!(with["modules"], json!([]));
    Ok(())
}

fn children(node: &Node) -> Result<(), String> {
    let probe = script("probe.cjs");
    let dev = App::kit(node).workers(1).start();
    let code = format!(
        "const {{ execFileSync, fork, spawn }} = require('child_process'); \
         const {{ Worker }} = require('worker_threads'); \
         const path = {probe:?}; \
         const once = (what) => new Promise((done, failed) => \
           what.once('message', done).once('error', failed)); \
         return {{ \
           exec: JSON.parse(execFileSync(process.execPath, [path])), \
           fork: await once(fork(path)), \
           thread: await once(new Worker(path)) }};"
    );
    let seen = eval_in(&dev, 0, &code);
    for how in ["exec", "fork", "thread"] {
        let told = &seen[how];
        assert_eq!(told["isPrimary"], true, "{how}: {told}");
        assert_eq!(told["env"], json!(["NODE_APP_INSTANCE"]), "{how}: {told}");
        assert_eq!(told["execArgv"], json!([]), "{how}: {told}");
        assert_eq!(told["patched"], false, "{how}: {told}");
        // Theirs alone: input, output, errors and, of fork, a channel.
        let sockets = if how == "fork" { 1 } else { 0 };
        if how != "thread" {
            assert_eq!(told["sockets"], sockets, "{how}: {told}");
        }
    }
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

/// NODE_OPTIONS of the operator are in force, seen by the app as they were, and by its children.
fn own_options(node: &Node) -> Result<(), String> {
    let options = "--max-http-header-size=9000 --no-deprecation";
    let app = App::kit(node).workers(1).env("NODE_OPTIONS", options);
    let dev = app.start();
    let code = "return [process.env.NODE_OPTIONS, require('http').maxHeaderSize, \
        require('child_process').execFileSync(process.execPath, \
          ['-p', 'process.env.NODE_OPTIONS']).toString().trim()];";
    assert_eq!(eval_in(&dev, 0, code), json!([options, 9000, options]));
    dev.stop();
    Ok(())
}
