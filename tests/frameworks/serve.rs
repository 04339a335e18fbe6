// SPDX-License-Identifier: MIT OR Apache-2.0
//! Each framework: both workers serve, reloads under load lose nothing, the app's clean-up runs
//! once for each worker, and the end comes promptly.

use crate::Row;
use crate::app::{app, assert_well, clients, everybody_answers, hooks, reload_under};
use crate::dev::Dev;
use crate::load::Load;
use crate::versions::Node;
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

pub const QUICK: &[Row] = &[
    ("express", |node| {
        prove(node, "express", &["node", "app.js"], Hook::Own)
    }),
    ("npm_start", |node| {
        prove(node, "express", &["npm", "start"], Hook::Own)
    }),
    ("es_module_that_awaits", |node| {
        prove(node, "esm", &["node", "server.js"], Hook::Own)
    }),
    ("fastify", |node| {
        prove(node, "fastify", &["node", "server.js"], Hook::Own)
    }),
];

pub const LONG: &[Row] = &[
    ("koa", |node| {
        prove(node, "koa", &["node", "app.js"], Hook::None)
    }),
    ("hapi", |node| {
        prove(node, "hapi", &["node", "server.js"], Hook::Own)
    }),
    ("nest", |node| {
        prove(node, "nest", &["node", "dist/main.js"], Hook::Own)
    }),
    ("next_start", |node| {
        prove(
            node,
            "next",
            &["./node_modules/.bin/next", "start"],
            Hook::None,
        )
    }),
    ("next_by_npm_start", |node| {
        prove(node, "next", &["npm", "start"], Hook::None)
    }),
    ("typescript_by_tsx", |node| {
        prove(
            node,
            "tsx",
            &["./node_modules/.bin/tsx", "server.ts"],
            Hook::Own,
        )
    }),
    ("typescript_by_npx_tsx", |node| {
        prove(node, "tsx", &["npx", "tsx", "server.ts"], Hook::Own)
    }),
    ("typescript_by_npm_start", |node| {
        prove(node, "tsx", &["npm", "start"], Hook::Own)
    }),
    ("typescript_by_import", |node| {
        let command = ["node", "--import", "tsx", "server.ts"];
        prove(node, "tsx", &command, Hook::Own)
    }),
    ("pnpm_start", |node| {
        prove(
            node,
            "managers",
            &["./node_modules/.bin/pnpm", "start"],
            Hook::Own,
        )
    }),
    ("yarn_start", |node| {
        prove(
            node,
            "managers",
            &["./node_modules/.bin/yarn", "start"],
            Hook::Own,
        )
    }),
];

/// Whether the app writes down that it cleaned up.
#[derive(Clone, Copy, PartialEq)]
enum Hook {
    Own,
    None,
}

/// The end takes no longer, drain_timeout being 30 s; the machine may be busy.
const PROMPTLY: Duration = Duration::from_secs(15);

fn prove(node: &Node, name: &str, command: &[&str], hook: Hook) -> Result<(), String> {
    let mut dev = app(node, name, command, "")?.start();
    everybody_answers(&dev, 2);
    if name == "next" {
        rendered(&dev);
    }
    let load = Load::start(clients(&dev)).expect("clients");
    let report = reload_under(&dev, load);
    report.assert_lossless(30);
    assert_eq!(report.generations(), Some((1, 3)), "{report}");
    // Both workers of each generation, or one with a process of its own in between.
    assert!(report.total().by_pid.len() >= 6, "{report}");
    assert_well(&dev);
    if hook == Hook::Own {
        let seen = hooks(&dev);
        assert_eq!(seen.len(), 4, "{seen:?}\n{}", dev.output());
    }
    stop(&mut dev);
    if hook == Hook::Own {
        let seen = hooks(&dev);
        assert_eq!(seen.len(), 6, "{seen:?}\n{}", dev.output());
        assert!(seen.values().all(|times| *times == 1), "{seen:?}");
    }
    Ok(())
}

/// Stops while clients have connections on which nothing happens.
fn stop(dev: &mut Dev) {
    let address = dev.address();
    let mut idle: Vec<TcpStream> = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .expect("a timeout");
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .expect("a request");
        let mut some = [0; 12];
        stream.read_exact(&mut some).expect("an answer");
        assert_eq!(&some, b"HTTP/1.1 200");
        idle.push(stream);
    }
    let start = Instant::now();
    dev.signal(Signal::SIGTERM);
    let status = dev.ended();
    assert!(status.success(), "{status}\n{}", dev.output());
    assert!(
        start.elapsed() < PROMPTLY,
        "{:?}\n{}",
        start.elapsed(),
        dev.output()
    );
    assert_well(dev);
    dev.assert_gone();
}

/// A page of Next.js that each request renders, and the JavaScript that belongs to it.
fn rendered(dev: &Dev) {
    let body = |path: &str| {
        let mut stream = TcpStream::connect(dev.address()).expect("a connection");
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("a request");
        let mut text = Vec::new();
        stream.read_to_end(&mut text).expect("an answer");
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(text.starts_with("HTTP/1.1 200"), "{path}: {text}");
        text
    };
    let page = body("/page");
    assert!(page.contains("rendered by"), "{page}");
    let script = page
        .split('"')
        .find(|part| part.starts_with("/_next/") && part.ends_with(".js"));
    body(script.expect("a script in the page"));
}
