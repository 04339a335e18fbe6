// SPDX-License-Identifier: MIT OR Apache-2.0
//! A companion, which gets what workers send and sends to them; and the example of one.

use crate::Row;
use crate::app::{App, assert_no_crash, eval, eval_in, request, word};
use crate::dev::{Dev, Setup, wait};
use crate::hostile::peak_memory;
use crate::node_tools::Node;
use app_cluster::api::CompanionStatus;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

pub const ROWS: &[Row] = &[
    ("companion_of_the_example", example),
    ("companion_in_any_language", shell),
    ("companion_that_cannot_live", short_lived),
    ("companion_that_never_reads", deaf),
    ("companion_that_does_not_end", stubborn),
    ("companion_comes_and_goes_by_reloads", by_reload),
];

/// Keys with a shell script as the companion.
fn with_shell(script: &str) -> String {
    format!("companion = {{ command = [\"sh\", \"-c\", {script:?}] }}")
}

fn companion(dev: &Dev) -> CompanionStatus {
    dev.status().companion.expect("a companion")
}

fn get(dev: &Dev, path: &str) -> Value {
    request(dev.address(), &format!("GET {path}"), "").expect("an answer")
}

/// What a worker of the example finds out from its companion; `null` while
/// that is being replaced.
fn stats(dev: &Dev) -> Value {
    wait("the companion answers", || {
        let answer = request(dev.address(), "GET /stats", "").expect("an answer");
        (!answer.is_null()).then_some(answer)
    })
}

fn example(node: &Node) -> Result<(), String> {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/node/companion");
    let text = std::fs::read_to_string(files.join("app-cluster.toml")).expect("the example");
    let text = text.replace("/srv/companion", "[HOME]");
    let text = text.replace("\"node\"", &format!("{:?}", word(node)));
    let setup = Setup::with_config(&text);
    for name in ["app.js", "primary.js"] {
        std::fs::copy(files.join(name), setup.path(name)).expect("a copy");
    }
    let dev = setup.start();
    for _ in 0..10 {
        get(&dev, "/");
    }
    wait("all requests are counted", || {
        let told = stats(&dev);
        let by_slot = told["bySlot"].as_object().expect("counts").values();
        let sum: u64 = by_slot.filter_map(Value::as_u64).sum();
        assert_eq!(told["requests"], sum);
        (sum == 10).then_some(())
    });
    // From one worker to all.
    get(&dev, "/broadcast?text=hello");
    let mut slots = vec![0, 1, 2, 3];
    wait("every worker has the news", || {
        let answer = get(&dev, "/");
        if answer["news"] == "hello" {
            slots.retain(|slot| answer["slot"] != *slot);
        }
        slots.is_empty().then_some(())
    });
    // One that ends is started again; the workers have not noticed.
    let (pids, first) = (dev.pids(), companion(&dev));
    kill(Pid::from_raw(first.pid.expect("a pid")), Signal::SIGKILL).expect("a kill");
    let again = dev.until("another companion", |s| {
        let companion = s.companion.as_ref().expect("a companion");
        companion.state == "running" && companion.pid != first.pid
    });
    let again = again.companion.expect("a companion");
    assert_eq!(again.restarts, 1);
    assert_eq!(again.last_exit.as_deref(), Some("was killed by SIGKILL"));
    assert_eq!(stats(&dev)["requests"], 0);
    assert_eq!(dev.pids(), pids);
    // A reload replaces it when it is through.
    dev.cli(&["reload", "web"]).succeeded();
    let newest = dev.until("its replacement", |s| {
        let companion = s.companion.as_ref().expect("a companion");
        companion.state == "running" && companion.generation == Some(2)
    });
    assert_eq!(newest.companion.map(|c| c.restarts), Some(1));
    get(&dev, "/");
    wait("requests are counted", || {
        (stats(&dev)["requests"] != 0).then_some(())
    });
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

/// It answers each message, finds a worker's environment without what is a single worker's,
/// and ends after the last worker.
fn shell(node: &Node) -> Result<(), String> {
    let script = "env > env; echo begun; trap 'echo it is over; exit 0' TERM; \
        printf '%s\\n' '{\"to\":\"all\"}' '{\"to\":99,\"message\":1}' >&3; \
        printf '%s\\n' '{\"to\":0,\"message\":{\"cmd\":\"NODE_HANDLE_ACK\"}}' >&3; \
        while read -r line <&3; do \
          case $line in *'\"ask\"'*) \
            printf '{\"to\":[0,1,0],\"message\":{\"heard\":%s}}\\n' \"$line\" >&3;; \
          esac; done";
    let dev = App::kit(node)
        .keys(&with_shell(script))
        .keys("environment = { COLOUR = \"blue\" }")
        .start();
    // What was said before its time is not lost: it was there before the workers.
    assert!(dev.wait_for_line("begun").starts_with("web[companion] "));
    let output = dev.output();
    let at = |part: &str| {
        output
            .find(part)
            .unwrap_or_else(|| panic!("{part}:\n{output}"))
    };
    assert!(at("companion") < at("slot 0: worker"));
    dev.wait_for_line(
        "a message of it was dropped, it is not {\"to\": {\"worker\": N}, SLOT or \"all\"",
    );
    dev.wait_for_line("its `cmd` begins with NODE_");
    dev.wait_for_line("slot 99 has no worker now");
    let environment = std::fs::read_to_string(dev.path("env")).expect("its environment");
    for line in ["COLOUR=blue", "APP_CLUSTER_NAME=web", "NODE_CHANNEL_FD=3"] {
        assert!(environment.lines().any(|l| l == line), "{environment}");
    }
    for name in [
        "APP_CLUSTER_SLOT",
        "NODE_UNIQUE_ID",
        "NOTIFY_SOCKET",
        "LISTEN_FDS",
    ] {
        assert!(!environment.contains(name), "{environment}");
    }
    eval_in(&dev, 1, "process.send({ ask: 'ä' })");
    let worker = dev.slot(1).worker;
    let heard = json!([{ "heard": { "slot": 1, "worker": worker, "message": { "ask": "ä" } } }]);
    for slot in 0..2 {
        wait("the answer", || {
            (eval_in(&dev, slot, "return seen") == heard).then_some(())
        });
    }
    // Its end comes after the workers'.
    dev.signal(Signal::SIGTERM);
    assert!(dev.wait_for_line("it is over").contains("web[companion]"));
    let output = finish(dev);
    let ends: Vec<&str> = output
        .lines()
        .filter(|line| line.ends_with("exited with status 0, as requested"))
        .collect();
    assert_eq!(ends.len(), 3, "{output}");
    assert!(ends[2].contains("companion"), "{output}");
    Ok(())
}

/// It has been told to stop already. Returns all it wrote.
fn finish(mut dev: Dev) -> String {
    let status = dev.ended();
    let output = dev.output();
    assert!(status.success(), "{status}\n{output}");
    dev.assert_gone();
    output
}

/// One that ends at once is started again with growing delays, and harms nobody. What was
/// sent meanwhile waits for it.
fn short_lived(node: &Node) -> Result<(), String> {
    let script = "if [ -e live ]; then cat <&3 > heard; fi; exit 7";
    let dev = App::kit(node)
        .keys(&with_shell(script))
        .keys("backoff_min = \"100ms\"\nbackoff_max = \"300ms\"")
        .start();
    for delay in ["100ms", "200ms", "300ms"] {
        let line = format!("exited with status 7; it is started again in {delay}");
        dev.wait_for_line(&line);
    }
    eval(&dev, "process.send('while it was away')");
    // Some of it may have gone to one that was about to end.
    dev.write("live", "");
    wait("the messages", || {
        eval(&dev, "process.send('one more')");
        let heard = std::fs::read_to_string(dev.path("heard")).unwrap_or_default();
        heard.contains("one more").then_some(())
    });
    let told = companion(&dev);
    assert!(told.state == "running" && told.restarts >= 3, "{told:?}");
    let status = dev.cli(&["status", "web"]).succeeded();
    assert!(
        status.stdout.contains("Companion: running, pid "),
        "{status:?}"
    );
    for slot in dev.status().slots {
        assert_eq!(slot.restarts, 0);
    }
    dev.stop();
    Ok(())
}

/// The supervisor's memory stays bounded; who floods loses its own, and the others' messages
/// are there when it reads again.
fn deaf(node: &Node) -> Result<(), String> {
    let script = "until [ -e go ]; do sleep 0.05; done; exec cat <&3 > heard";
    let dev = App::kit(node).keys(&with_shell(script)).start();
    let idle = peak_memory(dev.pid());
    eval_in(&dev, 1, "process.send('before')");
    let code = "const text = 'z'.repeat(1000); let n = 0; \
        await new Promise((done) => { (function more() { \
          for (let i = 0; i < 500; i++) process.send({ n: n++, text }); \
          if (n < 50_000) setImmediate(more); else process.send('the last', done); })(); });";
    eval_in(&dev, 0, code);
    eval_in(&dev, 1, "process.send('after')");
    let told = wait("all has been taken", || {
        let told = companion(&dev);
        (told.lost > 40_000).then_some(told)
    });
    assert!(told.waiting > 1000, "{told:?}");
    dev.wait_for_line("messages for it were lost so far");
    let grown = peak_memory(dev.pid()).saturating_sub(idle);
    assert!(grown < 24 << 20, "{grown} bytes more\n{}", dev.output());
    dev.write("go", "");
    wait("what is left", || {
        let heard = std::fs::read_to_string(dev.path("heard")).unwrap_or_default();
        let there = |word: &str| heard.contains(&format!("\"message\":\"{word}\"}}\n"));
        let all = there("before") && there("the last") && there("after");
        (all && companion(&dev).waiting == 0).then_some(())
    });
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

/// One that does not act on the signal is killed with all that it has started.
fn stubborn(node: &Node) -> Result<(), String> {
    let script = "trap '' TERM; sleep 1000 & (setsid sleep 1000 &); while :; do sleep 1; done";
    let dev = App::kit(node)
        .keys(&with_shell(script))
        .keys("drain_timeout = \"1s\"")
        .start();
    let pid = companion(&dev).pid;
    dev.cli(&["reload", "web"]).succeeded();
    let next = dev.until("the next one", |s| {
        let companion = s.companion.as_ref().expect("a companion");
        companion.pid != pid && companion.state == "running"
    });
    let second = next.companion.and_then(|c| c.pid).expect("a pid");
    dev.wait_for_line("has not ended in time: killing it");
    dev.wait_for_line("was killed by SIGKILL, as requested");
    let begun = Instant::now();
    // Who asks for the end is told when it is true.
    let said = dev.cli(&["stop", "web"]).succeeded();
    assert!(said.stdout.contains("stopped"), "{said:?}");
    let there = Path::new("/proc").join(second.to_string()).exists();
    assert!(!there, "{second}: {}", dev.output());
    assert!(begun.elapsed() < Duration::from_secs(30));
    finish(dev);
    Ok(())
}

fn by_reload(node: &Node) -> Result<(), String> {
    let app = || App::kit(node);
    let keys = with_shell("exec cat <&3 > heard");
    let dev = app().start();
    let plain = std::fs::read_to_string(dev.path("app.toml")).expect("a configuration");
    assert_eq!(dev.status().companion, None);
    dev.configure(&format!("{keys}\n{plain}"));
    dev.cli(&["reload", "web"]).succeeded();
    dev.until("a companion", |s| s.companion.is_some());
    eval(&dev, "process.send('hello')");
    wait("the message", || {
        let heard = std::fs::read_to_string(dev.path("heard")).unwrap_or_default();
        heard.contains("hello").then_some(())
    });
    // One that cannot be found is refused, and the present one stays.
    let pid = companion(&dev).pid;
    let wrong = keys.replace("\"sh\"", "\"no-such-program\"");
    dev.configure(&format!("{wrong}\n{plain}"));
    dev.cli(&["reload", "web"])
        .failed(1, &["`no-such-program` was not found"]);
    assert_eq!(companion(&dev).pid, pid);
    dev.configure(&plain);
    dev.cli(&["reload", "web"]).succeeded();
    dev.until("no companion", |s| s.companion.is_none());
    dev.stop();
    Ok(())
}
