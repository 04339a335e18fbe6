// SPDX-License-Identifier: MIT OR Apache-2.0
//! Having a supervisor execute its program again.

use crate::dev::Dev;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

/// Asks for it over the control socket: the answer.
pub fn call(dev: &Dev, now: bool) -> Value {
    let path = dev.path(&format!("run/{}/control", dev.name));
    let mut stream = UnixStream::connect(path).expect("a connection");
    let call = json!({
        "method": "org.appcluster.Cluster1.Upgrade", "parameters": { "now": now },
    });
    let text = format!("{call}\0");
    stream.write_all(text.as_bytes()).expect("a call");
    let mut reply = Vec::new();
    let mut reader = BufReader::new(stream);
    reader.read_until(0, &mut reply).expect("a reply");
    reply.pop();
    serde_json::from_slice(&reply).unwrap_or_else(|error| panic!("{error}\n{}", dev.output()))
}

/// The error of a call that was refused.
pub fn refusal(dev: &Dev) -> String {
    let reply = call(dev, false);
    let name = "org.appcluster.Cluster1.CannotUpgrade";
    assert_eq!(reply["error"], name, "{reply}\n{}", dev.output());
    let text = reply["parameters"]["message"].as_str();
    text.expect("a message").to_owned()
}

/// Has it execute its program again, by signal or by call in turn, and waits until it has: same
/// process, same workers.
pub fn upgrade(dev: &Dev) {
    let before = dev.until("a status", |_| true);
    let next = before.incarnation + 1;
    if next.is_multiple_of(2) {
        dev.signal(Signal::SIGUSR2);
    } else {
        let reply = call(dev, false);
        let told = &reply["parameters"]["incarnation"];
        assert_eq!(told, &json!(next), "{reply}\n{}", dev.output());
    }
    let after = dev.until("the next incarnation", |s| s.incarnation == next);
    let workers = |status: &app_cluster::api::Status| -> Vec<_> {
        let slots = status.slots.iter();
        slots.map(|s| (s.worker, s.pid, s.restarts)).collect()
    };
    assert_eq!(workers(&after), workers(&before), "{}", dev.output());
    assert_eq!(after.pid, before.pid);
    assert_eq!(after.taken_over.map(|t| t.how).as_deref(), Some("re-exec"));
}
