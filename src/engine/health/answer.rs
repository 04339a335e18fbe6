// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a worker's HTTP answer means. It is untrusted: bounded, and shown without what could
//! move a cursor.

use crate::core::Verdict;

/// Longest head of an answer, in bytes, in which its status is looked for.
pub const MAX_HEAD: usize = 8 * 1024;
/// Longest reason phrase that is shown, in characters.
const MAX_REASON: usize = 60;

/// How an answer begins.
#[derive(Debug, PartialEq, Eq)]
pub enum Head {
    /// Not all is there.
    More,
    /// A status line: the status and the reason.
    Status(u16, String),
    /// No HTTP.
    Garbage,
}

/// Reads the status line (RFC 9112, section 4) of the final answer in `bytes`.
pub fn head(mut bytes: &[u8]) -> Head {
    loop {
        let Some(end) = bytes.iter().position(|b| *b == b'\n') else {
            let begins = bytes.len() < 5 && b"HTTP/".starts_with(bytes);
            let fits = bytes.starts_with(b"HTTP/") && bytes.len() < MAX_HEAD;
            return if begins || fits {
                Head::More
            } else {
                Head::Garbage
            };
        };
        let Some((status, reason)) = status_line(&bytes[..end]) else {
            return Head::Garbage;
        };
        if status >= 200 {
            return Head::Status(status, reason);
        }
        // An interim answer, such as 103 Early Hints: the next one follows its empty line.
        let Some(next) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
            let fits = bytes.len() < MAX_HEAD;
            return if fits { Head::More } else { Head::Garbage };
        };
        bytes = &bytes[next + 4..];
    }
}

fn status_line(line: &[u8]) -> Option<(u16, String)> {
    let line = String::from_utf8_lossy(line);
    let mut words = line.trim_end().splitn(3, ' ');
    if !words.next()?.starts_with("HTTP/1.") {
        return None;
    }
    let status = words.next().filter(|w| w.len() == 3)?;
    let status: u16 = status.parse().ok().filter(|n| (100..=999).contains(n))?;
    let reason = words.next().unwrap_or_default().chars();
    let plain = reason.filter(|c| c.is_ascii_graphic() || *c == ' ');
    Some((status, plain.take(MAX_REASON).collect()))
}

/// What a status says of a worker's health; `path` is what was asked for.
pub fn verdict(path: &str, status: u16, reason: &str) -> Verdict {
    let text = format!("{path} answered {status} {reason}");
    let text = text.trim_end().to_owned();
    match status {
        200..=399 => Verdict::Healthy,
        503 => Verdict::NotReady(text),
        _ => Verdict::Bad(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn heads() {
        let status = |n, text: &str| Head::Status(n, text.to_owned());
        for (bytes, found) in [
            ("HTTP/1.1 200 OK\r\n", status(200, "OK")),
            ("HTTP/1.0 204\r\nX: y\r\n", status(204, "")),
            (
                "HTTP/1.1 500 Oh\x1b[31m no\r\n\r\nbody",
                status(500, "Oh[31m no"),
            ),
            (
                "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 503 Later\n",
                status(503, "Later"),
            ),
            ("", Head::More),
            ("HT", Head::More),
            ("HTTP/1.1 20", Head::More),
            ("HTTP/1.1 100 Continue\r\n\r\n", Head::More),
            ("HTTP/1.1 100 Continue\r\n", Head::More),
            ("HTTP/2 200 OK\r\n", Head::Garbage),
            ("HTTP/1.1 2000 OK\r\n", Head::Garbage),
            ("\x15\x03\x01\x00\x02", Head::Garbage),
            ("hello\n", Head::Garbage),
        ] {
            assert_eq!(head(bytes.as_bytes()), found, "{bytes:?}");
        }
        assert_eq!(head(&[b'x'; MAX_HEAD]), Head::Garbage);
        let mut long = b"HTTP/1.1 ".to_vec();
        long.resize(MAX_HEAD, b'2');
        assert_eq!(head(&long), Head::Garbage);
    }

    #[test]
    fn verdicts() {
        assert_eq!(verdict("/h", 302, "Found"), Verdict::Healthy);
        let told = "/h answered 503 Service Unavailable".to_owned();
        assert_eq!(
            verdict("/h", 503, "Service Unavailable"),
            Verdict::NotReady(told)
        );
        for status in [404, 500, 999] {
            let told = format!("/h answered {status}");
            assert_eq!(verdict("/h", status, ""), Verdict::Bad(told));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_borne(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut line = b"HTTP/1.1 ".to_vec();
            line.extend(&bytes);
            for bytes in [&bytes, &line] {
                if let Head::Status(_, reason) = head(bytes) {
                    prop_assert!(reason.chars().all(|c| !c.is_control()));
                }
            }
        }
    }
}
