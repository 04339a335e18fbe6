// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether the users and groups of a configuration are there.

use super::{Config, Diagnostic, Severity};
use nix::unistd::{Group, User};

/// The users and groups that a configuration names and this machine does not have; an id
/// needs no name. A unit with one of them does not start (systemd.exec(5): 216, 217).
pub fn missing_accounts(config: &Config) -> Vec<Diagnostic> {
    let is_number = |name: &str| name.parse::<u32>().is_ok();
    let user = |name: &str| is_number(name) || matches!(User::from_name(name), Ok(Some(_)));
    let group = |name: &str| is_number(name) || matches!(Group::from_name(name), Ok(Some(_)));
    type Known<'a> = &'a dyn Fn(&str) -> bool;
    let all: [(&str, &Option<String>, &str, Known<'_>); 4] = [
        ("user", &config.user, "user", &user),
        ("group", &config.group, "group", &group),
        ("socket_user", &config.socket_user, "user", &user),
        ("socket_group", &config.socket_group, "group", &group),
    ];
    let missing = all.into_iter().filter_map(|(key, value, what, is_known)| {
        let name = value.as_deref().filter(|name| !is_known(name))?;
        let text = format!("there is no {what} `{name}`");
        let hint = Some(format!("make it: sudo {what}add --system {name}"));
        Some(config.source.diagnostic(Severity::Error, key, text, hint))
    });
    missing.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_account_that_is_not_there_is_found_at_its_place() {
        let text = "command = \"x\"\nuser = \"root\"\ngroup = 12345\n\
                    socket_user = \"no-such-user\"\nsocket_group = \"no-such-group\"\n";
        let config = Config::parse(text, "web.toml").expect("a configuration");
        let found = missing_accounts(&config);
        let told: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("web.toml:4:"), "{}", told[0]);
        assert!(told[0].contains("no user `no-such-user`"), "{}", told[0]);
        assert!(told[1].contains("sudo groupadd --system no-such-group"));
    }
}
