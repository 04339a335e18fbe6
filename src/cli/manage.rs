// SPDX-License-Identifier: MIT OR Apache-2.0
//! `app-cluster stop`: through systemd where systemd would start the app again.

use super::client::{CallError, Client};
use super::systemd::{Systemd, Verb, is_down};
use super::{Fail, Status, sweep, units};
use crate::api::{self, Call, Outcome};

pub fn stop(name: &str, now: bool) -> Result<(), Fail> {
    if waits_for_the_next(name) {
        let (service, socket) = units(name);
        return stop_units(name, &[socket, service], now).map_err(|fail| match fail.status {
            // systemctl would leave the workers.
            Status::NoSuchApp => fail.hint(format!("sudo app-cluster stop {name}")),
            _ => fail,
        });
    }
    let mut client = match Client::connect(name) {
        Ok(client) => client,
        Err(fail) => return stop_without_supervisor(name, now, fail),
    };
    let progress = |step: &str| errln!("{name} | {step}");
    let call = Call::Stop { now };
    match client.call_with_progress::<Outcome>(&call, progress) {
        Ok(outcome) => {
            outln!("{name}: {}", outcome.message);
            Ok(())
        }
        Err(CallError::Refused(api::Error::ManagedBySystemd { unit, .. })) => {
            if now {
                let text = format!("{name} is a systemd service, whose workers systemd kills");
                let hint = format!("systemctl kill -s KILL {unit}, then app-cluster stop {name}");
                return Err(Fail::new(Status::Failed, text).hint(hint));
            }
            let (service, socket) = units(name);
            let all = match unit == service {
                true => vec![socket, service],
                false => vec![unit],
            };
            stop_units(name, &all, false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether the service is between two attempts to start: its socket can be connected to, and
/// nobody answers there.
fn waits_for_the_next(name: &str) -> bool {
    let (service, _) = units(name);
    let looked = Systemd::connect("").and_then(|systemd| {
        let is_up = !is_down(&systemd.state(&service)?);
        Ok(is_up && systemd.main_pid(&service)? == 0)
    });
    looked.unwrap_or(false)
}

/// No supervisor answers, but its socket may be open, or systemd may be about to start it
/// again after a failure.
fn stop_without_supervisor(name: &str, now: bool, fail: Fail) -> Result<(), Fail> {
    if fail.status != Status::NotRunning {
        return Err(fail);
    }
    let (service, socket) = units(name);
    let all = [socket, service];
    let is_up = |systemd: &Systemd| {
        let state = |unit: &String| systemd.state(unit);
        let states: Result<Vec<String>, Fail> = all.iter().map(state).collect();
        states.is_ok_and(|states| !states.iter().all(|state| is_down(state)))
    };
    match Systemd::connect("") {
        Ok(systemd) if is_up(&systemd) => stop_units(name, &all, now),
        // Stopped by hand while no supervisor ran, and its workers serve on.
        Ok(systemd) if sweep::after_stop(&systemd, name, now)? => {
            outln!("{name}: stopped");
            Ok(())
        }
        _ => Err(fail),
    }
}

/// Stops socket and service: with the socket left open the next connection would start the
/// service again. The service requires its socket, so it is stopped with it.
fn stop_units(name: &str, units: &[String], now: bool) -> Result<(), Fail> {
    let shown = units.join(" ");
    errln!("{name} | systemctl stop {shown}");
    let systemd = Systemd::connect(&format!("stop {shown}"))?;
    for unit in units {
        systemd.job(Verb::Stop, unit, |_| {})??;
    }
    if units.contains(&super::units(name).0) {
        // Between two attempts to start there is nothing that systemd would stop.
        sweep::after_stop(&systemd, name, now)?;
    }
    outln!("{name}: stopped, and its socket closed");
    Ok(())
}
