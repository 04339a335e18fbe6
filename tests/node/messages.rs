// SPDX-License-Identifier: MIT OR Apache-2.0
//! What workers and operators say to each other.

use crate::Row;
use crate::app::{App, assert_no_crash, eval, eval_in};
use crate::dev::{Dev, wait};
use crate::node_tools::Node;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};

pub const ROWS: &[Row] = &[
    ("message_every_kind_of_value", values),
    ("message_long_both_ways", long),
    ("message_while_the_worker_is_busy", busy),
    ("message_by_cluster_worker", cluster_worker),
    ("message_with_a_socket_is_acknowledged", socket),
    ("message_last_words_of_a_worker", last_words),
    ("message_flood_and_never_read", flood),
    ("message_followers_are_bounded", followers),
];

/// They leave connections to the control socket for others.
fn followers(node: &Node) -> Result<(), String> {
    let dev = App::kit(node).start();
    let all: Vec<Follow> = (0..16).map(|_| Follow::start(&dev)).collect();
    let refused = dev.cli(&["messages", "web", "--follow"]);
    refused.failed(1, &["16 clients follow the messages already"]);
    dev.cli(&["reload", "web"]).succeeded();
    drop(all);
    drop(Follow::start(&dev));
    dev.stop();
    Ok(())
}

/// `messages --follow`, line by line.
pub struct Follow {
    child: Child,
    lines: Receiver<String>,
    pub seen: Vec<String>,
}

impl Follow {
    /// Starts it and waits until it is there.
    pub fn start(dev: &Dev) -> Follow {
        let mut command = dev.command(&["messages", &dev.name, "--follow"]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("messages");
        let stdout = BufReader::new(child.stdout.take().expect("its output"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut follow = Follow {
            child,
            lines,
            seen: Vec::new(),
        };
        // It says nothing of its own: it is there when a message comes through.
        wait("the follower follows", || {
            let ended = follow.child.try_wait().expect("wait");
            assert_eq!(ended, None, "messages --follow has ended");
            eval(dev, "process.send('are you there?')");
            follow.drain();
            follow
                .seen
                .iter()
                .any(|l| l.contains("are you there?"))
                .then_some(())
        });
        follow.seen.clear();
        follow
    }

    fn drain(&mut self) {
        let pause = std::time::Duration::from_millis(50);
        while let Ok(line) = self.lines.recv_timeout(pause) {
            self.seen.push(line);
        }
    }

    /// The first line with this in it, since the last such call; earlier ones are dropped.
    #[track_caller]
    pub fn wait_for(&mut self, part: &str) -> String {
        wait(&format!("a message with {part:.200}"), || {
            self.drain();
            let at = self.seen.iter().position(|line| line.contains(part))?;
            self.seen.drain(..=at).next_back()
        })
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends it to slot 0.
fn send(dev: &Dev, value: &Value) {
    let text = value.to_string();
    dev.cli(&["send", "web[0]", &text]).succeeded();
}

fn values(node: &Node) -> Result<(), String> {
    let all =
        json!(["ready", { "op": 1 }, 5, null, false, [], "ä😀\u{2028}\n\u{0}", { "cmd": "x" }]);
    let dev = App::kit(node).workers(1).start();
    let mut follow = Follow::start(&dev);
    for value in all.as_array().into_iter().flatten() {
        eval(
            &dev,
            &format!("process.send({value}); process.send('next')"),
        );
        let line = follow.wait_for("next");
        assert!(
            line.contains("web[0]") || line.contains("\"slot\":0"),
            "{line}"
        );
        send(&dev, value);
    }
    wait("all messages", || {
        (eval(&dev, "return seen") == all).then_some(())
    });
    // What is for Node itself is no message.
    eval(
        &dev,
        "process.send({ cmd: 'NODE_SOMETHING' }); process.send('the end')",
    );
    follow.wait_for("the end");
    assert!(follow.seen.iter().all(|l| !l.contains("NODE_SOMETHING")));
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

fn long(node: &Node) -> Result<(), String> {
    let dev = App::kit(node).workers(1).start();
    let mut follow = Follow::start(&dev);
    // More than a socket buffer, less than what is a flood.
    eval(
        &dev,
        "process.send({ a: 'x'.repeat(900_000), end: 'of it' })",
    );
    let line = follow.wait_for("of it");
    assert!(line.len() > 900_000, "{}", line.len());
    for letter in ["a", "b", "c"] {
        // An argument of a command is at most 128 kB long.
        send(&dev, &json!({ "long": letter.repeat(120_000) }));
    }
    wait("all messages", || {
        let lengths = eval(&dev, "return seen.map((m) => m.long && m.long.length)");
        (lengths == json!([120_000, 120_000, 120_000])).then_some(())
    });
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

/// Messages that do not fit into the socket are not torn by what comes after them.
fn busy(node: &Node) -> Result<(), String> {
    let dev = App::kit(node)
        .workers(1)
        .keys("blocked_timeout = \"200ms\"")
        .start();
    eval(
        &dev,
        "setTimeout(() => { const end = Date.now() + 3000; while (Date.now() < end); }, 20)",
    );
    for number in 0..8 {
        send(
            &dev,
            &json!({ "number": number, "filler": "y".repeat(100_000) }),
        );
    }
    // In balance or not: it is the only one.
    wait("all messages", || {
        let numbers = eval(&dev, "return seen.map((m) => m.number)");
        (numbers == json!([0, 1, 2, 3, 4, 5, 6, 7])).then_some(())
    });
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

fn cluster_worker(node: &Node) -> Result<(), String> {
    let dev = App::kit(node).start();
    let mut follow = Follow::start(&dev);
    let code = "kept.seen = []; const { worker } = require('cluster'); \
        worker.on('message', (m) => kept.seen.push(m)); worker.send({ by: 'worker.send' }); \
        return [worker.id, worker.isConnected(), worker.isDead(), process.connected];";
    let told = eval_in(&dev, 0, code);
    assert_eq!(told, json!([told[0], true, false, true]));
    let id = dev.status().slots[0].worker;
    assert_eq!(told[0], json!(id));
    follow.wait_for("worker.send");
    dev.cli(&["send", "web", "{\"all\":true}"]).succeeded();
    for slot in 0..2 {
        wait("the broadcast", || {
            let code = "return [seen, kept.seen]";
            (eval_in(&dev, slot, code)[0] == json!([{ "all": true }])).then_some(())
        });
    }
    assert_eq!(
        eval_in(&dev, 0, "return kept.seen"),
        json!([{ "all": true }])
    );
    dev.stop();
    Ok(())
}

/// Without an acknowledgement no later message would come.
fn socket(node: &Node) -> Result<(), String> {
    let dev = App::kit(node).workers(1).start();
    let mut follow = Follow::start(&dev);
    let code = "const net = require('net'); \
        const own = net.createServer((s) => { process.send({ conn: 1 }, s); process.send('after'); }); \
        await new Promise((done) => own.listen({ port: 0, exclusive: true }, done)); \
        const client = net.connect(own.address().port); \
        await new Promise((done) => client.once('close', done).resume()); own.close();";
    eval(&dev, code);
    follow.wait_for("after");
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

fn last_words(node: &Node) -> Result<(), String> {
    let dev = App::kit(node).start();
    let mut follow = Follow::start(&dev);
    let pid = dev.pids()[0];
    let code = "setTimeout(() => { for (let i = 0; i < 20; i++) process.send({ last: i }); \
        process.exit(0); }, 20);";
    eval_in(&dev, 0, code);
    for number in 0..20 {
        follow.wait_for(&format!("{{\"last\":{number}}}"));
    }
    dev.until("another worker", |s| {
        s.workers.ready == 2 && s.slots[0].pid != Some(pid)
    });
    dev.stop();
    Ok(())
}

/// A follower that does not read and a worker that talks all the time: the supervisor drops
/// messages, and its memory stays as it is.
fn flood(node: &Node) -> Result<(), String> {
    let dev = App::kit(node).start();
    let mut command = dev.command(&["messages", "web", "--follow"]);
    let mut deaf = command.stdout(Stdio::piped()).spawn().expect("messages");
    let code = "const text = 'z'.repeat(10_000); let n = 0; \
        await new Promise((done) => { (function more() { \
          for (let i = 0; i < 100; i++) process.send({ n: n++, text }); \
          if (n < 20_000) setImmediate(more); else process.send('end', done); })(); });";
    eval_in(&dev, 0, code);
    let memory = crate::hostile::peak_memory(dev.pid());
    assert!(memory < 64 << 20, "{memory} bytes\n{}", dev.output());
    assert_eq!(eval_in(&dev, 1, "return 1"), 1);
    deaf.kill().expect("a kill");
    deaf.wait().expect("its end");
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}
