// SPDX-License-Identifier: MIT OR Apache-2.0
//! `app-cluster stop`: through systemd where systemd would start the app again.

use super::client::{CallError, Client};
use super::{Fail, Status, units};
use crate::api::{self, Call, Outcome};
use zbus::{Connection, OwnedObjectPath};

pub fn stop(name: &str, now: bool) -> Result<(), Fail> {
    let mut client = Client::connect(name)?;
    let progress = |step: &str| eprintln!("{name} | {step}");
    let call = Call::Stop { now };
    match client.call_with_progress::<Outcome>(&call, progress) {
        Ok(outcome) => {
            println!("{name}: {}", outcome.message);
            Ok(())
        }
        Err(CallError::Refused(api::Error::ManagedBySystemd { unit, .. })) => {
            stop_units(name, &unit, now)?;
            client.wait_for_end();
            println!("{name}: stopped, and its socket closed");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// Stops socket and service: with the socket left open the next connection would start the
/// service again. The service requires its socket, so it is stopped with it.
fn stop_units(name: &str, service: &str, now: bool) -> Result<(), Fail> {
    let (expected, socket) = units(name);
    let units: Vec<&str> = match service == expected {
        true => vec![&socket, service],
        false => vec![service],
    };
    let shown = units.join(" ");
    if now {
        let text = format!("{name} is a systemd service, whose workers systemd kills");
        let hint = format!("systemctl kill -s KILL {service}; systemctl stop {shown}");
        return Err(Fail::new(Status::Failed, text).hint(hint));
    }
    eprintln!("{name} | systemctl stop {shown}");
    zbus::block_on(async {
        let bus = Connection::system().await?;
        for unit in &units {
            let reply = bus
                .call_method(
                    Some("org.freedesktop.systemd1"),
                    "/org/freedesktop/systemd1",
                    Some("org.freedesktop.systemd1.Manager"),
                    "StopUnit",
                    &(*unit, "replace"),
                )
                .await?;
            let _job: OwnedObjectPath = reply.body().deserialize()?;
        }
        zbus::Result::Ok(())
    })
    .map_err(|error| {
        let text = format!("systemd was asked over D-Bus to stop {shown}, but: {error}");
        Fail::new(Status::Failed, text).hint(format!("sudo systemctl stop {shown}"))
    })
}
