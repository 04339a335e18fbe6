// SPDX-License-Identifier: MIT OR Apache-2.0
//! What people read when a file is wrong.

use super::tests::{bad, why};
use super::*;
use insta::assert_snapshot;

#[test]
fn all_errors_of_a_file_are_shown() {
    let text = "command = \"node server.js > log\"\n\
                worker = 4\n\
                health = \"/health\"\n\
                backoff_min = \"1min\"   # too long\n\
                stop_signal = \"KILL\"\n\
                [metrics]\n\
                address = true\n";
    assert_snapshot!(bad(text), @r#"
    error: `>` in a command needs a shell, and there is none
     --> web.toml:1:11
      |
    1 | command = "node server.js > log"
      |           ^^^^^^^^^^^^^^^^^^^^^^
      = help: write ["sh", "-c", "exec node server.js > log"] to use one, or put `>` in single quotes

    error: unknown key `worker`
     --> web.toml:2:1
      |
    2 | worker = ...
      | ^^^^^^
      = help: did you mean `workers`?

    error: expected a table, such as { http = "/health" } or { exec = ["./check"] }, found a string
     --> web.toml:3:10
      |
    3 | health = "/health"
      |          ^^^^^^^^^
      = help: such as health = { http = "/health", interval = "5s", timeout = "2s", failures = 3 }

    error: `backoff_min` (1min) is longer than `backoff_max` (15s)
     --> web.toml:4:15
      |
    4 | backoff_min = "1min"   # too long
      |               ^^^^^^
      = help: make `backoff_max` longer or `backoff_min` shorter: the delay grows from the one to the other

    error: no program can act on signal KILL
     --> web.toml:5:15
      |
    5 | stop_signal = "KILL"
      |               ^^^^^^
      = help: use SIGTERM; what is left after `drain_timeout` is killed anyway

    error: `metrics` is not yet supported
     --> web.toml:6:2
      |
    6 | [metrics]
      |  ^^^^^^^
      = help: meanwhile: `app-cluster status --json` has the numbers
    "#);
}

#[test]
fn one_error_each() {
    assert_snapshot!(bad("workers = 4\ncommand = [\n"), @r#"
    error: unclosed array, expected `]`
     --> web.toml:2:12
      |
    2 | command = [
      |            ^
      = help: close what was opened: a quote, `]` or `}`
    "#);
    assert_snapshot!(bad("# nothing"), @r#"
    error: `command` is missing
     --> web.toml
      = help: add what to run, such as command = ["node", "server.js"]
    "#);
    assert_snapshot!(bad("command = \"true\"\n\tlisten = [\"[::]:80\", \"ä\", \"0.0.0.0:80\"]"), @r#"
    error: `ä` is no address to listen on
     --> web.toml:2:23
      |
    2 |  listen = ["[::]:80", "ä", "0.0.0.0:80"]
      |                       ^^^
      = help: such as "127.0.0.1:3000", "[::]:80", "3000" or "unix:/run/web.sock"
    "#);
    assert_snapshot!(bad("command = \"true\"\n[server]\nport = 80"), @r#"
    error: unknown key `server`
     --> web.toml:2:2
      |
    2 | [server]
      |  ^^^^^^
      = help: the sections are `[environment]`, `[listen]`, `[ready]`, `[health]`, `[node]` and `[companion]`
    "#);
}

#[test]
fn wrong_values() {
    for (line, part) in [
        ("workers = 0", "at least one worker"),
        ("workers = 1025", "at most 1024"),
        ("workers = 99999999999999", "at most 1024"),
        ("workers = -2", "no number of workers"),
        ("workers = \"auto\"", "no number of workers"),
        ("workers = true", "found true or false"),
        (
            "protocol = \"nodes\"",
            "expected one of \"auto\", \"listen-fds\", \"node\"",
        ),
        ("balance = \"round_robin\"", "expected one of \"auto\""),
        ("max_workers = 257", "expected 1 to 256"),
        ("user = \"no body\"", "no name of a user"),
        ("group = \"-x\"", "begins like"),
        ("user = \"4294967295\"", "no id"),
        ("socket_mode = 660", "in octal"),
        ("socket_mode = \"1777\"", "in octal"),
        ("slot_listen = \"127.0.0.1:3000\"", "{slot}"),
        (
            "max_workers = 9\nslot_listen = \"127.0.0.1:6553{slot}\"",
            "slot 6 has no address",
        ),
        (
            "max_workers = 8\nlisten = [\"127.0.0.1:3103\"]\nslot_listen = \"127.0.0.1:31{slot:02}\"",
            "the address of a slot",
        ),
        (
            "max_workers = 8\nlisten = [\"3103\"]\nslot_listen = \"0.0.0.0:31{slot:02}\"",
            "the address of a slot",
        ),
        (
            "listen = { a = \"3999\", b = \"[::]:3999\" }",
            "same address",
        ),
        (
            "listen = { slot = \"80\" }\nslot_listen = \"127.0.0.1:31{slot:02}\"",
            "can be called \"slot\"",
        ),
        ("ready = \"listens\"", "\"listening\", \"message\""),
        ("ready = \"delay\"", "{ delay = \"1s\" }"),
        (
            "ready = { delay = \"1s\", exec = [\"x\"] }",
            "expected \"auto\"",
        ),
        (
            "ready = { delay = \"31s\" }",
            "no worker would ever be ready",
        ),
        ("ready = { exec = [] }", "the command is empty"),
        ("batch = \"0%\"", "expected 1% to 100%"),
        ("batch = \"101%\"", "expected 1% to 100%"),
        ("batch = \"a few\"", "a share of them"),
        ("batch = \"-5%\"", "a share of them"),
        ("batch = \"25\"", "a share of them"),
        ("batch = 0", "expected 1 to 1024"),
        ("max_draining = 0", "expected 1 to 1024"),
        ("stop_signal = 19", "no program can act on signal 19"),
        ("stop_signal = \"SIGFOO\"", "no signal"),
        (
            "stop_exit_codes = [0, 256, -1]",
            "expected 0 to 255\nexpected 0 to 255",
        ),
        (
            "stop_exit_codes = 1",
            "expected an array, such as [0, 3], found an integer",
        ),
        ("start_timeout = \"soon\"", "`soon` is no unit of time"),
        ("start_timeout = 1979-05-27", "found a date or time"),
        (
            "backoff_max = \"10ms\"",
            "`backoff_min` (100ms) is longer than `backoff_max` (10ms)",
        ),
        (
            "restart = \"allways\"",
            "expected one of \"always\", \"on-failure\", \"never\"",
        ),
        ("directory = \"srv\"", "absolute path"),
        ("directory = \"/a\\u0000b\"", "NUL"),
        (
            "environment = { PORT = 3000 }",
            "expected a string, found an integer",
        ),
        ("environment = { \"A B\" = \"\" }", "cannot name a variable"),
        ("environment = { LISTEN_FDS = \"1\" }", "cannot be set"),
        (
            "environment = { APP_CLUSTER_SLOT = \"1\" }",
            "cannot be set",
        ),
        ("environment_files = [\"-\"]", "the path is empty"),
        (
            "listen = true",
            "expected an array, such as [\"127.0.0.1:3000\"]",
        ),
        (
            "listen = [\"0.0.0.0:80\", \"[::1]:80\"]",
            "two listeners are called \"80\"",
        ),
        ("listen = { \"a:b\" = \"80\" }", "cannot name a listener"),
        ("sandbox = \"tight\"", "expected one of"),
        ("node.preload = 1", "expected true or false"),
        ("node.speed = 1", "unknown key `node.speed`"),
    ] {
        let message = why(line);
        assert!(message.contains(part), "{line}: {message}");
    }
    for command in ["\"\"", "[]", "[\"\"]", "\"  \"", "7"] {
        assert!(Config::parse(&format!("command = {command}"), "x").is_err());
    }
}

#[test]
fn no_value_of_a_variable_is_shown_where_it_is_wrong() {
    for wrong in [
        "environment.PIN = 4711",
        "[environment]\n\"A B\" = \"4711\"",
        "[environment]\nLISTEN_FDS = \"4711\"",
        "environment = { PIN = \"4711\", PORT = true }",
        "environment = \"PIN=4711\"",
        "enviroment = { PIN = \"4711\" }",
        "env.PIN = \"4711\"",
        "[environment]\nPIN = \"4711",
        "[environment]\nPIN = 4711x",
    ] {
        let text = bad(&format!("command = \"true\"\n{wrong}"));
        assert!(!text.contains("4711"), "{text}");
    }
    let text = bad("command = \"true\"\nenvironment.PIN = 4711");
    assert!(text.contains("put it in quotes: PIN = \"...\""), "{text}");
}
