// SPDX-License-Identifier: MIT OR Apache-2.0
//! `companion`: one process beside the workers, which gets their messages.

use super::read::command;
use super::toml_reader::{Problem, Read, Value};
use super::values::expected;
use serde::{Deserialize, Serialize};

/// `companion = { command = [...] }`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Companion {
    /// Program and arguments; never empty. It runs where the workers run.
    pub command: Vec<String>,
}

/// Reads the table.
pub(super) fn read(value: &Value<'_>) -> Read<Option<Companion>> {
    let example = "{ command = [\"node\", \"primary.js\"] }";
    let Some(table) = value.get_ref().as_table() else {
        return Err(expected(value, &format!("a table, such as {example}")).into());
    };
    let mut found = None;
    let mut wrong = Vec::new();
    for (name, value) in table {
        if name.get_ref() != "command" {
            let unknown = Problem::unknown_key("companion", name);
            wrong.push(unknown.hint("there is `companion.command`"));
            continue;
        }
        match command(value) {
            Ok(command) => found = Some(command),
            Err(problems) => wrong.extend(problems),
        }
    }
    match found {
        _ if !wrong.is_empty() => Err(wrong),
        Some(command) => Ok(Some(Companion { command })),
        None => Err(Problem::at(value, "the companion has no `command`")
            .hint(format!("companion = {example}"))
            .into()),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Launch};

    fn parse(companion: &str) -> Result<Config, String> {
        let text = format!("command = \"node app.js\"\ncompanion = {companion}\n");
        Config::parse(&text, "web.toml").map_err(|error| error.to_string())
    }

    #[test]
    fn tables() {
        for good in [
            "{ command = [\"node\", \"primary.js\"] }",
            "{ command = \"node primary.js\" }",
        ] {
            let companion = parse(good).expect(good).companion.expect(good);
            assert_eq!(companion.command, ["node", "primary.js"]);
        }
        for (bad, part) in [
            (
                "\"node primary.js\"",
                "expected a table, such as { command =",
            ),
            ("{}", "the companion has no `command`"),
            ("{ command = [] }", "the command is empty"),
            (
                "{ command = \"x\", workers = 2 }",
                "unknown key `companion.workers`",
            ),
        ] {
            let told = parse(bad).expect_err(bad);
            assert!(told.contains(part), "{bad}: {told}");
        }
    }

    /// Its program is looked up as the workers' is, and they have to be able to talk.
    #[test]
    fn what_it_means_here() {
        let launch = |command: &str, companion: &str| {
            let text = format!(
                "command = [{command:?}]\nprotocol = \"auto\"\n\
                 companion = {{ command = [{companion:?}] }}\n"
            );
            let config = Config::parse(&text, "web.toml").expect("a configuration");
            let base = [("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
            Launch::resolve(&config, base).map_err(|error| error.to_string())
        };
        let told = launch("sh", "sh").expect_err("no Node");
        assert!(told.contains("a companion needs a Node program"), "{told}");
        let told = launch("sh", "no-such-program").expect_err("no such program");
        assert!(told.contains("`no-such-program` was not found"), "{told}");
    }
}
