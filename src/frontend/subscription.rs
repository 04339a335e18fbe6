// SPDX-License-Identifier: MIT OR Apache-2.0
//! A client that gets workers' messages as they come: replies that `continue`, until the app
//! ends or the client goes.

use super::feed::{Feed, Item};
use super::varlink;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::json;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

/// Marks the feed when the client is gone, however that came.
struct Leaving<'a>(&'a Feed);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// Serves it. A client that does not read is waited for: it costs a bounded amount, and
/// learns what it has missed.
///
/// # Errors
/// The client is gone.
pub(super) fn serve(writer: &mut UnixStream, feed: &Feed) -> io::Result<()> {
    let _leaving = Leaving(feed);
    let timeout = writer.write_timeout()?;
    writer.set_write_timeout(None)?;
    varlink::write(writer, &varlink::reply(json!({ "ready": true }), true))?;
    loop {
        match feed.take() {
            Some(Item::Message(text)) => {
                let reply = format!("{{\"parameters\":{text},\"continues\":true}}\0");
                writer.write_all(reply.as_bytes())?;
            }
            Some(Item::Lost(count)) => {
                varlink::write(writer, &varlink::reply(json!({ "lost": count }), true))?;
            }
            Some(Item::End) => {
                writer.set_write_timeout(timeout)?;
                return varlink::write(writer, &varlink::reply(json!({}), false));
            }
            None => wait(writer, feed)?,
        }
    }
}

/// Sleeps until there is something, or the client is gone (unix(7): POLLHUP).
fn wait(client: &UnixStream, feed: &Feed) -> io::Result<()> {
    let mut all = [
        PollFd::new(client.as_fd(), PollFlags::empty()),
        PollFd::new(feed.bell(), PollFlags::POLLIN),
    ];
    match poll(&mut all, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    match all[0].revents().is_some_and(|seen| !seen.is_empty()) {
        true => Err(io::ErrorKind::BrokenPipe.into()),
        false => Ok(()),
    }
}
