// SPDX-License-Identifier: MIT OR Apache-2.0
//! The JSON Schema of a configuration file, made from the table of keys.

use super::keys::{KEYS, Key, Status};
use serde_json::{Map, Value, json};

/// Where the package puts it.
pub const SCHEMA_FILE: &str = "/usr/share/app-cluster/app-cluster.toml.schema.json";

/// JSON Schema (draft 2020-12) of a configuration file: every key that is read, with its
/// default and one line of explanation. None is required: a drop-in has but some.
pub fn schema() -> Value {
    let mut schema = table(KEYS);
    let head = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": concat!(env!("CARGO_PKG_HOMEPAGE"), "/app-cluster.toml.schema.json"),
        "title": "Configuration of an app run by app-cluster, see app-cluster.toml(5)",
    });
    if let (Some(schema), Value::Object(head)) = (schema.as_object_mut(), head) {
        schema.extend(head);
    }
    schema
}

/// The schema of a table with `keys` and no others.
pub(super) fn table(keys: &[Key]) -> Value {
    let read = keys.iter().filter(|key| key.status == Status::Implemented);
    let properties: Map<String, Value> = read
        .map(|key| (key.name.to_owned(), property(key)))
        .collect();
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}

fn property(key: &Key) -> Value {
    let mut schema = key.kind.schema();
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("description".to_owned(), key.summary.into());
        if let Some(default) = key.default_value() {
            schema.insert("default".to_owned(), default);
        }
    }
    schema
}
