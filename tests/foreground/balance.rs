// SPDX-License-Identifier: MIT OR Apache-2.0
//! A socket for each slot: who gets which connection.

use crate::dev::{BINARY, Dev, Setup, WITHIN, scale, wait};
use crate::load::crowd::{Crowd, addresses_v4, spread};
use crate::load::{Kind, Load, LoadSpec};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::time::Duration;

fn hello(balance: &str, workers: u32, lines: u32) -> Dev {
    let config = format!(
        "command = [{BINARY:?}, \"hello\"]\nworkers = {workers}\nmax_workers = {lines}\n\
         balance = {balance:?}\ncanary_time = \"100ms\"\n"
    );
    Setup::with_config(&config).start()
}

fn crowd(dev: &Dev) -> Crowd {
    Crowd::new(LoadSpec::tcp(dev.address()))
}

#[test]
fn even_spreads_held_connections() {
    let dev = hello("even", 4, 6);
    let status = dev.status();
    let listener = &status.listeners[0];
    assert_eq!((listener.balance.as_str(), listener.lines), ("even", 6));
    assert_eq!(listener.queues, [0; 6]);
    let gap = Duration::from_millis(5);
    let held = crowd(&dev).hold(160, gap).expect("connections");
    let counts = held.by_slot();
    assert!(spread(&counts, 4) <= 1.25, "{counts:?}");
    drop(held);
    dev.stop();
}

#[test]
fn sticky_clients_stay_over_reload_crash_and_scaling() {
    let dev = hello("sticky", 3, 8);
    let (crowd, clients) = (crowd(&dev), addresses_v4(90));
    let places = crowd.ask(&clients).expect("answers");
    let moved = |crowd: &Crowd| {
        let now = crowd.ask(&clients).expect("answers");
        places
            .iter()
            .filter(|(client, slot)| now[client] != **slot)
            .count()
    };
    dev.cli(&["reload", "web"]).succeeded();
    assert_eq!(moved(&crowd), 0);

    let pid = dev.pids()[1];
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("a signal");
    dev.until("a replacement", |s| {
        s.workers.ready == 3 && s.slots[1].pid != Some(pid)
    });
    assert_eq!(moved(&crowd), 0);

    dev.cli(&["scale", "web", "4"]).succeeded();
    let share = moved(&crowd);
    assert!(
        (1..=45).contains(&share),
        "{share} of 90 clients have moved"
    );
    dev.cli(&["scale", "web", "3"]).succeeded();
    assert_eq!(moved(&crowd), 0);
    dev.stop();
}

#[test]
fn sticky_behind_one_address_says_what_to_do() {
    let dev = hello("sticky", 2, 2);
    let connect = |_| std::net::TcpStream::connect(dev.address()).expect("a connection");
    // Others come while it is looked.
    let mut held = Vec::new();
    let line = crate::dev::wait("the advice", || {
        held.extend((held.len() < 400).then(|| connect(0)));
        let said = dev.output();
        let told = |line: &&str| line.contains(" connections come from 127.0.0.1");
        said.lines().find(told).map(str::to_owned)
    });
    assert!(line.contains("slot_listen"), "{line}");
    drop(held);
    dev.stop();
}

#[test]
fn even_under_load_loses_nothing() {
    let dev = hello("even", 2, 4);
    let spec = LoadSpec::tcp(dev.address())
        .with_pace(Kind::NewConnection, 4, 200)
        .with_pace(Kind::KeepAlive, 4, 200);
    let load = Load::start(spec).expect("clients");
    load.wait_for(3, WITHIN).expect("clients at work");
    // Fewer workers only by reloads: without net.ipv4.tcp_migrate_req, which this test may
    // not set, what waits in a line that loses its worker is reset.
    for count in ["4", "6"] {
        dev.cli(&["scale", "web", count]).succeeded();
        load.wait_for_more(2, WITHIN).expect("requests in between");
    }
    dev.cli(&["reload", "web"]).succeeded();
    load.wait_for_more(2, WITHIN).expect("requests in between");
    load.stop().assert_lossless(10);
    dev.stop();
}

#[test]
fn a_line_that_its_worker_shuts_down_listens_again() {
    let dev = hello("sticky", 3, 3);
    let (crowd, clients) = (crowd(&dev), addresses_v4(60));
    let places = crowd.ask(&clients).expect("answers");
    let pid = dev.pids()[1];
    // The worker's descriptor 3 is its line: shut it down from outside, as it could itself.
    shut_down_line_of(pid);
    dev.wait_for_line("was shut down, by a worker: listening again");
    wait("every client is where it was", || {
        (crowd.ask(&clients).ok()? == places).then_some(())
    });
    dev.stop();
}

/// Answers with its slot, and shuts its socket down when it is to end, as WEBrick does.
const RUDE: &str = r#"
import os, select, signal, socket
listening = socket.socket(fileno=3)
def end(*_):
    try:
        listening.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # another that has the same one was faster
    os._exit(0)
signal.signal(signal.SIGTERM, end)
poller = select.epoll()
poller.register(listening, select.EPOLLIN)
body = b'{"slot":%s,"pid":%d,"generation":%s}' % (
    os.environb[b"APP_CLUSTER_SLOT"], os.getpid(), os.environb[b"APP_CLUSTER_GENERATION"])
head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
while True:
    poller.poll()
    try:
        client, _ = listening.accept()
    except OSError:
        continue
    client.setblocking(True)
    client.settimeout(5)
    try:
        asked = b""
        while b"\r\n\r\n" not in asked:
            more = client.recv(4096)
            if not more:
                break
            asked += more
        else:
            client.sendall(head % len(body) + body)
    except OSError:
        pass
    client.close()
"#;

#[test]
fn workers_that_shut_their_lines_down_at_each_reload_move_nobody() {
    let Some(python) = crate::readiness::python() else {
        return;
    };
    let migrates = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_migrate_req");
    if migrates.is_ok_and(|text| text.trim() != "1") {
        eprintln!("SKIPPED: net.ipv4.tcp_migrate_req is 0");
        return;
    }
    let config = format!(
        "command = [{python:?}, \"-c\", {RUDE:?}]\nworkers = 5\nmax_workers = 5\nbatch = 5\n\
         balance = \"sticky\"\ncanary_time = \"10ms\"\n"
    );
    let dev = Setup::with_config(&config).start();
    let (crowd, clients) = (crowd(&dev), addresses_v4(60));
    let places = crowd.ask(&clients).expect("answers");
    assert_eq!(places.values().collect::<BTreeSet<_>>().len(), 5);
    for _ in 0..scale(12, 5) {
        dev.cli(&["reload", "web"]).succeeded();
        dev.until("the old workers gone", |s| {
            s.slots.iter().all(|slot| slot.draining.is_empty())
        });
        wait("every client is where it was", || {
            (crowd.ask(&clients).ok()? == places).then_some(())
        });
    }
    dev.stop();
}

/// shutdown(2) on a worker's listening socket.
fn shut_down_line_of(pid: i32) {
    use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
    let pidfd = pidfd_open(Pid::from_raw(pid).expect("a pid"), PidfdFlags::empty()).expect("pidfd");
    let line = pidfd_getfd(&pidfd, 3, PidfdGetfdFlags::empty()).expect("its descriptor");
    rustix::net::shutdown(&line, rustix::net::Shutdown::Both).expect("shut down");
}

#[test]
fn each_slot_has_an_address_of_its_own() {
    let setup = Setup::new("web");
    let sockets = setup.path("slot-{slot}.sock").display().to_string();
    let config = format!(
        "command = [{BINARY:?}, \"hello\"]\nworkers = 2\nmax_workers = 3\n\
         listen = [\"127.0.0.1:0\"]\nslot_listen = \"unix:{sockets}\"\n"
    );
    setup.write("app.toml", &config);
    let file = setup.path("app.toml").display().to_string();
    let dev = setup.arguments(&["-c", &file]).start();
    let ask = |slot: u32| {
        let path = dev.path(&format!("slot-{slot}.sock"));
        let stream = std::os::unix::net::UnixStream::connect(path).expect("a connection");
        crate::dev::get(stream, "/").expect("an answer")["slot"].clone()
    };
    for _ in 0..3 {
        assert_eq!((ask(0), ask(1)), (0.into(), 1.into()));
    }
    dev.cli(&["scale", "web", "3"]).succeeded();
    assert_eq!(ask(2), 2);
    let status = dev.status();
    assert_eq!(status.listeners[1].name, "slot");
    assert_eq!(status.listeners[1].balance, "by slot");
    assert_eq!(status.listeners[1].lines, 3);
    dev.stop();
}
