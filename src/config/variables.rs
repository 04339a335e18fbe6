// SPDX-License-Identifier: MIT OR Apache-2.0
//! `environment` and `environment_files`.

use super::toml_reader::{Problem, Read, Value, all};
use super::values::{expected, string};
use super::{EnvironmentFile, HIDDEN, envfile, launch};
use std::collections::BTreeMap;
use std::path::PathBuf;
use toml::de::DeValue;

/// A table from name to value.
pub(super) fn environment(value: &Value<'_>) -> Read<BTreeMap<String, String>> {
    let Some(table) = value.get_ref().as_table() else {
        return Err(expected(value, "a table, such as { NODE_ENV = \"production\" }").into());
    };
    let pairs = all(table.iter().map(|(name, value)| {
        envfile::valid_name(name.get_ref()).map_err(|why| {
            let meant = envfile::like(name.get_ref());
            Problem::at(value, why).hint(format!("such as {meant}"))
        })?;
        launch::settable(name.get_ref())
            .map_err(|why| Problem::at(value, why).hint(launch::LEAVE_OUT))?;
        let text = string(value, "a string").map_err(|mut problems: Vec<Problem>| {
            let of_one_word = matches!(
                value.get_ref(),
                DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_)
            );
            // Not with the value: nobody is to see it.
            let quoted = format!("put it in quotes: {} = \"...\"", name.get_ref());
            match problems.pop() {
                Some(problem) if of_one_word => problem.hint(quoted).into(),
                other => other.into_iter().collect::<Vec<_>>(),
            }
        })?;
        if text == HIDDEN {
            let name = name.get_ref();
            let why = format!("`{name}` is \"{HIDDEN}\", which is shown in place of a value");
            let hint = "write the value, or make the copy with --show-values";
            return Err(Problem::at(value, why).hint(hint).into());
        }
        Ok((name.get_ref().to_string(), text.to_owned()))
    }))?;
    Ok(pairs.into_iter().collect())
}

/// A path, with `-` before it if the file may be missing.
pub(super) fn environment_file(value: &Value<'_>) -> Read<EnvironmentFile> {
    let text = string(value, "a path")?;
    let (path, optional) = match text.strip_prefix('-') {
        Some(path) => (path, true),
        None => (text, false),
    };
    if path.is_empty() {
        return Err(Problem::at(value, "the path is empty").into());
    }
    Ok(EnvironmentFile {
        path: PathBuf::from(path),
        optional,
    })
}
