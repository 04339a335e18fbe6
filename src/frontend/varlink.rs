// SPDX-License-Identifier: MIT OR Apache-2.0
//! Varlink framing (varlink.org, "Protocol"): one JSON object, one NUL byte.

use serde::Serialize;
use serde_json::{Map, Value, json};
use std::io::{self, BufRead, Write};

/// Longest message that is read. A call has a few dozen bytes; a status with a thousand
/// slots has less than this.
pub const MAX_MESSAGE: u64 = 4 * 1024 * 1024;

/// Reads one message; `None` at the end of the stream.
///
/// # Errors
/// `InvalidData`: not a JSON object, cut off in the middle, or too long.
pub fn read(from: &mut impl BufRead, limit: u64) -> io::Result<Option<Map<String, Value>>> {
    let Some(bytes) = read_bytes(from, limit)? else {
        return Ok(None);
    };
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(message)) => Ok(Some(message)),
        Ok(_) => Err(invalid("a message that is not a JSON object")),
        Err(error) => Err(not_json(&error)),
    }
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.to_owned())
}

/// What to say of a message that is not JSON.
pub fn not_json(error: &serde_json::Error) -> io::Error {
    invalid(&format!("a message that is not JSON: {error}"))
}

/// Reads the bytes of one message; `None` at the end of the stream.
///
/// # Errors
/// `InvalidData`: cut off in the middle, or too long.
pub fn read_bytes(from: &mut impl BufRead, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let mut bounded = io::Read::take(&mut *from, limit);
    bounded.read_until(0, &mut bytes)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    if bytes.pop() != Some(0) {
        let cut = "a message without its end (a NUL byte), or a longer one than is taken";
        return Err(invalid(cut));
    }
    Ok(Some(bytes))
}

/// Writes one message.
pub fn write(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(message)?;
    bytes.push(0);
    to.write_all(&bytes)?;
    to.flush()
}

/// A reply.
pub fn reply(parameters: Value, continues: bool) -> Value {
    match continues {
        true => json!({ "parameters": parameters, "continues": true }),
        false => json!({ "parameters": parameters }),
    }
}

/// An error reply; `name` with its interface.
pub fn error(name: &str, parameters: Value) -> Value {
    json!({ "error": name, "parameters": parameters })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read() {
        let mut wire = Vec::new();
        let message = json!({ "method": "a.B", "parameters": { "x": "\u{0}\n" } });
        write(&mut wire, &message).expect("write");
        write(&mut wire, &message).expect("write");
        let mut wire = wire.as_slice();
        for _ in 0..2 {
            let read = read(&mut wire, MAX_MESSAGE)
                .expect("read")
                .expect("a message");
            assert_eq!(Value::Object(read), message);
        }
        assert!(read(&mut wire, MAX_MESSAGE).expect("read").is_none());
    }

    #[test]
    fn says_what_is_wrong() {
        for (bytes, text) in [
            (&b"{}"[..], "without its end"),
            (b"[]\0", "not a JSON object"),
            (b"\0", "not JSON"),
            (b"{\xff}\0", "not JSON"),
            (b"{\"a\":\"long enough to be too long\"}\0", "longer one"),
        ] {
            let error = read(&mut &*bytes, 20).expect_err("an error");
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_borne(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&mut bytes.as_slice(), 100);
        }
    }
}
