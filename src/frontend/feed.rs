// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages on their way from the loop to one client, which may be slower than they come.

use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// So much may wait for a client, in bytes; what comes beyond that is counted only.
const MAX_WAITING: usize = 1024 * 1024;
/// What a message costs besides its text, about.
const OVERHEAD: usize = 64;

/// One thing that a client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A message, as a JSON object.
    Message(Arc<str>),
    /// So many messages would be here, had they been read in time.
    Lost(u64),
    /// There will be no more.
    End,
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Item>,
    bytes: usize,
    /// The client is gone.
    left: bool,
}

/// The way. The loop puts in, the client's thread takes out; neither waits for the other.
#[derive(Debug)]
pub struct Feed {
    state: Mutex<State>,
    /// Readable while something may be there.
    bell: EventFd,
}

impl Feed {
    /// An empty one.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<Feed> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Feed {
            state: Mutex::default(),
            bell: EventFd::from_flags(flags)?,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a message in. `false`: nobody takes them out any more.
    pub fn put(&self, message: &Arc<str>) -> bool {
        let mut state = self.lock();
        if state.left {
            return false;
        }
        let size = message.len() + OVERHEAD;
        if state.items.is_empty() || state.bytes + size <= MAX_WAITING {
            state.bytes += size;
            state.items.push_back(Item::Message(Arc::clone(message)));
        } else if let Some(Item::Lost(count)) = state.items.back_mut() {
            *count += 1;
        } else {
            state.items.push_back(Item::Lost(1));
        }
        self.ring(&state);
        true
    }

    /// Says that there will be no more.
    pub fn end(&self) {
        let mut state = self.lock();
        state.items.push_back(Item::End);
        self.ring(&state);
    }

    fn ring(&self, state: &State) {
        if state.items.len() == 1 {
            let _ = self.bell.write(1);
        }
    }

    /// The next one, if there is one now.
    pub fn take(&self) -> Option<Item> {
        let mut state = self.lock();
        let item = state.items.pop_front();
        match &item {
            Some(Item::Message(text)) => state.bytes -= text.len() + OVERHEAD,
            Some(_) => {}
            None => {
                let _ = self.bell.read();
            }
        }
        item
    }

    /// Readable when there may be something to take again, after [`Feed::take`] had nothing.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Nobody will take anything any more.
    pub fn leave(&self) {
        let mut state = self.lock();
        *state = State {
            left: true,
            ..State::default()
        };
    }

    /// Whether nobody will.
    pub fn is_left(&self) -> bool {
        self.lock().left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_ringing(feed: &Feed) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut all = [PollFd::new(feed.bell(), PollFlags::POLLIN)];
        poll(&mut all, PollTimeout::ZERO) == Ok(1)
    }

    #[test]
    fn what_is_too_much_is_counted_where_it_would_be() {
        let feed = Feed::new().expect("a feed");
        assert!(!is_ringing(&feed));
        let big: Arc<str> = "x".repeat(MAX_WAITING / 2).into();
        for _ in 0..100_000 {
            assert!(feed.put(&big));
        }
        assert!(is_ringing(&feed) && feed.lock().items.len() == 2);
        assert_eq!(feed.take(), Some(Item::Message(Arc::clone(&big))));
        assert_eq!(feed.take(), Some(Item::Lost(99_999)));
        assert_eq!((feed.take(), is_ringing(&feed)), (None, false));
        // One that is longer than all that may wait gets through by itself.
        let huge: Arc<str> = "x".repeat(2 * MAX_WAITING).into();
        feed.put(&huge);
        feed.end();
        assert!(is_ringing(&feed));
        assert_eq!(feed.take(), Some(Item::Message(huge)));
        assert_eq!(feed.take(), Some(Item::End));
        feed.put(&big);
        feed.leave();
        assert!(feed.is_left() && !feed.put(&big) && feed.take().is_none());
    }
}
