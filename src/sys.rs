// SPDX-License-Identifier: MIT OR Apache-2.0
//! System calls that no library offers without `unsafe`.
#![allow(unsafe_code)]

use nix::libc;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

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

/// What `PIDFD_GET_INFO` is told and tells (`struct pidfd_info` of linux/pidfd.h, version 0).
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// `PIDFD_INFO_EXIT`: the exit status is wanted, is told.
const INFO_EXIT: u64 = 1 << 3;

/// The status, as wait(2) has it, of the process of a pidfd, child or not; `None`: it has not
/// ended, or has not been waited for. Neither rustix nor nix has this request (`PIDFD_GET_INFO`,
/// Linux 6.13; the status since 6.15).
///
/// # Errors
/// What ioctl(2) says; ENOTTY and EINVAL where the kernel does not have it.
pub fn exit_status(pidfd: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    let mut info = PidfdInfo {
        mask: INFO_EXIT,
        ..PidfdInfo::default()
    };
    let size = size_of::<PidfdInfo>() as libc::Ioctl;
    // _IOWR(0xff, 11, struct pidfd_info), see ioctl(2).
    let request = (3 << 30) | (size << 16) | (0xff << 8) | 11;
    // SAFETY: the request carries the size of what its argument points to, and the kernel writes
    // no more; that outlives the call, and the descriptor is open for as long as it is borrowed.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), request, &raw mut info) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ if info.mask & INFO_EXIT != 0 => Ok(Some(info.exit_code)),
        _ => Ok(None),
    }
}

/// Takes a descriptor that this process was started with (sd_listen_fds(3)); listenfd hands out
/// sockets only. To be called once for each, before anything else could own it.
pub fn inherited(number: RawFd) -> OwnedFd {
    // SAFETY: whoever started us says that it is open and ours, and nobody else here has it.
    unsafe { OwnedFd::from_raw_fd(number) }
}
