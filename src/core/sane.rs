// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether a state that was read can be gone on from: whoever has written it may have been
//! another version, and a record may have been damaged. What this lets through makes no event
//! panic, loop or allocate without bound.

use super::rollout::Stage;
use super::*;
use std::time::Duration;

/// More than any counter or name gets in a machine's life.
const MANY: u64 = 1 << 48;
/// The same of counters that are smaller.
const MANY_SMALL: u32 = 1 << 30;
/// Longer than any duration that a configuration may have (a year).
const LONG: Duration = Duration::from_secs(1 << 32);
/// Workers that there may be for each slot: the one that serves, one that is to, and some that
/// drain.
const FOR_EACH_SLOT: usize = 16;
/// Longest list of moments, requests and generations.
const LONG_LIST: usize = 1 << 16;

/// What is wrong, for people.
type Wrong = Result<(), String>;

fn check(holds: bool, wrong: impl FnOnce() -> String) -> Wrong {
    if holds { Ok(()) } else { Err(wrong()) }
}

impl Supervisor {
    /// Whether a snapshot makes sense at `now`, so that it can be gone on with.
    ///
    /// # Errors
    /// What does not, for people.
    pub fn check_snapshot(&self, now: Time) -> Result<(), String> {
        check(!self.over, || "it has ended".to_owned())?;
        check(self.now <= now && self.began <= now, || {
            "it was written in the future".to_owned()
        })?;
        self.sane_generations()?;
        self.sane_slots()?;
        self.workers.iter().try_for_each(|(id, worker)| {
            self.sane_worker(*id, worker, now)
                .map_err(|wrong| format!("worker {id} {wrong}"))
        })?;
        self.sane_rollout()?;
        self.timers.is_sane(|id| self.workers.contains_key(&id))
    }

    fn sane_generations(&self) -> Wrong {
        let there = |id: &GenerationId| self.generations.contains_key(id);
        check(there(&self.generation), || {
            format!("generation {} is not there", self.generation)
        })?;
        check(self.last_good.iter().all(there), || {
            "the last good generation is not there".to_owned()
        })?;
        check(self.generations.len() <= LONG_LIST, || {
            "there are too many generations".to_owned()
        })?;
        let newest = self.generations.keys().map(|id| id.0).max();
        check(
            newest < Some(self.next_generation) && self.next_generation < MANY,
            || "the next generation has a name that is taken".to_owned(),
        )?;
        check(self.scale.is_none_or(in_range), || {
            "its number of workers is out of range".to_owned()
        })?;
        self.generations.iter().try_for_each(|(id, generation)| {
            let policy = &generation.policy;
            let sane = in_range(policy.workers)
                && durations(policy).all(|span| span <= LONG)
                && policy.health.as_ref().is_none_or(|h| !h.interval.is_zero())
                && policy.watchdog.is_none_or(|every| !every.is_zero())
                && generation.crashes.len() <= LONG_LIST;
            check(sane, || format!("generation {id} has impossible rules"))
        })
    }

    fn sane_slots(&self) -> Wrong {
        let most = MAX_WORKERS as usize * FOR_EACH_SLOT;
        check(
            self.slots.len() <= most && self.workers.len() <= most,
            || "there are too many workers".to_owned(),
        )?;
        let mut listed = 0;
        for (index, slot) in self.slots.iter().enumerate() {
            listed += slot.members.len();
            for id in &slot.members {
                let worker = self.workers.get(id);
                check(worker.is_some_and(|w| w.slot.0 as usize == index), || {
                    format!("slot {index} has a worker {id} that is not its own")
                })?;
            }
            let once = slot.members.is_sorted_by(|one, next| one < next);
            let counted = slot.crashes < MANY_SMALL && slot.restarts.max(slot.recycled) < MANY;
            let known = slot.generation.iter();
            let known = known.into_iter().all(|g| self.generations.contains_key(g));
            check(once && counted && known, || {
                format!("slot {index} does not make sense")
            })?;
        }
        check(listed == self.workers.len(), || {
            "a worker is in no slot".to_owned()
        })
    }

    fn sane_worker(&self, id: WorkerId, worker: &Worker, now: Time) -> Wrong {
        let said = |wrong: &'static str| move || wrong.to_owned();
        check(worker.id == id, said("is called otherwise"))?;
        check(
            id.0 < self.next_worker && self.next_worker < MANY,
            said("has a name that is yet to be given"),
        )?;
        check(
            self.generations.contains_key(&worker.generation),
            said("is of a generation that is not there"),
        )?;
        check(worker.state != WorkerState::Gone, said("is gone"))?;
        let past = [
            Some(worker.since),
            Some(worker.spawned),
            Some(worker.alive_at),
            worker.ready_at,
            worker.blocked,
            worker.not_ready,
            worker.checkup.asked,
        ];
        check(
            past.into_iter().flatten().all(|at| at <= now),
            said("has done something in the future"),
        )?;
        let sane = worker.hold <= LONG
            && worker
                .watchdog
                .is_none_or(|every| !every.is_zero() && every <= LONG)
            && worker.probes < MANY_SMALL
            && worker.checkup.bad < MANY_SMALL
            && worker.pid.is_none_or(|pid| pid > 1);
        check(sane, said("does not make sense"))
    }

    fn sane_rollout(&self) -> Wrong {
        check(self.waiters.len() <= LONG_LIST, || {
            "too many wait for an answer".to_owned()
        })?;
        let Some(rollout) = &self.rollout else {
            return Ok(());
        };
        let loaded = rollout.stage == Stage::Loading || self.generations.contains_key(&rollout.to);
        let named = rollout.to != self.generation && rollout.to.0 < self.next_generation;
        let asked = rollout.requests.len().max(rollout.undoers.len()) <= LONG_LIST;
        check(loaded && named && asked, || {
            "its rollout does not make sense".to_owned()
        })
    }
}

fn in_range(workers: u32) -> bool {
    (1..=MAX_WORKERS).contains(&workers)
}

fn durations(policy: &Policy) -> impl Iterator<Item = Duration> {
    let Policy {
        start_timeout,
        drain_timeout,
        hung_timeout,
        health,
        watchdog,
        pre_stop_delay,
        max_lifetime,
        backoff_min,
        backoff_max,
        crash_window,
        canary_time,
        min_ready_time,
        ..
    } = policy;
    let ready = match policy.ready {
        Ready::Delay(delay) => Some(delay),
        _ => None,
    };
    let health = health.iter().flat_map(|h| [h.interval, h.timeout]);
    let always = [
        *start_timeout,
        *drain_timeout,
        *pre_stop_delay,
        *backoff_min,
        *backoff_max,
        *crash_window,
        *canary_time,
        *min_ready_time,
    ];
    let perhaps = [*hung_timeout, *watchdog, *max_lifetime, ready];
    always
        .into_iter()
        .chain(perhaps.into_iter().flatten())
        .chain(health)
}
