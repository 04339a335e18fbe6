// SPDX-License-Identifier: MIT OR Apache-2.0
//! `app-cluster hello` as real processes that share a listening socket, and the load generator that
//! watches them.

#[path = "support/load.rs"]
mod load;
#[path = "support/load_faults.rs"]
mod load_faults;

use load::{Kind, Load, LoadSpec, Report};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_app-cluster");
const WITHIN: Duration = Duration::from_secs(20);

/// A worker process; killed when dropped.
struct Worker {
    child: Child,
    notify: UnixDatagram,
    _dir: tempfile::TempDir,
}

impl Worker {
    /// Starts a worker with the socket as descriptor 3 and waits for its READY=1.
    fn start(listener: impl AsFd, generation: u64) -> Worker {
        let dir = tempfile::tempdir().unwrap();
        let notify = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        notify.set_read_timeout(Some(WITHIN)).unwrap();
        let fd: OwnedFd = listener.as_fd().try_clone_to_owned().unwrap();
        let script = "exec 3<&0 </dev/null; exec env LISTEN_PID=$$ LISTEN_FDS=1 \"$0\" hello";
        let child = Command::new("sh")
            .args(["-c", script, BINARY])
            .env("NOTIFY_SOCKET", dir.path().join("notify"))
            .env("APP_CLUSTER_NAME", "test")
            .env("APP_CLUSTER_SLOT", "0")
            .env("APP_CLUSTER_GENERATION", generation.to_string())
            .stdin(Stdio::from(fd))
            .spawn()
            .unwrap();
        let worker = Worker {
            child,
            notify,
            _dir: dir,
        };
        assert_eq!(worker.notification(), "READY=1");
        worker
    }

    fn notification(&self) -> String {
        let mut buffer = [0; 256];
        let n = self
            .notify
            .recv(&mut buffer)
            .expect("a notification in time");
        String::from_utf8_lossy(&buffer[..n]).trim().to_owned()
    }

    fn pid(&self) -> u64 {
        self.child.id().into()
    }

    fn term(&self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::SIGTERM).unwrap();
    }

    /// SIGTERM, and wait until it has stopped accepting.
    fn drain(&self) {
        self.term();
        assert_eq!(self.notification(), "STOPPING=1");
    }

    fn exited(&mut self) -> ExitStatus {
        let deadline = Instant::now() + WITHIN;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the worker does not exit");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn listen() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

fn dial(listener: &TcpListener) -> TcpStream {
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    stream.set_read_timeout(Some(WITHIN)).unwrap();
    stream
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Sends and reads until the server closes.
fn until_closed(mut stream: TcpStream, request: &[u8]) -> String {
    stream.write_all(request).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// Sends one request and reads one answer with a body of one line.
fn ask(stream: &mut TcpStream, request: &[u8]) -> String {
    stream.write_all(request).unwrap();
    let mut reader = BufReader::with_capacity(1, stream);
    let mut text = String::new();
    while !text.ends_with("}\n") {
        assert_ne!(
            reader.read_line(&mut text).unwrap(),
            0,
            "closed after {text:?}"
        );
    }
    text
}

#[test]
fn rolling_over_workers_loses_nothing() {
    let listener = listen();
    let mut workers = vec![Worker::start(&listener, 1), Worker::start(&listener, 1)];
    let spec = LoadSpec::tcp(listener.local_addr().unwrap())
        .with(Kind::NewConnection, 3)
        .with(Kind::KeepAlive, 3)
        .with(Kind::Slow { ms: 30 }, 4)
        .with(Kind::SlowPost, 4);
    let load = Load::start(spec).unwrap();
    for generation in 2..6 {
        load.wait_for_more(10, WITHIN).unwrap();
        let mut old = workers.remove(0);
        workers.push(Worker::start(&listener, generation));
        old.drain();
        assert!(old.exited().success());
        let answered = load.snapshot();
        load.wait_for_more(5, WITHIN).unwrap();
        let by_old = |report: &Report| report.total().by_pid.get(&old.pid()).copied();
        assert!(by_old(&answered).is_some(), "it did work before");
        assert_eq!(
            by_old(&load.snapshot()),
            by_old(&answered),
            "no answer from the dead"
        );
    }
    let report = load.stop();
    report.assert_lossless(60);
    assert_eq!(report.generations(), Some((1, 5)), "{report}");
    assert!(
        report.kinds[&Kind::KeepAlive].connections >= 4,
        "reconnects after close\n{report}"
    );
}

#[test]
fn draining_one_of_two_under_load_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut one = Worker::start(&listener, 1);
    let _two = Worker::start(&listener, 2);
    let spec = LoadSpec::unix(path)
        .with(Kind::NewConnection, 2)
        .with(Kind::KeepAlive, 4)
        .with(Kind::Slow { ms: 50 }, 4);
    let load = Load::start(spec).unwrap();
    load.wait_until(WITHIN, |report| report.total().by_pid.len() == 2)
        .unwrap();
    one.drain();
    one.term(); // a second one changes nothing
    assert!(one.exited().success());
    load.wait_for_more(20, WITHIN).unwrap();
    load.stop().assert_lossless(20);
}

#[test]
fn drain_answers_each_connection_once_more() {
    let listener = listen();
    let mut worker = Worker::start(&listener, 1);
    let mut idle = dial(&listener);
    assert!(!ask(&mut idle, GET).contains("close"));
    let mut slow = dial(&listener);
    slow.write_all(b"GET /slow?ms=300 HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let mut partial = dial(&listener);
    partial.write_all(&GET[..7]).unwrap();
    let fresh = dial(&listener);
    // One thread and a FIFO queue: when a later connection was answered, these were accepted.
    ask(&mut dial(&listener), GET);
    worker.drain();
    let late = dial(&listener);
    for (what, stream, request) in [
        ("idle", idle, GET),
        ("slow", slow, &b""[..]),
        ("partial", partial, &GET[7..]),
        ("fresh", fresh, GET),
    ] {
        let text = until_closed(stream, request);
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{what}: {text}");
        assert!(
            text.contains("Connection: close\r\n") && text.ends_with("}\n"),
            "{what}: {text}"
        );
    }
    assert!(worker.exited().success());
    let _next = Worker::start(&listener, 2);
    let text = until_closed(late, b"GET / HTTP/1.0\r\n\r\n");
    assert!(
        text.contains("\"generation\":2"),
        "it waited in the queue: {text}"
    );
}

#[test]
fn drain_without_connections_is_immediate_and_quiet_ones_end_after_two_seconds() {
    let listener = listen();
    let (mut alone, mut kept) = (Worker::start(&listener, 1), None);
    let start = Instant::now();
    alone.term();
    assert!(alone.exited().success());
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );

    let mut worker = Worker::start(&listener, 1);
    ask(kept.insert(dial(&listener)), GET);
    let start = Instant::now();
    worker.drain();
    assert_eq!(
        until_closed(kept.take().unwrap(), b""),
        "",
        "closed without a byte"
    );
    let waited = start.elapsed().as_millis();
    assert!((1900..4000).contains(&waited), "{waited} ms");
    assert!(worker.exited().success());
}

#[test]
fn without_sockets_it_says_what_to_do() {
    let mut command = Command::new(BINARY);
    command
        .arg("hello")
        .env_remove("LISTEN_FDS")
        .env_remove("LISTEN_PID");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("app-cluster dev"), "{text}");
    let output = command
        .env("LISTEN_FDS", "1")
        .env("LISTEN_PID", "1")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("LISTEN_PID"), "{text}");
}

#[test]
fn refused_requests_get_their_status() {
    let listener = listen();
    let _worker = Worker::start(&listener, 1);
    let huge = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(200_000));
    for (request, expected) in [
        ("GET /nowhere HTTP/1.0\r\n\r\n", "404 Not Found"),
        ("PUT / HTTP/1.0\r\n\r\n", "405 Method Not Allowed"),
        ("nonsense\r\n\r\n", "400 Bad Request"),
        (huge.as_str(), "431 Request Header Fields Too Large"),
        (
            "POST / HTTP/1.0\r\nContent-Length: 99999999\r\n\r\n",
            "413 Content Too Large",
        ),
    ] {
        let text = until_closed(dial(&listener), request.as_bytes());
        assert!(
            text.starts_with(&format!("HTTP/1.1 {expected}\r\n")),
            "{text}"
        );
        let body = text.split_once("\r\n\r\n").unwrap().1;
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert!(body["hint"].is_string(), "{body}");
    }
    let mut stream = dial(&listener);
    stream
        .write_all(
            b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n",
        )
        .unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    assert!(ask(&mut stream, b"x").contains("\"slot\":0"));
}

#[test]
fn a_slow_reader_and_a_thousand_idle_connections_block_nobody() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let listener = listen();
    let worker = Worker::start(&listener, 1);
    let mut reader = dial(&listener);
    reader.set_nonblocking(true).unwrap();
    // Ask without reading until nothing more fits in either direction.
    let error = loop {
        if let Err(error) = reader.write(&GET.repeat(100)) {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    let mut idle: Vec<TcpStream> = (0..1000).map(|_| dial(&listener)).collect();
    for stream in &mut idle {
        assert!(ask(stream, GET).contains("200 OK"));
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.pid())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kib < 20_000, "{line}");
}

#[test]
fn an_idle_worker_sleeps() {
    let listener = listen();
    let worker = Worker::start(&listener, 1);
    let mut kept = dial(&listener);
    ask(&mut kept, GET);
    let switches = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", worker.pid())).unwrap();
        let find = |line: &&str| line.starts_with("voluntary_ctxt_switches");
        status.lines().find(find).unwrap().to_owned()
    };
    let asleep = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", worker.pid())).unwrap();
        stat.rsplit(") ").next().unwrap().starts_with('S')
    };
    let deadline = Instant::now() + WITHIN;
    while !asleep() {
        assert!(Instant::now() < deadline, "never idle");
        std::thread::sleep(Duration::from_millis(1));
    }
    let before = switches();
    std::thread::sleep(Duration::from_secs(1)); // what is measured, not a synchronisation
    assert_eq!(switches(), before);
}
