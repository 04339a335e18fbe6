// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether a new configuration can take over the sockets.

use crate::config::Config;

/// Whether a new configuration can take over from the present one without a restart.
pub fn fits(current: &Config, new: &Config, inherited: bool) -> Result<(), String> {
    let change = match () {
        () if !inherited && current.listen != new.listen => "listen",
        () if !inherited && current.slot_listen != new.slot_listen => "slot_listen",
        () if !inherited && current.spread() != new.spread() && lines(current) != lines(new) => {
            "balance"
        }
        () if !inherited && lines(current) != lines(new) => "max_workers",
        () if current.blocking != new.blocking => "blocking",
        () => return Ok(()),
    };
    let by = match inherited {
        true => "",
        false => ": stop it with Ctrl-C, or app-cluster stop, and start it again",
    };
    Err(format!(
        "`{change}` has changed{}, which a reload cannot carry out: the sockets are shared by the \
         old workers and the new. To apply it, restart the app (the supervisor, not only its \
         workers){by}",
        from_to(current, new, change)
    ))
}

/// `: A → B (FILE:LINE)` for a key, where it is that which differs.
fn from_to(current: &Config, new: &Config, key: &str) -> String {
    let written = |config: &Config| {
        let listen = config.listen.iter().map(|one| one.address.to_string());
        match key {
            // It may be from the command line.
            "listen" => listen.collect::<Vec<_>>().join(", "),
            _ => config.written(key),
        }
    };
    let (from, to) = (written(current), written(new));
    let place = new.source.places.get(key);
    let place = place.map(|place| format!(" ({}:{})", place.origin, place.position.line));
    match from == to {
        true => String::new(),
        false => format!(": {from} → {to}{}", place.unwrap_or_default()),
    }
}

/// How many sockets each listener has.
fn lines(config: &Config) -> Vec<u32> {
    let mut all: Vec<u32> = config
        .listen
        .iter()
        .map(|l| config.lines(&l.address))
        .collect();
    if config.slot_listen.is_some() {
        all.push(config.slots_with_address());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_reload_cannot_change_is_told_with_its_values() {
        let config = |more: &str| {
            let text = format!("command = \"node x\"\nlisten = \"3000\"\nmax_workers = 8\n{more}");
            Config::parse(&text, "web.toml").expect("a configuration")
        };
        let old = config("");
        let text = "command = \"node x\"\nmax_workers = 8\nlisten = [\"4000\", \"127.0.0.1:80\"]";
        let new = Config::parse(text, "web.toml").expect("a configuration");
        let why = fits(&old, &new, false).expect_err("other addresses");
        let told = "`listen` has changed: 3000 → 4000, 127.0.0.1:80 (web.toml:3), which";
        assert!(why.starts_with(told) && why.contains("Ctrl-C"), "{why}");
        // systemd has these sockets.
        assert_eq!(fits(&old, &new, true), Ok(()));
        let why = fits(&old, &config("blocking = true"), true).expect_err("blocking");
        let told = "`blocking` has changed: false → true (web.toml:4), which";
        assert!(why.starts_with(told) && !why.contains("Ctrl-C"), "{why}");
        assert_eq!(fits(&old, &config("workers = 3"), false), Ok(()));
    }
}
