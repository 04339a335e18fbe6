// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the worker answers: routes and response bytes. Pure.

use super::http::{Method, Reject, Request};
use std::io::Write;
use std::time::Duration;

/// Longest delay of `/slow`, in milliseconds.
pub const MAX_SLOW_MS: u64 = 60_000;

/// The worker's answers, the same for its whole life.
#[derive(Debug)]
pub struct Site {
    identity: String,
}

/// What to answer to a request, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The identity, after this long.
    Identity(Duration),
    /// `{"status":"ok"}`.
    Health,
    /// An error: status and what to do about it.
    Error(u16, &'static str),
}

/// How a response is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    /// The request was HEAD: no body.
    pub head_only: bool,
    /// Say `Connection: close`.
    pub close: bool,
    /// The client speaks HTTP/1.0: keep-alive has to be said.
    pub http10: bool,
}

impl Site {
    /// `name`, `slot` and `generation` are null in the answers when absent.
    pub fn new(pid: u32, slot: Option<u64>, generation: Option<u64>, name: Option<&str>) -> Site {
        let value = serde_json::json!({
            "pid": pid, "slot": slot, "generation": generation, "name": name,
        });
        Site {
            identity: format!("{value}\n"),
        }
    }

    /// The answer to a request.
    pub fn route(&self, request: &Request) -> Answer {
        if request.method == Method::Other {
            return Answer::Error(405, "use GET, HEAD or POST");
        }
        match request.path.as_str() {
            "/" => Answer::Identity(Duration::ZERO),
            "/health" => Answer::Health,
            "/slow" => match slow_ms(request.query.as_deref().unwrap_or("")) {
                Some(ms) => Answer::Identity(Duration::from_millis(ms)),
                None => Answer::Error(400, "say /slow?ms=N, N from 0 to 60000"),
            },
            _ => Answer::Error(404, "use /, /slow?ms=N or /health"),
        }
    }

    /// Appends the whole response to `out`.
    pub fn respond(&self, answer: Answer, framing: Framing, out: &mut Vec<u8>) {
        let error;
        let (status, body) = match answer {
            Answer::Identity(_) => (200, self.identity.as_str()),
            Answer::Health => (200, "{\"status\":\"ok\"}\n"),
            Answer::Error(status, hint) => {
                let value = serde_json::json!({ "error": reason(status), "hint": hint });
                error = format!("{value}\n");
                (status, error.as_str())
            }
        };
        let connection = match framing {
            Framing { close: true, .. } => "Connection: close\r\n",
            Framing { http10: true, .. } => "Connection: keep-alive\r\n",
            _ => "",
        };
        let allow = if status == 405 {
            "Allow: GET, HEAD, POST\r\n"
        } else {
            ""
        };
        // Writing to a Vec cannot fail.
        let _ = write!(
            out,
            "HTTP/1.1 {status} {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             {allow}{connection}\r\n",
            reason(status),
            body.len(),
        );
        if !framing.head_only {
            out.extend_from_slice(body.as_bytes());
        }
    }
}

impl From<Reject> for Answer {
    fn from(reject: Reject) -> Answer {
        match reject {
            Reject::BadRequest(hint) => Answer::Error(400, hint),
            Reject::BodyTooLarge => Answer::Error(413, "send at most 16 MiB"),
            Reject::HeadTooLarge => Answer::Error(431, "send at most 16 KiB and 100 fields"),
            Reject::UnknownCoding => Answer::Error(501, "use Content-Length or chunked"),
            Reject::UnknownVersion => Answer::Error(505, "use HTTP/1.1"),
        }
    }
}

/// RFC 9110 section 15, RFC 6585.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}

fn slow_ms(query: &str) -> Option<u64> {
    let ms = query.split('&').find_map(|pair| pair.strip_prefix("ms="))?;
    ms.parse().ok().filter(|&ms| ms <= MAX_SLOW_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str, query: Option<&str>) -> Request {
        Request {
            method: Method::Get,
            path: path.into(),
            query: query.map(Into::into),
            keep_alive: true,
            http10: false,
            body: 0,
        }
    }

    #[test]
    fn routes() {
        let site = Site::new(1, None, None, None);
        let slow = |query| site.route(&get("/slow", query));
        assert_eq!(
            site.route(&get("/", Some("any"))),
            Answer::Identity(Duration::ZERO)
        );
        assert_eq!(
            slow(Some("a&ms=50")),
            Answer::Identity(Duration::from_millis(50))
        );
        for bad in [None, Some("ms="), Some("ms=-1"), Some("ms=60001")] {
            assert!(matches!(slow(bad), Answer::Error(400, _)), "{bad:?}");
        }
        assert!(matches!(
            site.route(&get("/x", None)),
            Answer::Error(404, _)
        ));
        let delete = Request {
            method: Method::Other,
            ..get("/x", None)
        };
        assert!(matches!(site.route(&delete), Answer::Error(405, _)));
    }

    #[test]
    fn responses_say_their_length_and_whether_the_connection_ends() {
        let site = Site::new(7, Some(3), None, Some("a\"b"));
        let mut out = Vec::new();
        let framing = Framing {
            head_only: false,
            close: true,
            http10: false,
        };
        site.respond(Answer::Identity(Duration::ZERO), framing, &mut out);
        let text = String::from_utf8(out).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("Connection: close"));
        assert!(
            head.contains(&format!("Content-Length: {}", body.len())),
            "{head}"
        );
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        let expected = serde_json::json!({"pid":7,"slot":3,"generation":null,"name":"a\"b"});
        assert_eq!(body, expected);

        let mut out = Vec::new();
        let framing = Framing {
            head_only: true,
            close: false,
            http10: true,
        };
        site.respond(Answer::Error(405, "x"), framing, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.contains("Connection: keep-alive") && text.contains("Allow: GET"),
            "{text}"
        );
        assert!(text.ends_with("\r\n\r\n"), "no body after HEAD");
    }
}
