// SPDX-License-Identifier: MIT OR Apache-2.0
//! Snapshots that somebody has damaged: refused, or gone on with; never a panic.

use super::{End, Identity, State, boot_id};
use crate::config::{Config, Cpus};
use crate::core::{
    Action, Event, Exit, GenerationId, Notification, Request, Scale, Supervisor, Time,
};
use crate::engine::release::Release;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const NOW: Time = Time(1 << 32);

/// A supervisor in the middle of a rollout, with a worker that drains.
fn state() -> State {
    let text = "command = \"/bin/true\"\nworkers = 3\nhealth = { exec = [\"/bin/true\"] }\n\
                max_memory = \"1G\"\nwatchdog = \"5s\"\ncanary_time = 0\n";
    let config = Config::parse(text, "web.toml").expect("a configuration");
    let policy = config.policy(&Cpus::detect());
    let mut core = Supervisor::new(policy.clone(), 7);
    let mut now = Time(1_000_000);
    let reload = Event::Requested {
        from: None,
        what: Request::Reload,
    };
    let mut events = vec![Event::Begin, reload];
    for turn in 0..200 {
        let Some(event) = (!events.is_empty()).then(|| events.remove(0)) else {
            now = core.next_deadline().unwrap_or(now).max(now);
            events.push(Event::Wake);
            continue;
        };
        for action in core.handle(now, event) {
            match action {
                Action::Spawn { worker, .. } => {
                    let pid = 1000 + worker.0 as i32;
                    events.push(Event::Spawned { worker, pid });
                    let what = Notification::Ready;
                    events.push(Event::Notified { worker, what });
                }
                Action::LoadConfig { generation } => events.push(Event::ConfigLoaded {
                    generation,
                    result: Ok(Box::new(policy.clone())),
                }),
                Action::Ask { worker } => events.push(Event::Alive { worker }),
                Action::Check { worker } => events.push(Event::Checked {
                    worker,
                    verdict: crate::core::Verdict::Healthy,
                }),
                _ => {}
            }
        }
        if turn > 100 && core.rollout().is_some() && core.workers().count() > 3 {
            break;
        }
    }
    let release = Release::new(config).expect("a release");
    let all = [core.generation(), GenerationId(2)];
    let process = |pid: Option<i32>| pid.map(|pid| Identity { pid, started: 1 });
    let workers = core.workers().map(|known| {
        let worker = super::state::Worker {
            process: process(known.pid),
            lines: vec![Some(0), None],
            talk: None,
            begun: Default::default(),
        };
        (known.id, worker)
    });
    State {
        app: "web".to_owned(),
        version: "0".to_owned(),
        boot: boot_id(),
        supervisor: None,
        end: End::Killed,
        incarnation: 1,
        workers: workers.collect::<BTreeMap<_, _>>(),
        releases: all.map(|id| (id, release.clone())).into(),
        lines: vec![vec![1, 2]],
        files: BTreeMap::new(),
        inherited: true,
        node: Default::default(),
        companion: Default::default(),
        unsent: Vec::new(),
        core,
    }
}

/// How many values there are in it, itself among them.
fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(all) => all.iter().map(count).sum::<usize>(),
        Value::Object(all) => all.values().map(count).sum(),
        _ => 0,
    }
}

/// Puts `new` in the place of the `nth` value; `None`: takes that out.
fn damage(value: &mut Value, mut nth: usize, new: Option<&Value>) {
    let take = |nth: &mut usize, child: &Value| {
        let inside = count(child);
        let here = *nth < inside;
        if !here {
            *nth -= inside;
        }
        here
    };
    if nth == 0 {
        *value = new.cloned().unwrap_or_default();
        return;
    }
    nth -= 1;
    match value {
        Value::Array(all) => {
            let Some(index) = all.iter().position(|child| take(&mut nth, child)) else {
                return;
            };
            match new {
                None if nth == 0 => drop(all.remove(index)),
                _ => damage(&mut all[index], nth, new),
            }
        }
        Value::Object(all) => {
            let found = all.iter().find(|(_, child)| take(&mut nth, child));
            let Some(key) = found.map(|(key, _)| key.clone()) else {
                return;
            };
            match new {
                None if nth == 0 => drop(all.remove(&key)),
                _ => damage(&mut all[&key], nth, new),
            }
        }
        _ => {}
    }
}

/// Whatever could happen next does.
fn go_on(state: State) {
    let mut core = state.core;
    let mut events = vec![Event::Resumed { exact: false }, Event::Wake];
    let what = Request::Scale(Scale::To(5));
    events.push(Event::Requested { from: None, what });
    for worker in state.workers.keys().copied() {
        let what = Notification::Ready;
        events.push(Event::Notified { worker, what });
        let exit = Exit::Unknown;
        events.push(Event::Exited { worker, exit });
    }
    let (from, what) = (None, Request::Reload);
    events.push(Event::Requested { from, what });
    let mut now = NOW;
    for event in events {
        core.handle(now, event);
        now = now.max(core.next_deadline().unwrap_or(now).min(Time(1 << 40)));
        core.handle(now, Event::Wake);
    }
    let what = Request::StopNow;
    core.handle(now, Event::Requested { from: None, what });
}

#[test]
fn a_good_one_is_gone_on_with() {
    let state = state();
    assert!(state.core.workers().count() > 3, "nothing under way");
    let text = serde_json::to_vec(&state).expect("JSON");
    let read = State::parse(&text).expect("a state");
    assert_eq!(read.check(NOW), Ok(()));
    go_on(read);
    for bad in [
        &b""[..],
        b"{}",
        b"[]",
        b"null",
        &text[..text.len() - 1],
        b"\xff",
    ] {
        assert!(State::parse(bad).is_err());
    }
    let deep = "[".repeat(1 << 20);
    assert!(State::parse(deep.as_bytes()).is_err());
}

#[test]
fn what_is_not_known_is_passed_over_and_what_is_wrong_told() {
    let whole = serde_json::to_value(state()).expect("JSON");
    let told = |change: &dyn Fn(&mut Value)| {
        let mut value = whole.clone();
        change(&mut value);
        let text = serde_json::to_vec(&value).expect("JSON");
        State::parse(&text).and_then(|state| state.check(NOW))
    };
    assert_eq!(told(&|v| v["later"] = json!([1])), Ok(()));
    let worker = |v: &Value| {
        let all = v["workers"].as_object().expect("workers");
        all.keys().next().expect("a worker").clone()
    };
    type Change<'a> = &'a dyn Fn(&mut Value);
    let cases: [(&str, Change<'_>); 6] = [
        ("future", &|v| v["core"]["now"] = json!(u64::MAX)),
        ("other workers", &|v| {
            let id = worker(v);
            v["workers"].as_object_mut().expect("workers").remove(&id);
        }),
        ("none of ours", &|v| {
            let id = worker(v);
            v["workers"][&id]["process"]["pid"] = json!(1);
        }),
        ("none of ours", &|v| {
            let id = worker(v);
            v["workers"][&id]["process"]["pid"] = json!(std::process::id());
        }),
        ("lacks the configuration", &|v| v["releases"] = json!({})),
        ("too high", &|v| v["incarnation"] = json!(u64::MAX)),
    ];
    for (expected, change) in cases {
        let wrong = told(change).expect_err(expected);
        assert!(wrong.contains(expected), "{wrong}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn a_damaged_one_is_refused_or_borne(
        places in prop::collection::vec((any::<prop::sample::Index>(), 0..9usize), 1..4)
    ) {
        let news = [
            None,
            Some(Value::Null),
            Some(json!(0)),
            Some(json!(-1)),
            Some(json!(u64::MAX)),
            Some(json!(i32::MAX)),
            Some(json!("x")),
            Some(json!([])),
            Some(json!(true)),
        ];
        let mut value = serde_json::to_value(state()).expect("JSON");
        // The decisions: all else is looked up, and may be missing.
        for (place, new) in places {
            let core = &mut value["core"];
            let nth = place.index(count(core));
            damage(core, nth, news[new].as_ref());
        }
        let text = serde_json::to_vec(&value).expect("JSON");
        if let Ok(state) = State::parse(&text) && state.check(NOW).is_ok() {
            go_on(state);
        }
    }
}
