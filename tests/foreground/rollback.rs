// SPDX-License-Identifier: MIT OR Apache-2.0
//! Releases that are deployed, fail, and are taken back: a program in Python.

use crate::releases::{self, Language};
use std::path::PathBuf;

const PROGRAM: &str = r#"
import json, os, select, signal, socket, sys, time

if os.environ.get("FAIL_SLOT") == os.environ["APP_CLUSTER_SLOT"]:
    sys.exit("cannot find flux")
if "CRASH_MS" in os.environ:
    signal.setitimer(signal.ITIMER_REAL, int(os.environ["CRASH_MS"]) / 1000)
time.sleep(int(os.environ.get("START_MS", "0")) / 1000)

ends = False
def end(*_):
    global ends
    ends = True
signal.signal(signal.SIGTERM, end)
wake, alarm = os.pipe()
os.set_blocking(alarm, False)
signal.set_wakeup_fd(alarm)

listener = socket.socket(fileno=3)
listener.setblocking(False)
poll = select.epoll()
poll.register(listener, select.EPOLLIN)
poll.register(wake, select.EPOLLIN)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
    line.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
while not ends:
    poll.poll()
    try:
        client, _ = listener.accept()
    except OSError:
        continue
    with client:
        client.settimeout(10)
        head = b""
        while b"\r\n\r\n" not in head:
            more = client.recv(65536)
            if not more:
                break
            head += more
        else:
            body = json.dumps({"pid": os.getpid()})
            start = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: "
            client.sendall(f"{start}{len(body)}\r\n\r\n{body}".encode())
"#;

/// `None`: there is no Python here.
fn python() -> Option<Language> {
    let program = PathBuf::from(crate::readiness::python()?);
    Some(Language {
        programs: [program.clone(), program],
        name: "python3",
        file: "app.py",
        text: PROGRAM,
    })
}

#[test]
fn a_release_is_deployed_and_taken_back() {
    let Some(python) = python() else { return };
    releases::deployed_and_taken_back(&python);
}

#[test]
fn the_third_of_six_fails_and_the_others_go_back() {
    let Some(python) = python() else { return };
    releases::third_of_six_fails(&python, false);
}

#[test]
fn the_third_of_six_fails_and_the_others_are_held() {
    let Some(python) = python() else { return };
    releases::third_of_six_fails(&python, true);
}

#[test]
fn whatever_happens_during_a_reload() {
    let Some(python) = python() else { return };
    releases::whatever_happens_during_a_reload(&python);
}

#[test]
fn a_storm_is_ended() {
    let Some(python) = python() else { return };
    releases::a_storm_is_ended(&python);
}
