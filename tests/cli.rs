// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every line that the command line prints without a supervisor: reviewed snapshots in
//! `tests/snapshots`.

#[path = "cli/broken.rs"]
mod broken;
#[path = "cli/config.rs"]
mod config;
#[path = "cli/ended.rs"]
mod ended;

use app_cluster::cli::Arguments;
use clap::{Command, CommandFactory};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Runs app-cluster; paths under `home` are shown as `[HOME]`.
fn run_in(home: &Path, arguments: &[&str]) -> String {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_app-cluster"))
        .args(arguments)
        .current_dir(home)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("RUNTIME_DIRECTORY", home.join("run/app-cluster"))
        .output()
        .expect("app-cluster runs");
    let text = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        text.replace(&home.display().to_string(), "[HOME]")
    };
    let mut all = format!("exit status {}\n", output.status.code().unwrap_or(-1));
    for (name, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
        if !bytes.is_empty() {
            all += &format!("----- {name} -----\n{}", text(bytes));
        }
    }
    all
}

/// Compares with the snapshot file of this name.
fn reviewed(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

fn run(arguments: &[&str]) -> String {
    let home = tempfile::tempdir().expect("a directory");
    run_in(home.path(), arguments)
}

/// The command lines, each followed by what came of it.
fn transcript(lines: &[&[&str]]) -> String {
    let home = tempfile::tempdir().expect("a directory");
    let one = |line: &&[&str]| {
        let said = run_in(home.path(), line);
        format!("$ app-cluster {}\n{said}", line.join(" "))
    };
    lines.iter().map(one).collect::<Vec<_>>().join("\n")
}

/// Nobody reads what is written, or there is no room for it.
#[test]
fn output_that_cannot_be_written() {
    let write_to = |stdout: std::process::Stdio| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_app-cluster"))
            .args(["config", "schema"])
            .stdout(stdout)
            .output()
            .expect("app-cluster runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    assert_eq!(write_to(writer.into()), (Some(141), String::new()));
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let (status, said) = write_to(full.expect("/dev/full").into());
    assert_eq!(status, Some(1), "{said}");
    assert!(
        said.starts_with("error: cannot write to standard output: "),
        "{said}"
    );
}

#[test]
fn help() {
    reviewed("help", &run(&["--help"]));
    for part in ["show", "cat", "schema"] {
        reviewed(
            &format!("help_config_{part}"),
            &run(&["config", part, "--help"]),
        );
    }
    for verb in [
        "config", "dev", "run", "hello", "status", "start", "reload", "rollback", "restart",
        "upgrade", "stop", "delete", "enable", "disable", "scale", "logs", "send", "messages",
        "check",
    ] {
        reviewed(&format!("help_{verb}"), &run(&[verb, "--help"]));
    }
    let version = format!("app-cluster {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        run(&["--version"]),
        format!("exit status 0\n----- stdout -----\n{version}")
    );
}

#[test]
fn usage_errors() {
    let all = transcript(&[
        &["frobnicate"],
        &["status", "--jsn"],
        &["scale", "web"],
        &["scale", "web", "many"],
        &["scale", "web", "4", "--reset"],
        &["start", "--env", "X"],
        &["start", "--balance", "fair", "--", "true"],
        &["start", "-l", "localhost:80", "--", "true"],
        &["start", "--name", "web"],
        &["start", "-i", "2"],
        &["delete"],
        &["dev", "-w", "0"],
        &["dev", "-w", "many"],
        &["dev", "-l", "localhost:3000"],
        &["dev", "-l", "web"],
        &["dev", "-l", "3000", "-l", "3000"],
        &["dev", "-c", "a.toml", "--", "true"],
        &["exec-worker"],
        &["send", "web"],
        &["send", "web", "{op:1}"],
        &["send", "web", "reload"],
    ]);
    reviewed("usage_errors", &all);
    assert!(run(&[]).starts_with("exit status 2\n"));
}

#[test]
fn bad_names() {
    let all = transcript(&[
        &["status", "a/b"],
        &["status", ""],
        &["reload", "web[1]"],
        &["upgrade", "web[1]"],
        &["sweep", "../x"],
        &["restart", "web[x]"],
        &["restart", "web[1"],
        &["send", "web[x]", "1"],
        &["messages", "../x"],
        &["run", "../x"],
        &["dev", "--name", "a b"],
        &["logs", "../x"],
        &["start", "--name", "a b", "-l", "3000", "--", "true"],
        &["start", "a b"],
        &["delete", "../x"],
        &["enable", "web[1]"],
        &["check", "-x"],
    ]);
    reviewed("bad_names", &all);
}

#[test]
fn apps_that_do_not_run() {
    let all = transcript(&[
        &["status", "nowhere"],
        &["status", "nowhere", "--json"],
        &["reload", "nowhere"],
        &["restart", "nowhere[1]"],
        &["restart", "nowhere", "--keep-workers"],
        &["restart", "nowhere[1]", "--keep-workers"],
        &["upgrade", "nowhere"],
        &["upgrade", "nowhere", "--json"],
        &["stop", "nowhere"],
        &["send", "nowhere[1]", "1"],
        &["messages", "nowhere"],
        &["scale", "nowhere", "+1"],
        &["scale", "nowhere", "--reset"],
        &["start", "nowhere"],
        &["enable", "nowhere"],
        &["disable", "nowhere"],
    ]);
    reviewed("apps_that_do_not_run", &all);
}

#[test]
fn starts_that_cannot_work() {
    let all = transcript(&[
        &["run", "web", "--config", "nowhere.toml"],
        &["dev", "-c", "nowhere.toml"],
        &["dev", "--", "./nowhere"],
        &["dev", "--", "no-such-program"],
        &["dev", "-l", "unix:/nowhere/web.sock"],
        &["dev", "-l", "192.0.2.1:3000"],
        &["hello"],
    ]);
    reviewed("starts_that_cannot_work", &all);
}

#[test]
fn starts_of_new_apps() {
    let home = tempfile::tempdir().expect("a directory");
    let write = |name: &str, mode| {
        let path = home.path().join(name);
        if name != "." {
            std::fs::write(&path, "").expect("a file");
        }
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&path, mode).expect("a mode");
    };
    write("server.py", 0o644);
    write("server.ts", 0o644);
    write("ecosystem.config.js", 0o644);
    write("run", 0o755);
    write("notes.txt", 0o644);
    write(".", 0o700);
    let root = "--dry-run --user root -l 3000";
    let mut all = String::new();
    for line in [
        "--name new".to_owned(),
        "nowhere.js -l 3000".to_owned(),
        "server.ts -l 3000".to_owned(),
        "ecosystem.config.js -l 3000".to_owned(),
        "notes.txt -l 3000".to_owned(),
        ". -l 3000 --name new".to_owned(),
        "run -l 3000 -l 3000".to_owned(),
        "run -l 3000 --user no-such-user".to_owned(),
        "run -l 3000 --user nobody --dry-run".to_owned(),
        format!("run --env LISTEN_FDS=3 {root}"),
        format!("run {root}"),
        format!(
            "./run --name new -i -1 -l api=unix:/run/new.sock --env A=b=c --balance even \
             --no-autostart --cwd /srv {root} -- --flag it's"
        ),
        format!("--name new {root} -- sleep 1"),
        format!("--name new {root} -- no-such-program"),
    ] {
        let words: Vec<&str> = std::iter::once("start").chain(line.split(' ')).collect();
        let said = run_in(home.path(), &words);
        all += &format!("$ app-cluster start {line}\n{said}\n");
    }
    reviewed("starts_of_new_apps", &all);
}

#[test]
fn check() {
    let home = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| {
        std::fs::write(home.path().join(name), text).expect("a file");
    };
    write("good.toml", "command = [\"sleep\", \"1\"]\nworkers = 4\n");
    write(
        "doubtful.toml",
        "command = [\"sleep\", \"1\"]\nworkers = 4\nbatch = 4\nready = { delay = \"0\" }\n",
    );
    write(
        "bad.toml",
        "command = \"./nowhere --x\"\nwrokers = 4\nstart_timeout = \"30 parsecs\"\n\
         max_memory = 512\nmetrics = true\n[environment]\nLISTEN_FDS = \"3\"\n",
    );
    write("missing.toml", "workers = 2\n");
    write("broken.toml", "command = [\"sleep\n");
    std::fs::create_dir(home.path().join("directory.toml")).expect("a directory");
    let mut all = String::new();
    for line in [
        &["check", "good.toml"][..],
        &["check", "good.toml", "--json"],
        &["check", "doubtful.toml"],
        &["check", "doubtful.toml", "--json"],
        &["check", "bad.toml"],
        &["check", "bad.toml", "--json"],
        &["check", "missing.toml"],
        &["check", "broken.toml"],
        &["check", "directory.toml"],
        &["check", "nowhere.toml"],
    ] {
        let said = run_in(home.path(), line);
        all += &format!("$ app-cluster {}\n{said}\n", line.join(" "));
    }
    reviewed("check", &all);
}

/// The part of the manual that is about a verb.
fn entry(commands: &str, verb: &str) -> String {
    let head = format!(".It Cm {verb} ");
    let begins = |line: &&str| format!("{line} ").starts_with(&head);
    let mut lines = commands.lines().skip_while(|line| !begins(line));
    let first = lines.next();
    let first = first.unwrap_or_else(|| panic!("the manual has no entry for `{verb}`"));
    let rest = lines.take_while(|line| !line.starts_with(".It Cm "));
    let all: Vec<&str> = std::iter::once(first).chain(rest).collect();
    all.join("\n")
}

#[test]
fn the_manual_has_every_verb_flag_and_signal() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/man/app-cluster.1");
    let page = std::fs::read_to_string(page).expect("the manual");
    let section = |name: &str| {
        let start = page.find(&format!("\n.Sh {name}\n")).expect("a section") + 1;
        let end = page[start..]
            .find("\n.Sh ")
            .map_or(page.len(), |at| start + at);
        &page[start..end]
    };
    let has = |text: &str, flag: &str| {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        words.windows(2).any(|pair| pair == ["Fl", flag])
    };
    let mut missing = Vec::new();
    let program = Arguments::command();
    let parts = |verb: &Command| {
        let parts = verb.get_subcommands().cloned();
        let parts: Vec<(String, Command)> = parts
            .map(|part| (format!("{} {}", verb.get_name(), part.get_name()), part))
            .collect();
        match parts.is_empty() {
            true => vec![(verb.get_name().to_owned(), verb.clone())],
            false => parts,
        }
    };
    let verbs = program.get_subcommands().filter(|verb| !verb.is_hide_set());
    for (name, verb) in verbs.flat_map(parts) {
        let text = &entry(section("COMMANDS"), &name);
        assert!(
            section("SYNOPSIS").contains(&format!(".Cm {name}")),
            "{name}"
        );
        for argument in verb
            .get_arguments()
            .filter(|a| a.get_id() != "help" && !a.is_hide_set())
        {
            let long = argument.get_long().map(|long| format!("-{long}"));
            let short = argument.get_short().map(|short| short.to_string());
            let flags = long
                .into_iter()
                .chain(short)
                .filter(|flag| !has(text, flag));
            missing.extend(flags.map(|flag| format!("{name} -{flag}")));
        }
    }
    use nix::sys::signal::Signal;
    for signal in app_cluster::engine::SIGNALS {
        // Those that the kernel sends us.
        let own = [Signal::SIGCHLD, Signal::SIGIO].contains(&signal);
        if !own && !section("SIGNALS").contains(signal.as_str()) {
            missing.push(signal.to_string());
        }
    }
    assert!(missing.is_empty(), "not in man/app-cluster.1: {missing:?}");
}
