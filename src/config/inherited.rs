// SPDX-License-Identifier: MIT OR Apache-2.0
//! Variables that systemd gives each process that it starts anew (systemd.exec(5), "Environment
//! variables set or propagated by the service manager"): they say nothing about a generation,
//! and a supervisor that takes over has others than the one before it.

use super::{Config, Launch};

/// Those that a worker may see.
const OF_ONE_START: &[&str] = &[
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "MANAGERPID",
    "MANAGERPIDFDID",
    "MEMORY_PRESSURE_WATCH",
    "MEMORY_PRESSURE_WRITE",
    "MONITOR_EXIT_CODE",
    "MONITOR_EXIT_STATUS",
    "MONITOR_INVOCATION_ID",
    "MONITOR_SERVICE_RESULT",
    "MONITOR_UNIT",
    "TRIGGER_PATH",
    "TRIGGER_TIMER_MONOTONIC_USEC",
    "TRIGGER_TIMER_REALTIME_USEC",
    "TRIGGER_UNIT",
];

/// Whether a variable belongs to one start of the supervisor.
pub(super) fn is_of_one_start(name: &str) -> bool {
    OF_ONE_START.contains(&name)
}

impl Launch {
    /// Takes those variables from `base`, the environment of the process that is to start
    /// workers now, but for those that `config` sets.
    pub fn renew(&mut self, config: &Config, base: impl IntoIterator<Item = (String, String)>) {
        let fixed = |name: &str| !is_of_one_start(name) || config.environment.contains_key(name);
        self.environment.retain(|name, _| fixed(name));
        let now = base.into_iter().filter(|(name, _)| !fixed(name));
        self.environment.extend(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Changes;

    fn launch(config: &Config, variables: &[(&str, &str)]) -> Launch {
        let base = variables.iter();
        let base = base.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Launch::resolve(config, base).expect("a launch")
    }

    #[test]
    fn another_start_is_no_change() {
        let text = "command = \"/bin/true\"\nenvironment = { TRIGGER_UNIT = \"mine\" }\n";
        let config = Config::parse(text, "web.toml").expect("a configuration");
        let before = [("INVOCATION_ID", "1"), ("A", "1"), ("MANAGERPID", "3")];
        let after = [
            ("INVOCATION_ID", "2"),
            ("JOURNAL_STREAM", "8:9"),
            ("A", "2"),
        ];
        let (mut old, new) = (launch(&config, &before), launch(&config, &after));
        let changes = Changes::between((&config, &old, &[]), (&config, &new, &[]));
        assert_eq!(changes.lines(), ["variables changed: A"]);
        let base = after.map(|(name, value)| (name.to_owned(), value.to_owned()));
        old.renew(&config, base);
        let mut expected = new.environment.clone();
        expected.insert("A".to_owned(), "1".to_owned());
        assert_eq!(old.environment, expected);
        assert_eq!(old.environment["TRIGGER_UNIT"], "mine");
    }
}
