// SPDX-License-Identifier: MIT OR Apache-2.0
//! A TOML table whose values know where they stand, so that each error can show its line.

use super::diagnostic::{ConfigError, Diagnostic, Place, Severity, Source};
use super::hide::Secrets;
use super::keys::Key;
use super::kind::Kind;
use super::show::written;
use super::{keys, syntax};
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

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

    /// The section `section` has no key called `name`.
    pub(super) fn unknown_key(section: &str, name: &Spanned<DeString<'_>>) -> Problem {
        let shown: String = name.get_ref().chars().take(64).collect();
        Problem {
            span: name.span(),
            message: format!("unknown key `{section}.{}`", shown.escape_debug()),
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

/// What is known of the files read so far: where each value stands, and what is wrong.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Where the values taken so far stand.
    pub(super) source: Source,
    diagnostics: Vec<Diagnostic>,
}

impl Findings {
    /// Adds an error about the value of `key`, taken before.
    pub(super) fn error_at(&mut self, key: &str, message: String, hint: Option<String>) {
        let found = self.source.diagnostic(Severity::Error, key, message, hint);
        self.diagnostics.push(found);
    }

    /// Adds what another way of reading found.
    pub(super) fn extend(&mut self, error: ConfigError) {
        self.diagnostics.extend(error.diagnostics);
    }

    /// `value` if nothing was wrong.
    ///
    /// # Errors
    /// Everything that was (or the first hundred of a file), in the order of the main
    /// file, then of the others.
    pub(super) fn finish<T>(mut self, value: impl FnOnce(Source) -> T) -> Result<T, ConfigError> {
        if self.diagnostics.is_empty() {
            return Ok(value(self.source));
        }
        let main = self.source.origin;
        self.diagnostics.sort_by_key(|found| {
            let other = (found.origin != main).then(|| found.origin.clone());
            (other, found.position.line, found.position.column)
        });
        Err(ConfigError {
            diagnostics: self.diagnostics,
        })
    }
}

/// What is wrong, and what to do about it if `message` says that too.
fn remedy(message: String) -> (String, Option<String>) {
    let words = [" write ", " use ", " name them", " such as "];
    let places = words.iter().filter_map(|word| message.find(word));
    let split = places
        .filter(|at| message[..*at].ends_with([',', ':', ';']))
        .min();
    match split {
        Some(at) if !message.starts_with("expected") => {
            let told = message[at + 1..].to_owned();
            (message[..at - 1].to_owned(), Some(told))
        }
        _ => (message, None),
    }
}

/// What to do about a key below a section.
pub(super) const ABOVE: &str = "move it above the first line that begins with `[`";

/// Whether what `section` says of `name` is surely meant for the key of the app of that name.
/// Any string can be a variable.
fn belongs_above(section: &Key, name: &str, value: &DeValue<'_>) -> bool {
    let Some(key) = keys::implemented(name) else {
        return false;
    };
    match section.kind {
        Kind::Variables => !value.is_str(),
        _ if section.kind.has(name) => false,
        // A listener may be called `health`.
        _ => !section.kind.takes_names() || key.kind.may_be(value),
    }
}

/// A file's table being read: takes values out and collects what is wrong.
pub(super) struct Reader<'t> {
    text: &'t str,
    origin: &'t str,
    table: DeTable<'t>,
    secrets: Secrets,
    errors: usize,
    findings: &'t mut Findings,
}

impl<'t> Reader<'t> {
    /// Parses `text` of the file `origin`.
    ///
    /// # Errors
    /// The first error in the syntax; what follows it is mostly its consequence.
    pub(super) fn new(
        text: &'t str,
        origin: &'t str,
        findings: &'t mut Findings,
    ) -> Result<Reader<'t>, ConfigError> {
        match DeTable::parse(text) {
            Ok(table) => Ok(Reader {
                text,
                origin,
                secrets: Secrets::of(text, table.get_ref()),
                table: table.into_inner(),
                errors: 0,
                findings,
            }),
            Err(error) => Err(syntax::broken(text, origin, &error).into()),
        }
    }

    /// Whether no further error is taken; finding the line of each takes time.
    pub(super) fn full(&self) -> bool {
        self.errors >= MOST
    }

    /// Adds an error at `span`, unless there are too many. Values of variables in the line are
    /// not shown.
    pub(super) fn error(&mut self, span: Range<usize>, message: String, hint: Option<String>) {
        if self.full() {
            return;
        }
        self.errors += 1;
        self.findings.diagnostics.push(Diagnostic {
            position: self.secrets.position(self.text, span),
            ..Diagnostic::file(self.origin, message, hint)
        });
    }

    /// Takes `key` and replaces `target` by what `read` makes of it. Leaves `target`
    /// alone if the key is missing or wrong.
    pub(super) fn take<T>(
        &mut self,
        key: &str,
        target: &mut T,
        read: impl FnOnce(&Value<'t>) -> Read<T>,
    ) {
        let Some((name, mut value)) = self.table.remove_entry(key) else {
            return;
        };
        let known = keys::find(key);
        if known.is_some_and(|known| self.misplaced(known, name.span().start, &mut value)) {
            return;
        }
        self.note_places(key, &value);
        match read(&value) {
            Ok(value) => *target = value,
            Err(problems) => {
                for Problem {
                    span,
                    message,
                    hint,
                } in problems
                {
                    let (message, told) = remedy(message);
                    let example = || known.map(|key| format!("such as {}", key.example()));
                    let hint = hint.or(told).or_else(example);
                    self.error(span, message, hint);
                }
            }
        }
    }

    /// Takes the keys of the app out of the section `key`, whose name is at `start`: they were
    /// meant to stand above it. Whether nothing else is left of it.
    fn misplaced(&mut self, key: &'static Key, start: usize, value: &mut Value<'t>) -> bool {
        let header = self.text[..start].trim_end().ends_with('[');
        let DeValue::Table(table) = value.get_mut() else {
            return false;
        };
        let wrong = |name: &str, value: &DeValue<'_>| header && belongs_above(key, name, value);
        let found: Vec<(String, Range<usize>)> = table
            .iter()
            .filter(|(name, value)| wrong(name.get_ref(), value.get_ref()))
            .map(|(name, _)| (name.get_ref().to_string(), name.span()))
            .collect();
        for (name, _) in &found {
            table.remove(name.as_str());
        }
        let nothing_left = table.is_empty() && !found.is_empty();
        if header && key.kind == Kind::Variables {
            let names = table.keys().map(|name| name.get_ref().to_string());
            let names = names.filter(|name| keys::implemented(name).is_some());
            self.findings.source.like_keys.extend(names);
        }
        for (name, span) in found {
            let message = format!(
                "`{name}` is a key of the app, and stands under `[{}]`",
                key.name
            );
            let hint = Some(ABOVE.to_owned());
            self.error(span, message, hint);
        }
        nothing_left
    }

    fn note_places(&mut self, key: &str, value: &Value<'t>) {
        let kind = keys::find(key).map(|key| key.kind);
        let secret = kind == Some(Kind::Variables);
        let place = |value: &Value<'t>, written| Place {
            origin: self.origin.to_owned(),
            position: self.secrets.place(self.text, value.span()),
            value: written,
        };
        let entries = match kind {
            Some(Kind::Variables | Kind::Section(_)) => value.get_ref().as_table(),
            _ => None,
        };
        let own = match entries {
            None if !secret => written(value.get_ref()),
            _ => String::new(),
        };
        let places = &mut self.findings.source.places;
        places.insert(key.to_owned(), place(value, own));
        for (name, value) in entries.into_iter().flatten() {
            let text = match secret {
                true => String::new(),
                false => written(value.get_ref()),
            };
            places.insert(format!("{key}.{}", name.get_ref()), place(value, text));
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
}
