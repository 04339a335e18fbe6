// SPDX-License-Identifier: MIT OR Apache-2.0
//! Applications under test, and how they are asked.

use crate::dev::{Dev, Setup, WITHIN};
use crate::node_tools::Node;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};

/// A file of `tests/node/apps`.
pub fn script(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let path = path.join("tests/node/apps").join(name);
    path.to_str().expect("UTF-8").to_owned()
}

/// What it is called in `command`.
pub fn word(node: &Node) -> &str {
    node.program.to_str().expect("UTF-8")
}

/// PATH with this Node first.
pub fn search_path(node: &Node) -> String {
    let own = node.program.parent().expect("a directory").display();
    let rest = std::env::var("PATH").unwrap_or_else(|_| "/usr/bin:/bin".into());
    format!("{own}:{rest}")
}

/// An app to be started. Two workers, if nothing else is said.
pub struct App {
    node: Node,
    words: Vec<String>,
    keys: String,
    listen: Vec<String>,
    workers: u32,
    environment: Vec<(String, String)>,
}

impl App {
    /// A file of `tests/node/apps` with this Node.
    pub fn new(node: &Node, name: &str) -> App {
        App::command(node, &[word(node), &script(name)])
    }

    /// Any program; this Node is the first in its PATH.
    pub fn command(node: &Node, words: &[&str]) -> App {
        App {
            node: node.clone(),
            words: words.iter().map(|w| w.to_string()).collect(),
            keys: String::new(),
            listen: Vec::new(),
            workers: 2,
            environment: Vec::new(),
        }
    }

    /// `kit.cjs`, which does what it is asked.
    pub fn kit(node: &Node) -> App {
        App::new(node, "kit.cjs")
    }

    pub fn arg(mut self, word: &str) -> App {
        self.words.push(word.to_owned());
        self
    }

    /// Lines of configuration.
    pub fn keys(mut self, lines: &str) -> App {
        self.keys.push_str(lines);
        self.keys.push('\n');
        self
    }

    pub fn listen(mut self, address: &str) -> App {
        self.listen.push(address.to_owned());
        self
    }

    pub fn workers(mut self, workers: u32) -> App {
        self.workers = workers;
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> App {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The configuration, the port still open.
    pub fn setup(self) -> Setup {
        let mut keys = format!(
            "command = {:?}\nworkers = {}\ncanary_time = \"50ms\"\n",
            self.words, self.workers
        );
        if !self.keys.contains("start_timeout") {
            keys.push_str("start_timeout = \"60s\"\n");
        }
        keys.push_str(&self.keys);
        let mut setup = Setup::with_config(&keys).env("PATH", &search_path(&self.node));
        for address in &self.listen {
            setup = setup.arguments(&["-l", address]);
        }
        for (name, value) in &self.environment {
            setup = setup.env(name, value);
        }
        setup
    }

    pub fn start(self) -> Dev {
        self.setup().start()
    }
}

/// Writes a program that can be executed at once.
pub fn program(path: &Path, text: &str) {
    let source = path.with_extension("source");
    std::fs::write(&source, text).expect("a file");
    crate::dev::install(&source, path);
}

/// A request on a new connection; the body as JSON.
pub fn request(address: SocketAddr, head: &str, body: &str) -> Result<Value, String> {
    let failed = |e: std::io::Error| e.to_string();
    let mut stream = TcpStream::connect(address).map_err(failed)?;
    stream.set_read_timeout(Some(WITHIN)).map_err(failed)?;
    exchange(&mut stream, head, body)
}

/// A request that ends its connection; the body as JSON.
pub fn exchange(stream: &mut (impl Read + Write), head: &str, body: &str) -> Result<Value, String> {
    let failed = |e: std::io::Error| e.to_string();
    let length = body.len();
    let text = format!(
        "{head} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(text.as_bytes()).map_err(failed)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(failed)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no whole head")?;
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    serde_json::from_str(body).map_err(|e| format!("{e}: {answer}"))
}

/// Runs JavaScript in some worker of `kit.cjs`: `return` gives the result.
#[track_caller]
pub fn eval(dev: &Dev, code: &str) -> Value {
    let answer = request(dev.address(), "POST /eval", code).expect("an answer");
    assert!(
        answer["thrown"].is_null(),
        "{code}: {answer}\n{}",
        dev.output()
    );
    answer
}

/// Runs JavaScript in the worker of this slot.
#[track_caller]
pub fn eval_in(dev: &Dev, slot: u32, code: &str) -> Value {
    let guarded =
        format!("if (process.env.APP_CLUSTER_SLOT !== '{slot}') return {{ other: true }};\n{code}");
    crate::dev::wait("the worker of the slot answers", || {
        let answer = eval(dev, &guarded);
        (answer["other"] != true).then_some(answer)
    })
}

/// A port that was free just now, below those that the kernel gives to clients.
pub fn free_port() -> u16 {
    let start = std::process::id() as u16;
    for step in 0..10_000u16 {
        let port = 15_000 + start.wrapping_add(step.wrapping_mul(37)) % 15_000;
        static TAKEN: std::sync::Mutex<Vec<u16>> = std::sync::Mutex::new(Vec::new());
        let mut taken = TAKEN.lock().expect("the ports");
        if !taken.contains(&port) && TcpListener::bind(("0.0.0.0", port)).is_ok() {
            taken.push(port);
            return port;
        }
    }
    panic!("no port is free");
}

/// Whether something answers HTTP there.
pub fn serves(address: impl std::net::ToSocketAddrs) -> bool {
    let Some(address) = address.to_socket_addrs().ok().and_then(|mut a| a.next()) else {
        return false;
    };
    request(address, "GET /", "").is_ok()
}

/// Every socket of the process has O_NONBLOCK (flags of proc_pid_fdinfo(5)): Node takes them as
/// they come, and one that blocks would stop its event loop.
#[track_caller]
pub fn assert_nothing_blocks(dev: &Dev) {
    for pid in dev.pids() {
        nothing_blocks(dev, pid);
    }
}

#[track_caller]
fn nothing_blocks(dev: &Dev, pid: i32) {
    let directory = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors");
    let mut sockets = 0;
    for entry in directory.flatten() {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        let number = entry.file_name().to_string_lossy().into_owned();
        let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}"));
        let (Ok(info), true) = (info, target.to_string_lossy().starts_with("socket:")) else {
            continue;
        };
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = u32::from_str_radix(flags.expect("flags").trim(), 8).expect("octal");
        assert!(
            flags & 0o4000 != 0,
            "descriptor {number} of {pid}: {info}\n{}",
            dev.output()
        );
        sockets += 1;
    }
    assert!(sockets > 0, "no channel\n{}", dev.output());
}

/// No worker has failed: nothing was restarted, and nobody speaks of a crash.
#[track_caller]
pub fn assert_no_crash(dev: &Dev) {
    for slot in &dev.status().slots {
        assert_eq!(slot.restarts, 0, "{slot:?}\n{}", dev.output());
    }
    let output = dev.output();
    for word in ["failed", "failures in a row", "degraded", "panicked"] {
        assert!(!output.contains(word), "{word}:\n{output}");
    }
}
