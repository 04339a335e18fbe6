// SPDX-License-Identifier: MIT OR Apache-2.0
//! `even`: who has less to do gets more.
//!
//! A random choice alone leaves 300 connections over 8 slots more than a quarter off the
//! mean in four runs of ten. So while connections come and go, it is looked at twenty times a
//! second how many descriptors each slot has open and how many connections wait for it; the
//! half that has the fewer is chosen three times as often. That suffices to stay within
//! a quarter, and a fresh worker gets no more than three times its share.

use super::super::{Engine, now};
use super::Place;
use crate::config::Spread;
use crate::core::{Time, WorkerId};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// How often is looked, for up to [`FEW`] workers; with more, less often.
const INTERVAL: Duration = Duration::from_millis(50);
const FEW: usize = 16;
/// So many looks without a change are enough.
const QUIET: u32 = 20;
/// The same where only a proxy is looked for.
const SLOW: Duration = Duration::from_secs(1);
const SLOW_QUIET: u32 = 2;
/// How often those are chosen who have less to do, in comparison with the others.
const FAVOUR: u32 = 3;
/// A connection that waits counts as so many that are open: its worker is slow.
const WAITING: u64 = 4;

/// What is known of how much the workers have to do.
#[derive(Default)]
pub struct Looks {
    /// When to look again; `None`: when there is traffic.
    pub next: Option<Time>,
    /// Looks since the last change.
    quiet: u32,
    counts: BTreeMap<WorkerId, u64>,
    weights: BTreeMap<WorkerId, u32>,
}

impl Looks {
    /// There is traffic.
    pub fn begin(&mut self, now: Time) {
        if self.next.is_none() {
            self.quiet = 0;
            self.next = Some(now);
        }
    }

    /// How often a worker is to be chosen, in comparison with the others.
    pub fn weight(&self, worker: Option<WorkerId>) -> u32 {
        let known = worker.and_then(|id| self.weights.get(&id));
        known.copied().unwrap_or(1)
    }

    /// What was seen. Returns for how many looks nothing has changed.
    fn seen(&mut self, counts: BTreeMap<WorkerId, u64>) -> u32 {
        self.quiet = match counts == self.counts {
            true => self.quiet + 1,
            false => 0,
        };
        self.weights = weigh(&counts);
        self.counts = counts;
        self.quiet
    }
}

/// The weight of each, from how much it has to do.
fn weigh(counts: &BTreeMap<WorkerId, u64>) -> BTreeMap<WorkerId, u32> {
    let mut sorted: Vec<u64> = counts.values().copied().collect();
    sorted.sort_unstable();
    let middle = sorted.get(sorted.len().saturating_sub(1) / 2).copied();
    let weight = |count: u64| if Some(count) <= middle { FAVOUR } else { 1 };
    counts.iter().map(|(id, n)| (*id, weight(*n))).collect()
}

impl Engine {
    pub(super) fn look_at_loads(&mut self, spread: Spread) {
        if self.steering.looks.next.is_none_or(|at| at > now()) {
            return;
        }
        let mut counts = BTreeMap::new();
        let mut slow = Vec::new();
        for (n, listener) in self.listeners.iter().enumerate() {
            if !listener.is_steered() {
                continue;
            }
            for Place { line, worker, .. } in self.places(n, spread) {
                let Some(worker) = worker else {
                    continue;
                };
                let queue = listener.lines[line].waiting().unwrap_or(0);
                if queue > 0 {
                    slow.push(worker);
                }
                let count = counts.entry(worker).or_insert_with(|| self.open_by(worker));
                *count += WAITING * u64::from(queue);
            }
        }
        for worker in slow {
            self.ask(worker);
        }
        let interval = INTERVAL * (1 + counts.len() / FEW) as u32;
        let open = counts.values().sum();
        let quiet = self.steering.looks.seen(counts);
        self.steering.looks.next = match spread {
            Spread::Even if quiet < QUIET => Some(now() + interval),
            Spread::Sticky if self.speaks_node() && quiet < QUIET => {
                self.look_for_a_proxy(open);
                Some(now() + INTERVAL * 5)
            }
            Spread::Sticky if quiet < SLOW_QUIET && self.look_for_a_proxy(open) => {
                Some(now() + SLOW)
            }
            _ => None,
        };
    }

    /// How many descriptors the processes of a worker have open.
    fn open_by(&self, worker: WorkerId) -> u64 {
        self.members(worker)
            .iter()
            .map(|pid| open_descriptors(*pid))
            .sum()
    }
}

/// The number of open descriptors of a process: the size of its /proc/PID/fd since Linux 6.2
/// (proc_pid_fd(5)), else the number of entries there.
fn open_descriptors(pid: i32) -> u64 {
    let place = format!("/proc/{pid}/fd");
    match std::fs::metadata(&place).map(|found| found.size()) {
        Ok(0) => std::fs::read_dir(&place).map_or(0, |entries| entries.count() as u64),
        Ok(count) => count,
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(counts: &[u64]) -> Vec<u32> {
        let counts = counts.iter().enumerate();
        let counts = counts
            .map(|(n, count)| (WorkerId(n as u64), *count))
            .collect();
        weigh(&counts).into_values().collect()
    }

    #[test]
    fn the_lesser_half_is_favoured() {
        assert_eq!(weights(&[7, 7, 7]), [3, 3, 3]);
        assert_eq!(weights(&[9, 7, 8, 6]), [1, 3, 1, 3]);
        assert_eq!(weights(&[1, 2]), [3, 1]);
        assert_eq!(weights(&[5, 5, 5, 6]), [3, 3, 3, 1]);
        assert!(weights(&[]).is_empty());
    }

    #[test]
    fn looks_without_a_change_are_counted() {
        let mut looks = Looks::default();
        looks.begin(Time(5));
        assert_eq!(looks.next, Some(Time(5)));
        let counts = |n| BTreeMap::from([(WorkerId(1), n)]);
        let seen = [1, 1, 1, 2, 2].map(|n| looks.seen(counts(n)));
        assert_eq!(seen, [0, 1, 2, 0, 1]);
    }

    #[test]
    fn own_descriptors() {
        let pid = std::process::id() as i32;
        let before = open_descriptors(pid);
        let _files: Vec<_> = (0..100)
            .map(|_| std::fs::File::open("/dev/null").unwrap())
            .collect();
        assert!(open_descriptors(pid) >= before.min(3) + 100);
        assert_eq!(open_descriptors(i32::MAX), 0);
    }
}
