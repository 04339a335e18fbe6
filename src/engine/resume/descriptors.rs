// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where execve(2) finds what it is to hand on.

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;

/// Where the descriptors begin, if not at 3 (a variable of the listenfd crate).
pub const FIRST: &str = "LISTEN_FDS_FIRST_FD";
/// So many descriptors our threads may open meanwhile, and how often it is tried again if they
/// open more.
const GAP: RawFd = crate::engine::room::OWN as RawFd;
const TRIES: usize = 4;

/// Copies of descriptors that outlive execve(2), under successive numbers: the first, and what
/// closes them again. Above all that are open: a thread that waits in accept(2) has its number
/// already (dup2(2) fails with EBUSY). Not right above them: a thread that opens something gets
/// the lowest number.
pub fn in_a_row(all: &[BorrowedFd<'_>]) -> io::Result<(RawFd, Vec<OwnedFd>)> {
    for _ in 0..TRIES {
        let open = std::fs::read_dir("/proc/self/fd")?.flatten();
        let numbers = open.filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
        let first = numbers.max().unwrap_or(2) + GAP;
        let copies = all.iter().zip(first..);
        let copies = copies.map(|(fd, wanted)| fcntl_dupfd_cloexec(fd, wanted));
        let copies = copies.collect::<Result<Vec<OwnedFd>, _>>()?;
        if !copies
            .iter()
            .map(AsRawFd::as_raw_fd)
            .eq((first..).take(copies.len()))
        {
            continue;
        }
        for copy in &copies {
            fcntl_setfd(copy, FdFlags::empty())?;
        }
        return Ok((first, copies));
    }
    Err(io::Error::other("its descriptors are in use"))
}

/// Our own, but for the descriptors that are announced.
pub fn environment_with(names: &[String], first: RawFd) -> Vec<CString> {
    let announced = ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", FIRST];
    let variables = std::env::vars_os();
    let variables = variables.filter(|(name, _)| !announced.iter().any(|own| name == own));
    let variables = variables.map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        name
    });
    let added = [
        format!("LISTEN_FDS={}", names.len()),
        format!("LISTEN_FDNAMES={}", names.join(":")),
        format!("LISTEN_PID={}", std::process::id()),
        format!("{FIRST}={first}"),
    ];
    c_strings(variables.chain(added.map(OsString::from)))
}

pub fn c_strings(words: impl Iterator<Item = OsString>) -> Vec<CString> {
    words
        .filter_map(|word| CString::new(word.into_vec()).ok())
        .collect()
}
