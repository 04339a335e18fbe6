// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages where there are no Node workers, and callers of the control socket that make
//! little sense; with Node: tests/node.

use crate::dev::Setup;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

#[test]
fn workers_without_a_channel() {
    let dev = Setup::new("web").workers(2).start();
    dev.cli(&["send", "web", "1"]).failed(
        1,
        &[
            "the worker of slot 0 has no channel (it is no Node worker",
            "; 0 workers got it",
        ],
    );
    dev.cli(&["send", "web[1]", "1"])
        .failed(1, &["the worker of slot 1 has no channel"]);
    dev.cli(&["send", "web[2]", "1"])
        .failed(4, &["there is no slot 2: they are 0 to 1"]);
    dev.cli(&["messages", "web"])
        .failed(1, &["the workers have no channel"]);
    let status = dev.cli(&["status", "web"]).succeeded().stdout;
    assert!(
        !status.contains("LAG") && !status.contains("Companion"),
        "{status}"
    );
    dev.stop();
}

#[test]
fn calls_about_messages() {
    let dev = Setup::new("web").workers(1).start();
    let call = |text: &str| {
        let path = dev.path("run/web/control");
        let mut stream = UnixStream::connect(path).expect("a connection");
        stream.write_all(text.as_bytes()).expect("a call");
        stream.write_all(b"\0").expect("a call");
        let mut reply = Vec::new();
        BufReader::new(stream)
            .read_until(0, &mut reply)
            .expect("a reply");
        reply.pop();
        serde_json::from_slice::<Value>(&reply).expect("JSON")
    };
    let method = |name: &str, rest: &str| {
        call(&format!(
            "{{\"method\":\"org.appcluster.Cluster1.{name}\",{rest}}}"
        ))
    };
    let error = method("Subscribe", "\"parameters\":{}");
    assert_eq!(error["error"], "org.varlink.service.ExpectedMore");
    let error = method("Subscribe", "\"more\":true");
    assert_eq!(error["error"], "org.appcluster.Cluster1.InvalidParameter");
    let error = method("Send", "\"parameters\":{\"message\":1}");
    let parameters = error["parameters"].clone();
    assert_eq!(error["error"], "org.appcluster.Cluster1.NotDelivered");
    assert_eq!(parameters["workers"], json!(0));
    for wrong in ["{}", "{\"message\":1,\"slot\":-1}", "[]", "null"] {
        let error = method("Send", &format!("\"parameters\":{wrong}"));
        assert_eq!(
            error["error"], "org.varlink.service.InvalidParameter",
            "{wrong}"
        );
    }
    // A long message goes through, of any other call nothing is as long.
    let long = "x".repeat(200_000);
    let error = method(
        "Send",
        &format!("\"parameters\":{{\"message\":\"{long}\"}}"),
    );
    assert_eq!(error["error"], "org.appcluster.Cluster1.NotDelivered");
    let error = method("Scale", &format!("\"parameters\":{{\"kept\":\"{long}\"}}"));
    assert_eq!(error["error"], "org.varlink.service.InvalidParameter");
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let error = method("Send", &format!("\"parameters\":{{\"message\":{deep}}}"));
    assert_eq!(error["error"], "org.appcluster.Cluster1.NotDelivered");
    dev.stop();
}
