// SPDX-License-Identifier: MIT OR Apache-2.0
//! System calls that no library offers without `unsafe`.
#![allow(unsafe_code)]

use nix::libc;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// How much of what was written to a stream socket has not been read by its peer (AF_UNIX; a
/// measure of memory, not of bytes) or not been acknowledged (TCP): SIOCOUTQ, see unix(7), tcp(7).
///
/// Neither rustix nor nix has this request as a safe call.
///
/// # Errors
/// What ioctl(2) says.
pub fn unread_by_peer(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: TIOCOUTQ, which is SIOCOUTQ, writes one int to where its argument points, which
    // outlives the call; the descriptor is open for as long as it is borrowed.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(usize::try_from(count).unwrap_or(0)),
    }
}

/// Makes this process the one that gets SIGIO for `fd` while that has O_ASYNC (F_SETOWN of
/// fcntl(2)). It ends with the process; the descriptor stays the caller's. Neither rustix nor
/// nix has this command as a safe call.
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
