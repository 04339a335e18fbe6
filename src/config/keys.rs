// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every key a configuration file can have, as data: unknown keys, defaults, `config show`
//! and the JSON Schema follow from this one table.

use super::health::MOST_FAILURES;
use super::kind::Kind;
use super::{MAX_LINES, MAX_WORKERS};

/// What became of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It is read.
    Implemented,
    /// It is refused; what to do meanwhile ("" if there is nothing).
    NotYet(&'static str),
}

/// One key of the configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// As written in the file.
    pub name: &'static str,
    /// The default as it would be written, or "" where there is none.
    pub default: &'static str,
    /// One line of explanation.
    pub summary: &'static str,
    /// What its value may be.
    pub kind: Kind,
    /// See [`Status`].
    pub status: Status,
}

impl Key {
    const fn is(self, kind: Kind) -> Key {
        Key { kind, ..self }
    }

    /// The default as JSON, if there is one.
    pub fn default_value(&self) -> Option<serde_json::Value> {
        json_value(self.default)
    }

    /// A line of a configuration file with it.
    pub fn example(&self) -> String {
        let value = match self.default {
            "" | "[]" | "{}" => self.kind.example(),
            default => default.to_owned(),
        };
        format!("{} = {value}", self.name)
    }

    /// The keys that the table has which this key stands for, if further files change single
    /// ones of them.
    pub fn section(&self) -> Option<&'static [Key]> {
        match self.kind {
            Kind::Section(keys) => Some(keys),
            _ => None,
        }
    }
}

/// A value written in TOML, as JSON; `None` for "" or what is no value.
pub fn json_value(toml: &str) -> Option<serde_json::Value> {
    if toml.is_empty() {
        return None;
    }
    let mut table: toml::Table = format!("value = {toml}").parse().ok()?;
    serde_json::to_value(table.remove("value")?).ok()
}

const fn key(name: &'static str, default: &'static str, summary: &'static str) -> Key {
    Key {
        name,
        default,
        summary,
        kind: Kind::Unsaid,
        status: Status::Implemented,
    }
}

const fn not_yet(name: &'static str, meanwhile: &'static str, summary: &'static str) -> Key {
    Key {
        name,
        default: "",
        summary,
        kind: Kind::Unsaid,
        status: Status::NotYet(meanwhile),
    }
}

const ACCOUNT: Kind = Kind::Any(&[
    Kind::Pattern("^([0-9]+|[A-Za-z_][A-Za-z0-9_.-]{0,31})$", "www-data"),
    Kind::Integer(0, u32::MAX - 1),
]);
/// A path, or a port up to 65535 with or without an address.
const LISTENS: &str = r"^(unix:/(.*[^/])|(([0-9]{1,3}\.){3}[0-9]{1,3}:|\[[0-9A-Fa-f:.]+(%[0-9]+)?\]:)?0*(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5]?[0-9]{1,4}))$";
const ADDRESS: Kind = Kind::Any(&[
    Kind::Pattern(LISTENS, "127.0.0.1:3000"),
    Kind::Integer(0, 65_535),
]);
const LISTEN: &[Kind] = &[ADDRESS, Kind::List(&ADDRESS), Kind::Named(&ADDRESS)];
const READY: &[Kind] = &[
    Kind::Word(&["auto", "notify", "accepting", "listening", "message"]),
    Kind::Table(&[key("delay", "", "it still runs after this time").is(Kind::Duration)]),
    Kind::Table(&[key("exec", "", "this command exits with 0").is(Kind::Command)]),
];
#[rustfmt::skip]
const NODE: &[Key] = &[
    key("preload", "true", "whether a small file is loaded ahead of the app").is(Kind::Boolean),
    key("strict_ports", "false", "whether other addresses than the app's are refused").is(Kind::Boolean),
];
#[rustfmt::skip]
const EVERY: Key = key("interval", "\"5s\"", "from one question to the next").is(Kind::Duration);
#[rustfmt::skip]
const WITHIN: Key = key("timeout", "\"2s\"", "how long an answer may take").is(Kind::Duration);
#[rustfmt::skip]
const FAILURES: Key = key("failures", "3", "how many bad answers in a row are too many").is(Kind::Integer(1, MOST_FAILURES));
#[rustfmt::skip]
const HEALTH: &[Kind] = &[
    Kind::Table(&[key("http", "", "a Node worker is asked for this path").is(Kind::Pattern("^/[!-~]*$", "/health")), EVERY, WITHIN, FAILURES]),
    Kind::Table(&[key("exec", "", "this command is run").is(Kind::Command), EVERY, WITHIN, FAILURES]),
];
const COMPANION: &[Key] = &[key("command", "", "the program and its arguments").is(Kind::Command)];

/// [`MAX_WORKERS`] at most; -1 is one fewer than there are CPUs.
const WORKERS: &[Kind] = &[
    Kind::Integer(1, MAX_WORKERS),
    Kind::Exactly(-1),
    Kind::Pattern("^(max|-1|0*([1-9][0-9]{0,2}|10[01][0-9]|102[0-4]))$", "max"),
];
/// Not SIGKILL (9) and SIGSTOP (19), which no program can act on.
const SIGNAL: &[Kind] = &[
    Kind::Pattern(
        r"^(?!([Ss][Ii][Gg])?([Kk][Ii][Ll][Ll]|[Ss][Tt][Oo][Pp])$)(?!0*(9|19)$)[A-Za-z0-9]+$",
        "SIGTERM",
    ),
    Kind::Integer(1, 8),
    Kind::Integer(10, 18),
    Kind::Integer(20, 31),
];

/// All keys, in the order of app-cluster.toml(5).
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("command", "", "the program and its arguments").is(Kind::Command),
    key("directory", "\"/\"", "working directory").is(Kind::Path),
    key("environment", "{}", "variables for the workers").is(Kind::Variables),
    key("environment_files", "[]", "files with such variables").is(Kind::List(&Kind::Pattern("^(-.|[^-])", "/etc/default/web"))),
    key("listen", "", "addresses to listen on").is(Kind::Any(LISTEN)),
    key("slot_listen", "", "an extra address for each slot").is(Kind::Pattern(r"\{slot(:0[0-4])?\}", "127.0.0.1:31{slot:02}")),
    key("workers", "\"max\"", "number of workers").is(Kind::Any(WORKERS)),
    key("cpu_affinity", "\"none\"", "whether each worker is kept on one CPU").is(Kind::Word(&["none", "spread"])),
    key("protocol", "\"auto\"", "how a worker is given its sockets").is(Kind::Word(&["auto", "listen-fds", "node"])),
    key("max_workers", "", "most workers with a socket each").is(Kind::Integer(1, MAX_LINES)),
    key("balance", "\"auto\"", "how connections are spread over the workers").is(Kind::Word(&["auto", "shared", "even", "sticky", "round-robin"])),
    key("blocking", "false", "whether the workers get blocking sockets").is(Kind::Boolean),
    key("socket_user", "", "owner of socket files").is(ACCOUNT),
    key("socket_group", "", "group of socket files").is(ACCOUNT),
    key("socket_mode", "", "permissions of socket files").is(Kind::Mode),
    key("user", "", "user of supervisor and workers").is(ACCOUNT),
    key("group", "", "group of supervisor and workers").is(ACCOUNT),
    key("sandbox", "\"default\"", "how much the workers are shut in").is(Kind::Word(&["default", "strict"])),
    key("autostart", "", "whether the app is started at boot").is(Kind::Word(&["boot", "connection", "never"])),
    key("ready", "\"auto\"", "how a worker shows that it can serve").is(Kind::Any(READY)),
    key("start_timeout", "\"30s\"", "longest time from start to ready").is(Kind::Duration),
    key("drain_timeout", "\"30s\"", "longest time from the stop signal to the end").is(Kind::Duration),
    key("stop_signal", "\"SIGTERM\"", "signal that asks a worker to finish").is(Kind::Any(SIGNAL)),
    key("stop_message", "", "message that asks a Node worker to finish").is(Kind::Text),
    key("blocked_timeout", "\"1s\"", "when a Node worker counts as blocked").is(Kind::Duration),
    key("hung_timeout", "\"30s\"", "when a Node worker is replaced that does not answer").is(Kind::Duration),
    key("health", "", "how workers are asked how they are").is(Kind::Any(HEALTH)),
    key("watchdog", "\"0\"", "how often a worker owes a sign of life").is(Kind::Duration),
    key("pre_stop_delay", "\"0\"", "how long workers serve on when the app is to stop").is(Kind::Duration),
    key("node", "{}", "settings of Node's protocol").is(Kind::Section(NODE)),
    key("companion", "", "a process that gets the workers' messages").is(Kind::Table(COMPANION)),
    key("restart", "\"always\"", "when a worker that exited is replaced").is(Kind::Word(&["always", "on-failure", "never"])),
    key("stop_exit_codes", "[]", "exit codes after which a worker is not replaced").is(Kind::List(&Kind::Integer(0, 255))),
    key("backoff_min", "\"100ms\"", "first delay between crashes").is(Kind::Duration),
    key("backoff_max", "\"15s\"", "longest delay between crashes").is(Kind::Duration),
    key("crash_budget", "10", "crashes borne within crash_window").is(Kind::Integer(0, 1_000_000)),
    key("crash_window", "\"60s\"", "time over which crashes are counted").is(Kind::Duration),
    key("max_memory", "", "memory with which a worker is replaced").is(Kind::Size),
    key("max_lifetime", "", "age at which a worker is replaced").is(Kind::Duration),
    key("canary_time", "\"1s\"", "how long the first new worker must stay ready").is(Kind::Duration),
    key("batch", "1", "workers replaced at a time in a reload").is(Kind::Any(&[Kind::Integer(1, MAX_WORKERS), Kind::Pattern("^0*(100|[1-9][0-9]?)%$", "25%")])),
    key("min_ready_time", "\"0\"", "how long each further new worker must stay ready").is(Kind::Duration),
    key("max_draining", "", "how many old workers may drain at once in a reload").is(Kind::Integer(1, MAX_WORKERS)),
    key("on_failure", "\"rollback\"", "what a failed reload does with the new workers").is(Kind::Word(&["rollback", "hold"])),
    not_yet("metrics", "`app-cluster status --json` has the numbers", "metrics"),
    not_yet("log", "the workers' output goes to the journal", "logging"),
];

/// The sections that a file can have, for people.
pub fn sections() -> String {
    let all = KEYS.iter().filter(|key| key.kind.takes_table());
    let mut names: Vec<String> = all.map(|key| format!("`[{}]`", key.name)).collect();
    let last = names.pop().unwrap_or_default();
    format!("{} and {last}", names.join(", "))
}

/// The key called `name`.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The key called `name`, if it is read.
pub fn implemented(name: &str) -> Option<&'static Key> {
    find(name).filter(|key| key.status == Status::Implemented)
}

/// Names of other tools for what one of our keys does.
const ALIASES: &[(&str, &str)] = &[
    ("instances", "workers"),
    ("exec", "command"),
    ("script", "command"),
    ("cmd", "command"),
    ("cwd", "directory"),
    ("env", "environment"),
    ("env_file", "environment_files"),
    ("port", "listen"),
    ("bind", "listen"),
    ("kill_timeout", "drain_timeout"),
    ("kill_signal", "stop_signal"),
    ("listen_timeout", "start_timeout"),
    ("max_memory_restart", "max_memory"),
    ("memory_max", "max_memory"),
    ("max_age", "max_lifetime"),
    ("uid", "user"),
    ("gid", "group"),
];

/// The key that somebody who wrote `unknown` probably meant.
pub fn suggest(unknown: &str) -> Option<&'static str> {
    let plain = unknown.to_lowercase().replace(['-', ' '], "_");
    if let Some((_, name)) = ALIASES.iter().find(|(alias, _)| *alias == plain) {
        return Some(name);
    }
    closest(&plain, KEYS.iter().map(|key| key.name))
}

/// The one of `words` that is most like `word`, if any is alike.
pub fn closest<'a>(word: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Comparing takes time in proportion to the product of the lengths.
    if word.len() > 64 {
        return None;
    }
    words
        .map(|known| (strsim::damerau_levenshtein(word, known), known))
        .filter(|(distance, known)| *distance <= (known.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions() {
        for (unknown, meant) in [
            ("worker", Some("workers")),
            ("wrokers", Some("workers")),
            ("drain-timeout", Some("drain_timeout")),
            ("Command", Some("command")),
            ("instances", Some("workers")),
            ("enviroment", Some("environment")),
            ("colour", None),
            ("x", None),
        ] {
            assert_eq!(suggest(unknown), meant, "{unknown}");
        }
        assert_eq!(suggest(&"w".repeat(100_000)), None);
    }

    #[test]
    fn the_manual_documents_every_implemented_key_and_no_other() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/man/app-cluster.toml.5");
        let page = std::fs::read_to_string(page).unwrap();
        for key in KEYS {
            let entry = page.lines().any(|line| {
                line == format!(".It Ic {}", key.name)
                    || line.starts_with(&format!(".It Ic {} ", key.name))
            });
            assert_eq!(entry, key.status == Status::Implemented, "{}", key.name);
        }
    }
}
