// SPDX-License-Identifier: MIT OR Apache-2.0
//! What became of the requests of a load.

use super::Kind;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Failures kept with their text, for each kind.
pub const KEPT_FAILURES: usize = 20;

/// One lost request.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Since the start of the load.
    pub at: Duration,
    pub text: String,
}

/// What happened to the requests of one kind.
#[derive(Clone, Debug, Default)]
pub struct KindReport {
    pub sent: u64,
    pub ok: u64,
    pub failed: u64,
    /// The first 20 by time.
    pub failures: Vec<Failure>,
    pub slowest: Duration,
    /// Connections opened.
    pub connections: u64,
    /// Answers by the `pid` in the body.
    pub by_pid: BTreeMap<u64, u64>,
    /// Answers by the `generation` in the body.
    pub by_generation: BTreeMap<u64, u64>,
}

impl KindReport {
    pub(super) fn add(&mut self, other: &KindReport) {
        self.sent += other.sent;
        self.ok += other.ok;
        self.failed += other.failed;
        self.connections += other.connections;
        self.slowest = self.slowest.max(other.slowest);
        self.failures.extend(other.failures.iter().cloned());
        self.failures.sort_by_key(|failure| failure.at);
        self.failures.truncate(KEPT_FAILURES);
        for (pid, count) in &other.by_pid {
            *self.by_pid.entry(*pid).or_default() += count;
        }
        for (generation, count) in &other.by_generation {
            *self.by_generation.entry(*generation).or_default() += count;
        }
    }
}

/// What happened so far.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub elapsed: Duration,
    pub kinds: BTreeMap<Kind, KindReport>,
}

impl Report {
    /// All kinds together.
    pub fn total(&self) -> KindReport {
        let mut total = KindReport::default();
        self.kinds.values().for_each(|kind| total.add(kind));
        total
    }

    /// Lowest and highest generation that answered.
    pub fn generations(&self) -> Option<(u64, u64)> {
        let seen = self.total().by_generation;
        Some((*seen.first_key_value()?.0, *seen.last_key_value()?.0))
    }

    /// Answers a second of one kind.
    pub fn rate(&self, kind: Kind) -> f64 {
        let ok = self.kinds.get(&kind).map_or(0, |kind| kind.ok);
        ok as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// # Panics
    ///
    /// A request was lost, or a kind made fewer than `at_least` requests.
    pub fn assert_lossless(&self, at_least: u64) {
        for (kind, report) in &self.kinds {
            assert_eq!(report.failed, 0, "{kind:?} lost requests\n{self}");
            assert_eq!(report.sent, report.ok, "{kind:?}: still running?\n{self}");
            assert!(report.ok >= at_least, "{kind:?}: too few requests\n{self}");
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, report) in &self.kinds {
            let KindReport {
                sent,
                ok,
                failed,
                slowest,
                by_pid,
                by_generation,
                ..
            } = report;
            writeln!(
                f,
                "{kind:?}: {sent} sent, {ok} ok, {failed} failed, slowest {slowest:?}"
            )?;
            writeln!(f, "    by pid {by_pid:?}, by generation {by_generation:?}")?;
            for failure in &report.failures {
                writeln!(f, "    at {:?}: {}", failure.at, failure.text)?;
            }
        }
        Ok(())
    }
}
