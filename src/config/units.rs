// SPDX-License-Identifier: MIT OR Apache-2.0
//! Durations, signals and application names as people write them.

use nix::sys::signal::Signal;
use std::str::FromStr;
use std::time::Duration;

/// The longest duration taken: far from any overflow of a clock.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// Nanoseconds of each unit of systemd.time(7) that makes sense for a server;
/// months and years do not.
const UNITS: &[(&str, u64)] = &[
    ("us", 1_000),
    ("usec", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("msec", 1_000_000),
    ("", 1_000_000_000),
    ("s", 1_000_000_000),
    ("sec", 1_000_000_000),
    ("second", 1_000_000_000),
    ("seconds", 1_000_000_000),
    ("m", 60_000_000_000),
    ("min", 60_000_000_000),
    ("minute", 60_000_000_000),
    ("minutes", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("hr", 3_600_000_000_000),
    ("hour", 3_600_000_000_000),
    ("hours", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
    ("day", 86_400_000_000_000),
    ("days", 86_400_000_000_000),
    ("w", 604_800_000_000_000),
    ("week", 604_800_000_000_000),
    ("weeks", 604_800_000_000_000),
];

/// A time span of systemd.time(7): numbers with units that add up (`1min 30s`,
/// `1.5s`); a number alone is seconds. At most 365 days.
///
/// # Errors
/// A sentence that says what is wrong with `text`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err("a duration is missing, such as \"30s\"".into());
    }
    if rest == "infinity" {
        return Err("a duration must end: write a long one, such as \"1d\"".into());
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(end);
        let tail = tail.trim_start();
        let end = tail
            .find(|c: char| !c.is_alphabetic())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let Some(&(_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!(
                "`{unit}` is no unit of time: use us, ms, s, min, h, d or w"
            ));
        };
        total = scaled(number, scale)
            .and_then(|n| total.checked_add(n))
            .ok_or_else(|| format!("`{text}` is no duration, such as \"30s\" or \"1min 30s\""))?;
        rest = tail.trim_start();
    }
    match u64::try_from(total).map(Duration::from_nanos) {
        Ok(sum) if sum <= LONGEST => Ok(sum),
        _ => Err("a duration is at most 365 days".into()),
    }
}

/// `number` (digits with at most one point) times `scale`, rounded down.
fn scaled(number: &str, scale: u64) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || (number.contains('.') && fraction.is_empty()) {
        return None;
    }
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let scale = u128::from(scale);
    // More digits than that change nothing.
    let digits = &fraction[..fraction.len().min(18)];
    let tens = 10_u128.pow(digits.len() as u32);
    let part = digits.parse::<u128>().unwrap_or(0) * scale / tens;
    let sum = u128::from(whole.parse::<u64>().ok()?) * scale + part;
    Some(sum)
}

/// `span` in the shortest exact form that [`duration`] reads: `30s`, `1min 30s`, `100ms`.
pub fn show(span: Duration) -> String {
    let mut rest = span.as_micros();
    let mut parts = Vec::new();
    for (unit, size) in [
        ("d", 86_400_000_000),
        ("h", 3_600_000_000),
        ("min", 60_000_000),
        ("s", 1_000_000),
        ("ms", 1_000),
        ("us", 1),
    ] {
        if rest >= size {
            parts.push(format!("{}{unit}", rest / size));
            rest %= size;
        }
    }
    if parts.is_empty() {
        "0".to_owned()
    } else {
        parts.join(" ")
    }
}

/// Bytes of each unit of systemd.resource-control(5), and of those that people write for them.
const SIZES: &[(&str, u64)] = &[
    ("", 1),
    ("B", 1),
    ("K", 1 << 10),
    ("KB", 1 << 10),
    ("KiB", 1 << 10),
    ("M", 1 << 20),
    ("MB", 1 << 20),
    ("MiB", 1 << 20),
    ("G", 1 << 30),
    ("GB", 1 << 30),
    ("GiB", 1 << 30),
    ("T", 1 << 40),
    ("TB", 1 << 40),
    ("TiB", 1 << 40),
];

/// A size as systemd writes it, a number with a unit to the base of 1024 (`512M`, `1.5G`); a
/// number alone is bytes. At most 2^60.
///
/// # Errors
/// A sentence that says what is wrong with `text`.
pub fn size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let unit = unit.trim_start();
    let known = SIZES
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit));
    let Some((_, scale)) = known else {
        return Err(format!("`{unit}` is no unit of size: use K, M, G or T"));
    };
    let bytes = scaled(number, *scale).filter(|bytes| *bytes <= 1 << 60);
    let bytes = bytes.and_then(|bytes| u64::try_from(bytes).ok());
    bytes.ok_or_else(|| format!("`{text}` is no size, such as \"512M\" or \"1.5G\""))
}

/// `bytes` in the shortest exact form that [`size`] reads: `512M`, `1536K`.
pub fn show_size(bytes: u64) -> String {
    let units = [("T", 40), ("G", 30), ("M", 20), ("K", 10)];
    let whole = units
        .iter()
        .find(|(_, bits)| bytes > 0 && bytes.is_multiple_of(1 << bits));
    match whole {
        Some((unit, bits)) => format!("{}{unit}", bytes >> bits),
        None => bytes.to_string(),
    }
}

/// The number of a signal given as `SIGTERM`, `TERM` or `15` (signal(7); no
/// real-time signals).
///
/// # Errors
/// A sentence that says what is wrong with `text`.
pub fn signal(text: &str) -> Result<i32, String> {
    let name = text.trim().to_ascii_uppercase();
    let found = match name.parse::<i32>() {
        Ok(number) => Signal::try_from(number),
        Err(_) if name.starts_with("SIG") => Signal::from_str(&name),
        Err(_) => Signal::from_str(&format!("SIG{name}")),
    };
    found
        .map(|signal| signal as i32)
        .map_err(|_| format!("`{text}` is no signal, such as \"SIGTERM\", \"INT\" or 15"))
}

/// Checks the name of an app: it is part of unit names, paths and D-Bus names.
/// `[A-Za-z0-9_.-]`, 1 to 64 characters, not starting with `.` or `-`; and not ending like
/// what lies beside an app's own directory in /run/app-cluster: `NAME.sock`, `NAME.toml.d`.
///
/// # Errors
/// A sentence that says what is wrong with `name`.
pub fn valid_name(name: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if name.is_empty() {
        Err("the name of an app cannot be empty".into())
    } else if name.len() > 64 {
        Err(format!(
            "the name of an app has at most 64 characters, this one has {}",
            name.chars().count()
        ))
    } else if name.starts_with(['.', '-']) {
        Err(format!(
            "the name of an app cannot start with `.` or `-`: `{name}`"
        ))
    } else if let Some(end) = [".toml", ".d", ".sock"]
        .iter()
        .find(|e| name.ends_with(**e))
    {
        Err(format!(
            "the name of an app cannot end in `{end}`, as the files of an app do: `{name}`"
        ))
    } else if let Some(bad) = name.chars().find(|&c| !fits(c)) {
        Err(format!(
            "the name of an app consists of letters, digits, `_`, `.` and `-`, not {bad:?}: {name:?}"
        ))
    } else {
        Ok(())
    }
}

/// Checks the name or number of a user or a group, more strictly than systemd.exec(5)
/// does: it becomes part of a unit file.
///
/// # Errors
/// A sentence that says what is wrong with `account`.
pub fn valid_account(account: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let number = account.bytes().all(|b| b.is_ascii_digit());
    if account.is_empty() || account.len() > 32 || !account.chars().all(fits) {
        Err(format!("{account:?} is no name of a user or a group"))
    } else if account.starts_with(['-', '.']) {
        Err(format!(
            "no user or group has a name that begins like {account:?}"
        ))
    } else if number && account.parse::<u32>().is_ok_and(|id| id < u32::MAX) {
        Ok(())
    } else if account.starts_with(|c: char| c.is_ascii_digit()) {
        Err(format!(
            "{account:?} is no name, which cannot begin with a digit, and no id"
        ))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("30s", 30_000),
            ("1min 30s", 90_000),
            ("1min30s", 90_000),
            ("500ms", 500),
            ("2h", 7_200_000),
            (" 5 ", 5_000),
            ("1.5s", 1_500),
            ("0", 0),
            ("2 min 200ms", 120_200),
            ("1h 1", 3_601_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "s",
            "1.s",
            ".5s",
            "1..5s",
            "5 parsecs",
            "-1s",
            "1e3",
            "400d",
            "infinity",
            "99999999999999999999s",
            "30s,",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn shown_durations_read_back() {
        for (millis, text) in [
            (0, "0"),
            (100, "100ms"),
            (90_000, "1min 30s"),
            (86_400_000, "1d"),
        ] {
            let span = Duration::from_millis(millis);
            assert_eq!(show(span), text);
            assert_eq!(duration(text), Ok(span));
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes, shown) in [
            ("512M", 512 << 20, "512M"),
            ("512 MiB", 512 << 20, "512M"),
            ("1.5G", 1536 << 20, "1536M"),
            ("2g", 2 << 30, "2G"),
            ("1048577", (1 << 20) + 1, "1048577"),
            ("0", 0, "0"),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
            assert_eq!(show_size(bytes), shown);
            assert_eq!(size(shown), Ok(bytes));
        }
        for text in [
            "",
            "M",
            "5 parsecs",
            "-1M",
            "1..5G",
            "50%",
            "9999999T",
            "infinity",
        ] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn signals() {
        for text in ["SIGTERM", "TERM", "term", "15"] {
            assert_eq!(signal(text), Ok(15), "{text}");
        }
        for text in ["", "SIG", "0", "64", "-9", "SIGNOPE"] {
            assert!(signal(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names() {
        for name in [
            "web",
            "app-cluster",
            "a.b_c-1",
            "toml",
            "x.sock.1",
            &"x".repeat(64),
        ] {
            assert_eq!(valid_name(name), Ok(()));
        }
        for name in [
            "",
            ".",
            "-x",
            "..",
            "a/b",
            "a b",
            "ä",
            "a\n",
            "a@b",
            "shop.toml",
            "shop.toml.d",
            "shop.sock",
            &"x".repeat(65),
        ] {
            assert!(valid_name(name).is_err(), "{name:?}");
        }
    }
}
