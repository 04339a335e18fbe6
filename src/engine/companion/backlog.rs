// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages that wait for the companion: so many bytes, beyond which the worker that has most
//! of them waiting loses its oldest. One that floods loses its own.

use crate::core::WorkerId;
use std::collections::{BTreeMap, VecDeque};

/// So much may wait, in bytes.
const MAX_WAITING: usize = 4 * 1024 * 1024;
/// What a message costs besides its text, about.
const OVERHEAD: usize = 64;

/// The messages of one worker, each with its number.
#[derive(Debug, Default)]
struct Line {
    messages: VecDeque<(u64, Vec<u8>)>,
    bytes: usize,
}

impl Line {
    fn pop(&mut self) -> Option<Vec<u8>> {
        let (_, message) = self.messages.pop_front()?;
        self.bytes -= message.len() + OVERHEAD;
        Some(message)
    }
}

/// What waits.
#[derive(Debug, Default)]
pub struct Backlog {
    lines: BTreeMap<WorkerId, Line>,
    bytes: usize,
    next: u64,
}

impl Backlog {
    /// Adds a message; returns how many were lost to make room.
    pub fn push(&mut self, from: WorkerId, message: Vec<u8>) -> u64 {
        let size = message.len() + OVERHEAD;
        let line = self.lines.entry(from).or_default();
        line.messages.push_back((self.next, message));
        line.bytes += size;
        self.next += 1;
        self.bytes += size;
        let mut lost = 0;
        while self.bytes > MAX_WAITING {
            let longest = self.lines.iter().max_by_key(|(_, line)| line.bytes);
            let Some(worker) = longest.map(|(worker, _)| *worker) else {
                break;
            };
            self.take(worker);
            lost += 1;
        }
        lost
    }

    /// Takes the one that came first.
    pub fn pop(&mut self) -> Option<Vec<u8>> {
        let number = |line: &Line| line.messages.front().map(|(number, _)| *number);
        let first = self.lines.iter().min_by_key(|(_, line)| number(line))?;
        let worker = *first.0;
        self.take(worker)
    }

    /// All of them, those that came first ahead.
    pub fn texts(&self) -> Vec<(WorkerId, String)> {
        let lines = self.lines.iter();
        let all = lines.flat_map(|(worker, line)| line.messages.iter().map(|m| (*worker, m)));
        let mut all: Vec<_> = all.collect();
        all.sort_by_key(|(_, (number, _))| *number);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let all = all.into_iter();
        all.map(|(worker, (_, bytes))| (worker, text(bytes)))
            .collect()
    }

    fn take(&mut self, worker: WorkerId) -> Option<Vec<u8>> {
        let line = self.lines.get_mut(&worker)?;
        let message = line.pop()?;
        if line.messages.is_empty() {
            self.lines.remove(&worker);
        }
        self.bytes -= message.len() + OVERHEAD;
        Some(message)
    }

    /// How many wait.
    pub fn len(&self) -> u64 {
        let lines = self.lines.values();
        lines.map(|line| line.messages.len() as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_floods_loses_its_own_oldest() {
        let mut backlog = Backlog::default();
        let (noisy, quiet) = (WorkerId(1), WorkerId(2));
        let mut lost = backlog.push(quiet, b"first".to_vec());
        for n in 0..1_000_000 {
            lost += backlog.push(noisy, format!("{n}").into_bytes());
        }
        lost += backlog.push(quiet, b"last".to_vec());
        assert_eq!(backlog.len() + lost, 1_000_002);
        assert!(backlog.bytes <= MAX_WAITING && lost > 900_000);
        let texts = backlog.texts();
        assert_eq!(texts.first(), Some(&(quiet, "first".to_owned())));
        assert_eq!(texts.last(), Some(&(quiet, "last".to_owned())));
        assert_eq!(backlog.pop().as_deref(), Some(&b"first"[..]));
        for n in lost..1_000_000 {
            assert_eq!(backlog.pop(), Some(n.to_string().into_bytes()));
        }
        assert_eq!(backlog.pop().as_deref(), Some(&b"last"[..]));
        assert_eq!((backlog.pop(), backlog.bytes, backlog.len()), (None, 0, 0));
    }
}
