// SPDX-License-Identifier: MIT OR Apache-2.0
//! `health`: how workers are asked how they are.

use super::Config;
use super::read::command;
use super::toml_reader::{Problem, Read, Value};
use super::values::{duration, expected, integer, string};
use crate::core::Health;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A worker is not asked more often than this.
const SHORTEST: Duration = Duration::from_millis(10);
/// Longest path that is asked for, in bytes.
const LONGEST_PATH: usize = 1024;
/// Most bad answers that can be borne.
pub(super) const MOST_FAILURES: u32 = 1000;

/// The question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Question {
    /// `GET` of this path, over a connection that is handed to the worker.
    Http(String),
    /// This command; never empty. It runs as the worker does.
    Exec(Vec<String>),
}

/// `health = { http = "/health", interval = "5s", timeout = "2s", failures = 3 }`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// What is asked.
    pub question: Question,
    /// From one question to the next. Default 5 s.
    pub interval: Duration,
    /// How long an answer may take. Default 2 s.
    pub timeout: Duration,
    /// So many bad answers in a row, 1 to 1000, are one too many. Default 3.
    pub failures: u32,
}

impl HealthCheck {
    /// What the core needs to know of it.
    pub(super) fn policy(&self) -> Health {
        Health {
            interval: self.interval,
            timeout: self.timeout,
            failures: self.failures,
        }
    }
}

impl Config {
    /// The command of `health`, if it has one.
    pub(super) fn health_command(&self) -> Option<&[String]> {
        match &self.health.as_ref()?.question {
            Question::Exec(words) => Some(words),
            Question::Http(_) => None,
        }
    }
}

/// Reads the table.
pub(super) fn read(value: &Value<'_>) -> Read<Option<HealthCheck>> {
    let example = "{ http = \"/health\" } or { exec = [\"./check\"] }";
    let Some(table) = value.get_ref().as_table() else {
        return Err(expected(value, &format!("a table, such as {example}")).into());
    };
    let mut questions = Vec::new();
    let (mut interval, mut timeout) = (Duration::from_secs(5), Duration::from_secs(2));
    let mut failures = 3;
    let mut wrong = Vec::new();
    for (name, value) in table {
        let read = match name.get_ref().as_ref() {
            "http" => path(value).map(|path| questions.push(Question::Http(path))),
            "exec" => command(value).map(|words| questions.push(Question::Exec(words))),
            "interval" => at_least(value).map(|said| interval = said),
            "timeout" => at_least(value).map(|said| timeout = said),
            "failures" => integer(value, 1, MOST_FAILURES).map(|said| failures = said),
            _ => {
                let hint = "there are `http` or `exec`, and `interval`, `timeout`, `failures`";
                Err(Problem::unknown_key("health", name).hint(hint).into())
            }
        };
        wrong.extend(read.err().into_iter().flatten());
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let mut questions = questions.into_iter();
    match (questions.next(), questions.next()) {
        (Some(question), None) => Ok(Some(HealthCheck {
            question,
            interval,
            timeout,
            failures,
        })),
        _ => Err(Problem::at(value, "`health` has one of `http` and `exec`")
            .hint(format!("write {example}"))
            .into()),
    }
}

fn at_least(value: &Value<'_>) -> Read<Duration> {
    let found = duration(value)?;
    match found >= SHORTEST {
        true => Ok(found),
        false => Err(Problem::at(value, "expected 10ms or longer").into()),
    }
}

/// What is asked for: it becomes part of a request line.
fn path(value: &Value<'_>) -> Read<String> {
    let text = string(value, "a path, such as \"/health\"")?;
    let plain = text.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    if !text.starts_with('/') || !plain || text.len() > LONGEST_PATH {
        let problem = Problem::at(value, "expected a path, such as \"/health\"");
        let hint = "it begins with `/`, has no host, and everything else than plain letters, \
                    digits and signs is written as %XX";
        return Err(problem.hint(hint).into());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Launch;

    fn parse(health: &str) -> Result<Config, String> {
        let text = format!("command = \"node app.js\"\nhealth = {health}\n");
        Config::parse(&text, "web.toml").map_err(|error| error.to_string())
    }

    #[test]
    fn tables() {
        let config = parse("{ http = \"/health?deep=1\" }").expect("a table");
        let found = config.health.expect("a check");
        assert_eq!(found.question, Question::Http("/health?deep=1".to_owned()));
        let seconds = |n| Duration::from_secs(n);
        assert_eq!((found.interval, found.timeout), (seconds(5), seconds(2)));
        let text = "{ exec = \"./check -x\", interval = \"1s\", timeout = 3, failures = 1 }";
        let found = parse(text).expect(text).health.expect(text);
        let words = ["./check", "-x"].map(str::to_owned).to_vec();
        assert_eq!(found.question, Question::Exec(words));
        assert_eq!((found.timeout, found.failures), (seconds(3), 1));
        for (bad, part) in [
            ("\"/health\"", "expected a table, such as { http ="),
            ("{}", "one of `http` and `exec`"),
            (
                "{ http = \"/\", exec = [\"x\"] }",
                "one of `http` and `exec`",
            ),
            ("{ http = \"health\" }", "expected a path"),
            ("{ http = \"/a b\" }", "expected a path"),
            ("{ http = \"/\\r\\nX: y\" }", "expected a path"),
            ("{ http = \"/\", interval = 0 }", "expected 10ms or longer"),
            ("{ http = \"/\", failures = 0 }", "expected 1 to 1000"),
            ("{ http = \"/\", tries = 2 }", "unknown key `health.tries`"),
        ] {
            let told = parse(bad).expect_err(bad);
            assert!(told.contains(part), "{bad}: {told}");
        }
    }

    /// Only a Node worker can be handed a connection; a command is looked up as the program is.
    #[test]
    fn what_it_means_here() {
        let launch = |rest: &str| {
            let text = format!("command = \"sh\"\n{rest}\n");
            let config = Config::parse(&text, "web.toml").expect("a configuration");
            let base = [("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
            Launch::resolve(&config, base).map_err(|error| error.to_string())
        };
        let told = launch("health = { http = \"/health\" }").expect_err("no Node");
        assert!(told.contains("health = { exec = [...] }"), "{told}");
        let told = launch("health = { exec = \"no-such-program\" }").expect_err("none");
        assert!(told.contains("`no-such-program` was not found"), "{told}");
        let found = launch("health = { exec = \"sh -c true\" }").expect("a launch");
        let program = found.health_program.expect("a program");
        assert!(program.ends_with("sh"), "{}", program.display());
    }
}
