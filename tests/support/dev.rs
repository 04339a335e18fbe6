// SPDX-License-Identifier: MIT OR Apache-2.0
//! A supervisor in the foreground, with a runtime directory and a port of its own, and
//! the means to watch it. Nothing that it has started outlives it, also after a panic.

#![allow(dead_code)] // each test uses its part

#[path = "dev_tools.rs"]
mod tools;

#[allow(unused_imports)] // each test uses its part
pub use tools::{Said, WITHIN, get, install, install_text, scale, wait};

use app_cluster::api::{SlotStatus, Status};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tools::{Lines, sockets_under};

pub const BINARY: &str = env!("CARGO_BIN_EXE_app-cluster");
/// Every process of a test carries it in its environment.
const MARK: &str = "APPC_TEST_MARK";

/// What to start. The home directory exists from the beginning.
pub struct Setup {
    pub home: tempfile::TempDir,
    pub name: String,
    verb: &'static str,
    arguments: Vec<String>,
    command: Vec<String>,
    environment: Vec<(String, String)>,
    stdin: Option<OwnedFd>,
    wrapper: Option<&'static str>,
}

impl Setup {
    pub fn new(name: &str) -> Setup {
        Setup {
            home: tempfile::tempdir().expect("a temporary directory"),
            name: name.to_owned(),
            verb: "dev",
            arguments: Vec::new(),
            command: Vec::new(),
            environment: Vec::new(),
            stdin: None,
            wrapper: None,
        }
    }

    /// An app `web` with this configuration; it listens on some port.
    pub fn with_config(text: &str) -> Setup {
        let setup = Setup::new("web");
        setup.write("app.toml", &with_directory(text, setup.home.path()));
        let file = setup.path("app.toml").display().to_string();
        setup.arguments(&["-c", &file])
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("a file");
    }

    pub fn arguments(mut self, more: &[&str]) -> Setup {
        self.arguments.extend(more.iter().map(|a| a.to_string()));
        self
    }

    pub fn workers(self, count: u32) -> Setup {
        self.arguments(&["-w", &count.to_string()])
    }

    /// The worker program, instead of `hello`.
    pub fn command(mut self, words: &[&str]) -> Setup {
        self.command = words.iter().map(|w| w.to_string()).collect();
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Setup {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// `run NAME` with the configuration, which has to say where to listen.
    pub fn run(mut self) -> Setup {
        let file = self.path("app.toml").display().to_string();
        self.verb = "run";
        self.arguments = vec![self.name.clone(), "--config".to_owned(), file];
        self
    }

    /// Starts it by a shell script that ends in `exec "$@"`.
    pub fn wrapper(mut self, script: &'static str) -> Setup {
        self.wrapper = Some(script);
        self
    }

    pub fn stdin(mut self, fd: OwnedFd) -> Setup {
        self.stdin = Some(fd);
        self
    }

    fn arrange(&self, mark: &str) -> Command {
        let mut command = match self.wrapper {
            None => Command::new(BINARY),
            Some(script) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", script, "sh", BINARY]);
                shell
            }
        };
        command.arg(self.verb);
        if self.verb == "dev" {
            command.args(["--name", &self.name]);
            if !self.arguments.iter().any(|a| a == "-l") {
                command.args(["-l", "127.0.0.1:0"]);
            }
        }
        command.args(&self.arguments);
        if !self.command.is_empty() {
            command.arg("--").args(&self.command);
        }
        tidy(&mut command, &self.name, self.home.path());
        command.env(MARK, mark).current_dir(self.home.path());
        command.envs(self.environment.iter().cloned());
        command
    }

    /// Starts it, without waiting for anything.
    pub fn spawn(mut self) -> Dev {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mark = format!("{}-{number}", std::process::id());
        let mut command = self.arrange(&mark);
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let stderr = OwnedFd::from(writer.try_clone().expect("a pipe"));
        let stdin = self.stdin.take().map_or(Stdio::null(), Stdio::from);
        command.stdin(stdin).stdout(writer).stderr(stderr);
        let child = command.spawn().expect("app-cluster starts");
        // Ours of the write end are in it.
        drop(command);
        let lines = Lines::default();
        let copy = lines.clone();
        std::thread::spawn(move || copy.read(reader));
        Dev {
            child,
            lines,
            mark,
            name: self.name,
            home: self.home,
        }
    }

    /// Starts it and waits until all workers are ready.
    pub fn start(self) -> Dev {
        let dev = self.spawn();
        dev.until("all ready", |s| {
            s.state == "running" && s.workers.ready == s.workers.desired
        });
        dev
    }
}

/// `text` with `directory`, ahead of any table.
fn with_directory(text: &str, directory: &Path) -> String {
    match text.contains("directory") {
        true => text.replace("[HOME]", &directory.display().to_string()),
        false => format!("directory = {directory:?}\n{text}"),
    }
}

/// Nothing of the machine's own arrangements, and a runtime directory under `home`.
pub fn tidy(command: &mut Command, name: &str, home: &Path) {
    for variable in [
        "LISTEN_FDS",
        "LISTEN_PID",
        "NOTIFY_SOCKET",
        "PORT",
        "WORKER_COUNT",
        "NODE_APP_INSTANCE",
        "CLICOLOR_FORCE",
        "JOURNAL_STREAM",
    ] {
        command.env_remove(variable);
    }
    command.env("XDG_RUNTIME_DIR", home);
    command.env("RUNTIME_DIRECTORY", home.join("run").join(name));
}

/// A supervisor under test.
pub struct Dev {
    child: Child,
    lines: Lines,
    mark: String,
    pub name: String,
    pub home: tempfile::TempDir,
}

impl Dev {
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("a file");
    }

    /// Replaces the configuration.
    pub fn configure(&self, text: &str) {
        self.write("app.toml", &with_directory(text, self.home.path()));
    }

    /// Everything it wrote so far.
    pub fn output(&self) -> String {
        self.lines.lock().0.join("\n")
    }

    /// How many lines it wrote so far.
    pub fn line_count(&self) -> usize {
        self.lines.lock().0.len()
    }

    /// Waits until each worker has answered that it is well. Until then it has not proved
    /// itself, and a bad answer is a failed start.
    pub fn until_well(&self) {
        let well = |slot: &SlotStatus| slot.health.as_deref() == Some("well");
        self.until("well", |status| status.slots.iter().all(well));
    }

    /// The first line with this in it.
    pub fn wait_for_line(&self, part: &str) -> String {
        self.wait_for_line_after(0, part)
    }

    /// The first line with this in it, after so many lines.
    pub fn wait_for_line_after(&self, count: usize, part: &str) -> String {
        let deadline = Instant::now() + WITHIN;
        let mut lines = self.lines.lock();
        loop {
            if let Some(line) = lines.0.iter().skip(count).find(|l| l.contains(part)) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let text = || lines.0.join("\n");
            assert!(!lines.1, "it ended without saying {part:?}:\n{}", text());
            assert!(!left.is_zero(), "it never said {part:?}:\n{}", text());
            let waited = self.lines.0.1.wait_timeout(lines, left);
            lines = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The app-cluster command, in the environment in which it finds this supervisor.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(arguments).env(MARK, &self.mark);
        tidy(&mut command, &self.name, self.home.path());
        command
    }

    pub fn cli(&self, arguments: &[&str]) -> Said {
        let output = self.command(arguments).output();
        Said::from(output.expect("app-cluster runs"))
    }

    /// `status --json`, if it answers.
    pub fn try_status(&self) -> Option<Status> {
        let said = self.cli(&["status", &self.name, "--json"]);
        (said.code == Some(0)).then(|| serde_json::from_str(&said.stdout).expect("a status"))
    }

    pub fn status(&self) -> Status {
        self.try_status().expect("a status")
    }

    /// Waits for a status.
    pub fn until(&self, what: &str, reached: impl Fn(&Status) -> bool) -> Status {
        let deadline = Instant::now() + WITHIN;
        loop {
            let status = self.try_status();
            if let Some(status) = status.as_ref().filter(|s| reached(s)) {
                return status.clone();
            }
            let late = Instant::now() >= deadline || self.lines.lock().1;
            assert!(!late, "{what}: {status:#?}\n{}", self.output());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn slot(&self, slot: usize) -> SlotStatus {
        self.status().slots[slot].clone()
    }

    /// Process ids by slot.
    pub fn pids(&self) -> Vec<i32> {
        let status = self.status();
        status.slots.iter().filter_map(|slot| slot.pid).collect()
    }

    /// The first TCP address it listens on.
    pub fn address(&self) -> SocketAddr {
        let status = self.status();
        let mut found = status
            .listeners
            .iter()
            .filter_map(|l| l.address.parse().ok());
        found.next().expect("a TCP listener")
    }

    pub fn get(&self, path: &str) -> serde_json::Value {
        let stream = TcpStream::connect(self.address()).expect("a connection");
        stream.set_read_timeout(Some(WITHIN)).expect("a timeout");
        get(stream, path).expect("an answer")
    }

    /// Asks until every worker has answered.
    pub fn everybody_answers(&self) {
        let mut pids: Vec<i64> = self.pids().iter().map(|p| i64::from(*p)).collect();
        wait("every worker answers", || {
            let pid = self.get("/")["pid"].as_i64();
            pids.retain(|p| Some(*p) != pid);
            pids.is_empty().then_some(())
        });
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("a signal");
    }

    /// Waits for its end, with everything it wrote.
    pub fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        let status = wait("the supervisor ends", || child.try_wait().expect("wait"));
        // Whoever has the pipe open yet is a process that should be gone.
        let lines = self.lines.clone();
        wait("its output ends", || lines.lock().1.then_some(()));
        status
    }

    /// Processes of this test that are there.
    pub fn processes(&self) -> Vec<i32> {
        let mark = format!("{MARK}={}", self.mark);
        let all = std::fs::read_dir("/proc").expect("/proc").flatten();
        all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid: &i32| {
                let environment = std::fs::read(format!("/proc/{pid}/environ"));
                let environment = environment.unwrap_or_default();
                environment.split(|b| *b == 0).any(|e| e == mark.as_bytes())
            })
            .collect()
    }

    /// Nothing is left of it: no process (one that has been killed may take a moment to
    /// die), no socket file.
    pub fn assert_gone(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let left = self.processes();
            if left.is_empty() {
                break;
            }
            let late = Instant::now() >= deadline;
            assert!(!late, "processes left: {left:?}\n{}", self.output());
            std::thread::sleep(Duration::from_millis(5));
        }
        let sockets = sockets_under(self.home.path());
        assert!(sockets.is_empty(), "left: {sockets:?}");
    }

    /// Ends it by SIGTERM; it has to succeed and leave nothing.
    pub fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.ended();
        assert!(status.success(), "{status}\n{}", self.output());
        self.assert_gone();
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // Those that were being started when we looked are found the next time.
        for _ in 0..100 {
            let left = self.processes();
            for pid in &left {
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
            let _ = self.child.try_wait();
            if left.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
