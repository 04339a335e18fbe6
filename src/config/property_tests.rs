// SPDX-License-Identifier: MIT OR Apache-2.0
//! Nothing that is in a file makes reading it panic.

use super::*;
use proptest::prelude::*;

/// Lines that are nearly right: known keys with values of any kind.
fn near_miss() -> impl Strategy<Value = String> {
    let key = prop::sample::select(KEYS).prop_map(|key| key.name.to_owned());
    let value = prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| format!("{n:?}")),
        any::<String>().prop_map(|text| format!("{text:?}")),
        "[0-9a-zµ. \"'\\\\-]{0,12}".prop_map(|text| words::toml_string(&text)),
        any::<String>().prop_map(|text| format!("[{}]", words::toml_string(&text))),
        any::<String>().prop_map(|text| format!("{{ {text:?} = {} }}", words::toml_string(&text))),
        Just("true".to_owned()),
        Just("[[[]]]".to_owned()),
    ];
    prop::collection::vec((key, value), 0..6).prop_map(|lines| {
        let lines = lines
            .into_iter()
            .map(|(key, value)| format!("{key} = {value}\n"));
        lines.collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics(text in any::<String>()) {
        if let Err(error) = Config::parse(&text, "x") {
            prop_assert!(!error.to_string().is_empty());
        }
        let _ = envfile::parse(&text, "x");
        let _ = (duration(&text), signal(&text), valid_name(&text), split_command(&text));
        let _ = (text.parse::<Listen>(), text.parse::<Workers>());
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        if let Err(error) = Config::load(file.path()) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    /// Whatever is wrong beside it, and however it is written.
    #[test]
    fn no_value_of_a_variable_is_told(
        head in prop::sample::select(vec![
            "[environment]\nA = ", "environment.A = ", "environment = { A = ",
            "environment = { \"A B\" = '', A = ", "[environment]\nLISTEN_FDS = ", "env.A = ",
            "[enviroment]\n\"A.B\" = ", "environment = [", "[environment]\nA = [1, ",
        ]),
        quotes in prop::sample::select(vec!["\"", "'", "\"\"\"", "'''", ""]),
        around in ("[ -~]{0,6}", "[ -~]{0,6}"),
        tail in prop::sample::select(vec!["", " }", " ]", "\nB = 1", ", B = 1 }", " # x", "x"]),
        close in any::<bool>(),
    ) {
        let value = format!("{}s3cret{}", around.0, around.1);
        let end = if close { quotes } else { "" };
        let text = format!("command = \"true\"\n{head}{quotes}{value}{end}{tail}\n");
        if let Err(error) = Config::parse(&text, "x") {
            prop_assert!(!error.to_string().contains("s3cret"), "{text}\n{error}");
        }
    }

    #[test]
    fn no_value_panics(text in near_miss()) {
        match Config::parse(&text, "x") {
            Ok(config) => {
                let policy = config.policy(&Cpus { count: 0, source: String::new() });
                prop_assert!(policy.workers >= 1 && policy.batch.of(1) == 1);
                let _ = check(&config, []);
            }
            Err(error) => prop_assert!(error.to_string().contains("error: ")),
        }
    }
}
