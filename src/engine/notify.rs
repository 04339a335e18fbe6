// SPDX-License-Identifier: MIT OR Apache-2.0
//! The private notify socket of each worker (sd_notify(3), from the receiving side).
//!
//! The socket says which worker speaks. The kernel says which process
//! (SCM_CREDENTIALS, unix(7)): one that is known to belong to another worker is
//! refused. What arrives is untrusted: it is bounded, parsed line by line, and
//! what is not understood is counted, never fatal.

use crate::core::Notification;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg, sockopt};
use std::fs;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest datagram that is read; the rest of a longer one is cut off.
const MAX_DATAGRAM: usize = 4096;

/// A worker cannot make us look after it more often than this.
const SHORTEST_WATCHDOG: Duration = Duration::from_millis(10);

/// A worker's notify socket. Dropping it removes its file.
#[derive(Debug)]
pub struct NotifySocket {
    socket: UnixDatagram,
    path: PathBuf,
    /// The first datagram has been acted upon, and is still there.
    acted_upon: bool,
}

/// One datagram.
#[derive(Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The process that sent it; 0 if it is in another pid namespace.
    pub pid: i32,
    /// The user that sent it.
    pub uid: u32,
    /// What it says, in its order.
    pub said: Vec<Notification>,
    /// Lines that are no assignment, or whose value makes no sense.
    pub garbage: usize,
}

impl NotifySocket {
    /// Makes the socket `path`, for processes of our own user only.
    pub fn bind(path: &Path) -> io::Result<NotifySocket> {
        let _ = fs::remove_file(path);
        let socket = UnixDatagram::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        socket.set_nonblocking(true)?;
        sockopt::set_socket_passcred(&socket, true)?;
        Ok(NotifySocket {
            socket,
            path: path.to_owned(),
            acted_upon: false,
        })
    }

    /// One that was made before, at `path`.
    pub fn on(socket: OwnedFd, path: &Path) -> NotifySocket {
        NotifySocket {
            socket: UnixDatagram::from(socket),
            path: path.to_owned(),
            acted_upon: false,
        }
    }

    /// What NOTIFY_SOCKET is set to.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next datagram, if one is there. Descriptors that came with it are closed. It stays
    /// there until the next call, or [`NotifySocket::forget`]: if we are killed before what
    /// follows from it has been recorded, the next supervisor reads it again.
    pub fn receive(&mut self) -> io::Result<Option<Datagram>> {
        self.forget();
        let mut bytes = [0u8; MAX_DATAGRAM];
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64), ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT | RecvFlags::PEEK;
        let received = match recvmsg(&self.socket, &mut parts, &mut control, flags) {
            Ok(received) => received,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut sender = (0, u32::MAX);
        for message in control.drain() {
            match message {
                RecvAncillaryMessage::ScmCredentials(from) => {
                    sender = (from.pid.as_raw_nonzero().get(), from.uid.as_raw());
                }
                RecvAncillaryMessage::ScmRights(fds) => fds.for_each(drop),
                _ => {}
            }
        }
        self.acted_upon = true;
        let (said, garbage) = parse(&bytes[..received.bytes.min(MAX_DATAGRAM)]);
        Ok(Some(Datagram {
            pid: sender.0,
            uid: sender.1,
            said,
            garbage,
        }))
    }

    /// Takes away what was received last.
    pub fn forget(&mut self) {
        if std::mem::take(&mut self.acted_upon) {
            let flags = RecvFlags::DONTWAIT;
            let _ = rustix::net::recv(&self.socket, &mut [0u8; 1], flags);
        }
    }
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Variables of sd_notify(3) that a worker may well send and that mean nothing to us.
const IGNORED: [&str; 10] = [
    "RELOADING",
    "MONOTONIC_USEC",
    "ERRNO",
    "BUSERROR",
    "VARLINKERROR",
    "EXIT_STATUS",
    "MAINPID",
    "MAINPIDFDID",
    "NOTIFYACCESS",
    "BARRIER",
];

fn parse(bytes: &[u8]) -> (Vec<Notification>, usize) {
    let text = String::from_utf8_lossy(bytes);
    let mut said = Vec::new();
    let mut garbage = 0;
    for line in text.split('\n').filter(|line| !line.is_empty()) {
        match line.split_once('=') {
            Some(("READY", "1")) => said.push(Notification::Ready),
            Some(("STOPPING", "1")) => said.push(Notification::Stopping),
            Some(("STATUS", text)) => said.push(Notification::Status(printable(text))),
            Some(("EXTEND_TIMEOUT_USEC", number)) => match number.parse() {
                Ok(n) => said.push(Notification::ExtendTimeout(Duration::from_micros(n))),
                Err(_) => garbage += 1,
            },
            Some(("WATCHDOG", "1")) => said.push(Notification::Watchdog),
            Some(("WATCHDOG", "trigger")) => said.push(Notification::WatchdogTrigger),
            Some(("WATCHDOG_USEC", number)) => match number.parse() {
                Ok(n) => said.push(Notification::WatchdogInterval(interval(n))),
                Err(_) => garbage += 1,
            },
            Some((name, _)) if IGNORED.contains(&name) => {}
            Some((name, _)) if name.starts_with("FD") || name.starts_with("X_") => {}
            _ => garbage += 1,
        }
    }
    (said, garbage)
}

/// How often a worker will give signs of life; zero and infinity: never (sd_notify(3)).
fn interval(micros: u64) -> Option<Duration> {
    let wanted = (micros > 0 && micros < u64::MAX).then(|| Duration::from_micros(micros));
    wanted.map(|every| every.max(SHORTEST_WATCHDOG))
}

/// Text from a worker, without what could move a cursor or begin a new line.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn understands_what_workers_say() {
        let (said, garbage) = parse(
            b"READY=1\nSTATUS=up \x1b[31mand\x07 running\nWATCHDOG=1\nEXTEND_TIMEOUT_USEC=5\n",
        );
        let expected = [
            Notification::Ready,
            Notification::Status("up [31mand running".to_owned()),
            Notification::Watchdog,
            Notification::ExtendTimeout(Duration::from_micros(5)),
        ];
        assert_eq!((said.as_slice(), garbage), (expected.as_slice(), 0));
    }

    #[test]
    fn counts_what_it_does_not_understand() {
        let (said, garbage) = parse(b"READY=2\nhello\n=\nEXTEND_TIMEOUT_USEC=-1\n\xff\xfe");
        assert_eq!((said.len(), garbage), (0, 5));
    }

    #[test]
    fn knows_who_speaks_and_closes_what_is_sent_along() {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut socket = NotifySocket::bind(&dir.path().join("n")).expect("bind");
        assert_eq!(socket.receive().expect("receive"), None);
        let worker = UnixDatagram::unbound().expect("socket");
        worker.send_to(b"READY=1", socket.path()).expect("send");
        let datagram = socket.receive().expect("receive").expect("a datagram");
        assert_eq!(datagram.pid, std::process::id() as i32);
        assert_eq!(datagram.said, [Notification::Ready]);
        // Who takes over before it is forgotten reads it again.
        let path = socket.path().to_owned();
        let copy = socket.as_fd().try_clone_to_owned().expect("a copy");
        let mut next = std::mem::ManuallyDrop::new(NotifySocket::on(copy, &path));
        assert_eq!(next.receive().expect("receive"), Some(datagram));
        socket.forget();
        next.acted_upon = false;
        assert_eq!(next.receive().expect("receive"), None);
        assert_eq!(socket.receive().expect("receive"), None);
        drop(socket);
        assert!(!path.exists());
    }

    proptest! {
        #[test]
        fn any_bytes_are_borne(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for notification in parse(&bytes).0 {
                if let Notification::Status(text) = notification {
                    prop_assert!(!text.contains(['\n', '\x1b']));
                }
            }
        }
    }
}
