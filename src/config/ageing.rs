// SPDX-License-Identifier: MIT OR Apache-2.0
//! `max_memory` and `max_lifetime`: when a worker that runs is replaced.

use super::toml_reader::{Problem, Read, Reader, Value};
use super::values::{duration, string};
use super::{Config, units};
use std::time::Duration;
use toml::de::DeValue;

/// The least that makes sense: a number without a unit is bytes, and meant as mebibytes.
const LEAST_MEMORY: u64 = 1 << 20;
/// A worker should live longer than its replacement needs to start.
const LEAST_LIFETIME: Duration = Duration::from_secs(1);

/// Reads both keys.
pub(super) fn take(file: &mut Reader<'_>, config: &mut Config) {
    file.take("max_memory", &mut config.max_memory, max_memory);
    file.take("max_lifetime", &mut config.max_lifetime, max_lifetime);
}

fn max_memory(value: &Value<'_>) -> Read<Option<u64>> {
    let text = match value.get_ref() {
        DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
        _ => string(value, "a size, such as \"512M\"")?,
    };
    let bytes = units::size(text).map_err(|why| Problem::at(value, why))?;
    if bytes < LEAST_MEMORY {
        let has_unit = text.contains(|c: char| c.is_ascii_alphabetic());
        let (message, hint) = match bytes {
            0 => (
                "no worker runs in 0 bytes".to_owned(),
                "leave `max_memory` out for no limit".to_owned(),
            ),
            _ if has_unit => (
                "a limit below 1M is not possible".to_owned(),
                "write such as \"512M\"".to_owned(),
            ),
            _ => (
                format!("no worker runs in {bytes} bytes"),
                format!("write a unit: \"{bytes}M\""),
            ),
        };
        return Err(Problem::at(value, message).hint(hint).into());
    }
    Ok(Some(bytes))
}

fn max_lifetime(value: &Value<'_>) -> Read<Option<Duration>> {
    let span = duration(value)?;
    if span < LEAST_LIFETIME {
        let problem = Problem::at(value, "a worker lives for 1s at least");
        let hint = "leave `max_lifetime` out for no limit";
        return Err(problem.hint(hint).into());
    }
    Ok(Some(span))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Config, String> {
        let text = format!("command = \"x\"\n{line}\n");
        Config::parse(&text, "web.toml").map_err(|error| error.to_string())
    }

    #[test]
    fn sizes_that_are_too_small() {
        let told = |line: &str| read(line).expect_err(line);
        let small = told("max_memory = \"512KiB\"");
        assert!(
            small.contains("below 1M") && small.contains("such as \"512M\""),
            "{small}"
        );
        assert!(told("max_memory = 512").contains("write a unit: \"512M\""));
    }

    #[test]
    fn limits() {
        let none = read("").unwrap();
        assert_eq!((none.max_memory, none.max_lifetime), (None, None));
        let memory = |text: &str| read(text).unwrap().max_memory;
        assert_eq!(memory("max_memory = \"512M\""), Some(512 << 20));
        assert_eq!(memory("max_memory = 1048576"), Some(1 << 20));
        let span = read("max_lifetime = \"1d\"").unwrap().max_lifetime;
        assert_eq!(span, Some(Duration::from_secs(86_400)));
    }

    #[test]
    fn what_cannot_be_meant() {
        for (line, parts) in [
            ("max_memory = 512", ["512 bytes", "\"512M\""]),
            ("max_memory = 0", ["0 bytes", "for no limit"]),
            ("max_memory = \"50%\"", ["`%`", "K, M, G or T"]),
            ("max_memory = true", ["a size", "true or false"]),
            ("max_lifetime = 0", ["1s at least", "for no limit"]),
            (
                "max_lifetime = \"1 fortnight\"",
                ["fortnight", "unit of time"],
            ),
        ] {
            let why = read(line).unwrap_err();
            assert!(parts.iter().all(|part| why.contains(part)), "{line}: {why}");
        }
    }
}
