// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is wrong only between keys.

use super::toml_reader::Findings;
use super::{Config, Listen, SLOT_LISTENER, units};
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
            Some("the delay between crashes grows from backoff_min to backoff_max".into()),
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
    slot_addresses(found, config);
}

/// That each slot gets an address of its own, which is no other listener's.
pub(super) fn slot_addresses(found: &mut Findings, config: &Config) {
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
        found.error_at("slot_listen", why, None);
    }
    if config
        .listen
        .iter()
        .any(|listen| listen.name == SLOT_LISTENER)
    {
        let why = format!("no listener can be called \"{SLOT_LISTENER}\" beside `slot_listen`");
        found.error_at("listen", why, None);
    }
}
