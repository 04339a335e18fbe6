// SPDX-License-Identifier: MIT OR Apache-2.0
//! Configurations as people get them wrong, and what `check` says: file, line and column, a
//! caret under what is meant, the reason, and what to do.

use super::{reviewed, run_in};
use std::os::unix::fs::{PermissionsExt, symlink};

/// What is wrong, and the file.
const BROKEN: &[(&str, &str)] = &[
    ("a word is misspelt", "command = \"sleep 1\"\nwrokers = 4\n"),
    (
        "PM2's names",
        "exec = \"./server.js\"\ninstances = \"max\"\nkill_timeout = 3000\n",
    ),
    (
        "a section that there is not",
        "command = \"sleep 1\"\n[server]\nport = 80\n",
    ),
    ("text without quotes", "command = node server.js\n"),
    ("a colon in place of =", "command: \"sleep 1\"\n"),
    (
        "a quote that is not closed",
        "command = \"sleep 1\nworkers = 4\n",
    ),
    (
        "a list that is not closed",
        "command = [\"sleep\", \"1\"\nworkers = 4\n",
    ),
    (
        "a key that is there twice",
        "command = \"sleep 1\"\nworkers = 4\nworkers = 8\n",
    ),
    (
        "a backslash in a string",
        "command = \"sleep 1\"\ndirectory = \"C:\\srv\"\n",
    ),
    (
        "what a shell would do",
        "command = \"sleep 1 > /tmp/log &\"\n",
    ),
    (
        "a variable before the command",
        "command = \"PORT=80 sleep 1\"\n",
    ),
    ("no workers", "command = \"sleep 1\"\nworkers = 0\n"),
    (
        "too many workers",
        "command = \"sleep 1\"\nworkers = 5000\n",
    ),
    (
        "all of them in words",
        "command = \"sleep 1\"\nworkers = \"all\"\n",
    ),
    (
        "a unit that there is not",
        "command = \"sleep 1\"\nstart_timeout = \"30 secs\"\n",
    ),
    (
        "milliseconds as PM2 has them, and a negative time",
        "command = \"sleep 1\"\ndrain_timeout = \"-1s\"\n",
    ),
    (
        "a word that is none of them",
        "command = \"sleep 1\"\nbalance = \"round_robin\"\n",
    ),
    ("yes and no", "command = \"sleep 1\"\nblocking = \"yes\"\n"),
    (
        "a port in the environment that is a number",
        "command = \"sleep 1\"\nenvironment = { NAME = \"s3cret\", PORT = 3000 }\n",
    ),
    (
        "a variable that is not the app's",
        "command = \"sleep 1\"\n[environment]\nLISTEN_FDS = \"3\"\n",
    ),
    (
        "a name that none can have",
        "command = \"sleep 1\"\n[environment]\n\"my-app\" = \"s3cret\"\n",
    ),
    (
        "the section misspelt",
        "command = \"sleep 1\"\n[enviroment]\nTOKEN = \"s3cret\"\n",
    ),
    (
        "a value of a variable without its end",
        "command = \"sleep 1\"\n[environment]\nTOKEN = \"s3cret\n",
    ),
    (
        "a host name to listen on",
        "command = \"sleep 1\"\nlisten = \"localhost:3000\"\n",
    ),
    (
        "a URL to listen on",
        "command = \"sleep 1\"\nlisten = [\"http://0.0.0.0:80\"]\n",
    ),
    (
        "a port that is too large",
        "command = \"sleep 1\"\nlisten = 70000\n",
    ),
    (
        "the same port twice",
        "command = \"sleep 1\"\nlisten = { a = \"3000\", b = \"0.0.0.0:3000\" }\n",
    ),
    (
        "a relative directory",
        "command = \"sleep 1\"\ndirectory = \"~/app\"\n",
    ),
    (
        "a directory that is not there",
        "command = \"sleep 1\"\ndirectory = \"/nowhere/current\"\n",
    ),
    (
        "a program that is not there",
        "command = \"no-such-program --x\"\n",
    ),
    (
        "a program that is not executable",
        "command = [\"./plain\"]\ndirectory = \"[HOME]\"\n",
    ),
    (
        "a directory as the program",
        "command = [\"./releases\"]\ndirectory = \"[HOME]\"\n",
    ),
    (
        "a link that leads nowhere",
        "command = [\"./current/server\"]\ndirectory = \"[HOME]\"\n",
    ),
    (
        "a user that does not exist",
        "command = \"sleep 1\"\nuser = \"no-such-user\"\n",
    ),
    (
        "a file of variables that is not there",
        "command = \"sleep 1\"\nenvironment_files = [\"/nowhere/web.env\"]\n",
    ),
    (
        "a file of variables that is a shell script",
        "command = \"sleep 1\"\nenvironment_files = [\"[HOME]/shell.env\"]\n",
    ),
    (
        "a stop signal that cannot be handled",
        "command = \"sleep 1\"\nstop_signal = \"KILL\"\n",
    ),
    (
        "no signal",
        "command = \"sleep 1\"\nstop_signal = \"SIGSTOPIT\"\n",
    ),
    (
        "a readiness that there is not",
        "command = \"sleep 1\"\nready = { http = \"/health\" }\n",
    ),
    (
        "a worker that can never be ready",
        "command = \"sleep 1\"\nready = { delay = \"1min\" }\n",
    ),
    (
        "delays the wrong way round",
        "command = \"sleep 1\"\nbackoff_max = \"50ms\"\n",
    ),
    (
        "an exit code that there is not",
        "command = \"sleep 1\"\nstop_exit_codes = [0, 256]\n",
    ),
    (
        "what only Node can",
        "command = \"sleep 1\"\nbalance = \"round-robin\"\n",
    ),
    (
        "an unknown setting of Node's",
        "command = \"node app.js\"\n[node]\nargs = \"--inspect\"\n",
    ),
    (
        "slots without a number in their address",
        "command = \"sleep 1\"\nslot_listen = \"127.0.0.1:3100\"\n",
    ),
    (
        "permissions that are not octal",
        "command = \"sleep 1\"\nsocket_mode = 660\n",
    ),
    (
        "a companion without a program",
        "command = \"node app.js\"\ncompanion = {}\n",
    ),
];

#[test]
fn broken_configurations() {
    let home = tempfile::tempdir().expect("a directory");
    let at = |name: &str| home.path().join(name);
    std::fs::write(at("plain"), "echo\n").expect("a file");
    std::fs::set_permissions(at("plain"), std::fs::Permissions::from_mode(0o644)).expect("a mode");
    std::fs::create_dir(at("releases")).expect("a directory");
    symlink("releases/7", at("current")).expect("a link");
    let shell = "# variables\nexport TOKEN=s3cret\nset -a s3cret\nNAME='s3cret\n";
    std::fs::write(at("shell.env"), shell).expect("a file");
    let mut all = String::new();
    for (what, text) in BROKEN {
        let text = text.replace("[HOME]", &home.path().display().to_string());
        std::fs::write(at("web.toml"), text).expect("a file");
        let said = run_in(home.path(), &["check", "web.toml"]);
        // The first part, the last line.
        let findings: Vec<&str> = said.split("\n\n").collect();
        let (summary, findings) = findings.split_last().expect("findings");
        assert!(said.starts_with("exit status 1\n"), "{what}: {said}");
        assert!(summary.starts_with("error: web.toml: "), "{what}: {said}");
        for finding in findings {
            let place = finding.lines().find(|line| line.contains("--> "));
            let place = place.unwrap_or_else(|| panic!("{what}: {finding}"));
            // The whole file is meant where something is missing.
            let whole = place.ends_with("--> web.toml") && finding.contains("is missing");
            let parts: Vec<&str> = place.rsplit(':').collect();
            let exact = parts.len() > 2 && parts[..2].iter().all(|n| n.parse::<u32>().is_ok());
            assert!(whole || exact, "{what}: no line and column\n{finding}");
            assert!(
                whole || finding.contains('^'),
                "{what}: no caret\n{finding}"
            );
            assert!(finding.contains("= help: "), "{what}: no remedy\n{finding}");
        }
        assert!(!said.contains("s3cret"), "{what}: a value is shown\n{said}");
        let said = said.trim_start_matches("exit status 1\n----- stderr -----\n");
        all += &format!("##### {what}\n{said}\n");
    }
    assert!(BROKEN.len() >= 20);
    reviewed("broken_configurations", &all);
}
