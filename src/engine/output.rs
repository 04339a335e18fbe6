// SPDX-License-Identifier: MIT OR Apache-2.0
//! Foreground only: what workers write, with `NAME[slot] pid |` before each line.
//!
//! One thread per worker reads its pipe, so that a terminal that has been stopped
//! holds up workers, never the supervisor. Under systemd workers write straight to
//! the journal and none of this exists.
//!
//! Before the program is executed again the threads are stilled ([`still`]): what has been read
//! is shown by then, and what is in a pipe is left there.

use crate::core::SlotId;
use rustix::event::{PollFd, PollFlags, poll};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Lines kept of each worker, for the report of a failed reload.
const KEPT: usize = 20;
/// A longer line is shown in parts.
const MAX_LINE: usize = 16 * 1024;
/// Bytes read at once.
const PIECE: usize = 8 * 1024;
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
    /// The beginning of a line.
    begun: Vec<u8>,
    ended: bool,
}

/// Threads that show what they have read.
struct Gate {
    state: Mutex<Traffic>,
    changed: Condvar,
}

#[derive(Default)]
struct Traffic {
    stilled: bool,
    inside: usize,
}

static GATE: Gate = Gate {
    state: Mutex::new(Traffic {
        stilled: false,
        inside: 0,
    }),
    changed: Condvar::new(),
};

impl Gate {
    fn lock(&self) -> MutexGuard<'_, Traffic> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it may be read and shown.
    fn pass<T>(&self, work: impl FnOnce() -> T) -> T {
        let stilled = |traffic: &mut Traffic| traffic.stilled;
        let waited = self.changed.wait_while(self.lock(), stilled);
        let mut traffic = waited.unwrap_or_else(PoisonError::into_inner);
        traffic.inside += 1;
        drop(traffic);
        let done = work();
        self.lock().inside -= 1;
        self.changed.notify_all();
        done
    }

    fn still(&self, within: Duration) -> bool {
        let mut traffic = self.lock();
        traffic.stilled = true;
        let busy = |traffic: &mut Traffic| traffic.inside > 0;
        let waited = self.changed.wait_timeout_while(traffic, within, busy);
        let (traffic, _) = waited.unwrap_or_else(PoisonError::into_inner);
        traffic.inside == 0
    }

    fn go_on(&self) {
        self.lock().stilled = false;
        self.changed.notify_all();
    }
}

/// Nothing more is read or shown. `false`: within that time somebody did not get rid of what it
/// has read, as on a terminal that has been stopped.
pub fn still(within: Duration) -> bool {
    GATE.still(within)
}

/// The opposite.
pub fn go_on() {
    GATE.go_on();
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
        builder.spawn(move || {
            let mut pipe = pipe;
            while copy(&mut pipe, "", &kept, &mut io::sink()) {}
        })?;
        Ok(tail)
    }

    /// The pipe that it comes from. It stays ours.
    pub fn pipe(&self) -> Option<BorrowedFd<'_>> {
        self.1.as_deref().map(AsFd::as_fd)
    }

    /// The beginning of a line that has been read.
    pub fn begun(&self) -> Vec<u8> {
        self.lock().begun.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        let kept = self.0.0.lock();
        kept.unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes in what was read; what is to be shown of it. `last`: nothing follows.
    fn take_in(&self, piece: &[u8], last: bool, prefix: &str) -> String {
        let mut shown = String::new();
        let mut kept = self.lock();
        kept.begun.extend_from_slice(piece);
        while let Some(length) = first_line(&kept.begun, last) {
            let line: Vec<u8> = kept.begun.drain(..length).collect();
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end_matches(['\n', '\r']);
            shown += &format!("{prefix} {text}\n");
            if kept.lines.len() == KEPT {
                kept.lines.pop_front();
            }
            kept.lines.push_back(text.to_owned());
        }
        shown
    }

    fn end(&self) {
        self.lock().ended = true;
        self.0.1.notify_all();
    }
}

/// How long the first line is, or the part of it that is shown; `None`: it is to go on.
fn first_line(bytes: &[u8], last: bool) -> Option<usize> {
    let looked_at = &bytes[..bytes.len().min(MAX_LINE)];
    match looked_at.iter().position(|byte| *byte == b'\n') {
        Some(at) => Some(at + 1),
        None if looked_at.len() == MAX_LINE => Some(MAX_LINE),
        None => (last && !bytes.is_empty()).then_some(bytes.len()),
    }
}

/// Shows what comes out of `pipe` until all its writers are gone. `begun`: the beginning of a
/// line that has been read already.
///
/// # Errors
/// No descriptor is left, or no thread is to be had.
pub fn show(
    style: Style,
    name: &str,
    whose: Whose,
    pid: i32,
    (pipe, begun): (OwnedFd, Vec<u8>),
) -> io::Result<Tail> {
    let tail = Tail(Arc::default(), Some(Arc::new(pipe.try_clone()?)));
    tail.lock().begun = begun;
    let prefix = style.prefix(name, whose, pid);
    let kept = tail.clone();
    std::thread::Builder::new()
        .name("output".to_owned())
        .stack_size(128 * 1024)
        .spawn(move || {
            let mut pipe = File::from(pipe);
            let mut goes_on = true;
            while goes_on {
                let _ = poll(&mut [PollFd::new(&pipe, PollFlags::IN)], None);
                goes_on = GATE.pass(|| copy(&mut pipe, &prefix, &kept, &mut io::stdout()));
            }
        })?;
    Ok(tail)
}

/// Reads once and shows the lines that are whole. `false`: that was the last.
fn copy(from: &mut impl Read, prefix: &str, tail: &Tail, to: &mut impl Write) -> bool {
    let mut piece = [0; PIECE];
    let count = match from.read(&mut piece) {
        Ok(count) => count,
        Err(error) if error.kind() == io::ErrorKind::Interrupted => return true,
        Err(_) => 0,
    };
    let shown = tail.take_in(&piece[..count], count == 0, prefix);
    // Nobody reads any more: go on emptying the pipe, or the worker would block.
    let _ = to.write_all(shown.as_bytes()).and_then(|()| to.flush());
    if count == 0 {
        tail.end();
    }
    count > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Copies all of it.
    fn copy(mut from: impl Read, prefix: &str, tail: &Tail, to: &mut impl Write) {
        while super::copy(&mut from, prefix, tail, to) {}
    }

    #[test]
    fn a_line_goes_on_where_another_reader_has_left_it() {
        let (first, mut shown) = (Tail::default(), Vec::new());
        assert!(super::copy(&mut &b"one\ntw"[..], "w |", &first, &mut shown));
        assert_eq!(
            (shown.as_slice(), first.begun()),
            (&b"w | one\n"[..], b"tw".to_vec())
        );
        let next = Tail::default();
        next.lock().begun = first.begun();
        copy(&b"o\n"[..], "w |", &next, &mut shown);
        assert_eq!(shown, b"w | one\nw | two\n");
    }

    #[test]
    fn nothing_is_read_by_those_who_are_stilled() {
        let gate = Arc::new(Gate {
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let (enter, entered) = std::sync::mpsc::channel::<()>();
        let (leave, left) = std::sync::mpsc::channel::<()>();
        let other = Arc::clone(&gate);
        let inside = std::thread::spawn(move || {
            other.pass(|| {
                enter.send(()).expect("sent");
                left.recv().expect("told");
            });
            other.pass(|| enter.send(()).expect("sent"));
        });
        entered.recv().expect("it is inside");
        assert!(!gate.still(Duration::from_millis(10)), "it is inside");
        leave.send(()).expect("sent");
        assert!(gate.still(Duration::from_secs(60)), "it waits outside");
        let waited = entered.recv_timeout(Duration::from_millis(50));
        assert!(waited.is_err(), "it has entered");
        gate.go_on();
        entered.recv().expect("it enters");
        inside.join().expect("its end");
    }

    #[test]
    fn prefixes_each_line_and_keeps_the_last() {
        let style = Style { colour: false };
        let prefix = style.prefix("web", Whose::Slot(SlotId(3)), 17);
        let (tail, mut shown) = (Tail::default(), Vec::new());
        let long = "x".repeat(MAX_LINE + 1);
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
