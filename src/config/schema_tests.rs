// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table of keys, the JSON Schema made from it and what is really read say the same.

use super::keys::json_value;
use super::read::single_keys;
use super::*;
use crate::docs::assert_file;
use std::collections::BTreeSet;

/// No kind of value takes this.
const NEVER: &str = "-3.5";

#[test]
fn the_schema_that_is_shipped_is_current() {
    let text = format!("{:#}\n", schema());
    assert_file("packaging/share/app-cluster.toml.schema.json", &text);
}

#[test]
fn every_key_has_a_field_and_says_what_it_may_be() {
    let config = Config::parse("command = \"true\"", "web.toml").unwrap();
    let fields = serde_json::to_value(&config).unwrap();
    let mut fields: BTreeSet<&str> = fields
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    // No key of its own.
    assert!(fields.remove("main_workers"));
    let read = || KEYS.iter().filter(|k| k.status == Status::Implemented);
    assert_eq!(read().map(|key| key.name).collect::<BTreeSet<_>>(), fields);
    for key in read() {
        assert_ne!(key.kind, Kind::Unsaid, "{}: say .is(Kind::...)", key.name);
    }
}

/// Whether `value` is what `schema` says, but for patterns, for which there is no engine.
fn fits(schema: &serde_json::Value, value: &serde_json::Value) -> bool {
    if let Some(any) = schema["anyOf"].as_array() {
        return any.iter().any(|schema| fits(schema, value));
    }
    let of_type = match schema["type"].as_str() {
        Some("boolean") => value.is_boolean(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        other => panic!("{other:?} in {schema}"),
    };
    let beyond = |limit: &str, sign: f64| {
        let pair = (value.as_f64(), schema[limit].as_f64());
        matches!(pair, (Some(value), Some(limit)) if (value - limit) * sign > 0.0)
    };
    let listed = |words: &Vec<serde_json::Value>| words.contains(value);
    let items = value.as_array().into_iter().flatten();
    let entries = value.as_object().into_iter().flatten();
    let required = schema["required"].as_array().into_iter().flatten();
    let has = |name: &serde_json::Value| value.get(name.as_str().unwrap_or_default()).is_some();
    of_type
        && required.clone().all(has)
        && !beyond("minimum", -1.0)
        && !beyond("maximum", 1.0)
        && schema["enum"].as_array().is_none_or(listed)
        && value
            .as_array()
            .is_none_or(|all| all.len() as u64 >= schema["minItems"].as_u64().unwrap_or_default())
        && items.clone().all(|item| fits(&schema["items"], item))
        && entries.into_iter().all(|(name, value)| {
            match (
                schema["properties"].get(name),
                &schema["additionalProperties"],
            ) {
                (Some(schema), _) => fits(schema, value),
                (None, serde_json::Value::Bool(open)) => *open,
                (None, schema) => fits(schema, value),
            }
        })
}

/// Values that `kind` takes, and that it does not.
fn samples(kind: &Kind) -> (Vec<String>, Vec<String>) {
    let texts = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect();
    let (good, mut bad): (Vec<String>, Vec<String>) = match kind {
        Kind::Unsaid => panic!("said in no test"),
        Kind::Boolean => (texts(&["true", "false"]), texts(&["1", "\"yes\""])),
        Kind::Text => (texts(&["\"some text\""]), texts(&["true"])),
        Kind::Path => (texts(&["\"/srv\""]), texts(&["7"])),
        Kind::Integer(least, most) => {
            let beyond = [i64::from(*least) - 1, i64::from(*most) + 1];
            let wrong = beyond.iter().map(i64::to_string);
            (
                vec![least.to_string(), most.to_string()],
                wrong.chain(texts(&["true"])).collect(),
            )
        }
        Kind::Exactly(number) => (vec![number.to_string()], Vec::new()),
        Kind::Duration => (
            texts(&["\"30s\"", "\"1min 30s\"", "5", "1.5"]),
            texts(&["true", "-1", "[]"]),
        ),
        Kind::Size => (
            texts(&["\"512M\"", "\"2G\"", "1048576"]),
            texts(&["true", "5"]),
        ),
        Kind::Mode => (texts(&["\"0660\"", "0o660"]), texts(&["true", "0o1000"])),
        Kind::Word(words) => (
            words.iter().map(|word| format!("\"{word}\"")).collect(),
            texts(&["\"no such word\"", "1"]),
        ),
        Kind::Pattern(_, example) => (vec![format!("\"{example}\"")], texts(&["true"])),
        Kind::Command => (
            texts(&["\"node app.js\"", "[\"node\"]"]),
            texts(&["[]", "1", "{}"]),
        ),
        Kind::List(item) => {
            let (good, _) = samples(item);
            let mut lists: Vec<String> = good.iter().map(|item| format!("[{item}]")).collect();
            lists.push("[]".to_owned());
            (lists, texts(&["true", "[true]"]))
        }
        Kind::Named(value) => {
            let (good, _) = samples(value);
            let tables = good.iter().map(|value| format!("{{ name = {value} }}"));
            (tables.collect(), texts(&["{ name = true }"]))
        }
        Kind::Variables => (
            texts(&["{ NAME = \"value\" }", "{}"]),
            texts(&["{ NAME = 1 }", "true"]),
        ),
        Kind::Table(_) => (Vec::new(), texts(&["true", "{ no_such_key = 1 }", "{}"])),
        Kind::Section(keys) => {
            let entry = |key: &Key| {
                let (good, _) = samples(&key.kind);
                let entries = good.iter().map(|v| format!("{{ {} = {v} }}", key.name));
                entries.collect::<Vec<_>>()
            };
            let good = keys.iter().flat_map(entry).collect();
            (good, texts(&["true", "{ no_such_key = 1 }"]))
        }
        Kind::Any(kinds) => {
            let good = kinds.iter().flat_map(|kind| samples(kind).0).collect();
            (good, Vec::new())
        }
    };
    bad.push(NEVER.to_owned());
    (good, bad)
}

#[test]
fn the_schema_takes_what_is_read_and_nothing_else() {
    let schema = schema();
    let is_read = |key: &str, value: &str| {
        let command = match key {
            "command" => "",
            _ => "command = \"node app.js\"\n",
        };
        single_keys(&format!("{command}{key} = {value}\n"))
    };
    for key in KEYS.iter().filter(|k| k.status == Status::Implemented) {
        let of_key = &schema["properties"][key.name];
        let (good, bad) = samples(&key.kind);
        let default = (!key.default.is_empty()).then(|| key.default.to_owned());
        for value in good.into_iter().chain(default) {
            let read = is_read(key.name, &value);
            assert!(
                read.is_ok(),
                "{} = {value}: {}",
                key.name,
                read.unwrap_err()
            );
            let value = json_value(&value).unwrap();
            assert!(fits(of_key, &value), "{} = {value}: {of_key}", key.name);
        }
        for value in bad {
            assert!(is_read(key.name, &value).is_err(), "{} = {value}", key.name);
            let value = json_value(&value).unwrap();
            assert!(!fits(of_key, &value), "{} = {value}: {of_key}", key.name);
        }
    }
}

/// What the patterns leave to the reader, and what they must not: there is no engine for them
/// here, so these are the values that they were made for.
#[test]
fn what_patterns_stand_for_is_read_so() {
    let read = |line: &str| single_keys(&format!("command = \"node x\"\n{line}\n")).is_ok();
    for good in [
        "workers = -1",
        "workers = \"007\"",
        "drain_timeout = \"5 5s\"",
        "batch = \"050%\"",
        "environment_files = [\"-/etc/x\"]",
        "listen = \"[fe80::1%3]:080\"",
    ] {
        assert!(read(good), "{good}");
    }
    for bad in [
        "workers = -2",
        "workers = \"0\"",
        "workers = \"1025\"",
        "stop_signal = 9",
        "stop_signal = \"SIGSTOP\"",
        "socket_mode = \"7777\"",
        "listen = \"localhost:3000\"",
        "listen = \":80\"",
        "listen = \"65536\"",
        "user = \"12abc\"",
        "environment_files = [\"\"]",
        "environment_files = [\"-\"]",
    ] {
        assert!(!read(bad), "{bad}");
    }
}

/// The words that are read are those of the table: the message lists them.
#[test]
fn no_word_is_missing() {
    for key in KEYS.iter().filter(|k| k.status == Status::Implemented) {
        let Kind::Word(words) = key.kind else {
            continue;
        };
        let text = format!("{} = \"no such word\"", key.name);
        let told = single_keys(&text).unwrap_err().diagnostics[0]
            .message
            .clone();
        let listed: BTreeSet<&str> = told.split('"').skip(1).step_by(2).collect();
        assert_eq!(listed, words.iter().copied().collect(), "{}", key.name);
    }
}

/// The keys of tables, each with the first one beside it where it cannot be alone.
#[test]
fn the_keys_of_tables_are_read() {
    fn tables(kind: &Kind) -> Vec<&'static [Key]> {
        match kind {
            Kind::Table(keys) => vec![keys],
            Kind::Any(kinds) => kinds.iter().flat_map(tables).collect(),
            _ => Vec::new(),
        }
    }
    let mut seen = 0;
    for key in KEYS.iter().filter(|k| k.status == Status::Implemented) {
        for keys in tables(&key.kind) {
            let first = samples(&keys[0].kind).0.remove(0);
            for inner in keys {
                for value in samples(&inner.kind).0 {
                    let alone = format!("{} = {value}", inner.name);
                    let both = format!("{} = {first}, {alone}", keys[0].name);
                    let read = |entries: &str| {
                        single_keys(&format!("{} = {{ {entries} }}", key.name)).is_ok()
                    };
                    assert!(read(&alone) || read(&both), "{}: {both}", key.name);
                    seen += 1;
                }
            }
        }
    }
    assert!(seen > 4);
}

#[test]
fn what_is_shown_is_the_same_configuration() {
    let text = r#"
        command = ["node", "a \"b\"\n\u0007.js"]
        listen = { http = "0.0.0.0:80", "a.b" = "unix:/run/web.sock" }
        workers = "-1"
        ready = { exec = ["curl", "-f", "http://localhost"] }
        stop_exit_codes = [
            0,  # done
            3,
        ]
        companion.command = "node primary.js"
        canary_time = 2.5
        socket_mode = 0o640
        stop_message = """
bye"""
        [environment]
        A = 'x"y\n'
        B = "two\nlines"
        [node]
        strict_ports = true
        "#;
    let config = Config::parse(text, "web.toml").unwrap();
    let shown = |config: &Config| -> String {
        let lines = config.shown(true);
        lines.iter().map(|shown| shown.line() + "\n").collect()
    };
    let again = Config::parse(&shown(&config), "web.toml").unwrap();
    assert_eq!(shown(&again), shown(&config));
    let source = config.source.clone();
    assert_eq!(Config { source, ..again }, config);
    assert!(shown(&config).contains("# user: not set\n"));
}

#[test]
fn variables_are_shown_without_their_values() {
    let main = "command = \"true\"\nenvironment = { A = \"s3cret\", B = 's3cret' } # x\n\
                [node]\npreload = false\n";
    let over = "environment.C = \"s3cret\"\nnode.strict_ports = true\n";
    let fragments = [("web.toml", main), ("web.toml.d/a.toml", over)];
    let fragments = fragments.map(|(origin, text)| (text.to_owned(), origin.to_owned()));
    let config = read::config(&fragments).unwrap();
    let all = config.shown(false);
    let of = |key: &str| {
        let found = all.iter().find(|shown| shown.key == key).expect(key);
        (found.line(), found.origin())
    };
    assert_eq!(
        of("environment.C"),
        (
            "environment.C = \"(hidden)\"".to_owned(),
            "web.toml.d/a.toml:1".to_owned()
        )
    );
    assert_eq!(of("environment.A").1, "web.toml:2");
    assert_eq!(config.source.places["environment.B"].position.column, 35);
    assert_eq!(of("node.preload").1, "web.toml:4");
    assert_eq!(of("node.strict_ports").1, "web.toml.d/a.toml:2");
    assert_eq!(of("batch"), ("batch = 1".to_owned(), "default".to_owned()));
    let everything = format!("{all:?} {:?}", config.source);
    assert!(!everything.contains("s3cret"), "{everything}");
    let whole = config.shown(true);
    assert!(
        whole
            .iter()
            .any(|s| s.line() == "environment.B = \"s3cret\"")
    );

    assert_eq!(
        without_values(main, "web.toml").unwrap(),
        main.replace("\"s3cret\"", "\"(hidden)\"")
            .replace("'s3cret'", "\"(hidden)\"")
            .replace("# x", "# ...")
    );
    assert!(without_values("A = \"s3cret", "x").is_err());
}

#[test]
fn a_copy_without_values_is_no_configuration() {
    for text in [
        "command = \"true\"\nenvironment = { TOKEN = \"s3cret\", B = \"(hidden\" }",
        "command = \"true\"\n[environment]\nTOKEN = \"(hidden) or not\"",
    ] {
        let config = Config::parse(text, "web.toml").unwrap();
        let lines = config.shown(false);
        let shown: String = lines.iter().map(|shown| shown.line() + "\n").collect();
        for copy in [shown, without_values(text, "web.toml").unwrap()] {
            let error = Config::parse(&copy, "copy.toml").unwrap_err().to_string();
            assert!(
                error.contains("`TOKEN` is \"(hidden)\", which is shown in place of a value"),
                "{error}"
            );
            assert!(error.contains("with --show-values"), "{error}");
        }
    }
}

#[test]
fn nor_are_they_where_they_are_misplaced_or_in_a_comment() {
    for (text, shown) in [
        (
            "[enviroment]\nA = \"s3c\"",
            "[enviroment]\nA = \"(hidden)\"",
        ),
        ("env = { A = \"s3c\" }", "env = { A = \"(hidden)\" }"),
        (
            "[env_production]\nA = 7.3",
            "[env_production]\nA = \"(hidden)\"",
        ),
        (
            "[environment.A]\nB = \"s3c\"",
            "[environment.A]\nB = \"(hidden)\"",
        ),
        (
            "environment.A.B = \"s3c\"",
            "environment.A.B = \"(hidden)\"",
        ),
        (
            "[[environment]]\nA = \"s3c\"",
            "[[environment]]\nA = \"(hidden)\"",
        ),
        (
            "environment = [\"A=s3c\", [7]]",
            "environment = [\"(hidden)\", [\"(hidden)\"]]",
        ),
        ("environment = \"A=s3c\"", "environment = \"(hidden)\""),
        ("TOKEN = \"s3c\"", "TOKEN = \"(hidden)\""),
        (
            "node.environment = { A = \"s3c\" }",
            "node.environment = { A = \"(hidden)\" }",
        ),
        (
            "[[companion]]\ntoken = 's3c'",
            "[[companion]]\ntoken = \"(hidden)\"",
        ),
        ("log = \"s3c\"", "log = \"(hidden)\""),
        ("command = \"A=s3c x\"", "command = \"(hidden)\""),
        (
            "[environment]\n# A = \"s3c\"\nA = \"1\" # was s3c",
            "[environment]\n# ...\nA = \"(hidden)\" # ...",
        ),
        ("[environment] # s3c\r\n\r\n", "[environment] # ...\r\n\r\n"),
        (
            "environment = {\n  # s3c\n  A = '''\n# s3c\n''', # s3c\n} # s3c\n# so\n",
            "environment = {\n  # ...\n  A = \"(hidden)\", # ...\n} # ...\n# so\n",
        ),
        ("# environment.A = \"s3c\"", "# ..."),
        ("# TOKEN=s3c", "# ..."),
        (
            "# The shop.\n#workers = 4\nuser = \"a#b\" # as # this\n",
            "# The shop.\n#workers = 4\nuser = \"a#b\" # as # this\n",
        ),
        (
            "command = [\"x\", \"A=b\"] # so\n[node] # so\n# preload = true\n",
            "command = [\"x\", \"A=b\"] # so\n[node] # so\n# preload = true\n",
        ),
        (
            "listen = { \"a.b\" = \"80\" }\nhealth.http = \"/?a=b\"",
            "listen = { \"a.b\" = \"80\" }\nhealth.http = \"/?a=b\"",
        ),
    ] {
        assert_eq!(without_values(text, "x").unwrap(), shown, "{text}");
    }
}
