// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writing for whoever called: somebody may have closed the pipe, or the disk may be full.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};

/// What a shell shows of a command that SIGPIPE has ended, as it does with other commands.
const ENDED_BY_SIGPIPE: i32 = 128 + nix::sys::signal::Signal::SIGPIPE as i32;

/// As `print!`, without its panic.
macro_rules! out {
    ($($what:tt)*) => { $crate::cli::output::out(format_args!($($what)*)) };
}
/// As `println!`, without its panic.
macro_rules! outln {
    ($($what:tt)*) => { $crate::cli::output::out(format_args!("{}\n", format_args!($($what)*))) };
}
/// As `eprintln!`, without its panic.
macro_rules! errln {
    ($($what:tt)*) => { $crate::cli::output::err(format_args!("{}\n", format_args!($($what)*))) };
}

/// Writes to standard output. If that cannot be, this command ends: quietly where nobody reads
/// any more, else with exit status 1.
pub fn out(what: Arguments<'_>) {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_fmt(what).and_then(|()| stdout.flush());
    if let Err(error) = written {
        std::process::exit(failed(&error));
    }
}

/// Writes to standard error. There is nobody to tell if that cannot be.
pub fn err(what: Arguments<'_>) {
    let _ = io::stderr().lock().write_fmt(what);
}

/// Says that standard output gave `error`; the exit status.
fn failed(error: &io::Error) -> i32 {
    if error.kind() == ErrorKind::BrokenPipe {
        return ENDED_BY_SIGPIPE;
    }
    errln!("error: cannot write to standard output: {error}");
    super::Status::Failed as i32
}
