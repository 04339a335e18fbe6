// SPDX-License-Identifier: MIT OR Apache-2.0
//! `config show`, `config cat` and `config schema`.

use super::{reviewed, run, run_in};

#[test]
fn the_effective_configuration() {
    let home = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| {
        let path = home.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
        std::fs::write(path, text).expect("a file");
    };
    write(
        "web.toml",
        "# The shop.\ncommand = [\"node\", \"server.js\"]\ndirectory = \"/srv/shop\"\n\
         listen = { http = \"80\", admin = \"unix:/run/shop.sock\" }  # two\n\
         drain_timeout = 45\n\n[environment]\nNODE_ENV = \"s3cret\"  # how\n\
         TOKEN = '''\ns3cret\n'''\n",
    );
    write(
        "web.toml.d/50-scale.toml",
        "# Written by scale.\nworkers = 3\nenvironment.TOKEN = \"s3cret too\"\nnode.preload = false\n",
    );
    write("broken.toml", "command = \"x\nTOKEN = \"s3cret\"\n");
    write(
        "wrong.toml",
        "command = \"x\"\nenv = { TOKEN = \"s3cret\" }\n",
    );
    let mut all = String::new();
    for line in [
        &["config", "show", "web.toml", "--origin"][..],
        &["config", "cat", "web.toml"],
        &["config", "cat", "web.toml", "--json"],
        &["config", "cat", "broken.toml"],
        &["config", "cat", "nowhere.toml"],
        &["config", "show", "wrong.toml"],
        &["config", "show", "nowhere"],
        &["config", "show", "a b"],
    ] {
        // Most keys have their default: a new one changes nothing here.
        let said = run_in(home.path(), line);
        let lines = said.lines().filter(|line| !line.ends_with("  # default"));
        let said: String = lines.map(|line| format!("{line}\n")).collect();
        all += &format!("$ app-cluster {}\n{said}\n", line.join(" "));
    }
    let json = run_in(home.path(), &["config", "show", "web.toml", "--json"]);
    assert!(!(all.clone() + &json).contains("s3cret"), "{all}");
    let (_, json) = json.split_once("-----\n").expect("an object");
    let json: serde_json::Value = serde_json::from_str(json).expect("JSON");
    let workers = serde_json::json!(
        { "value": 3, "file": "web.toml.d/50-scale.toml", "line": 2, "column": 11 }
    );
    assert_eq!(json["keys"]["workers"], workers);
    assert_eq!(json["keys"]["batch"]["value"], 1);
    assert!(json["keys"]["batch"]["file"].is_null());
    assert_eq!(json["keys"]["environment.TOKEN"]["value"], "(hidden)");
    reviewed("config", &all);
    let values = run_in(
        home.path(),
        &["config", "show", "web.toml", "--show-values"],
    );
    let root = nix::unistd::geteuid().is_root();
    assert_eq!(values.contains("TOKEN = \"s3cret too\""), root, "{values}");
}

/// Whoever asks for JSON gets one object, whatever becomes of it.
#[test]
fn failures_are_json_too() {
    let home = tempfile::tempdir().expect("a directory");
    std::fs::write(home.path().join("broken.toml"), "command = \n").expect("a file");
    let object = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let said = run_in(home.path(), &words);
        let (_, said) = said.split_once("----- stdout -----\n").expect(line);
        let (text, rest) = said.split_once('\n').expect(line);
        assert!(
            rest.starts_with("----- stderr -----\nerror: ") || rest.contains(" --> "),
            "{rest}"
        );
        serde_json::from_str::<serde_json::Value>(text).expect(line)
    };
    for (line, error, part) in [
        ("reload no-such-app --json", "NoSuchApp", "does not run"),
        (
            "reload no-such-app --dry-run --json",
            "NoSuchApp",
            "does not run",
        ),
        ("rollback no-such-app --json", "NoSuchApp", "does not run"),
        ("status no-such-app --json", "NoSuchApp", "does not run"),
        ("status a/b --json", "Usage", "a/b"),
        (
            "config show broken.toml --json",
            "ConfigInvalid",
            "broken.toml:1",
        ),
        (
            "config cat broken.toml --json",
            "ConfigInvalid",
            "broken.toml:1",
        ),
        (
            "config show nowhere.toml --json",
            "ConfigInvalid",
            "nowhere.toml",
        ),
    ] {
        let object = object(line);
        assert_eq!(object["error"], error, "{line}: {object}");
        let message = object["parameters"]["message"].as_str().expect(line);
        assert!(message.contains(part), "{line}: {message}");
    }
    // It has a form of its own.
    assert_eq!(object("check broken.toml --json")["ok"], false);

    std::fs::write(home.path().join("plain.toml"), "command = \"true\"\n").expect("a file");
    let said = run_in(home.path(), &["config", "show", "plain.toml", "--json"]);
    assert!(!said.contains("\"environment\""), "{said}");
}

#[test]
fn the_schema_is_json() {
    let said = run(&["config", "schema"]);
    let text = said.strip_prefix("exit status 0\n----- stdout -----\n");
    let schema: serde_json::Value = serde_json::from_str(text.expect("a schema")).expect("JSON");
    assert_eq!(
        schema["$schema"],
        "https://json-schema.org/draft/2020-12/schema"
    );
    assert_eq!(schema["properties"]["batch"]["default"], 1);
}
