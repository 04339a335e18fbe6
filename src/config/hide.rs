// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines of files without the values of variables in them: what is wrong with a file is told
//! to people, and kept in logs, that must not see these.

use super::diagnostic::Position;
use super::keys;

/// Stands for a value.
const DOTS: &str = "...";

/// The line at `at`, in which a configuration file sets variables: up to the first `=`. What
/// follows may be anything, also where it is no value.
pub(super) fn in_toml(at: Position) -> Position {
    if is_header(&at.text) {
        return at;
    }
    let kept = at.text.split_once('=').map_or("", |(name, _)| name);
    let (name, dots) = (kept.chars().count(), DOTS.chars().count());
    let text = match kept {
        "" => DOTS.to_owned(),
        name => format!("{name}= {DOTS}"),
    };
    let all = text.chars().count();
    // What is pointed at is a part of the name, or of what is left out.
    let (column, width) = match at.column <= name {
        true => (at.column, at.width.min(name + 1 - at.column)),
        false => (all + 1 - dots, dots),
    };
    Position {
        column,
        width,
        text,
        ..at
    }
}

/// Whether a line is the beginning of a section, and nothing else.
fn is_header(line: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-. ".contains(c);
    let inner = line
        .trim()
        .strip_prefix('[')
        .and_then(|l| l.strip_suffix(']'));
    inner.is_some_and(|inner| inner.chars().all(fits))
}

/// The line at `at` of a file of variables, without the value.
pub(super) fn in_file(at: Position) -> Position {
    let name = at.text.split_once('=').map(|(name, _)| name);
    let text = name.map_or(DOTS.to_owned(), |name| format!("{name}={DOTS}"));
    Position {
        column: at.column.min(text.chars().count()),
        width: text.chars().count() - (at.column - 1).min(text.chars().count() - 1),
        text,
        ..at
    }
}

/// The line at `at` of `text`, a configuration file that is no TOML: without what may be the
/// value of a variable.
pub(super) fn in_broken(text: &str, at: Position) -> Position {
    let variables = |name: &str| keys::suggest(name.trim()) == Some("environment");
    let mut inside = false;
    for line in text.lines().take(at.line.saturating_sub(1)) {
        if let Some(header) = line.trim_start().strip_prefix('[') {
            let name = header.split(['.', ']']).next().unwrap_or_default();
            inside = variables(name);
        }
    }
    let name = at.text.split(['=', '.']).next().unwrap_or_default();
    let known = |name: &str| name == "environment" || variables(name);
    if !inside && !known(name.trim()) {
        return at;
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.- ".contains(c);
    let sets = at.text.split_once('=').is_some_and(|(name, value)| {
        name.chars().all(plain) && value.trim_start().starts_with(['"', '\'', '{'])
    });
    match (sets, is_header(&at.text)) {
        (_, true) => at,
        (true, _) => in_toml(at),
        // Perhaps a part of a value.
        _ => Position {
            column: 1,
            width: DOTS.len(),
            text: DOTS.to_owned(),
            ..at
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The line, and under it what is pointed at.
    fn shown(at: &Position) -> (String, String) {
        let marked = at.text.chars().skip(at.column - 1).take(at.width);
        (at.text.clone(), marked.collect())
    }

    #[test]
    fn values_are_left_out_and_carets_stay() {
        for (line, marked, text, now) in [
            ("A = \"s3c\"", "\"s3c\"", "A = ...", "..."),
            ("A = s3c", "s3c", "A = ...", "..."),
            ("A = [1, 's3c']", "[1, 's3c']", "A = ...", "..."),
            ("\"a b\" = 's3c'", "a b", "\"a b\" = ...", "a b"),
            ("A = s3c", "A = s3c", "A = ...", "A "),
            (
                "environment = { A = \"s3c=1,\", B = 7 }",
                "7",
                "environment = ...",
                "...",
            ),
            ("environment.B = 7", "7", "environment.B = ...", "..."),
            ("s3c", "s3c", "...", "..."),
            ("[environment] # s3c", "environment", "...", "..."),
            (
                "[environment]",
                "environment",
                "[environment]",
                "environment",
            ),
        ] {
            let start = line.find(marked).expect("there");
            let at = Position::of(line, start..start + marked.len());
            assert_eq!(shown(&in_toml(at)), (text.to_owned(), now.to_owned()));
        }
        let at = in_file(Position::of("export A=s3c", 0..12));
        assert_eq!(at.text, "export A=...");
        assert_eq!(in_file(Position::of("s3c", 0..3)).text, "...");
    }

    #[test]
    fn nor_are_they_shown_of_what_is_no_toml() {
        for (text, line) in [
            ("[environment]\nA = \"s3c", "A = ..."),
            ("[environment]\nA = s3c", "..."),
            ("[env]\nA = \"\"\"\ns3c\\q", "..."),
            ("environment = { A = \"s3c", "environment = ..."),
            ("env.A = s3c", "..."),
            ("[node]\npreload = s3c", "preload = s3c"),
        ] {
            let at = Position::of(text, text.len()..text.len());
            assert_eq!(in_broken(text, at).text, line, "{text}");
        }
    }
}
