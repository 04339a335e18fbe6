// SPDX-License-Identifier: MIT OR Apache-2.0
//! The control socket: one thread that accepts, one for each connection.

use super::call::{Message, Parsed, invalid_parameter, parse};
use super::caller::{self, Caller};
use super::{Answer, Desk, subscription, varlink};
use crate::api::{self, Call};
use crate::protocol::node::user::MAX_MESSAGE;
use crate::units::GROUP;
use anyhow::{Context, Result};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::{Gid, Group, getegid, getgroups};
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::{Value, json};
use std::fs;
use std::io::{self, BufReader};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Connections served at a time, of root and of all others: workers have the
/// supervisor's user, and whatever they do must not keep root from a reload.
const MAX_CONNECTIONS: usize = 32;
/// A client that has nothing to say for so long is given up.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest call that is read: a message to a worker, and what is around it.
const MAX_CALL: u64 = MAX_MESSAGE as u64 + 64 * 1024;
/// The error of a call that has several replies, and is not asked for them.
const EXPECTED_MORE: &str = "org.varlink.service.ExpectedMore";
/// A client that does not take an answer in this time is given up.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// The control socket. Dropping it removes its file.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    socket: UnixListener,
    halt: Arc<EventFd>,
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Control {
    /// Listens at `path` (mode 0660: the supervisor's user and group [`GROUP`] may connect,
    /// or the supervisor's own group if it is not in that) and puts what is asked there to
    /// `desk`.
    ///
    /// `kept`: the socket of a supervisor before us, in which callers may wait; it is used if it
    /// is the one at `path`. Returns also whether another one was made.
    pub fn listen(path: &Path, desk: Desk, kept: Option<OwnedFd>) -> Result<(Control, bool)> {
        let kept = kept.map(UnixListener::from);
        if let Some(socket) = kept.filter(|socket| is_at(socket, path)) {
            return Ok((Control::on(socket, path, desk)?, false));
        }
        let _ = fs::remove_file(path);
        let shown = path.display();
        let listener = UnixListener::bind(path).with_context(|| format!("cannot make {shown}"))?;
        if let Some(group) = our_group() {
            let _ = chown(path, None, Some(group.as_raw()));
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
        Ok((Control::on(listener, path, desk)?, true))
    }

    fn on(socket: UnixListener, path: &Path, desk: Desk) -> Result<Control> {
        let listener = socket.try_clone()?;
        let halt = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?);
        let halted = Arc::clone(&halt);
        thread("control", move || serve(&listener, &desk, &halted))?;
        Ok(Control {
            path: path.to_owned(),
            socket,
            halt,
        })
    }

    /// From now on who connects waits in the socket, for another supervisor.
    pub fn halt(&self) {
        let _ = self.halt.write(1);
    }
}

/// Whether who connects to `path` gets to `socket`. Another one may have taken its place there.
fn is_at(socket: &UnixListener, path: &Path) -> bool {
    let bound = socket.local_addr();
    let there = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    there && bound.is_ok_and(|bound| bound.as_pathname() == Some(path))
}

/// The group that is to have the socket, if we are in it: others cannot give it away
/// (chown(2)). The user's own processes are not to be root's group's business.
fn our_group() -> Option<Gid> {
    let gid = Group::from_name(GROUP).ok().flatten()?.gid;
    let member = gid == getegid() || getgroups().is_ok_and(|all| all.contains(&gid));
    member.then_some(gid)
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let builder = std::thread::Builder::new().name(name.to_owned());
    builder.stack_size(256 * 1024).spawn(run)?;
    Ok(())
}

/// Waits until somebody connects; `false`: nobody is to be served any more.
fn is_called(listener: &UnixListener, halt: &EventFd) -> bool {
    let mut polled = [
        PollFd::new(listener, PollFlags::IN),
        PollFd::new(halt, PollFlags::IN),
    ];
    // An error is one of accept(2) too, which tells.
    let _ = poll(&mut polled, None);
    polled[1].revents().is_empty()
}

fn serve(listener: &UnixListener, desk: &Desk, halt: &EventFd) {
    let (of_root, of_others) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    while is_called(listener, halt) {
        let Ok((stream, _)) = listener.accept() else {
            // Out of descriptors or memory: not for long, and not at full speed.
            std::thread::sleep(Duration::from_millis(100));
            continue;
        };
        let busy = match caller::uid(&stream) {
            Some(0) => &of_root,
            _ => &of_others,
        };
        if busy.fetch_add(1, Ordering::AcqRel) >= MAX_CONNECTIONS {
            let full = json!({ "message": "too many connections, try again" });
            let mut stream = stream;
            let _ = stream.set_write_timeout(Some(Duration::from_millis(100)));
            let name = format!("{}.InProgress", api::INTERFACE);
            let _ = varlink::write(&mut stream, &varlink::error(&name, full));
            busy.fetch_sub(1, Ordering::AcqRel);
            continue;
        }
        let (desk, done) = (desk.clone(), Arc::clone(busy));
        let spawned = thread("control-client", move || {
            let _ = converse(stream, &desk);
            done.fetch_sub(1, Ordering::AcqRel);
        });
        if spawned.is_err() {
            busy.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// Serves one connection until it ends. What the client sends wrong is told to it,
/// with the last message of the connection.
fn converse(stream: UnixStream, desk: &Desk) -> io::Result<()> {
    stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    let caller = Caller::of(&stream);
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        let bytes = match varlink::read_bytes(&mut reader, MAX_CALL) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return varlink::write(&mut writer, &invalid_parameter(&error)),
        };
        let message = match Message::read(&bytes) {
            Ok(message) => message,
            Err(error) => return varlink::write(&mut writer, &invalid_parameter(&error)),
        };
        let (more, oneway) = (message.more, message.oneway);
        match parse(&message) {
            Err(error) if !oneway => varlink::write(&mut writer, &error)?,
            Err(_) => {}
            Ok(Parsed::Reply(reply)) => varlink::write(&mut writer, &reply)?,
            Ok(Parsed::Call(call)) => answer(&mut writer, desk, &caller, call, more, oneway)?,
        }
    }
}

fn answer(
    writer: &mut UnixStream,
    desk: &Desk,
    caller: &Caller,
    call: Call,
    more: bool,
    oneway: bool,
) -> io::Result<()> {
    let alone = matches!(call, Call::Subscribe { .. }) && (!more || oneway);
    let refused = match caller.may(&call) {
        Err(error) => Some(typed_error(&error)),
        Ok(()) if alone => Some(varlink::error(EXPECTED_MORE, json!({}))),
        Ok(()) => None,
    };
    match refused {
        Some(_) if oneway => return Ok(()),
        Some(error) => return varlink::write(writer, &error),
        None => {}
    }
    let gone = || io::Error::other("the supervisor has ended");
    let (answers, _open) = desk.ask(call).ok_or_else(gone)?;
    for answer in answers {
        let message = match answer {
            Answer::Messages(feed) => return subscription::serve(writer, &feed),
            Answer::Progress(step) if more => varlink::reply(json!(step), true),
            Answer::Progress(_) => continue,
            Answer::Status(status) => varlink::reply(json!({ "status": status }), false),
            Answer::Plan(plan) => varlink::reply(json!({ "plan": plan }), false),
            Answer::Final(Ok(outcome)) => varlink::reply(json!(outcome), false),
            Answer::Final(Err(error)) => typed_error(&error),
        };
        let last = message.get("continues").is_none();
        // Nothing is written for a "oneway" call, but it is waited for: so a client has
        // no more than one under way.
        if !oneway {
            varlink::write(writer, &message)?;
        }
        if last {
            return Ok(());
        }
    }
    Err(gone())
}

fn typed_error(error: &api::Error) -> Value {
    let mut value = json!(error);
    let name = value["error"].as_str().unwrap_or("InvalidParameter");
    let name = format!("{}.{name}", api::INTERFACE);
    varlink::error(&name, value["parameters"].take())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, Read, Write};

    /// A control socket whose loop answers every call in the same way.
    fn with_loop(run: impl FnOnce(&Path)) {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("control");
        let (desk, inbox, _bell) = Desk::new().expect("desk");
        let _control = Control::listen(&path, desk, None).expect("listen").0;
        std::thread::spawn(move || {
            for ask in inbox {
                let step = api::Progress {
                    progress: "a step".to_owned(),
                };
                let _ = ask.answers.send(Answer::Progress(step));
                let _ = ask.answers.send(Answer::Final(Ok(api::Outcome {
                    message: format!("{:?}", ask.call),
                    generation: None,
                    back_to: None,
                    workers: None,
                    incarnation: None,
                    changes: None,
                })));
            }
        });
        run(&path);
    }

    fn ask(path: &Path, message: &[u8]) -> Vec<Value> {
        let mut stream = UnixStream::connect(path).expect("connect");
        stream.write_all(message).expect("write");
        stream
            .shutdown(std::net::Shutdown::Write)
            .expect("shutdown");
        let mut bytes = Vec::new();
        BufReader::new(stream)
            .read_to_end(&mut bytes)
            .expect("read");
        let parts = bytes.split(|b| *b == 0).filter(|part| !part.is_empty());
        parts
            .map(|p| serde_json::from_slice(p).expect("JSON"))
            .collect()
    }

    #[test]
    fn answers_calls_with_and_without_progress() {
        with_loop(|path| {
            let plain = br#"{"method":"org.appcluster.Cluster1.Reload"}"#;
            let replies = ask(path, &[plain, &b"\0"[..]].concat());
            assert_eq!(replies, [json!({ "parameters": { "message": "Reload" } })]);
            let more =
                br#"{"method":"org.appcluster.Cluster1.Scale","parameters":{"by":-1},"more":true}"#;
            let replies = ask(path, &[more, &b"\0"[..]].concat());
            assert_eq!(replies.len(), 2);
            assert_eq!(replies[0]["continues"], true);
            let text = "Scale { workers: None, by: Some(-1), kept: None, reset: false }";
            assert_eq!(replies[1]["parameters"]["message"], text);
        });
    }

    #[test]
    fn introspection() {
        with_loop(|path| {
            let call = br#"{"method":"org.varlink.service.GetInterfaceDescription","parameters":{"interface":"org.appcluster.Cluster1"}}"#;
            let replies = ask(path, &[call, &b"\0"[..]].concat());
            let text = replies[0]["parameters"]["description"].as_str();
            assert!(text.is_some_and(|t| t.contains("method Reload")));
        });
    }

    #[test]
    fn garbage_gets_an_error_and_harms_nobody() {
        with_loop(|path| {
            for (sent, error) in [
                (&b"hello\0"[..], "InvalidParameter"),
                (b"[]\0", "InvalidParameter"),
                (b"{\"method\":", "InvalidParameter"),
                (b"{}\0", "InterfaceNotFound"),
                (b"{\"method\":7}\0", "InvalidParameter"),
                (b"{\"method\":\"org.appcluster.Cluster1.Explode\"}\0", "MethodNotFound"),
                (
                    b"{\"method\":\"org.appcluster.Cluster1.Scale\",\"parameters\":{\"workers\":-1}}\0",
                    "InvalidParameter",
                ),
            ] {
                let replies = ask(path, sent);
                let name = replies[0]["error"].as_str().unwrap_or_default();
                assert!(name.ends_with(error), "{name} for {sent:?}");
            }
            let mut stream = UnixStream::connect(path).expect("connect");
            let endless = vec![b'x'; MAX_CALL as usize + 1];
            let _ = stream.write_all(&endless);
            let mut reply = Vec::new();
            let _ = BufReader::new(stream).read_until(0, &mut reply);
            assert!(String::from_utf8_lossy(&reply).contains("longer one"));
        });
    }
}
