// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines of files without the values of variables in them: what is wrong with a file is told
//! to people, and kept in logs, that must not see these.

use super::diagnostic::Position;
use super::keys;

/// Stands for a value.
const DOTS: &str = "...";

/// The line at `at`, in which a configuration file sets variables, without their values.
pub(super) fn in_toml(at: Position) -> Position {
    let mut out = String::new();
    // Where each character of the line is in `out`.
    let mut new = Vec::new();
    let mut chars = at.text.chars().peekable();
    let mut is_name = true;
    let put = |out: &mut String, new: &mut Vec<usize>, c: Option<char>, all: &str| {
        new.push(out.chars().count());
        out.extend(c);
        out.push_str(all);
    };
    while let Some(c) = chars.next() {
        match c {
            '=' => is_name = false,
            ',' | '{' | '}' => is_name = true,
            _ => {}
        }
        let is_value = !is_name && c != '=' && !c.is_whitespace();
        if !is_value {
            put(&mut out, &mut new, Some(c), "");
            continue;
        }
        if c == '#' {
            break;
        }
        let quote = Some(c).filter(|c| "\"'".contains(*c));
        put(&mut out, &mut new, quote, DOTS);
        let mut escaped = false;
        while let Some(next) = match quote {
            Some(_) => chars.next(),
            None => chars.next_if(|c| !c.is_whitespace() && !",}#".contains(*c)),
        } {
            let ends = Some(next) == quote && !escaped;
            put(&mut out, &mut new, quote.filter(|_| ends), "");
            if ends {
                break;
            }
            escaped = next == '\\' && quote == Some('"') && !escaped;
        }
    }
    let end = out.chars().count();
    let column = |at: usize| new.get(at).copied().unwrap_or(end);
    let (from, to) = (column(at.column - 1), column(at.column - 1 + at.width));
    Position {
        column: from + 1,
        width: to.saturating_sub(from).max(1),
        text: out,
        ..at
    }
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
    let header = at.text.trim_start().starts_with('[');
    match (sets, header) {
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
            ("A = \"s3c\"", "\"s3c\"", "A = \"...\"", "\"...\""),
            ("A = 's3c' # s3c", "'s3c'", "A = '...' ", "'...'"),
            ("A = s3c", "s3c", "A = ...", "..."),
            ("A = \"s3c\\\"s3c\"", "\"s3c", "A = \"...\"", "\"..."),
            (
                "environment = { A = \"s3c=1,\", B = 7, C = '' }",
                "7",
                "environment = { A = \"...\", B = ..., C = '...' }",
                "...",
            ),
            ("environment.B = 7", "7", "environment.B = ...", "..."),
            ("A = \"s3c", "\"", "A = \"...", "\"..."),
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
            ("[environment]\nA = \"s3c", "A = \"..."),
            ("[environment]\nA = s3c", "..."),
            ("[env]\nA = \"\"\"\ns3c\\q", "..."),
            ("environment = { A = \"s3c", "environment = { A = \"..."),
            ("env.A = s3c", "..."),
            ("[node]\npreload = s3c", "preload = s3c"),
        ] {
            let at = Position::of(text, text.len()..text.len());
            assert_eq!(in_broken(text, at).text, line, "{text}");
        }
    }
}
