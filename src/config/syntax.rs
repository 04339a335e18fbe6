// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files that are no TOML, in words that say what to write.

use super::diagnostic::{Diagnostic, Position};
use super::hide;

/// For a part of what the parser says: what is wrong in other words ("": the parser's own),
/// and what helps.
const HINTS: &[(&str, &str, &str)] = &[
    (
        "must be quoted",
        "text must be in quotes",
        "put it in double quotes: NAME = \"text\"",
    ),
    ("duplicate key", "this is there twice", "keep one of them"),
    (
        "missing comma between array",
        "there is no comma between two items of a list",
        "put one there, or close the list before this with `]`",
    ),
    ("unclosed", "", "close what was opened: a quote, `]` or `}`"),
    (
        NO_VALUE,
        "there is no `=` after the name",
        "write NAME = VALUE",
    ),
    ("missing value", "there is no value", "write NAME = VALUE"),
    ("missing comma", "", "put a comma between the items"),
    (
        "recurs",
        "",
        "it is nested too deeply: is it the right file?",
    ),
    (
        "escape",
        "a backslash in double quotes has a meaning, and this is none",
        "write `\\\\` for a backslash, or put the text in single quotes",
    ),
    ("carriage return", "", "save the file with plain line ends"),
    (
        "invalid basic string",
        "the text is not closed",
        "end it with the quote that it begins with, on the same line",
    ),
    (
        "invalid literal string",
        "the text is not closed",
        "end it with the quote that it begins with, on the same line",
    ),
];
/// Of a name alone.
const NO_VALUE: &str = "no value";
/// Against all others.
const OTHERWISE: &str =
    "a line is NAME = VALUE: text in double quotes, lists in [ ], tables in { }";

/// The finding that `text` of the file `origin` is no TOML.
pub(super) fn broken(text: &str, origin: &str, error: &toml::de::Error) -> Diagnostic {
    let said = error.message().replace('\n', ": ");
    let at = error.span().unwrap_or(0..0);
    // What the parser makes of a name alone in { } depends on what comes after it.
    let ends = text
        .get(at.start..)
        .is_some_and(|rest| rest.starts_with(['}', ',']));
    let alone = ends && (said.contains("invalid literal string") || said.contains("expected `=`"));
    let part_of = |part: &str| match alone {
        true => part == NO_VALUE,
        false => said.contains(part),
    };
    let known = HINTS.iter().find(|(part, ..)| part_of(part));
    let (message, hint) = match known {
        Some((_, "", hint)) => (said, *hint),
        Some((_, message, hint)) => ((*message).to_owned(), *hint),
        None => (said, OTHERWISE),
    };
    let position = Position::of(text, at);
    Diagnostic {
        position: hide::in_broken(text, position),
        ..Diagnostic::file(origin, message, Some(hint.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn names_alone_in_a_table() {
        let told = |line: &str| {
            let error = Config::parse(line, "web.toml").expect_err(line);
            error.to_string()
        };
        for line in [
            "environment = { A = \"1\", B }",
            "environment = { B, A = \"1\" }",
            "node = { preload }",
        ] {
            let told = told(line);
            assert!(told.contains("there is no `=` after the name"), "{told}");
        }
        let told = told("command = 'node, x }\n");
        assert!(told.contains("the text is not closed"), "{told}");
    }
}
