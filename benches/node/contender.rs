// SPDX-License-Identifier: MIT OR Apache-2.0
//! The same application of Node under different primaries.

use super::node_tools::{Node, packages};
use crate::{PATIENCE, Supervisor, free_address, until};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Nothing in it knows of a cluster.
const APP: &str = r#"const http = require('node:http');
const body = JSON.stringify({ pid: process.pid });
const headers = { 'Content-Type': 'application/json', 'Content-Length': body.length };
http.createServer((request, response) => {
  const answer = () => response.writeHead(200, headers).end(body);
  if (request.url === '/slow') setTimeout(answer, 50);
  else answer();
}).listen(Number(process.argv[2]), '127.0.0.1');
"#;

/// What people write around it: arguments are the port, the policy and the number of workers.
const PRIMARY: &str = r#"const cluster = require('node:cluster');
const [port, policy, workers] = process.argv.slice(2);
cluster.schedulingPolicy = cluster[policy];
cluster.setupPrimary({ exec: `${__dirname}/app.js`, args: [port] });
cluster.on('listening', () => console.log('listening'));
for (let n = 0; n < Number(workers); n += 1) cluster.fork();
"#;

const PM2: &str = "7.0.4";

/// Who shares out the connections.
#[derive(Clone, Copy, PartialEq)]
pub enum By {
    /// One process, nobody above it.
    Nobody,
    /// `node:cluster`, with this policy.
    Cluster(&'static str),
    Pm2,
    /// We, with this `balance`.
    Us(&'static str),
}

impl By {
    pub fn name(self) -> String {
        match self {
            By::Nobody => "a single process".to_owned(),
            By::Cluster(policy) => format!("node:cluster, {policy}"),
            By::Pm2 => format!("PM2 {PM2}"),
            By::Us(balance) => format!("app-cluster, {balance}"),
        }
    }
}

/// One that serves.
pub struct Contender {
    pub by: By,
    pub address: SocketAddrV4,
    /// The process whose children the workers are; of a single process, itself.
    pub root: u32,
    // Whatever of these there is ends with it; the directory last.
    _process: Process,
    _directory: tempfile::TempDir,
}

enum Process {
    Plain(Child),
    Pm2(Pm2),
    Ours(Supervisor),
}

impl Contender {
    /// Starts it and waits until all workers serve.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub fn start(by: By, node: &Node, workers: usize) -> Result<Contender, String> {
        let directory = tempfile::tempdir().map_err(|e| e.to_string())?;
        let app = directory.path().join("app.js");
        let primary = directory.path().join("primary.js");
        for (path, text) in [(&app, APP), (&primary, PRIMARY)] {
            fs::write(path, text).map_err(|e| e.to_string())?;
        }
        let SocketAddr::V4(mut address) = free_address() else {
            return Err("no IPv4 address".to_owned());
        };
        let port = address.port().to_string();
        let plain = |words: &[&str], listening: usize| {
            let log = directory.path().join("log");
            let out = File::create(&log).map_err(|e| e.to_string())?;
            let mut command = Command::new(&node.program);
            command.args(words).stdin(Stdio::null()).stdout(out);
            let child = command.spawn().map_err(|e| e.to_string())?;
            let process = Process::Plain(child);
            until(|| fs::read_to_string(&log).is_ok_and(|t| t.lines().count() >= listening));
            Ok::<Process, String>(process)
        };
        let process = match by {
            By::Nobody => plain(&[text(&app), &port], 0)?,
            By::Cluster(policy) => {
                let count = workers.to_string();
                plain(&[text(&primary), &port, policy, &count], workers)?
            }
            By::Pm2 => Process::Pm2(Pm2::start(node, directory.path(), &port, workers)?),
            By::Us(balance) => {
                let supervisor = Supervisor::of(|there| {
                    let (program, port) = (&node.program, there.port().to_string());
                    format!(
                        "command = [{program:?}, {app:?}, {port:?}]\nworkers = {workers}\n\
                         listen = [\"{there}\"]\nbalance = \"{balance}\"\nprotocol = \"node\"\n"
                    )
                });
                supervisor.wait_ready(workers);
                if let SocketAddr::V4(there) = supervisor.address {
                    address = there;
                }
                Process::Ours(supervisor)
            }
        };
        let root = match &process {
            Process::Plain(child) => child.id(),
            Process::Pm2(pm2) => pm2.daemon().ok_or("it has left no pm2.pid")?,
            Process::Ours(supervisor) => supervisor.child.id(),
        };
        let contender = Contender {
            by,
            address,
            root,
            _process: process,
            _directory: directory,
        };
        until(|| contender.serves());
        Ok(contender)
    }

    /// Whether there is somebody who may be in the way of connections.
    pub fn has_primary(&self) -> bool {
        self.by != By::Nobody
    }

    /// Whether a request is answered.
    fn serves(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(self.address) else {
            return false;
        };
        let request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let mut answer = String::new();
        stream.set_read_timeout(Some(PATIENCE)).is_ok()
            && stream.write_all(request).is_ok()
            && stream.read_to_string(&mut answer).is_ok()
            && answer.starts_with("HTTP/1.1 200")
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Process::Plain(child) = self {
            // Workers of `node:cluster` end with their channel.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// PM2, with a daemon of its own.
struct Pm2 {
    program: PathBuf,
    script: PathBuf,
    home: PathBuf,
}

impl Pm2 {
    fn start(node: &Node, directory: &Path, port: &str, workers: usize) -> Result<Pm2, String> {
        let there = packages(&format!("pm2-{PM2}"), &[&format!("pm2@{PM2}")])?;
        let pm2 = Pm2 {
            program: node.program.clone(),
            script: there.join("node_modules/pm2/bin/pm2"),
            home: directory.join("pm2"),
        };
        let (app, count) = (directory.join("app.js"), workers.to_string());
        // It returns when the workers listen.
        pm2.run(&["start", text(&app), "-i", &count, "--", port])?;
        Ok(pm2)
    }

    fn run(&self, words: &[&str]) -> Result<(), String> {
        let mut command = Command::new("timeout");
        command.arg(PATIENCE.as_secs().to_string());
        command.arg(&self.program).arg(&self.script).args(words);
        command
            .env("PM2_HOME", &self.home)
            .env("PM2_DISCRETE_MODE", "true");
        let out = command.stdin(Stdio::null()).output();
        let out = out.map_err(|e| e.to_string())?;
        match out.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&out.stderr).trim().to_owned()),
        }
    }

    fn daemon(&self) -> Option<u32> {
        let text = fs::read_to_string(self.home.join("pm2.pid")).ok()?;
        text.trim().parse().ok()
    }
}

impl Drop for Pm2 {
    fn drop(&mut self) {
        let daemon = self.daemon();
        if self.run(&["kill"]).is_ok() {
            return;
        }
        if let Some(pid) = daemon.and_then(|pid| i32::try_from(pid).ok()) {
            let pid = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL);
        }
    }
}
