// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting, and what supervisors, commands and workers say.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longest that anything may take that takes a moment: the machine may be busy.
pub const WITHIN: Duration = Duration::from_secs(60);

/// What a supervisor writes, line by line.
#[derive(Clone, Default)]
pub struct Lines(pub Arc<Shared>);

/// The lines so far and whether there will be more, and what tells of a change.
type Shared = (Mutex<(Vec<String>, bool)>, Condvar);

impl Lines {
    pub fn lock(&self) -> MutexGuard<'_, (Vec<String>, bool)> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn read(self, from: impl Read) {
        for line in BufReader::new(from).split(b'\n') {
            let Ok(line) = line else { break };
            let line = String::from_utf8_lossy(&line).into_owned();
            self.lock().0.push(line);
            self.0.1.notify_all();
        }
        self.lock().1 = true;
        self.0.1.notify_all();
    }
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Said {
        Said {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Said {
    #[track_caller]
    pub fn succeeded(self) -> Said {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    #[track_caller]
    pub fn failed(self, code: i32, parts: &[&str]) -> Said {
        assert_eq!(self.code, Some(code), "{self:#?}");
        for part in parts {
            assert!(self.stderr.contains(part), "no {part:?} in {self:#?}");
        }
        self
    }
}

/// One request; the body as JSON.
pub fn get(mut stream: impl Read + Write, path: &str) -> Result<serde_json::Value, String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let failed = |e: std::io::Error| e.to_string();
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(failed)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or("no whole head")?;
    assert!(head.starts_with("HTTP/1.1 200"), "{text}");
    serde_json::from_str(body).map_err(|e| format!("{e}: {text}"))
}

/// `full` when every requirement is to be met as written (`APPC_FULL=1`).
pub fn scale<T>(full: T, reduced: T) -> T {
    match std::env::var_os("APPC_FULL").is_some_and(|v| v == "1") {
        true => full,
        false => reduced,
    }
}

/// Looks every few milliseconds until `found` is there.
pub fn wait<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + WITHIN;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {WITHIN:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Socket files in a directory and below.
pub fn sockets_under(directory: &Path) -> Vec<PathBuf> {
    use std::os::unix::fs::FileTypeExt;
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(sockets_under(&entry.path())),
            Ok(kind) if kind.is_socket() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}

/// Copies a program to where it can be executed, by a process of its own: another thread
/// may be starting something at any time, and what it starts would have the copy open for
/// writing for a moment, which makes it busy (ETXTBSY of execve(2)).
pub fn install(from: &Path, to: &Path) {
    let new = to.with_extension("new");
    let mut install = std::process::Command::new("install");
    install.args(["-m", "755"]).arg(from).arg(&new);
    assert!(install.status().expect("install(1)").success());
    std::fs::rename(&new, to).expect("a program in place");
}

/// Writes a program of this text to where it can be executed.
pub fn install_text(to: &Path, text: &str) {
    let source = to.with_extension("source");
    std::fs::write(&source, text).expect("a file");
    install(&source, to);
}
