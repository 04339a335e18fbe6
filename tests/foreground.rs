// SPDX-License-Identifier: MIT OR Apache-2.0
//! The supervisor in the foreground: real processes, neither systemd nor root.

#[path = "support/dev.rs"]
mod dev;
#[path = "support/load.rs"]
mod load;
#[path = "support/releases.rs"]
mod releases;

#[path = "foreground/balance.rs"]
mod balance;
#[path = "foreground/changes.rs"]
mod changes;
#[path = "foreground/cpus.rs"]
mod cpus;
#[path = "foreground/environment.rs"]
mod environment;
#[path = "foreground/failures.rs"]
mod failures;
#[path = "foreground/health.rs"]
mod health;
#[path = "foreground/messages.rs"]
mod messages;
#[path = "foreground/readiness.rs"]
mod readiness;
#[path = "foreground/recycle.rs"]
mod recycle;
#[path = "support/recycling.rs"]
mod recycling;
#[path = "foreground/rollback.rs"]
mod rollback;
#[path = "foreground/serving.rs"]
mod serving;
#[path = "foreground/signals.rs"]
mod signals;
#[path = "foreground/startup.rs"]
mod startup;
#[path = "foreground/upgrade.rs"]
mod upgrade;
#[path = "support/upgrades.rs"]
mod upgrades;
