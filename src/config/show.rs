// SPDX-License-Identifier: MIT OR Apache-2.0
//! The effective configuration, key by key, with where each value comes from; and files
//! without the values of variables.

use super::diagnostic::Place;
use super::hide::Secrets;
use super::keys::{KEYS, Key, Status, json_value};
use super::kind::Kind;
use super::scan::DOTS;
use super::words::toml_string;
use super::{Config, ConfigError, syntax};
use serde_json::{Value, json};
use std::fmt::Write;
use toml::de::{DeTable, DeValue};

/// Stands for the value of a variable.
pub const HIDDEN: &str = "(hidden)";

/// One key of a configuration, with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// `workers`, `environment.NODE_ENV`, `node.preload`.
    pub key: String,
    /// As it would be written in a file; `None`: it is not set, and has no default.
    pub value: Option<String>,
    /// File, line and column of the value; `None`: it is the default.
    pub place: Option<(String, usize, usize)>,
}

impl Shown {
    fn new(key: String, value: &str, place: Option<&Place>) -> Shown {
        Shown {
            key,
            value: (!value.is_empty()).then(|| value.to_owned()),
            place: place.map(|place| {
                let at = &place.position;
                (place.origin.clone(), at.line, at.column)
            }),
        }
    }

    /// `FILE:LINE`, or `default`.
    pub fn origin(&self) -> String {
        match &self.place {
            Some((file, line, _)) => format!("{file}:{line}"),
            None => "default".to_owned(),
        }
    }

    /// A line of a configuration file that says the same; a comment if nothing is set.
    pub fn line(&self) -> String {
        match &self.value {
            Some(value) => format!("{} = {value}", self.key),
            None => format!("# {}: not set", self.key),
        }
    }

    /// As JSON: `value`, and `file`, `line` and `column`, which are null for a default.
    pub fn json(&self) -> Value {
        let place = self.place.as_ref();
        json!({
            "value": self.value.as_deref().and_then(json_value),
            "file": place.map(|(file, ..)| file),
            "line": place.map(|(_, line, _)| line),
            "column": place.map(|(.., column)| column),
        })
    }
}

impl Config {
    /// Every key that is read, in the order of app-cluster.toml(5). Values of variables are
    /// [`HIDDEN`] unless `values` says otherwise.
    pub fn shown(&self, values: bool) -> Vec<Shown> {
        let read = KEYS.iter().filter(|key| key.status == Status::Implemented);
        read.flat_map(|key| match key.kind {
            Kind::Variables if !self.environment.is_empty() => self.variables(key.name, values),
            Kind::Section(keys) => {
                let of = |inner: &Key| self.one(inner, format!("{}.{}", key.name, inner.name));
                keys.iter().map(of).collect()
            }
            _ => vec![self.one(key, key.name.to_owned())],
        })
        .collect()
    }

    /// The value of `key` as it would be written; `not set` where there is none.
    pub fn written(&self, key: &str) -> String {
        let mut all = self.shown(false).into_iter();
        let found = all.find(|shown| shown.key == key);
        let value = found.and_then(|shown| shown.value);
        value.unwrap_or_else(|| "not set".to_owned())
    }

    fn one(&self, key: &Key, name: String) -> Shown {
        let place = self.source.places.get(&name);
        let value = place.map_or(key.default, |place| place.value.as_str());
        Shown::new(name, value, place)
    }

    fn variables(&self, key: &str, values: bool) -> Vec<Shown> {
        let of = |(name, value): (&String, &String)| {
            let key = format!("{key}.{name}");
            let place = self.source.places.get(&key);
            let value = match values {
                true => toml_string(value),
                false => toml_string(HIDDEN),
            };
            Shown::new(key, &value, place)
        };
        self.environment.iter().map(of).collect()
    }
}

/// `value` on one line, as it would be written in a file.
pub(super) fn written(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => one_line(text),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(when) => when.to_string(),
        DeValue::Array(items) => {
            let items: Vec<String> = items.iter().map(|v| written(v.get_ref())).collect();
            format!("[{}]", items.join(", "))
        }
        DeValue::Table(table) => {
            let mut entries: Vec<_> = table.iter().collect();
            entries.sort_by_key(|(name, _)| name.span().start);
            let entries: Vec<String> = entries
                .into_iter()
                .map(|(name, value)| {
                    format!(
                        "{} = {}",
                        key_text(name.get_ref()),
                        written(value.get_ref())
                    )
                })
                .collect();
            match entries.is_empty() {
                true => "{}".to_owned(),
                false => format!("{{ {} }}", entries.join(", ")),
            }
        }
    }
}

fn key_text(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    match !name.is_empty() && name.chars().all(bare) {
        true => name.to_owned(),
        false => one_line(name),
    }
}

/// A basic string: on one line, whatever is in it.
fn one_line(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out += "\\n",
            '\t' => out += "\\t",
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out + "\""
}

/// `text`, a configuration file called `origin`, with [`HIDDEN`] in place of each value of a
/// variable, of what is no key, and `# ...` for comments on such.
///
/// # Errors
/// It is no TOML, so that nobody can say where these are.
pub fn without_values(text: &str, origin: &str) -> Result<String, ConfigError> {
    let table = DeTable::parse(text)
        .map_err(|error| ConfigError::from(syntax::broken(text, origin, &error)))?;
    let secrets = Secrets::of(text, table.get_ref());
    let hidden = |secret: &str| match secret.starts_with('#') {
        true => format!("# {DOTS}"),
        false => toml_string(HIDDEN),
    };
    Ok(secrets.without(text, 0..text.len(), hidden))
}
