// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines that are acted upon before they are taken out of the channel: whoever goes on after a
//! crash finds those whose consequences have not been recorded.

use super::{Channel, FIRST_PIECE};
use rustix::net::RecvFlags;

impl Channel {
    /// What has arrived, without taking it: the whole lines up to the first that is not to be
    /// read `twice`. None: nothing has arrived that can be left there.
    pub fn look(&mut self, twice: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        self.forget();
        if self.ended || !self.partial.is_empty() || self.dropping.is_some() {
            return Vec::new();
        }
        let found = self.receive_piece(FIRST_PIECE, RecvFlags::PEEK);
        let bytes = std::mem::take(&mut self.partial);
        if !matches!(found, Ok(Some(_))) {
            return Vec::new();
        }
        let whole = |line: &&[u8]| line.ends_with(b"\n") && twice(&line[..line.len() - 1]);
        let lines = bytes.split_inclusive(|b| *b == b'\n').take_while(whole);
        lines.map(|line| line[..line.len() - 1].to_vec()).collect()
    }

    /// The next of the lines that were looked at has been acted upon. It is there until
    /// [`Channel::forget`], or the next call of [`Channel::look`] or [`Channel::receive`].
    pub fn acted_upon(&mut self, line: &[u8]) {
        self.seen += line.len() + 1;
    }

    /// Takes away what was acted upon.
    pub fn forget(&mut self) {
        while self.seen > 0 && !self.ended {
            match self.receive_piece(self.seen, RecvFlags::empty()) {
                Ok(Some(count)) if count > 0 => self.seen -= count,
                _ => break,
            }
            self.partial.clear();
        }
        self.seen = 0;
    }
}
