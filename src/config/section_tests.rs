// SPDX-License-Identifier: MIT OR Apache-2.0
//! What stands below a section.

use super::*;

/// A line appended to a file goes below its last section.
#[test]
fn keys_below_a_section() {
    let told = |text: &str| {
        let text = format!("command = \"node x\"\n{text}\n");
        let error = Config::parse(&text, "web.toml").err();
        error.map(|e| e.diagnostics).unwrap_or_default()
    };
    let messages = |text: &str| -> Vec<String> {
        let hint = |d: &Diagnostic| d.hint.clone().unwrap_or_default();
        let above = |d: &Diagnostic| hint(d).starts_with("move it above").to_string();
        let found = told(text);
        found
            .iter()
            .map(|d| format!("{} {}", d.message, above(d)))
            .collect()
    };
    let stands = |key: &str, section: &str| {
        format!("`{key}` is a key of the app, and stands under `[{section}]` true")
    };
    for (text, section) in [
        ("[node]\nworkers = 4\nmax_memory = \"512M\"", "node"),
        (
            "[companion]\ncommand = \"x\"\nworkers = 4\nmax_memory = 1",
            "companion",
        ),
        (
            "[listen]\nhttp = 80\nworkers = 4\nmax_memory = \"512M\"",
            "listen",
        ),
        (
            "[ready]\ndelay = 1\nworkers = 4\nmax_memory = \"512M\"",
            "ready",
        ),
        ("[ready]\nworkers = 4\nmax_memory = \"512M\"", "ready"),
        (
            "[health]\nhttp = \"/\"\nworkers = 4\nmax_memory = 1",
            "health",
        ),
        (
            "[environment]\nA = \"x\"\nworkers = 4\nmax_memory = 1",
            "environment",
        ),
    ] {
        assert_eq!(
            messages(text),
            ["workers", "max_memory"].map(|k| stands(k, section))
        );
    }
    // All that is wrong, not only the last.
    assert_eq!(told("[node]\npreload = 1\nargs = 2").len(), 2);
    assert_eq!(
        told("[health]\nhttp = \"/\"\ntries = 1\ninterval = []").len(),
        2
    );
    // Listeners may be called so, and variables.
    for good in [
        "[listen]\nhealth = \"8081\"",
        "listen = { workers = 80 }",
        "environment = { workers = \"4\" }",
    ] {
        assert_eq!(told(good), [], "{good}");
    }
    let doubts = |text: &str| {
        let text = format!("command = \"node x\"\n{text}\n");
        super::doubts(&Config::parse(&text, "web.toml").expect("a configuration"))
    };
    let doubt = doubts("[environment]\nA = \"x\"\nmax_memory = \"s3cret\"");
    assert!(doubt.len() == 1 && doubt[0].position.line == 4, "{doubt:?}");
    assert!(!doubt[0].to_string().contains("s3cret"), "{doubt:?}");
    assert_eq!(doubts("environment = { max_memory = \"512M\" }"), []);
}
