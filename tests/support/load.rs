// SPDX-License-Identifier: MIT OR Apache-2.0
//! A load generator that counts what was lost. Threads with blocking sockets, nothing retried.
//!
//! Include it with `#[path = "support/load.rs"] mod load;`. A request counts as failed when the
//! connection was refused or timed out, ended before the whole answer, when the status is not 200,
//! the body is not JSON, or nothing came within [`LoadSpec::answer_within`]. A kept-alive
//! connection that the server closes without having said `Connection: close` is a failure as well:
//! that is the race a lossless drain has to win.

#![allow(dead_code)] // each test uses its part

#[path = "load_client.rs"]
mod client;
#[path = "load_crowd.rs"]
pub mod crowd;
#[path = "load_report.rs"]
mod report;

use client::enter_netns;
pub use report::{Failure, KEPT_FAILURES, KindReport, Report};

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// After a failure a client waits this long, so that a dead server is not hammered.
const AFTER_FAILURE: Duration = Duration::from_millis(10);

/// Where the server listens. For an IPv4 loopback address the clients bind source addresses all
/// over 127.0.0.0/8, so that no port runs out in TIME_WAIT.
#[derive(Clone, Debug)]
pub enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// What one client does, over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A connection for each request, which says `Connection: close`.
    NewConnection,
    /// One connection until the server says `Connection: close`.
    KeepAlive,
    /// `/slow?ms=N` over a kept-alive connection.
    Slow { ms: u32 },
    /// A POST whose body takes about 200 ms, on a new connection; every second one chunked.
    SlowPost,
}

/// Some clients (one thread each) of one kind.
#[derive(Clone, Copy, Debug)]
pub struct Clients {
    pub kind: Kind,
    pub threads: usize,
    /// At least this long from the start of one request to the start of the next, per thread.
    pub pace: Option<Duration>,
    /// From an answer to the next request of the same thread.
    pub think: Duration,
}

/// What to do. Build it with [`LoadSpec::tcp`] or [`LoadSpec::unix`] and [`LoadSpec::with`].
#[derive(Clone, Debug)]
pub struct LoadSpec {
    pub target: Target,
    /// The clients enter the network namespace of this process (needs CAP_SYS_ADMIN).
    pub netns: Option<i32>,
    /// The address that the clients bind, if not one after the other of 127.0.0.0/8.
    pub source: Option<IpAddr>,
    pub clients: Vec<Clients>,
    /// The path of all kinds but [`Kind::Slow`].
    pub path: String,
    /// Connecting and answering may take this long each.
    pub answer_within: Duration,
    /// Each kind stops by itself after this many requests.
    pub limit: Option<u64>,
    /// The body of [`Kind::SlowPost`] in bytes; a multiple of ten.
    pub post_bytes: usize,
}

impl LoadSpec {
    pub fn new(target: Target) -> LoadSpec {
        LoadSpec {
            target,
            netns: None,
            source: None,
            clients: Vec::new(),
            path: "/".into(),
            answer_within: Duration::from_secs(30),
            limit: None,
            post_bytes: 40,
        }
    }

    pub fn tcp(address: SocketAddr) -> LoadSpec {
        LoadSpec::new(Target::Tcp(address))
    }

    pub fn unix(path: impl Into<PathBuf>) -> LoadSpec {
        LoadSpec::new(Target::Unix(path.into()))
    }

    /// Adds clients that go as fast as they can.
    pub fn with(self, kind: Kind, threads: usize) -> LoadSpec {
        self.add(kind, threads, None, Duration::ZERO)
    }

    /// Adds clients that wait this long after each answer.
    pub fn with_think(self, kind: Kind, threads: usize, think: Duration) -> LoadSpec {
        self.add(kind, threads, None, think)
    }

    /// Adds clients of at most `per_second` requests a second each.
    pub fn with_pace(self, kind: Kind, threads: usize, per_second: u32) -> LoadSpec {
        let pace = Duration::from_secs(1) / per_second.max(1);
        self.add(kind, threads, Some(pace), Duration::ZERO)
    }

    fn add(mut self, kind: Kind, threads: usize, pace: Option<Duration>, think: Duration) -> Self {
        let clients = Clients {
            kind,
            threads,
            pace,
            think,
        };
        self.clients.push(clients);
        self
    }
}

/// How far the clients shall go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    /// Finish the current request.
    Stopping,
    /// Nobody wants the result any more.
    Abandoned,
}

/// What the threads share.
#[derive(Debug)]
struct Shared {
    started: Instant,
    phase: Mutex<Phase>,
    changed: Condvar,
}

impl Shared {
    fn phase(&self) -> Phase {
        *lock(&self.phase)
    }

    fn set(&self, phase: Phase) {
        let mut current = lock(&self.phase);
        *current = phase.max(*current);
        self.changed.notify_all();
    }

    /// Sleeps until then, or until the end of the load.
    fn pause_until(&self, until: Instant) {
        let phase = lock(&self.phase);
        let left = until.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            drop(
                self.changed
                    .wait_timeout_while(phase, left, |phase| *phase == Phase::Running),
            );
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Results = Arc<Mutex<KindReport>>;

/// A running load. Dropping it ends the threads within about a quarter of a second.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    results: Vec<(Kind, Results)>,
    ended: Option<Duration>,
}

impl Load {
    /// Starts all clients. Returns once each of them is in its network namespace.
    ///
    /// # Errors
    ///
    /// A thread could not be started or could not enter the namespace.
    pub fn start(spec: LoadSpec) -> io::Result<Load> {
        let mut load = Load {
            shared: Arc::new(Shared {
                started: Instant::now(),
                phase: Mutex::new(Phase::Running),
                changed: Condvar::new(),
            }),
            threads: Vec::new(),
            results: Vec::new(),
            ended: None,
        };
        let spec = Arc::new(spec);
        let (entered, all_entered) = mpsc::channel();
        for clients in &spec.clients {
            for index in 0..clients.threads {
                let results = Results::default();
                load.results.push((clients.kind, results.clone()));
                let share = |all: u64| {
                    let threads = clients.threads as u64;
                    all / threads + u64::from((index as u64) < all % threads)
                };
                let worker = Worker {
                    seed: load.results.len() as u64,
                    clients: *clients,
                    limit: spec.limit.map_or(u64::MAX, share),
                    spec: spec.clone(),
                    shared: load.shared.clone(),
                    results,
                };
                let entered = entered.clone();
                load.threads
                    .push(std::thread::Builder::new().spawn(move || {
                        let result = enter_netns(worker.spec.netns);
                        let run = result.is_ok();
                        let _ = entered.send(result);
                        drop(entered);
                        if run {
                            worker.run();
                        }
                    })?);
            }
        }
        drop(entered);
        all_entered.iter().collect::<io::Result<()>>()?;
        Ok(load)
    }

    /// What happened so far.
    pub fn snapshot(&self) -> Report {
        let elapsed = self.ended.unwrap_or_else(|| self.shared.started.elapsed());
        let mut report = Report {
            elapsed,
            kinds: BTreeMap::new(),
        };
        for (kind, results) in &self.results {
            report.kinds.entry(*kind).or_default().add(&lock(results));
        }
        report
    }

    /// Waits until each kind has finished this many requests since the start of the load, lost ones
    /// included.
    ///
    /// # Errors
    ///
    /// The report, if `within` was not enough.
    pub fn wait_for(&self, requests: u64, within: Duration) -> Result<(), String> {
        self.wait_until(within, |report| {
            report
                .kinds
                .values()
                .all(|kind| kind.ok + kind.failed >= requests)
        })
    }

    /// Waits until each kind has finished this many requests more than now.
    ///
    /// # Errors
    ///
    /// The report, if `within` was not enough.
    pub fn wait_for_more(&self, requests: u64, within: Duration) -> Result<(), String> {
        let before = self.snapshot();
        self.wait_until(within, |report| {
            report.kinds.iter().all(|(kind, now)| {
                let before = before
                    .kinds
                    .get(kind)
                    .map_or(0, |kind| kind.ok + kind.failed);
                now.ok + now.failed >= before + requests
            })
        })
    }

    /// Waits until the report satisfies `enough`; looks every 5 ms.
    ///
    /// # Errors
    ///
    /// The report, if `within` was not enough.
    pub fn wait_until(
        &self,
        within: Duration,
        mut enough: impl FnMut(&Report) -> bool,
    ) -> Result<(), String> {
        let deadline = Instant::now() + within;
        loop {
            let report = self.snapshot();
            if enough(&report) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(format!("not reached within {within:?}:\n{report}"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Lets each client finish its current request and returns the final report.
    pub fn stop(mut self) -> Report {
        self.ended = Some(self.shared.started.elapsed());
        self.shared.set(Phase::Stopping);
        self.join();
        self.snapshot()
    }

    fn join(&mut self) {
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.set(Phase::Abandoned);
        self.join();
    }
}

/// One thread's part.
struct Worker {
    seed: u64,
    clients: Clients,
    limit: u64,
    spec: Arc<LoadSpec>,
    shared: Arc<Shared>,
    results: Results,
}

impl Worker {
    fn run(&self) {
        let abandoned = || self.shared.phase() == Phase::Abandoned;
        let mut client =
            client::Client::new(self.spec.clone(), self.clients.kind, self.seed, &abandoned);
        let mut count = 0;
        while count < self.limit && self.shared.phase() == Phase::Running {
            count += 1;
            lock(&self.results).sent += 1;
            let start = Instant::now();
            let outcome = client.request();
            let failed = outcome.is_err();
            self.record(start, client.connections(), outcome);
            let pace = self.clients.pace.unwrap_or_default();
            let pause = if failed {
                pace.max(AFTER_FAILURE)
            } else {
                pace
            };
            let until = (start + pause).max(Instant::now() + self.clients.think);
            if !(pause.is_zero() && self.clients.think.is_zero()) {
                self.shared.pause_until(until);
            }
        }
    }

    fn record(&self, start: Instant, connections: u64, outcome: Result<client::Answer, String>) {
        let mut results = lock(&self.results);
        results.connections = connections;
        results.slowest = results.slowest.max(start.elapsed());
        match outcome {
            Ok(answer) => {
                results.ok += 1;
                if let Some(pid) = answer.pid {
                    *results.by_pid.entry(pid).or_default() += 1;
                }
                if let Some(generation) = answer.generation {
                    *results.by_generation.entry(generation).or_default() += 1;
                }
            }
            Err(text) => {
                results.failed += 1;
                if results.failures.len() < KEPT_FAILURES {
                    results.failures.push(Failure {
                        at: self.shared.started.elapsed(),
                        text,
                    });
                }
            }
        }
    }
}
