// SPDX-License-Identifier: MIT OR Apache-2.0
//! `app-cluster scale NAME N|+N|-N`: for an app with units the number is kept in a drop-in
//! of its configuration, as `systemctl set-property` keeps its own.

use super::client::{CallError, Client};
use super::settings::{self, DropIn};
use super::{Fail, Status, config_file};
use crate::api::{self, Call, Outcome};
use crate::config::{Config, Cpus, MAX_WORKERS};
use clap::Args;
use std::str::FromStr;

/// Where the number is kept until it is changed.
pub const KEPT: DropIn = DropIn::Kept("50-scale.toml");
/// Where it is kept until the next boot; read after the other.
pub const RUNTIME: DropIn = DropIn::Runtime("51-scale.toml");

/// A number of workers, as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// This many.
    To(u32),
    /// So many more or fewer.
    By(i32),
}

impl FromStr for Change {
    type Err = String;

    fn from_str(text: &str) -> Result<Change, String> {
        let wrong = || format!("`{text}` is no number of workers: 4, +2 or -1");
        match text.as_bytes().first() {
            Some(b'+' | b'-') => text.parse().map(Change::By).map_err(|_| wrong()),
            _ => text.parse().map(Change::To).map_err(|_| wrong()),
        }
    }
}

/// Command line of `scale`.
#[derive(Debug, Args)]
pub struct Options {
    /// The app
    pub name: String,
    /// How many, or how many more (+N) or fewer (-N)
    #[arg(
        allow_hyphen_values = true,
        value_name = "N|+N|-N",
        required_unless_present = "reset"
    )]
    workers: Option<Change>,
    /// Only until the next boot
    #[arg(long)]
    runtime: bool,
    /// Back to the number that the configuration file says
    #[arg(long, conflicts_with_all = ["workers", "runtime"])]
    reset: bool,
}

pub fn main(options: &Options) -> Result<(), Fail> {
    let name = &options.name;
    let mut client = match Client::connect(name) {
        Ok(client) => client,
        Err(fail) if fail.status == Status::NotRunning => return without_supervisor(options),
        Err(fail) => return Err(fail),
    };
    let status = client.status()?;
    let has_units =
        status.unit.is_some() && status.config == config_file(name).display().to_string();
    match (options.workers, has_units) {
        (None, true) => reset(name, client),
        (None, false) => {
            let text = format!("{name} has no units: its number of workers is not kept anywhere");
            Err(Fail::new(Status::Failed, text).hint("restart it"))
        }
        (Some(change), true) => keep(options, change, status.workers.desired, client),
        (Some(change), false) => {
            let (workers, by) = match change {
                Change::To(workers) => (Some(workers), None),
                Change::By(by) => (None, Some(by)),
            };
            let outcome: Outcome = client.call(&scale(workers, by, None, false))?;
            outln!("{name}: {}", outcome.message);
            Ok(())
        }
    }
}

fn scale(workers: Option<u32>, by: Option<i32>, kept: Option<String>, reset: bool) -> Call {
    Call::Scale {
        workers,
        by,
        kept,
        reset,
    }
}

/// Asks the supervisor and, once it has agreed, writes the number down.
fn keep(options: &Options, change: Change, now: u32, mut client: Client) -> Result<(), Fail> {
    let name = &options.name;
    let workers = sum(change, now)?;
    let drop_in = place(options);
    settings::writable(name, drop_in, &command_line(options))?;
    let mut written = None;
    let mut write = || {
        written
            .get_or_insert_with(|| write_down(name, drop_in, workers))
            .is_ok()
    };
    let file = drop_in.path(name).display().to_string();
    let call = scale(Some(workers), None, Some(file), false);
    let progress = |step: &str| {
        errln!("{name} | {step}");
        write();
    };
    let answer = client.call_with_progress::<Outcome>(&call, progress);
    if let Ok(_) | Err(CallError::Refused(api::Error::WorkerFailed { .. })) = &answer {
        // In the second case it is tried again and again.
        write();
    }
    if let Some(written) = written {
        written?;
        tell(name, drop_in, workers);
    }
    outln!("{name}: {}", answer?.message);
    Ok(())
}

/// Nobody to ask: the number is for the next start.
fn without_supervisor(options: &Options) -> Result<(), Fail> {
    let name = &options.name;
    let Some(change) = options.workers else {
        settings::writable(name, KEPT, &command_line(options))?;
        let was = [
            settings::remove(name, KEPT)?,
            settings::remove(name, RUNTIME)?,
        ];
        outln!(
            "{name}: {}",
            match was.contains(&true) {
                true => "the number of the configuration file holds from the next start on",
                false => "the number of the configuration file holds already",
            }
        );
        return Ok(());
    };
    let config = Config::load(&config_file(name)).map_err(settings::bad_config)?;
    let workers = sum(change, config.policy(&Cpus::detect()).workers)?;
    let drop_in = place(options);
    settings::writable(name, drop_in, &command_line(options))?;
    write_down(name, drop_in, workers)?;
    tell(name, drop_in, workers);
    outln!("{name}: {workers} workers from the next start on");
    Ok(())
}

/// Takes our drop-ins away, so that the configuration says what it said without them.
fn reset(name: &str, mut client: Client) -> Result<(), Fail> {
    settings::writable(name, KEPT, &format!("scale {name} --reset"))?;
    let mut was = Vec::new();
    for drop_in in [KEPT, RUNTIME] {
        was.extend(settings::take(name, drop_in)?.map(|text| (drop_in, text)));
    }
    let answer = client.call::<Outcome>(&scale(None, None, None, true));
    if let Err(CallError::Refused(error)) = &answer
        && !matches!(error, api::Error::WorkerFailed { .. })
    {
        // Not agreed to: as it was.
        for (drop_in, text) in was {
            settings::put_back(name, drop_in, &text)?;
        }
    }
    outln!("{name}: {}", answer?.message);
    Ok(())
}

fn place(options: &Options) -> DropIn {
    match options.runtime {
        true => RUNTIME,
        false => KEPT,
    }
}

fn command_line(options: &Options) -> String {
    let name = &options.name;
    let change = match options.workers {
        Some(Change::To(workers)) => workers.to_string(),
        Some(Change::By(by)) => format!("{by:+}"),
        None => "--reset".to_owned(),
    };
    let runtime = if options.runtime { " --runtime" } else { "" };
    format!("scale {name} {change}{runtime}")
}

fn sum(change: Change, now: u32) -> Result<u32, Fail> {
    let workers = match change {
        Change::To(workers) => i64::from(workers),
        Change::By(by) => i64::from(now) + i64::from(by),
    };
    match u32::try_from(workers) {
        Ok(workers) if (1..=MAX_WORKERS).contains(&workers) => Ok(workers),
        _ => {
            let text = format!(
                "{workers} workers: the number must be between 1 and {MAX_WORKERS} \
                 (to have none, stop the app)"
            );
            Err(Fail::new(Status::Failed, text))
        }
    }
}

fn write_down(name: &str, drop_in: DropIn, workers: u32) -> Result<(), Fail> {
    let text = format!(
        "# Written by \"app-cluster scale\"; \"app-cluster scale {name} --reset\" removes it.\n\
         workers = {workers}\n"
    );
    settings::write(name, drop_in, &text)?;
    if drop_in == KEPT {
        // It would win over what has just been asked for.
        settings::remove(name, RUNTIME)?;
    }
    Ok(())
}

/// What is noteworthy about the number that was written down.
fn tell(name: &str, drop_in: DropIn, workers: u32) {
    let own = drop_in.path(name).display().to_string();
    let Ok(config) = Config::load(&config_file(name)) else {
        return;
    };
    if config.source.drop_in("workers") != Some(own.as_str()) {
        let other = config.source.drop_in("workers").unwrap_or("the file");
        let says = config.workers;
        errln!(
            "{name} | note: {other} says workers = {says} over {own}: so it will be after a reload"
        );
    }
    let lines = config.slots_with_address();
    if config.spread().has_lines() && workers > lines {
        errln!(
            "{name} | note: there are {lines} sockets, so some workers share one; \
             `max_workers = {workers}` in {} and a restart of service and socket give each its own",
            config_file(name).display()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_and_relative() {
        assert_eq!("4".parse(), Ok(Change::To(4)));
        assert_eq!("+4".parse(), Ok(Change::By(4)));
        assert_eq!("-4".parse(), Ok(Change::By(-4)));
        for bad in ["", "x", "+", "4.5", "--4", "99999999999"] {
            assert!(bad.parse::<Change>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sums_stay_within_bounds() {
        let of = |change, now| sum(change, now).ok();
        assert_eq!(of(Change::By(2), 2), Some(4));
        assert_eq!(of(Change::By(-2), 2), None);
        assert_eq!(of(Change::By(i32::MIN), 2), None);
        assert_eq!(of(Change::To(0), 2), None);
        assert_eq!(of(Change::To(MAX_WORKERS), 2), Some(MAX_WORKERS));
        assert_eq!(of(Change::By(1), MAX_WORKERS), None);
    }
}
