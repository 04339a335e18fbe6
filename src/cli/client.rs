// SPDX-License-Identifier: MIT OR Apache-2.0
//! Talking to a supervisor over its control socket.

use super::{CONFIG_DIRECTORY, Fail, RUNTIME_DIRECTORY, Status, config_file, units};
use crate::api::{self, Call};
use crate::engine::runtime_candidates;
use crate::frontend::varlink;
use nix::unistd::{Gid, Group};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::io::{self, BufReader};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often the next supervisor is looked for.
const LOOK: Duration = Duration::from_millis(50);
/// How long a supervisor may take to tell its status. Who calls while there is none waits in
/// its socket, which systemd keeps for the next one.
const ANSWER: Duration = Duration::from_secs(10);

/// A connection to an app's supervisor.
pub struct Client {
    name: String,
    /// It is a service, whose journal has its last words.
    is_service: bool,
    reader: BufReader<UnixStream>,
}

/// The reply to [`Call::GetStatus`].
#[derive(Deserialize)]
struct StatusReply {
    status: api::Status,
}

/// Who answers after a supervisor has gone.
pub enum Successor {
    /// The next one, and all about it.
    Is(Box<api::Status>),
    /// Nobody, in the time that was given.
    None,
    /// Somebody who may not be asked.
    Failed(Fail),
}

/// Waits until the supervisor of `name` is the `incarnation`th, or a later one.
pub fn successor(name: &str, incarnation: u64, within: Duration) -> Successor {
    await_successor(name, incarnation, within, true)
}

/// The same, but there is none once nobody listens: one that executes its program again
/// goes on listening meanwhile.
pub fn successor_in_place(name: &str, incarnation: u64, within: Duration) -> Successor {
    await_successor(name, incarnation, within, false)
}

fn await_successor(name: &str, incarnation: u64, within: Duration, patient: bool) -> Successor {
    let until = Instant::now() + within;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let connected = Client::connect(name);
        if connected.is_err() && !patient {
            return Successor::None;
        }
        let asked = connected.and_then(|mut client| {
            // One that hangs does not count, nor does it hold us up.
            Ok(client.status_within(left.min(ANSWER).max(LOOK))?)
        });
        match asked {
            Ok(status) if status.incarnation >= incarnation => {
                return Successor::Is(Box::new(status));
            }
            // There may be no socket for a moment, but not another owner of it.
            Err(fail) if fail.status == Status::NoSuchApp && config_file(name).exists() => {
                return Successor::Failed(fail);
            }
            Ok(_) | Err(_) => {}
        }
        if left.is_zero() {
            return Successor::None;
        }
        std::thread::sleep(LOOK);
    }
}

/// How a call can fail.
pub enum CallError {
    /// The supervisor says no.
    Refused(api::Error),
    /// It cannot be talked to.
    Broken(Fail),
    /// It has closed the connection ahead of its answer.
    Ended(Fail),
}

impl From<CallError> for Fail {
    fn from(error: CallError) -> Fail {
        match error {
            CallError::Refused(error) => {
                let status = match error {
                    api::Error::NotAuthorized { .. } | api::Error::NoSuchWorker { .. } => {
                        Status::NoSuchApp
                    }
                    _ => Status::Failed,
                };
                Fail {
                    answer: Some(json!(error)),
                    ..Fail::new(status, error.message())
                }
            }
            CallError::Broken(fail) | CallError::Ended(fail) => fail,
        }
    }
}

impl Client {
    /// Connects to the supervisor of `name`.
    pub fn connect(name: &str) -> Result<Client, Fail> {
        for place in runtime_candidates(name) {
            match UnixStream::connect(place.join("control")) {
                Ok(stream) => {
                    return Ok(Client {
                        name: name.to_owned(),
                        is_service: place.starts_with(RUNTIME_DIRECTORY),
                        reader: BufReader::new(stream),
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(no_permission(name, &place.join("control")));
                }
                Err(_) => {}
            }
        }
        Err(not_running(name))
    }

    /// Everything about the app. A supervisor that ends when it has been asked is no answer: the
    /// next one is asked, if there is one.
    pub fn status(&mut self) -> Result<api::Status, Fail> {
        let reply: StatusReply = self.read(&Call::GetStatus {})?;
        Ok(reply.status)
    }

    /// Calls what changes nothing, and so can be asked of the next supervisor as well.
    pub fn read<T: DeserializeOwned>(&mut self, call: &Call) -> Result<T, Fail> {
        let until = Instant::now() + ANSWER;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let fail = match self.call_within(call, left.max(LOOK)) {
                Err(CallError::Ended(fail)) if !left.is_zero() => fail,
                // Its last words: what reads is in nobody's way but that of the next one.
                Err(error @ CallError::Refused(api::Error::InProgress { .. }))
                    if !left.is_zero() =>
                {
                    error.into()
                }
                other => return Ok(other?),
            };
            std::thread::sleep(LOOK);
            *self = Client::connect(&self.name).map_err(|_| fail)?;
        }
    }

    fn status_within(&mut self, time: Duration) -> Result<api::Status, CallError> {
        let reply: StatusReply = self.call_within(&Call::GetStatus {}, time)?;
        Ok(reply.status)
    }

    fn call_within<T: DeserializeOwned>(
        &mut self,
        call: &Call,
        time: Duration,
    ) -> Result<T, CallError> {
        self.bound(Some(time))?;
        let reply = self.call(call)?;
        self.bound(None)?;
        Ok(reply)
    }

    /// How long an answer may take from now on.
    fn bound(&self, time: Option<Duration>) -> Result<(), CallError> {
        let done = self.reader.get_ref().set_read_timeout(time);
        done.map_err(|error| self.broken(&error))
    }

    /// Calls and returns the reply.
    pub fn call<T: DeserializeOwned>(&mut self, call: &Call) -> Result<T, CallError> {
        self.send(call, false)?;
        self.receive(|_| {})
    }

    /// Calls, and reports each step before the reply.
    pub fn call_with_progress<T: DeserializeOwned>(
        &mut self,
        call: &Call,
        progress: impl FnMut(&str),
    ) -> Result<T, CallError> {
        self.send(call, true)?;
        self.receive(progress)
    }

    /// Calls; each reply ahead of the last is given to `each`, as JSON text. Returns when
    /// there are no more (`true`), or `each` does not want them.
    pub fn stream(
        &mut self,
        call: &Call,
        mut each: impl FnMut(&str) -> bool,
    ) -> Result<bool, CallError> {
        #[derive(Deserialize)]
        struct Reply<'a> {
            #[serde(borrow)]
            parameters: &'a RawValue,
            error: Option<String>,
            #[serde(default)]
            continues: bool,
        }
        self.send(call, true)?;
        loop {
            let bytes = match varlink::read_bytes(&mut self.reader, varlink::MAX_MESSAGE) {
                Ok(Some(bytes)) => bytes,
                Ok(None) => return Err(self.ended()),
                Err(error) => return Err(self.broken(&error)),
            };
            let reply: Reply<'_> = serde_json::from_slice(&bytes)
                .map_err(|error| self.broken(&io::Error::other(error)))?;
            if let Some(name) = reply.error {
                let parameters = serde_json::from_str(reply.parameters.get());
                return Err(refused(&name, &parameters.unwrap_or_default()));
            }
            if !reply.continues {
                return Ok(true);
            }
            if !each(reply.parameters.get()) {
                return Ok(false);
            }
        }
    }

    fn send(&mut self, call: &Call, more: bool) -> Result<(), CallError> {
        #[derive(Deserialize, Serialize)]
        struct Message<'a> {
            method: String,
            #[serde(borrow)]
            parameters: &'a RawValue,
            #[serde(default)]
            more: bool,
        }
        let text = serde_json::to_string(call).unwrap_or_default();
        let mut message: Message<'_> =
            serde_json::from_str(&text).map_err(|e| self.broken(&e.into()))?;
        message.method = format!("{}.{}", api::INTERFACE, message.method);
        message.more = more;
        let mut stream = self.reader.get_ref();
        match varlink::write(&mut stream, &message) {
            // Turned away before it was heard; the reason is there to be read.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other.map_err(|e| self.broken(&e)),
        }
    }

    fn receive<T: DeserializeOwned>(
        &mut self,
        mut progress: impl FnMut(&str),
    ) -> Result<T, CallError> {
        loop {
            let mut message = match varlink::read(&mut self.reader, varlink::MAX_MESSAGE) {
                Ok(Some(message)) => message,
                Ok(None) => return Err(self.ended()),
                Err(error) => return Err(self.broken(&error)),
            };
            let parameters = message.remove("parameters").unwrap_or_default();
            if let Some(Value::String(name)) = message.get("error") {
                return Err(refused(name, &parameters));
            }
            if message.get("continues") == Some(&Value::Bool(true)) {
                progress(parameters["progress"].as_str().unwrap_or_default());
                continue;
            }
            return serde_json::from_value(parameters)
                .map_err(|e| self.broken(&io::Error::other(e)));
        }
    }

    fn broken(&self, error: &io::Error) -> CallError {
        if error.kind() == io::ErrorKind::ConnectionReset {
            return self.ended();
        }
        if error.kind() == io::ErrorKind::WouldBlock {
            let text = format!("the supervisor of {} does not answer", self.name);
            let fail = Fail::new(Status::Failed, text);
            return CallError::Broken(self.where_to_look(fail, true));
        }
        let text = format!("cannot talk to the supervisor of {}: {error}", self.name);
        CallError::Broken(Fail::new(Status::Failed, text))
    }

    fn ended(&self) -> CallError {
        let text = format!("the supervisor of {} ended before it answered", self.name);
        let fail = Fail::new(Status::Failed, text);
        CallError::Ended(self.where_to_look(fail, false))
    }

    fn where_to_look(&self, fail: Fail, with_status: bool) -> Fail {
        let (service, _) = units(&self.name);
        fail.hint(match (self.is_service, with_status) {
            (true, true) => format!("systemctl status {service}; journalctl -e -u {service}"),
            (true, false) => format!("journalctl -e -u {service}"),
            (false, _) => "see what it wrote where it runs".to_owned(),
        })
    }
}

fn refused(name: &str, parameters: &Value) -> CallError {
    let short = name.strip_prefix(api::INTERFACE).unwrap_or(name);
    let value = json!({ "error": short.trim_start_matches('.'), "parameters": parameters });
    match serde_json::from_value(value) {
        Ok(error) => CallError::Refused(error),
        Err(_) => {
            let text = format!("the supervisor answered {name}: {parameters}");
            CallError::Broken(Fail::new(Status::Failed, text))
        }
    }
}

/// The socket's mode lets its owner and its group in; who they are depends on the unit.
fn no_permission(name: &str, socket: &Path) -> Fail {
    let text = format!("no permission to talk to the supervisor of {name}");
    let group = std::fs::metadata(socket).ok().and_then(|found| {
        let group = Group::from_gid(Gid::from_raw(found.gid()));
        group.ok().flatten()
    });
    let hint = match group {
        Some(Group { name, .. }) => {
            format!("use sudo, or join the group: sudo adduser $USER {name}")
        }
        None => "use sudo".to_owned(),
    };
    Fail::new(Status::NoSuchApp, text).hint(hint)
}

fn not_running(name: &str) -> Fail {
    if config_file(name).exists() {
        let text = format!("{name} does not run");
        let hint = format!("sudo app-cluster start {name}");
        return Fail::new(Status::NotRunning, text).hint(hint);
    }
    no_such_app(name)
}

/// There is no configuration file of that name, and nothing that runs.
pub fn no_such_app(name: &str) -> Fail {
    let file = config_file(name);
    let text = format!(
        "{name} does not run, and there is no app of that name ({} is missing)",
        file.display()
    );
    let hint = match apps().as_slice() {
        [] => format!(
            "sudo app-cluster start FILE --name {name} -l PORT, or in the foreground: \
             app-cluster dev --name {name}"
        ),
        known => format!("the apps of this machine: {}", known.join(", ")),
    };
    Fail::new(Status::NoSuchApp, text).hint(hint)
}

/// The apps that have a configuration file.
fn apps() -> Vec<String> {
    let entries = std::fs::read_dir(CONFIG_DIRECTORY).into_iter().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            Some(name.strip_suffix(".toml")?.to_owned())
        })
        .collect();
    names.sort();
    names
}
