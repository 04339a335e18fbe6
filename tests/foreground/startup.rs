// SPDX-License-Identifier: MIT OR Apache-2.0
//! Starts that cannot work, and those by an ordinary user or with `run`.

use crate::dev::{BINARY, Dev, Said, Setup, WITHIN, get};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

/// Ends with this status, having said all this, and leaves nothing.
fn fails(setup: Setup, code: i32, parts: &[&str]) {
    let mut dev = setup.spawn();
    let status = dev.ended();
    assert_eq!(status.code(), Some(code), "{}", dev.output());
    for part in parts {
        assert!(dev.output().contains(part), "{part}: {}", dev.output());
    }
    assert!(!dev.output().contains("panicked"), "{}", dev.output());
    dev.assert_gone();
}

#[test]
fn a_port_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let setup = Setup::new("web").arguments(&["-l", &address]);
    let hint = format!(
        "hint: see who has it with `ss -ltnp 'sport = :{}'`",
        taken.local_addr().expect("an address").port()
    );
    let error = format!("error: cannot listen on {address}: Address already in use");
    fails(setup, 1, &[&error, &hint]);
}

#[test]
fn a_unix_socket_in_use() {
    let setup = Setup::new("web");
    // Not under its home, where nothing may be left.
    let elsewhere = tempfile::tempdir().expect("a directory");
    let path = elsewhere.path().join("x.sock");
    let _taken = UnixListener::bind(&path).expect("a socket");
    let address = format!("unix:{}", path.display());
    let error = format!("error: cannot listen on {address}: somebody listens there already");
    fails(setup.arguments(&["-l", &address]), 1, &[&error]);
    assert!(path.exists(), "it is somebody else's");
}

#[test]
fn a_second_supervisor() {
    let dev = Setup::new("web").workers(1).start();
    let address = dev.address().to_string();
    let said = dev.cli(&["dev", "--name", "web", "-l", &address]);
    said.failed(
        1,
        &["another supervisor of this app runs already", "hint: "],
    );
    dev.everybody_answers();
    dev.stop();
}

#[test]
fn a_runtime_directory_that_cannot_be() {
    let setup = Setup::new("web");
    setup.write("file", "");
    let place = setup.path("file/web").display().to_string();
    let error = format!("error: cannot make the runtime directory {place}: Not a directory");
    let setup = setup.env("RUNTIME_DIRECTORY", &place);
    fails(setup, 1, &[&error, "hint: set XDG_RUNTIME_DIR"]);
}

#[test]
fn a_program_that_is_not_there() {
    let setup = Setup::new("web").command(&["./nowhere"]);
    let parts = [
        "error: the configuration cannot be used:",
        "nowhere",
        "no such file",
    ];
    fails(setup, 78, &parts);
    let setup = Setup::with_config("command = \"sleep 1000\"\nlisten = \"nowhere\"\nwrokers = 1\n");
    fails(setup, 78, &["app.toml:3:", "app.toml:4:1", "workers"]);
}

#[test]
fn a_program_that_exits() {
    let script = "echo port is a teapot >&2; exit 4";
    let setup = Setup::new("web").workers(2).command(&["sh", "-c", script]);
    let parts = [
        "exited with status 4 before it was ready",
        "| port is a teapot",
    ];
    fails(setup, 1, &parts);
}

#[test]
fn garbage_in_the_environment() {
    let dev = Setup::new("web")
        .workers(1)
        .env("LISTEN_FDS", "many")
        .env("LISTEN_PID", "-1")
        .env("LISTEN_FDNAMES", ":::")
        .env("NOTIFY_SOCKET", "/nowhere")
        .env("WATCHDOG_USEC", "soon")
        .start();
    dev.wait_for_line("NOTIFY_SOCKET=\"/nowhere\" cannot be used");
    dev.wait_for_line("WATCHDOG_USEC=\"soon\" is not a number");
    dev.wait_for_line("LISTEN_FDS is set, but LISTEN_PID=\"-1\" is not our pid");
    dev.everybody_answers();
    dev.stop();
}

#[test]
fn run_with_addresses_of_its_own() {
    let setup = Setup::with_config(&format!(
        "command = [{BINARY:?}, \"hello\"]\nworkers = 2\nlisten = [\"127.0.0.1:0\"]\n"
    ));
    let dev = setup.run().start();
    dev.everybody_answers();
    dev.cli(&["reload", "web"]).succeeded();
    let status = dev.status();
    assert_eq!(status.config, dev.path("app.toml").display().to_string());
    assert_eq!(status.generation, 2);
    dev.stop();
    let setup = Setup::with_config(&format!("command = [{BINARY:?}, \"hello\"]\n"));
    fails(
        setup.run(),
        78,
        &["error: nothing to listen on", "listen = ["],
    );
}

#[test]
fn run_with_sockets_that_are_passed() {
    let setup = Setup::with_config(&format!("command = [{BINARY:?}, \"hello\"]\nworkers = 2\n"));
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("an address");
    // As systemd does it, by way of standard input.
    let script = "exec 3<&0 </dev/null; \
        exec env LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=http \"$@\"";
    let dev = setup.run().wrapper(script).stdin(socket.into()).start();
    assert_eq!(dev.address(), address);
    assert_eq!(dev.status().listeners[0].name, "http");
    dev.everybody_answers();
    dev.stop();
}

/// Without root; with it, as `nobody`.
fn as_a_user() -> Option<Dev> {
    let mut setup = Setup::new("web").workers(2).env("RUNTIME_DIRECTORY", "");
    if nix::unistd::geteuid().is_root() {
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(setup.home.path(), open).expect("a mode");
        let own = setup.path("own");
        std::fs::create_dir(&own).expect("a directory");
        let user = nix::unistd::User::from_name("nobody").ok()??;
        nix::unistd::chown(&own, Some(user.uid), Some(user.gid)).expect("an owner");
        // Where we are built, others may not be able to go.
        std::fs::copy(BINARY, setup.path("app-cluster")).expect("a copy");
        let place = own.display().to_string();
        setup = setup.env("XDG_RUNTIME_DIR", &place).wrapper(
            "shift; exec setpriv --reuid nobody --regid nogroup --clear-groups ./app-cluster \"$@\"",
        );
        std::process::Command::new("setpriv")
            .arg("--version")
            .output()
            .ok()?;
    }
    Some(setup.spawn())
}

#[test]
fn an_ordinary_user() {
    let Some(mut dev) = as_a_user() else {
        eprintln!("SKIPPED: no setpriv, or no user nobody");
        return;
    };
    let line = dev.wait_for_line("listening on http://");
    let address = line
        .split("http://")
        .nth(1)
        .and_then(|l| l.split(' ').next());
    let address = address.expect("an address");
    dev.wait_for_line("slot 0: worker");
    let stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(WITHIN)).expect("a timeout");
    let answer = get(stream, "/").expect("an answer");
    let pid = answer["pid"].as_u64().expect("a pid");
    let owner = std::os::unix::fs::MetadataExt::uid(
        &std::fs::metadata(format!("/proc/{pid}")).expect("a process"),
    );
    assert_ne!(owner, 0);
    // Found where users have such things.
    let own = match dev.path("own").exists() {
        true => dev.path("own"),
        false => dev.home.path().to_owned(),
    };
    let mut command = dev.command(&["status", "web"]);
    command
        .env("XDG_RUNTIME_DIR", own)
        .env_remove("RUNTIME_DIRECTORY");
    Said::from(command.output().expect("status")).succeeded();
    dev.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(dev.ended().success(), "{}", dev.output());
    dev.assert_gone();
}
