// SPDX-License-Identifier: MIT OR Apache-2.0
//! System calls that no library offers without `unsafe`.
#![allow(unsafe_code)]

use nix::libc;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Makes this process the one that gets SIGIO for `fd` while that has O_ASYNC (F_SETOWN of
/// fcntl(2)). It ends with the process; the descriptor stays the caller's.
///
/// # Errors
/// What fcntl(2) says.
pub fn own_signals_of(fd: BorrowedFd<'_>) -> io::Result<()> {
    let own = std::process::id() as libc::c_int;
    // SAFETY: with F_SETOWN fcntl(2) takes an integer and no pointer, and the descriptor is
    // open for as long as it is borrowed.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETOWN, own) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
