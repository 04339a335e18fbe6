// SPDX-License-Identifier: MIT OR Apache-2.0
//! `NAME` or `NAME[SLOT]`.

use crate::config::valid_name;
use std::str::FromStr;

/// An app, or one slot of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The app.
    pub name: String,
    /// The slot, if one is named.
    pub slot: Option<u32>,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        let (name, slot) = match text.strip_suffix(']').and_then(|t| t.rsplit_once('[')) {
            Some((name, slot)) => (name, Some(slot)),
            None => match text.split_once(':') {
                Some((name, slot)) => (name, Some(slot)),
                None => (text, None),
            },
        };
        valid_name(name)?;
        let slot = match slot {
            None => None,
            Some(digits) => match digits.parse() {
                Ok(slot) => Some(slot),
                Err(_) => {
                    return Err(format!("`{digits}` is no slot number, as in `{name}[0]`"));
                }
            },
        };
        Ok(Target {
            name: name.to_owned(),
            slot,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_slots() {
        let parsed = |text: &str| text.parse::<Target>().map(|t| (t.name, t.slot));
        assert_eq!(parsed("web"), Ok(("web".to_owned(), None)));
        assert_eq!(parsed("web[3]"), Ok(("web".to_owned(), Some(3))));
        assert_eq!(parsed("web:3"), Ok(("web".to_owned(), Some(3))));
        assert!(parsed("web[x]").is_err());
        assert!(parsed("web[").is_err());
        assert!(parsed("[3]").is_err());
        assert!(parsed("../web").is_err());
    }
}
