// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a client says over the control socket: which call it is, and with what.

use super::varlink;
use crate::api::{self, Call, Json};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::io;

/// Longest parameters of other calls than `Send`.
const MAX_PARAMETERS: usize = 64 * 1024;
const TOO_LONG: &str = "the parameters are longer than those of any call";

/// A call on the wire. What it may be large in is left as text: as values it would take
/// many times its length.
#[derive(Deserialize)]
pub(super) struct Message<'a> {
    #[serde(default)]
    method: String,
    #[serde(borrow, default)]
    parameters: Option<&'a RawValue>,
    #[serde(default)]
    pub more: bool,
    #[serde(default)]
    pub oneway: bool,
}

impl Message<'_> {
    /// Reads the bytes of one.
    ///
    /// # Errors
    /// They are no JSON object, or none of this kind.
    pub fn read(bytes: &[u8]) -> io::Result<Message<'_>> {
        // An array would do as well for a struct.
        if bytes.trim_ascii_start().first() == Some(&b'[') {
            return Err(io::Error::other("a message that is not a JSON object"));
        }
        serde_json::from_slice(bytes).map_err(|error| varlink::not_json(&error))
    }
}

/// The error reply to what makes no sense.
pub(super) fn invalid_parameter(why: &impl ToString) -> Value {
    let parameters = json!({ "parameter": why.to_string() });
    varlink::error("org.varlink.service.InvalidParameter", parameters)
}

/// What a call comes to.
pub(super) enum Parsed {
    /// It is for the supervisor.
    Call(Call),
    /// The answer needs no supervisor.
    Reply(Value),
}

/// Finds out what is called.
///
/// # Errors
/// The error reply.
pub(super) fn parse(message: &Message<'_>) -> Result<Parsed, Value> {
    let method = message.method.as_str();
    let parameters = message.parameters.map_or("{}", RawValue::get);
    let (interface, name) = method.rsplit_once('.').unwrap_or(("", method));
    match (interface, name) {
        (api::INTERFACE, "Send") => send(parameters),
        _ if parameters.len() > MAX_PARAMETERS => Err(invalid_parameter(&TOO_LONG)),
        _ => {
            let parameters = match serde_json::from_str(parameters) {
                Ok(Value::Null) => json!({}),
                Ok(parameters) => parameters,
                Err(error) => return Err(invalid_parameter(&error)),
            };
            match interface {
                "org.varlink.service" => service(name, &parameters),
                api::INTERFACE => call(name, parameters),
                _ => Err(varlink::error(
                    "org.varlink.service.InterfaceNotFound",
                    json!({ "interface": interface }),
                )),
            }
        }
    }
}

fn send(parameters: &str) -> Result<Parsed, Value> {
    #[derive(Deserialize)]
    struct Parameters<'a> {
        slot: Option<u32>,
        #[serde(borrow)]
        message: &'a RawValue,
    }
    let parsed = serde_json::from_str::<Parameters<'_>>(parameters);
    let call = parsed.and_then(|found| {
        let message = Json::parse(found.message.get())?;
        let slot = found.slot;
        Ok(Call::Send { slot, message })
    });
    match call {
        Ok(call) => Ok(Parsed::Call(call)),
        Err(error) => Err(invalid_parameter(&error)),
    }
}

fn call(name: &str, parameters: Value) -> Result<Parsed, Value> {
    const METHODS: [&str; 9] = [
        "GetStatus",
        "Plan",
        "Reload",
        "Rollback",
        "Restart",
        "Upgrade",
        "Stop",
        "Scale",
        "Subscribe",
    ];
    if !METHODS.contains(&name) {
        return Err(varlink::error(
            "org.varlink.service.MethodNotFound",
            json!({ "method": name }),
        ));
    }
    let call = json!({ "method": name, "parameters": parameters });
    let parsed = serde_json::from_value(call).map(Parsed::Call);
    parsed.map_err(|error| invalid_parameter(&error))
}

/// `org.varlink.service`, which every Varlink service has.
fn service(name: &str, parameters: &Value) -> Result<Parsed, Value> {
    match name {
        "GetInfo" => Ok(Parsed::Reply(varlink::reply(
            json!({
                "vendor": "app-cluster",
                "product": "app-cluster",
                "version": env!("CARGO_PKG_VERSION"),
                "url": env!("CARGO_PKG_HOMEPAGE"),
                "interfaces": ["org.varlink.service", api::INTERFACE],
            }),
            false,
        ))),
        "GetInterfaceDescription" => match parameters["interface"].as_str() {
            Some(api::INTERFACE) => Ok(Parsed::Reply(varlink::reply(
                json!({ "description": api::DESCRIPTION }),
                false,
            ))),
            other => Err(varlink::error(
                "org.varlink.service.InterfaceNotFound",
                json!({ "interface": other }),
            )),
        },
        _ => Err(varlink::error(
            "org.varlink.service.MethodNotFound",
            json!({ "method": name }),
        )),
    }
}
