// SPDX-License-Identifier: MIT OR Apache-2.0
//! Foreground only: what workers write, with `NAME[slot] pid |` before each line.
//!
//! One thread per worker reads its pipe, so that a terminal that has been stopped
//! holds up workers, never the supervisor. Under systemd workers write straight to
//! the journal and none of this exists.

use crate::core::SlotId;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// Lines kept of each worker, for the report of a failed reload.
const KEPT: usize = 20;
/// A longer line is shown in parts.
const MAX_LINE: u64 = 16 * 1024;
/// Colours of the slots (ECMA-48 SGR), taken in turn.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];

const COMPANION_COLOUR: u8 = 90;

/// Whose output it is.
#[derive(Debug, Clone, Copy)]
pub enum Whose {
    /// That of a worker in this slot.
    Slot(SlotId),
    /// The companion's.
    Companion,
}

/// How prefixes look.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// Whether to use colour.
    pub colour: bool,
}

impl Style {
    /// Colour on a terminal, unless NO_COLOR is set; always with CLICOLOR_FORCE.
    pub fn for_stdout() -> Style {
        let set = |name| std::env::var_os(name).is_some_and(|v| !v.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|t| t == "dumb");
        let colour = match (set("NO_COLOR"), set("CLICOLOR_FORCE")) {
            (true, _) => false,
            (_, true) => true,
            _ => io::stdout().is_terminal() && !dumb,
        };
        Style { colour }
    }

    fn prefix(self, name: &str, whose: Whose, pid: i32) -> String {
        let (place, colour) = match whose {
            Whose::Slot(slot) => (slot.to_string(), COLOURS[slot.0 as usize % COLOURS.len()]),
            Whose::Companion => ("companion".to_owned(), COMPANION_COLOUR),
        };
        let plain = format!("{name}[{place}] {pid} |");
        if !self.colour {
            return plain;
        }
        format!("\x1b[{colour}m{plain}\x1b[0m")
    }
}

/// The last lines of a worker.
#[derive(Debug, Clone, Default)]
pub struct Tail(Arc<(Mutex<Kept>, Condvar)>, Option<Arc<OwnedFd>>);

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<String>,
    ended: bool,
}

impl Tail {
    /// Oldest first; when all writers are gone, or as they are after `within`: a worker's
    /// end may be known before its last words have been read. Blocks.
    pub fn at_end(&self, within: Duration) -> Vec<String> {
        let waited = self
            .0
            .1
            .wait_timeout_while(self.lock(), within, |kept| !kept.ended);
        let (kept, _) = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        kept.lines.iter().cloned().collect()
    }

    /// Keeps what comes out of `pipe`, without showing it.
    ///
    /// # Errors
    /// No thread is to be had.
    pub fn collect(pipe: impl Read + Send + 'static) -> io::Result<Tail> {
        let tail = Tail::default();
        let kept = tail.clone();
        let builder = std::thread::Builder::new().name("output".to_owned());
        builder.spawn(move || copy(pipe, "", &kept, &mut io::sink()))?;
        Ok(tail)
    }

    /// The pipe that it comes from. It stays ours.
    pub fn pipe(&self) -> Option<BorrowedFd<'_>> {
        self.1.as_deref().map(AsFd::as_fd)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        let kept = self.0.0.lock();
        kept.unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn push(&self, line: String) {
        let lines = &mut self.lock().lines;
        if lines.len() == KEPT {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    fn end(&self) {
        self.lock().ended = true;
        self.0.1.notify_all();
    }
}

/// Shows what comes out of `pipe` until all its writers are gone.
pub fn show(style: Style, name: &str, whose: Whose, pid: i32, pipe: OwnedFd) -> io::Result<Tail> {
    let tail = Tail(Arc::default(), Some(Arc::new(pipe.try_clone()?)));
    let prefix = style.prefix(name, whose, pid);
    let kept = tail.clone();
    std::thread::Builder::new()
        .name("output".to_owned())
        .stack_size(128 * 1024)
        .spawn(move || copy(File::from(pipe), &prefix, &kept, &mut io::stdout()))?;
    Ok(tail)
}

fn copy(from: impl Read, prefix: &str, tail: &Tail, to: &mut impl Write) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        match Read::take(&mut from, MAX_LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return tail.end(),
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches(['\n', '\r']);
        tail.push(text.to_owned());
        // Nobody reads any more: go on emptying the pipe, or the worker would block.
        let _ = writeln!(to, "{prefix} {text}").and_then(|()| to.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_each_line_and_keeps_the_last() {
        let style = Style { colour: false };
        let prefix = style.prefix("web", Whose::Slot(SlotId(3)), 17);
        let (tail, mut shown) = (Tail::default(), Vec::new());
        let long = "x".repeat(MAX_LINE as usize + 1);
        let input = format!("one\r\ntwo\n\u{e9}\n{long}\nno newline");
        copy(input.as_bytes(), &prefix, &tail, &mut shown);
        let shown = String::from_utf8(shown).expect("UTF-8");
        assert!(shown.starts_with("web[3] 17 | one\nweb[3] 17 | two\n"));
        assert!(shown.ends_with("web[3] 17 | no newline\n"));
        assert_eq!(
            tail.at_end(Duration::ZERO).len(),
            6,
            "the long line in two parts"
        );
        let many = "line\n".repeat(100);
        copy(many.as_bytes(), &prefix, &tail, &mut io::sink());
        assert_eq!(tail.at_end(Duration::ZERO), vec!["line"; KEPT]);
    }

    #[test]
    fn last_words_are_waited_for() {
        let tail = Tail::default();
        let (from, mut to) = io::pipe().expect("a pipe");
        let kept = tail.clone();
        let reader = std::thread::spawn(move || copy(from, "", &kept, &mut io::sink()));
        assert_eq!(tail.at_end(Duration::ZERO), [""; 0]);
        let all = std::thread::spawn(move || tail.at_end(Duration::from_secs(60)));
        to.write_all(b"one\ntwo").expect("written");
        drop(to);
        assert_eq!(all.join().expect("the lines"), ["one", "two"]);
        reader.join().expect("its end");
    }

    #[test]
    fn colour_differs_by_slot() {
        let style = Style { colour: true };
        let (a, b) = (
            style.prefix("a", Whose::Slot(SlotId(0)), 1),
            style.prefix("a", Whose::Slot(SlotId(1)), 1),
        );
        assert_ne!(a.split('m').next(), b.split('m').next());
        let companion = Style { colour: false }.prefix("a", Whose::Companion, 1);
        assert_eq!(companion, "a[companion] 1 |");
    }
}
