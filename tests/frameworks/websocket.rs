// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ws`: at a reload and at the end each WebSocket is closed with 1012, and the client can come
//! back at once.

use crate::Row;
use crate::app::{app, assert_well, clients, drained, everybody_answers, hooks};
use crate::dev::{Dev, WITHIN};
use crate::load::Load;
use crate::versions::Node;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

pub const ROWS: &[Row] = &[("ws", ws)];

/// Service restart (the registry of RFC 6455 close codes).
const RESTART: u16 = 1012;

/// WebSockets that are open at once.
const OPEN: usize = 12;

fn ws(node: &Node) -> Result<(), String> {
    let keys = "drain_timeout = \"8s\"";
    let mut dev = app(node, "ws", &["node", "server.js"], keys)?.start();
    everybody_answers(&dev, 2);
    let mut sockets = open(&dev, OPEN);
    let told = |socket: &WebSocket| -> Value { serde_json::from_str(&socket.hello).expect("JSON") };
    let pids: BTreeSet<_> = sockets.iter().map(|s| told(s)["pid"].as_i64()).collect();
    assert_eq!(pids.len(), 2, "both workers have some");
    let load = Load::start(clients(&dev)).expect("clients");
    dev.cli(&["reload", "web"]).succeeded();
    for socket in &mut sockets {
        assert_eq!(socket.closed(), RESTART);
    }
    // They come back while the old workers may be there yet, and never to these.
    let again = open(&dev, OPEN);
    assert!(
        again.iter().all(|s| told(s)["generation"] == "2"),
        "{again:?}"
    );
    drained(&dev);
    load.wait_for_more(10, WITHIN).expect("requests afterwards");
    load.stop().assert_lossless(10);
    assert_well(&dev);
    assert_eq!(hooks(&dev).len(), 2, "{}", dev.output());
    stop(&mut dev, again);
    Ok(())
}

fn stop(dev: &mut Dev, mut sockets: Vec<WebSocket>) {
    for socket in &mut sockets {
        assert_eq!(socket.echo("still there?"), "still there?");
    }
    let start = Instant::now();
    dev.signal(Signal::SIGTERM);
    for socket in &mut sockets {
        assert_eq!(socket.closed(), RESTART);
    }
    let status = dev.ended();
    assert!(status.success(), "{status}\n{}", dev.output());
    // The sockets go within 1 s, not within half of drain_timeout.
    assert!(start.elapsed() < Duration::from_secs(7), "{}", dev.output());
    assert_well(dev);
    let seen = hooks(dev);
    assert_eq!(seen.len(), 4, "{seen:?}");
    assert!(seen.values().all(|times| *times == 1), "{seen:?}");
    dev.assert_gone();
}

fn open(dev: &Dev, count: usize) -> Vec<WebSocket> {
    (0..count).map(|_| WebSocket::open(dev.address())).collect()
}

/// A client that knows as much of RFC 6455 as is needed here: short frames.
#[derive(Debug)]
pub struct WebSocket {
    stream: TcpStream,
    /// The first message.
    pub hello: String,
}

const TEXT: u8 = 1;
const CLOSE: u8 = 8;

impl WebSocket {
    /// Opens one, and reads the first message.
    pub fn open(address: SocketAddr) -> WebSocket {
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(WITHIN)).expect("a timeout");
        let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: YXBwLWNsdXN0ZXIgdGVzdA==\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("a request");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a response");
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head);
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        let hello = String::new();
        let mut socket = WebSocket { stream, hello };
        socket.hello = socket.text();
        socket
    }

    /// Sends a text and returns what comes back.
    pub fn echo(&mut self, text: &str) -> String {
        self.send(TEXT, text.as_bytes());
        self.text()
    }

    /// The next message.
    pub fn text(&mut self) -> String {
        let (kind, payload) = self.frame();
        assert_eq!(kind, TEXT, "{payload:?}");
        String::from_utf8(payload).expect("UTF-8")
    }

    /// Waits until the server closes it, answers as one should, and waits for the end of the
    /// connection. The code that the server gave.
    pub fn closed(&mut self) -> u16 {
        let (kind, payload) = self.frame();
        assert_eq!(kind, CLOSE, "{payload:?}");
        self.send(CLOSE, &payload[..2]);
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).expect("the end");
        assert!(rest.is_empty(), "{rest:?}");
        u16::from_be_bytes([payload[0], payload[1]])
    }

    /// A masked frame, by a mask that changes nothing.
    fn send(&mut self, kind: u8, payload: &[u8]) {
        let mut frame = vec![0x80 | kind, 0x80 | payload.len() as u8, 0, 0, 0, 0];
        frame.extend(payload);
        self.stream.write_all(&frame).expect("a frame");
    }

    fn frame(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head).expect("a frame");
        assert!(head[1] < 126, "a short frame without a mask");
        let mut payload = vec![0; usize::from(head[1])];
        self.stream.read_exact(&mut payload).expect("a frame");
        (head[0] & 0xF, payload)
    }
}
