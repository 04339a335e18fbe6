// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every event in every situation: the transition table of docs/architecture.md.
//!
//! `UPDATE_DOCS=1 cargo test --lib table` writes it anew after a wanted change.

use super::*;

/// Lists values of an enum by variant. The match has no wildcard, so a new variant does
/// not compile until it is in the list, and with that in the table.
macro_rules! every {
    ($kind:ty: $($pattern:pat => [$($label:expr => $value:expr),* $(,)?]),+ $(,)?) => {{
        let _: fn(&$kind) = |value| match value { $($pattern => {}),+ };
        $($(assert!(matches!($value, $pattern), "{} is listed elsewhere", $label);)*)+
        let all: Vec<(String, $kind)> =
            [$(vec![$(($label.to_string(), $value)),*]),+].concat();
        all
    }};
}

/// What a table is about, with its worker (in the table of the cluster: any).
struct Situation {
    name: &'static str,
    core: Supervisor,
    worker: WorkerId,
    slot: SlotId,
}

#[derive(Clone)]
enum Trigger {
    Event(Box<Event>),
    Due(Timer),
}

fn notifications() -> Vec<(String, Notification)> {
    every!(Notification:
        Notification::Ready => ["`READY=1`" => Notification::Ready],
        Notification::Listening => ["listens (Node)" => Notification::Listening],
        Notification::SaidReady => ["message `ready` (Node)" => Notification::SaidReady],
        Notification::Stopping => ["`STOPPING=1`" => Notification::Stopping],
        Notification::Status(_) => ["`STATUS=`" => Notification::Status("busy".to_owned())],
        Notification::ExtendTimeout(_) =>
            ["`EXTEND_TIMEOUT_USEC=`" => Notification::ExtendTimeout(ms(60_000))],
        Notification::Watchdog => ["`WATCHDOG=1`" => Notification::Watchdog],
        Notification::WatchdogTrigger =>
            ["`WATCHDOG=trigger`" => Notification::WatchdogTrigger],
        Notification::WatchdogInterval(_) =>
            ["`WATCHDOG_USEC=`" => Notification::WatchdogInterval(Some(ms(500)))],
    )
}

fn exits() -> Vec<(String, Exit)> {
    every!(Exit:
        Exit::Code(_) => ["exits with 0" => Exit::Code(0), "exits with 1" => Exit::Code(1)],
        Exit::Signal(_) => ["killed by a signal" => Exit::Signal(11)],
        Exit::Unknown => ["ends in an unknown way" => Exit::Unknown],
    )
}

fn requests(slot: SlotId) -> Vec<(String, Request)> {
    let scales = every!(Scale:
        Scale::To(_) => ["scale to 1" => Scale::To(1), "scale to 0" => Scale::To(0)],
        Scale::By(_) => ["scale by +1" => Scale::By(1)],
    );
    let mut all = every!(Request:
        Request::Reload => ["reload" => Request::Reload],
        Request::Restart => ["restart" => Request::Restart],
        Request::Rollback => ["rollback" => Request::Rollback],
        Request::Replace(_) => [
            "replace in its slot" => Request::Replace(slot),
            "replace in a slot that is not there" => Request::Replace(SlotId(9)),
        ],
        Request::Scale(_) => [],
        Request::Configured { .. } => ["the configuration says 1 worker" => Request::Configured {
            workers: 1,
            source: "a file".to_owned(),
        }],
        Request::Stop => ["stop" => Request::Stop],
        Request::StopNow => ["stop now" => Request::StopNow],
    );
    all.extend(scales.into_iter().map(|(l, s)| (l, Request::Scale(s))));
    all
}

fn timers(worker: WorkerId, slot: SlotId) -> Vec<(String, Timer)> {
    every!(Timer:
        Timer::Start(_) => ["*start* due" => Timer::Start(worker)],
        Timer::Probe(_) => ["*probe* due" => Timer::Probe(worker)],
        Timer::Settle(_) => ["*settle* due" => Timer::Settle(worker)],
        Timer::Signal(_) => ["*signal* due" => Timer::Signal(worker)],
        Timer::Hung(_) => ["*hung* due" => Timer::Hung(worker)],
        Timer::Health(_) => ["*health* due" => Timer::Health(worker)],
        Timer::Watchdog(_) => ["*watchdog* due" => Timer::Watchdog(worker)],
        Timer::Kill(_) => ["*kill* due" => Timer::Kill(worker)],
        Timer::Recover(_) => ["*recover* due" => Timer::Recover(worker)],
        Timer::Measure(_) => ["*measure* due" => Timer::Measure(worker)],
        Timer::Lifetime(_) => ["*lifetime* due" => Timer::Lifetime(worker)],
        Timer::Backoff(_) => ["*backoff* due" => Timer::Backoff(slot)],
        Timer::Leave => ["*leave* due" => Timer::Leave],
        Timer::Exit => ["*exit* due" => Timer::Exit],
    )
}

/// Everything that can happen to a worker and to the cluster.
fn triggers(worker: WorkerId, slot: SlotId, generation: GenerationId) -> Vec<(String, Trigger)> {
    let error = || "no such file".to_owned();
    let loaded = |result| Event::ConfigLoaded { generation, result };
    let recalled = |result| Event::Recalled { generation, result };
    let mut all = every!(Event:
        Event::Begin => ["begin" => Event::Begin],
        Event::Resumed { .. } => [
            "taken over, re-executed" => Event::Resumed { exact: true },
            "taken over after a crash" => Event::Resumed { exact: false },
        ],
        Event::Wake => [], // by timers
        Event::Spawned { .. } => ["spawned" => Event::Spawned { worker, pid: 1 }],
        Event::SpawnFailed { .. } =>
            ["spawn failed" => Event::SpawnFailed { worker, error: error() }],
        Event::Notified { .. } => [], // by notifications
        Event::Probed { .. } => [
            "probed: accepts" => Event::Probed { worker, ready: true },
            "probed: does not" => Event::Probed { worker, ready: false },
        ],
        Event::Drained { .. } => ["drained" => Event::Drained { worker, grace: ms(0) }],
        Event::Alive { .. } => ["answers that it is there" => Event::Alive { worker }],
        Event::Blocked { .. } => ["blocked" => Event::Blocked { worker, since: ms(1_000) }],
        Event::Answered { .. } => ["answers" => Event::Answered { worker }],
        Event::Checked { .. } => [
            "is well" => Event::Checked { worker, verdict: Verdict::Healthy },
            "is not ready for traffic" =>
                Event::Checked { worker, verdict: Verdict::NotReady(error()) },
            "is not well" => Event::Checked { worker, verdict: Verdict::Bad(error()) },
            "could not be asked" => Event::Checked { worker, verdict: Verdict::Unknown(error()) },
        ],
        Event::Heard { .. } => ["heard" => Event::Heard { worker }],
        Event::Measured { .. } => [
            "little memory" => Event::Measured { worker, memory: Some(MEMORY - 1) },
            "too much memory" => Event::Measured { worker, memory: Some(MEMORY + 1) },
            "memory unknown" => Event::Measured { worker, memory: None },
        ],
        Event::Exited { .. } => [], // by exits
        Event::ConfigLoaded { .. } => [
            "configuration loaded" => loaded(Ok(Box::new(rules(2)))),
            "configuration refused" => loaded(Err(error())),
        ],
        Event::Recalled { .. } => [
            "brought back" => recalled(Ok(())),
            "cannot be brought back" => recalled(Err(error())),
        ],
        Event::Requested { .. } => [], // by requests
    );
    let said = notifications().into_iter();
    all.extend(said.map(|(l, what)| (l, Event::Notified { worker, what })));
    let exits = exits().into_iter();
    all.extend(exits.map(|(l, exit)| (l, Event::Exited { worker, exit })));
    let from = Some(RequestId(1));
    let requests = requests(slot).into_iter();
    all.extend(requests.map(|(l, what)| (l, Event::Requested { from, what })));
    let events = all
        .into_iter()
        .map(|(l, e)| (l, Trigger::Event(Box::new(e))));
    let timers = timers(worker, slot).into_iter();
    events
        .chain(timers.map(|(l, t)| (l, Trigger::Due(t))))
        .collect()
}

/// Whether a trigger belongs into the table of a worker, and into that of the cluster.
fn concerns(trigger: &Trigger) -> (bool, bool) {
    match trigger {
        Trigger::Event(event) => match event.as_ref() {
            Event::Begin | Event::ConfigLoaded { .. } | Event::Recalled { .. } => (false, true),
            Event::Requested { .. } | Event::Resumed { .. } => (true, true),
            Event::Wake
            | Event::Spawned { .. }
            | Event::SpawnFailed { .. }
            | Event::Notified { .. }
            | Event::Probed { .. }
            | Event::Drained { .. }
            | Event::Alive { .. }
            | Event::Blocked { .. }
            | Event::Answered { .. }
            | Event::Checked { .. }
            | Event::Heard { .. }
            | Event::Measured { .. }
            | Event::Exited { .. } => (true, false),
        },
        Trigger::Due(timer) => match timer {
            Timer::Backoff(_) | Timer::Leave | Timer::Exit => (false, true),
            Timer::Start(_)
            | Timer::Probe(_)
            | Timer::Settle(_)
            | Timer::Signal(_)
            | Timer::Hung(_)
            | Timer::Health(_)
            | Timer::Watchdog(_)
            | Timer::Kill(_)
            | Timer::Recover(_)
            | Timer::Measure(_)
            | Timer::Lifetime(_) => (true, false),
        },
    }
}

/// What a worker may use in these tables.
const MEMORY: u64 = 200 << 20;

fn rules(workers: u32) -> Policy {
    Policy {
        max_memory: Some(MEMORY),
        max_lifetime: Some(ms(3_600_000)),
        ready: Ready::Auto,
        ..policy(workers)
    }
}

/// A cluster that has served for a while, whose workers ignore their stop signal.
fn served(workers: u32) -> Sim {
    let stubborn = Script {
        drains: None,
        ..Script::default()
    };
    let mut sim = Sim::new(rules(workers), stubborn);
    sim.run(ms(1_000));
    sim
}

fn scale(sim: &mut Sim, workers: u32) {
    let what = Request::Scale(Scale::To(workers));
    sim.event(Event::Requested { from: None, what });
    sim.run(ms(0));
}

fn reload(sim: &mut Sim, then: u64) {
    let what = Request::Reload;
    sim.event(Event::Requested { from: None, what });
    sim.run(ms(then));
}

/// The newest worker of `sim`, in a situation called `name`.
fn newest(name: &'static str, sim: &Sim) -> Situation {
    let core = sim.core.clone();
    let (worker, slot) = core
        .workers()
        .last()
        .map_or((WorkerId(1), SlotId(0)), |w| (w.id, w.slot));
    Situation {
        name,
        core,
        worker,
        slot,
    }
}

fn starting() -> Vec<Situation> {
    let mut first = Sim::new(rules(1), Script::default());
    first.run(ms(0));
    let mut added = served(1);
    scale(&mut added, 2);
    let mut canary = served(1);
    reload(&mut canary, 10);
    vec![
        newest("starting (the only one, first start)", &first),
        newest("starting (one more)", &added),
        newest("starting (first of a new generation)", &canary),
    ]
}

fn ready() -> Vec<Situation> {
    let mut well = served(1);
    scale(&mut well, 2);
    well.run(ms(1_000));
    let mut crashed = served(1);
    let worker = crashed.serving(0).expect("a worker").id;
    crashed.crash(worker, Exit::Signal(11));
    crashed.run(ms(500));
    let mut blocked = newest("ready (blocked)", &well);
    let (worker, since) = (blocked.worker, ms(1_000));
    blocked
        .core
        .handle(well.now, Event::Blocked { worker, since });
    let mut canary = served(1);
    reload(&mut canary, 300);
    vec![
        blocked,
        newest("ready", &well),
        newest("ready (after a crash)", &crashed),
        newest("ready (first of a new generation, on trial)", &canary),
    ]
}

/// A worker that is asked to drain before it is signalled.
fn asked_to_drain() -> Situation {
    let rules = Policy {
        drains: true,
        ..rules(2)
    };
    let mut asked = Sim::new(rules, Script::default());
    asked.run(ms(1_000));
    scale(&mut asked, 1);
    newest("draining (asked over its channel)", &asked)
}

fn leaving() -> [Situation; 4] {
    let mut draining = served(1);
    scale(&mut draining, 2);
    draining.run(ms(500));
    scale(&mut draining, 1);
    let mut stopping = served(1);
    scale(&mut stopping, 2);
    scale(&mut stopping, 1);
    let mut killed = newest("stopping (killed)", &stopping);
    killed.core.handle(stopping.now, Event::Wake);
    let due = Trigger::Due(Timer::Kill(killed.worker));
    apply(&mut killed.core, &due).expect("armed");
    let mut gone = newest("gone", &stopping);
    let (worker, exit) = (gone.worker, Exit::Signal(15));
    gone.core
        .handle(stopping.now, Event::Exited { worker, exit });
    [
        newest("draining", &draining),
        newest("stopping (told to before it was ready)", &stopping),
        killed,
        gone,
    ]
}

fn worker_situations() -> Vec<Situation> {
    let [draining, stopping, killed, gone] = leaving();
    let mut all = starting();
    all.extend(ready());
    let asked = super::health::asked();
    all.extend(asked.map(|(name, sim)| newest(name, &sim)));
    all.extend([draining, asked_to_drain(), stopping, killed, gone]);
    let states = every!(WorkerState:
        WorkerState::Starting => ["starting" => WorkerState::Starting],
        WorkerState::Ready => ["ready" => WorkerState::Ready],
        WorkerState::Draining => ["draining" => WorkerState::Draining],
        WorkerState::Stopping => ["stopping" => WorkerState::Stopping],
        WorkerState::Gone => ["gone" => WorkerState::Gone],
    );
    for (name, state) in states {
        let shown = |s: &&Situation| s.name.split(' ').next() == Some(name.as_str());
        let here: Vec<&Situation> = all.iter().filter(shown).collect();
        assert!(!here.is_empty(), "nothing is {name}");
        for situation in here {
            let found = worker_state(&situation.core, situation.worker);
            assert_eq!(found, state, "{}", situation.name);
        }
    }
    all
}

fn cluster_situations() -> Vec<Situation> {
    let mut first = Sim::new(rules(2), Script::default());
    first.run(ms(0));
    let broken = Script {
        exits: Some((ms(10), Exit::Code(1))),
        ..Script::default()
    };
    let mut hopeless = Sim::new(rules(1), broken);
    hopeless.run(ms(20));
    let mut loading = served(2);
    let what = Request::Reload;
    loading.event(Event::Requested { from: None, what });
    let mut rolling = served(2);
    reload(&mut rolling, 50);
    let mut undoing = served(2);
    reload(&mut undoing, 650);
    let latest = newest("", &undoing).worker;
    undoing.crash(latest, Exit::Code(1));
    let mut waiting = served(2);
    for _ in 0..2 {
        let worker = waiting.serving(1).expect("a worker").id;
        waiting.crash(worker, Exit::Signal(11));
        waiting.run(ms(if waiting.core.backoff_until(SlotId(1)).is_some() {
            0
        } else {
            500
        }));
    }
    let mut stopping = served(2);
    let what = Request::Stop;
    stopping.event(Event::Requested { from: None, what });
    let leaving = super::health::leaving();
    let mut backing_off = newest("running (slot 1 in back-off)", &waiting);
    backing_off.slot = SlotId(1);
    vec![
        newest("starting", &first),
        newest("running", &served(2)),
        backing_off,
        newest("reloading (configuration being read)", &loading),
        newest("reloading (rolling out)", &rolling),
        newest("reloading (undoing)", &undoing),
        newest("stopping (workers serve on for a while)", &leaving),
        newest("stopping", &stopping),
        newest("stopping (first start failed)", &hopeless),
    ]
}

fn worker_state(core: &Supervisor, worker: WorkerId) -> WorkerState {
    core.worker(worker).map_or(WorkerState::Gone, |w| w.state)
}

/// Lets something happen; `None`: it cannot, the timer is not armed.
fn apply(core: &mut Supervisor, trigger: &Trigger) -> Option<Vec<Action>> {
    let now = core.now;
    match trigger {
        Trigger::Event(event) => Some(core.handle(now, *event.clone())),
        Trigger::Due(timer) => {
            core.timers.get(*timer)?;
            core.timers.set(*timer, now);
            Some(core.handle(now, Event::Wake))
        }
    }
}

/// A table for each situation: a row for all that has the same effect.
fn table(situations: &[Situation], of_worker: bool) -> String {
    let mut text = String::new();
    for situation in situations {
        let Situation { core, worker, .. } = situation;
        let coming = core.rollout.as_ref().map_or(GenerationId(9), |r| r.to);
        let mut rows: Vec<(String, Vec<String>)> = Vec::new();
        for (label, trigger) in triggers(*worker, situation.slot, coming) {
            let (workers, clusters) = concerns(&trigger);
            if !(if of_worker { workers } else { clusters }) {
                continue;
            }
            let mut core = core.clone();
            let effect = match apply(&mut core, &trigger) {
                None => "cannot be | not armed".to_owned(),
                Some(actions) => {
                    let to = match (of_worker, core.over) {
                        (true, _) => worker_state(&core, *worker).to_string(),
                        (false, true) => "ended".to_owned(),
                        (false, false) => core.state().to_string(),
                    };
                    let about = of_worker.then_some((*worker, situation.slot));
                    format!("{to} | {}", super::words::of_all(&actions, about))
                }
            };
            match rows.iter_mut().find(|(e, _)| *e == effect) {
                Some((_, labels)) => labels.push(label),
                None => rows.push((effect, vec![label])),
            }
        }
        for (effect, labels) in rows {
            let row = format!(
                "| {} | {} | {effect} |\n",
                situation.name,
                labels.join(", ")
            );
            text.push_str(&row);
        }
    }
    text
}

#[test]
fn the_transition_table_is_the_documented_one() {
    let text = format!(
        "### A worker\n{}\n### The cluster\n{}",
        table(&worker_situations(), true),
        table(&cluster_situations(), false)
    );
    crate::docs::assert_section("docs/architecture.md", "transitions", &text);
}
