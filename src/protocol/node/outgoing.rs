// SPDX-License-Identifier: MIT OR Apache-2.0
//! What we say, as lines to be sent.

use serde_json::{Map, Value, json};
use std::time::Duration;

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
