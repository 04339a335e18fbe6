// SPDX-License-Identifier: MIT OR Apache-2.0
//! What we tell systemd (sd_notify(3)).
//!
//! `sd_notify::notify` opens a socket for each message and may block when systemd
//! does not read; nothing in the loop may. So its types make the text, and one
//! non-blocking socket carries it: what cannot be sent at once is dropped and
//! counted.

use sd_notify::NotifyState;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The line to systemd; without one, everything is silently left unsaid.
#[derive(Debug)]
pub struct Systemd {
    name: String,
    socket: Option<UnixDatagram>,
    status: String,
    /// Messages that systemd did not take.
    pub dropped: u64,
}

impl Systemd {
    /// Connects to NOTIFY_SOCKET.
    ///
    /// # Errors
    /// When it is set, but nothing can be sent there: the text says so, and the
    /// supervisor goes on without.
    pub fn connect() -> (Systemd, Option<String>) {
        let mut systemd = Systemd {
            name: String::new(),
            socket: None,
            status: String::new(),
            dropped: 0,
        };
        let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return (systemd, None);
        };
        systemd.name = name.to_string_lossy().into_owned();
        match open(&systemd.name) {
            Ok(socket) => {
                systemd.socket = Some(socket);
                (systemd, None)
            }
            Err(error) => {
                let text = format!(
                    "NOTIFY_SOCKET={name:?} cannot be used ({error}): systemd is told nothing"
                );
                (systemd, Some(text))
            }
        }
    }

    /// Whether there is somebody to talk to.
    pub fn is_there(&self) -> bool {
        self.socket.is_some()
    }

    /// Says several things at once.
    pub fn say(&mut self, states: &[NotifyState<'_>]) {
        let Some(socket) = &self.socket else {
            return;
        };
        let lines: Vec<String> = states.iter().map(|s| s.to_string()).collect();
        if socket.send(lines.join("\n").as_bytes()).is_err() {
            self.dropped += 1;
            // systemd may have made its socket anew (daemon-reexec).
            if let Ok(socket) = open(&self.name) {
                self.socket = Some(socket);
            }
        }
    }

    /// Shows `line` in `systemctl status`, if it is new.
    pub fn set_status(&mut self, line: &str) {
        let line = line.replace('\n', " ");
        if self.status != line {
            self.say(&[NotifyState::Status(&line)]);
            self.status = line;
        }
    }

    /// Asks for at least `span` more for what is under way.
    pub fn extend(&mut self, span: Duration) {
        let micros = u32::try_from(span.as_micros()).unwrap_or(u32::MAX);
        self.say(&[NotifyState::ExtendTimeoutUsec(micros)]);
    }
}

fn open(name: &str) -> std::io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
