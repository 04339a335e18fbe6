// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a program may listen on, and what it is told.

use crate::Row;
use crate::app::{App, assert_no_crash, eval, eval_in, free_port, request, script, serves, word};
use crate::dev::{Dev, wait};
use crate::node_tools::Node;
use nix::libc;
use nix::{getsockopt_impl, sockopt_impl};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

pub const ROWS: &[Row] = &[
    ("listen_every_form_of_the_address", addresses),
    ("listen_again_after_close", again),
    ("listen_on_any_port", any_port),
    ("listen_on_ports_of_its_own", own_ports),
    ("listen_refused_with_strict_ports", strict),
    ("listen_on_a_port_in_use", in_use),
    ("listen_on_unix_sockets", unix),
    ("listen_on_a_configured_unix_socket", configured_unix),
    ("listen_on_descriptor_3", descriptor),
    ("listen_with_a_backlog", backlog),
    ("listen_https_tickets_are_shared", tickets),
    ("listen_exclusive_is_explained", exclusive),
    ("listen_udp_is_refused", udp),
];

/// `new net.Server` that is kept, listening like that; closed again unless `keep`.
fn try_listen(dev: &Dev, slot: u32, arguments: &str, keep: bool) -> Value {
    let close = match keep {
        true => "(kept.all ||= []).push(s);",
        false => "if (s.listening) await new Promise((done) => s.close(done));",
    };
    let code = format!(
        "const s = require('http').createServer(app); \
         const told = await listen(s, {arguments}); {close} return told;"
    );
    eval_in(dev, slot, &code)
}

fn addresses(node: &Node) -> Result<(), String> {
    let dev = two_ports(node);
    let port = second(&dev).port();
    for how in [
        format!("{port}"),
        format!("'{port}'"),
        format!("{port}, '0.0.0.0'"),
        format!("{port}, '127.0.0.1'"),
        format!("{port}, '::'"),
        format!("{port}, '::1'"),
        format!("{port}, 'localhost'"),
        format!("{{ port: {port} }}"),
        format!("{{ port: {port}, host: '127.0.0.1', backlog: 9 }}"),
    ] {
        let told = try_listen(&dev, 0, &how, false);
        assert_eq!(
            told["at"]["port"],
            port,
            "listen({how}): {told}\n{}",
            dev.output()
        );
    }
    // Twice in one worker.
    let told = try_listen(&dev, 0, &format!("{port}"), true);
    assert_eq!(told["at"]["port"], port, "{told}");
    assert!(serves(second(&dev)));
    let told = try_listen(&dev, 0, &format!("{port}"), true);
    assert_eq!(told["code"], "EADDRINUSE", "{told}");
    let told = try_listen(&dev, 1, &format!("{port}"), true);
    assert_eq!(told["at"]["port"], port, "{told}");
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

/// `kit.cjs` on the first of two ports, ready with it.
fn two_ports(node: &Node) -> Dev {
    let app = App::kit(node)
        .listen("one=127.0.0.1:0")
        .listen("two=127.0.0.1:0")
        .keys("ready = { delay = \"300ms\" }");
    let dev = app.start();
    wait("it serves", || serves(dev.address()).then_some(()));
    dev.everybody_answers();
    dev
}

fn second(dev: &Dev) -> SocketAddr {
    dev.status().listeners[1].address.parse().expect("TCP")
}

fn again(node: &Node) -> Result<(), String> {
    let dev = two_ports(node);
    let port = second(&dev).port();
    let code = format!(
        "const s = require('http').createServer(app); const ports = []; \
         for (let i = 0; i < 3; i++) {{ \
           ports.push((await listen(s, {port})).at.port); \
           if (i < 2) await new Promise((done) => s.close(done)); }} \
         kept.s = s; return ports;"
    );
    assert_eq!(eval_in(&dev, 0, &code), json!([port, port, port]));
    assert!(serves(second(&dev)));
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

fn any_port(node: &Node) -> Result<(), String> {
    let dev = App::kit(node).start();
    let ports = |slot| {
        let first = try_listen(&dev, slot, "0", true)["at"]["port"].clone();
        let second = try_listen(&dev, slot, "0, '127.0.0.1'", true)["at"]["port"].clone();
        let third = try_listen(&dev, slot, "0", true)["at"]["port"].clone();
        [first, second, third]
    };
    let (zero, one) = (ports(0), ports(1));
    assert_eq!(zero, one, "the same in each worker\n{}", dev.output());
    assert!(zero[0] != zero[2] && zero[0] != zero[1], "{zero:?}");
    for port in &zero {
        let port = port.as_u64().expect("a port") as u16;
        assert!(
            both_answer((Ipv4Addr::LOCALHOST, port).into(), &dev),
            "{port}"
        );
    }
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

/// Whether each worker answers there.
fn both_answer(address: SocketAddr, dev: &Dev) -> bool {
    let mut pids: Vec<i64> = dev.pids().iter().map(|p| i64::from(*p)).collect();
    for _ in 0..2000 {
        let Ok(answer) = request(address, "GET /", "") else {
            return false;
        };
        pids.retain(|pid| answer["pid"] != *pid);
        if pids.is_empty() {
            return true;
        }
    }
    false
}

/// Ports that are not in the configuration are opened when a worker asks, kept over a reload
/// for those who ask again, and closed when nobody does.
fn own_ports(node: &Node) -> Result<(), String> {
    let dev = App::kit(node).start();
    let (one, two) = (free_port(), free_port());
    for slot in 0..2 {
        for how in [
            format!("{one}, '127.0.0.1'"),
            format!("{{ port: {two}, host: '::', ipv6Only: true }}"),
        ] {
            if how.contains("::") && TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
                continue;
            }
            let told = try_listen(&dev, slot, &how, true);
            assert!(told["at"].is_object(), "{how}: {told}\n{}", dev.output());
        }
    }
    assert!(both_answer((Ipv4Addr::LOCALHOST, one).into(), &dev));
    assert!(!serves((Ipv4Addr::LOCALHOST, two)));
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
        assert!(both_answer((Ipv6Addr::LOCALHOST, two).into(), &dev));
    }
    dev.wait_for_line(&format!("{one}, which is not one of the app's addresses"));
    // Nobody listens any more: a client is refused instead of waiting for ever.
    let refused = |port: u16| {
        wait("the port is closed", || {
            let stream = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port));
            stream.is_err().then_some(())
        });
    };
    let three = free_port();
    assert!(try_listen(&dev, 0, &three.to_string(), false)["at"].is_object());
    refused(three);
    dev.cli(&["reload", "web"]).succeeded();
    refused(one);
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

fn strict(node: &Node) -> Result<(), String> {
    let dev = App::kit(node).keys("node.strict_ports = true").start();
    let port = free_port();
    let told = try_listen(&dev, 0, &port.to_string(), true);
    assert_eq!(told["code"], "EACCES", "{told}");
    let line = dev.wait_for_line(&port.to_string());
    assert!(line.contains("strict_ports"), "{line}");
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

fn in_use(node: &Node) -> Result<(), String> {
    let taken = TcpListener::bind(("0.0.0.0", free_port())).expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let dev = App::kit(node).start();
    let told = try_listen(&dev, 0, &format!("{port}, '0.0.0.0'"), true);
    assert_eq!(told["code"], "EADDRINUSE", "{told}");
    let told = try_listen(&dev, 0, "1, '192.0.2.1'", true);
    assert_eq!(told["code"], "EADDRNOTAVAIL", "{told}");
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

fn unix(node: &Node) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    let dev = App::kit(node).start();
    let path = dev.path("own.sock");
    let options = "{ path: './own.sock', readableAll: true, writableAll: true }";
    for slot in 0..2 {
        let told = try_listen(&dev, slot, options, true);
        assert!(told["at"].is_string(), "{told}\n{}", dev.output());
    }
    let mode = std::fs::metadata(&path)
        .expect("the socket")
        .permissions()
        .mode();
    assert_eq!(mode & 0o666, 0o666, "{mode:o}");
    let mut stream = std::os::unix::net::UnixStream::connect(&path).expect("a connection");
    let answer = crate::app::exchange(&mut stream, "GET /", "").expect("an answer");
    assert!(answer["pid"].is_number());
    // A second supervisor's run would find it in the way: it goes with its users.
    dev.cli(&["reload", "web"]).succeeded();
    wait("the socket is gone", || (!path.exists()).then_some(()));
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

fn configured_unix(node: &Node) -> Result<(), String> {
    let setup = App::kit(node).workers(1);
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("web.sock");
    let address = format!("unix:{}", path.display());
    let how = json!({ "path": path }).to_string();
    let dev = setup.listen(&address).arg(&how).start();
    for generation in [1, 2] {
        let mut stream = std::os::unix::net::UnixStream::connect(&path).expect("a connection");
        let answer = crate::app::exchange(&mut stream, "GET /", "").expect("an answer");
        assert_eq!(answer["generation"], generation);
        if generation == 1 {
            dev.cli(&["reload", "web"]).succeeded();
        }
    }
    assert_no_crash(&dev);
    dev.stop();
    assert!(!path.exists());
    Ok(())
}

fn descriptor(node: &Node) -> Result<(), String> {
    let dev = App::kit(node).arg("{\"fd\":3}").start();
    dev.everybody_answers();
    let env = eval(
        &dev,
        "return [process.env.LISTEN_FDS, process.env.LISTEN_PID, process.pid]",
    );
    assert_eq!(env[0], "1");
    assert_eq!(env[1], env[2].to_string());
    dev.cli(&["reload", "web"]).succeeded();
    dev.everybody_answers();
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

/// A worker's listen(2) sets the backlog for all; it is put back.
fn backlog(node: &Node) -> Result<(), String> {
    let dev = two_ports(node);
    let port = second(&dev).port();
    let before = backlog_of(dev.pid(), port);
    for backlog in [7, 60] {
        let told = try_listen(&dev, 0, &format!("{port}, '127.0.0.1', {backlog}"), false);
        assert_eq!(told["at"]["port"], port, "{told}");
        wait("the backlog is restored", || {
            (backlog_of(dev.pid(), port) == before).then_some(())
        });
    }
    dev.stop();
    Ok(())
}

sockopt_impl!(
    TcpInfo,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    // The beginning of it, which all kernels have; the last one is tcpi_sacked.
    [u32; 8]
);

/// The longest queue of the listening socket with this port that the process holds.
fn backlog_of(pid: i32, port: u16) -> u32 {
    use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the table");
    let end = format!(":{port:04X}");
    // proc_net_tcp: number, local, remote, state (0A listens), …, inode.
    let inode = table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let listens = fields.get(3) == Some(&"0A") && fields.get(1)?.ends_with(&end);
        listens.then(|| fields.get(9).map(|inode| format!("socket:[{inode}]")))?
    });
    let inode = inode.expect("a listening socket");
    let directory = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors");
    let fd = directory.flatten().find_map(|entry| {
        let target = std::fs::read_link(entry.path()).ok()?;
        (target.to_str() == Some(&inode)).then(|| entry.file_name().to_str()?.parse().ok())?
    });
    let pidfd = pidfd_open(Pid::from_raw(pid).expect("a pid"), PidfdFlags::empty()).expect("pidfd");
    let socket = pidfd_getfd(
        &pidfd,
        fd.expect("its descriptor"),
        PidfdGetfdFlags::empty(),
    );
    let socket = socket.expect("a copy");
    let info = nix::sys::socket::getsockopt(&socket, TcpInfo);
    // The kernel says so there for a listening socket.
    info.expect("TCP_INFO")[7]
}

/// A TLS session of one worker is resumed by the other.
fn tickets(node: &Node) -> Result<(), String> {
    let dev = App::new(node, "tls.cjs").start();
    let mut client = std::process::Command::new(word(node));
    client.arg(script("tls-client.cjs"));
    client.arg(dev.address().port().to_string());
    let output = client.output().expect("the client");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(
        said.trim(),
        "resumed by another",
        "{output:?}\n{}",
        dev.output()
    );
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

/// Node does not ask us for such a server: the log says what is wrong with it.
fn exclusive(node: &Node) -> Result<(), String> {
    let port = free_port();
    let mut options = vec!["exclusive"];
    if node.major() >= 23 {
        options.push("reusePort");
    }
    for option in options {
        let how = format!("{{\"port\":{port},\"{option}\":true}}");
        let app = App::kit(node).arg(&how).keys("start_timeout = \"3s\"");
        let mut dev = app.listen(&format!("127.0.0.1:{port}")).setup().spawn();
        let part = format!("listens on port {port} with `{option}: true`");
        let line = dev.wait_for_line(&part);
        assert!(line.contains("leave"), "{line}");
        assert!(!dev.ended().success(), "{}", dev.output());
        dev.assert_gone();
    }
    // A port of its own is nobody else's business.
    let dev = App::kit(node).workers(1).start();
    let told = try_listen(&dev, 0, "{ port: 0, exclusive: true }", true);
    assert!(told["at"]["port"].is_number(), "{told}");
    assert!(!dev.output().contains("exclusive"), "{}", dev.output());
    dev.stop();
    Ok(())
}

fn udp(node: &Node) -> Result<(), String> {
    let dev = App::kit(node).start();
    let code = "const s = require('dgram').createSocket('udp4'); \
        return new Promise((done) => { s.once('error', (e) => done(e.code)); \
          s.bind(0, () => done('bound')); });";
    let told = eval_in(&dev, 0, code);
    assert!(
        told.as_str().is_some_and(|code| code.starts_with('E')),
        "{told}"
    );
    let line = dev.wait_for_line("UDP");
    assert!(
        line.contains("not supported") || line.contains("cannot"),
        "{line}"
    );
    // A client that does not bind asks nobody.
    let code = "const s = require('dgram').createSocket('udp4'); \
        return new Promise((done) => s.send('x', 9, '127.0.0.1', (e) => { s.close(); done(e); }));";
    assert_eq!(eval_in(&dev, 0, code), Value::Null);
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}
