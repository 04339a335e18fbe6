// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every key a configuration file can have, as data.

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
    /// See [`Status`].
    pub status: Status,
}

const fn key(name: &'static str, default: &'static str, summary: &'static str) -> Key {
    Key {
        name,
        default,
        summary,
        status: Status::Implemented,
    }
}

const fn not_yet(name: &'static str, meanwhile: &'static str, summary: &'static str) -> Key {
    Key {
        name,
        default: "",
        summary,
        status: Status::NotYet(meanwhile),
    }
}

/// All keys, in the order of app-cluster.toml(5).
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("command", "", "the program and its arguments"),
    key("directory", "\"/\"", "working directory"),
    key("environment", "{}", "variables for the workers"),
    key("environment_files", "[]", "files with such variables"),
    key("listen", "", "addresses to listen on"),
    key("slot_listen", "", "an extra address for each slot"),
    key("workers", "\"max\"", "number of workers"),
    key("cpu_affinity", "\"none\"", "whether each worker is kept on one CPU"),
    key("protocol", "\"auto\"", "how a worker is given its sockets"),
    key("max_workers", "", "most workers with a socket each"),
    key("balance", "\"auto\"", "how connections are spread over the workers"),
    key("blocking", "false", "whether the workers get blocking sockets"),
    key("socket_user", "", "owner of socket files"),
    key("socket_group", "", "group of socket files"),
    key("socket_mode", "", "permissions of socket files"),
    key("user", "", "user of supervisor and workers"),
    key("group", "", "group of supervisor and workers"),
    key("sandbox", "\"default\"", "how much the workers are shut in"),
    key("autostart", "", "whether the app is started at boot"),
    key("ready", "\"auto\"", "how a worker shows that it can serve"),
    key("start_timeout", "\"30s\"", "longest time from start to ready"),
    key("drain_timeout", "\"30s\"", "longest time from the stop signal to the end"),
    key("stop_signal", "\"SIGTERM\"", "signal that asks a worker to finish"),
    key("stop_message", "", "message that asks a Node worker to finish"),
    key("blocked_timeout", "\"1s\"", "when a Node worker counts as blocked"),
    key("hung_timeout", "\"30s\"", "when a Node worker is replaced that does not answer"),
    key("health", "", "how workers are asked how they are"),
    key("watchdog", "", "how often a worker owes a sign of life"),
    key("pre_stop_delay", "\"0\"", "how long workers serve on when the app is to stop"),
    key("node", "{}", "settings of Node's protocol"),
    key("companion", "", "a process that gets the workers' messages"),
    key("restart", "\"always\"", "when a worker that exited is replaced"),
    key("stop_exit_codes", "[]", "exit codes after which a worker is not replaced"),
    key("backoff_min", "\"100ms\"", "first delay between crashes"),
    key("backoff_max", "\"15s\"", "longest delay between crashes"),
    key("crash_budget", "10", "crashes borne within crash_window"),
    key("crash_window", "\"60s\"", "time over which crashes are counted"),
    key("max_memory", "", "memory with which a worker is replaced"),
    key("max_lifetime", "", "age at which a worker is replaced"),
    key("canary_time", "\"1s\"", "how long the first new worker must stay ready"),
    key("batch", "1", "workers replaced at a time in a reload"),
    key("min_ready_time", "\"0\"", "how long each further new worker must stay ready"),
    key("max_draining", "", "how many old workers may drain at once in a reload"),
    key("on_failure", "\"rollback\"", "what a failed reload does with the new workers"),
    not_yet("metrics", "`app-cluster status --json` has the numbers", "metrics"),
    not_yet("log", "the workers' output goes to the journal", "logging"),
];

/// The key called `name`.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
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
