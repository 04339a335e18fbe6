// SPDX-License-Identifier: MIT OR Apache-2.0
//! What it costs that workers outlive their supervisor, and how long they are without one: with
//! the package and a real systemd, in a box (`tests/box`).

use crate::harness::{Host, Root, TestBox};
use crate::{Table, median};
use std::time::Duration;

const SERVICE: &str = "app-cluster.service";
const CONFIG: &str = "/etc/app-cluster/app-cluster.toml";
/// Not on this machine's clock: a box with a thousand workers is slow.
const LONG: Duration = Duration::from_secs(300);
/// The service without anybody to keep something for it.
const ALONE: &str = "[Service]\nType=exec\nWatchdogSec=0\nExecStart=\n\
    ExecStart=/usr/bin/env -u NOTIFY_SOCKET /usr/bin/app-cluster run app-cluster\n";
/// Workers that are killed one after the other.
const KILLS: usize = 20;

pub fn measure(table: &mut Table) {
    let host = match Host::prepare() {
        Ok(host) => host,
        Err(why) => return table.row("kill -9", "skipped".to_owned(), "", &format!("{why:#}")),
    };
    match Root::get(&host, "trixie").and_then(|root| TestBox::boot(&host, &root)) {
        Ok(b) => {
            b.install();
            absence(table, &b);
            for workers in [4, 64, 1000] {
                snapshot(table, &b, workers);
            }
        }
        Err(why) => table.row("kill -9", "skipped".to_owned(), "", &format!("{why:#}")),
    }
    host.finish();
}

fn configure(b: &TestBox, workers: usize, unit: &str) {
    let config = format!(
        "command = [\"/usr/bin/app-cluster\", \"hello\"]\nworkers = {workers}\n\
         backoff_min = \"10ms\"\nbackoff_max = \"10ms\"\ncrash_budget = 100000\nstart_timeout = \"300s\"\n"
    );
    b.write(CONFIG, &config);
    b.write("/etc/systemd/system/app-cluster.service.d/bench.conf", unit);
    long(
        b,
        &format!("systemctl daemon-reload; systemctl stop {SERVICE}"),
    );
}

fn long(b: &TestBox, script: &str) -> String {
    b.spawn(script, LONG).wait().ok()
}

/// From `kill -9` on.
fn absence(table: &mut Table, b: &TestBox) {
    configure(b, 4, "");
    long(b, &format!("systemctl start {SERVICE}"));
    let script = format!(
        "main=$(systemctl show -P MainPID {SERVICE}); begin=$(date +%s%N); kill -9 $main
         app-cluster status >/dev/null; answered=$(date +%s%N)
         until systemctl -q is-active {SERVICE}; do :; done; active=$(date +%s%N)
         systemctl reload {SERVICE}
         echo $((answered - begin)) $((active - begin))"
    );
    let (mut answered, mut active) = (Vec::new(), Vec::new());
    for _ in 0..11 {
        let told = long(b, &script);
        let mut words = told.split(' ').map(|word| word.parse().unwrap_or(f64::NAN));
        answered.extend(words.next());
        active.extend(words.next());
    }
    let how = "median of 11, 4 workers, in a box; RestartSec=100ms is in it";
    for (what, times) in [
        ("kill -9 of the supervisor → the next one answers", answered),
        ("kill -9 of the supervisor → reload is possible", active),
    ] {
        let value = format!("{:.0} ms", median(times) / 1e6);
        table.row(what, value, "", how);
    }
}

/// What is recorded for the next supervisor, as a part of all that ours does.
fn snapshot(table: &mut Table, b: &TestBox, workers: usize) {
    let [alone, recorded] = [ALONE, ""].map(|unit| {
        configure(b, workers, unit);
        replacements(b, workers)
    });
    let how = "CPU time of the loop, with and without a systemd that keeps it";
    for (what, alone, recorded, many) in [
        ("started", alone.0, recorded.0, workers),
        ("crashed and replaced", alone.1, recorded.1, KILLS),
    ] {
        let value = format!(
            "{:.2}× ({:.2} → {:.2} ms)",
            recorded / alone,
            alone / 1e6 / many as f64,
            recorded / 1e6 / many as f64
        );
        let what = format!("a worker of {workers} {what}, with its record");
        table.row(&what, value, "", how);
    }
}

/// CPU time in nanoseconds (proc(5), schedstat) until all are there, then for [`KILLS`].
fn replacements(b: &TestBox, workers: usize) -> (f64, f64) {
    let script = format!(
        "cd /sys/fs/cgroup/system.slice
         count() {{ find {SERVICE}/w* -name cgroup.procs -exec cat {{}} + 2>/dev/null | wc -l; }}
         used() {{ cut -d' ' -f1 /proc/$main/task/$main/schedstat; }}
         systemctl start {SERVICE}
         until [ $(count) -eq {workers} ]; do sleep 0.2; done; sleep 1
         main=$(systemctl show -P MainPID {SERVICE}); started=$(used)
         for n in $(seq {KILLS}); do
             kill -9 $(ls -d {SERVICE}/w* | shuf -n 1 | xargs -I@ head -n 1 @/cgroup.procs)
             sleep 0.3
         done
         until [ $(count) -eq {workers} ]; do sleep 0.2; done; sleep 0.5
         echo $started $(($(used) - started))"
    );
    let told = long(b, &script);
    let mut words = told.split(' ').map(|word| word.parse().unwrap_or(f64::NAN));
    (
        words.next().unwrap_or(f64::NAN),
        words.next().unwrap_or(f64::NAN),
    )
}
