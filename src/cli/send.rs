// SPDX-License-Identifier: MIT OR Apache-2.0
//! `app-cluster send` and `messages`: what Node workers are told, and what they tell.

use super::client::{CallError, Client, Successor, successor, successor_in_place};
use super::target::Target;
use super::{Fail, Status};
use crate::api::{Call, Json, Outcome};
use crate::protocol::node::user::MAX_MESSAGE;
use std::io::{self, Read, Write};
use std::time::Duration;

/// How long the next supervisor is waited for.
const SUCCESSOR: Duration = Duration::from_secs(10);

/// Sends `message`, JSON text or `-` for standard input.
pub fn send(target: &Target, message: &str, json: bool) -> Result<(), Fail> {
    let message = match message {
        "-" => parse(&standard_input()?, &target.name)?,
        text => parse(text, &target.name)?,
    };
    let slot = target.slot;
    let call = Call::Send { slot, message };
    let outcome: Outcome = Client::connect(&target.name)?.call(&call)?;
    match json {
        true => outln!("{}", serde_json::to_string(&outcome).unwrap_or_default()),
        false => outln!("{}: {}", target.name, outcome.message),
    }
    Ok(())
}

fn standard_input() -> Result<String, Fail> {
    let mut text = String::new();
    let limit = MAX_MESSAGE as u64 + 2;
    let read = io::stdin().take(limit).read_to_string(&mut text);
    read.map_err(|error| {
        let text = format!("cannot read the message from standard input: {error}");
        Fail::new(Status::Failed, text)
    })?;
    Ok(text)
}

fn parse(text: &str, name: &str) -> Result<Json, Fail> {
    let text = text.trim();
    if text.len() > MAX_MESSAGE {
        let why = format!("the message is longer than {MAX_MESSAGE} bytes");
        return Err(Fail::new(Status::Usage, why));
    }
    Json::parse(text).map_err(|error| {
        let shown: String = text.escape_debug().take(60).collect();
        let fail = Fail::new(Status::Usage, format!("`{shown}` is not JSON: {error}"));
        match text.starts_with(['{', '[']) {
            true => fail.hint(format!(
                "the shell takes quotes away: put all of it in single ones, \
                 app-cluster send {name} '{{\"op\":1}}'"
            )),
            false => fail.hint(format!(
                "a string has quotes of its own, within those for the shell: \
                 app-cluster send {name} '\"reload\"'"
            )),
        }
    })
}

/// Prints the messages of workers as they come, one a line. When the supervisor is replaced
/// it goes on with the next one.
pub fn messages(target: &Target) -> Result<(), Fail> {
    let (name, slot) = (&target.name, target.slot);
    let call = Call::Subscribe { slot };
    let mut client = Client::connect(name)?;
    let mut about = "messages from now on";
    loop {
        let known = client.status()?.incarnation;
        let mut begun = false;
        let each = |reply: &str| {
            if !begun {
                begun = true;
                errln!("{name} | {about}");
                return true;
            }
            let mut out = io::stdout().lock();
            // Whoever reads them has gone: that is how it ends.
            writeln!(out, "{reply}").and_then(|()| out.flush()).is_ok()
        };
        let next = match client.stream(&call, each) {
            Ok(false) => return Ok(()),
            Ok(true) => match successor_in_place(name, known + 1, SUCCESSOR) {
                Successor::Is(_) => Client::connect(name)?,
                Successor::None | Successor::Failed(_) => {
                    errln!("{name} | the app has ended");
                    return Ok(());
                }
            },
            Err(CallError::Ended(fail)) => match successor(name, known + 1, SUCCESSOR) {
                Successor::Is(_) => Client::connect(name)?,
                Successor::None | Successor::Failed(_) => return Err(fail),
            },
            Err(error) => return Err(error.into()),
        };
        client = next;
        about = "the supervisor was replaced; messages from now on, some before may be missing";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_json_is_told_how_to_be_quoted() {
        for (text, hint) in [
            ("reload", "app-cluster send web '\"reload\"'"),
            ("", "a string has quotes"),
            ("{op:1}", "app-cluster send web '{\"op\":1}'"),
        ] {
            let told = parse(text, "web").expect_err(text).to_string();
            assert!(
                told.contains("is not JSON") && told.contains(hint),
                "{told}"
            );
        }
        let long = format!("\"{}\"", "x".repeat(MAX_MESSAGE));
        let told = parse(&long, "web").expect_err("too long").to_string();
        assert!(told.contains("longer than 1048576 bytes"), "{told}");
        let deep = "[".repeat(10_000) + &"]".repeat(10_000);
        for good in ["null", " -1\n", "\"\\ud800\"", &deep] {
            let parsed = parse(good, "web").map(|json| json.text().to_owned());
            assert_eq!(parsed.ok().as_deref(), Some(good.trim()));
        }
    }
}
