// SPDX-License-Identifier: MIT OR Apache-2.0
//! `make bench`: one table of what supervision costs, each number beside its goal.
//!
//! Machines are shared and noisy: times are medians of several runs, throughput is a
//! ratio of two set-ups measured in turn within one run. Nothing here is asserted.

#[path = "../tests/box"]
mod boxes {
    #[allow(dead_code, unused_imports, unused_macros, reason = "tools for tests")]
    pub mod harness;
}
mod fate;
#[path = "../tests/support/load.rs"]
mod load;
mod node;

use boxes::harness;

use load::{Kind, Load, LoadSpec};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_app-cluster");
/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    // `cargo test --benches` asks for a quick look only.
    if std::env::args().any(|a| a == "--test") {
        return;
    }
    let mut table = Table::default();
    // `cargo bench --bench table -- node`: this part alone.
    if std::env::args().any(|a| a == "node") {
        node::measure(&mut table);
        return table.print();
    }
    // Likewise, after `make deb`.
    if std::env::args().any(|a| a == "fate") {
        fate::measure(&mut table);
        return table.print();
    }
    start_times(&mut table);
    crash_times(&mut table);
    generator_time(&mut table);
    memory(&mut table);
    idle(&mut table);
    throughput(&mut table);
    node::measure(&mut table);
    fate::measure(&mut table);
    table.print();
}

#[derive(Default)]
struct Table(Vec<[String; 4]>);

impl Table {
    fn row(&mut self, what: &str, value: String, goal: &str, how: &str) {
        eprintln!("  {what}: {value}");
        self.0.push([what, &value, goal, how].map(str::to_owned));
    }

    fn print(&self) {
        println!("| what | measured | goal | how |\n|---|---|---|---|");
        for row in &self.0 {
            println!("| {} |", row.join(" | "));
        }
    }
}

/// A supervisor without systemd, in a directory of its own.
struct Supervisor {
    child: Child,
    directory: tempfile::TempDir,
    address: SocketAddr,
    began: Instant,
}

impl Supervisor {
    fn start(workers: usize) -> Supervisor {
        Supervisor::of(|address| {
            format!(
                "command = [{BINARY:?}, \"hello\"]\nworkers = {workers}\n\
                 listen = [\"{address}\"]\n"
            )
        })
    }

    /// With this configuration, which is told the address.
    fn of(text: impl FnOnce(SocketAddr) -> String) -> Supervisor {
        let home = tempfile::tempdir().expect("a directory");
        let directory = home.path();
        let address = free_address();
        let config = directory.join("bench.toml");
        fs::write(&config, text(address)).expect("a configuration");
        let began = Instant::now();
        let child = Command::new(BINARY)
            .args(["run", "bench", "--config"])
            .arg(&config)
            .env("RUNTIME_DIRECTORY", directory)
            .stderr(fs::File::create(directory.join("log")).expect("a log"))
            .stdin(Stdio::null())
            .spawn()
            .expect("a supervisor");
        Supervisor {
            child,
            directory: home,
            address,
            began,
        }
    }

    /// Process ids of the workers.
    fn children(&self) -> Vec<i32> {
        let pid = self.child.id();
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let text = text.unwrap_or_default();
        text.split_whitespace()
            .filter_map(|p| p.parse().ok())
            .collect()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn wait_ready(&self, workers: usize) -> Duration {
        until(|| {
            let log = self.log();
            assert!(!log.contains("error:"), "{log}");
            log.matches("is ready").count() >= workers
        });
        self.began.elapsed()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let _ = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        let ended = Instant::now();
        while self.child.try_wait().is_ok_and(|s| s.is_none()) {
            if ended.elapsed() > PATIENCE {
                let _ = self.child.kill();
            }
            std::thread::yield_now();
        }
    }
}

fn free_address() -> SocketAddr {
    let probe = TcpListener::bind("127.0.0.1:0").expect("a port");
    probe.local_addr().expect("its address")
}

/// Watches as closely as one core allows.
fn until(condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "it took too long");
        std::thread::yield_now();
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn millis(values: &[Duration]) -> f64 {
    median(values.iter().map(|d| d.as_secs_f64() * 1e3).collect())
}

fn start_times(table: &mut Table) {
    let (mut spawned, mut ready) = (Vec::new(), Vec::new());
    for _ in 0..9 {
        let supervisor = Supervisor::start(4);
        until(|| supervisor.children().len() == 4);
        spawned.push(supervisor.began.elapsed());
        ready.push(supervisor.wait_ready(4));
    }
    let how = "median of 9, from exec of the supervisor";
    let value = format!("{:.1} ms", millis(&spawned));
    table.row("start → 4 workers spawned", value, "< 20 ms", how);
    table.row(
        "start → 4 workers ready",
        format!("{:.1} ms", millis(&ready)),
        "",
        how,
    );

    let supervisor = Supervisor::start(100);
    until(|| !supervisor.children().is_empty());
    let first = Instant::now();
    until(|| supervisor.children().len() == 100);
    let each = first.elapsed().as_secs_f64() * 1e3 / 99.0;
    let how = "100 workers in a row, mean";
    table.row("spawn latency, each", format!("{each:.2} ms"), "", how);
}

fn crash_times(table: &mut Table) {
    let mut times = Vec::new();
    for _ in 0..11 {
        // A first crash has no pause; so each takes a fresh supervisor.
        let supervisor = Supervisor::start(4);
        supervisor.wait_ready(4);
        let before = supervisor.children();
        let victim = nix::unistd::Pid::from_raw(before[0]);
        let killed = Instant::now();
        nix::sys::signal::kill(victim, nix::sys::signal::SIGKILL).expect("kill");
        until(|| supervisor.children().iter().any(|p| !before.contains(p)));
        times.push(killed.elapsed());
    }
    let value = format!("{:.2} ms", millis(&times));
    let how = "median of 11, SIGKILL → new process";
    table.row("crash → replacement spawned", value, "≤ 3 ms", how);
}

/// What a boot and each `daemon-reload` wait for.
fn generator_time(table: &mut Table) {
    const FILES: usize = 500;
    let folder = std::env::temp_dir().join(format!("app-cluster-bench-{}", std::process::id()));
    let configuration = folder.join("configuration");
    fs::create_dir_all(&configuration).expect("a directory");
    for number in 0..FILES {
        let port = 10_000 + number;
        let text = format!(
            "command = [\"node\", \"server.js\"]\ndirectory = \"/srv/app{number}\"\n\
             listen = {{ http = \"127.0.0.1:{port}\", admin = \"unix:/run/app{number}/admin\" }}\n\
             balance = \"even\"\nmax_workers = 16\nuser = \"app{number}\"\nsandbox = \"strict\"\n"
        );
        let path = configuration.join(format!("app{number}.toml"));
        fs::write(path, text).expect("a configuration");
    }
    let mut times = Vec::new();
    for number in 0..11 {
        let began = Instant::now();
        let (kept, made) = (folder.join("kept"), folder.join(number.to_string()));
        app_cluster::units::generator::run(&configuration, &kept, &made, &made);
        times.push(began.elapsed());
        let units = fs::read_dir(&made).map_or(0, |found| found.count());
        assert_eq!(units, 3 * FILES + 2, "something is missing");
    }
    let _ = fs::remove_dir_all(&folder);
    let value = format!("{:.0} ms", millis(&times));
    let how = "median of 11, each with two listeners";
    table.row("units of 500 apps generated", value, "-", how);
}

/// Lines of /proc/PID/status, as numbers.
fn status(path: &Path, field: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix(field))
        .unwrap_or_default();
    let digits: String = line.chars().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}

fn memory(table: &mut Table) {
    for (workers, goal) in [(4, "< 6 MB"), (100, "< 8 MB")] {
        let supervisor = Supervisor::start(workers);
        supervisor.wait_ready(workers);
        let path = PathBuf::from(format!("/proc/{}/status", supervisor.child.id()));
        let megabytes = status(&path, "VmRSS:") as f64 / 1024.0;
        let what = format!("supervisor RSS, {workers} workers");
        table.row(&what, format!("{megabytes:.1} MB"), goal, "VmRSS");
    }
}

fn switches(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten();
    let tasks = tasks.flatten().map(|t| t.path().join("status"));
    tasks
        .map(|path| status(&path, "voluntary_ctxt_switches:"))
        .sum()
}

fn idle(table: &mut Table) {
    let supervisor = Supervisor::start(4);
    supervisor.wait_ready(4);
    let settle = Instant::now();
    until(|| settle.elapsed() > Duration::from_secs(2));
    let before = switches(supervisor.child.id());
    std::thread::sleep(Duration::from_secs(20));
    let woken = (switches(supervisor.child.id()) - before) * 3;
    let how = "all threads, 20 s × 3, no watchdog";
    table.row("idle wake-ups per minute", woken.to_string(), "0", how);
}

/// Two `hello` workers on one socket, with nobody above them. Each has a session of its
/// own, as under the supervisor: the kernel shares out processors by session (sched(7),
/// "The autogroup feature"), and the clients are another.
struct Bare(Vec<Child>);

impl Bare {
    fn start() -> (Bare, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("non-blocking");
        // The backlog that the supervisor's sockets have.
        let backlog = nix::sys::socket::Backlog::new(4096).expect("a backlog");
        nix::sys::socket::listen(&listener, backlog).expect("listen");
        let address = listener.local_addr().expect("its address");
        let script =
            "exec 3<&0 </dev/null; exec setsid env LISTEN_PID=$$ LISTEN_FDS=1 \"$0\" hello";
        let workers = (0..2).map(|_| {
            let socket: OwnedFd = listener.try_clone().expect("a copy").into();
            let mut command = Command::new("sh");
            command.args(["-c", script, BINARY]).stdin(socket);
            command.spawn().expect("a worker")
        });
        (Bare(workers.collect()), address)
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Requests a second for a while.
fn rate(address: SocketAddr, kind: Kind) -> f64 {
    let load = Load::start(LoadSpec::tcp(address).with(kind, 16)).expect("clients");
    std::thread::sleep(Duration::from_secs(3));
    load.stop().rate(kind)
}

fn throughput(table: &mut Table) {
    let supervisor = Supervisor::start(2);
    supervisor.wait_ready(2);
    let (_bare, bare) = Bare::start();
    for (name, kind) in [
        ("keep-alive", Kind::KeepAlive),
        ("new connections", Kind::NewConnection),
    ] {
        let mut ratios = Vec::new();
        let mut rates = Vec::new();
        for _ in 0..5 {
            let alone = rate(bare, kind);
            let supervised = rate(supervisor.address, kind);
            ratios.push(supervised / alone);
            rates.push(supervised);
        }
        let what = format!("requests/s against the bare workers, {name}");
        let value = format!("{:.2}× ({:.0}/s)", median(ratios), median(rates));
        table.row(
            &what,
            value,
            "≥ 0.98×",
            "median of 5 pairs, 2 workers, 16 clients",
        );
    }
}
