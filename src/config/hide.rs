// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines of files without the values of variables in them: what is wrong with a file is told
//! to people, and kept in logs, that must not see these. Only what is known to be something
//! else is shown: secrets also stand under misspelt names, in wrong sections and in comments.

use super::diagnostic::{Position, line_around};
use super::envfile::valid_name;
use super::kind::Kind;
use super::scan::{DOTS, Scan, inner, sets_variable};
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What of a configuration file is not shown.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    /// Values and comments, in the order of the file.
    spans: Vec<Range<usize>>,
}

impl Secrets {
    /// Those of `text`, which is `table`: the values of `environment` and of all that is no
    /// key of a configuration, and comments where these stand or that look like such.
    pub(super) fn of(text: &str, table: &DeTable<'_>) -> Secrets {
        let mut spans = Vec::new();
        for (name, value) in table {
            collect(value, inner(None, name.get_ref()), &mut spans);
        }
        let mut scan = Scan::new();
        let mut start = 0;
        for line in text.split_inclusive('\n') {
            let code = line.trim_end();
            if let Some(at) = scan.pass(code) {
                spans.push(start + at..start + code.len());
            }
            start += line.len();
        }
        spans.sort_by_key(|span| span.start);
        Secrets { spans }
    }

    /// The part `range` of `text`, with `stand_in` of each secret in its place.
    pub(super) fn without(
        &self,
        text: &str,
        range: Range<usize>,
        stand_in: impl Fn(&str) -> String,
    ) -> String {
        let first = self.spans.partition_point(|span| span.end <= range.start);
        let mut out = String::new();
        let mut at = range.start;
        for span in &self.spans[first..] {
            if span.start >= range.end {
                break;
            }
            out += text.get(at..span.start).unwrap_or_default();
            out += &stand_in(&text[span.clone()]);
            at = span.end;
        }
        out + text.get(at..range.end).unwrap_or_default()
    }

    /// The place of the byte range `span` of `text`, see [`Position::of`].
    pub(super) fn position(&self, text: &str, span: Range<usize>) -> Position {
        let at = Position::of(text, span.clone());
        let line = line_around(text, span.start);
        let shown = |end: usize| self.without(text, line.start..end, dots);
        let (start, end) = (
            span.start.min(line.end),
            span.end.clamp(line.start, line.end),
        );
        let from = shown(start).chars().count();
        let to = shown(end).trim_end().chars().count();
        let text = shown(line.end);
        Position {
            column: from + 1,
            width: to.saturating_sub(from).max(1),
            text: plain(&text),
            ..at
        }
    }

    /// The same, with line and column of the file. The text is left out where that would not
    /// fit: of a variable only the numbers are shown.
    pub(super) fn place(&self, text: &str, span: Range<usize>) -> Position {
        let at = Position::of(text, span.clone());
        let shown = self.position(text, span);
        match (shown.column, shown.width) == (at.column, at.width) {
            true => shown,
            false => Position {
                text: String::new(),
                ..at
            },
        }
    }
}

/// The values below `value` that are not shown; `kind`: what it may be, if it may be shown.
fn collect(
    value: &Spanned<DeValue<'_>>,
    kind: Option<&'static Kind>,
    spans: &mut Vec<Range<usize>>,
) {
    match value.get_ref() {
        DeValue::Table(table) => {
            for (name, value) in table {
                let below = kind.and_then(|kind| inner(Some(kind), name.get_ref()));
                collect(value, below, spans);
            }
        }
        DeValue::Array(items) => {
            for (n, item) in items.iter().enumerate() {
                // Further words of a command are its arguments.
                if n == 0 || kind != Some(&Kind::Command) || !item.get_ref().is_str() {
                    collect(item, kind, spans);
                }
            }
        }
        DeValue::String(text) if kind.is_some() && !sets_variable(text) => {}
        DeValue::String(_) => spans.push(value.span()),
        _ if kind.is_some() => {}
        _ => spans.push(value.span()),
    }
}

/// What stands for the secret `text` in a line.
fn dots(text: &str) -> String {
    match text.chars().next() {
        Some('#') => format!("# {DOTS}"),
        Some(quote @ ('"' | '\'')) => format!("{quote}{DOTS}{quote}"),
        _ => DOTS.to_owned(),
    }
}

fn plain(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(plain).collect()
}

/// The line at `at` of a file of variables, without the value.
pub(super) fn in_file(at: Position) -> Position {
    let name = at.text.split_once('=').map(|(name, _)| name.trim_end());
    let name = name.filter(|name| {
        let plain = name.strip_prefix("export ").unwrap_or(name);
        valid_name(plain.trim_start()).is_ok()
    });
    let text = name.map_or(DOTS.to_owned(), |name| format!("{name}={DOTS}"));
    Position {
        column: at.column.min(text.chars().count()),
        width: text.chars().count() - (at.column - 1).min(text.chars().count() - 1),
        text,
        ..at
    }
}

/// The line at `at` of `text`, a configuration file that is no TOML.
pub(super) fn in_broken(text: &str, at: Position) -> Position {
    let mut scan = Scan::new();
    let mut lines = text.lines();
    for line in lines.by_ref().take(at.line.saturating_sub(1)) {
        scan.pass(line);
    }
    let shown = plain(&scan.shown(lines.next().unwrap_or_default()));
    let (count, whole) = (shown.chars().count(), shown == at.text);
    let same = shown.chars().zip(at.text.chars());
    let same = same.take_while(|(a, b)| a == b).count();
    let from = at.column - 1;
    let (from, width) = match shown.find(DOTS) {
        _ if whole => (from, at.width),
        _ if from < same => (from, at.width.min(count - from)),
        Some(dots) => (shown[..dots].chars().count(), DOTS.len()),
        None => (0, count),
    };
    Position {
        column: from + 1,
        width: width.max(1),
        text: shown,
        ..at
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    /// What `Config::parse` says of `text`.
    fn said(text: &str) -> (String, String) {
        let error = Config::parse(text, "web.toml").expect_err(text);
        let lines = error.diagnostics.iter().map(|d| d.position.text.clone());
        let lines: Vec<String> = lines.collect();
        let everything = format!("{error}\n{error:?}");
        assert!(!everything.contains("s3c"), "{text}\n{everything}");
        (lines.join("\n"), error.to_string())
    }

    #[test]
    fn no_file_has_its_values_shown() {
        for (text, line) in [
            (
                "environment = {\n  A = \"ok\",\n  B = \"s3c\n}",
                "  B = ...",
            ),
            ("environment = {\n  A = \"ok\",\n  s3c\n}", "..."),
            (
                "[environment]\nA = '''\n[\n s3c\n]'''\nB = \"s3c",
                "B = ...",
            ),
            (
                "[environment]\nA = \"\"\"\n[node]\"\"\"\"\nB = s3c",
                "B = ...",
            ),
            ("[\"environment\"]\nA = \"s3c", "A = ..."),
            (
                "environment = { A = \"x\" B = \"s3c\" }",
                "environment = ...",
            ),
            ("[env]\nA = \"\"\"\na\ns3c\"\"\" x", "..."),
            ("[environment]\nA = \"a\"\nB = s3c", "B = ..."),
            ("[environment]\nKEY = s3c\ns3c/AA==", "..."),
            ("[environment]\nKEY = s3c\nSs3cA==", "..."),
            ("[environment]\nKEY = s3c\ns3c=s3c", "KEY = ..."),
            ("[environment]\nKEY=\"s3c", "KEY = ..."),
            ("[environment]\nA = \"x\" s3c", "A = ..."),
            ("[env", "[env"),
            ("[environment] A = \"s3c\"", "[environment] ..."),
            ("[node]\nA = \"s3c", "A = ..."),
            ("[node]\npreload = treu", "preload = treu"),
            ("A = \"s3c", "A = ..."),
            ("user = \"web\" environment = { A = \"s3c\" }", "user = ..."),
            ("command = \"A=s3c node x", "command = ..."),
            (
                "command = [\"node\", \"a=b\"",
                "command = [\"node\", \"a=b\"",
            ),
            ("user = \"web  # A=s3c", "user = ..."),
            ("user = web  # A = \"s3c\"", "user = web  # ..."),
            ("user = web  # not root", "user = web  # not root"),
            ("health = { http = \"/h\", A = \"s3c }", "health = ..."),
            (
                "health = { http = \"/h\", interval = 5x }",
                "health = { http = \"/h\", interval = 5x }",
            ),
            ("workers 4", "workers ..."),
            // Good TOML.
            ("A = \"s3c\"", "A = \"...\""),
            ("A = 's3c' # s3c", "A = '...' # ..."),
            (
                "enviroment = { A = \"s3c\" } # s3c",
                "enviroment = { A = \"...\" } # ...",
            ),
            ("[env]\nTOKEN = \"s3c\"", "[env]"),
            (
                "[node]\nenvironment = { A = \"s3c\" }",
                "environment = { A = \"...\" }",
            ),
            (
                "node = { preload = 1, A = \"s3c\" }",
                "node = { preload = 1, A = \"...\" }",
            ),
            (
                "[companion]\ncommand = \"x\"\nenvironment = { A = \"s3c\" }",
                "environment = { A = \"...\" }",
            ),
            (
                "health = { http = 7, A = 's3c' }",
                "health = { http = 7, A = '...' }",
            ),
            ("environment = \"A=s3c\"", "environment = \"...\""),
            ("environment = [\"A=s3c\"]", "environment = [\"...\"]"),
            (
                "environment.LISTEN_FDS = \"s3c\"",
                "environment.LISTEN_FDS = \"...\"",
            ),
            ("command = \"A=s3c node x\"", "command = \"...\""),
            ("command = \"A=s3c$x node x\"", "command = \"...\""),
            ("[metrics]\nA = \"s3c\"", "[metrics]"),
            ("worker = 4  # s3c", "worker = ...  # ..."),
            ("workers = 0  # too few", "workers = 0  # too few"),
            ("workers = 0  # A = s3c", "workers = 0  # ..."),
        ] {
            let first = said(&format!("{text}\n")).0;
            let first = first.lines().find(|l| !l.is_empty()).unwrap_or_default();
            assert_eq!(first, line, "{text}");
        }
        let (_, text) = said("command = \"A=s3c node x\"");
        assert!(text.contains("`A=...` sets a variable"), "{text}");
    }

    #[test]
    fn carets_stay_where_they_were() {
        let marks = |text: &str| {
            let said = said(&format!("command = \"x\"\n{text}")).1;
            let mut lines = said.lines().skip(3);
            let text = lines.next().expect("the line").to_owned();
            let carets = lines.next().expect("the carets");
            let at = carets.find('^').expect("a caret");
            let width = carets.matches('^').count();
            text.chars().skip(at).take(width).collect::<String>()
        };
        for (text, marked) in [
            ("environment = { A = \"s3c=1,\", B = 7, C = '' }", "..."),
            ("environment.B = 7", "..."),
            (
                "environment = { A = \"s3c\", LISTEN_FDS = \"\\\"s3c\" }",
                "\"...\"",
            ),
            ("enviroment = { A = \"s3c\" }", "enviroment"),
            ("[environment]\nA = s3c", "..."),
        ] {
            assert_eq!(marks(text), marked, "{text}");
        }
    }

    #[test]
    fn nor_are_lines_of_files_of_variables() {
        let at = in_file(Position::of("export A=s3c", 0..12));
        assert_eq!(at.text, "export A=...");
        assert_eq!(in_file(Position::of("s3c", 0..3)).text, "...");
    }
}
