// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much memory a worker uses: what only goes when its processes go.
//!
//! Counted are anonymous and shared memory, resident or swapped out; neither the program's
//! code nor mapped files, which the kernel can drop and which all workers share.
//! /proc/PID/status has that for the price of reading a small file (30 µs), but processes
//! that were forked from one another each have the pages there that they share. Where that
//! could make a difference, so if there are several and their sum is over the limit,
//! /proc/PID/smaps_rollup is read, which divides shared pages among those who share them. It
//! walks the page tables, 13 ms for each GiB, so a thread does it.
//!
//! proc_pid_status(5), proc_pid_smaps(5).

use super::Engine;
use crate::core::{Event, WorkerId};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// A worker and its processes.
type Question = (WorkerId, Vec<i32>);
/// A worker and the bytes that it uses.
type Answer = (WorkerId, Option<u64>);

/// Looks that take time, by a thread that is started for the first of them.
pub struct Looks {
    bell: Arc<EventFd>,
    questions: Option<Sender<Question>>,
    answers: (Sender<Answer>, Receiver<Answer>),
}

impl Looks {
    /// Nothing is looked at yet.
    ///
    /// # Errors
    /// eventfd(2) failed.
    pub fn new() -> io::Result<Looks> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Looks {
            bell: Arc::new(EventFd::from_flags(flags)?),
            questions: None,
            answers: channel(),
        })
    }

    /// Readable when there are answers. It stays ours.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// `false`: it cannot be done.
    fn ask(&mut self, question: Question) -> bool {
        if self.questions.is_none() {
            self.questions = self.start().ok();
        }
        let questions = self.questions.as_ref();
        questions.is_some_and(|questions| questions.send(question).is_ok())
    }

    fn start(&self) -> io::Result<Sender<Question>> {
        let (questions, inbox) = channel::<Question>();
        let (answers, bell) = (self.answers.0.clone(), Arc::clone(&self.bell));
        let look = move || {
            for (worker, pids) in inbox {
                let _ = answers.send((worker, sum(&pids, share_of)));
                let _ = bell.write(1);
            }
        };
        let thread = std::thread::Builder::new().name("memory".to_owned());
        thread.spawn(look)?;
        Ok(questions)
    }
}

impl Engine {
    /// [`crate::core::Action::Measure`]
    pub(super) fn measure(&mut self, worker: WorkerId) {
        let pids = self.members(worker);
        let memory = sum(&pids, all_of);
        let bound = self.core.memory_bound(worker);
        let over = memory.zip(bound).is_some_and(|(used, bound)| used > bound);
        if over && pids.len() > 1 && self.memory.ask((worker, pids)) {
            return;
        }
        self.pending.push_back(Event::Measured { worker, memory });
    }

    /// [`super::Token::Measured`]
    pub(super) fn take_measured(&mut self) {
        let _ = self.memory.bell.read();
        while let Ok((worker, memory)) = self.memory.answers.1.try_recv() {
            self.feed(Event::Measured { worker, memory });
        }
    }

    /// How much memory the processes `pids` of a worker use, for `status`.
    pub(super) fn memory_of(&self, worker: WorkerId, pids: &[i32]) -> Option<u64> {
        let memory = sum(pids, all_of)?;
        let seen = self.core.worker(worker).and_then(|w| w.used);
        match seen {
            // What they share was counted several times, as a closer look has shown.
            Some(seen) if pids.len() > 1 && memory > seen.bound => Some(seen.bytes),
            _ => Some(memory),
        }
    }
}

/// Of those that are there; `None` if there is none.
fn sum(pids: &[i32], of: fn(i32) -> Option<u64>) -> Option<u64> {
    let found: Vec<u64> = pids.iter().filter_map(|pid| of(*pid)).collect();
    (!found.is_empty()).then(|| found.iter().sum())
}

/// What a process uses, shared or not, in bytes.
fn all_of(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    // A zombie has none of these lines.
    Some(lines(&text, &["RssAnon:", "RssShmem:", "VmSwap:"]).unwrap_or(0))
}

/// The same, but of what it shares only its share. Where that cannot be read (the process
/// is not dumpable), all of it.
fn share_of(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let share = lines(&text, &["Pss_Anon:", "Pss_Shmem:", "SwapPss:"]);
    share.or_else(|| all_of(pid))
}

/// The sum of the lines `NAME: N kB`, in bytes; `None` if one is missing.
fn lines(text: &str, names: &[&str]) -> Option<u64> {
    let value = |name: &&str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kib << 10)
    };
    names.iter().map(value).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_lines_that_count() {
        let text = "VmRSS:\t  1776 kB\nRssAnon:\t     112 kB\nRssFile:\t    1664 kB\n\
                    RssShmem:\t       8 kB\nVmSwap:\t       4 kB\n";
        assert_eq!(lines(text, &["RssAnon:", "RssShmem:"]), Some(120 << 10));
        assert_eq!(lines(text, &["RssAnon:", "Pss_Anon:"]), None);
        assert_eq!(lines("RssAnon: x kB\n", &["RssAnon:"]), None);
    }

    #[test]
    fn knows_its_own() {
        let own = std::process::id() as i32;
        let filled = vec![7_u8; 64 << 20];
        for of in [all_of, share_of] {
            let found = of(own).expect("our own");
            assert!(found > 64 << 20, "{found}");
        }
        assert_eq!(filled.last(), Some(&7));
        assert_eq!(sum(&[i32::MAX], all_of), None);
        assert!(sum(&[i32::MAX, own], all_of).is_some());
    }

    #[test]
    fn the_thread_answers() {
        let mut looks = Looks::new().expect("an eventfd");
        let own = std::process::id() as i32;
        assert!(looks.ask((WorkerId(3), vec![own])));
        assert!(looks.ask((WorkerId(4), vec![i32::MAX])));
        let first = looks.answers.1.recv().expect("an answer");
        assert!(
            first.0 == WorkerId(3) && first.1 > Some(1 << 16),
            "{first:?}"
        );
        assert_eq!(looks.answers.1.recv(), Ok((WorkerId(4), None)));
        assert!(looks.bell.read().is_ok_and(|rung| rung >= 1));
    }
}
