// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is wrong only between keys.

use super::toml_reader::Findings;
use super::{Config, Listen, MAX_SOCKETS, SLOT_LISTENER, units};
use crate::core::Ready;
use std::collections::BTreeSet;

/// All of it.
pub(super) fn all(found: &mut Findings, config: &Config) {
    if !found.source.gives("command") {
        found.error_at(
            "command",
            "`command` is missing".into(),
            Some("add what to run, such as command = [\"node\", \"server.js\"]".into()),
        );
    }
    if config.backoff_min > config.backoff_max {
        let (min, max) = (
            units::show(config.backoff_min),
            units::show(config.backoff_max),
        );
        let given = found.source.gives("backoff_min");
        found.error_at(
            if given { "backoff_min" } else { "backoff_max" },
            format!("`backoff_min` ({min}) is longer than `backoff_max` ({max})"),
            Some("make `backoff_max` longer or `backoff_min` shorter: the delay grows from the one to the other".into()),
        );
    }
    if let Ready::Delay(delay) = config.ready
        && delay > config.start_timeout
    {
        let (delay, limit) = (units::show(delay), units::show(config.start_timeout));
        found.error_at(
            "ready",
            format!(
                "no worker would ever be ready: after {delay} `start_timeout` ({limit}) is over"
            ),
            Some("make `start_timeout` longer than the delay".into()),
        );
    }
    sockets(found, config);
}

/// That the sockets can all be there, side by side.
pub(super) fn sockets(found: &mut Findings, config: &Config) {
    let of_slots = config
        .slot_listen
        .as_ref()
        .map_or(0, |_| config.slots_with_address());
    let listed = config
        .listen
        .iter()
        .map(|listen| config.lines(&listen.address));
    let all: u32 = listed.sum::<u32>() + of_slots;
    if all > MAX_SOCKETS {
        found.error_at(
            if config.max_workers.is_some() {
                "max_workers"
            } else {
                "listen"
            },
            format!("these are {all} sockets, an app has at most {MAX_SOCKETS}"),
            Some(
                "each TCP listener has one for each of `max_workers`: lower that, or use \
                 balance = \"shared\""
                    .into(),
            ),
        );
    }
    slot_addresses(found, config);
}

/// That each slot gets an address of its own, which is no other listener's.
fn slot_addresses(found: &mut Findings, config: &Config) {
    let Some(template) = &config.slot_listen else {
        return;
    };
    let slots = config.slots_with_address();
    if let Err(why) = template.fits(slots) {
        let hint = format!("`max_workers` ({slots}) says how many slots get an address");
        found.error_at("slot_listen", why, Some(hint));
        return;
    }
    let claims: BTreeSet<String> = (0..slots).map(|n| template.address(n).claim()).collect();
    let same = |listen: &&Listen| claims.contains(&listen.address.claim());
    if let Some(listen) = config.listen.iter().find(same) {
        let why = format!(
            "`listen` has {}, which is the address of a slot",
            listen.address
        );
        let hint = "choose other ports, or another path, for the slots";
        found.error_at("slot_listen", why, Some(hint.into()));
    }
    if config
        .listen
        .iter()
        .any(|listen| listen.name == SLOT_LISTENER)
    {
        let why = format!("no listener can be called \"{SLOT_LISTENER}\" beside `slot_listen`");
        let hint = "give it another name: programs know the slot's address by this one";
        found.error_at("listen", why, Some(hint.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_has_so_many_sockets_at_most() {
        let with = |listeners: u32, workers: u32| {
            let all: Vec<String> = (0..listeners)
                .map(|n| format!("\"127.0.0.1:{}\"", 4000 + n))
                .collect();
            let text = format!(
                "command = \"x\"\nlisten = [{}]\nbalance = \"even\"\nmax_workers = {workers}",
                all.join(", ")
            );
            Config::parse(&text, "web.toml")
        };
        assert!(with(16, 256).is_ok());
        let why = with(20, 256).unwrap_err().to_string();
        assert!(
            why.contains("5120 sockets") && why.contains("at most 4096"),
            "{why}"
        );
    }
}
