// SPDX-License-Identifier: MIT OR Apache-2.0
//! An address for each slot, for a proxy that chooses the worker itself.

use super::ListenAddress;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// An address with the number of the slot in it: `127.0.0.1:31{slot:02}`,
/// `unix:/run/web-{slot}.sock`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotListen {
    before: String,
    /// Digits that the number has at least, with zeros in front.
    width: usize,
    after: String,
}

impl SlotListen {
    /// The address of a slot. A number that makes no address, which [`SlotListen::fits`]
    /// excludes, gives that of slot 0.
    pub fn address(&self, slot: u32) -> ListenAddress {
        let fallback = || ListenAddress::Port(0);
        let first = || self.text(0).parse().unwrap_or_else(|_: String| fallback());
        self.text(slot).parse().unwrap_or_else(|_: String| first())
    }

    fn text(&self, slot: u32) -> String {
        let width = self.width;
        format!("{}{slot:0width$}{}", self.before, self.after)
    }

    /// Checks that the slots 0 to `slots` - 1 each get a valid address, all different.
    ///
    /// # Errors
    /// A sentence that names the first slot that does not.
    pub fn fits(&self, slots: u32) -> Result<(), String> {
        let mut seen = Vec::new();
        for slot in 0..slots {
            let text = self.text(slot);
            let address: ListenAddress = text
                .parse()
                .map_err(|why: String| format!("slot {slot} has no address: {why}"))?;
            if let Some(other) = seen.iter().position(|claim| *claim == address.claim()) {
                return Err(format!(
                    "slots {other} and {slot} have the same address, {text}"
                ));
            }
            if address.port() == Some(0) {
                return Err(format!("slot {slot} has no port: {text}"));
            }
            seen.push(address.claim());
        }
        Ok(())
    }
}

impl fmt::Display for SlotListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.width {
            0 => write!(f, "{}{{slot}}{}", self.before, self.after),
            width => write!(f, "{}{{slot:0{width}}}{}", self.before, self.after),
        }
    }
}

impl FromStr for SlotListen {
    type Err = String;

    fn from_str(text: &str) -> Result<SlotListen, String> {
        let usage = "write the number of the slot as {slot}, or {slot:02} for two digits, such as \
                     \"127.0.0.1:31{slot:02}\" or \"unix:/run/web-{slot}.sock\"";
        let split = text.split_once('{').and_then(|(before, rest)| {
            let (place, after) = rest.split_once('}')?;
            let width = match place.strip_prefix("slot")? {
                "" => 0,
                format => format.strip_prefix(":0")?.parse().ok().filter(|w| *w < 5)?,
            };
            Some((before, width, after))
        });
        let Some((before, width, after)) = split.filter(|(_, _, after)| !after.contains('{'))
        else {
            return Err(format!("`{text}` is not an address for each slot: {usage}"));
        };
        let template = SlotListen {
            before: before.to_owned(),
            width,
            after: after.to_owned(),
        };
        template.fits(1)?;
        Ok(template)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let read = |text: &str| text.parse::<SlotListen>();
        let at = |text: &str, slot| read(text).unwrap().address(slot).to_string();
        assert_eq!(at("127.0.0.1:31{slot:02}", 7), "127.0.0.1:3107");
        assert_eq!(at("127.0.0.1:31{slot:02}", 12), "127.0.0.1:3112");
        assert_eq!(at("unix:/run/w-{slot}.sock", 3), "unix:/run/w-3.sock");
        assert_eq!(at("[::1]:5{slot:03}", 3), "[::1]:5003");
        for same in ["127.0.0.1:31{slot:02}", "unix:/run/w-{slot}.sock"] {
            assert_eq!(read(same).unwrap().to_string(), same);
        }
        for (bad, part) in [
            ("127.0.0.1:3000", "{slot}"),
            ("127.0.0.1:31{slot", "{slot}"),
            ("127.0.0.1:31{slots}", "{slot}"),
            ("127.0.0.1:31{slot:2}", "{slot}"),
            ("{slot}{slot}", "{slot}"),
            ("localhost:31{slot:02}", "names are not looked up"),
            ("127.0.0.1:{slot}", "no port"),
        ] {
            let why = read(bad).unwrap_err();
            assert!(why.contains(part), "{bad}: {why}");
        }
        let why = read("127.0.0.1:6553{slot}").unwrap().fits(7).unwrap_err();
        assert!(why.contains("slot 6"), "{why}");
    }
}
