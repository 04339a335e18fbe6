// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading single TOML values: the kinds that several keys share.

use super::toml_reader::{Problem, Read, Value, all};
use super::{keys, units};
use std::time::Duration;
use toml::de::DeValue;

/// The error that `value` is of the wrong kind.
pub(super) fn expected(value: &Value<'_>, what: &str) -> Problem {
    Problem::at(
        value,
        format!("expected {what}, found {}", kind(value.get_ref())),
    )
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// A string without NUL, which nothing handed to execve(2) can have.
pub(super) fn string<'v>(value: &'v Value<'_>, what: &str) -> Read<&'v str> {
    let Some(text) = value.get_ref().as_str() else {
        return Err(expected(value, what).into());
    };
    if text.contains('\0') {
        return Err(Problem::at(value, "a NUL character cannot be used here").into());
    }
    Ok(text)
}

pub(super) fn boolean(value: &Value<'_>) -> Read<bool> {
    let found = value.get_ref().as_bool();
    found.ok_or_else(|| expected(value, "true or false").into())
}

/// An integer in `least..=most`.
pub(super) fn integer<T: TryFrom<i64>>(value: &Value<'_>, least: u32, most: u32) -> Read<T> {
    let Some(found) = value.get_ref().as_integer() else {
        return Err(expected(value, "an integer").into());
    };
    i64::from_str_radix(found.as_str(), found.radix())
        .ok()
        .filter(|n| (i64::from(least)..=i64::from(most)).contains(n))
        .and_then(|n| T::try_from(n).ok())
        .ok_or_else(|| Problem::at(value, format!("expected {least} to {most}")).into())
}

/// An array, each item read by `item`; `example` is one.
pub(super) fn list<'t, T>(
    value: &Value<'t>,
    example: &str,
    item: impl FnMut(&Value<'t>) -> Read<T>,
) -> Read<Vec<T>> {
    match value.get_ref().as_array() {
        Some(items) => all(items.iter().map(item)),
        None => Err(expected(value, &format!("an array, such as {example}")).into()),
    }
}

/// One of the words of `known`; those of `later` are refused as not yet there.
pub(super) fn choice<T: Copy>(value: &Value<'_>, known: &[(&str, T)], later: &[&str]) -> Read<T> {
    let words: Vec<String> = known.iter().map(|(w, _)| format!("\"{w}\"")).collect();
    let one_of = format!("one of {}", words.join(", "));
    let text = string(value, &one_of)?;
    if let Some((_, found)) = known.iter().find(|(word, _)| *word == text) {
        return Ok(*found);
    }
    if later.contains(&text) {
        let problem = Problem::at(value, format!("{text:?} is not yet supported"));
        return Err(problem.hint(format!("meanwhile: {one_of}")).into());
    }
    let problem = Problem::at(value, format!("expected {one_of}"));
    Err(match keys::closest(text, known.iter().map(|(w, _)| *w)) {
        Some(meant) => problem.hint(format!("did you mean \"{meant}\"?")).into(),
        None => problem.into(),
    })
}

pub(super) fn duration(value: &Value<'_>) -> Read<Duration> {
    let text = match value.get_ref() {
        DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
        DeValue::Float(number) => number.as_str(),
        _ => string(value, "a duration, such as \"30s\" or \"1min 30s\"")?,
    };
    units::duration(text).map_err(|why| Problem::at(value, why).into())
}

/// A user or a group, by name or number.
pub(super) fn account(value: &Value<'_>) -> Read<Option<String>> {
    let text = match value.get_ref() {
        DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
        _ => string(value, "a name, such as \"www-data\"")?,
    };
    units::valid_account(text).map_err(|why| Problem::at(value, why))?;
    Ok(Some(text.to_owned()))
}

/// Permissions of a socket file.
pub(super) fn mode(value: &Value<'_>) -> Read<Option<u32>> {
    let (text, radix) = match value.get_ref() {
        DeValue::Integer(number) => (number.as_str(), number.radix()),
        _ => (string(value, "permissions, such as \"0660\"")?, 8),
    };
    let read = (radix == 8)
        .then(|| u32::from_str_radix(text, 8).ok())
        .flatten();
    match read.filter(|mode| *mode <= 0o777) {
        Some(mode) => Ok(Some(mode)),
        None => Err(Problem::at(value, "expected permissions in octal").into()),
    }
}
