// SPDX-License-Identifier: MIT OR Apache-2.0
//! As little of a node:cluster primary as drives the preload: it hands out listening sockets,
//! and records what its workers say.

#![allow(dead_code)] // each test uses its part

use super::node_tools::Node;
use nix::sys::signal::{Signal, killpg};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, IoSlice, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub const PRELOAD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/protocol/node/preload.cjs");
/// Longest that anything may take that takes a moment: the machine may be busy.
pub const WITHIN: Duration = Duration::from_secs(60);
/// Our internal messages.
const OURS: &str = "NODE_APP_CLUSTER";

/// The listening sockets, by the port that was asked for (and its number, for port 0).
#[derive(Clone, Default)]
pub struct Sockets(Arc<Mutex<BTreeMap<(u64, u64), TcpListener>>>);

impl Sockets {
    /// A socket that workers get who ask for its port.
    pub fn with_one() -> (Sockets, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let sockets = Sockets::default();
        sockets.keep((u64::from(address.port()), 0), listener);
        (sockets, address)
    }

    fn keep(&self, key: (u64, u64), listener: TcpListener) {
        // A blocking one would block the workers, which assume it is not.
        listener.set_nonblocking(true).expect("a socket");
        lock(&self.0).insert(key, listener);
    }

    fn get(&self, port: u64, index: u64) -> TcpListener {
        let key = (port, index);
        if !lock(&self.0).contains_key(&key) {
            let port = u16::try_from(port).expect("a port");
            self.keep(key, TcpListener::bind(("127.0.0.1", port)).expect("a port"));
        }
        lock(&self.0)[&key].try_clone().expect("a socket")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What came from a worker, and when.
#[derive(Default)]
struct Inbox {
    messages: Vec<(Instant, Value)>,
    ended: bool,
}

#[derive(Default)]
struct Shared {
    inbox: Mutex<Inbox>,
    changed: Condvar,
    answered: Mutex<u64>,
}

/// How to start a worker.
pub struct Start<'a> {
    node: &'a Node,
    environment: Vec<(String, String)>,
    directory: Option<&'a Path>,
    /// Descriptor of the channel, and whether the preload has to attach to it.
    channel: (u32, bool),
    options: String,
}

impl<'a> Start<'a> {
    pub fn new(node: &'a Node) -> Start<'a> {
        Start {
            node,
            environment: Vec::new(),
            directory: None,
            channel: (3, false),
            options: String::new(),
        }
    }

    /// The app is behind a launcher.
    pub fn late(mut self) -> Start<'a> {
        self.channel = (20, true);
        self
    }

    pub fn env(mut self, name: &str, value: impl ToString) -> Start<'a> {
        self.environment.push((name.to_owned(), value.to_string()));
        self
    }

    pub fn directory(mut self, directory: &'a Path) -> Start<'a> {
        self.directory = Some(directory);
        self
    }

    /// NODE_OPTIONS of the app.
    pub fn options(mut self, options: &str) -> Start<'a> {
        self.options = format!("{options} ");
        self
    }

    /// Starts `command`, whose `node` is that version.
    pub fn spawn(self, command: &[&str], sockets: &Sockets) -> Worker {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        let (fd, late) = self.channel;
        let script = format!(r#"exec {fd}<&0 0</dev/null; exec "$@""#);
        let mut bash = Command::new("bash");
        bash.args(["-c", &script, "bash"]).args(command);
        let bin = self.node.program.parent().expect("a directory");
        let path = std::env::var("PATH").unwrap_or_default();
        bash.env("PATH", format!("{}:{path}", bin.display()));
        bash.env(
            "NODE_OPTIONS",
            format!("{}--require \"{PRELOAD}\"", self.options),
        );
        let names = match late {
            true => ["APP_CLUSTER_FD", "APP_CLUSTER_ID"],
            false => ["NODE_CHANNEL_FD", "NODE_UNIQUE_ID"],
        };
        bash.env(names[0], fd.to_string()).env(names[1], "7");
        bash.envs(self.environment);
        bash.current_dir(
            self.directory
                .unwrap_or(Path::new(env!("CARGO_MANIFEST_DIR"))),
        );
        bash.stdin(OwnedFd::from(theirs)).stdout(Stdio::null());
        let child = bash.process_group(0).spawn().expect("bash");
        drop(bash);
        let worker = Worker {
            child,
            channel: Arc::new(Mutex::new(ours.try_clone().expect("a socket"))),
            shared: Arc::new(Shared::default()),
        };
        let (shared, channel) = (worker.shared.clone(), worker.channel.clone());
        let sockets = sockets.clone();
        std::thread::spawn(move || read(&shared, &channel, ours, &sockets));
        worker
    }
}

/// A worker; killed with all it has started when dropped.
pub struct Worker {
    child: Child,
    channel: Arc<Mutex<UnixStream>>,
    shared: Arc<Shared>,
}

fn read(shared: &Shared, channel: &Mutex<UnixStream>, from: UnixStream, sockets: &Sockets) {
    for line in BufReader::new(from).split(b'\n') {
        let Ok(line) = line else { break };
        let message: Value = serde_json::from_slice(&line).expect("JSON");
        // Failures to write are those of a worker that has ended.
        if message["act"] == "queryServer" {
            let number = |key: &str| message[key].as_u64().unwrap_or(0);
            let socket = sockets.get(number("port"), number("index"));
            let key = format!("{}:{}", message["port"], message["index"]);
            let answer = json!({"cmd": "NODE_CLUSTER", "errno": 0, "key": key,
                "ack": message["seq"], "data": message["data"], "seq": next(shared)});
            let wrapped = json!({"cmd": "NODE_HANDLE", "type": "net.Native", "msg": answer});
            let text = format!("{wrapped}\n");
            let fds = [socket.as_raw_fd()];
            let rights = [ControlMessage::ScmRights(&fds)];
            let bytes = [IoSlice::new(text.as_bytes())];
            let to = lock(channel).as_raw_fd();
            let _ = sendmsg::<()>(to, &bytes, &rights, MsgFlags::MSG_NOSIGNAL, None);
        } else if message["act"] == "exitedAfterDisconnect" {
            let ack = json!({"cmd": "NODE_CLUSTER", "ack": message["seq"], "seq": next(shared)});
            let _ = writeln!(lock(channel), "{ack}");
        }
        lock(&shared.inbox).messages.push((Instant::now(), message));
        shared.changed.notify_all();
    }
    lock(&shared.inbox).ended = true;
    shared.changed.notify_all();
}

fn next(shared: &Shared) -> u64 {
    let mut number = lock(&shared.answered);
    *number += 1;
    *number
}

impl Worker {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A message to the app, or to Node when its `cmd` begins with `NODE_`.
    pub fn send(&self, message: &Value) {
        writeln!(lock(&self.channel), "{message}").expect("the worker's channel");
    }

    /// A message to the preload.
    pub fn act(&self, act: &str) {
        self.send(&json!({"cmd": OURS, "act": act}));
    }

    /// Asks for a drain of its one server, in milliseconds, and waits until that has stopped
    /// listening. Returns when it was asked for.
    #[track_caller]
    pub fn drain(&self, quiet: u64, within: u64) -> Instant {
        let begun = Instant::now();
        self.send(
            &json!({"cmd": OURS, "act": "drain", "quiet": quiet, "within": within,
            "hurry": false}),
        );
        self.wait("closed key", |m| {
            m["cmd"] == "NODE_CLUSTER" && m["act"] == "close"
        });
        begun
    }

    /// All messages so far that fit.
    pub fn said(&self, fits: impl Fn(&Value) -> bool) -> Vec<(Instant, Value)> {
        let inbox = lock(&self.shared.inbox);
        let fitting = inbox.messages.iter().filter(|(_, message)| fits(message));
        fitting.cloned().collect()
    }

    /// The first message that fits.
    #[track_caller]
    pub fn wait(&self, what: &str, fits: impl Fn(&Value) -> bool) -> (Instant, Value) {
        self.wait_nth(what, 1, fits)
    }

    /// The one that is the `nth`, from 1, of those that fit.
    #[track_caller]
    pub fn wait_nth(
        &self,
        what: &str,
        nth: usize,
        fits: impl Fn(&Value) -> bool,
    ) -> (Instant, Value) {
        let until = Instant::now() + WITHIN;
        let mut inbox = lock(&self.shared.inbox);
        loop {
            let mut fitting = inbox.messages.iter().filter(|(_, message)| fits(message));
            if let Some(found) = fitting.nth(nth - 1) {
                return found.clone();
            }
            let left = until.saturating_duration_since(Instant::now());
            let over = inbox.ended || left.is_zero();
            assert!(
                !over,
                "no {what} (ended: {}): {:#?}",
                inbox.ended, inbox.messages
            );
            let changed = self.shared.changed.wait_timeout(inbox, left);
            inbox = changed.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// A message of the preload.
    #[track_caller]
    pub fn wait_for(&self, act: &str) -> (Instant, Value) {
        self.wait(act, |message| {
            message["cmd"] == OURS && message["act"] == act
        })
    }

    /// What the app said: `{"event": name, …}`.
    #[track_caller]
    pub fn event(&self, name: &str) -> Value {
        self.wait(name, |message| message["event"] == name).1
    }

    pub fn events(&self, name: &str) -> usize {
        self.said(|message| message["event"] == name).len()
    }

    /// Has it said that it is drained?
    pub fn is_drained(&self) -> bool {
        !self
            .said(|m| m["cmd"] == OURS && m["act"] == "drained")
            .is_empty()
    }

    /// Waits for the first server that listens.
    #[track_caller]
    pub fn listening(&self) -> SocketAddr {
        let (_, message) = self.wait("listening", |m| m["act"] == "listening");
        let port = message["port"]
            .as_u64()
            .and_then(|port| u16::try_from(port).ok());
        SocketAddr::from(([127, 0, 0, 1], port.expect("a port")))
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        nix::sys::signal::kill(pid, signal).expect("kill");
    }

    /// Waits for its end.
    #[track_caller]
    pub fn exit(&mut self) -> ExitStatus {
        let until = Instant::now() + WITHIN;
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status;
            }
            let said = lock(&self.shared.inbox).messages.clone();
            assert!(Instant::now() < until, "it does not end: {said:#?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Ok(group) = i32::try_from(self.child.id()) {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}
