// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a worker says, parsed.

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use std::fmt;

/// Longest key, path or address that is taken from a worker, in bytes.
const MAX_TEXT: usize = 4096;

/// What a worker says.
#[derive(Debug, Clone, PartialEq)]
pub enum Incoming {
    /// Its cluster module is set up; the app has not begun.
    Online,
    /// It wants to listen.
    Query {
        /// To be given back with the answer.
        seq: u64,
        /// Where.
        query: Query,
    },
    /// It listens there.
    Listening(Query),
    /// It has closed the server with this key.
    Close {
        /// As it was given with the answer to the query.
        key: String,
    },
    /// It will disconnect by itself, and waits for an answer.
    Leaving {
        /// To be given back with the answer.
        seq: u64,
    },
    /// The answer to a connection that was handed to it.
    Accepted {
        /// The number that the connection was sent with.
        ack: u64,
        /// `false`: it has not taken it.
        accepted: bool,
    },
    /// A descriptor has arrived.
    HandleAck,
    /// A descriptor has not arrived.
    HandleNack,
    /// A message of the app with a socket, which came as a descriptor.
    Handle,
    /// Something of our own preload.
    Preload(Preload),
    /// A message of the app (`process.send`): JSON text without a newline.
    User(String),
    /// A message of Node that means nothing to us.
    Other,
}

/// Where an app listens, as Node describes it (lib/internal/cluster/child.js).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Query {
    /// Address or path.
    pub address: Option<String>,
    /// TCP port; -1 for a path.
    pub port: Option<i64>,
    /// What kind of address.
    pub kind: Kind,
    /// The number of a descriptor of ours, in place of an address.
    pub fd: Option<i64>,
    /// Servers of one process on the same address are counted from 0.
    pub index: u64,
    /// Session ticket keys of a TLS server, as JSON; opaque.
    pub data: Option<String>,
    /// UV_TCP_IPV6ONLY is 1 (uv.h).
    pub flags: u64,
    /// A socket file is to be readable, writable, for everybody.
    pub everybody: (bool, bool),
}

/// What kind of address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum Kind {
    /// TCP over IPv4, and over IPv6 too where no address is named.
    #[default]
    V4,
    /// TCP over IPv6.
    V6,
    /// A socket file.
    Path,
    /// UDP.
    Udp,
    /// None is said, as with `fd`.
    Unknown,
}

/// What our preload says.
#[derive(Debug, Clone, PartialEq)]
pub enum Preload {
    /// It is in force.
    Hello {
        /// The version of Node.
        node: String,
    },
    /// It has begun to drain.
    Draining {
        /// Names of the signals that the app acts on.
        signals: Vec<String>,
    },
    /// No connection is left.
    Drained,
    /// A server opens its port by itself.
    Alone {
        /// The port.
        port: u16,
        /// The option of `listen()` that says so.
        option: &'static str,
    },
    /// Figures of the event loop.
    Vitals {
        /// Share of the time that the event loop was busy, 0 to 1.
        utilization: f64,
        /// Bytes used of the heap.
        heap: u64,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    act: Option<String>,
    seq: Option<u64>,
    ack: Option<u64>,
    accepted: Option<bool>,
    key: Option<String>,
    address: Option<String>,
    port: Option<i64>,
    address_type: Option<Value>,
    fd: Option<i64>,
    index: Option<u64>,
    flags: Option<u64>,
    data: Option<Value>,
    readable_all: Option<bool>,
    writable_all: Option<bool>,
    node: Option<String>,
    signals: Option<Vec<String>>,
    option: Option<String>,
    utilization: Option<f64>,
    heap: Option<u64>,
}

/// Reads one line, without its newline.
///
/// # Errors
/// It is not JSON, or not what Node sends; the text says so.
pub fn parse(line: &[u8]) -> Result<Incoming, String> {
    if comes_with_a_descriptor(line) {
        return Ok(Incoming::Handle);
    }
    let text = std::str::from_utf8(line).map_err(|_| "it is not UTF-8".to_owned())?;
    let wrong = |e: serde_json::Error| format!("it is not JSON: {e}");
    if text.contains("\"NODE_")
        && let Some(frequent) = frequent(text)
    {
        return Ok(frequent);
    }
    // Messages of the app may be large, and odd; nothing else needs to be known of them.
    let command = match serde_json::from_str::<Head>(text) {
        Ok(head) => head
            .cmd
            .and_then(|cmd| serde_json::from_str(cmd.get()).ok()),
        Err(_) => {
            let _: IgnoredAny = serde_json::from_str(text).map_err(wrong)?;
            None
        }
    };
    let internal = command.filter(|command: &String| command.starts_with("NODE_"));
    match internal.as_deref() {
        None => Ok(Incoming::User(text.trim().to_owned())),
        Some("NODE_HANDLE_ACK") => Ok(Incoming::HandleAck),
        Some("NODE_HANDLE_NACK") => Ok(Incoming::HandleNack),
        Some("NODE_HANDLE") => Ok(Incoming::Handle),
        Some("NODE_CLUSTER") => cluster(raw(text)?),
        Some("NODE_APP_CLUSTER") => Ok(preload(raw(text)?)),
        Some(_) => Ok(Incoming::Other),
    }
}

/// Whether a line is one that Node sends with a descriptor, whatever the rest of it is: it has
/// to be acknowledged.
pub fn comes_with_a_descriptor(line: &[u8]) -> bool {
    line.starts_with(br#"{"cmd":"NODE_HANDLE","#)
}

/// Whether nothing but an answer is repeated if the line is acted upon by two supervisors, one
/// after the other. It is so of Node's own messages, but for those with a descriptor.
pub fn may_be_read_twice(line: &[u8]) -> bool {
    !matches!(
        parse(line),
        Err(_) | Ok(Incoming::User(_) | Incoming::Handle)
    )
}

/// What says whose a message is.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    cmd: Option<&'a RawValue>,
}

/// What matters of the two lines that each connection brings.
#[derive(Deserialize)]
struct Frequent<'a> {
    cmd: &'a str,
    act: Option<IgnoredAny>,
    ack: Option<u64>,
    accepted: Option<bool>,
}

/// These two, without a detour: they come for each connection that is dealt.
fn frequent(text: &str) -> Option<Incoming> {
    let line: Frequent = serde_json::from_str(text).ok()?;
    match (line.cmd, line.act, line.ack, line.accepted) {
        ("NODE_HANDLE_ACK", ..) => Some(Incoming::HandleAck),
        ("NODE_CLUSTER", None, Some(ack), Some(accepted)) => {
            Some(Incoming::Accepted { ack, accepted })
        }
        _ => None,
    }
}

fn raw(text: &str) -> Result<Raw, String> {
    let raw: Raw = serde_json::from_str(text).map_err(|e| format!("it makes no sense: {e}"))?;
    let texts = [&raw.key, &raw.address, &raw.node];
    let longest = texts.into_iter().flatten().map(String::len).max();
    match longest > Some(MAX_TEXT) {
        true => Err("a text in it is too long".to_owned()),
        false => Ok(raw),
    }
}

fn cluster(raw: Raw) -> Result<Incoming, String> {
    let seq = || raw.seq.ok_or_else(|| "it has no `seq`".to_owned());
    match raw.act.as_deref() {
        Some("online") => Ok(Incoming::Online),
        Some("queryServer") => Ok(Incoming::Query {
            seq: seq()?,
            query: query(raw),
        }),
        Some("listening") => Ok(Incoming::Listening(query(raw))),
        Some("close") => Ok(Incoming::Close {
            key: raw.key.ok_or("it has no `key`")?,
        }),
        Some("exitedAfterDisconnect") => Ok(Incoming::Leaving { seq: seq()? }),
        Some(_) => Ok(Incoming::Other),
        None => Ok(match (raw.ack, raw.accepted) {
            (Some(ack), Some(accepted)) => Incoming::Accepted { ack, accepted },
            _ => Incoming::Other,
        }),
    }
}

fn query(raw: Raw) -> Query {
    let kind = match &raw.address_type {
        Some(Value::Number(n)) => match n.as_i64() {
            Some(4) => Kind::V4,
            Some(6) => Kind::V6,
            Some(-1) => Kind::Path,
            _ => Kind::Unknown,
        },
        Some(Value::String(name)) if name.starts_with("udp") => Kind::Udp,
        _ => Kind::Unknown,
    };
    Query {
        address: raw.address,
        port: raw.port,
        kind,
        // `dgram` says -1 where it means none.
        fd: raw.fd.filter(|fd| *fd >= 0),
        index: raw.index.unwrap_or(0),
        flags: raw.flags.unwrap_or(0),
        data: raw.data.filter(|d| !d.is_null()).map(|d| d.to_string()),
        everybody: (
            raw.readable_all == Some(true),
            raw.writable_all == Some(true),
        ),
    }
}

fn preload(raw: Raw) -> Incoming {
    match raw.act.as_deref() {
        Some("hello") => Incoming::Preload(Preload::Hello {
            node: raw.node.unwrap_or_default(),
        }),
        Some("draining") => Incoming::Preload(Preload::Draining {
            signals: raw.signals.unwrap_or_default(),
        }),
        Some("drained") => Incoming::Preload(Preload::Drained),
        Some("alone") => match raw.port.and_then(|port| u16::try_from(port).ok()) {
            Some(port) => Incoming::Preload(Preload::Alone {
                port,
                option: match raw.option.as_deref() {
                    Some("reusePort") => "reusePort",
                    _ => "exclusive",
                },
            }),
            None => Incoming::Other,
        },
        Some("vitals") => Incoming::Preload(Preload::Vitals {
            utilization: raw.utilization.unwrap_or(0.0).clamp(0.0, 1.0),
            heap: raw.heap.unwrap_or(0),
        }),
        _ => Incoming::Other,
    }
}

impl Query {
    /// The key that the worker knows the server by: unique among those of a worker, since it
    /// is made of all that tells queries apart.
    pub fn key(&self) -> String {
        let part = |value: Option<String>| value.unwrap_or_else(|| "null".to_owned());
        format!(
            "{}:{}:{}:{}:{}",
            part(self.address.clone()),
            part(self.port.map(|p| p.to_string())),
            match self.kind {
                Kind::V4 => "4",
                Kind::V6 => "6",
                Kind::Path => "-1",
                Kind::Udp => "udp",
                Kind::Unknown => "undefined",
            },
            part(self.fd.map(|fd| fd.to_string())),
            self.index,
        )
    }
}

/// The place, for people.
impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address.as_deref().unwrap_or("");
        // It comes from a worker.
        let address: String = address.chars().filter(|c| !c.is_control()).collect();
        match (self.kind, self.port, self.fd) {
            (Kind::Path, _, _) => write!(f, "unix:{address}"),
            (_, _, Some(fd)) => write!(f, "descriptor {fd}"),
            (_, Some(port), _) if address.is_empty() => write!(f, "port {port}"),
            (_, Some(port), _) if address.contains(':') => write!(f, "[{address}]:{port}"),
            (_, Some(port), _) => write!(f, "{address}:{port}"),
            _ => write!(f, "{address}"),
        }
    }
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
