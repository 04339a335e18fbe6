// SPDX-License-Identifier: MIT OR Apache-2.0
//! The supervisor as PID 1 of a container without systemd: a PID namespace of
//! its own, made by unshare(1), which needs root.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

const BINARY: &str = env!("CARGO_BIN_EXE_app-cluster");
/// For everything that is waited for.
const WITHIN: Duration = Duration::from_secs(30);

const TESTS: &[(&str, fn())] = &[
    ("dev_drains_at_sigterm", dev_drains_at_sigterm),
    ("run_drains_at_sigterm", run_drains_at_sigterm),
    ("orphans_are_reaped", orphans_are_reaped),
];

fn main() -> ExitCode {
    let why = lacking();
    if let Some(why) = &why {
        eprintln!("skipped: {why}");
    }
    let trials = TESTS.iter().map(|(name, test)| {
        let test = *test;
        Trial::test(*name, move || {
            test();
            Ok(())
        })
        .with_ignored_flag(why.is_some())
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

/// Why PID namespaces cannot be made here.
fn lacking() -> Option<String> {
    if !geteuid().is_root() {
        return Some("a PID namespace needs root".into());
    }
    let mut probe = Command::new("unshare");
    probe.args(["--pid", "--fork", "--mount-proc", "true"]);
    match probe.output() {
        Ok(out) if out.status.success() => None,
        Ok(out) => Some(String::from_utf8_lossy(&out.stderr).trim().to_owned()),
        Err(error) => Some(format!("unshare: {error}")),
    }
}

/// A supervisor that is PID 1 where it lives; killed when dropped, with all in
/// its namespace.
struct Container {
    unshare: Child,
    /// Its process id out here.
    init: i32,
    directory: tempfile::TempDir,
}

impl Container {
    /// Runs `app-cluster` with `arguments`, in which `DIR` is a directory of the
    /// test's own, and waits until `DIR/sock` answers.
    fn start(arguments: &[&str], files: &[(&str, &str)]) -> Container {
        let directory = tempfile::tempdir().expect("tempdir");
        let dir = directory.path().to_str().expect("UTF-8").to_owned();
        let fill = |text: &str| text.replace("DIR", &dir).replace("BINARY", BINARY);
        for (name, text) in files {
            fs::write(directory.path().join(name), fill(text)).expect("write");
        }
        let log = fs::File::create(directory.path().join("log")).expect("log");
        let unshare = Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", "--mount-proc", BINARY])
            .args(arguments.iter().map(|a| fill(a)))
            .env_remove("NOTIFY_SOCKET")
            .env("RUNTIME_DIRECTORY", directory.path().join("run"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .expect("unshare");
        let mut new = Container {
            unshare,
            init: 0,
            directory,
        };
        new.wait_for("the supervisor", |c| {
            c.init = first_child(c.unshare.id()).unwrap_or(0);
            c.init != 0
        });
        new.wait_for("an answer", |c| c.get("/").is_ok());
        new
    }

    fn wait_for(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + WITHIN;
        while !condition(self) {
            let ended = self.unshare.try_wait().expect("wait");
            assert!(ended.is_none(), "waited for {what}, it ended: {ended:?}");
            assert!(Instant::now() < deadline, "waited for {what}, in vain");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn connect(&self) -> std::io::Result<UnixStream> {
        let stream = UnixStream::connect(self.directory.path().join("sock"))?;
        stream.set_read_timeout(Some(WITHIN))?;
        Ok(stream)
    }

    fn get(&self, path: &str) -> std::io::Result<String> {
        let mut stream = self.connect()?;
        ask(&mut stream, path)?;
        read(&mut stream)
    }

    fn terminate(&self) {
        kill(Pid::from_raw(self.init), Signal::SIGTERM).expect("kill");
    }

    fn end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + WITHIN;
        loop {
            if let Some(status) = self.unshare.try_wait().expect("wait") {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.directory.path().join("log"));
            eprintln!("{}", log.unwrap_or_default());
        }
    }
}

fn ask(stream: &mut UnixStream, path: &str) -> std::io::Result<()> {
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
}

fn read(stream: &mut UnixStream) -> std::io::Result<String> {
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    match text.starts_with("HTTP/1.1 200") {
        true => Ok(text),
        false => Err(std::io::Error::other(format!("answered {text:?}"))),
    }
}

/// proc_pid_task_children(5).
fn first_child(pid: u32) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// SIGTERM while a worker is answering: the answer comes, then the end, with 0.
fn drains(mut container: Container) {
    let mut slow = container.connect().expect("connect");
    ask(&mut slow, "/slow?ms=1500").expect("send");
    // The queue of a socket is in order: with a later connection answered, this
    // one has been accepted.
    container.get("/").expect("an answer");
    let begun = Instant::now();
    container.terminate();
    read(&mut slow).expect("the answer to the request in flight");
    let status = container.end();
    assert!(status.success(), "{status:?}");
    assert!(
        begun.elapsed() < Duration::from_secs(25),
        "it was not drained"
    );
    assert!(
        !container.directory.path().join("sock").exists(),
        "left its socket file"
    );
}

fn dev_drains_at_sigterm() {
    drains(Container::start(
        &["dev", "-w", "2", "-l", "unix:DIR/sock"],
        &[],
    ));
}

const CONFIG: &str = "command = ['BINARY', 'hello']\nworkers = 2\nlisten = ['unix:DIR/sock']\n";

fn run_drains_at_sigterm() {
    let arguments = ["run", "boxed", "--config", "DIR/config.toml"];
    drains(Container::start(&arguments, &[("config.toml", CONFIG)]));
}

/// Each worker leaves a grandchild behind that PID 1 inherits, and that says so
/// before it ends.
const LEAVES_ORPHANS: &str = r#"#!/bin/sh
(sh -c 'until [ "$(cut -d " " -f 4 /proc/$$/stat)" = 1 ]; do :; done
        echo >"DIR/adopted.$APP_CLUSTER_SLOT"' &)
exec BINARY hello
"#;

fn orphans_are_reaped() {
    let config = CONFIG.replace("'BINARY', 'hello'", "'sh', 'DIR/worker'");
    let files = [("config.toml", config.as_str()), ("worker", LEAVES_ORPHANS)];
    let mut container = Container::start(&["run", "boxed", "--config", "DIR/config.toml"], &files);
    let adopted =
        |c: &Container, slot: u8| Path::new(c.directory.path()).join(format!("adopted.{slot}"));
    container.wait_for("orphans of both workers", |c| {
        adopted(c, 0).exists() && adopted(c, 1).exists()
    });
    // Two workers and nothing else, alive or dead.
    container.wait_for("the orphans to be reaped", |c| children(c.init).len() == 2);
    assert_eq!(zombies(container.init), 0);
    container.terminate();
    assert!(container.end().success());
}

/// Process id and state of the children of `parent` (proc_pid_stat(5)).
fn children(parent: i32) -> Vec<(i32, char)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let state = fields.next()?.chars().next()?;
        (fields.next()?.parse() == Ok(parent)).then_some((pid, state))
    })
    .collect()
}

fn zombies(parent: i32) -> usize {
    children(parent)
        .iter()
        .filter(|(_, state)| *state == 'Z')
        .count()
}
