// SPDX-License-Identifier: MIT OR Apache-2.0
//! The head of a request: its first line and its fields, and what they say of the body.

use super::http::{MAX_BODY, MAX_FIELDS, Method, Reject};

/// What is expected next of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    RequestLine,
    Fields,
    Body(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailer,
    Dead,
}

/// What the head said so far.
#[derive(Debug, Default)]
pub(super) struct Head {
    pub(super) method: Option<Method>,
    pub(super) path: String,
    pub(super) query: Option<String>,
    pub(super) http10: bool,
    pub(super) fields: usize,
    pub(super) hosts: usize,
    pub(super) length: Option<u64>,
    pub(super) chunked: bool,
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) expect: bool,
    pub(super) body: u64,
}

impl Head {
    /// Takes the request line (RFC 9112 section 3).
    pub(super) fn request_line(&mut self, line: &[u8]) -> Result<(), Reject> {
        const BAD: Reject = Reject::BadRequest("malformed request line");
        let line = std::str::from_utf8(line).map_err(|_| BAD)?;
        let mut words = line.split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(BAD);
        };
        if method.is_empty() || !method.bytes().all(is_token) {
            return Err(BAD);
        }
        self.method = Some(match method {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" => Method::Post,
            _ => Method::Other,
        });
        match version.strip_prefix("HTTP/").map(str::as_bytes) {
            Some(b"1.0") => self.http10 = true,
            Some([b'1', b'.', minor]) if minor.is_ascii_digit() => {}
            Some([major, b'.', minor]) if major.is_ascii_digit() && minor.is_ascii_digit() => {
                return Err(Reject::UnknownVersion);
            }
            _ => return Err(BAD),
        }
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        self.path = match path.split_once("://") {
            // Absolute form (RFC 9112 section 3.2.2).
            Some((scheme, rest)) if !scheme.is_empty() && !path.starts_with('/') => rest
                .find('/')
                .map_or("/", |slash| &rest[slash..])
                .to_owned(),
            // The authority form belongs to CONNECT alone, which is refused by its method.
            _ if path.starts_with('/') || path == "*" || method == "CONNECT" => path.to_owned(),
            _ => return Err(BAD),
        };
        self.query = query.map(str::to_owned);
        Ok(())
    }

    /// Takes a header field (RFC 9112 section 5).
    pub(super) fn field(&mut self, line: &[u8]) -> Result<(), Reject> {
        self.fields += 1;
        if self.fields > MAX_FIELDS {
            return Err(Reject::HeadTooLarge);
        }
        let (name, value) = split_field(line)?;
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if is("host") {
            self.hosts += 1;
        } else if is("connection") {
            for option in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                self.close |= option.eq_ignore_ascii_case(b"close");
                self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            }
        } else if is("content-length") {
            let length = decimal(value).ok_or(Reject::BadRequest("bad Content-Length"))?;
            if self.length.is_some_and(|other| other != length) {
                return Err(Reject::BadRequest("two different Content-Length"));
            }
            self.length = Some(length);
        } else if is("transfer-encoding") {
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Reject::UnknownCoding);
            }
            self.chunked = true;
        } else if is("expect") {
            self.expect = value.eq_ignore_ascii_case(b"100-continue");
        }
        Ok(())
    }

    /// The head is complete: what comes next (RFC 9112 sections 3.2 and 6.3).
    pub(super) fn body_state(&mut self) -> Result<State, Reject> {
        if self.hosts > 1 || (self.hosts == 0 && !self.http10) {
            return Err(Reject::BadRequest("exactly one Host is needed"));
        }
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(Reject::BadRequest(
                "both Content-Length and Transfer-Encoding",
            )),
            (true, None) if self.http10 => Err(Reject::BadRequest("Transfer-Encoding in HTTP/1.0")),
            (true, None) => Ok(State::ChunkSize),
            (false, Some(length)) if length > MAX_BODY => Err(Reject::BodyTooLarge),
            (false, length) => {
                self.body = length.unwrap_or(0);
                Ok(State::Body(self.body))
            }
        }
    }
}

/// RFC 9110 section 5.6.2.
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

pub(super) fn split_field(line: &[u8]) -> Result<(&[u8], &[u8]), Reject> {
    let colon = line.iter().position(|&byte| byte == b':');
    match colon.map(|colon| (&line[..colon], &line[colon + 1..])) {
        Some((name, value)) if !name.is_empty() && name.iter().copied().all(is_token) => {
            Ok((name, value.trim_ascii()))
        }
        _ => Err(Reject::BadRequest("malformed header field")),
    }
}

fn decimal(text: &[u8]) -> Option<u64> {
    // `parse` alone would take a sign.
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text)
        .ok()
        .filter(|_| digits)?
        .parse()
        .ok()
}
