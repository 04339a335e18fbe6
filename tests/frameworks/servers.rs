// SPDX-License-Identifier: MIT OR Apache-2.0
//! Databases that examples use, each with data of its own and gone with the test.

use crate::dev::wait;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Redis on a port of its own.
#[derive(Debug)]
pub struct Redis {
    pub port: u16,
    child: Child,
    _home: tempfile::TempDir,
}

impl Redis {
    /// # Errors
    ///
    /// It is not installed.
    pub fn start() -> Result<Redis, String> {
        let home = tempfile::tempdir().expect("a temporary directory");
        // Another may take the port in the moment in which it is free.
        for _ in 0..5 {
            let free = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
            let port = free.expect("a free port").port();
            let mut command = Command::new("redis-server");
            command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
            command
                .args(["--port", &port.to_string()])
                .current_dir(home.path());
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let child = command.spawn();
            let mut child = child.map_err(|e| format!("no redis-server ({e})"))?;
            let up = wait("Redis answers, or ends", || match child.try_wait() {
                Ok(Some(_)) => Some(false),
                _ => pong(port).then_some(true),
            });
            if up {
                return Ok(Redis {
                    port,
                    child,
                    _home: home,
                });
            }
        }
        panic!("Redis does not start");
    }
}

fn pong(port: u16) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0; 7];
        stream.read_exact(&mut answer)?;
        Ok(&answer == b"+PONG\r\n")
    };
    ask().unwrap_or(false)
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// PostgreSQL on a unix socket in a directory of its own.
#[derive(Debug)]
pub struct PostgreSql {
    programs: PathBuf,
    home: tempfile::TempDir,
}

impl PostgreSql {
    /// # Errors
    ///
    /// It is not installed.
    pub fn start() -> Result<PostgreSql, String> {
        let all = std::fs::read_dir("/usr/lib/postgresql")
            .into_iter()
            .flatten()
            .flatten();
        let mut found = all
            .map(|entry| entry.path().join("bin"))
            .filter(|p| p.join("initdb").exists());
        let programs = found.next().ok_or("no PostgreSQL (package postgresql)")?;
        let home = tempfile::tempdir().expect("a temporary directory");
        let database = PostgreSql { programs, home };
        if nix::unistd::geteuid().is_root() {
            // As whom it refuses to run.
            run("chown", &["nobody", database.home()]);
        }
        database.call(
            "initdb",
            &["--auth=trust", "--username=postgres", "--no-sync"],
        );
        let options = format!(
            "-k {} -c listen_addresses= -c log_connections=on -c fsync=off",
            database.home()
        );
        let log = database.home.path().join("log");
        let log = log.to_str().expect("UTF-8");
        database.call(
            "pg_ctl",
            &["start", "--wait", "--timeout=60", "-l", log, "-o", &options],
        );
        Ok(database)
    }

    /// Where its socket is.
    pub fn directory(&self) -> &Path {
        self.home.path()
    }

    fn home(&self) -> &str {
        self.home.path().to_str().expect("UTF-8")
    }

    /// What it has written.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }

    /// Connections that clients have not closed as one should.
    pub fn lost_connections(&self) -> usize {
        self.log().matches("unexpected EOF").count() + self.log().matches("reset by peer").count()
    }

    fn call(&self, program: &str, arguments: &[&str]) {
        let program = self.programs.join(program);
        let data = self.home.path().join("data");
        let (program, data) = (
            program.to_str().expect("UTF-8"),
            data.to_str().expect("UTF-8"),
        );
        let words = [&["-D", data], arguments].concat();
        match nix::unistd::geteuid().is_root() {
            false => run(program, &words),
            true => {
                let user = ["--reuid=nobody", "--clear-groups", "--", program];
                run("setpriv", &[&user[..], &words].concat());
            }
        }
    }
}

fn run(program: &str, arguments: &[&str]) {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir("/")
        .stdin(Stdio::null());
    // Not a pipe: the server would keep it open.
    let said = tempfile::NamedTempFile::new().expect("a file");
    let out = || Stdio::from(said.reopen().expect("a file"));
    let status = command
        .stdout(out())
        .stderr(out())
        .status()
        .expect("it runs");
    let text = || std::fs::read_to_string(said.path()).unwrap_or_default();
    assert!(
        status.success(),
        "{program} {arguments:?}: {status}\n{}",
        text()
    );
}

impl Drop for PostgreSql {
    fn drop(&mut self) {
        let pid = std::fs::read_to_string(self.home.path().join("data/postmaster.pid"));
        let Some(pid) = pid.ok().and_then(|text| text.lines().next()?.parse().ok()) else {
            return;
        };
        let pid = nix::unistd::Pid::from_raw(pid);
        // Immediate shutdown.
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGQUIT);
        let deadline = Instant::now() + Duration::from_secs(10);
        while nix::sys::signal::kill(pid, None).is_ok() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
