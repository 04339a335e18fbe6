// SPDX-License-Identifier: MIT OR Apache-2.0
//! An incremental HTTP/1 request parser (RFC 9112): bytes in, requests out.
//!
//! Pure: no I/O and no clock. It keeps at most one unfinished line, so that the same requests come
//! out however the bytes were split. Bodies are counted and thrown away. What two programs could
//! understand differently (two lengths, folded lines, space before a colon) is refused.

use super::head::{Head, State, is_token, split_field};

/// Largest request line plus header fields plus trailer fields, in bytes; more is answered 431.
pub const MAX_HEAD: usize = 16 * 1024;
/// Largest number of header fields; more is answered 431.
pub const MAX_FIELDS: usize = 100;
/// Largest request body, in bytes; more is answered 413.
pub const MAX_BODY: u64 = 16 * 1024 * 1024;
/// Longest line with a chunk size and its extensions, in bytes; a longer one is answered 400.
const MAX_CHUNK_LINE: usize = 256;
/// Empty lines tolerated before a request line (RFC 9112 section 2.2).
const MAX_BLANK_LINES: u8 = 4;

/// The methods this server tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `GET`.
    Get,
    /// `HEAD`: answered like `GET`, without the body.
    Head,
    /// `POST`.
    Post,
    /// Any other well-formed method.
    Other,
}

/// One complete request, body received and thrown away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The path, undecoded, without the query; `*` for the asterisk form.
    pub path: String,
    /// What followed the first `?`, undecoded.
    pub query: Option<String>,
    /// The client will send more on this connection (RFC 9112 section 9.3).
    pub keep_alive: bool,
    /// The client speaks HTTP/1.0, which must be told about keep-alive.
    pub http10: bool,
    /// Bytes of body, without the framing.
    pub body: u64,
}

/// Why the bytes are not a request. The connection cannot be used any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// 400; the text says what was wrong.
    BadRequest(&'static str),
    /// 413: body longer than [`MAX_BODY`].
    BodyTooLarge,
    /// 431: head longer than [`MAX_HEAD`] or more than [`MAX_FIELDS`] fields.
    HeadTooLarge,
    /// 501: a transfer coding other than `chunked`.
    UnknownCoding,
    /// 505: not HTTP/1.x.
    UnknownVersion,
}

/// What a call of [`Parser::feed`] came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All input was taken and no request is complete.
    More,
    /// The client waits for `100 Continue` before it sends the body (RFC 9110 section 10.1.1).
    Continue,
    /// A request is complete; the bytes after it were not taken.
    Request(Request),
    /// Not a request. From now on [`Parser::feed`] throws all input away.
    Reject(Reject),
}

/// The parser of one connection.
#[derive(Debug)]
pub struct Parser {
    state: State,
    /// The unfinished line.
    line: Vec<u8>,
    /// Bytes of head and trailer taken so far.
    taken: usize,
    blank: u8,
    head: Head,
}

impl Default for Parser {
    fn default() -> Self {
        Parser {
            state: State::RequestLine,
            line: Vec::new(),
            taken: 0,
            blank: 0,
            head: Head::default(),
        }
    }
}

type Step = Result<Option<Progress>, Reject>;

impl Parser {
    /// Whether no byte of a next request has come in, empty lines apart.
    pub fn is_idle(&self) -> bool {
        self.state == State::RequestLine && self.line.is_empty()
    }

    /// Takes bytes up to the end of the next request and says how many, and what they were. Call
    /// again with the rest until it returns [`Progress::More`], which means everything was taken.
    pub fn feed(&mut self, input: &[u8]) -> (usize, Progress) {
        let mut at = 0;
        loop {
            let step = match self.state {
                State::Dead => return (input.len(), Progress::More),
                // A body may have no bytes left: this comes before the check for the end of input.
                State::Body(0) => Ok(Some(self.finish())),
                _ if at == input.len() => return (at, Progress::More),
                State::Body(left) => {
                    let n = skip(left, input.len() - at);
                    at += n;
                    self.state = State::Body(left - n as u64);
                    Ok(None)
                }
                State::ChunkData(left) => {
                    let n = skip(left, input.len() - at);
                    at += n;
                    self.state = match left - n as u64 {
                        0 => State::ChunkEnd,
                        left => State::ChunkData(left),
                    };
                    Ok(None)
                }
                _ => self.feed_line(input, &mut at),
            };
            match step {
                Ok(None) => {}
                Ok(Some(progress)) => return (at, progress),
                Err(reject) => {
                    self.state = State::Dead;
                    self.line = Vec::new();
                    return (input.len(), Progress::Reject(reject));
                }
            }
        }
    }

    fn feed_line(&mut self, input: &[u8], at: &mut usize) -> Step {
        let rest = &input[*at..];
        // A client that speaks TLS, or nonsense, is told at its first byte.
        if self.state == State::RequestLine
            && self.line.is_empty()
            && !is_token(rest[0])
            && !matches!(rest[0], b'\r' | b'\n')
        {
            return Err(Reject::BadRequest("malformed request line"));
        }
        let end = rest.iter().position(|&byte| byte == b'\n');
        let n = end.map_or(rest.len(), |end| end + 1);
        let length = self.line.len() + n;
        match self.state {
            State::ChunkSize if length > MAX_CHUNK_LINE => {
                return Err(Reject::BadRequest("chunk size line too long"));
            }
            State::ChunkEnd if length > 2 => {
                return Err(Reject::BadRequest("chunk longer than its size"));
            }
            _ if self.taken + length > MAX_HEAD => return Err(Reject::HeadTooLarge),
            _ => {}
        }
        *at += n;
        if end.is_none() {
            self.line.extend_from_slice(rest);
            return Ok(None);
        }
        if self.line.is_empty() {
            return self.on_line(&rest[..n]);
        }
        let mut line = std::mem::take(&mut self.line);
        line.extend_from_slice(&rest[..n]);
        let step = self.on_line(&line);
        line.clear();
        self.line = line;
        step
    }

    /// One whole line, with its line feed.
    fn on_line(&mut self, raw: &[u8]) -> Step {
        let line = raw.strip_suffix(b"\n").unwrap_or(raw);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line
            .iter()
            .any(|&byte| byte < b' ' && byte != b'\t' || byte == 0x7f)
        {
            return Err(Reject::BadRequest("control character in the head"));
        }
        if matches!(
            self.state,
            State::RequestLine | State::Fields | State::Trailer
        ) {
            self.taken += raw.len();
        }
        match self.state {
            State::RequestLine if line.is_empty() => {
                self.blank += 1;
                if self.blank > MAX_BLANK_LINES {
                    return Err(Reject::BadRequest("no request line"));
                }
            }
            State::RequestLine => {
                self.head.request_line(line)?;
                self.state = State::Fields;
            }
            State::Fields if line.is_empty() => {
                self.state = self.head.body_state()?;
                if self.head.expect && !self.head.http10 && self.state != State::Body(0) {
                    return Ok(Some(Progress::Continue));
                }
            }
            State::Fields => self.head.field(line)?,
            State::ChunkSize => {
                let size = chunk_size(line)?;
                self.head.body = self.head.body.saturating_add(size);
                if self.head.body > MAX_BODY {
                    return Err(Reject::BodyTooLarge);
                }
                self.state = if size == 0 {
                    State::Trailer
                } else {
                    State::ChunkData(size)
                };
            }
            State::ChunkEnd if line.is_empty() => self.state = State::ChunkSize,
            State::ChunkEnd => return Err(Reject::BadRequest("chunk longer than its size")),
            State::Trailer if line.is_empty() => return Ok(Some(self.finish())),
            State::Trailer => drop(split_field(line)?),
            State::Body(_) | State::ChunkData(_) | State::Dead => {}
        }
        Ok(None)
    }

    fn finish(&mut self) -> Progress {
        let head = std::mem::take(&mut self.head);
        // One long request must not cost memory for the life of an idle connection.
        self.line.shrink_to(256);
        (self.state, self.taken, self.blank) = (State::RequestLine, 0, 0);
        Progress::Request(Request {
            method: head.method.unwrap_or(Method::Other),
            path: head.path,
            query: head.query,
            keep_alive: !head.close && (!head.http10 || head.keep_alive),
            http10: head.http10,
            body: head.body,
        })
    }
}

fn skip(left: u64, have: usize) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(have)
}

fn chunk_size(line: &[u8]) -> Result<u64, Reject> {
    let end = line
        .iter()
        .position(|&byte| byte == b';')
        .unwrap_or(line.len());
    let digits = line[..end].trim_ascii_end();
    let hex = !digits.is_empty() && digits.iter().all(u8::is_ascii_hexdigit);
    std::str::from_utf8(digits)
        .ok()
        .filter(|_| hex)
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .ok_or(Reject::BadRequest("bad chunk size"))
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
