// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is on its way when the supervisor executes its program again arrives.

use crate::Row;
use crate::app::{App, assert_no_crash, eval, eval_in};
use crate::dev::{Dev, WITHIN, scale, wait};
use crate::node_tools::Node;
use crate::upgrades::upgrade;
use serde_json::json;
use std::time::Duration;

pub const ROWS: &[Row] = &[
    ("upgrade_with_a_full_channel", full),
    ("upgrade_loses_no_message", messages),
];

/// What waits because a worker does not read goes on in its order: messages, of which one has
/// been sent in part, and connections behind them.
fn full(node: &Node) -> Result<(), String> {
    let dev = App::kit(node)
        .workers(1)
        .keys("balance = \"round-robin\"\nblocked_timeout = \"60s\"")
        .start();
    let file = dev.path("go-on").display().to_string();
    let block = format!(
        "setTimeout(() => {{ const fs = require('fs'); const end = Date.now() + 60_000; \
         while (!fs.existsSync({file:?}) && Date.now() < end); kept.over = true; }}, 20)"
    );
    eval(&dev, &block);
    for number in 0..5 {
        let text = json!({ "number": number, "filler": "y".repeat(100_000) });
        let text = text.to_string();
        dev.cli(&["send", "web[0]", &text]).succeeded();
    }
    let address = dev.address();
    let ask = || std::thread::spawn(move || crate::app::request(address, "GET /", ""));
    let asked: Vec<_> = (0..8).map(|_| ask()).collect();
    // One is on its way by now.
    wait("connections are accepted", || {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", dev.pid()));
        let sockets = fds.expect("descriptors").flatten();
        let accepted = sockets.filter(|fd| {
            let target = std::fs::read_link(fd.path()).unwrap_or_default();
            established(&target.to_string_lossy())
        });
        (accepted.count() > 0).then_some(())
    });
    for _ in 0..2 {
        upgrade(&dev);
    }
    dev.write("go-on", "");
    for one in asked {
        one.join().expect("a thread").expect("an answer");
    }
    // It was blocked until after that.
    assert_eq!(eval(&dev, "return kept.over"), json!(true));
    let numbers = eval(&dev, "return seen.map((m) => m.number)");
    assert_eq!(numbers, json!([0, 1, 2, 3, 4]));
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

/// Whether `socket:[INODE]` is a TCP connection (proc_pid_net(5)).
fn established(socket: &str) -> bool {
    let inode = socket
        .strip_prefix("socket:[")
        .and_then(|s| s.strip_suffix(']'));
    let table = std::fs::read_to_string("/proc/self/net/tcp").expect("connections");
    let mut rows = table.lines().map(|row| row.split_ascii_whitespace());
    rows.any(|mut row| {
        let state = row.nth(3).is_some_and(|state| state == "01");
        state && row.nth(5) == inode
    })
}

/// Whether `numbers` are those from 0 on.
#[track_caller]
fn without_gaps(numbers: &[u64], dev: &Dev) {
    let first = numbers
        .iter()
        .enumerate()
        .find(|(n, number)| *n as u64 != **number);
    assert_eq!(first, None, "of {}\n{}", numbers.len(), dev.output());
}

/// Workers talk to the companion and it to them, all the time; long messages too.
fn messages(node: &Node) -> Result<(), String> {
    let script = "const fs = require('fs'); const out = fs.createWriteStream('heard'); \
        process.on('message', (m) => out.write(m.message.n + ' ' + m.slot + ' ' + m.message.text.length + '\\n')); \
        let k = 0; setInterval(() => process.send({ to: 'all', message: { k: k++, text: 'y'.repeat(k % 100 ? 10 : 90000) } }), 2);";
    let words = [crate::app::word(node), "-e", script];
    let dev = App::kit(node)
        .keys(&format!("companion = {{ command = {words:?} }}"))
        .start();
    let code = "kept.n = 0; kept.timer = setInterval(() => process.send({ n: kept.n++, \
        text: 'x'.repeat(kept.n % 100 ? 10 : 300_000) }), 5);";
    for slot in 0..2 {
        eval_in(&dev, slot, code);
    }
    let companion = dev.status().companion.expect("a companion").pid;
    for number in 0..scale(10, 5) {
        upgrade(&dev);
        let text = json!({ "sent": number }).to_string();
        dev.cli(&["send", "web[0]", &text]).succeeded();
    }
    let now = dev.status().companion.expect("a companion");
    assert_eq!((now.pid, now.restarts, now.lost), (companion, 0, 0));
    for slot in 0..2u32 {
        let sent = eval_in(&dev, slot, "clearInterval(kept.timer); return kept.n");
        let sent = sent.as_u64().expect("a number");
        assert!(sent > 50, "{sent}");
        let mut numbers = Vec::new();
        let deadline = std::time::Instant::now() + WITHIN;
        while (numbers.len() as u64) < sent {
            let heard = std::fs::read_to_string(dev.path("heard")).expect("what it heard");
            let words = heard
                .lines()
                .map(|line| line.split(' ').collect::<Vec<_>>());
            let own = words.filter(|w| w.len() == 3 && w[1] == slot.to_string());
            numbers = own.map(|w| w[0].parse().expect("a number")).collect();
            // What is missing says more than that something is.
            if std::time::Instant::now() > deadline {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        without_gaps(&numbers, &dev);
        assert_eq!(numbers.len() as u64, sent, "{}", dev.output());
        let seen = eval_in(
            &dev,
            slot,
            "return seen.filter((m) => 'k' in m).map((m) => m.k)",
        );
        let seen: Vec<u64> = serde_json::from_value(seen).expect("numbers");
        // It may have been started a moment after the companion.
        let first = seen.first().copied().unwrap_or(0);
        let seen: Vec<u64> = seen.into_iter().map(|k| k - first).collect();
        assert!(seen.len() > 50, "{}", seen.len());
        without_gaps(&seen, &dev);
    }
    let sent = eval_in(&dev, 0, "return seen.filter((m) => 'sent' in m).length");
    assert_eq!(sent, json!(scale(10, 5)));
    let output = dev.output();
    assert!(!output.contains("was dropped"), "{output}");
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}
