// SPDX-License-Identifier: MIT OR Apache-2.0
//! `app-cluster stop`: through systemd where systemd would start the app again.

use super::client::{CallError, Client};
use super::{Fail, Status, units};
use crate::api::{self, Call, Outcome};
use std::time::Duration;
use zbus::{Connection, OwnedObjectPath};

/// How often the state of a unit is looked at while it stops.
const LOOK: Duration = Duration::from_millis(50);
/// So many looks at units that neither stop nor have stopped are enough.
const PATIENCE: u32 = 100;

pub fn stop(name: &str, now: bool) -> Result<(), Fail> {
    let mut client = match Client::connect(name) {
        Ok(client) => client,
        Err(fail) => return stop_without_supervisor(name, fail),
    };
    let progress = |step: &str| eprintln!("{name} | {step}");
    let call = Call::Stop { now };
    match client.call_with_progress::<Outcome>(&call, progress) {
        Ok(outcome) => {
            println!("{name}: {}", outcome.message);
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
            stop_units(name, &all)
        }
        Err(error) => Err(error.into()),
    }
}

/// No supervisor answers, but its socket may be open, or systemd may be about to start it
/// again after a failure.
fn stop_without_supervisor(name: &str, fail: Fail) -> Result<(), Fail> {
    if fail.status != Status::NotRunning || !sd_notify::booted().unwrap_or(false) {
        return Err(fail);
    }
    let (service, socket) = units(name);
    let all = vec![socket, service];
    match zbus::block_on(states(&all)) {
        Ok(states) if !states.iter().all(|state| is_down(state)) => stop_units(name, &all),
        _ => Err(fail),
    }
}

/// Stops socket and service: with the socket left open the next connection would start the
/// service again. The service requires its socket, so it is stopped with it.
fn stop_units(name: &str, units: &[String]) -> Result<(), Fail> {
    let shown = units.join(" ");
    eprintln!("{name} | systemctl stop {shown}");
    let stopped = zbus::block_on(async {
        let bus = Connection::system().await?;
        for unit in units {
            let arguments = (unit.as_str(), "replace");
            let reply = manager(&bus, "StopUnit", &arguments).await?;
            let _job: OwnedObjectPath = reply.body().deserialize()?;
        }
        zbus::Result::Ok(())
    });
    let refused = |error: zbus::Error| {
        let text = format!("systemd was asked over D-Bus to stop {shown}, but: {error}");
        Fail::new(Status::Failed, text).hint(format!("sudo systemctl stop {shown}"))
    };
    stopped.map_err(refused)?;
    let mut idle = 0;
    loop {
        let states = zbus::block_on(states(units)).map_err(refused)?;
        if states.iter().all(|state| is_down(state)) {
            break;
        }
        // Somebody has started it again, or has cancelled the stop.
        idle = match states.iter().any(|state| state == "deactivating") {
            true => 0,
            false => idle + 1,
        };
        if idle > PATIENCE {
            let text = format!(
                "systemd did not stop {shown}, which is {}",
                states.join(", ")
            );
            return Err(Fail::new(Status::Failed, text).hint(format!("systemctl status {shown}")));
        }
        std::thread::sleep(LOOK);
    }
    println!("{name}: stopped, and its socket closed");
    Ok(())
}

/// Calls a method of systemd's manager object (org.freedesktop.systemd1(5)).
async fn manager<B>(bus: &Connection, method: &str, body: &B) -> zbus::Result<zbus::Message>
where
    B: serde::Serialize + zbus::DynamicType,
{
    let (service, path) = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1");
    let interface = Some("org.freedesktop.systemd1.Manager");
    bus.call_method(Some(service), path, interface, method, body)
        .await
}

fn is_down(state: &str) -> bool {
    state == "inactive" || state == "failed"
}

/// `ActiveState` of each unit.
async fn states(units: &[String]) -> zbus::Result<Vec<String>> {
    let bus = Connection::system().await?;
    let mut all = Vec::new();
    for unit in units {
        let reply = manager(&bus, "LoadUnit", &unit.as_str()).await?;
        let path: OwnedObjectPath = reply.body().deserialize()?;
        let property = ("org.freedesktop.systemd1.Unit", "ActiveState");
        let reply = bus
            .call_method(
                Some("org.freedesktop.systemd1"),
                &path,
                Some("org.freedesktop.DBus.Properties"),
                "Get",
                &property,
            )
            .await?;
        let state: zbus::OwnedVariant = reply.body().deserialize()?;
        all.push(String::try_from(&*state).unwrap_or_default());
    }
    Ok(all)
}
