// SPDX-License-Identifier: MIT OR Apache-2.0
//! A supervisor that ends when it has been asked.

use super::run_in;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

const NEXT: &str = "{\"error\":\"org.app_cluster.NotAuthorized\",\"parameters\":\
                    {\"message\":\"the next one\"}}";

/// Listens where the supervisor would.
fn listen(home: &Path) -> UnixListener {
    let place = home.join("run/app-cluster");
    std::fs::create_dir_all(&place).expect("a directory");
    UnixListener::bind(place.join("control")).expect("a socket")
}

/// The next call; nobody answers it yet.
fn asked(listener: &UnixListener) -> UnixStream {
    let (stream, _) = listener.accept().expect("a client");
    let mut call = Vec::new();
    BufReader::new(&stream)
        .read_until(0, &mut call)
        .expect("a call");
    assert!(String::from_utf8_lossy(&call).contains("GetStatus"));
    stream
}

#[test]
fn status_is_asked_of_the_next_supervisor() {
    let home = tempfile::tempdir().expect("a directory");
    let listener = listen(home.path());
    let supervisors = std::thread::spawn(move || {
        drop(asked(&listener));
        drop(asked(&listener));
        let mut third = asked(&listener);
        let answer = NEXT.replace("org.app_cluster", app_cluster::api::INTERFACE);
        third.write_all(answer.as_bytes()).expect("an answer");
        third.write_all(&[0]).expect("its end");
    });
    let said = run_in(home.path(), &["status"]);
    supervisors.join().expect("three calls");
    assert!(said.contains("error: the next one"), "{said}");
}

#[test]
fn without_a_next_one_the_end_is_told() {
    let home = tempfile::tempdir().expect("a directory");
    let listener = listen(home.path());
    let supervisor = std::thread::spawn(move || drop(asked(&listener)));
    let said = run_in(home.path(), &["status"]);
    supervisor.join().expect("a call");
    assert!(said.contains("ended before it answered"), "{said}");
}
