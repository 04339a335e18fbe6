// SPDX-License-Identifier: MIT OR Apache-2.0

use super::*;

fn shown(units: &Units) -> String {
    let mut text = String::new();
    for (path, contents) in &units.files {
        let lines = contents.lines().filter(|l| !l.starts_with("# "));
        let lines: Vec<&str> = lines.collect();
        let _ = write!(text, "--- {path}\n{}\n", lines.join("\n"));
    }
    for (path, target) in &units.links {
        let _ = writeln!(text, "{path} -> {target}");
    }
    text
}

fn rendered(name: &str, text: &str) -> String {
    let text = format!("command = [\"/bin/true\"]\n{text}");
    let config = Config::parse(&text, "web.toml").unwrap_or_else(|e| panic!("{e}"));
    render(name, &config).map_or_else(|e| e.to_string(), |units| shown(&units))
}

#[test]
fn an_app_that_says_nothing() {
    insta::assert_snapshot!(rendered("shop", ""));
}
