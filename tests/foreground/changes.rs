// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a reload would change, and what it then says that it has changed.

use crate::dev::{Dev, Setup};
use crate::environment::write_script;
use serde_json::Value;
use std::os::unix::fs::symlink;

/// Two releases behind the link `current`, of which the first is the current one.
fn app() -> Dev {
    let setup = Setup::with_config(
        "command = [\"./app\"]\ndirectory = \"[HOME]/current\"\nworkers = 3\n\
         canary_time = \"50ms\"\nenvironment = { TOKEN = \"s3cret-1\", OLD = \"1\" }\n",
    );
    for release in ["1", "2"] {
        let directory = setup.path("releases").join(release);
        std::fs::create_dir_all(&directory).expect("a directory");
        let serve = format!("exec {:?} hello", crate::dev::BINARY);
        write_script(&directory.join("app"), &serve);
    }
    symlink("releases/1", setup.path("current")).expect("a link");
    setup.start()
}

/// The other release, another number of workers, and other variables.
fn deploy(dev: &Dev) {
    std::fs::remove_file(dev.path("current")).expect("no link");
    symlink("releases/2", dev.path("current")).expect("a link");
    let home = dev.path("").display().to_string();
    let home = home.trim_end_matches('/');
    dev.write(
        "app.toml",
        &format!(
            "command = [\"./app\"]\ndirectory = \"{home}/current\"\nworkers = 4\nbatch = 2\n\
             canary_time = \"50ms\"\nenvironment = {{ TOKEN = \"s3cret-2\", NEW = \"1\" }}\n"
        ),
    );
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Each part of what is told of that.
fn assert_told(dev: &Dev, text: &str) {
    let home = dev.path("").display().to_string();
    let text = text.replace(home.trim_end_matches('/'), "[HOME]");
    for part in [
        "workers: 3 → 4 ([HOME]/app.toml:3)",
        "batch: 1 → 2 ([HOME]/app.toml:4)",
        "variables added: NEW",
        "variables removed: OLD",
        "variables changed: TOKEN",
        "directory [HOME]/current: [HOME]/releases/1 → [HOME]/releases/2",
        "program [HOME]/current/app: [HOME]/releases/1/app → [HOME]/releases/2/app",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(!text.contains("canary_time"), "{text}");
}

#[test]
fn a_reload_says_what_it_would_change_and_what_it_has_changed() {
    let dev = app();
    let same = dev.cli(&["reload", "web", "--dry-run"]).succeeded();
    assert!(same.stdout.contains("the same configuration"), "{same:?}");
    deploy(&dev);
    let pids = dev.pids();
    let plan = dev.cli(&["reload", "web", "--dry-run"]).succeeded();
    assert_told(&dev, &plan.stdout);
    for part in [
        "would roll out generation 2 over 1\n",
        "4 workers, now 3: workers = 4",
        "first slot 0, which has to stay ready for 50ms",
        "then slots 1 to 3, 2 at a time",
        "nothing was changed",
    ] {
        assert!(plan.stdout.contains(part), "{part}\n{}", plan.stdout);
    }
    let said = dev
        .cli(&["reload", "web", "--dry-run", "--json"])
        .succeeded();
    let plan = json(&said.stdout);
    assert_eq!(plan["generation"], 2);
    assert_eq!(
        (&plan["workers_now"], &plan["workers"]),
        (&3.into(), &4.into())
    );
    assert_eq!(plan["order"], json("[0, 1, 2, 3]"));
    assert_eq!(plan["changes"]["variables"]["changed"], json("[\"TOKEN\"]"));
    assert_eq!((dev.pids(), dev.status().generation), (pids, 1));

    let done = dev.cli(&["reload", "web", "--json"]).succeeded();
    assert_told(&dev, &done.stderr);
    assert_told(&dev, &dev.output());
    let outcome = json(&done.stdout);
    assert_eq!(outcome["generation"], 2);
    assert_eq!(outcome["changes"], plan["changes"]);
    // In the order of the plan, which nothing but the time of starts decides.
    let output = dev.output();
    let started = output
        .lines()
        .filter(|line| line.contains("started, generation 2"));
    let slots: Vec<u64> = started
        .filter_map(|line| line.split_once("slot ")?.1.split_once(':')?.0.parse().ok())
        .collect();
    assert_eq!(plan["order"], serde_json::json!(slots), "{output}");
    // The way back changes the same.
    let back = dev.cli(&["rollback", "web", "--json"]).succeeded();
    let back = json(&back.stdout)["changes"].clone();
    assert_eq!(back["variables"]["added"], json("[\"OLD\"]"), "{back}");
    let moved = |changes: &Value, n: usize| {
        let file = &changes["files"][n];
        (file["from"].clone(), file["to"].clone())
    };
    for n in 0..2 {
        let (from, to) = moved(&outcome["changes"], n);
        assert_eq!(moved(&back, n), (to, from));
    }
    let output = dev.output();
    for text in [&output, &done.stderr, &done.stdout, &said.stdout] {
        assert!(!text.contains("s3cret"), "{text}");
    }
    dev.stop();
}

#[test]
fn what_a_reload_would_refuse_a_dry_run_refuses() {
    let dev = app();
    let pids = dev.pids();
    let before = dev.line_count();
    for (text, part) in [
        (
            "command = [\"./app\"]\nwrokers = 1\n",
            "unknown key `wrokers`",
        ),
        ("command = [\"./gone\"]\n", "gone` cannot be run"),
        (
            "command = [\"./app\"]\nblocking = true\n",
            "`blocking` has changed",
        ),
    ] {
        dev.configure(text);
        let refused = dev.cli(&["reload", "web", "--dry-run"]).failed(1, &[part]);
        assert!(refused.stdout.is_empty(), "{refused:?}");
        let refused = dev
            .cli(&["reload", "web", "--dry-run", "--json"])
            .failed(1, &[part]);
        assert_eq!(json(&refused.stdout)["error"], "ConfigInvalid");
        let reload = dev.cli(&["reload", "web", "--json"]).failed(1, &[part]);
        assert_eq!(json(&reload.stdout), json(&refused.stdout));
    }
    assert_eq!((dev.pids(), dev.status().generation), (pids, 1));
    assert!(dev.line_count() > before);
    dev.stop();
}
