// SPDX-License-Identifier: MIT OR Apache-2.0
//! Nonsense in the variables that systemd sets, for `app-cluster run` by hand:
//! it serves or says what is wrong, and never panics. Random, with fixed seeds.

use std::cell::Cell;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

const BINARY: &str = env!("CARGO_BIN_EXE_app-cluster");
const WITHIN: Duration = Duration::from_secs(60);

/// A supervisor, killed when dropped (its workers end with their sockets' use:
/// it is asked to stop first).
struct Supervisor {
    child: Child,
    directory: tempfile::TempDir,
}

impl Supervisor {
    /// Runs with a clean environment and `variables`. `LISTEN_PID=own` is its pid.
    fn start(variables: &[(String, String)]) -> Supervisor {
        let directory = tempfile::tempdir().expect("tempdir");
        let config = directory.path().join("app.toml");
        let text = format!(
            "command = [\"{BINARY}\", \"hello\"]\nworkers = 1\nlisten = [\"127.0.0.1:0\"]\n"
        );
        std::fs::write(&config, text).expect("config");
        let error = std::fs::File::create(directory.path().join("stderr")).expect("file");
        // A shell, since only it knows the pid beforehand.
        let script = "if [ \"$LISTEN_PID\" = own ]; then export LISTEN_PID=$$; fi; exec \"$@\"";
        let child = Command::new("sh")
            .args(["-c", script, "sh", BINARY, "run", "app", "--config"])
            .arg(&config)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("RUNTIME_DIRECTORY", directory.path().join("run"))
            .envs(variables.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(error)
            .spawn()
            .expect("sh");
        Supervisor { child, directory }
    }

    /// Waits until its worker is ready (`true`) or it has ended (`false`).
    fn serves(&mut self) -> bool {
        let deadline = Instant::now() + WITHIN;
        while Instant::now() < deadline {
            if self.child.try_wait().expect("our child").is_some() {
                return false;
            }
            let control = self.directory.path().join("run/control");
            if status(&control).is_some_and(|text| text.contains("\"ready\":1")) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("neither serves nor ends: {}", self.said());
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("stderr")).unwrap_or_default()
    }

    /// Asks it to stop and gives its exit code.
    fn stop(&mut self) -> Option<i32> {
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        let deadline = Instant::now() + WITHIN;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("our child") {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("does not stop: {}", self.said());
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Twice: at once, workers included.
            for _ in 0..2 {
                let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT);
                std::thread::sleep(Duration::from_millis(200));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn status(control: &Path) -> Option<String> {
    let mut stream = UnixStream::connect(control).ok()?;
    stream.set_read_timeout(Some(WITHIN)).ok()?;
    let call = b"{\"method\":\"org.appcluster.Cluster1.GetStatus\"}\0";
    stream.write_all(call).ok()?;
    let mut bytes = Vec::new();
    let mut reader = BufReader::new(stream).take(1 << 20);
    reader.read_until(0, &mut bytes).ok()?;
    String::from_utf8(bytes).ok()
}

const NAMES: [&str; 7] = [
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "LISTEN_FDS_FIRST_FD",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
];

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just("own".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        (-3i64..40).prop_map(|n| n.to_string()),
        Just("18446744073709551616".to_owned()),
        "[ -~]{1,20}",
        "[@/]{1,2}[a-z/]{0,150}",
        "(:[a-z\\n]{0,3}){0,50}",
        "\\PC{1,10}",
    ]
}

#[test]
fn systemd_variables_of_all_kinds() {
    let full = std::env::var("APPC_FULL").is_ok_and(|v| v == "1");
    let config = Config {
        failure_persistence: None,
        cases: if full { 400 } else { 25 },
        max_shrink_iters: 0,
        ..Config::default()
    };
    let seed = TestRng::from_seed(RngAlgorithm::ChaCha, b"nonsense in systemd's variables!");
    let mut runner = TestRunner::new_with_rng(config, seed);
    let any_of_them = prop::collection::btree_map(prop::sample::select(&NAMES[..]), value(), 1..5);
    // Sockets are looked at only if they are for us.
    let variables = (any_of_them, prop::option::of(value())).prop_map(|(mut all, sockets)| {
        if let Some(sockets) = sockets {
            all.insert("LISTEN_PID", "own".to_owned());
            all.insert("LISTEN_FDS", sockets);
        }
        all
    });
    let (served, refused) = (Cell::new(0), Cell::new(0));
    let result = runner.run(&variables, |variables| {
        let variables: Vec<_> = variables
            .iter()
            .map(|(k, v)| (k.to_string(), v.clone()))
            .collect();
        let mut supervisor = Supervisor::start(&variables);
        let serves = supervisor.serves();
        let code = supervisor.stop();
        let said = supervisor.said();
        prop_assert!(!said.contains("panicked"), "{said}");
        if serves {
            served.set(served.get() + 1);
            prop_assert_eq!(code, Some(0), "{}", said);
        } else {
            refused.set(refused.get() + 1);
            prop_assert!(matches!(code, Some(1 | 78)), "{code:?} {said}");
            prop_assert!(said.contains("LISTEN_"), "does not say why: {said}");
        }
        Ok(())
    });
    result.expect("no panic, no silence");
    let (served, refused) = (served.get(), refused.get());
    assert!(
        served > 0 && refused > 0,
        "{served} served, {refused} refused"
    );
}

#[test]
fn a_watchdog_of_a_microsecond_is_no_busy_loop() {
    let directory = tempfile::tempdir().expect("tempdir");
    let path = directory.path().join("notify");
    let systemd = UnixDatagram::bind(&path).expect("bind");
    systemd.set_read_timeout(Some(WITHIN)).expect("timeout");
    for usec in ["0", "1", "999"] {
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let variables = [
            set("NOTIFY_SOCKET", &path.display().to_string()),
            set("WATCHDOG_USEC", usec),
        ];
        let mut supervisor = Supervisor::start(&variables);
        // Not a ping until it has said all that it says at a start and at the end.
        let mut told = String::new();
        let mut bytes = [0; 4096];
        let mut hear = |until: &str| {
            while !told.contains(until) {
                let length = systemd.recv(&mut bytes).expect("something is said");
                told += &String::from_utf8_lossy(&bytes[..length]);
            }
        };
        hear("READY=1");
        assert!(supervisor.serves());
        assert_eq!(supervisor.stop(), Some(0));
        hear("STOPPING=1");
        assert!(!told.contains("WATCHDOG=1"), "{told}");
        let said = supervisor.said();
        assert!(
            said.contains(&format!("WATCHDOG_USEC={usec} is too short")),
            "{said}"
        );
    }
}
