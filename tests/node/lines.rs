// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines without a worker, of another spread than before, or more than there are workers:
//! nobody waits for nobody, and the supervisor does not turn in the meantime.

use crate::Row;
use crate::app::{App, assert_no_crash, eval, request, script, word};
use crate::dev::{Dev, Setup, WITHIN, wait};
use crate::node_tools::Node;
use crate::robin::ticks;
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::net::sockopt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub const ROWS: &[Row] = &[
    ("lines_without_a_worker_yet", no_worker_yet),
    ("lines_quiet_after_a_reload_to_shared", to_shared),
    ("lines_quiet_after_a_reload_to_listen_fds", to_listen_fds),
    ("lines_reload_to_round_robin", to_round_robin),
    (
        "lines_reload_of_one_worker_to_round_robin",
        one_to_round_robin,
    ),
    ("lines_of_a_blocked_worker_are_emptied_at_once", emptied),
    ("lines_without_descriptors_for_a_while", no_descriptors),
];

/// `count` sockets of one port, as systemd's ReusePort= makes them, and their address.
fn lines(count: usize) -> (Vec<OwnedFd>, SocketAddr) {
    use nix::sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, socket,
    };
    let mut address = SockaddrIn::new(127, 0, 0, 1, 0);
    let mut all = Vec::new();
    for _ in 0..count {
        let flags = SockFlag::SOCK_CLOEXEC;
        let one = socket(AddressFamily::Inet, SockType::Stream, flags, None).expect("a socket");
        sockopt::set_socket_reuseport(&one, true).expect("an option");
        sockopt::set_socket_reuseaddr(&one, true).expect("an option");
        use std::os::fd::AsRawFd;
        bind(one.as_raw_fd(), &address).expect("an address");
        listen(&one, Backlog::new(511).expect("a backlog")).expect("a listener");
        let copy = TcpListener::from(one.try_clone().expect("a copy"));
        let SocketAddr::V4(at) = copy.local_addr().expect("an address") else {
            panic!("IPv4");
        };
        address = SockaddrIn::from(at);
        all.push(one);
    }
    let at = SocketAddr::from((address.ip(), address.port()));
    (all, at)
}

/// Starts it with sockets that are passed, by way of numbers that are free in it.
fn with_lines(setup: Setup, lines: Vec<OwnedFd>) -> Dev {
    let high = |fd: &OwnedFd| fcntl_dupfd_cloexec(fd, 300).expect("a descriptor");
    let lines: Vec<OwnedFd> = lines.iter().map(high).collect();
    let number = |fd: &OwnedFd| std::os::fd::AsRawFd::as_raw_fd(fd).to_string();
    let numbers: Vec<String> = lines.iter().map(number).collect();
    let script = "exec bash -c 'n=3; names=; for s in $SOCKETS; do \
          eval \"exec $n<&$s $s<&-\"; n=$((n+1)); names=$names:http; done; \
        exec env -u SOCKETS LISTEN_PID=$$ LISTEN_FDS=$((n-3)) LISTEN_FDNAMES=${names#:} \
          \"$@\"' bash \"$@\"";
    let setup = setup.env("SOCKETS", &numbers.join(" ")).run();
    let inherit = |flags: FdFlags| {
        for line in &lines {
            fcntl_setfd(line, flags).expect("a flag");
        }
    };
    inherit(FdFlags::empty());
    let dev = setup.wrapper(script).spawn();
    inherit(FdFlags::CLOEXEC);
    dev
}

fn all_ready(dev: &Dev) {
    dev.until("all ready", |s| {
        s.state == "running" && s.workers.ready == s.workers.desired
    });
}

/// One that has been sent, and is to be answered.
struct Asked(TcpStream, Instant);

impl Asked {
    fn new(address: SocketAddr) -> Asked {
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(WITHIN)).expect("a timeout");
        let head = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        stream.write_all(head).expect("a request");
        Asked(stream, Instant::now())
    }

    /// How long it took. It has to be there when this is called, to be exact.
    fn answered(mut self) -> Duration {
        let mut text = String::new();
        self.0.read_to_string(&mut text).expect("an answer");
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        self.1.elapsed()
    }
}

/// The supervisor has nothing to do for so long, and does nothing.
#[track_caller]
fn quiet(dev: &Dev, span: Duration) {
    let before = ticks(dev);
    std::thread::sleep(span);
    let used = ticks(dev) - before;
    assert!(
        used < 12,
        "{used}0 ms of processor time in {span:?}\n{}",
        dev.output()
    );
}

/// More lines than workers, clients in all of them, and the first worker is slow to start.
fn no_worker_yet(node: &Node) -> Result<(), String> {
    let (lines, address) = lines(4);
    let clients: Vec<Asked> = (0..24).map(|_| Asked::new(address)).collect();
    let setup = App::command(node, &[word(node), "late.cjs"]).workers(1);
    let setup = setup.env("PORT", &address.port().to_string()).setup();
    let late = format!(
        "const look = () => require('fs').existsSync('go') ? require({:?}) : \
         setTimeout(look, 50); look();",
        script("kit.cjs")
    );
    setup.write("late.cjs", &late);
    let dev = with_lines(setup, lines);
    dev.wait_for_line("slot 0: worker");
    quiet(&dev, Duration::from_millis(2000));
    dev.write("go", "");
    for client in clients {
        client.answered();
    }
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

/// Its only worker is busy while a connection waits for it in the kernel.
#[track_caller]
fn quiet_while_one_waits(dev: &Dev) {
    let code = "setTimeout(() => { require('fs').writeFileSync('busy', ''); \
        const end = Date.now() + 3500; while (Date.now() < end); }, 20)";
    eval(dev, code);
    wait("it is busy", || dev.path("busy").exists().then_some(()));
    let asked = Asked::new(dev.address());
    quiet(dev, Duration::from_millis(2000));
    asked.answered();
    assert_no_crash(dev);
}

fn config(dev: &Dev) -> String {
    std::fs::read_to_string(dev.path("app.toml")).expect("a configuration")
}

const ROBIN: &str = "balance = \"round-robin\"";

fn to_shared(node: &Node) -> Result<(), String> {
    let app = App::kit(node).workers(1).keys(ROBIN);
    let dev = app.keys("blocked_timeout = \"60s\"").start();
    let text = config(&dev);
    dev.configure(&text.replace(ROBIN, "balance = \"shared\""));
    dev.cli(&["reload", "web"]).succeeded();
    quiet_while_one_waits(&dev);
    dev.stop();
    Ok(())
}

fn to_listen_fds(node: &Node) -> Result<(), String> {
    let app = App::kit(node).workers(1).arg("{\"fd\":3}");
    let dev = app.keys(ROBIN).start();
    let text = config(&dev);
    dev.configure(&text.replace(ROBIN, "protocol = \"listen-fds\""));
    dev.cli(&["reload", "web"]).succeeded();
    quiet_while_one_waits(&dev);
    dev.stop();
    Ok(())
}

/// New connections every 20 ms until `done`; how long the slowest answer took.
fn stream_of_clients(address: SocketAddr, done: std::path::PathBuf) -> JoinHandle<Duration> {
    std::thread::spawn(move || {
        let mut clients = Vec::new();
        while !done.exists() && clients.len() < 2_000 {
            clients.push(std::thread::spawn(move || Asked::new(address).answered()));
            std::thread::sleep(Duration::from_millis(20));
        }
        let answers = clients.into_iter().map(|c| c.join().expect("a client"));
        answers.max().expect("clients")
    })
}

/// The first line is dealt from as soon as somebody takes; until then its workers have it.
fn to_round_robin(node: &Node) -> Result<(), String> {
    let (lines, address) = lines(3);
    let app = App::command(node, &[word(node), "slow.cjs"]).workers(3);
    let app = app.keys("balance = \"even\"");
    let setup = app.env("PORT", &address.port().to_string()).setup();
    let slow = format!("setTimeout(() => require({:?}), 1000)", script("kit.cjs"));
    setup.write("slow.cjs", &slow);
    let dev = with_lines(setup, lines);
    all_ready(&dev);
    let text = config(&dev).replace("balance = \"even\"", ROBIN);
    dev.configure(&text.replace("\"50ms\"", "\"2500ms\""));
    let clients = stream_of_clients(address, dev.path("done"));
    dev.cli(&["reload", "web"]).succeeded();
    dev.write("done", "");
    let slowest = clients.join().expect("clients");
    assert!(slowest.as_millis() < 1500, "{slowest:?}\n{}", dev.output());
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

/// The old worker has a request that takes long.
fn one_to_round_robin(node: &Node) -> Result<(), String> {
    let app = App::kit(node).workers(1).keys("balance = \"shared\"");
    let dev = app.start();
    let address = dev.address();
    let old = dev.pids()[0];
    let slow = std::thread::spawn(move || {
        let answer = request(address, "GET /slow?ms=6000", "").expect("an answer");
        (Instant::now(), answer["pid"].clone())
    });
    // Whoever has answered later has that one as well.
    dev.everybody_answers();
    let text = config(&dev);
    dev.configure(&text.replace("balance = \"shared\"", ROBIN));
    dev.cli(&["reload", "web"]).succeeded();
    let client = Asked::new(address);
    client.answered();
    let answered = Instant::now();
    let (ended, pid) = slow.join().expect("a client");
    assert!(answered < ended, "{:?}\n{}", answered - ended, dev.output());
    assert_eq!(pid, old);
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

/// More descriptors than there usually are.
fn room_for_clients() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let current = current.map(|c| c.max(8192.min(maximum.unwrap_or(8192))));
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).expect("setrlimit(2)");
}

/// Hundreds wait for a blocked worker: all are given to others together.
fn emptied(node: &Node) -> Result<(), String> {
    let dev = App::kit(node).workers(4).keys("balance = \"even\"").start();
    let address = dev.address();
    let code = "setTimeout(() => { require('fs').writeFileSync('busy', ''); \
        const end = Date.now() + 9000; while (Date.now() < end); }, 20)";
    crate::app::eval_in(&dev, 0, code);
    wait("it is busy", || dev.path("busy").exists().then_some(()));
    room_for_clients();
    let begun = Instant::now();
    // A quarter of them behind it.
    let clients: Vec<Asked> = (0..1600).map(|_| Asked::new(address)).collect();
    for client in clients {
        client.answered();
    }
    let took = begun.elapsed();
    assert!(took.as_millis() < 5000, "{took:?}\n{}", dev.output());
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

/// The supervisor cannot accept for want of descriptors: it tries again by itself.
fn no_descriptors(node: &Node) -> Result<(), String> {
    use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
    let dev = App::kit(node).workers(1).keys(ROBIN).start();
    let address = dev.address();
    let limits = getrlimit(Resource::Nofile);
    let limit = |current: Option<u64>| {
        let limits = Rlimit { current, ..limits };
        let pid = Pid::from_raw(dev.pid());
        prlimit(pid, Resource::Nofile, limits).expect("prlimit(2)");
    };
    limit(Some(3));
    let asked = Asked::new(address);
    dev.wait_for_line("cannot accept connections: no descriptor or memory is left");
    quiet(&dev, Duration::from_millis(1000));
    // Nothing tells it.
    limit(limits.current);
    asked.answered();
    dev.stop();
    Ok(())
}
