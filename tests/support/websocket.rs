// SPDX-License-Identifier: MIT OR Apache-2.0
//! A WebSocket client that knows as much of RFC 6455 as tests need: short frames.

#![allow(dead_code)] // each test uses its part

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Nothing takes longer.
const WITHIN: Duration = Duration::from_secs(30);

/// One that is open.
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
