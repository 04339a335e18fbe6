// SPDX-License-Identifier: MIT OR Apache-2.0
//! What docs/running-your-app.md tells people to write, word for word.

use std::path::Path;

use serde_json::Value;

use crate::harness::{Test, TestBox, test};

pub const TESTS: &[Test] = &[
    test!(app_in_a_home),
    test!(mistakes_with_a_home_are_explained),
];

/// An app that writes beside itself, to its home and to /tmp, and says who it is.
const SERVER: &str = r#"
const fs = require('fs'), http = require('http'), os = require('os');
fs.mkdirSync('uploads', { recursive: true });
fs.writeFileSync(`uploads/${process.env.APP_CLUSTER_SLOT}`, 'beside itself');
fs.writeFileSync(`${os.homedir()}/state`, 'at home');
fs.writeFileSync(`/tmp/shop.${process.env.APP_CLUSTER_SLOT}`, 'in /tmp');
const server = http.createServer((request, response) => {
  const { username, homedir } = os.userInfo();
  response.end(JSON.stringify({
    user: username, homedir, home: process.env.HOME, path: process.execPath, directory: process.cwd(),
    generation: process.env.APP_CLUSTER_GENERATION,
  }));
});
server.listen({ fd: 3 });
process.on('SIGTERM', () => server.close());
"#;

/// The user, her app and her interpreter, in a home that is closed to others.
fn set_up(b: &TestBox) {
    b.write("/home/alice/shop/server.js", SERVER);
    b.sh("useradd -d /home/alice -s /bin/bash alice
          mkdir /home/alice/bin; cp /usr/bin/node /home/alice/bin/
          chown -R alice: /home/alice; chmod 700 /home/alice")
        .ok();
}

/// The fenced block of `language` that holds `word`, in the document.
pub fn block(language: &str, word: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/running-your-app.md");
    let text = std::fs::read_to_string(path).expect("the document");
    let fence = format!("```{language}\n");
    let blocks = text.split(&fence).skip(1);
    let mut blocks = blocks.filter_map(|rest| rest.split("```").next());
    let found = blocks.find(|block| block.contains(word));
    found.expect("the block").to_owned()
}

/// The lines of a shell block; a box has no sudo, and is root.
fn shell(b: &TestBox, word: &str) -> String {
    b.sh(&block("sh", word).replace("sudo ", "")).ok()
}

fn app_in_a_home(b: &TestBox) {
    set_up(b);
    // It has run before, as its own user: what that left must not be in the way.
    b.sh("curl -sf localhost:3000/ && app-cluster status").ok();
    b.write("/etc/app-cluster/app-cluster.toml", &block("toml", "alice"));
    let out = shell(b, "curl");
    let answer = |text: &str| -> Value {
        let json = text.lines().last().unwrap_or_default();
        serde_json::from_str(json).unwrap_or_else(|e| panic!("{e}: {text}"))
    };
    let said = answer(&out);
    for (key, wanted) in [
        ("user", "alice"),
        ("home", "/home/alice"),
        ("path", "/home/alice/bin/node"),
        ("directory", "/home/alice/shop"),
        ("generation", "1"),
    ] {
        assert_eq!(said[key], wanted, "{said}");
    }
    assert_eq!(b.read("/home/alice/shop/uploads/1"), "beside itself");
    assert_eq!(b.read("/home/alice/state"), "at home");
    assert_eq!(b.read("/tmp/shop.0"), "in /tmp");
    shell(b, "systemctl reload");
    let said = answer(&b.sh("curl -sf http://127.0.0.1:8080/").ok());
    assert_eq!(said["generation"], "2");
    // She may use it, and others may not.
    let status = "app-cluster status --json";
    b.run(&["runuser", "-u", "alice", "--", "sh", "-c", status])
        .ok();
    let refused = b.run(&["runuser", "-u", "nobody", "--", "sh", "-c", status]);
    let said = refused.fails().stderr;
    assert!(
        said.contains("no permission") && said.contains("adduser $USER app-cluster"),
        "{said}"
    );
    assert_eq!(b.sh("ss -Hltn 'sport = :3000'").ok(), "");
}

/// The two ways to forget something, and whether the message leads on.
fn mistakes_with_a_home_are_explained(b: &TestBox) {
    set_up(b);
    let config = block("toml", "alice");
    let forgot = config.replace("user = ", "#");
    b.write("/etc/app-cluster/app-cluster.toml", &forgot);
    b.run(&["systemctl", "daemon-reload"]).ok();
    let journal = |b: &TestBox| {
        b.run(&["systemctl", "start", "app-cluster.service"])
            .fails();
        b.run(&["systemctl", "stop", "app-cluster.service"]).ok();
        b.journal(&["-u", "app-cluster.service", "-p", "err"])
    };
    let text = journal(b);
    assert!(
        text.contains("user `app-cluster` may not enter `/home/alice`"),
        "{text}"
    );
    assert!(text.contains("user = \"alice\""), "{text}");
    assert!(text.contains("app-cluster.toml:"), "{text}");

    let config = config.replace("/home/alice/bin/node", "~/bin/node");
    b.write("/etc/app-cluster/app-cluster.toml", &config);
    b.run(&["systemctl", "daemon-reload"]).ok();
    let text = journal(b);
    assert!(text.contains("`~`"), "{text}");
}
