// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tests of the supervisor's fate have in common: the apps, those who talk to
//! them for long, and what takes the supervisor away.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{TestBox, scale};
use crate::load::crowd::Crowd;
use crate::load::{Kind, Load};
use crate::service::{LONG, SERVICE, clients, hello, status};
use crate::websockets::WebSocket;

/// Workers of each app.
pub const SLOTS: usize = 3;
/// WebSockets that are open at once.
const OPEN: usize = 8;

/// Which program serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum App {
    /// The built-in worker.
    Hello,
    /// `workers/fate.js`: an unmodified server on a channel to the supervisor.
    Node,
    /// The example for gunicorn: sockets by LISTEN_FDS, one request at a time.
    Gunicorn,
}

/// How long a long answer takes.
pub fn long_answer() -> Kind {
    Kind::Slow {
        ms: scale(30_000, 6_000) as u32,
    }
}

impl App {
    /// Puts it where the service finds it, and starts that.
    #[track_caller]
    pub fn start(self, b: &TestBox, balance: &str) {
        let config = match self {
            App::Hello => hello(SLOTS),
            App::Node => {
                b.write("/srv/fate/fate.js", include_str!("workers/fate.js"));
                format!(
                    "command = \"node fate.js\"\ndirectory = \"/srv/fate\"\nworkers = {SLOTS}\n"
                )
            }
            App::Gunicorn => {
                let app = include_str!("../../examples/listen-fds/gunicorn/app.py");
                b.write("/srv/fate/app.py", app);
                format!(
                    "command = [\"gunicorn\", \"--workers\", \"1\", \"--preload\", \"app:app\"]\n\
                     directory = \"/srv/fate\"\nworkers = {SLOTS}\n"
                )
            }
        };
        let keys = "drain_timeout = \"90s\"\nstart_timeout = \"60s\"\n";
        let lines = crate::lines::on(balance, SLOTS + 1);
        crate::lines::start(b, &(config + keys + &lines));
    }

    /// Clients of every kind that it can serve.
    #[track_caller]
    pub fn load(self, b: &TestBox) -> Load {
        let pace = scale(200, 40) as u32;
        let mut spec = clients(b).with_pace(Kind::NewConnection, 3, pace);
        if self != App::Gunicorn {
            spec = spec
                .with_pace(Kind::SlowPost, 1, 2)
                .with_pace(Kind::KeepAlive, 2, pace)
                .with_think(Kind::KeepAlive, 4, Duration::from_millis(300))
                .with(Kind::Slow { ms: 300 }, 3)
                .with(long_answer(), 2);
        }
        let quick: Vec<Kind> = spec.clients.iter().map(|c| c.kind).collect();
        let load = Load::start(spec).expect("a load");
        let answered = load.wait_until(LONG, |report| {
            let mut quick = quick.iter().filter(|kind| **kind != long_answer());
            quick.all(|kind| report.kinds[kind].ok > 0)
        });
        answered.expect("first answers");
        load
    }

    /// WebSockets that are talked over all the time, if it serves some.
    #[track_caller]
    pub fn talks(self, b: &TestBox) -> Option<Talks> {
        (self == App::Node).then(|| Talks::begin(b))
    }
}

/// WebSockets over which something is said every now and then.
pub struct Talks {
    thread: Option<JoinHandle<Vec<WebSocket>>>,
    stop: Arc<AtomicBool>,
    said: Arc<AtomicU64>,
}

impl Talks {
    fn begin(b: &TestBox) -> Talks {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 3000));
        let open = || Ok((0..OPEN).map(|_| WebSocket::open(address)).collect());
        let mut sockets: Vec<WebSocket> = Crowd::new(clients(b)).there(open).expect("a network");
        let (stop, said) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (ended, count) = (stop.clone(), said.clone());
        // The sockets are in the box's network wherever the thread is.
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                for socket in &mut sockets {
                    let text = format!("number {}", count.fetch_add(1, Ordering::Relaxed));
                    assert_eq!(socket.echo(&text), text);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            sockets
        });
        let thread = Some(thread);
        Talks { thread, stop, said }
    }

    /// How often something was said until now.
    pub fn said(&self) -> u64 {
        self.said.load(Ordering::Relaxed)
    }

    /// None was closed, all that was said was answered.
    #[track_caller]
    pub fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it runs");
        match thread.join() {
            Ok(sockets) => assert_eq!(sockets.len(), OPEN),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Talks {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What takes the supervisor away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// `kill -9`.
    Kill,
    /// The signal to execute its program again.
    Signal,
    /// The command that has it do so.
    Upgrade,
}

/// Which supervisor it is, one after the other.
pub fn incarnation(status: &Value) -> u64 {
    status["incarnation"].as_u64().expect("a number")
}

/// Process ids and restarts of the workers, by slot; each is ready.
#[track_caller]
pub fn workers(status: &Value) -> Vec<(i64, u64)> {
    let slots = status["slots"].as_array().expect("slots");
    let worker = |slot: &Value| {
        assert_eq!(slot["state"], "ready", "{status:#}");
        assert_eq!(slot["draining"], Value::Array(vec![]), "{status:#}");
        let restarts = slot["restarts"].as_u64().expect("a number");
        (slot["pid"].as_i64().expect("a pid"), restarts)
    };
    slots.iter().map(worker).collect()
}

/// Strikes, and waits until the next supervisor answers; whoever asks meanwhile has an
/// answer. The same workers are there.
#[track_caller]
pub fn survive(b: &TestBox, blow: Blow) {
    let before = status(b);
    let main = b.show(SERVICE, "MainPID");
    match blow {
        Blow::Kill => b.run(&["kill", "-KILL", &main]).ok(),
        Blow::Signal => b
            .run(&[
                "systemctl",
                "kill",
                "-s",
                "USR2",
                "--kill-whom=main",
                SERVICE,
            ])
            .ok(),
        Blow::Upgrade => b.run(&["app-cluster", "upgrade"]).ok(),
    };
    // The command waits for the next one, and nobody answers who was killed.
    let mut after = status(b);
    if blow == Blow::Signal {
        b.wait_until("the next supervisor", || {
            after = status(b);
            incarnation(&after) != incarnation(&before)
        });
    }
    assert_eq!(incarnation(&after), incarnation(&before) + 1, "{after:#}");
    let how = match blow {
        Blow::Kill => "crash",
        Blow::Signal | Blow::Upgrade => "re-exec",
    };
    assert_eq!(after["taken_over"]["how"], how, "{after:#}");
    assert_eq!(workers(&after), workers(&before), "{blow:?}");
    is_active(b);
    let same = b.show(SERVICE, "MainPID") == main;
    assert_eq!(same, blow != Blow::Kill, "{blow:?}");
}

/// Requests are answered all the time, the long ones apart.
#[track_caller]
pub fn more(load: &Load) {
    let before = load.snapshot().total();
    let enough = before.ok + before.failed + 20;
    let done = load.wait_until(LONG, |now| now.total().ok + now.total().failed >= enough);
    done.expect("requests");
}

/// systemd says so, at once after what it takes to start a process.
#[track_caller]
pub fn is_active(b: &TestBox) {
    b.wait_until("the service to be active", || {
        b.run(&["systemctl", "is-active", SERVICE]).stdout == "active\n"
    });
}

/// Nothing has gone wrong inside.
#[track_caller]
pub fn is_unharmed(b: &TestBox) {
    let journal = b.journal(&["-u", SERVICE]);
    for word in ["panicked", "cannot keep what", "219/CGROUP"] {
        assert!(!journal.contains(word), "{word}\n{journal}");
    }
    assert_eq!(b.sh("systemctl --failed --plain --no-legend").ok(), "");
}
