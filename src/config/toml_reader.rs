// SPDX-License-Identifier: MIT OR Apache-2.0
//! A TOML table whose values know where they stand, so that each error can show its line.

use super::diagnostic::{ConfigError, Diagnostic, Position, Severity, Source};
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Most errors shown of one file: who made that many took the wrong file.
const MOST: usize = 100;

/// A value and its place in the text.
pub(super) type Value<'t> = Spanned<DeValue<'t>>;

/// One thing that is wrong at a place of the text.
#[derive(Debug)]
pub(super) struct Problem {
    span: Range<usize>,
    message: String,
    hint: Option<String>,
}

impl Problem {
    /// `message` about `value`.
    pub(super) fn at(value: &Value<'_>, message: impl Into<String>) -> Problem {
        Problem {
            span: value.span(),
            message: message.into(),
            hint: None,
        }
    }

    /// With `hint`, what to do about it.
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Problem {
        self.hint = Some(hint.into());
        self
    }
}

impl From<Problem> for Vec<Problem> {
    fn from(problem: Problem) -> Vec<Problem> {
        vec![problem]
    }
}

/// The value of a key, or everything that is wrong with it.
pub(super) type Read<T> = Result<T, Vec<Problem>>;

/// All of `results`, or everything that is wrong with any.
pub(super) fn all<T>(results: impl Iterator<Item = Read<T>>) -> Read<Vec<T>> {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(value) => good.push(value),
            Err(problems) => bad.extend(problems),
        }
    }
    if bad.is_empty() { Ok(good) } else { Err(bad) }
}

/// A file's table being read: takes values out and collects what is wrong.
pub(super) struct Reader<'t> {
    text: &'t str,
    table: DeTable<'t>,
    diagnostics: Vec<Diagnostic>,
    /// Where the values taken so far stand.
    pub(super) source: Source,
}

impl<'t> Reader<'t> {
    /// Parses `text`.
    ///
    /// # Errors
    /// The first error in the syntax; what follows it is mostly its consequence.
    pub(super) fn new(text: &'t str, origin: &str) -> Result<Reader<'t>, ConfigError> {
        let source = Source {
            origin: origin.to_owned(),
            ..Source::default()
        };
        match DeTable::parse(text) {
            Ok(table) => Ok(Reader {
                text,
                table: table.into_inner(),
                diagnostics: Vec::new(),
                source,
            }),
            Err(error) => Err(Diagnostic {
                position: Position::of(text, error.span().unwrap_or(0..0)),
                ..Diagnostic::file(origin, error.message().replace('\n', ": "), None)
            }
            .into()),
        }
    }

    /// Whether no further error is taken; finding the line of each takes time.
    pub(super) fn full(&self) -> bool {
        self.diagnostics.len() >= MOST
    }

    /// Adds an error at `span`, unless there are too many.
    pub(super) fn error(&mut self, span: Range<usize>, message: String, hint: Option<String>) {
        if self.full() {
            return;
        }
        self.diagnostics.push(Diagnostic {
            position: Position::of(self.text, span),
            ..Diagnostic::file(&self.source.origin, message, hint)
        });
    }

    /// Adds an error about the value of `key`, taken before.
    pub(super) fn error_at(&mut self, key: &str, message: String, hint: Option<String>) {
        let found = self.source.diagnostic(Severity::Error, key, message, hint);
        self.diagnostics.push(found);
    }

    /// Takes `key` and replaces `target` by what `read` makes of it. Leaves `target`
    /// alone if the key is missing or wrong.
    pub(super) fn take<T>(
        &mut self,
        key: &str,
        target: &mut T,
        read: impl FnOnce(&Value<'t>) -> Read<T>,
    ) {
        let Some(value) = self.table.remove(key) else {
            return;
        };
        let position = Position::of(self.text, value.span());
        self.source.positions.insert(key.to_owned(), position);
        match read(&value) {
            Ok(value) => *target = value,
            Err(problems) => {
                for problem in problems {
                    self.error(problem.span, problem.message, problem.hint);
                }
            }
        }
    }

    /// Names and places of the keys that nobody took.
    pub(super) fn left(&self) -> Vec<(String, Range<usize>, DeValue<'t>)> {
        self.table
            .iter()
            .map(|(key, value)| {
                (
                    key.get_ref().to_string(),
                    key.span(),
                    value.get_ref().clone(),
                )
            })
            .collect()
    }

    /// `value` if nothing was wrong.
    ///
    /// # Errors
    /// Everything that was (or the first hundred), in the order of the file.
    pub(super) fn finish<T>(mut self, value: impl FnOnce(Source) -> T) -> Result<T, ConfigError> {
        if self.diagnostics.is_empty() {
            return Ok(value(self.source));
        }
        self.diagnostics
            .sort_by_key(|found| (found.position.line, found.position.column));
        Err(ConfigError {
            diagnostics: self.diagnostics,
        })
    }
}
