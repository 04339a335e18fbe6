// SPDX-License-Identifier: MIT OR Apache-2.0
//! Channels whose other end is in the same process.

use super::*;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

fn pair() -> (Channel, UnixStream) {
    let (channel, theirs) = Channel::pair().expect("a pair");
    (channel, UnixStream::from(theirs))
}

fn lines(channel: &mut Channel) -> Vec<String> {
    let text = |r: Received| match r {
        Received::Line(bytes) => String::from_utf8(bytes).expect("UTF-8"),
        Received::TooLong { length, .. } => format!("too long: {length}"),
        Received::End(n) => format!("end: {n}"),
    };
    channel.receive().into_iter().map(text).collect()
}

#[test]
fn lines_are_put_together_from_pieces() {
    let (mut ours, mut theirs) = pair();
    theirs.write_all(b"\"a\"\n\"b").expect("write");
    assert_eq!(lines(&mut ours), ["\"a\""]);
    assert_eq!(ours.speaker(), Some(std::process::id() as i32));
    theirs.write_all(b"c\"\n\n").expect("write");
    assert_eq!(lines(&mut ours), ["\"bc\"", ""]);
    theirs.write_all(b"tor").expect("write");
    drop(theirs);
    assert_eq!(lines(&mut ours), ["end: 3"]);
    assert!(ours.has_ended() && lines(&mut ours).is_empty());
}

#[test]
fn a_line_without_end_costs_a_bounded_amount() {
    let (mut ours, mut theirs) = pair();
    let piece = vec![b'x'; 100_000];
    let mut seen = Vec::new();
    for _ in 0..50 {
        theirs.write_all(&piece).expect("write");
        seen.extend(lines(&mut ours));
        assert!(ours.partial.capacity() < 4 * MAX_LINE);
    }
    theirs.write_all(b"\n1\n").expect("write");
    seen.extend(lines(&mut ours));
    assert_eq!(seen, ["too long: 5000000", "1"]);
}

#[test]
fn descriptors_go_both_ways() {
    let (mut ours, theirs) = pair();
    let (one, mut other) = UnixStream::pair().expect("a pair");
    ours.send(b"{}\n".to_vec(), Some(Arc::new(one.into())));
    let (mut there, _unused) = pair();
    there.socket = theirs.into();
    assert_eq!(lines(&mut there), ["{}"]);
    let mut received = UnixStream::from(there.take_descriptor().expect("a descriptor"));
    received.write_all(b"hello").expect("write");
    drop(received);
    let mut text = String::new();
    other.read_to_string(&mut text).expect("read");
    assert_eq!(text, "hello");
    assert!(there.take_descriptor().is_none());
}

#[test]
fn what_a_worker_does_not_read_waits_whole_and_in_order() {
    let (mut ours, mut theirs) = pair();
    for n in 0..20_000 {
        ours.send(format!("{n:0>99}\n").into_bytes(), None);
    }
    assert!(ours.is_clogged() && ours.wants_to_send());
    let mut text = String::new();
    let mut bytes = vec![0; 65_536];
    while text.len() < 2_000_000 {
        let count = theirs.read(&mut bytes).expect("read");
        text.push_str(std::str::from_utf8(&bytes[..count]).expect("UTF-8"));
        ours.flush();
    }
    assert!(!ours.is_clogged() && !ours.wants_to_send());
    for (n, line) in text.lines().enumerate() {
        assert_eq!(line.trim_start_matches('0').parse().unwrap_or(0), n);
    }
    drop(theirs);
    ours.send(b"1\n".to_vec(), None);
    ours.flush();
    assert!(!ours.wants_to_send());
}

#[test]
fn descriptors_without_lines_are_bounded() {
    let (mut ours, theirs) = pair();
    let (mut there, _unused) = pair();
    there.socket = theirs.into();
    for _ in 0..100 {
        let (one, _) = UnixStream::pair().expect("a pair");
        there.send(b" ".to_vec(), Some(Arc::new(one.into())));
        ours.receive();
    }
    assert_eq!(ours.descriptors.len(), MAX_DESCRIPTORS);
}

/// What comes with a line that is too long has to be acknowledged all the same.
#[test]
fn a_long_line_that_names_a_descriptor_is_known_for_it() {
    for (head, named) in [
        (r#"{"cmd":"NODE_HANDLE","type":"net.Socket","msg":""#, true),
        (r#"{"cmd":"mine","type":"NODE_HANDLE","msg":""#, false),
    ] {
        let (mut ours, mut theirs) = pair();
        theirs.write_all(head.as_bytes()).expect("write");
        let piece = vec![b'x'; 100_000];
        let mut seen = ours.receive();
        for _ in 0..15 {
            theirs.write_all(&piece).expect("write");
            seen.extend(ours.receive());
        }
        theirs.write_all(b"\"}\n").expect("write");
        seen.extend(ours.receive());
        let length = head.len() + 1_500_000 + 2;
        let handle = named;
        let expected = [Received::TooLong { length, handle }];
        assert_eq!(format!("{seen:?}"), format!("{expected:?}"), "{head}");
    }
}

/// Closing it would wait for whoever is at its other end.
#[test]
fn no_socket_of_a_worker_lingers_here() {
    use std::net::{TcpListener, TcpStream};
    let (mut ours, theirs) = pair();
    let (mut there, _unused) = pair();
    there.socket = theirs.into();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let linger = Some(std::time::Duration::from_secs(15));
    let sent: Vec<TcpStream> = (0..MAX_DESCRIPTORS + 2)
        .map(|_| {
            let socket = TcpStream::connect(address).expect("a connection");
            sockopt::set_socket_linger(&socket, linger).expect("an option");
            socket
        })
        .collect();
    for socket in &sent {
        let copy = socket.try_clone().expect("a copy");
        there.send(b" ".to_vec(), Some(Arc::new(copy.into())));
        ours.receive();
    }
    // The option is of the socket, not of a descriptor for it.
    let lingers = |socket: &TcpStream| sockopt::socket_linger(socket).expect("an option");
    let (kept, dropped) = sent.split_at(MAX_DESCRIPTORS);
    assert!(dropped.iter().all(|s| lingers(s).is_none()));
    assert_eq!(lingers(&kept[0]), linger);
    let taken = ours.take_descriptor().expect("a descriptor");
    assert_eq!(sockopt::socket_linger(&taken).expect("an option"), None);
    drop(ours);
    assert!(sent.iter().all(|s| lingers(s).is_none()));
}

/// Set in the process that has few descriptors and no capabilities.
const FEW: &str = "APPC_TEST_FEW_DESCRIPTORS";

/// The kernel lets nobody have more descriptors on their way than may be open (unix(7),
/// ETOOMANYREFS), unless it is privileged: in a process of its own.
#[test]
fn too_many_descriptors_on_their_way_are_no_busy_loop() {
    if std::env::var_os(FEW).is_some() {
        return few_descriptors();
    }
    let name = "too_many_descriptors_on_their_way_are_no_busy_loop";
    let root = rustix::process::geteuid().is_root();
    let plain = match root {
        true => "setpriv --inh-caps=-all --bounding-set=-all",
        false => "",
    };
    let script = format!("ulimit -n 64 && exec {plain} \"$@\"");
    let program = std::env::current_exe().expect("a path");
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", &script, "sh"])
        .arg(program)
        .env(FEW, "1");
    let output = command.args([name, "--test-threads=1"]).output();
    let output = output.expect("sh");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("1 passed"), "{output:?}");
}

fn few_descriptors() {
    let (one, _other) = UnixStream::pair().expect("a pair");
    let handle: Arc<OwnedFd> = Arc::new(one.into());
    let (mut crowd, idle) = pair();
    for _ in 0..200 {
        crowd.send(b" ".to_vec(), Some(Arc::clone(&handle)));
    }
    assert!(
        crowd.stalled_for().is_some(),
        "{} wait",
        crowd.descriptors_waiting()
    );
    let (mut ours, theirs) = pair();
    ours.send(b"1\n".to_vec(), Some(handle));
    // The socket is writable, but nothing is gained by waiting for that.
    assert!(ours.stalled_for().is_some() && !ours.wants_to_send());
    assert_eq!(ours.descriptors_waiting(), 1);
    drop(idle);
    ours.flush();
    assert!(ours.stalled_for().is_none() && !ours.wants_to_send());
    let (mut there, _unused) = pair();
    there.socket = theirs.into();
    assert_eq!(lines(&mut there), ["1"]);
    assert!(there.take_descriptor().is_some());
}

#[test]
fn a_descriptor_waits_until_what_is_before_it_has_been_read() {
    let (mut ours, mut theirs) = pair();
    ours.part_handles();
    let handle = || Some(Arc::new(UnixStream::pair().expect("a pair").0.into()));
    ours.send(b"1\n".to_vec(), handle());
    ours.send(b"2\n".to_vec(), handle());
    assert_eq!(ours.stalled_for(), None, "nothing bare is before them");
    ours.send(b"3\n".to_vec(), None);
    ours.send(b"4\n".to_vec(), handle());
    ours.send(b"5\n".to_vec(), None);
    // The line behind has had it looked again.
    assert_eq!(ours.stalled_for(), Some(2 * UNREAD));
    for _ in 0..10 {
        ours.flush();
    }
    assert_eq!(ours.stalled_for(), Some(TOO_MANY));
    let mut read = [0; 100];
    // A plain read ends behind each line that came with a descriptor.
    for expected in ["1\n", "2\n", "3\n"] {
        let count = theirs.read(&mut read).expect("read");
        assert_eq!(&read[..count], expected.as_bytes());
    }
    ours.flush();
    assert_eq!(ours.stalled_for(), None);
    let count = theirs.read(&mut read).expect("read");
    assert_eq!(&read[..count], b"4\n");
}

/// Takes over from `ours`, which is gone.
fn successor(ours: &Channel, exact: bool) -> Channel {
    let state = serde_json::to_string(&ours.unfinished(exact)).expect("JSON");
    let copy = ours.as_fd().try_clone_to_owned().expect("a copy");
    let mut next = Channel::on(copy);
    next.go_on(serde_json::from_str(&state).expect("the same"));
    next
}

/// Everything that arrives at the other end while `ours` sends, until it has nothing more.
fn drain(ours: &mut Channel, theirs: &mut UnixStream) -> String {
    theirs.set_nonblocking(true).expect("a flag");
    let (mut all, mut bytes) = (Vec::new(), vec![0; 65_536]);
    loop {
        match theirs.read(&mut bytes) {
            Ok(count) => all.extend_from_slice(&bytes[..count]),
            Err(_) if !ours.wants_to_send() => return String::from_utf8(all).expect("UTF-8"),
            Err(_) => ours.flush(),
        }
    }
}

#[test]
fn a_line_that_was_begun_is_completed_by_the_next() {
    for exact in [true, false] {
        let (mut ours, mut theirs) = pair();
        let long = format!("{}\n", "a".repeat(900_000));
        ours.send(long.clone().into_bytes(), None);
        assert!(ours.take_changed() && !ours.take_changed());
        ours.send(b"waits\n".to_vec(), None);
        assert!(!ours.take_changed(), "nothing of it is sent");
        // Not even the second in a row loses anything.
        let mut next = successor(&successor(&ours, exact), exact);
        next.send(b"new\n".to_vec(), None);
        let waits = if exact { "waits\n" } else { "" };
        let got = drain(&mut next, &mut theirs);
        assert!(
            got == format!("{long}{waits}new\n"),
            "{exact}: {}",
            got.len()
        );
        assert!(next.take_changed(), "it is complete");
    }
}

#[test]
fn what_was_received_of_a_line_goes_to_the_next() {
    let (mut ours, mut theirs) = pair();
    theirs.write_all(b"\"a").expect("write");
    assert_eq!(lines(&mut ours), [""; 0]);
    let mut next = successor(&ours, true);
    theirs.write_all(b"b\"\n").expect("write");
    assert_eq!(lines(&mut next), ["\"ab\""]);
    assert!(!next.take_torn());
    // Of one that was killed it is not known.
    assert!(successor(&ours, false).take_torn());
}

#[test]
fn lines_wait_for_the_descriptors_that_they_had() {
    let (mut ours, theirs) = pair();
    let (mut there, _unused) = pair();
    there.socket = theirs.into();
    let handle = || {
        Some(Arc::new(OwnedFd::from(
            UnixStream::pair().expect("a pair").0,
        )))
    };
    ours.send(vec![b'x'; 400_000], None);
    ours.send(b"1\n".to_vec(), handle());
    ours.send(b"2\n".to_vec(), handle());
    ours.send(b"3\n".to_vec(), None);
    let mut next = successor(&ours, true);
    assert_eq!(next.owing(), 2);
    next.supply(None);
    next.supply(handle());
    assert_eq!(next.owing(), 0);
    let mut got = Vec::new();
    while got.len() < 2 {
        got.extend(lines(&mut there));
        next.flush();
    }
    assert!(got[0].ends_with("x2"), "{}", got[0].len());
    assert_eq!(got[1], "3");
    assert!(there.take_descriptor().is_some() && there.take_descriptor().is_none());
    // Who was killed has nothing but what it had begun.
    assert_eq!(successor(&ours, false).owing(), 0);
}

#[test]
fn what_was_looked_at_is_there_until_it_is_forgotten() {
    let (mut ours, mut theirs) = pair();
    let small = |line: &[u8]| line.len() < 3;
    assert!(ours.look(small).is_empty());
    theirs.write_all(b"1\n22\n333\n4\n").expect("write");
    assert_eq!(ours.look(small), [b"1".to_vec(), b"22".to_vec()]);
    // Another supervisor goes on: it sees the same.
    let socket = ours.socket.try_clone().expect("a copy");
    let mut next = Channel::on(socket);
    assert_eq!(next.look(small).len(), 2);
    ours.acted_upon(b"1");
    assert_eq!(ours.look(small), [b"22".to_vec()]);
    ours.acted_upon(b"22");
    assert_eq!(ours.look(small), Vec::<Vec<u8>>::new());
    assert_eq!(lines(&mut ours), ["333", "4"]);
    // The beginning of a line is not looked at, nor is what follows it.
    theirs.write_all(b"5").expect("write");
    assert!(ours.look(small).is_empty() && lines(&mut ours).is_empty());
    theirs.write_all(b"6\n7\n").expect("write");
    assert!(ours.look(small).is_empty());
    assert_eq!(lines(&mut ours), ["56", "7"]);
    drop(theirs);
    assert!(ours.look(small).is_empty());
    assert_eq!(lines(&mut ours), ["end: 0"]);
}

#[test]
fn a_descriptor_is_there_once_however_often_it_was_looked_at() {
    let (mut ours, theirs) = pair();
    let mut there = Channel::on(theirs.into());
    let (one, _other) = UnixStream::pair().expect("a pair");
    there.send(b"1\n".to_vec(), None);
    there.send(b"2\n".to_vec(), Some(Arc::new(one.into())));
    let first = |line: &[u8]| line == b"1";
    assert_eq!(ours.look(first).len(), 1);
    assert!(ours.take_descriptor().is_none());
    ours.acted_upon(b"1");
    ours.forget();
    assert!(ours.look(first).is_empty());
    assert_eq!(lines(&mut ours), ["2"]);
    assert!(ours.take_descriptor().is_some() && ours.take_descriptor().is_none());
}
