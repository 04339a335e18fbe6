// SPDX-License-Identifier: MIT OR Apache-2.0
//! Another version of the package is installed in the middle of traffic.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use crate::fate_app::{App, incarnation, is_active, is_unharmed, more, workers};
use crate::harness::{Test, TestBox, scale, test};
use crate::service::{SERVICE, long, reload, status};

pub const TESTS: &[Test] = &[test!(an_upgrade_of_the_package_loses_nothing)];

/// The version that follows, as far as this test goes.
const NEXT: &str = "0.99.0";

fn an_upgrade_of_the_package_loses_nothing(b: &TestBox) {
    App::Node.start(b, "even");
    let load = App::Node.load(b);
    let talks = App::Node.talks(b).expect("it serves some");
    let first = status(b);
    let version = text(&first, "version").to_owned();
    // Everything is another version in the full tier, the package alone in the gate.
    let (newer, next) = match scale(1, 0) {
        0 => (b.repack("99.0"), version.clone()),
        _ => (next_package(b), NEXT.to_owned()),
    };
    let older = b.repack("0.0.1");
    for (n, (package, from, to)) in [
        (newer, &version, &next),
        // Back to the one before, which reads what the newer one has written.
        (older, &next, &version),
    ]
    .into_iter()
    .enumerate()
    {
        more(&load);
        long(b, &format!("dpkg --force-unsafe-io -i {package} 2>&1")).ok();
        let now = status(b);
        assert_eq!(incarnation(&now), incarnation(&first) + 1 + n as u64);
        assert_eq!(text(&now, "version"), to);
        assert_eq!(now["taken_over"]["from_version"], **from, "{now:#}");
        assert_eq!(now["pid"], first["pid"]);
        assert_eq!(workers(&now), workers(&first));
        is_active(b);
    }
    more(&load);
    assert!(talks.said() > 0);
    talks.end();
    reload(b).ok();
    more(&load);
    load.stop().assert_lossless(1);
    assert_eq!(b.show(SERVICE, "NRestarts"), "0");
    is_unharmed(b);
}

fn text<'a>(status: &'a Value, key: &str) -> &'a str {
    status[key].as_str().expect("a text")
}

/// The package of the version that follows; its path in the box.
#[track_caller]
fn next_package(b: &TestBox) -> String {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(build);
    let into = format!("/proc/{}/root/root/next", b.leader_pid());
    std::fs::copy(program, into).expect("copy the program into the box");
    let path = b.repack(NEXT);
    b.sh(&format!(
        "cd \"$(mktemp -d)\"; dpkg-deb -R {path} .; mv /root/next usr/bin/app-cluster
         chmod 755 usr/bin/app-cluster; rm -f DEBIAN/md5sums; dpkg-deb -Znone -b . {path}"
    ))
    .ok();
    path
}

/// Our program with another number: the same source beside another Cargo.toml.
fn build() -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR"));
    let place = from.join("target/next");
    let source = place.join("source");
    let _ = std::fs::remove_dir_all(&source);
    std::fs::create_dir_all(&source).expect("a directory");
    for entry in std::fs::read_dir(from).expect("the source") {
        let name = entry.expect("an entry").file_name();
        let path = from.join(&name);
        match name.to_str() {
            Some("target" | ".git") => {}
            Some("Cargo.toml" | "Cargo.lock") => {
                let text = std::fs::read_to_string(path).expect("a file");
                // The first package of that version in the lock file that is ours.
                let own = format!(
                    "name = \"app-cluster\"\nversion = \"{}\"",
                    env!("CARGO_PKG_VERSION")
                );
                assert!(text.contains(&own), "no version in {name:?}");
                let text = text.replace(&own, &own.replace(env!("CARGO_PKG_VERSION"), NEXT));
                std::fs::write(source.join(name), text).expect("a file");
            }
            _ => std::os::unix::fs::symlink(path, source.join(name)).expect("a link"),
        }
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--locked", "--bin", "app-cluster"])
        .current_dir(&source)
        .env("CARGO_TARGET_DIR", place.join("target"))
        .status();
    assert!(built.is_ok_and(|status| status.success()), "cargo build");
    place.join("target/debug/app-cluster")
}
