// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a whole file means.

use super::*;

pub(super) fn good(text: &str) -> Config {
    Config::parse(text, "web.toml").unwrap_or_else(|error| panic!("{error}"))
}

pub(super) fn bad(text: &str) -> String {
    Config::parse(text, "web.toml").unwrap_err().to_string()
}

/// What is said of an address says what is wrong with it, and then what to write.
#[test]
fn addresses_of_other_tools() {
    for (text, message) in [
        ("unix:run/x.sock", "`unix:run/x.sock` has no absolute path"),
        ("*:80", "`*:80` is no address"),
        ("::1:80", "`::1:80` is no address"),
    ] {
        let told = why(&format!("listen = {text:?}"));
        let (first, hint) = told.split_once('\n').expect("a remedy");
        assert_eq!(first, message);
        assert!(hint.starts_with("write "), "{hint}");
    }
}

/// The messages, one a line, then the remedies, for the value of one key beside a valid
/// command.
pub(super) fn why(line: &str) -> String {
    let text = format!("command = \"true\"\n{line}\n");
    let error = Config::parse(&text, "web.toml").unwrap_err();
    let messages = error.diagnostics.iter().map(|found| found.message.clone());
    let hints = error.diagnostics.iter().map(|found| {
        let hint = found.hint.clone();
        hint.unwrap_or_else(|| panic!("{line}: no remedy: {}", found.message))
    });
    messages.chain(hints).collect::<Vec<_>>().join("\n")
}

#[test]
fn defaults() {
    let config = good("command = [\"node\", \"server.js\"]");
    let policy = config.policy(&Cpus {
        count: 4,
        source: "affinity".into(),
    });
    assert_eq!(policy.workers, 4);
    assert_eq!(
        policy.workers_source,
        "workers = \"max\": 4 CPUs (affinity)"
    );
    assert_eq!(config.directory, Path::new("/"));
    assert!(config.listen.is_empty());
    assert_eq!(policy.stop_signal, 15);
    // The table of keys and the code say the same.
    for key in KEYS.iter().filter(|key| key.status == Status::Implemented) {
        if !key.default.is_empty() {
            let text = format!(
                "command = \"node server.js\"\n{} = {}",
                key.name, key.default
            );
            let same = Config {
                source: config.source.clone(),
                ..good(&text)
            };
            assert_eq!(same, config, "{}", key.name);
        }
    }
}

#[test]
fn every_key() {
    let config = good(
        r#"
        command = "gunicorn -w 1 'app:app'"
        directory = "/srv/web/current"
        environment_files = ["/etc/default/web", "-.env"]
        workers = "-1"
        protocol = "listen-fds"
        balance = "sticky"
        max_workers = 12
        slot_listen = "127.0.0.1:31{slot:02}"
        socket_user = "web"
        socket_group = 33
        socket_mode = "0600"
        user = "web"
        group = "www-data"
        sandbox = "strict"
        autostart = "connection"
        blocking = true
        ready = { delay = "1s" }
        start_timeout = "1min 30s"
        drain_timeout = 45
        stop_signal = "QUIT"
        restart = "on-failure"
        stop_exit_codes = [0, 0x03]
        backoff_min = "1s"
        backoff_max = "1min"
        crash_budget = 3
        crash_window = "10s"
        canary_time = 2.5
        batch = 2
        min_ready_time = "500ms"
        max_draining = 4
        on_failure = "hold"
        watchdog = "10s"
        pre_stop_delay = "3s"
        health = { exec = "./check", interval = "1s" }
        [environment]
        NODE_ENV = "production"
        [listen]
        http = "0.0.0.0:80"
        admin = "unix:/run/web.sock"
        "#,
    );
    assert_eq!(config.command, ["gunicorn", "-w", "1", "app:app"]);
    assert_eq!(config.environment["NODE_ENV"], "production");
    let files = config.environment_files.iter().map(|file| file.optional);
    assert_eq!(files.collect::<Vec<_>>(), [false, true]);
    assert_eq!(config.listen.len(), 2);
    let admin = &config.listen[1].address;
    assert_eq!(
        (config.lines(&config.listen[0].address), config.lines(admin)),
        (12, 1)
    );
    let slots = config.slot_listen.as_ref().unwrap();
    assert_eq!(slots.address(11).to_string(), "127.0.0.1:3111");
    assert_eq!(config.socket_group.as_deref(), Some("33"));
    assert_eq!(
        (config.socket_mode, config.sandbox),
        (Some(0o600), Sandbox::Strict)
    );
    assert_eq!(config.autostart, Some(Autostart::Connection));
    assert_eq!(config.drain_timeout, Duration::from_secs(45));
    assert_eq!(config.stop_exit_codes, [0, 3]);
    let policy = config.policy(&Cpus {
        count: 1,
        source: "online".into(),
    });
    assert_eq!(policy.workers, 1);
    assert_eq!(policy.workers_source, "workers = \"-1\": 1 CPU (online)");
    let seconds = Duration::from_secs;
    assert_eq!(policy.watchdog, Some(seconds(10)));
    assert_eq!(policy.pre_stop_delay, seconds(3));
    assert_eq!(policy.health.map(|h| h.interval), Some(seconds(1)));
    assert_eq!(policy.ready, Ready::Delay(Duration::from_secs(1)));
    assert_eq!(policy.start_timeout, Duration::from_secs(90));
    assert_eq!(policy.canary_time, Duration::from_millis(2_500));
    assert_eq!(
        (policy.stop_signal, policy.batch, policy.max_draining),
        (3, Batch::Count(2), Some(4))
    );
    let json = serde_json::to_string(&config).unwrap();
    let again: Config = serde_json::from_str(&json).unwrap();
    assert_eq!(again.command, config.command);
}

#[test]
fn one_address_needs_no_array() {
    for one in [
        "\"3000\"",
        "3000",
        "[3000]",
        "[\"3000\"]",
        "{ 3000 = 3000 }",
    ] {
        let config = good(&format!("command = \"true\"\nlisten = {one}"));
        let [listen] = config.listen.as_slice() else {
            panic!("{one}: {:?}", config.listen);
        };
        assert_eq!(
            (listen.name.as_str(), listen.address.port()),
            ("3000", Some(3000))
        );
    }
}

#[test]
fn listeners_keep_the_order_of_the_file() {
    let config = good("command = \"a\"\n[listen]\nz = \"1\"\na = \"2\"\nm = \"0\"\nb = \"0\"");
    let names: Vec<_> = config.listen.iter().map(|l| l.name.as_str()).collect();
    assert_eq!(names, ["z", "a", "m", "b"]);
    let message = why("listen = { a = \"80\", b = \"80\" }");
    assert_eq!(
        message,
        "two listeners have the address 80\nleave one of them out"
    );
    assert_eq!(
        good("command = \"a\"\ncrash_budget = 1_000").crash_budget,
        1000
    );
    assert_eq!(
        good("command = \"a\"\nstart_timeout = 1_0")
            .start_timeout
            .as_secs(),
        10
    );
}

#[test]
fn a_byte_order_mark_is_no_column() {
    let error = Config::parse("\u{feff}x = 1", "web.toml").unwrap_err();
    assert_eq!(error.diagnostics[1].position.column, 1);
}

#[test]
fn a_file_full_of_errors_takes_no_time() {
    let text: String = (0..60_000).map(|n| format!("wrong{n} = 1\n")).collect();
    let error = Config::parse(&text, "x").unwrap_err();
    assert_eq!(error.diagnostics.len(), 101);
}

#[test]
fn the_same_listener_twice_in_a_table_is_a_syntax_error() {
    assert!(bad("command = \"a\"\n[listen]\nx = \"1\"\nx = \"2\"").contains("there twice"));
}

#[test]
fn long_lines_and_line_ends() {
    let text = format!("command = \"true\"\r\nx = \"{}\"\r\n", "y".repeat(5000));
    let shown = bad(&text);
    assert!(shown.lines().all(|line| line.len() < 200), "{shown}");
    let text = format!(
        "command = \"true\"\nenvironment = {{ {} = 1 }}",
        "A".repeat(5000)
    );
    assert!(
        bad(&text)
            .lines()
            .filter(|line| line.contains('^'))
            .all(|l| l.len() < 200)
    );
}

#[test]
fn files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("web.toml");
    let error = Config::load(&path).unwrap_err();
    assert_eq!(error.diagnostics[0].position.line, 0);
    assert_eq!(
        error.to_string(),
        format!(
            "error: no such file or directory\n --> {}\n  = help: correct the name, or write it: \
             see app-cluster.toml(5)",
            path.display()
        )
    );
    std::fs::write(&path, "command = \"true\"\nwrong = 1").unwrap();
    let error = Config::load(&path).unwrap_err();
    assert_eq!(error.diagnostics[0].origin, path.display().to_string());
    let json = serde_json::to_value(&error).unwrap();
    assert_eq!(json["diagnostics"][0]["line"], 2);
    assert_eq!(json["diagnostics"][0]["severity"], "error");
    assert_eq!(serde_json::from_value::<ConfigError>(json).unwrap(), error);
    std::fs::write(&path, "command = \"true\"").unwrap();
    assert!(Config::load(&path).is_ok());
}
