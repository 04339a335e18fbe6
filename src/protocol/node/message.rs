// SPDX-License-Identifier: MIT OR Apache-2.0
//! The messages: what a worker says, parsed; what we say, as lines to be sent.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use std::fmt;
use std::time::Duration;

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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
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

/// What we say. Each becomes one line.
#[derive(Debug, Clone, PartialEq)]
pub enum Outgoing {
    /// The answer to a query: the socket comes with it.
    Shared {
        /// [`Query::key`].
        key: String,
        /// The query's number.
        ack: u64,
        /// The `data` of the first query with this key.
        data: Option<String>,
    },
    /// The answer to a query: connections will be handed over.
    Dealt {
        /// [`Query::key`].
        key: String,
        /// The query's number.
        ack: u64,
        /// The `data` of the first query with this key.
        data: Option<String>,
        /// What `server.address()` is to say; none for a socket file.
        name: Option<(String, u16)>,
    },
    /// The answer to a query: an error, as errno(3).
    Refused {
        /// [`Query::key`].
        key: String,
        /// The query's number.
        ack: u64,
        /// A positive number.
        errno: i32,
    },
    /// A connection for the server with this key, which comes with it.
    Connection {
        /// As it was given with the answer to the query.
        key: String,
    },
    /// Close all servers, and the channel when no connection is left.
    Disconnect,
    /// The answer to [`Incoming::Leaving`].
    MayLeave {
        /// Its number.
        ack: u64,
    },
    /// A descriptor that a worker sent has arrived.
    HandleAck,
    /// It has not.
    HandleNack,
    /// To the preload: stop accepting and finish.
    Drain {
        /// Idle connections are closed after this time without a request.
        quiet: Duration,
        /// The stop signal comes after this time.
        within: Duration,
        /// The whole app ends.
        hurry: bool,
    },
    /// To the preload: the process may end.
    Release {
        /// What it was told to end with just before, and acts on first: the name of a signal,
        /// or `message`.
        after: Option<&'static str>,
    },
    /// To the preload: tell your figures.
    Vitals,
    /// A message to the app: JSON text.
    User(String),
}

impl Outgoing {
    /// The line, newline included; `seq` is the number that it gets, if it has one.
    pub fn line(&self, seq: u64) -> Vec<u8> {
        let mut text = match self {
            Outgoing::User(json) => json.clone(),
            Outgoing::Connection { key } => connection(key, seq),
            _ => self.value(seq).to_string(),
        };
        text.push('\n');
        text.into_bytes()
    }

    fn value(&self, seq: u64) -> Value {
        let data = |text: &Option<String>| -> Value {
            let parsed = text.as_deref().map(serde_json::from_str);
            parsed.and_then(Result::ok).unwrap_or_default()
        };
        match self {
            Outgoing::Shared { key, ack, data: d } => with_handle(json!({
                "cmd": "NODE_CLUSTER", "errno": 0, "key": key, "ack": ack, "data": data(d),
                "seq": seq,
            })),
            Outgoing::Dealt {
                key,
                ack,
                data: d,
                name,
            } => {
                let mut answer = Map::new();
                let plain = json!({
                    "cmd": "NODE_CLUSTER", "errno": null, "key": key, "ack": ack, "data": data(d),
                    "seq": seq,
                });
                answer.extend(plain.as_object().cloned().unwrap_or_default());
                if let Some((address, port)) = name {
                    let family = if address.contains(':') {
                        "IPv6"
                    } else {
                        "IPv4"
                    };
                    let name = json!({ "address": address, "family": family, "port": port });
                    answer.insert("sockname".to_owned(), name);
                }
                Value::Object(answer)
            }
            Outgoing::Refused { key, ack, errno } => json!({
                "cmd": "NODE_CLUSTER", "errno": -errno, "key": key, "ack": ack, "data": null,
                "seq": seq,
            }),
            Outgoing::Disconnect => {
                json!({ "cmd": "NODE_CLUSTER", "act": "disconnect", "seq": seq })
            }
            Outgoing::MayLeave { ack } => {
                json!({ "cmd": "NODE_CLUSTER", "ack": ack, "seq": seq })
            }
            Outgoing::HandleAck => json!({ "cmd": "NODE_HANDLE_ACK" }),
            Outgoing::HandleNack => json!({ "cmd": "NODE_HANDLE_NACK" }),
            Outgoing::Drain {
                quiet,
                within,
                hurry,
            } => json!({
                "cmd": "NODE_APP_CLUSTER", "act": "drain", "quiet": quiet.as_millis() as u64,
                "within": within.as_millis() as u64, "hurry": hurry,
            }),
            Outgoing::Release { after } => json!({
                "cmd": "NODE_APP_CLUSTER", "act": "release", "after": after,
            }),
            Outgoing::Vitals => json!({ "cmd": "NODE_APP_CLUSTER", "act": "vitals" }),
            Outgoing::User(_) | Outgoing::Connection { .. } => Value::Null,
        }
    }
}

/// [`Outgoing::Connection`], written out: it is sent for each connection that is dealt.
fn connection(key: &str, seq: u64) -> String {
    let key = serde_json::to_string(key).unwrap_or_default();
    format!(
        r#"{{"cmd":"NODE_HANDLE","type":"net.Native","msg":{{"cmd":"NODE_CLUSTER","act":"newconn","key":{key},"seq":{seq}}}}}"#
    )
}

/// The envelope of a message that comes with a socket.
fn with_handle(message: Value) -> Value {
    json!({ "cmd": "NODE_HANDLE", "type": "net.Native", "msg": message })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_node_says() {
        let query = parse(br#"{"cmd":"NODE_CLUSTER","act":"queryServer","index":0,"data":null,"address":null,"port":41755,"addressType":4,"backlog":0,"seq":1}"#);
        let Ok(Incoming::Query { seq: 1, query }) = query else {
            panic!("{query:?}");
        };
        assert_eq!(query.key(), "null:41755:4:null:0");
        assert_eq!(query.to_string(), "port 41755");
        for (line, meant) in [
            (r#"{"cmd":"NODE_HANDLE_ACK"}"#, Incoming::HandleAck),
            (
                r#"{"cmd":"NODE_CLUSTER","ack":1,"accepted":false,"seq":4}"#,
                Incoming::Accepted {
                    ack: 1,
                    accepted: false,
                },
            ),
            (
                r#"{"cmd":"NODE_CLUSTER","act":"exitedAfterDisconnect","seq":5}"#,
                Incoming::Leaving { seq: 5 },
            ),
            (r#"{"cmd":"NODE_DEBUG_ENABLED"}"#, Incoming::Other),
            (r#""ready""#, Incoming::User("\"ready\"".to_owned())),
            ("null\r", Incoming::User("null".to_owned())),
            (
                r#"{"cmd":"mine"}"#,
                Incoming::User(r#"{"cmd":"mine"}"#.to_owned()),
            ),
            (
                r#"{"cmd":"NODE_APP_CLUSTER","act":"drained"}"#,
                Incoming::Preload(Preload::Drained),
            ),
        ] {
            assert_eq!(parse(line.as_bytes()).as_ref(), Ok(&meant), "{line}");
        }
    }

    #[test]
    fn the_short_way_says_nothing_else_than_the_long_one() {
        let accepted = Incoming::Accepted {
            ack: 8,
            accepted: true,
        };
        for (line, meant) in [
            (
                r#"{"accepted":true,"more":[{}],"ack":8,"cmd":"NODE_CLUSTER","act":null}"#,
                accepted,
            ),
            // A message of the app may look alike.
            (
                r#"{"cmd":"x","key":"NODE_","ack":8,"accepted":true}"#,
                Incoming::User(r#"{"cmd":"x","key":"NODE_","ack":8,"accepted":true}"#.to_owned()),
            ),
            (
                r#"{"cmd":"NODE_CLUSTER","act":"online","ack":8,"accepted":true}"#,
                Incoming::Online,
            ),
            (r#"{"cmd":"NODE_CLUSTER","ack":8}"#, Incoming::Other),
            (r#"{"cmd":"NODE_HANDLE_\u0041CK"}"#, Incoming::HandleAck),
        ] {
            assert_eq!(parse(line.as_bytes()), Ok(meant), "{line}");
        }
        assert!(parse(br#"{"cmd":"NODE_HANDLE_ACK"} x"#).is_err());
    }

    #[test]
    fn udp_paths_and_descriptors() {
        let asked = |fields: &str| {
            let line = format!(
                r#"{{"cmd":"NODE_CLUSTER","act":"queryServer","seq":1,"index":0,{fields}}}"#
            );
            match parse(line.as_bytes()) {
                Ok(Incoming::Query { query, .. }) => query,
                other => panic!("{other:?}"),
            }
        };
        let udp = asked(r#""address":"127.0.0.1","port":53,"addressType":"udp4","fd":-1"#);
        assert_eq!((udp.kind, udp.fd), (Kind::Udp, None));
        let path = asked(r#""address":"/run/x","port":-1,"addressType":-1"#);
        assert_eq!(
            (path.kind, path.to_string()),
            (Kind::Path, "unix:/run/x".to_owned())
        );
        let fd = asked(r#""address":null,"port":null,"addressType":null,"fd":3"#);
        assert_eq!((fd.kind, fd.fd), (Kind::Unknown, Some(3)));
        let v6 = asked(r#""address":"::1","port":80,"addressType":6"#);
        assert_eq!(v6.to_string(), "[::1]:80");
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, why) in [
            (&b""[..], "not JSON"),
            (b"{", "not JSON"),
            (b"\xff\"", "UTF-8"),
            (br#"{"cmd":"NODE_CLUSTER","act":"queryServer"}"#, "no `seq`"),
            (br#"{"cmd":"NODE_CLUSTER","seq":-1}"#, "no sense"),
            (
                br#"{"cmd":"NODE_CLUSTER","act":"close","seq":1}"#,
                "no `key`",
            ),
        ] {
            let found = parse(line).unwrap_err();
            assert!(found.contains(why), "{found}");
        }
        let deep = "[".repeat(100_000);
        assert!(parse(deep.as_bytes()).is_err());
        // Odd, but the app's own business.
        for odd in [
            format!(r#"{{"a":{deep}{},"NODE_ENV":1}}"#, "]".repeat(100_000)),
            r#"{"NODE_ENV":"\ud800"}"#.to_owned(),
            r#"{"cmd":1,"a":"NODE_X"}"#.to_owned(),
        ] {
            let heard = parse(odd.as_bytes());
            assert!(matches!(heard, Ok(Incoming::User(_))), "{heard:?}");
        }
        let handle = br#"{"cmd":"NODE_HANDLE","type":"net.Socket","msg":"\ud800"#;
        assert_eq!(parse(handle), Ok(Incoming::Handle));
        let handle = format!(r#"{{"cmd":"NODE_HANDLE","type":"net.Socket","msg":{deep}"#);
        assert_eq!(parse(handle.as_bytes()), Ok(Incoming::Handle));
        let long = format!(
            r#"{{"cmd":"NODE_CLUSTER","act":"close","key":"{}"}}"#,
            "k".repeat(5_000)
        );
        assert!(parse(long.as_bytes()).is_err());
    }

    #[test]
    fn what_we_say_is_what_nodes_primary_says() {
        let said = |message: Outgoing| {
            let line = String::from_utf8(message.line(7)).expect("UTF-8");
            assert!(line.ends_with('\n') && line.matches('\n').count() == 1);
            serde_json::from_str::<Value>(&line).expect("JSON")
        };
        let key = "null:80:4:null:0".to_owned();
        let shared = Outgoing::Shared {
            key: key.clone(),
            ack: 1,
            data: Some(r#"{"ticketKeys":"00"}"#.to_owned()),
        };
        let expected = json!({ "cmd": "NODE_HANDLE", "type": "net.Native", "msg": {
            "cmd": "NODE_CLUSTER", "errno": 0, "key": key, "ack": 1,
            "data": { "ticketKeys": "00" }, "seq": 7 } });
        assert_eq!(said(shared), expected);
        let awkward = "/run/\"x\"\n".to_owned();
        let connection = Outgoing::Connection {
            key: awkward.clone(),
        };
        let expected = json!({ "cmd": "NODE_HANDLE", "type": "net.Native", "msg": {
            "cmd": "NODE_CLUSTER", "act": "newconn", "key": awkward, "seq": 7 } });
        assert_eq!(said(connection), expected);
        let refused = Outgoing::Refused {
            key: key.clone(),
            ack: 2,
            errno: 98,
        };
        assert_eq!(said(refused)["errno"], -98);
        let dealt = Outgoing::Dealt {
            key,
            ack: 3,
            data: None,
            name: Some(("::".to_owned(), 80)),
        };
        let said = said(dealt);
        assert_eq!(said["sockname"]["family"], "IPv6");
        assert_eq!(
            (&said["errno"], &said["data"]),
            (&Value::Null, &Value::Null)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_borne(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn any_fields_are_borne(act in "[a-zA-Z]{0,20}", field in "[a-zA-Z]{1,12}", value in ".{0,20}") {
            let value = json!(value);
            let line = format!(r#"{{"cmd":"NODE_CLUSTER","act":"{act}","{field}":{value}}}"#);
            let _ = parse(line.as_bytes());
        }
    }
}
