// SPDX-License-Identifier: MIT OR Apache-2.0
//! `app-cluster reload --dry-run`: what a reload would do.

use super::Fail;
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
    let plan = client.call::<Reply>(&Call::Plan {})?.plan;
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
    let changes = plan.changes.lines();
    if changes.is_empty() {
        lines.push("  with the same configuration, variables and files".to_owned());
    }
    lines.extend(changes.iter().map(|line| format!("  {line}")));
    lines.push(format!(
        "  {} workers, now {}: {}",
        plan.workers, plan.workers_now, plan.workers_source
    ));
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
        lines.push(format!("  then slots {}, {at_a_time}", ranges(rest)));
    }
    lines.push(format!(
        "  at most {} workers at the same time, besides those that finish their requests; {} and \
         what the workers need to start",
        plan.most_workers,
        time(plan.least_ms)
    ));
    lines.push("nothing was changed".to_owned());
    lines.join("\n") + "\n"
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
}
