// SPDX-License-Identifier: MIT OR Apache-2.0
//! `app-cluster scale NAME N|+N|-N`.

use super::Fail;
use super::client::Client;
use crate::api::{Call, Outcome};
use std::str::FromStr;

/// A number of workers, as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// This many.
    To(u32),
    /// So many more or fewer.
    By(i32),
}

impl FromStr for Change {
    type Err = String;

    fn from_str(text: &str) -> Result<Change, String> {
        let wrong = || format!("`{text}` is no number of workers: 4, +2 or -1");
        match text.as_bytes().first() {
            Some(b'+' | b'-') => text.parse().map(Change::By).map_err(|_| wrong()),
            _ => text.parse().map(Change::To).map_err(|_| wrong()),
        }
    }
}

pub fn main(name: &str, change: Change) -> Result<(), Fail> {
    let call = match change {
        Change::To(workers) => Call::Scale {
            workers: Some(workers),
            by: None,
        },
        Change::By(by) => Call::Scale {
            workers: None,
            by: Some(by),
        },
    };
    let outcome: Outcome = Client::connect(name)?.call(&call)?;
    println!("{name}: {}", outcome.message);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_and_relative() {
        assert_eq!("4".parse(), Ok(Change::To(4)));
        assert_eq!("+4".parse(), Ok(Change::By(4)));
        assert_eq!("-4".parse(), Ok(Change::By(-4)));
        for bad in ["", "x", "+", "4.5", "--4", "99999999999"] {
            assert!(bad.parse::<Change>().is_err(), "{bad}");
        }
    }
}
