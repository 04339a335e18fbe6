// SPDX-License-Identifier: MIT OR Apache-2.0
//! Asking systemd over D-Bus (org.freedesktop.systemd1(5)), as systemctl(1) does.
//!
//! Whatever is refused says the `systemctl` line that does the same: with `sudo` it works
//! for who may not ask over D-Bus, and as root it works without D-Bus.

use super::{Fail, Status};
use serde::{Serialize, de::DeserializeOwned};
use std::time::{Duration, Instant};
use zbus::{Connection, OwnedObjectPath, OwnedVariant};

/// How often a job is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How long a unit may be neither on its way nor where it was to go.
const PATIENCE: Duration = Duration::from_secs(5);

const SERVICE: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const JOB: &str = "org.freedesktop.systemd1.Job";
const SERVICE_UNIT: &str = "org.freedesktop.systemd1.Service";

/// systemd's manager object.
pub struct Systemd {
    bus: Connection,
}

/// What a unit can be told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Start,
    Stop,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Verb::Start => "start",
            Verb::Stop => "stop",
        }
    }
}

/// A unit did not get where it was to go: what it is instead (`failed`, …).
#[derive(Debug)]
pub struct Stuck {
    pub unit: String,
    pub state: String,
}

impl From<Stuck> for Fail {
    fn from(stuck: Stuck) -> Fail {
        let Stuck { unit, state } = stuck;
        let text = format!("{unit} is {state}");
        Fail::new(Status::Failed, text).hint(format!("systemctl status {unit}"))
    }
}

/// A file that systemd changed: what was done (`symlink`, `unlink`), the file, its target.
pub type FileChange = (String, String, String);

impl Systemd {
    /// Connects; `instead` is the arguments of `systemctl` that would do what is planned.
    ///
    /// # Errors
    /// This machine does not run systemd, or has no D-Bus.
    pub fn connect(instead: &str) -> Result<Systemd, Fail> {
        if !sd_notify::booted().unwrap_or(false) {
            let text = "this machine was not booted with systemd, which apps with units need";
            let hint = "in the foreground: app-cluster dev, or app-cluster run NAME";
            return Err(Fail::new(Status::Failed, text).hint(hint));
        }
        let bus = zbus::block_on(Connection::system()).map_err(|error| {
            let text = format!("there is no D-Bus to ask systemd over: {error}");
            Fail::new(Status::Failed, text).hint(format!("sudo systemctl {instead}"))
        })?;
        Ok(Systemd { bus })
    }

    /// `systemctl daemon-reload`: runs the generators, reads all units afresh.
    pub fn reload(&self) -> Result<(), Fail> {
        self.ask("Reload", &(), "reload its units", "daemon-reload")
    }

    /// Tells `unit` what to do and waits until it is done; `look` is called meanwhile.
    ///
    /// # Errors
    /// The outer error: systemd refuses. The inner one: it did not work.
    pub fn job(
        &self,
        verb: Verb,
        unit: &str,
        mut look: impl FnMut(&Systemd),
    ) -> Result<Result<(), Stuck>, Fail> {
        let (method, instead) = match verb {
            Verb::Start => ("StartUnit", format!("start {unit}")),
            Verb::Stop => ("StopUnit", format!("stop {unit}")),
        };
        let doing = format!("{} {unit}", verb.name());
        let job: OwnedObjectPath = self.ask(method, &(unit, "replace"), &doing, &instead)?;
        let mut idle_since = Instant::now();
        loop {
            let (_, pending): (u32, OwnedObjectPath) = self.property(unit, UNIT, "Job")?;
            let state = self.state(unit)?;
            let there = match verb {
                Verb::Start => state == "active",
                Verb::Stop => is_down(&state),
            };
            if pending != job {
                // The job has ended, or another one (of `Restart=`, say) has taken its place.
                match there {
                    true => return Ok(Ok(())),
                    false if verb != Verb::Stop || idle_since.elapsed() > PATIENCE => {
                        let unit = unit.to_owned();
                        return Ok(Err(Stuck { unit, state }));
                    }
                    // A cancelled stop can still be under way.
                    false if state == "deactivating" => idle_since = Instant::now(),
                    false => {}
                }
            }
            look(self);
            std::thread::sleep(LOOK);
        }
    }

    /// Has `unit` started as soon as that can be, unless something else is planned for it; does
    /// not wait.
    pub fn start_soon(&self, unit: &str) -> Result<(), Fail> {
        let (doing, instead) = about("start", &[unit]);
        let job = self.ask("StartUnit", &(unit, "fail"), &doing, &instead);
        job.map(|_: OwnedObjectPath| ())
    }

    /// `systemctl enable`, by links to each unit's own `[Install]` section.
    pub fn enable(&self, units: &[&str]) -> Result<Vec<FileChange>, Fail> {
        let (doing, instead) = about("enable", units);
        let arguments = (units, false, true);
        let reply = self.ask("EnableUnitFiles", &arguments, &doing, &instead);
        reply.map(|(_, changes): (bool, Vec<FileChange>)| changes)
    }

    /// `systemctl disable`.
    pub fn disable(&self, units: &[&str]) -> Result<Vec<FileChange>, Fail> {
        let (doing, instead) = about("disable", units);
        self.ask("DisableUnitFiles", &(units, false), &doing, &instead)
    }

    /// `systemctl revert`: removes drop-ins that were made by hand.
    pub fn revert(&self, units: &[&str]) -> Result<Vec<FileChange>, Fail> {
        let (doing, instead) = about("revert", units);
        self.ask("RevertUnitFiles", &units, &doing, &instead)
    }

    /// `systemctl reset-failed`; a unit that is not loaded has not failed.
    pub fn reset_failed(&self, unit: &str) {
        let (doing, instead) = about("reset-failed", &[unit]);
        let _: Result<(), Fail> = self.ask("ResetFailedUnit", &unit, &doing, &instead);
    }

    /// Names of the units that are loaded and match one of `patterns` (of glob(7)).
    pub fn loaded(&self, patterns: &[&str]) -> Result<Vec<String>, Fail> {
        type Listed = (
            String,
            String,
            String,
            String,
            String,
            String,
            OwnedObjectPath,
            u32,
            String,
            OwnedObjectPath,
        );
        let arguments = (&[] as &[&str], patterns);
        let (doing, instead) = about("list-units", patterns);
        let units: Vec<Listed> = self.ask("ListUnitsByPatterns", &arguments, &doing, &instead)?;
        Ok(units.into_iter().map(|unit| unit.0).collect())
    }

    /// `ActiveState`: `active`, `inactive`, `failed`, `activating`, …
    pub fn state(&self, unit: &str) -> Result<String, Fail> {
        self.property(unit, UNIT, "ActiveState")
    }

    /// `Restart=` of a service, if `main` is its main process (`unit` may be a user's).
    pub fn restarts(&self, unit: &str, main: i32) -> Result<Option<String>, Fail> {
        let found: u32 = self.property(unit, SERVICE_UNIT, "MainPID")?;
        let restart = self.property(unit, SERVICE_UNIT, "Restart")?;
        Ok((i32::try_from(found) == Ok(main)).then_some(restart))
    }

    /// The job of a unit that has not ended: `start`, `stop`, `restart`, …
    pub fn pending_job(&self, unit: &str) -> Result<Option<String>, Fail> {
        let (id, path): (u32, OwnedObjectPath) = self.property(unit, UNIT, "Job")?;
        match id {
            0 => Ok(None),
            _ => self.get(&path, JOB, "JobType", unit).map(Some),
        }
    }

    /// The file of a unit and its drop-ins, as systemd has read them.
    pub fn files(&self, unit: &str) -> Result<(String, Vec<String>), Fail> {
        let fragment = self.property(unit, UNIT, "FragmentPath")?;
        Ok((fragment, self.property(unit, UNIT, "DropInPaths")?))
    }

    /// The slice that a service is in, or would be.
    pub fn slice(&self, service: &str) -> Result<String, Fail> {
        self.property(service, "org.freedesktop.systemd1.Service", "Slice")
    }

    /// The cgroup of a service, as in /proc/PID/cgroup; empty where systemd knows of none.
    pub fn cgroup(&self, service: &str) -> Result<String, Fail> {
        let interface = "org.freedesktop.systemd1.Service";
        self.property(service, interface, "ControlGroup")
    }

    /// The main process of a service; 0: there is none.
    pub fn main_pid(&self, service: &str) -> Result<u32, Fail> {
        let interface = "org.freedesktop.systemd1.Service";
        self.property(service, interface, "MainPID")
    }

    /// What a service says of itself (`STATUS=` of sd_notify(3)); empty if nothing.
    pub fn status_text(&self, service: &str) -> Result<String, Fail> {
        let interface = "org.freedesktop.systemd1.Service";
        self.property(service, interface, "StatusText")
    }

    /// What a socket unit listens on, as `(type, address)`.
    pub fn addresses(&self, socket: &str) -> Result<Vec<(String, String)>, Fail> {
        let interface = "org.freedesktop.systemd1.Socket";
        self.property(socket, interface, "Listen")
    }

    fn property<T>(&self, unit: &str, interface: &str, name: &str) -> Result<T, Fail>
    where
        T: TryFrom<OwnedVariant>,
    {
        let (doing, instead) = about("show", &[unit]);
        let path: OwnedObjectPath = self.ask("LoadUnit", &unit, &doing, &instead)?;
        self.get(&path, interface, name, unit)
    }

    /// A property of the object `path`, which has to do with `unit`.
    fn get<T>(
        &self,
        path: &OwnedObjectPath,
        interface: &str,
        name: &str,
        unit: &str,
    ) -> Result<T, Fail>
    where
        T: TryFrom<OwnedVariant>,
    {
        let (doing, instead) = about("show", &[unit]);
        let asked = zbus::block_on(async {
            let properties = Some("org.freedesktop.DBus.Properties");
            let arguments = (interface, name);
            let reply = self
                .bus
                .call_method(Some(SERVICE), path, properties, "Get", &arguments);
            let value: OwnedVariant = reply.await?.body().deserialize()?;
            T::try_from(value).map_err(|_| zbus::Error::IncorrectType)
        });
        asked.map_err(|error| refused(&doing, &error, &instead))
    }

    fn ask<B, R>(&self, method: &str, body: &B, doing: &str, instead: &str) -> Result<R, Fail>
    where
        B: Serialize + zbus::DynamicType,
        R: DeserializeOwned + zbus::Type,
    {
        let asked = zbus::block_on(async {
            let path = "/org/freedesktop/systemd1";
            let reply = self
                .bus
                .call_method(Some(SERVICE), path, Some(MANAGER), method, body);
            reply.await?.body().deserialize::<R>()
        });
        asked.map_err(|error| refused(doing, &error, instead))
    }
}

/// Whether a unit in this `ActiveState` runs nothing.
pub fn is_down(state: &str) -> bool {
    state == "inactive" || state == "failed"
}

fn about(verb: &str, units: &[&str]) -> (String, String) {
    let text = format!("{verb} {}", units.join(" "));
    (text.clone(), text)
}

fn refused(doing: &str, error: &zbus::Error, instead: &str) -> Fail {
    let name = match error {
        zbus::Error::MethodError(name, ..) => name.as_str(),
        zbus::Error::FDO(error) => match **error {
            zbus::fdo::Error::AccessDenied(_) | zbus::fdo::Error::AuthFailed(_) => "AccessDenied",
            _ => "",
        },
        _ => "",
    };
    let denied = ["AccessDenied", "InteractiveAuthorizationRequired"];
    let fail = match denied.iter().any(|end| name.ends_with(end)) {
        true => {
            let text = format!("no permission: systemd does not let you {doing}");
            Fail::new(Status::NoSuchApp, text)
        }
        false => {
            let text = format!("systemd was asked over D-Bus to {doing}, but: {error}");
            Fail::new(Status::Failed, text)
        }
    };
    fail.hint(format!("sudo systemctl {instead}"))
}
