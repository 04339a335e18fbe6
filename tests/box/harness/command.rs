// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands with an end: what they printed and how they ended, or a kill.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use std::os::unix::process::ExitStatusExt;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// What was run, for messages.
    pub command: String,
    /// Exit code; 128 + N after signal N; 124 when it ran out of time.
    pub code: i32,
    /// Standard output; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
}

impl Output {
    /// Standard output without the line end. Panics unless the code is 0.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.code == 0, "expected success\n{self}");
        self.stdout.trim_end().to_string()
    }

    /// The output itself. Panics when the code is 0, or 124 (out of time).
    #[track_caller]
    pub fn fails(self) -> Self {
        assert!(!matches!(self.code, 0 | 124), "expected a failure\n{self}");
        self
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let late = if self.code == 124 {
            " (out of time)"
        } else {
            ""
        };
        writeln!(
            f,
            "$ {}\nexit code {}{late}",
            self.command.trim(),
            self.code
        )?;
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !text.trim().is_empty() {
                writeln!(f, "--- {name}\n{}", text.trim_end())?;
            }
        }
        Ok(())
    }
}

/// A command that runs in the background; killed when dropped.
#[derive(Debug)]
pub struct Task {
    command: String,
    child: Child,
    stdout: File,
    stderr: File,
}

impl Task {
    /// Starts `argv` on this machine with `stdin`. `command` is its name in
    /// messages. `argv` has to bring its own end: see [`within`].
    ///
    /// Output goes to files and not through pipes: what the command leaves in
    /// the background cannot hold up whoever waits for it.
    pub fn start(command: &str, argv: &[&str], stdin: &[u8]) -> Result<Self> {
        let mut input = tempfile::tempfile()?;
        input.write_all(stdin)?;
        input.rewind()?;
        let (stdout, stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
        let child = Command::new(argv[0])
            .args(&argv[1..])
            .stdin(input)
            .stdout(stdout.try_clone()?)
            .stderr(stderr.try_clone()?)
            .spawn()
            .with_context(|| format!("{} does not start", argv[0]))?;
        Ok(Self {
            command: command.to_string(),
            child,
            stdout,
            stderr,
        })
    }

    /// Waits until it ends, at most until its limit.
    #[track_caller]
    pub fn wait(mut self) -> Output {
        let status = self.child.wait().expect("our own child can be waited for");
        self.output(status)
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What it has printed to standard output until now.
    pub fn stdout(&self) -> String {
        text(&self.stdout)
    }

    /// Ends it (SIGTERM, two seconds later SIGKILL) and waits.
    pub fn stop(mut self) -> Output {
        self.terminate();
        self.wait()
    }

    fn terminate(&mut self) {
        if self.is_running() {
            // nsenter waits for its child, timeout(1), and would die without
            // telling it; timeout passes the signal on to what it runs.
            let own = self.child.id();
            let pid = first_child(own).unwrap_or(own);
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGTERM);
        }
    }

    fn output(&self, status: ExitStatus) -> Output {
        let code = status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        let (stdout, stderr) = (text(&self.stdout), text(&self.stderr));
        Output {
            command: self.command.clone(),
            code,
            stdout,
            stderr,
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.terminate();
        let _ = self.child.wait();
    }
}

/// All that is in `file`, wherever its (shared) offset stands.
fn text(file: &File) -> String {
    let mut bytes = Vec::new();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
    // Opened anew: reading through our own descriptor would move the writer.
    if let Ok(mut again) = File::open(path) {
        let _ = again.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The words that put an end to a command after `seconds`: SIGTERM to its
/// process group, two seconds later SIGKILL.
pub fn within(seconds: &str) -> [&str; 3] {
    ["timeout", "--kill-after=2", seconds]
}

/// The oldest child of a process (proc_pid_task_children(5)).
pub fn first_child(pid: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// Runs a helper of the harness on this machine and gives its output; an error
/// holds its last lines.
pub fn helper(argv: &[&str], limit: Duration) -> Result<String> {
    let seconds = limit.as_secs().to_string();
    let bounded = [&within(&seconds), argv].concat();
    let out = Task::start(&argv.join(" "), &bounded, b"")?.wait();
    anyhow::ensure!(out.code == 0, "{}", tail(&out.to_string(), 12));
    Ok(out.stdout)
}

/// The last `n` lines of `text`.
pub fn tail(text: &str, n: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(n)..].join("\n")
}

/// Whether `program` is found in PATH or where administrators' tools live.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<_> = std::env::split_paths(&path).collect();
    dirs.extend(["/usr/sbin", "/sbin"].map(Into::into));
    dirs.iter().any(|dir| dir.join(program).is_file())
}
