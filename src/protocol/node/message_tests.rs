// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages as Node writes and reads them.

use super::*;
use crate::protocol::node::outgoing::Outgoing;
use proptest::prelude::*;
use serde_json::json;

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
        let line =
            format!(r#"{{"cmd":"NODE_CLUSTER","act":"queryServer","seq":1,"index":0,{fields}}}"#);
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
