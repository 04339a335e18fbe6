// SPDX-License-Identifier: MIT OR Apache-2.0
//! Signals to the supervisor, and what is left when it has ended.

use crate::dev::{Dev, Setup, WITHIN, get, wait};
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A slow request on a connection that has been accepted for sure: the worker has
/// answered on it before, and has the bytes of this one.
fn in_flight(dev: &Dev, ms: u32) -> JoinHandle<Result<serde_json::Value, String>> {
    let mut stream = TcpStream::connect(dev.address()).expect("a connection");
    stream.set_read_timeout(Some(WITHIN)).expect("a timeout");
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .expect("sent");
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"}\n") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).expect("an answer"), 1);
        bytes.extend(byte);
    }
    let path = format!("/slow?ms={ms}");
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    std::thread::spawn(move || get(Sent(stream), &path))
}

/// A connection on which the request is under way already.
struct Sent(TcpStream);

impl Read for Sent {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Sent {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        Ok(buffer.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A closed terminal window ends the app; SIGHUP from anybody else reloads it.
#[test]
fn a_terminal_that_hangs_up_ends_it() {
    let terminal = nix::pty::openpty(None, None).expect("a terminal");
    // Nobody else may hold its other end.
    rustix::io::fcntl_setfd(&terminal.master, rustix::io::FdFlags::CLOEXEC).expect("a flag");
    let mut dev = Setup::new("web")
        .workers(2)
        .wrapper("exec setsid --ctty \"$@\"")
        .stdin(terminal.slave)
        .start();
    drop(terminal.master);
    dev.wait_for_line("the terminal is gone");
    assert_eq!(dev.ended().code(), Some(0), "{}", dev.output());
}

#[test]
fn each_stop_signal_drains() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGQUIT] {
        let mut dev = Setup::new("web").workers(2).start();
        let slow = in_flight(&dev, 700);
        dev.signal(signal);
        let answer = slow.join().expect("a thread").expect("an answer");
        assert!(answer["pid"].is_number(), "{signal}");
        let status = dev.ended();
        assert_eq!(status.code(), Some(0), "{signal}\n{}", dev.output());
        assert!(dev.output().contains("web | stopped"), "{}", dev.output());
        dev.assert_gone();
    }
}

#[test]
fn a_second_interrupt_kills() {
    let mut dev = Setup::new("web").workers(2).start();
    let slow = in_flight(&dev, 50_000);
    dev.signal(Signal::SIGINT);
    dev.wait_for_line("interrupt again");
    let status = dev.until("draining", |s| s.state == "stopping");
    assert!(status.slots.iter().any(|s| !s.draining.is_empty()));
    let before = Instant::now();
    dev.signal(Signal::SIGINT);
    let status = dev.ended();
    assert!(before.elapsed() < Duration::from_secs(20), "drained");
    assert_eq!(status.code(), Some(0), "{}", dev.output());
    slow.join().expect("a thread").expect_err("it was killed");
    dev.assert_gone();
}

#[test]
fn stop_by_command_drains_or_kills() {
    let mut dev = Setup::new("web").workers(2).start();
    let slow = in_flight(&dev, 700);
    let said = dev.cli(&["stop", "web"]).succeeded();
    assert_eq!(said.stdout, "web: stopped\n");
    slow.join().expect("a thread").expect("an answer");
    assert!(dev.ended().success());
    dev.assert_gone();

    let mut dev = Setup::new("web").workers(2).start();
    let slow = in_flight(&dev, 50_000);
    dev.cli(&["stop", "web", "--now"]).succeeded();
    slow.join().expect("a thread").expect_err("it was killed");
    assert!(dev.ended().success());
    dev.assert_gone();
    dev.cli(&["status", "web"]).failed(4, &["web does not run"]);
}

#[test]
fn hangup_reloads() {
    let dev = Setup::new("web").workers(2).start();
    let old = dev.pids();
    dev.signal(Signal::SIGHUP);
    dev.wait_for_line("generation 2 is rolled out");
    assert!(dev.pids().iter().all(|pid| !old.contains(pid)));
    dev.stop();
}

#[test]
fn ttin_and_ttou_scale_by_one() {
    let dev = Setup::new("web").workers(2).start();
    dev.signal(Signal::SIGTTIN);
    dev.until("one more", |s| s.workers.ready == 3);
    dev.signal(Signal::SIGTTOU);
    dev.until("one fewer", |s| {
        s.workers.desired == 2 && s.slots.len() == 2
    });
    dev.signal(Signal::SIGTTOU);
    dev.until("one fewer", |s| {
        s.workers.desired == 1 && s.slots.len() == 1
    });
    // There is always one.
    let before = dev.line_count();
    dev.signal(Signal::SIGTTOU);
    dev.wait_for_line_after(before, "SIGTTOU");
    assert_eq!(dev.status().workers.desired, 1);
    dev.everybody_answers();
    dev.stop();
}

#[test]
fn usr1_writes_the_status() {
    let dev = Setup::new("web").workers(2).start();
    let before = dev.line_count();
    dev.signal(Signal::SIGUSR1);
    dev.wait_for_line_after(before, "2/2 ready, generation 1");
    for (slot, pid) in dev.pids().iter().enumerate() {
        let line = dev.wait_for_line_after(before, &format!("{{\"slot\":{slot},"));
        assert!(line.contains(&format!("\"pid\":{pid}")), "{line}");
    }
    dev.everybody_answers();
    dev.stop();
}

#[test]
fn nothing_of_a_worker_outlives_it() {
    // Children in the background, also one that has left its parent and its session.
    let script = "sleep 1000 & (setsid sleep 1000 &) ; exec sleep 1000";
    let mut dev = Setup::with_config(&format!(
        "command = [\"sh\", \"-c\", {script:?}]\nworkers = 2\nready = {{ delay = \"100ms\" }}\n"
    ))
    .start();
    // Per worker: itself and its two children.
    wait("all there", || {
        (dev.processes().len() == 1 + 2 * 3).then_some(())
    });
    dev.signal(Signal::SIGTERM);
    assert!(dev.ended().success());
    dev.assert_gone();
}

#[test]
fn orphans_are_reaped() {
    let script = "(sleep 0.2 &) ; (sleep 0.2 &) ; exec sleep 1000";
    let dev = Setup::new("web")
        .workers(1)
        .command(&["sh", "-c", script])
        .spawn();
    dev.wait_for_line("started");
    let children = || {
        let path = format!("/proc/{0}/task/{0}/children", dev.pid());
        let text = std::fs::read_to_string(path).expect("children");
        text.split_ascii_whitespace().count()
    };
    wait("orphans are here", || (children() == 3).then_some(()));
    wait("orphans are gone, zombies too", || {
        (children() == 1).then_some(())
    });
}
