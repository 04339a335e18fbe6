// SPDX-License-Identifier: MIT OR Apache-2.0
//! Clients: a connection with HTTP by hand, and the Node programs of `client.cjs`.

use crate::node_primary::WITHIN;
use crate::node_tools::Node;
use crate::{packages, program};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// A connection to a worker.
pub struct Connection(pub BufReader<TcpStream>);

/// A response; its body is JSON.
#[derive(Debug)]
pub struct Response {
    pub head: String,
    pub body: Value,
}

impl Response {
    /// Does it end its connection?
    pub fn is_last(&self) -> bool {
        self.head
            .to_ascii_lowercase()
            .contains("\r\nconnection: close\r\n")
    }
}

impl Connection {
    #[track_caller]
    pub fn open(address: SocketAddr) -> Connection {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(WITHIN)).expect("a timeout");
        Connection(BufReader::new(stream))
    }

    #[track_caller]
    pub fn send(&mut self, text: &str) {
        self.0
            .get_mut()
            .write_all(text.as_bytes())
            .expect("to write");
    }

    #[track_caller]
    pub fn ask(&mut self, path: &str) {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    }

    /// Reads one response.
    #[track_caller]
    pub fn answer(&mut self) -> Response {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let count = self.0.read_line(&mut head).expect("a line");
            assert!(count > 0, "the connection ended after {head:?}");
        }
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let field = |name: &str| {
            let lower = head.to_ascii_lowercase();
            let line = lower
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            line.map(str::to_owned)
        };
        let mut body = Vec::new();
        if let Some(length) = field("content-length") {
            body = vec![0; length.parse().expect("a length")];
            self.0.read_exact(&mut body).expect("a body");
        } else {
            assert_eq!(
                field("transfer-encoding").as_deref(),
                Some("chunked"),
                "{head}"
            );
            self.chunks(&mut body);
        }
        let body = serde_json::from_slice(&body).expect("JSON");
        Response { head, body }
    }

    fn chunks(&mut self, body: &mut Vec<u8>) {
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).expect("a chunk");
            let length = usize::from_str_radix(line.trim(), 16).expect("a length");
            let mut chunk = vec![0; length + 2];
            self.0.read_exact(&mut chunk).expect("a chunk");
            if length == 0 {
                return;
            }
            body.extend_from_slice(&chunk[..length]);
        }
    }

    #[track_caller]
    pub fn get(&mut self, path: &str) -> Response {
        self.ask(path);
        self.answer()
    }

    /// Waits until the server closes it, with nothing more to read.
    #[track_caller]
    pub fn end(&mut self) -> Instant {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).expect("an orderly end");
        assert_eq!(String::from_utf8_lossy(&rest), "");
        Instant::now()
    }

    /// Is it open, with nothing to read?
    pub fn is_open(&mut self) -> bool {
        let stream = self.0.get_ref();
        stream
            .set_read_timeout(Some(Duration::from_millis(1)))
            .expect("a timeout");
        let open = self.0.fill_buf().is_err();
        self.0
            .get_ref()
            .set_read_timeout(Some(WITHIN))
            .expect("a timeout");
        open
    }
}

/// A client program in Node; killed when dropped.
pub struct Program {
    child: Child,
    lines: Receiver<Value>,
}

impl Program {
    /// Starts it and waits until it is connected.
    pub fn start(node: &Node, kind: &str, address: SocketAddr, count: usize) -> Program {
        let mut command = Command::new(&node.program);
        command.args([&program("client.cjs"), kind, &address.port().to_string()]);
        command
            .arg(count.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        if let Ok(home) = packages() {
            command.env("NODE_PATH", home.join("node_modules"));
        }
        let mut child = command.spawn().expect("node");
        let (sender, lines) = channel();
        let from = BufReader::new(child.stdout.take().expect("a pipe"));
        std::thread::spawn(move || {
            for line in from.lines().map_while(Result::ok) {
                let value = serde_json::from_str(&line).expect("JSON");
                let _ = sender.send(value);
            }
        });
        let new = Program { child, lines };
        assert_eq!(new.next(), "ready");
        new
    }

    /// The next line.
    #[track_caller]
    pub fn next(&self) -> Value {
        self.lines
            .recv_timeout(WITHIN)
            .expect("a line of the client")
    }

    /// All that comes until it ends.
    pub fn rest(&self) -> Vec<Value> {
        std::iter::from_fn(|| self.lines.recv_timeout(WITHIN).ok()).collect()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory with `key.pem` and `cert.pem`, made by openssl(1); kept until the end.
pub fn certificate() -> &'static Path {
    static HOME: OnceLock<PathBuf> = OnceLock::new();
    HOME.get_or_init(|| {
        let home = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("certificate");
        std::fs::create_dir_all(&home).expect("a directory");
        let words = "req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=localhost";
        let made = Command::new("openssl")
            .args(words.split(' '))
            .args(["-keyout", "key.pem", "-out", "cert.pem"])
            .current_dir(&home)
            .output()
            .expect("openssl");
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        home
    })
}
