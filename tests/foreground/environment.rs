// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a worker finds: environment, descriptors, signals, session, sockets.

use crate::dev::{Dev, Setup, WITHIN, get};
use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;

/// The environment that a process was started with.
pub fn environment(pid: i32) -> BTreeMap<String, String> {
    let bytes = std::fs::read(format!("/proc/{pid}/environ")).expect("an environment");
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let pairs = text.split('\0').filter_map(|pair| pair.split_once('='));
    pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

fn first_pid(dev: &Dev) -> i32 {
    dev.pids()[0]
}

#[test]
fn the_variables_of_a_worker() {
    let dev = Setup::new("web").workers(2).start();
    let port = dev.address().port().to_string();
    dev.cli(&["reload", "web"]).succeeded();
    for (slot, pid) in dev.pids().into_iter().enumerate() {
        let found = environment(pid);
        let notify = dev.path("run/web/notify").display().to_string();
        for (name, value) in [
            ("APP_CLUSTER_NAME", "web"),
            ("APP_CLUSTER_SLOT", &slot.to_string()),
            ("APP_CLUSTER_WORKERS", "2"),
            ("APP_CLUSTER_GENERATION", "2"),
            ("NODE_APP_INSTANCE", &slot.to_string()),
            ("WORKER_COUNT", "2"),
            ("PORT", &port),
            ("LISTEN_FDS", "1"),
            ("LISTEN_PID", &pid.to_string()),
        ] {
            assert_eq!(found.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(found["NOTIFY_SOCKET"].starts_with(&notify), "{found:?}");
    }
    dev.stop();
}

#[test]
fn what_the_operator_sets_is_left_alone() {
    let dev = Setup::with_config(
        "command = [\"sh\", \"-c\", \"sleep 1000\"]\nworkers = 1\nready = { delay = \"10ms\" }\n\
         environment_files = [\"env\"]\nenvironment = { PORT = \"1\", LOCAL = \"a b\" }\n",
    );
    dev.write("env", "PORT=2\nWORKER_COUNT=77\nQUOTED=\"x # y\"\n");
    let dev = dev
        .env("NODE_APP_INSTANCE", "blue")
        .env("WATCHDOG_USEC", "garbage")
        .start();
    let found = environment(first_pid(&dev));
    for (name, value) in [
        ("PORT", "1"),
        ("LOCAL", "a b"),
        ("WORKER_COUNT", "77"),
        ("QUOTED", "x # y"),
        ("NODE_APP_INSTANCE", "blue"),
        ("APP_CLUSTER_WORKERS", "1"),
    ] {
        assert_eq!(found.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert_eq!(found.get("WATCHDOG_USEC"), None);
    dev.wait_for_line("WATCHDOG_USEC=\"garbage\" is not a number");
    dev.stop();
}

#[test]
fn signals_descriptors_and_session_of_a_worker() {
    let wrapper = "exec 7</dev/null 9</dev/null; trap '' PIPE HUP INT TERM; exec \"$@\"";
    let dev = Setup::new("web")
        .workers(1)
        .arguments(&["-l", "one=127.0.0.1:0", "-l", "two=127.0.0.1:0"])
        .wrapper(wrapper)
        .command(&["sh", "-c", "echo $$; exec sleep 1000"])
        .spawn();
    dev.wait_for_line("started");
    let pid = first_pid(&dev);
    dev.wait_for_line(&format!("| {pid}"));
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    for set in ["SigBlk", "SigIgn"] {
        let line = status.lines().find(|l| l.starts_with(set)).expect("a line");
        let mask = line.rsplit('\t').next().expect("a mask");
        let mask = u64::from_str_radix(mask, 16).expect("a mask");
        // 32 and 33 are the C library's own; posix_spawn(3) of glibc ignores them.
        assert_eq!(mask & !(0b11 << 31), 0, "{line}");
    }
    let mut descriptors = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("fd")
        .flatten()
    {
        let target = std::fs::read_link(entry.path()).expect("a link");
        let number: u32 = entry.file_name().to_string_lossy().parse().expect("fd");
        descriptors.push((number, target.display().to_string()));
    }
    descriptors.sort();
    let kinds: Vec<(u32, &str)> = descriptors
        .iter()
        .map(|(n, target)| (*n, target.split(':').next().unwrap_or_default()))
        .collect();
    let expected = [
        (0, "/dev/null"),
        (1, "pipe"),
        (2, "pipe"),
        (3, "socket"),
        (4, "socket"),
    ];
    assert_eq!(kinds, expected);
    assert_eq!(environment(pid)["LISTEN_FDNAMES"], "one:two");
    // A session of its own.
    let own = nix::unistd::Pid::from_raw(pid);
    assert_eq!(nix::unistd::getsid(Some(own)), Ok(own));
    assert_eq!(nix::unistd::getpgid(Some(own)), Ok(own));
}

#[test]
fn directory_and_program_are_found_anew() {
    let setup = Setup::with_config(
        "command = [\"bin/app\", \"x\"]\ndirectory = \"[HOME]/current\"\nworkers = 2\n\
         canary_time = 0\nenvironment = { ONLY_FIRST = \"1\" }\n",
    );
    for release in ["1", "2"] {
        let bin = setup.path(&format!("releases/{release}/bin"));
        std::fs::create_dir_all(&bin).expect("a directory");
        let name = format!("releases/{release}/bin/app");
        write_script(
            &setup.path(&name),
            &format!("RELEASE={release} exec {:?} hello", crate::dev::BINARY),
        );
    }
    let current = setup.path("current");
    std::os::unix::fs::symlink("releases/1", &current).expect("a link");
    let dev = setup.start();
    let check = |release: &str| {
        for pid in dev.pids() {
            let place = std::fs::read_link(format!("/proc/{pid}/cwd")).expect("cwd");
            assert!(place.ends_with(format!("releases/{release}")), "{place:?}");
            assert_eq!(environment(pid)["RELEASE"], release);
        }
    };
    check("1");
    assert_eq!(environment(first_pid(&dev))["ONLY_FIRST"], "1");
    std::os::unix::fs::symlink("releases/2", dev.path("next")).expect("a link");
    std::fs::rename(dev.path("next"), &current).expect("moved");
    // A reload whose configuration has not changed is one to new code.
    dev.cli(&["reload", "web"]).succeeded();
    check("2");
    dev.configure(
        "command = [\"bin/app\", \"x\"]\ndirectory = \"[HOME]/current\"\nworkers = 2\n\
         canary_time = 0\n",
    );
    dev.cli(&["reload", "web"]).succeeded();
    check("2");
    assert_eq!(environment(first_pid(&dev)).get("ONLY_FIRST"), None);
    dev.stop();
}

/// An executable shell script.
pub fn write_script(path: &std::path::Path, text: &str) {
    let source = path.with_extension("source");
    std::fs::write(&source, format!("#!/bin/sh\n{text}\n")).expect("a script");
    crate::dev::install(&source, path);
}

#[test]
fn listeners_of_each_kind_by_name() {
    let setup = Setup::new("web").workers(2);
    let socket = setup.path("web.sock");
    let unix = format!("admin=unix:{}", socket.display());
    // A stale socket file is in the way of nobody.
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("a socket"));
    let dev = setup
        .arguments(&["-l", &unix, "-l", "http=127.0.0.1:0"])
        .start();
    let status = dev.status();
    let names: Vec<&str> = status.listeners.iter().map(|l| l.name.as_str()).collect();
    assert_eq!(names, ["admin", "http"]);
    let found = environment(first_pid(&dev));
    assert_eq!(
        (&found["LISTEN_FDS"], &found["LISTEN_FDNAMES"]),
        (&"2".into(), &"admin:http".into())
    );
    assert_eq!(found["PORT"], dev.address().port().to_string());
    for generation in [1, 2] {
        let stream = UnixStream::connect(&socket).expect("a connection");
        stream.set_read_timeout(Some(WITHIN)).expect("a timeout");
        let answer = get(stream, "/").expect("an answer");
        assert_eq!(answer["generation"], generation);
        assert_eq!(dev.get("/")["generation"], generation);
        if generation == 1 {
            dev.cli(&["reload", "web"]).succeeded();
        }
    }
    dev.stop();
    assert!(!socket.exists());
}
