// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is wrong with a configuration, where, and what to do about it.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

/// Longest part of a source line that is shown, in characters.
const EXCERPT: usize = 120;

/// Whether a configuration can be used in spite of a [`Diagnostic`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// It cannot be used.
    Error,
    /// It can, but probably does not do what was meant.
    Warning,
}

/// A place in a text, with the line itself so that it can be shown later.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Line number, from 1; 0: the whole file.
    pub line: usize,
    /// Column in characters, from 1; 0: the whole file.
    pub column: usize,
    /// How many characters are meant (at least 1 where `line` is not 0).
    pub width: usize,
    /// The line without its end; tabs and control characters shown as spaces.
    pub text: String,
}

impl Position {
    /// The place of the byte range `span` of `text`. A range outside of the text or
    /// inside of a character is moved to the nearest character, never a panic.
    pub fn of(text: &str, span: Range<usize>) -> Position {
        let start = floor(text, span.start);
        let end = floor(text, span.end.max(span.start));
        let Range {
            start: line_start,
            end: line_end,
        } = line_around(text, start);
        let shown = &text[line_start..line_end];
        let until = end.min(line_end).max(start);
        Position {
            line: text[..start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            width: text[start..until].trim_end().chars().count().max(1),
            text: shown
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect(),
        }
    }
}

/// The line of `text` in which the byte `at` is, without its end.
pub(super) fn line_around(text: &str, at: usize) -> Range<usize> {
    let at = floor(text, at);
    let start = text[..at].rfind('\n').map_or(0, |at| at + 1);
    let end = text[at..].find('\n').map_or(text.len(), |end| at + end);
    start..start + text[start..end].trim_end_matches('\r').len()
}

/// The nearest character boundary at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// One finding. Displayed as compilers do: message, place, line with a caret, hint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// See [`Severity`].
    pub severity: Severity,
    /// The file, or what else the text came from (`command line`).
    pub origin: String,
    /// Where in `origin`; line 0 when it concerns no line.
    #[serde(flatten)]
    pub position: Position,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hint: Option<String>,
}

impl Diagnostic {
    /// Whether the configuration cannot be used because of it.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// An error that concerns `origin` as a whole.
    pub fn file(origin: &str, message: impl Into<String>, hint: Option<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            origin: origin.to_owned(),
            position: Position::default(),
            message: message.into(),
            hint,
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{word}: {}", self.message)?;
        let at = &self.position;
        let gutter = at.line.to_string().len();
        if at.line == 0 {
            write!(f, "\n --> {}", self.origin)?;
        } else {
            // A window around the place: a line can be a megabyte long.
            let skipped = (at.column - 1).saturating_sub(EXCERPT / 2);
            let text: String = at.text.chars().skip(skipped).take(EXCERPT).collect();
            let indent = at.column - 1 - skipped;
            let carets = at.width.min(EXCERPT - indent.min(EXCERPT - 1));
            write!(
                f,
                "\n{:gutter$}--> {}:{}:{}\n{:gutter$} |\n{} | {}\n{:gutter$} | {:indent$}{}",
                "",
                self.origin,
                at.line,
                at.column,
                "",
                at.line,
                text.trim_end(),
                "",
                "",
                "^".repeat(carets.max(1)),
            )?;
        }
        match &self.hint {
            Some(hint) => write!(f, "\n{:gutter$} = help: {hint}", ""),
            None => Ok(()),
        }
    }
}

/// Why a configuration cannot be used: at least one finding, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigError {
    /// Every error found, not only the first.
    pub diagnostics: Vec<Diagnostic>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, diagnostic) in self.diagnostics.iter().enumerate() {
            let gap = if n == 0 { "" } else { "\n\n" };
            write!(f, "{gap}{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl From<Diagnostic> for ConfigError {
    fn from(diagnostic: Diagnostic) -> ConfigError {
        ConfigError {
            diagnostics: vec![diagnostic],
        }
    }
}

/// A place in a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The file.
    pub origin: String,
    /// Where in it.
    pub position: Position,
    /// The value on one line, as it would be written; "" for a table whose entries have
    /// places of their own (`node.preload`), and for the values of variables.
    pub value: String,
}

/// Where a configuration came from, for what is found wrong with it later.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The main file, or `command line`.
    pub origin: String,
    /// Place of the value of each key that was given; of several the one that holds. The
    /// variables of `environment` and the keys of a section have one each, `node.preload`.
    pub places: BTreeMap<String, Place>,
    /// Variables that have the name of a key, and stand under a line `[environment]`.
    pub like_keys: BTreeSet<String>,
}

impl Source {
    /// Whether `key` was given a value anywhere.
    pub fn gives(&self, key: &str) -> bool {
        self.places.contains_key(key)
    }

    /// The file in which the value of `key` stands, if it is not the main file.
    pub fn drop_in(&self, key: &str) -> Option<&str> {
        let place = self.places.get(key)?;
        (place.origin != self.origin).then_some(place.origin.as_str())
    }

    /// A finding about the value of `key`.
    pub fn diagnostic(
        &self,
        severity: Severity,
        key: &str,
        message: impl Into<String>,
        hint: Option<String>,
    ) -> Diagnostic {
        let place = self.places.get(key);
        let origin = place.map_or(&self.origin, |place| &place.origin);
        Diagnostic {
            severity,
            position: place.map(|p| p.position.clone()).unwrap_or_default(),
            ..Diagnostic::file(origin, message, hint)
        }
    }
}
