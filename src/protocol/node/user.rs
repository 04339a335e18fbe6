// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages of apps (`process.send`): what goes on to others, and what comes from them. They
//! stay the JSON text that they are: a message need not be one that we could build ourselves.

use crate::config::MAX_WORKERS;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// Longest message that is sent to a worker, in bytes of JSON text.
pub const MAX_MESSAGE: usize = super::channel::MAX_LINE;

/// A worker's message, with where it comes from; `message` is JSON text.
pub fn envelope(slot: u32, worker: u64, message: &str) -> String {
    format!("{{\"slot\":{slot},\"worker\":{worker},\"message\":{message}}}")
}

/// To whom a companion sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum To {
    /// All workers that serve, and those that finish what they have begun.
    All,
    /// Those in these slots.
    Slots(Vec<u32>),
    /// This one, whether it starts, serves or finishes.
    Worker(u64),
}

#[derive(Deserialize)]
struct Said<'a> {
    to: Named,
    #[serde(borrow)]
    message: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Named {
    Slot(u32),
    Slots(Vec<u32>),
    Worker { worker: u64 },
    Word(String),
}

/// What a companion says: to whom, and the message as JSON text.
///
/// # Errors
/// It is something else; the text says so.
pub fn from_companion(text: &str) -> Result<(To, String), String> {
    let said: Said<'_> = serde_json::from_str(text).map_err(|_| {
        "it is not {\"to\": {\"worker\": N}, SLOT or \"all\", \"message\": ...}".to_owned()
    })?;
    let to = match said.to {
        Named::Slot(slot) => To::Slots(vec![slot]),
        Named::Slots(mut slots) => {
            slots.sort_unstable();
            slots.dedup();
            if slots.len() > MAX_WORKERS as usize {
                return Err("`to` names more slots than there can be".to_owned());
            }
            To::Slots(slots)
        }
        Named::Worker { worker } => To::Worker(worker),
        Named::Word(word) if word == "all" => To::All,
        Named::Word(_) => {
            return Err("`to` is {\"worker\": N}, a slot, several of them or \"all\"".to_owned());
        }
    };
    let message = said.message.get();
    if is_internal(message) {
        return Err(INTERNAL.to_owned());
    }
    Ok((to, message.to_owned()))
}

/// Why a message is refused that [`is_internal`].
pub const INTERNAL: &str = "its `cmd` begins with NODE_, which is Node's own";

/// Whether Node would take a message for one of its own (lib/internal/child_process.js,
/// `isInternal`): a wrong one of these makes the process abort.
pub fn is_internal(message: &str) -> bool {
    // Its letters may be written as \\u00xx.
    if !message.contains("NODE_") && !message.contains("\\u00") {
        return false;
    }
    match serde_json::from_str::<Value>(message) {
        Ok(value) => {
            let command = value.get("cmd").and_then(Value::as_str);
            command.is_some_and(|command| command.starts_with("NODE_"))
        }
        // Nested too deeply to be looked into, or half a surrogate pair in a string.
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_companions_say() {
        let all = |message: &str| Ok((To::All, message.to_owned()));
        let some = |slots: &[u32]| Ok((To::Slots(slots.to_vec()), "1".to_owned()));
        for (text, meant) in [
            (r#"{"to":"all","message":{"a": [1]}}"#, all(r#"{"a": [1]}"#)),
            (r#"{"message":"x","to":"all","more":1}"#, all(r#""x""#)),
            // Half a surrogate pair, which JSON.stringify() writes so.
            (r#"{"to":"all","message":"\ud800"}"#, all(r#""\ud800""#)),
            (r#"{"to":3,"message":1}"#, some(&[3])),
            (r#"{"to":[2,0,2],"message":1}"#, some(&[0, 2])),
            (
                r#"{"to":{"worker":17},"message":1}"#,
                Ok((To::Worker(17), "1".to_owned())),
            ),
        ] {
            assert_eq!(from_companion(text), meant, "{text}");
        }
        for text in [
            "1",
            "{}",
            r#"{"to":"all"}"#,
            r#"{"to":"everybody","message":1}"#,
            r#"{"to":-1,"message":1}"#,
            r#"{"to":{"slot":1},"message":1}"#,
            r#"{"to":4294967296,"message":1}"#,
            r#"{"to":0,"message":{"cmd":"NODE_HANDLE_ACK"}}"#,
        ] {
            assert!(from_companion(text).is_err(), "{text}");
        }
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        let text = format!(r#"{{"to":"all","message":{deep}}}"#);
        assert_eq!(from_companion(&text), all(&deep));
    }

    #[test]
    fn messages_that_are_nodes_own() {
        for (text, internal) in [
            (r#"{"cmd":"NODE_HANDLE_ACK"}"#, true),
            (r#"{"cmd":"\u004eODE_HANDLE_ACK"}"#, true),
            (r#"{"cmd":1,"cmd":"NODE_X"}"#, true),
            (r#"{"cmd":"NODE"}"#, false),
            (r#"{"a":{"cmd":"NODE_X"}}"#, false),
            (r#""NODE_X""#, false),
            (r#"["NODE_"]"#, false),
        ] {
            assert_eq!(is_internal(text), internal, "{text}");
        }
    }

    #[test]
    fn envelopes() {
        let text = envelope(3, 17, r#"{"op":1}"#);
        assert_eq!(text, r#"{"slot":3,"worker":17,"message":{"op":1}}"#);
    }
}
