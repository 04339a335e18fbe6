// SPDX-License-Identifier: MIT OR Apache-2.0
//! Self-test of the load generator: it sees each way in which a request can be lost.

use super::load::{Kind, Load, LoadSpec, Report};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

const WITHIN: Duration = Duration::from_secs(20);

/// What a faulty server does to a connection before closing it.
type Fault = fn(&TcpStream);

/// A server with one way to fail, for every tenth request.
fn faulty(fail: Fault) -> LoadSpec {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the test process; a thread a connection would need joining, this one does not.
    std::thread::spawn(move || {
        for (number, stream) in (1..).zip(listener.incoming()) {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 1024];
            if stream.read(&mut request).is_err() {
                continue;
            }
            if number % 10 == 0 {
                fail(&stream);
            } else {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
                let _ = stream.write_all(answer);
            }
        }
    });
    LoadSpec::tcp(address)
}

fn reset(stream: &TcpStream) {
    let linger = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    nix::sys::socket::setsockopt(stream, nix::sys::socket::sockopt::Linger, &linger).unwrap();
}

fn failures_of(spec: LoadSpec) -> Report {
    let load = Load::start(LoadSpec {
        limit: Some(100),
        ..spec
    })
    .unwrap();
    load.wait_for(100, WITHIN).unwrap();
    load.stop()
}

#[test]
fn the_load_generator_counts_every_failure() {
    let cases: [(&str, Fault, Kind, &str); 5] = [
        (
            "reset",
            reset,
            Kind::NewConnection,
            "read: Connection reset",
        ),
        (
            "reset, reconnecting",
            reset,
            Kind::KeepAlive,
            "read: Connection reset",
        ),
        ("end of file", |_| (), Kind::KeepAlive, "after 0 bytes"),
        (
            "half an answer",
            |mut stream| {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{")
                    .unwrap()
            },
            Kind::NewConnection,
            "after 1 of 2 bytes",
        ),
        (
            "503",
            |mut stream| {
                stream
                    .write_all(b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\n{}")
                    .unwrap()
            },
            Kind::NewConnection,
            "503 No",
        ),
    ];
    for (what, fail, kind, text) in cases {
        let report = failures_of(faulty(fail).with(kind, 2));
        let total = report.total();
        assert_eq!(
            (total.sent, total.ok, total.failed),
            (100, 90, 10),
            "{what}\n{report}"
        );
        assert_eq!(total.failures.len(), 10);
        assert!(
            total
                .failures
                .iter()
                .all(|failure| failure.text.contains(text)),
            "{what}\n{report}"
        );
    }
}

#[test]
fn the_load_generator_counts_refusals_and_lost_keep_alive_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let report = failures_of(LoadSpec::tcp(address).with(Kind::NewConnection, 4));
    assert_eq!(report.total().failed, 100, "{report}");
    assert_eq!(report.total().failures.len(), 20);

    // Promises keep-alive and closes after each answer.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let spec = LoadSpec::tcp(listener.local_addr().unwrap()).with(Kind::KeepAlive, 1);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
        }
    });
    let report = failures_of(spec);
    assert_eq!(
        (report.total().ok, report.total().failed),
        (50, 50),
        "{report}"
    );

    // Never answers.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let spec = LoadSpec::tcp(listener.local_addr().unwrap()).with(Kind::NewConnection, 2);
    let answer_within = Duration::from_millis(300);
    let load = Load::start(LoadSpec {
        answer_within,
        ..spec
    })
    .unwrap();
    load.wait_for(2, WITHIN).unwrap();
    let report = load.stop();
    assert_eq!(report.total().ok, 0);
    assert!(
        report.total().failures[0]
            .text
            .contains("no answer in time"),
        "{report}"
    );
}
