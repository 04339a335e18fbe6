// SPDX-License-Identifier: MIT OR Apache-2.0
//! Workers, launchers and companions that do what nobody thought of at first.

use crate::Row;
use crate::app::{App, assert_no_crash, eval, eval_in, free_port, request, script, word};
use crate::dev::wait;
use crate::hostile::peak_memory;
use crate::messages::Follow;
use crate::node_tools::{Node, packages};
use std::time::{Duration, Instant};

pub const ROWS: &[Row] = &[
    ("odd_canary_that_is_blocked_is_waited_for", blocked_canary),
    ("odd_canary_behind_a_launcher", canary_behind_a_launcher),
    ("odd_stop_worker_that_leaves_has_its_signal", leaves),
    ("odd_start_next_program_of_a_launcher", next_program),
    ("odd_message_odd_ones_with_a_socket", odd_messages),
    ("odd_companion_answers_workers_that_start", answers_at_start),
    (
        "odd_companion_answers_workers_that_drain",
        answers_at_the_end,
    ),
    (
        "odd_companion_that_sends_sockets_and_reads_nothing",
        companion_sockets,
    ),
    ("odd_companion_is_no_storm", no_storm),
    ("odd_stop_signal_exit_acts", signal_exit),
    ("odd_listen_on_the_address_of_a_slot", slot_address),
    ("odd_reload_explains_the_same_again", explained_again),
];

/// A program of its own, instead of `kit.cjs`.
fn own(node: &Node, text: &str, keys: &str) -> crate::dev::Setup {
    let setup = App::command(node, &[word(node), "app.cjs"]);
    let setup = setup.keys(keys).setup();
    setup.write("app.cjs", text);
    setup
}

/// It listens, and then does something else for longer than it is on trial.
fn blocked_canary(node: &Node) -> Result<(), String> {
    let text = "const { APP_CLUSTER_GENERATION: generation, APP_CLUSTER_SLOT: slot } = process.env; \
        const answer = JSON.stringify({ pid: process.pid }); \
        const server = require('http').createServer((q, response) => response.end(answer)); \
        server.listen(process.env.PORT, () => { \
          if (generation === '2' && slot === '0') setTimeout(() => { \
            const end = Date.now() + 4000; while (Date.now() < end); \
            require('fs').writeFileSync('over', ''); }, 300); });";
    let dev = own(node, text, "").start();
    let text = std::fs::read_to_string(dev.path("app.toml")).expect("a configuration");
    dev.configure(&text.replace("\"50ms\"", "\"1s\""));
    dev.cli(&["reload", "web"]).succeeded();
    assert!(dev.path("over").exists(), "{}", dev.output());
    dev.everybody_answers();
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

/// Who was asked has ended, and another program of the launcher is there.
fn canary_behind_a_launcher(node: &Node) -> Result<(), String> {
    let line = format!(
        "[ $APP_CLUSTER_GENERATION = 1 ] || node first.cjs; exec node '{}'",
        script("kit.cjs")
    );
    let app = App::command(node, &["sh", "-c", &line]).workers(1);
    let setup = app.keys("protocol = \"node\"").setup();
    let text = "require('http').createServer(() => {}).listen(process.env.PORT, () => \
        setTimeout(() => { const end = Date.now() + 2000; while (Date.now() < end); \
          require('fs').writeFileSync('over', ''); process.reallyExit(0); }, 300));";
    setup.write("first.cjs", text);
    let dev = setup.start();
    let text = std::fs::read_to_string(dev.path("app.toml")).expect("a configuration");
    dev.configure(&text.replace("\"50ms\"", "\"1s\""));
    dev.cli(&["reload", "web"]).succeeded();
    assert!(dev.path("over").exists(), "{}", dev.output());
    wait("the next program answers", || {
        let answer = request(dev.address(), "GET /", "").ok()?;
        (answer["generation"] == 2).then_some(())
    });
    dev.stop();
    Ok(())
}

/// It has more to do than to close its server: its clean-up runs, on its signal.
fn leaves(node: &Node) -> Result<(), String> {
    for preload in [true, false] {
        let keys = format!("drain_timeout = \"4s\"\nnode.preload = {preload}");
        let dev = App::kit(node).keys(&keys).start();
        let code = "setInterval(() => {}, 1000); \
            process.on('SIGTERM', () => { console.log('clean'); process.exit(0); }); \
            setTimeout(() => require('cluster').worker.disconnect(), 30)";
        let old = dev.pids()[0];
        eval_in(&dev, 0, code);
        dev.until("another worker", |s| {
            let slot = &s.slots[0];
            s.workers.ready == 2 && slot.pid != Some(old) && slot.draining.is_empty()
        });
        // What it wrote may be shown a moment after it has gone.
        dev.wait_for_line("| clean");
        let output = dev.output();
        assert!(!output.contains("SIGKILL"), "{preload}: {output}");
        assert_no_crash_but_of_leaving(&output);
        dev.stop();
    }
    Ok(())
}

fn assert_no_crash_but_of_leaving(output: &str) {
    for word in ["failures in a row", "degraded", "panicked"] {
        assert!(!output.contains(word), "{word}:\n{output}");
    }
}

/// What the first had, the next has as well; the launcher stays.
fn next_program(node: &Node) -> Result<(), String> {
    let line = format!("node '{0}'; node '{0}'; true", script("kit.cjs"));
    let app = App::command(node, &["sh", "-c", &line]).workers(1);
    let dev = app.keys("protocol = \"node\"").start();
    let answer = request(dev.address(), "GET /", "").expect("an answer");
    eval(&dev, "setTimeout(() => process.exit(0), 20)");
    let address = dev.address();
    let next = wait("the next program answers", || {
        let next = request(address, "GET /", "").ok()?;
        (next["pid"] != answer["pid"]).then_some(next)
    });
    assert_eq!(next["id"], answer["id"], "{next}\n{}", dev.output());
    assert!(!dev.output().contains("EADDRINUSE"), "{}", dev.output());
    assert_no_crash(&dev);
    dev.cli(&["reload", "web"]).succeeded();
    dev.stop();
    Ok(())
}

/// Node sends nothing more until a socket has been acknowledged, whatever was said with it.
fn odd_messages(node: &Node) -> Result<(), String> {
    let dev = App::kit(node).workers(1).start();
    let mut follow = Follow::start(&dev);
    for odd in [
        "{ a: '\\ud800' }",
        "JSON.parse('['.repeat(3000) + ']'.repeat(3000))",
        "{ long: 'x'.repeat(3_000_000) }",
    ] {
        let code = format!(
            "const net = require('net'); \
             const socket = await new Promise((done) => {{ \
               const s = net.connect(process.env.PORT, '127.0.0.1', () => done(s)); }}); \
             process.send({odd}, socket, () => {{}}); \
             process.send({{ after: {} }});",
            odd.len()
        );
        eval(&dev, &code);
        follow.wait_for(&format!("{{\"after\":{}}}", odd.len()));
    }
    drop(follow);
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

/// A companion that answers each message of a worker, once the file `go` is there.
fn answering(node: &Node) -> String {
    let program = "const fs = require('fs'); \
        const go = () => new Promise((done) => { (function look() { \
          if (fs.existsSync('go')) done(); else setTimeout(look, 10); })(); }); \
        process.on('message', async ({ worker, message }) => { await go(); \
          process.send({ to: { worker }, message: { answer: message } }); });";
    let word = word(node);
    format!("companion = {{ command = [{word:?}, \"-e\", {program:?}] }}")
}

/// They ask before they listen, and have not been told what they are for.
fn answers_at_start(node: &Node) -> Result<(), String> {
    let text = format!(
        "process.send({{ what: 'settings' }}); \
         process.once('message', ({{ answer }}) => {{ \
           if (answer.what === 'settings') require({:?}); }});",
        script("kit.cjs")
    );
    let setup = own(node, &text, &answering(node));
    setup.write("go", "");
    let dev = setup.start();
    for _ in 0..2 {
        dev.cli(&["reload", "web"]).succeeded();
    }
    dev.everybody_answers();
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

/// A request that waits for the companion, while another worker has the place already.
fn answers_at_the_end(node: &Node) -> Result<(), String> {
    let dev = App::kit(node).workers(1).keys(&answering(node)).start();
    let (address, old) = (dev.address(), dev.pids()[0]);
    let code = "process.send({ ask: 1 }); require('fs').writeFileSync('asked', ''); \
        const { answer } = await new Promise((done) => process.once('message', done)); \
        return { pid: process.pid, answer };";
    let asked = std::thread::spawn(move || request(address, "POST /eval", code));
    wait("it has asked", || dev.path("asked").exists().then_some(()));
    // Its slot is restarted alone: the companion stays.
    dev.cli(&["restart", "web[0]"]).succeeded();
    assert_ne!(dev.pids()[0], old);
    dev.write("go", "");
    let answer = asked.join().expect("a thread").expect("an answer");
    let expected = serde_json::json!({ "pid": old, "answer": { "ask": 1 } });
    assert_eq!(answer, expected, "{}", dev.output());
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

/// What it is owed for its sockets is bounded.
fn companion_sockets(node: &Node) -> Result<(), String> {
    let program = "const fs = require('fs'); \
        const some = Buffer.from('{\"cmd\":\"NODE_HANDLE\",\"type\":\"x\",\"msg\":1}\\n'.repeat(1000)); \
        for (let at = 0; ; at %= some.length) \
          try { at += fs.writeSync(3, some, at); if (!fs.existsSync('there')) fs.writeFileSync('there', ''); } \
          catch (error) { if (error.code !== 'EAGAIN') throw error; }";
    // Node would take the descriptor for itself.
    let words = ["env", "-u", "NODE_CHANNEL_FD", word(node), "-e", program];
    let keys = format!("companion = {{ command = {words:?} }}");
    let dev = App::kit(node).workers(1).keys(&keys).start();
    wait("it writes", || dev.path("there").exists().then_some(()));
    let idle = peak_memory(dev.pid());
    std::thread::sleep(Duration::from_millis(1500));
    let grown = peak_memory(dev.pid()).saturating_sub(idle);
    assert!(grown < 24 << 20, "{grown} bytes more\n{}", dev.output());
    assert_eq!(dev.status().companion.map(|c| c.restarts), Some(0));
    request(dev.address(), "GET /", "").expect("an answer");
    assert!(dev.line_count() < 200, "{} lines", dev.line_count());
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

/// `backoff_min = 0` is for workers, which have a budget.
fn no_storm(node: &Node) -> Result<(), String> {
    let script = "echo >> starts; exit 7";
    let keys = format!("companion = {{ command = [\"sh\", \"-c\", {script:?}] }}");
    let keys = format!("backoff_min = \"0s\"\nbackoff_max = \"0s\"\n{keys}");
    let begun = Instant::now();
    let dev = App::kit(node).workers(1).keys(&keys).start();
    let starts = || {
        let text = std::fs::read_to_string(dev.path("starts"));
        text.unwrap_or_default().lines().count()
    };
    wait("some starts", || (starts() >= 5).then_some(()));
    let (count, tenths) = (starts(), begun.elapsed().as_millis() as usize / 100);
    assert!(
        count <= tenths + 2,
        "{count} starts in {tenths} tenths of a second"
    );
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

/// It acts on a signal only if nobody else has a listener for it.
fn signal_exit(node: &Node) -> Result<(), String> {
    let package = packages("signal-exit", &["signal-exit@4.1.0"])?;
    let package = package.join("node_modules/signal-exit");
    let text = format!(
        "const {{ onExit }} = require({package:?}); \
         onExit((code, signal) => \
           require('fs').appendFileSync('exits', `${{process.pid}} ${{signal}}\\n`)); \
         setInterval(() => {{}}, 1000); require({:?});",
        script("kit.cjs")
    );
    let dev = own(node, &text, "drain_timeout = \"20s\"").start();
    let old = dev.pids();
    dev.cli(&["reload", "web"]).succeeded();
    let text = wait("all have ended", || {
        let text = std::fs::read_to_string(dev.path("exits")).unwrap_or_default();
        (text.lines().count() == 2).then_some(text)
    });
    for pid in old {
        assert!(text.contains(&format!("{pid} SIGTERM\n")), "{text}");
    }
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

/// With `round-robin` too: what comes there is accepted by the app itself.
fn slot_address(node: &Node) -> Result<(), String> {
    // The number of the slot, which is 0, is its last digit.
    let tens = wait("a port", || {
        let tens = free_port() / 10;
        let free = std::net::TcpListener::bind(("127.0.0.1", tens * 10)).is_ok();
        free.then_some(tens)
    });
    let port = tens * 10;
    let keys = format!("balance = \"round-robin\"\nslot_listen = \"127.0.0.1:{tens}{{slot}}\"");
    let dev = App::kit(node).workers(1).keys(&keys).start();
    let at = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let pid = dev.pids()[0];
    let asks = || request(at, "GET /", "").expect("an answer")["pid"].clone();
    assert_eq!(asks(), pid);
    let code = format!(
        "kept.own = require('http').createServer(app); \
         return listen(kept.own, {port}, '127.0.0.1');"
    );
    assert_eq!(eval(&dev, &code)["at"]["port"], port, "{}", dev.output());
    for _ in 0..3 {
        assert_eq!(asks(), pid, "{}", dev.output());
    }
    dev.everybody_answers();
    assert_no_crash(&dev);
    dev.stop();
    Ok(())
}

/// What is told once is told again for another configuration.
fn explained_again(node: &Node) -> Result<(), String> {
    let other = free_port();
    let text = format!(
        "if (process.env.APP_CLUSTER_GENERATION === '1') require({:?}); \
         else require('http').createServer().listen({other});",
        script("kit.cjs")
    );
    let dev = own(node, &text, "start_timeout = \"1500ms\"").start();
    for _ in 0..2 {
        let before = dev.line_count();
        let said = dev.cli(&["reload", "web"]);
        assert_ne!(said.code, Some(0), "{said:?}");
        let why = format!("{other}, which is not one of the app's addresses");
        dev.wait_for_line_after(before, &why);
    }
    dev.stop();
    Ok(())
}
