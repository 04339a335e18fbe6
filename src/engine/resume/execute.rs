// SPDX-License-Identifier: MIT OR Apache-2.0
//! Executing the program again, as it is on disk now: same process, same children, same
//! descriptors (execve(2)). Or leaving all that to the next process.
//!
//! What can fail is done first. Then who has asked gets the answer, what is said is flushed, and
//! nothing is left to be done.

use super::descriptors::{c_strings, environment_with, in_a_row};
use super::upgrade::{FLUSH_WITHIN, Upgrade, Way, refuse};
use super::{End, Name};
use crate::api;
use crate::engine::{Engine, LAST_WORDS, Level, Record, fault, output};
use crate::frontend::Answer;
use nix::libc;
use nix::unistd::execve;
use sd_notify::NotifyState;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

/// systemd is told to be so patient while there is nobody to give signs of life.
const PATIENCE: &str = "WATCHDOG_USEC=60000000";
/// A variable of the environment may have 128 KiB (execve(2)).
const LONGEST_STRING: usize = 127 * 1024;

/// Descriptors that are ready for execve(2).
struct Placed {
    names: Vec<String>,
    first: RawFd,
    /// Closes them, if nothing comes of it.
    _copies: Vec<OwnedFd>,
}

impl Engine {
    /// The point of no return.
    pub(super) fn leave_to_next(&mut self) {
        let Some(upgrade) = self.upgrade.take() else {
            return;
        };
        fault::point("before-hand-over");
        let prepared = match upgrade.way {
            Way::Execute => self.prepare_to_execute().map(Some),
            Way::Leave => self.prepare_to_leave().map(|()| None),
        };
        let placed = match prepared {
            Ok(placed) => placed,
            Err(error) => return self.stay(upgrade, &error),
        };
        self.control.halt();
        self.answer_upgrade(upgrade);
        self.audience.end();
        self.answer_last_calls();
        self.open.settle(LAST_WORDS);
        match placed {
            Some(placed) => self.execute(&placed),
            None => self.leave(),
        }
    }

    fn prepare_to_execute(&mut self) -> io::Result<Placed> {
        for worker in self.held.keys().copied().collect::<Vec<_>>() {
            self.end_questions(worker);
        }
        // What they have read is in the record; one that cannot write may lose some of it.
        output::still(FLUSH_WITHIN);
        self.write_record(End::Executed)?;
        let all = self.all_descriptors();
        let (names, sockets): (Vec<String>, Vec<BorrowedFd<'_>>) = all.into_iter().unzip();
        let longest = names.iter().map(|name| name.len() + 1).sum::<usize>();
        if longest >= LONGEST_STRING {
            return Err(io::Error::other("there are too many descriptors"));
        }
        let (first, copies) = in_a_row(&sockets).map_err(|error| {
            let text = format!("{error} (is LimitNOFILE= too low?)");
            io::Error::new(error.kind(), text)
        })?;
        Ok(Placed {
            names,
            first,
            _copies: copies,
        })
    }

    fn prepare_to_leave(&mut self) -> io::Result<()> {
        self.write_record(End::Left)?;
        self.store_all()?;
        self.runtime.say_keep().map_err(|error| {
            io::Error::other(format!("it cannot be said that the workers stay: {error}"))
        })
    }

    /// Nothing comes of it.
    fn stay(&mut self, upgrade: Upgrade, error: &io::Error) {
        let text = format!("the supervisor stays as it is: {error}");
        self.log(Record::plain(Level::Error, format!("not upgraded: {text}")));
        for answers in upgrade.answers {
            refuse(Some(answers), &text);
        }
        output::go_on();
        self.recorder.outdate();
        self.node_goes_on();
    }

    fn answer_upgrade(&self, upgrade: Upgrade) {
        let message = match upgrade.way {
            Way::Execute => "the program is executed again",
            Way::Leave => "the supervisor leaves the workers to the next one",
        };
        for answers in upgrade.answers {
            let _ = answers.send(Answer::Final(Ok(api::Outcome {
                message: message.to_owned(),
                generation: None,
                back_to: None,
                workers: None,
                incarnation: Some(self.recorder.incarnation + 1),
                changes: None,
            })));
        }
    }

    /// Calls that came at the last moment. Nobody else comes in: who connects from now on waits
    /// for the next supervisor.
    fn answer_last_calls(&mut self) {
        while let Ok(ask) = self.calls.try_recv() {
            let answer = match ask.call {
                api::Call::GetStatus {} => Answer::Status(Box::new(self.status())),
                _ => {
                    let message = "the supervisor is being replaced: ask again".to_owned();
                    Answer::Final(Err(api::Error::InProgress { message }))
                }
            };
            let _ = ask.answers.send(answer);
        }
    }

    fn leave(&mut self) {
        self.journal.finish(LAST_WORDS);
        // Told to stop meanwhile: then it is not the next one's business.
        while let Ok(Some(info)) = self.signals.read_signal() {
            if [libc::SIGTERM, libc::SIGQUIT, libc::SIGINT].contains(&(info.ssi_signo as i32)) {
                let _ = self.runtime.say_ending();
            }
        }
        // Nothing may be dropped: it would take away what the workers use.
        std::process::exit(0);
    }

    /// Becomes the program; if the new one cannot be executed all the same, the one that runs.
    fn execute(&mut self, placed: &Placed) {
        if self.watchdog.is_some() {
            self.systemd
                .say(&[NotifyState::Watchdog, NotifyState::Custom(PATIENCE)]);
        }
        self.journal.finish(LAST_WORDS);
        let arguments = c_strings(std::env::args_os());
        let environment = environment_with(&placed.names, placed.first);
        fault::point("before-exec");
        let paths = [self.program().into_bytes(), b"/proc/self/exe".to_vec()];
        for path in paths {
            if let Ok(path) = CString::new(path) {
                // Unlike std's, it leaves the mask of signals: one that comes now is for the
                // program.
                let _ = execve(&path, &arguments, &environment);
            }
        }
        // Nobody is left to tell what we do; the next one goes on from the snapshot.
        std::process::abort();
    }

    /// The sockets by the names of their listeners, then what is ours.
    fn all_descriptors(&self) -> Vec<(String, BorrowedFd<'_>)> {
        let lines = self.listeners.iter().flat_map(|listener| {
            let lines = listener.lines.iter();
            lines.map(|line| (listener.name.clone(), line.fd.as_fd()))
        });
        let ours = self.kept_descriptors();
        let ours = ours.into_iter().map(|(name, fd)| (name.to_string(), fd));
        let outputs = self.held.iter().filter_map(|(id, held)| {
            let pipe = held.tail.as_ref()?.pipe()?;
            Some((Name::Output(*id).to_string(), pipe))
        });
        let companion = self.companion.output();
        let companion = companion.map(|pipe| (Name::CompanionOutput.to_string(), pipe));
        let connections = self.connections();
        let connections = connections.map(|(name, fd)| (name.to_string(), fd));
        let ours = ours.chain(outputs).chain(companion);
        lines.chain(ours).chain(connections).collect()
    }
}
