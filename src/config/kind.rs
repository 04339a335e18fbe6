// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the value of a key may be, as data: the JSON Schema is made from it, and tests hold
//! it against what is really read.

use super::keys::Key;
use serde_json::{Value, json};
use toml::de::DeValue;

/// A duration, as a regular expression (ECMA-262): numbers with units, or without one, which
/// is in seconds.
const SPANS: &str = r"^\s*([0-9]+(\.[0-9]+)?(\s*(us|usec|µs|μs|ms|msec|s|sec|seconds?|m|min|minutes?|h|hr|hours?|d|days?|w|weeks?)\s*|\s+|$))+$";
/// A size.
const SIZE: &str = r"^\s*[0-9]+(\.[0-9]+)?\s*([KMGTkmgt][Ii]?)?[Bb]?\s*$";
/// Names of environment variables.
const VARIABLE: &str = "^[A-Za-z_][A-Za-z0-9_]*$";

/// What a value may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Not said: no key that is read may have this.
    Unsaid,
    /// `true` or `false`.
    Boolean,
    /// Any string.
    Text,
    /// A string from `/` on.
    Path,
    /// An integer from the first to the second number.
    Integer(u32, u32),
    /// This integer.
    Exactly(i32),
    /// A time span, or a number of seconds.
    Duration,
    /// An amount of memory, or a number of bytes; 1 MiB at least.
    Size,
    /// Permissions, in octal.
    Mode,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A string that a regular expression (ECMA-262) describes, and an example.
    Pattern(&'static str, &'static str),
    /// A program and its arguments.
    Command,
    /// An array of such.
    List(&'static Kind),
    /// A table with any names, and such values.
    Named(&'static Kind),
    /// Environment variables; further files add to them.
    Variables,
    /// A table with these keys, taken as a whole; the first is always there.
    Table(&'static [Key]),
    /// A table with these keys, of which further files change those that they have.
    Section(&'static [Key]),
    /// Any of these.
    Any(&'static [Kind]),
}

impl Kind {
    /// A value of this kind, as it would be written.
    pub fn example(&self) -> String {
        match self {
            Kind::Unsaid | Kind::Text => "\"text\"".to_owned(),
            Kind::Boolean => "true".to_owned(),
            Kind::Path => "\"/srv/web/current\"".to_owned(),
            Kind::Integer(least, _) => least.max(&1).to_string(),
            Kind::Exactly(number) => number.to_string(),
            Kind::Duration => "\"30s\"".to_owned(),
            Kind::Size => "\"512M\"".to_owned(),
            Kind::Mode => "\"0660\"".to_owned(),
            Kind::Word(words) => format!("\"{}\"", words.first().unwrap_or(&"")),
            Kind::Pattern(_, example) => format!("\"{example}\""),
            Kind::Command => "[\"node\", \"server.js\"]".to_owned(),
            Kind::List(item) => format!("[{}]", item.example()),
            Kind::Named(value) => format!("{{ name = {} }}", value.example()),
            Kind::Variables => "{ NODE_ENV = \"production\" }".to_owned(),
            Kind::Table(keys) | Kind::Section(keys) => {
                let keys: Vec<String> = keys.iter().map(Key::example).collect();
                format!("{{ {} }}", keys.join(", "))
            }
            Kind::Any(kinds) => kinds.first().map(Kind::example).unwrap_or_default(),
        }
    }

    /// Whether a value may be a table.
    pub fn takes_table(&self) -> bool {
        match self {
            Kind::Named(_) | Kind::Variables | Kind::Table(_) | Kind::Section(_) => true,
            Kind::Any(kinds) => kinds.iter().any(Kind::takes_table),
            _ => false,
        }
    }

    /// Whether a table of this kind has a key called `name`.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Kind::Table(keys) | Kind::Section(keys) => keys.iter().any(|key| key.name == name),
            Kind::Any(kinds) => kinds.iter().any(|kind| kind.has(name)),
            _ => false,
        }
    }

    /// Whether a table of this kind may have any names.
    pub fn takes_names(&self) -> bool {
        match self {
            Kind::Named(_) | Kind::Variables => true,
            Kind::Any(kinds) => kinds.iter().any(Kind::takes_names),
            _ => false,
        }
    }

    /// Whether `value` is of a type that a value of this kind can have; not what it says.
    pub fn may_be(&self, value: &DeValue<'_>) -> bool {
        let text = value.is_str();
        let number = value.is_integer();
        match self {
            Kind::Unsaid => false,
            Kind::Boolean => value.is_bool(),
            Kind::Text | Kind::Path | Kind::Word(_) | Kind::Pattern(..) => text,
            Kind::Integer(..) | Kind::Exactly(_) => number,
            Kind::Duration => text || number || value.is_float(),
            Kind::Size | Kind::Mode => text || number,
            Kind::Command => text || value.is_array(),
            Kind::List(_) => value.is_array(),
            Kind::Named(_) | Kind::Variables | Kind::Table(_) | Kind::Section(_) => {
                value.is_table()
            }
            Kind::Any(kinds) => kinds.iter().any(|kind| kind.may_be(value)),
        }
    }

    /// As JSON Schema, draft 2020-12.
    pub fn schema(&self) -> Value {
        match self {
            Kind::Unsaid => json!({}),
            Kind::Boolean => json!({ "type": "boolean" }),
            Kind::Text => json!({ "type": "string" }),
            Kind::Path => json!({ "type": "string", "pattern": "^/" }),
            Kind::Integer(least, most) => {
                json!({ "type": "integer", "minimum": least, "maximum": most })
            }
            Kind::Exactly(number) => {
                json!({ "type": "integer", "minimum": number, "maximum": number })
            }
            Kind::Duration => either([
                json!({ "type": "string", "pattern": SPANS, "examples": ["30s", "1min 30s"] }),
                json!({ "type": "number", "minimum": 0 }),
            ]),
            Kind::Size => either([
                json!({ "type": "string", "pattern": SIZE, "examples": ["512M", "2G"] }),
                json!({ "type": "integer", "minimum": 1 << 20 }),
            ]),
            Kind::Mode => either([
                json!({ "type": "string", "pattern": "^0*[0-7]{1,3}$", "examples": ["0660"] }),
                json!({ "type": "integer", "minimum": 0, "maximum": 0o777 }),
            ]),
            Kind::Word(words) => json!({ "type": "string", "enum": words }),
            Kind::Pattern(pattern, example) => {
                json!({ "type": "string", "pattern": pattern, "examples": [example] })
            }
            Kind::Command => either([
                json!({ "type": "string", "pattern": r"\S" }),
                json!({ "type": "array", "items": { "type": "string" }, "minItems": 1 }),
            ]),
            Kind::List(item) => json!({ "type": "array", "items": item.schema() }),
            Kind::Named(value) => {
                json!({ "type": "object", "additionalProperties": value.schema() })
            }
            Kind::Variables => json!({
                "type": "object",
                "propertyNames": { "pattern": VARIABLE },
                "additionalProperties": { "type": "string" },
            }),
            Kind::Section(keys) => super::schema::table(keys),
            Kind::Table(keys) => {
                let mut schema = super::schema::table(keys);
                let first = keys.iter().take(1).map(|key| key.name);
                schema["required"] = first.collect();
                schema
            }
            Kind::Any(kinds) => either(kinds.iter().map(Kind::schema)),
        }
    }
}

fn either(schemas: impl IntoIterator<Item = Value>) -> Value {
    let all: Vec<Value> = schemas.into_iter().collect();
    json!({ "anyOf": all })
}
