// SPDX-License-Identifier: MIT OR Apache-2.0
//! `app-cluster reload --dry-run`: what a reload would do.

use super::Fail;
use super::check::counted;
use super::client::Client;
use crate::api::{Call, Plan};
use crate::config::show_duration;
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;

#[derive(Deserialize)]
struct Reply {
    plan: Plan,
}

pub fn main(name: &str, json: bool) -> Result<(), Fail> {
    let mut client = Client::connect(name)?;
    let plan = client.read::<Reply>(&Call::Plan {})?.plan;
    if json {
        outln!("{}", json!(plan));
        return Ok(());
    }
    out!("{}", text(name, &plan));
    for warning in &plan.warnings {
        errln!("{warning}\n");
    }
    Ok(())
}

fn text(name: &str, plan: &Plan) -> String {
    let (from, to) = (plan.from, plan.generation);
    let mut lines = vec![format!(
        "{name}: a reload would roll out generation {to} over {from}"
    )];
    if let Some(after) = &plan.after {
        lines.push(format!("  {after}"));
    }
    let mut changes = plan.changes.clone();
    changes.keys.retain(|change| !of_the_unit(&change.key));
    let told = changes.lines();
    let apart = plan.changes.keys.iter().map(|change| change.key.as_str());
    let apart: Vec<&str> = apart.filter(|key| of_the_unit(key)).collect();
    if told.is_empty() && apart.is_empty() {
        lines.push("  with the same configuration, variables and files".to_owned());
    }
    lines.extend(told.iter().map(|line| format!("  {line}")));
    if !apart.is_empty() {
        lines.push(format!("  not by a reload: {}", apart.join(", ")));
    }
    lines.push(format!(
        "  {}, now {}: {}",
        counted(plan.workers as usize, "worker"),
        plan.workers_now,
        plan.workers_source
    ));
    let surplus: Vec<u32> = (plan.workers..plan.workers_now).collect();
    match surplus.as_slice() {
        [] => {}
        [slot] => lines.push(format!("  slot {slot} ends")),
        slots => lines.push(format!("  slots {} end", ranges(slots))),
    }
    let time = |millis| show_duration(Duration::from_millis(millis));
    if let Some(canary) = plan.canary {
        let stay = match plan.canary_time_ms {
            0 => String::new(),
            millis => format!(", which has to stay ready for {}", time(millis)),
        };
        lines.push(format!("  first slot {canary}{stay}"));
    }
    let rest = plan.order.get(1..).unwrap_or_default();
    if !rest.is_empty() {
        let at_a_time = match plan.at_once {
            1 => "one at a time".to_owned(),
            several => format!("{several} at a time"),
        };
        lines.push(match rest {
            [slot] => format!("  then slot {slot}"),
            _ => format!("  then slots {}, {at_a_time}", ranges(rest)),
        });
    }
    lines.push(format!(
        "  at most {} at the same time, besides those that finish their requests; {} and \
         what the workers need to start",
        counted(plan.most_workers as usize, "worker"),
        time(plan.least_ms)
    ));
    lines.push("nothing was changed".to_owned());
    lines.join("\n") + "\n"
}

/// Whether a key says what the units or the socket files are to be like: no reload changes these.
fn of_the_unit(key: &str) -> bool {
    const KEYS: [&str; 7] = [
        "user",
        "group",
        "sandbox",
        "autostart",
        "socket_user",
        "socket_group",
        "socket_mode",
    ];
    KEYS.contains(&key)
}

/// `1 to 3, 7` for 1, 2, 3, 7.
fn ranges(slots: &[u32]) -> String {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for &slot in slots {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == slot => *last = slot,
            _ => parts.push((slot, slot)),
        }
    }
    let shown = parts.into_iter().map(|(first, last)| match last - first {
        0 => first.to_string(),
        1 => format!("{first}, {last}"),
        _ => format!("{first} to {last}"),
    });
    shown.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_slots() {
        for (slots, text) in [
            (&[1][..], "1"),
            (&[1, 2], "1, 2"),
            (&[1, 2, 3, 7, 9, 10], "1 to 3, 7, 9, 10"),
            (&[3, 2, 1], "3, 2, 1"),
        ] {
            assert_eq!(ranges(slots), text);
        }
    }

    #[test]
    fn what_ends_and_what_no_reload_does() {
        let change = |key: &str| json!({ "key": key, "from": "1", "to": "2", "origin": "default" });
        let plan = |workers: u32, now: u32| {
            let keys = [change("user"), change("batch"), change("autostart")];
            let order: Vec<u32> = (0..workers).collect();
            let plan = json!({
                "from": 1, "generation": 2, "workers_now": now, "workers": workers,
                "workers_source": "x", "canary": 0, "canary_time_ms": 0, "order": order,
                "at_once": 1, "most_workers": workers + 1, "least_ms": 0, "warnings": [],
                "changes": {
                    "keys": keys, "files": [],
                    "variables": { "added": [], "removed": [], "changed": [] },
                },
            });
            text("web", &serde_json::from_value(plan).expect("a plan"))
        };
        let said = plan(1, 4);
        for line in [
            "  batch: 1 → 2\n",
            "  not by a reload: user, autostart\n",
            "  1 worker, now 4: x\n",
            "  slots 1 to 3 end\n",
            "  at most 2 workers at",
        ] {
            assert!(said.contains(line), "{line}: {said}");
        }
        assert!(!said.contains("user: 1"), "{said}");
        let said = plan(2, 3);
        assert!(
            said.contains("  slot 2 ends\n  first slot 0\n  then slot 1\n"),
            "{said}"
        );
    }
}
