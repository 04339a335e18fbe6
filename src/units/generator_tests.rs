// SPDX-License-Identifier: MIT OR Apache-2.0

use super::generator::{self, generate};
use super::{Units, kept};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;

/// What keeps the packaged socket of `name` closed.
fn closed(found: &generator::Found) -> Vec<&str> {
    let text = found.closed.files.values().flat_map(|text| text.lines());
    text.filter(|line| line.starts_with("Exec")).collect()
}

/// A folder of configuration, and the generator on it.
struct Folder {
    etc: tempfile::TempDir,
    kept: std::path::PathBuf,
}

impl Folder {
    fn new(files: &[(&str, &str)]) -> Folder {
        let etc = tempfile::tempdir().unwrap();
        let kept = etc.path().join("kept");
        let folder = Folder { etc, kept };
        for (name, text) in files {
            folder.write(name, text.as_bytes());
        }
        folder
    }

    fn write(&self, name: &str, text: &[u8]) {
        fs::write(self.etc.path().join(format!("{name}.toml")), text).unwrap();
    }

    fn run(&self) -> BTreeMap<String, generator::Found> {
        generate(self.etc.path(), &self.kept)
    }

    /// What is generated for `name` becomes what its sockets were opened with.
    fn open(&self, name: &str) {
        let generated = tempfile::tempdir().unwrap();
        let units = &self.run()[name].units;
        generator::write(units, generated.path()).unwrap();
        kept::keep(name, generated.path(), &self.kept).unwrap();
        assert_eq!(&kept::find(name, &self.kept).unwrap(), units);
    }
}

const GOOD: &str = "command = \"/bin/true\"\nlisten = [\"127.0.0.1:4000\"]\nuser = \"shop\"";

#[test]
fn a_file_that_cannot_be_read_leaves_what_is_open() {
    let folder = Folder::new(&[("shop", GOOD), ("other", "command = \"/bin/true\"")]);
    let good = folder.run()["shop"].units.clone();
    let broken = format!("{GOOD}\n= broken");
    folder.write("shop", broken.as_bytes());
    let found = &folder.run()["shop"];
    assert_eq!(found.units, Units::default());
    assert!(found.wrong[0].contains("shop.toml:4:1: "), "{found:?}");
    let refuse = format!("ExecStartPre={} refuse shop", generator::PROGRAM);
    assert_eq!(closed(found), [refuse]);
    let socket = "app-cluster@shop.socket.d/50-app-cluster.conf";
    assert!(found.closed.files.contains_key(socket), "{found:?}");
    folder.write("shop", GOOD.as_bytes());
    folder.open("shop");
    folder.write("shop", broken.as_bytes());
    assert_eq!(folder.run()["shop"].units, good);
    assert_eq!(closed(&folder.run()["shop"]), [""; 0]);
    // Others could have written that.
    fs::set_permissions(
        folder.kept.join("shop"),
        std::os::unix::fs::PermissionsExt::from_mode(0o666),
    )
    .unwrap();
    assert_eq!(folder.run()["shop"].units, Units::default());
    kept::forget("shop", &folder.kept);
    assert!(kept::find("shop", &folder.kept).is_err());
}

#[test]
fn a_key_that_is_not_about_units_does_not_take_them_away() {
    let folder = Folder::new(&[("shop", GOOD)]);
    let good = folder.run()["shop"].units.clone();
    let text = GOOD.replace("\"/bin/true\"", "7") + "\nworker = 3\nbatch = 0\nready = \"soon\"";
    folder.write("shop", text.as_bytes());
    let found = &folder.run()["shop"];
    assert_eq!(found.units, good);
    assert_eq!(found.wrong.len(), 4, "{found:?}");
    folder.write("shop", format!("{GOOD}\nsandbox = \"tight\"").as_bytes());
    assert_eq!(folder.run()["shop"].units, Units::default());
}

#[test]
fn of_two_with_one_address_it_stays_with_who_has_it() {
    let folder = Folder::new(&[("b", GOOD)]);
    folder.open("b");
    folder.write("a", GOOD.as_bytes());
    folder.write("c", GOOD.replace("127.0.0.1:4000", "4000").as_bytes());
    let found = folder.run();
    // Of the valid file nothing but the address is refused.
    let service = "app-cluster@a.service.d/50-app-cluster.conf";
    let units: Vec<&str> = found["a"].units.files.keys().map(String::as_str).collect();
    assert_eq!(units, [service]);
    assert!(found["a"].units.files[service].contains("\nUser=shop\n"));
    assert!(found["a"].units.links.is_empty());
    assert_eq!(closed(&found["a"]).len(), 1);
    assert!(found["a"].wrong[0].contains("127.0.0.1:4000 is the address of b"));
    assert!(found["b"].wrong.is_empty());
    // Another address, as far as the kernel is concerned.
    assert!(found["c"].wrong.is_empty());
    kept::forget("b", &folder.kept);
    let found = folder.run();
    assert!(found["a"].wrong.is_empty() && !found["a"].units.files.is_empty());
    assert!(
        !found["b"]
            .units
            .files
            .contains_key("app-cluster@b.socket.d/50-app-cluster.conf")
    );
    assert_eq!(closed(&found["b"]).len(), 1);
    // The packaged socket of the plain app is enabled, at another address.
    folder.write("app-cluster", GOOD.as_bytes());
    let found = folder.run();
    let socket = "app-cluster.socket.d/50-app-cluster.conf";
    assert!(found["app-cluster"].closed.files.contains_key(socket));
    assert!(found["a"].closed.files.is_empty());
    for same in ["0.0.0.0:4000", "[::]:4000"] {
        folder.write("d", GOOD.replace("127.0.0.1:4000", same).as_bytes());
        let wrong = &folder.run()["d"].wrong;
        assert!(
            wrong[0].contains("port 4000 is the address of c"),
            "{wrong:?}"
        );
    }
}

/// With ReusePort= both would listen, and share their connections.
#[test]
fn what_is_open_is_taken_though_its_file_is_broken() {
    let at = |port: u16| format!("command = \"x\"\nlisten = [\"{port}\"]\nbalance = \"even\"");
    let folder = Folder::new(&[("zzz", &at(8081))]);
    folder.open("zzz");
    folder.write("zzz", b"= broken");
    folder.write("bbb", at(8081).as_bytes());
    let found = folder.run();
    assert!(!found["zzz"].units.files.is_empty());
    assert_eq!(closed(&found["bbb"]).len(), 1, "{:?}", found["bbb"]);
    assert!(found["bbb"].wrong[0].contains("port 8081 is the address of zzz"));
    // Nor does it get it by way of a move that somebody else prevents.
    folder.write("zzz", at(8082).as_bytes());
    folder.write("aaa", at(8082).as_bytes());
    let found = folder.run();
    assert_eq!(closed(&found["aaa"]), [""; 0]);
    assert!(found["zzz"].wrong[0].contains("port 8082 is the address of aaa"));
    assert!(found["bbb"].wrong[0].contains("port 8081 is the address of zzz"));
}

#[test]
fn what_is_kept_of_a_loser_says_nothing_about_sockets() {
    let two =
        "command = \"/bin/true\"\nlisten = { a = \"4000\", b = \"4001\" }\nsandbox = \"strict\"";
    let folder = Folder::new(&[("a", two), ("b", two)]);
    let found = folder.run();
    let text = &found["b"].units.files["app-cluster@b.service.d/50-app-cluster.conf"];
    assert!(text.contains("ProtectSystem=strict"), "{text}");
    assert!(!text.contains("app-cluster@b:b.socket"), "{text}");
}

/// Without `listen`, too, user and sandbox are not to be lost.
#[test]
fn units_without_an_address_are_kept() {
    let folder = Folder::new(&[("shop", "command = \"x\"\nuser = \"shop\"")]);
    let units = folder.run()["shop"].units.clone();
    let socket = &units.files["app-cluster@shop.socket.d/50-app-cluster.conf"];
    assert!(socket.contains(" keep shop\n"), "{socket}");
}

#[test]
fn only_files_of_apps_are_read() {
    let folder = Folder::new(&[
        ("shop", GOOD),
        (".hidden", GOOD),
        ("a b", GOOD),
        ("-x", GOOD),
    ]);
    fs::write(folder.etc.path().join("shop.toml.bak"), GOOD).unwrap();
    fs::create_dir(folder.etc.path().join("dir.toml")).unwrap();
    symlink("/dev/zero", folder.etc.path().join("zero.toml")).unwrap();
    symlink("loop.toml", folder.etc.path().join("loop.toml")).unwrap();
    let fifo = folder.etc.path().join("fifo.toml");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let found = folder.run();
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(names, ["dir", "fifo", "loop", "shop", "zero"]);
    for (name, found) in &found {
        assert_eq!(found.wrong.is_empty(), name == "shop", "{name}: {found:?}");
    }
}

#[test]
fn more_files_than_are_read() {
    let folder = Folder::new(&[("zzz", GOOD)]);
    for number in 0..4096 {
        folder.write(&format!("a{number}"), b"");
    }
    let found = folder.run();
    assert_eq!(found.len(), 4097);
    let last = &found["zzz"];
    assert!(
        last.wrong[0].contains("only 4096 configurations"),
        "{last:?}"
    );
    assert_eq!(closed(last).len(), 1);
    assert_eq!(closed(&found["a0"]), [""; 0]);
}

/// What an editor, a disk or a typing error makes of a file.
fn broken() -> impl Strategy<Value = Vec<u8>> {
    let damage = (any::<prop::sample::Index>(), any::<u8>(), 0..40usize);
    let damaged = prop::collection::vec(damage, 1..4).prop_map(|all| {
        let mut text = FULL.as_bytes().to_vec();
        for (at, byte, cut) in all {
            let at = at.index(text.len());
            let end = (at + cut).min(text.len());
            text.splice(at..end, [byte]);
        }
        text
    });
    let value = prop::sample::select(vec![
        "[]",
        "{}",
        "\"\"",
        "-1",
        "99999",
        "true",
        "[[\"x\"]]",
        "\"unix:/run/a\\u0000\"",
        "[\"unix:/run/x\\nUser=root\"]",
        "{ a = \"3000\", b = \"3000\" }",
        "nan",
        "\"{slot}{slot}\"",
        "\"127.0.0.1:6553{slot}\"",
        "\"../../etc\"",
        "\"%n\"",
    ]);
    let key = prop::sample::select(crate::config::KEYS);
    let lines = prop::collection::vec((key, value), 0..8).prop_map(|lines| {
        let lines = lines
            .iter()
            .map(|(key, value)| format!("{} = {value}\n", key.name));
        lines.collect::<String>().into_bytes()
    });
    prop_oneof![prop::collection::vec(any::<u8>(), 0..300), damaged, lines]
}

/// Every key that units are made from.
const FULL: &str = "command = [\"/usr/bin/node\", \"server.js\"]\ndirectory = \"/home/shop\"\n\
    listen = { http = \"127.0.0.1:4000\", admin = \"unix:/run/a b.sock\" }\n\
    slot_listen = \"127.0.0.1:41{slot:02}\"\nworkers = 3\nmax_workers = 9\nbalance = \"even\"\n\
    user = \"shop\"\ngroup = \"www-data\"\nsocket_user = \"www-data\"\nsocket_mode = \"0600\"\n\
    sandbox = \"strict\"\nautostart = \"connection\"\ndrain_timeout = \"5min\"\n";

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// With the usual 256 cases, 1024 files.
    #[test]
    fn no_file_harms_another(files in prop::collection::vec(broken(), 4)) {
        let good = "command = \"x\"\nlisten = [\"unix:/run/good.sock\"]\nuser = \"good\"";
        let folder = Folder::new(&[("good", good)]);
        let alone = folder.run()["good"].clone();
        prop_assert!(alone.wrong.is_empty() && alone.units.files.len() == 2);
        for (name, file) in ["a", "b", "y", "z"].iter().zip(&files) {
            folder.write(name, file);
        }
        let all = folder.run();
        prop_assert_eq!(&all["good"], &alone);
        prop_assert_eq!(all.len(), 5);
        for (name, found) in &all {
            for (path, text) in &found.units.files {
                let unit = path.split(".d/").next().unwrap_or_default();
                prop_assert!(generator::is_of(name, unit), "{}", path);
                // One line of a file is one of the unit, whatever is in it.
                let known = ["#", "[", "ListenStream=", "User=", "Group=", "Socket", "Requires=",
                    "After=", "Wants=", "PartOf=", "Description=", "ReusePort=", "BindIPv6Only=",
                    "FileDescriptorName=", "Service=", "Exec", "TimeoutStopSec=", "StateDirectory",
                    "Environment=APP_CLUSTER_SANDBOX=", "Protect", "ReadWritePaths=/tmp",
                    "PrivateDevices=", "SystemCall", "CapabilityBoundingSet=", "UMask="];
                for line in text.lines().filter(|line| !line.is_empty()) {
                    prop_assert!(known.iter().any(|k| line.starts_with(k)), "{}", line);
                    prop_assert!(!line.starts_with("Exec") || line.contains("app-cluster-generator"));
                }
            }
        }
    }
}
