// SPDX-License-Identifier: MIT OR Apache-2.0
//! An application under test: where it is, what it said, and that it is well.

use crate::dev::{Dev, Setup, wait};
use crate::load::{Kind, Load, LoadSpec, Report};
use crate::packages::Source;
use crate::versions::Node;
use std::collections::BTreeMap;
use std::time::Duration;

/// Longest that anything of a load may take.
pub const LONG: Duration = Duration::from_secs(120);

/// Two workers of an application of `tests/frameworks/apps`, to be configured further.
///
/// # Errors
///
/// Why its packages cannot be had.
pub fn app(node: &Node, name: &str, command: &[&str], keys: &str) -> Result<Setup, String> {
    let source = Source::at(&format!("tests/frameworks/apps/{name}"));
    let text = format!(
        "command = {command:?}\nworkers = 2\ncanary_time = \"50ms\"\n\
         start_timeout = \"60s\"\n{keys}\n"
    );
    configured(&source, node, &text)
}

/// The app `web` of this source with this configuration.
///
/// # Errors
///
/// Why its packages cannot be had.
pub fn configured(source: &Source, node: &Node, text: &str) -> Result<Setup, String> {
    let setup = Setup::new("web");
    let directory = source.install(node, setup.home.path())?;
    setup.write("app.toml", &format!("directory = {directory:?}\n{text}"));
    let file = setup.path("app.toml").display().to_string();
    let hooks = setup.path("hooks").display().to_string();
    Ok(setup
        .arguments(&["-c", &file])
        .env("PATH", &node.search_path())
        .env("HOOKS", &hooks)
        .env("npm_config_update_notifier", "false")
        .env("NEXT_TELEMETRY_DISABLED", "1"))
}

/// How often the app's own clean-up has run, by the process id that each wrote on a line.
pub fn hooks(dev: &Dev) -> BTreeMap<i32, u32> {
    let mut found = BTreeMap::new();
    let text = std::fs::read_to_string(dev.path("hooks")).unwrap_or_default();
    for line in text.lines() {
        *found
            .entry(line.parse().expect("a process id"))
            .or_default() += 1;
    }
    found
}

/// No worker has failed or had to be killed: nothing was restarted, nobody speaks of it.
#[track_caller]
pub fn assert_well(dev: &Dev) {
    for slot in &dev.try_status().map(|s| s.slots).unwrap_or_default() {
        assert_eq!(slot.restarts, 0, "{slot:?}\n{}", dev.output());
    }
    let output = dev.output();
    for word in [
        "failed",
        "failures in a row",
        "degraded",
        "panicked",
        "SIGKILL",
    ] {
        assert!(!output.contains(word), "{word}:\n{output}");
    }
}

/// Clients with a connection for each request, and ones with a kept one.
pub fn clients(dev: &Dev) -> LoadSpec {
    LoadSpec::tcp(dev.address())
        .with_pace(Kind::NewConnection, 2, 50)
        .with_pace(Kind::KeepAlive, 4, 80)
}

/// Asks on new connections until so many processes have answered. Behind npm and the like they
/// are not the ones that the supervisor has started.
pub fn everybody_answers(dev: &Dev, workers: usize) {
    let spec = LoadSpec::tcp(dev.address()).with(Kind::NewConnection, 1);
    let load = Load::start(spec).expect("a client");
    let all = |report: &Report| report.total().by_pid.len() >= workers;
    load.wait_until(LONG, all).expect("answers of all workers");
    load.stop().assert_lossless(1);
}

/// Two reloads while `load` runs.
pub fn reload_under(dev: &Dev, load: Load) -> Report {
    for _ in 0..2 {
        load.wait_for_more(10, LONG).expect("requests in between");
        let before = dev.pids();
        dev.cli(&["reload", "web"]).succeeded();
        let after = dev.pids();
        assert_eq!(after.len(), before.len());
        assert!(after.iter().all(|p| !before.contains(p)), "not replaced");
        drained(dev);
    }
    load.wait_for_more(10, LONG).expect("requests afterwards");
    load.stop()
}

/// Waits until no old worker is left.
pub fn drained(dev: &Dev) {
    wait("the old workers end", || {
        let status = dev.status();
        let draining: usize = status.slots.iter().map(|s| s.draining.len()).sum();
        (draining == 0).then_some(())
    });
}
