// SPDX-License-Identifier: MIT OR Apache-2.0
//! When a worker counts as ready, for programs of each kind. The programs here begin to
//! serve when the file `go` appears, so that "not before" is no matter of time.

use crate::dev::{Dev, Setup};
use std::process::Command;

/// What the Python programs begin with.
const PRELUDE: &str = r#"
import asyncio, json, os, signal, socket, time
assert os.environ["LISTEN_PID"] == str(os.getpid()), os.environ["LISTEN_PID"]
body = json.dumps({"pid": os.getpid()}).encode()
answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body)
print("waiting", flush=True)
while not os.path.exists("go"):
    time.sleep(0.01)
"#;

const ASYNCIO: &str = r#"
async def serve(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(answer)
    await writer.drain()
    writer.close()
async def main():
    server = await asyncio.start_server(serve, sock=socket.socket(fileno=3))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
asyncio.run(main())
"#;

const BLOCKING: &str = r#"
listener = socket.socket(fileno=3)
listener.setblocking(True) if os.get_blocking(3) else exit("not blocking")
while True:
    peer, _ = listener.accept()
    peer.recv(4096)
    peer.sendall(answer)
    peer.close()
"#;

const NOTIFY: &str = r#"
import select
to = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
to.connect(os.environ["NOTIFY_SOCKET"])
to.send(b"READY=1\nSTATUS=at work")
listener = socket.socket(fileno=3)
while True:
    select.select([listener], [], [])
    try:
        peer, _ = listener.accept()
    except BlockingIOError:
        continue
    peer.setblocking(True)
    peer.recv(4096)
    peer.sendall(answer)
    peer.close()
"#;

const NODE: &str = r#"
const fs = require('fs'), http = require('http');
console.log('waiting');
const timer = setInterval(() => {
  if (!fs.existsSync('go')) return;
  clearInterval(timer);
  const server = http.createServer((request, response) => {
    response.setHeader('Connection', 'close');
    response.end(JSON.stringify({pid: process.pid}));
  });
  server.listen({fd: 3});
  process.on('SIGTERM', () => server.close(() => process.exit(0)));
}, 10);
"#;

/// An interpreter, or `None` (said) where there is none. Not a shim that looks it up again.
fn interpreter(name: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(name).args(arguments).output();
    match output {
        Ok(output) if output.status.success() => {
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        }
        other => {
            eprintln!("SKIPPED: {name} is not here: {other:?}");
            None
        }
    }
}

pub fn python() -> Option<String> {
    interpreter("python3", &["-c", "import sys; print(sys.executable)"])
}

/// Starts it; no worker is ready until `go` is there, then all are and answer.
fn ready_on_go(command: &[&str], program: &str, keys: &str) -> Dev {
    let dev = Setup::with_config(&format!("command = {command:?}\nworkers = 2\n{keys}"));
    dev.write("program", program);
    let dev = dev.spawn();
    for slot in 0..2 {
        let pid = dev.until("started", |s| s.slots.len() == 2).slots[slot].pid;
        dev.wait_for_line(&format!("web[{slot}] {} | waiting", pid.expect("a pid")));
    }
    let status = dev.status();
    assert_eq!(
        (status.state.as_str(), status.workers.ready),
        ("starting", 0),
        "{}",
        dev.output()
    );
    dev.write("go", "");
    dev.until("ready", |s| s.state == "running" && s.workers.ready == 2);
    dev
}

#[test]
fn one_that_is_seen_in_an_event_loop() {
    let Some(python) = python() else { return };
    let program = format!("{PRELUDE}{ASYNCIO}");
    for keys in ["ready = \"accepting\"", ""] {
        let dev = ready_on_go(&[&python, "program"], &program, keys);
        dev.everybody_answers();
        dev.cli(&["reload", "web"]).succeeded();
        dev.everybody_answers();
        dev.stop();
    }
}

#[test]
fn one_that_sits_in_accept() {
    let Some(python) = python() else { return };
    let program = format!("{PRELUDE}{BLOCKING}");
    let keys = "blocking = true\nready = \"accepting\"";
    let dev = ready_on_go(&[&python, "program"], &program, keys);
    dev.everybody_answers();
    dev.cli(&["reload", "web"]).succeeded();
    dev.stop();
}

#[test]
fn one_that_notifies() {
    let Some(python) = python() else { return };
    let program = format!("{PRELUDE}{NOTIFY}");
    for keys in ["ready = \"notify\"", "ready = \"auto\""] {
        let dev = ready_on_go(&[&python, "program"], &program, keys);
        let status = dev.until("its words", |s| s.slots[0].status.is_some());
        assert_eq!(status.slots[0].status.as_deref(), Some("at work"));
        assert_eq!(status.counters.notify_refused, 0);
        dev.everybody_answers();
        dev.stop();
    }
}

#[test]
fn node_that_listens_on_the_descriptor() {
    let Some(node) = interpreter("node", &["-p", "process.execPath"]) else {
        return;
    };
    let dev = ready_on_go(&[&node, "program"], NODE, "ready = \"accepting\"");
    dev.everybody_answers();
    dev.cli(&["reload", "web"]).succeeded();
    dev.everybody_answers();
    dev.stop();
}

#[test]
fn a_command_that_says_so() {
    let script = "echo waiting; exec sleep 1000";
    let dev = ready_on_go(
        &["sh", "program"],
        script,
        "ready = { exec = [\"sh\", \"-c\", \"test -e go && test -d /proc/$APP_CLUSTER_PID\"] }",
    );
    dev.stop();
}

#[test]
fn a_delay() {
    let config = "command = \"sleep 1000\"\nworkers = 1\nready = { delay = \"300ms\" }\n";
    let dev = Setup::with_config(config).start();
    let line = dev.wait_for_line("is ready after");
    let after = line.rsplit(' ').next().expect("a time");
    let after = app_cluster::config::duration(after).expect("a time");
    assert!(after.as_millis() >= 300, "{line}");
    dev.stop();
}

#[test]
fn one_that_never_listens_is_never_ready() {
    for (ready, part) in [
        (
            "\"auto\"",
            "did not send READY=1, and it is not seen accepting",
        ),
        (
            "\"accepting\"",
            "it is not seen accepting on an inherited socket",
        ),
        ("\"notify\"", "did not send READY=1 to its NOTIFY_SOCKET"),
        ("{ exec = [\"false\"] }", "`false` did not exit 0"),
    ] {
        let config = format!(
            "command = [\"sh\", \"-c\", \"echo hello; exec sleep 1000\"]\nworkers = 16\n\
             ready = {ready}\nstart_timeout = \"1s\"\n"
        );
        let mut dev = Setup::with_config(&config).spawn();
        let status = dev.ended();
        assert_eq!(status.code(), Some(1), "{}", dev.output());
        let line = dev.wait_for_line("error: no worker could be started: ");
        for part in ["was not ready within ", part] {
            assert!(line.contains(part), "{line}");
        }
        assert!(!dev.output().contains("is ready"), "{}", dev.output());
        // It did what it was asked to: stopping it took no SIGKILL.
        assert!(!dev.output().contains("SIGKILL"), "{}", dev.output());
        dev.assert_gone();
    }
}
