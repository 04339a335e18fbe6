// SPDX-License-Identifier: MIT OR Apache-2.0
//! What we tell systemd (sd_notify(3)).
//!
//! `sd_notify::notify` opens a socket for each message and may block when systemd
//! does not read; nothing in the loop may. So its types make the text, and one
//! non-blocking socket carries it: what cannot be sent at once is dropped and
//! counted. What systemd must know all the same (that we are ready, our present
//! status) is said again in later turns.

use nix::fcntl::OFlag;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use sd_notify::NotifyState;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// A shorter WATCHDOG_USEC is a mistake: pings would be all that is done.
const SHORTEST_WATCHDOG: Duration = Duration::from_millis(10);

/// How often systemd wants a sign of life; with what is wrong about its wish.
pub fn watchdog() -> (Option<Duration>, Option<String>) {
    let number = |name: &str| match std::env::var_os(name) {
        None => Ok(None),
        Some(value) => match value.to_str().and_then(|v| v.parse::<u64>().ok()) {
            Some(number) => Ok(Some(number)),
            None => Err(format!("{name}={value:?} is not a number: no watchdog")),
        },
    };
    let (usec, pid) = match (number("WATCHDOG_USEC"), number("WATCHDOG_PID")) {
        (Ok(usec), Ok(pid)) => (usec, pid),
        (Err(why), _) | (_, Err(why)) => return (None, Some(why)),
    };
    let ours = pid.is_none_or(|pid| pid == u64::from(std::process::id()));
    match usec.map(Duration::from_micros).filter(|_| ours) {
        Some(span) if span < SHORTEST_WATCHDOG => {
            let why = format!(
                "WATCHDOG_USEC={} is too short: no watchdog",
                span.as_micros()
            );
            (None, Some(why))
        }
        span => (span, None),
    }
}

/// The line to systemd; without one, everything is silently left unsaid.
#[derive(Debug)]
pub struct Systemd {
    name: String,
    socket: Option<UnixDatagram>,
    status: String,
    owes_ready: bool,
    owes_status: bool,
    barrier: Option<OwnedFd>,
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
            owes_ready: false,
            owes_status: false,
            barrier: None,
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

    /// Says several things at once. `false`: systemd did not take it.
    pub fn say(&mut self, states: &[NotifyState<'_>]) -> bool {
        let Some(socket) = &self.socket else {
            return true;
        };
        let lines: Vec<String> = states.iter().map(|s| s.to_string()).collect();
        let sent = socket.send(lines.join("\n").as_bytes()).is_ok();
        if !sent {
            self.dropped += 1;
            // systemd may have made its socket anew (daemon-reexec).
            if let Ok(socket) = open(&self.name) {
                self.socket = Some(socket);
            }
        }
        sent
    }

    /// Says that the service is ready; see [`Systemd::owes`].
    pub fn say_ready(&mut self) {
        let heard = self.say(&[NotifyState::Ready]) && self.ask_when_done().is_ok();
        self.owes_ready = !heard;
    }

    /// Asks systemd to hang up a pipe when it has acted upon everything said before
    /// (`BARRIER=1` of sd_notify(3)).
    fn ask_when_done(&mut self) -> std::io::Result<()> {
        let Some(socket) = &self.socket else {
            return Ok(());
        };
        let (ours, theirs) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let descriptors = [theirs.as_raw_fd()];
        let passed = [ControlMessage::ScmRights(&descriptors)];
        let text = [IoSlice::new(b"BARRIER=1")];
        sendmsg::<()>(socket.as_raw_fd(), &text, &passed, MsgFlags::empty(), None)?;
        self.barrier = Some(ours);
        Ok(())
    }

    /// A pipe that hangs up when systemd knows that we are ready; once.
    pub fn take_barrier(&mut self) -> Option<OwnedFd> {
        self.barrier.take()
    }

    /// Gives systemd a copy of `fd` to keep under `name` (`FDSTORE=1`); it comes back by
    /// LISTEN_FDS when the service is started again. It is kept whatever happens to its other
    /// end, until [`Systemd::unstore`].
    ///
    /// # Errors
    /// It did not take it; with `WouldBlock` it may later.
    pub fn store(&mut self, name: &str, fd: BorrowedFd<'_>) -> std::io::Result<()> {
        let Some(socket) = &self.socket else {
            return Ok(());
        };
        let text = format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0");
        let descriptors = [fd.as_raw_fd()];
        let passed = [ControlMessage::ScmRights(&descriptors)];
        let text = [IoSlice::new(text.as_bytes())];
        sendmsg::<()>(socket.as_raw_fd(), &text, &passed, MsgFlags::empty(), None)?;
        Ok(())
    }

    /// It needs not keep what it has under `name` (`FDSTOREREMOVE=1`). `false`: not heard.
    pub fn unstore(&mut self, name: &str) -> bool {
        let line = format!("FDSTOREREMOVE=1\nFDNAME={name}");
        self.say(&[NotifyState::Custom(&line)])
    }

    /// Whether something is to be said again: [`Systemd::set_status`] does it.
    pub fn owes(&self) -> bool {
        self.owes_ready || self.owes_status
    }

    /// Shows `line` in `systemctl status`, if it is new or has not arrived.
    pub fn set_status(&mut self, line: &str) {
        if self.owes_ready {
            self.say_ready();
        }
        let line = line.replace('\n', " ");
        if self.owes_status || self.status != line {
            self.owes_status = !self.say(&[NotifyState::Status(&line)]);
            self.status = line;
        }
    }

    /// Asks for at least `span` more for what is under way. `false`: not heard.
    pub fn extend(&mut self, span: Duration) -> bool {
        // The crate's own variant ends at 71 minutes.
        let line = format!("EXTEND_TIMEOUT_USEC={}", span.as_micros());
        self.say(&[NotifyState::Custom(&line)])
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_taken_is_said_again() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("notify");
        let listener = UnixDatagram::bind(&path).expect("bind");
        listener.set_nonblocking(true).expect("nonblocking");
        let name = path.display().to_string();
        let mut systemd = Systemd {
            socket: Some(open(&name).expect("open")),
            name,
            status: String::new(),
            owes_ready: false,
            owes_status: false,
            barrier: None,
            dropped: 0,
        };
        while systemd.say(&[NotifyState::Watchdog]) {}
        systemd.say_ready();
        systemd.set_status("1/1 ready");
        assert!(systemd.owes());
        let mut bytes = [0; 64];
        let mut heard = || {
            let length = listener.recv(&mut bytes).ok()?;
            Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
        };
        while let Some(text) = heard() {
            assert_eq!(text.trim_end(), "WATCHDOG=1");
        }
        systemd.set_status("1/1 ready");
        systemd.set_status("1/1 ready");
        assert!(!systemd.owes());
        let rest: Vec<_> = std::iter::from_fn(heard).collect();
        let rest: Vec<_> = rest.iter().map(|text| text.trim_end()).collect();
        assert_eq!(rest, ["READY=1", "BARRIER=1", "STATUS=1/1 ready"]);
        // Who does not take the descriptor has closed it.
        let barrier = systemd.take_barrier().expect("a pipe");
        assert_eq!(nix::unistd::read(&barrier, &mut bytes), Ok(0));
    }
}
