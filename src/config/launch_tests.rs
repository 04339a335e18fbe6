// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a configuration means on a machine, and what people read when it cannot be run.

use super::tests::good;
use super::*;
use insta::assert_snapshot;
use std::os::unix::fs::{PermissionsExt, symlink};

/// An app directory with a release behind a link, a program and an environment file.
fn app() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir_all(at("releases/1/bin")).unwrap();
    symlink("releases/1", at("current")).unwrap();
    std::fs::write(at("releases/1/bin/app"), "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(
        at("releases/1/bin/app"),
        std::fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    std::fs::write(at("releases/1/plain"), "").unwrap();
    std::fs::write(at("releases/1/.env"), "A=file\nB=file\nPORT=5\n").unwrap();
    dir
}

fn resolve(config: &Config, base: &[(&str, &str)]) -> Result<Launch, ConfigError> {
    let base = base.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
    Launch::resolve(config, base)
}

#[test]
fn launch_keeps_links_and_layers_the_environment() {
    let dir = app();
    let current = dir.path().join("current");
    let text = format!(
        "command = [\"./bin/app\", \"-x\"]\ndirectory = \"{}\"\n\
         environment_files = [\".env\", \"-missing\"]\nenvironment = {{ A = \"config\" }}",
        current.display()
    );
    let base = [
        ("A", "base"),
        ("B", "base"),
        ("C", "base"),
        ("LISTEN_FDS", "1"),
        ("NOTIFY_SOCKET", "/run/x"),
        ("APP_CLUSTER_SLOT", "7"),
    ];
    let launch = resolve(&good(&text), &base).unwrap();
    assert_eq!(launch.program, current.join("bin/app"));
    assert_eq!(launch.arguments, ["./bin/app", "-x"]);
    assert_eq!(launch.directory, current);
    let seen: Vec<_> = launch
        .environment
        .iter()
        .map(|(n, v)| format!("{n}={v}"))
        .collect();
    assert_eq!(seen, ["A=config", "B=file", "C=base", "PORT=5"]);
    assert!(launch.sets("PORT") && !launch.sets("WORKER_COUNT"));
    assert_eq!(launch.names_set().count(), 4);
}

#[test]
fn programs_are_looked_up_in_the_path_of_the_worker() {
    let dir = app();
    let bin = dir.path().join("current/bin");
    let config = good("command = \"app\"");
    let path = format!("/nonexistent::{}", bin.display());
    let launch = resolve(&config, &[("PATH", &path)]).unwrap();
    assert_eq!(launch.program, bin.join("app"));
    assert_eq!(launch.arguments, ["app"]);
    let text = format!(
        "command = \"app\"\nenvironment.PATH = \"{}\"",
        bin.display()
    );
    assert!(resolve(&good(&text), &[("PATH", "/nonexistent")]).is_ok());
    assert!(resolve(&config, &[("PATH", "/nonexistent")]).is_err());
}

#[test]
fn launch_errors() {
    let dir = app();
    let show = |text: &str| {
        let text = text.replace("DIR", &dir.path().display().to_string());
        let error = resolve(&good(&text), &[("PATH", "/nonexistent:/usr/nonexistent")]);
        let text = error.unwrap_err().to_string();
        text.replace(&dir.path().display().to_string(), "DIR")
    };
    assert_snapshot!(show("command = \"nod server.js\"\n"), @r#"
    error: `nod` was not found in PATH (/nonexistent:/usr/nonexistent)
     --> web.toml:1:11
      |
    1 | command = "nod server.js"
      |           ^^^^^^^^^^^^^^^
      = help: did you mean `node`?
    "#);
    assert_snapshot!(show("command = [\"./plain\"]\ndirectory = \"DIR/current\""), @r#"
    error: `DIR/current/plain` exists but is not executable
     --> web.toml:1:11
      |
    1 | command = ["./plain"]
      |           ^^^^^^^^^^^
      = help: chmod +x DIR/current/plain
    "#);
    assert_snapshot!(show("command = [\"./x\"]\ndirectory = \"DIR/gone\""), @r#"
    error: directory `DIR/gone`: no such file or directory
     --> web.toml:2:13
      |
    2 | directory = "DIR/gone"
      |             ^^^^^^^^^^^^^^^^^^^^^^
      = help: make it, or correct `directory`
    "#);
    assert_snapshot!(show("command = [\"/bin/sh\"]\nenvironment_files = [\"DIR/gone\"]"), @r#"
    error: environment file `DIR/gone`: no such file or directory
     --> web.toml:2:21
      |
    2 | environment_files = ["DIR/gone"]
      |                     ^^^^^^^^^^^^^^^^^^^^^^^^
      = help: make it, or write "-DIR/gone" if it may be missing
    "#);
    std::fs::remove_dir_all(dir.path().join("releases/1")).unwrap();
    assert_snapshot!(show("command = [\"./x\"]\ndirectory = \"DIR/current\""), @r#"
    error: directory `DIR/current`: `DIR/current` is a symbolic link to `releases/1`, which does not exist
     --> web.toml:2:13
      |
    2 | directory = "DIR/current"
      |             ^^^^^^^^^^^^^^^^^^^^^^^^^
      = help: point the link at a release that is there: ln -sfn releases/N DIR/current
    "#);
}

#[test]
fn check_warns() {
    let text = "command = \"npm start\"\nworkers = 4\nbatch = 4\ndrain_timeout = \"2min\"\n\
                start_timeout = 0\n";
    let base = || [("PATH".to_owned(), "/nonexistent".to_owned())];
    // In Node's protocol it is no matter that npm hands on no socket.
    assert_eq!(check(&good(text), base()).len(), 3);
    let found = check(&good(&format!("{text}protocol = \"listen-fds\"")), base());
    let keys: Vec<_> = found
        .iter()
        .map(|d| (d.severity, d.position.line))
        .collect();
    let warning = Severity::Warning;
    assert_eq!(
        keys,
        [
            (Severity::Error, 1),
            (warning, 1),
            (warning, 3),
            (warning, 5)
        ]
    );
    assert_eq!(check(&good("command = [\"/bin/sh\"]\nworkers = 1"), []), []);
    let even = "command = [\"/bin/sh\"]\nworkers = 1\nbalance = \"even\"";
    let found = check(&good(even), []);
    assert_eq!((found.len(), found[0].position.line), (1, 3), "{found:?}");
    assert_eq!(check(&good(&format!("{even}\nlisten = [\"80\"]")), []), []);
}

#[test]
fn dev() {
    let config = Config::for_command(vec!["sh".into()]);
    assert!(config.directory.is_dir());
    assert_eq!(config.listen[0].address.to_string(), "127.0.0.1:3000");
    assert!(resolve(&config, &[]).is_ok());
    let empty = resolve(&Config::for_command(Vec::new()), &[]).unwrap_err();
    assert_eq!(
        empty.to_string(),
        "error: the command is empty\n --> command line"
    );
}

#[test]
fn the_command_of_ready_is_looked_up_too() {
    let text = "command = [\"/bin/sh\"]\nready = { exec = [\"probe\"] }";
    let error = resolve(&good(text), &[("PATH", "/nonexistent")]).unwrap_err();
    assert_eq!(error.diagnostics[0].position.line, 2);
    let text = "command = [\"/bin/sh\"]\nready = { exec = [\"sh\"] }";
    let launch = resolve(&good(text), &[("PATH", "/bin")]).unwrap();
    assert_eq!(launch.ready_program.as_deref(), Some(Path::new("/bin/sh")));
}
