// SPDX-License-Identifier: MIT OR Apache-2.0
//! Apps under load whose workers are replaced for what they have become.

use crate::dev::{Dev, scale};
use crate::load::{Load, Report};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Longest that all of it may take.
const LONG: Duration = Duration::from_secs(400);

/// Waits until each slot's worker has been replaced so often, and in the full tier for two
/// minutes at least. Then nothing was lost, no worker was missing at any moment, and none has
/// failed.
#[track_caller]
pub fn serves_meanwhile(dev: &Dev, load: Load, times: u64) -> Report {
    let began = Instant::now();
    let at_least = scale(Duration::from_secs(120), Duration::ZERO);
    let workers = loop {
        let status = dev.status();
        assert_eq!(status.workers.ready, status.workers.desired, "{status:#?}");
        let done = status.slots.iter().all(|slot| slot.recycled >= times);
        if done && began.elapsed() >= at_least {
            break status.workers.desired;
        }
        let late = began.elapsed() > LONG;
        assert!(!late, "{status:#?}\n{}", dev.output());
        load.wait_for_more(1, LONG).expect("requests in between");
    };
    let report = load.stop();
    report.assert_lossless(20);
    never_fewer(&dev.output(), workers);
    for slot in &dev.status().slots {
        assert_eq!(slot.restarts, 0, "{slot:?}\n{}", dev.output());
    }
    report
}

/// What the supervisor has told, line by line: from the moment that all were ready, no slot
/// was ever without a ready worker.
#[track_caller]
pub fn never_fewer(output: &str, workers: u32) {
    let mut ready: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut complete = false;
    for line in output.lines() {
        let Some((_, told)) = line.split_once("slot ") else {
            continue;
        };
        let Some((slot, told)) = told.split_once(": worker ") else {
            continue;
        };
        let (pid, told) = told.split_once(' ').unwrap_or((told, ""));
        let here = ready.entry(slot.to_owned()).or_default();
        if told.starts_with("is ready") {
            here.push(pid.to_owned());
        } else if ["is draining", "is stopping", "exited", "was killed"]
            .iter()
            .any(|end| told.starts_with(end))
        {
            here.retain(|known| known != pid);
        }
        let slots = ready.values().filter(|here| !here.is_empty()).count();
        complete |= slots == workers as usize;
        assert!(
            !complete || slots == workers as usize,
            "fewer workers from here on: {line}\n{output}"
        );
    }
    assert!(complete, "never {workers} workers:\n{output}");
}

/// How often workers were replaced, all slots together, and how much they used then, in MiB.
pub fn sizes(output: &str) -> Vec<u64> {
    let lines = output.lines().filter(|l| l.contains("max_memory is"));
    let used = lines.filter_map(|l| {
        let (_, rest) = l.split_once(" uses ")?;
        rest.split_once(" MiB")?.0.parse().ok()
    });
    used.collect()
}
