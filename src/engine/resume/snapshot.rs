// SPDX-License-Identifier: MIT OR Apache-2.0
//! A file in memory (memfd_create(2)) with what the next supervisor needs to know.
//!
//! Two records take turns, so that one is whole whenever we are killed. Each has its place in
//! the sparse file; the newer one that is whole counts. A record is a header (magic, format,
//! number, length, checksum; little endian) and JSON.

use rustix::fs::{MemfdFlags, memfd_create};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// The format that is written, and the oldest one that is read. A field that may be missing is
/// no new format; one that must be understood is.
pub const FORMAT: u32 = 1;
const OLDEST_FORMAT: u32 = 1;

const MAGIC: [u8; 8] = *b"appcsnap";
const HEADER: usize = 40;
/// Where the second record is, in bytes.
const PLACE: u64 = 1 << 30;
/// Where the number of supervisors is that have begun to go on from here since the last record.
const ATTEMPTS: u64 = PLACE / 2;
/// Longest record, in bytes; MAX_WORKERS workers need about 2 MiB.
const LONGEST: usize = 256 << 20;

/// Why there is nothing to be had from a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unreadable {
    /// Neither record is whole.
    Torn,
    /// The newest one is of a format that we do not know.
    Format(u32),
    /// Reading failed.
    Io(String),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unreadable::Torn => f.write_str("no record of it is whole"),
            Unreadable::Format(format) if *format > FORMAT => write!(
                f,
                "its format {format} is newer than this version of app-cluster (which knows \
                 {OLDEST_FORMAT} to {FORMAT})"
            ),
            Unreadable::Format(format) => write!(
                f,
                "its format {format} is older than what this version of app-cluster knows \
                 ({OLDEST_FORMAT} to {FORMAT})"
            ),
            Unreadable::Io(error) => write!(f, "it cannot be read: {error}"),
        }
    }
}

/// The file. The descriptor is ours, CLOEXEC.
#[derive(Debug)]
pub struct Snapshot {
    file: File,
    /// The number of the last record; 0: none yet.
    number: u64,
}

impl Snapshot {
    /// An empty one.
    ///
    /// # Errors
    /// memfd_create(2) failed.
    pub fn create() -> io::Result<Snapshot> {
        let fd = memfd_create("app-cluster snapshot", MemfdFlags::CLOEXEC)?;
        Ok(Snapshot {
            file: File::from(fd),
            number: 0,
        })
    }

    /// One that somebody has left, and the text of its newest record.
    ///
    /// # Errors
    /// See [`Unreadable`].
    pub fn open(fd: OwnedFd) -> Result<(Snapshot, Vec<u8>), Unreadable> {
        let file = File::from(fd);
        let mut all = Vec::new();
        for place in [0, PLACE] {
            all.extend(Header::read(&file, place)?.map(|header| (header, place)));
        }
        // The newest first.
        all.sort_by_key(|(header, _)| std::cmp::Reverse(header.number));
        let number = all.first().map_or(0, |(header, _)| header.number);
        for (header, place) in all {
            let Some(text) = header.text(&file, place)? else {
                continue;
            };
            if !(OLDEST_FORMAT..=FORMAT).contains(&header.format) {
                return Err(Unreadable::Format(header.format));
            }
            // What is written next must not take the place of the one that is whole.
            let torn = header.number != number;
            let number = number + u64::from(torn);
            return Ok((Snapshot { file, number }, text));
        }
        Err(Unreadable::Torn)
    }

    /// Writes a record in place of the older one. `half`: is called when a part of it has been
    /// written.
    ///
    /// # Errors
    /// No memory is left, or the text is too long; what was there counts on.
    pub fn write(&mut self, text: &[u8], half: impl FnOnce()) -> io::Result<()> {
        if text.len() > LONGEST {
            return Err(io::Error::other(format!("it has {} bytes", text.len())));
        }
        let number = self.number + 1;
        let place = if number.is_multiple_of(2) { PLACE } else { 0 };
        let header = Header {
            format: FORMAT,
            number,
            length: text.len() as u64,
            checksum: checksum(number, text),
        };
        let middle = text.len() / 2;
        self.file.write_all_at(&header.encode(), place)?;
        let begin = place + HEADER as u64;
        self.file.write_all_at(&text[..middle], begin)?;
        half();
        self.file
            .write_all_at(&text[middle..], begin + middle as u64)?;
        self.number = number;
        self.file.write_all_at(&[0], ATTEMPTS)
    }

    /// Takes note that somebody begins to go on from here; returns how many have before, since
    /// the last record. Whoever succeeds writes one.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn begin(&self) -> io::Result<u8> {
        let mut attempts = [0];
        // Where nothing was written there is nothing, or a zero.
        let _ = self.file.read_exact_at(&mut attempts, ATTEMPTS);
        let next = [attempts[0].saturating_add(1)];
        self.file.write_all_at(&next, ATTEMPTS)?;
        Ok(attempts[0])
    }
}

impl AsFd for Snapshot {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// What stands before a text.
#[derive(Debug, Clone, Copy)]
struct Header {
    format: u32,
    number: u64,
    length: u64,
    checksum: u64,
}

impl Header {
    fn encode(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.format.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.length.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.checksum.to_le_bytes());
        bytes
    }

    /// `None`: there is none.
    fn read(file: &File, place: u64) -> Result<Option<Header>, Unreadable> {
        let mut bytes = [0; HEADER];
        if !read_at(file, &mut bytes, place)? || bytes[..8] != MAGIC {
            return Ok(None);
        }
        let number = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        Ok(Some(Header {
            format: number(8) as u32,
            number: number(16),
            length: number(24),
            checksum: number(32),
        }))
    }

    /// `None`: it is not whole.
    fn text(&self, file: &File, place: u64) -> Result<Option<Vec<u8>>, Unreadable> {
        let begin = place + HEADER as u64;
        let size = file.metadata().map_err(|e| Unreadable::Io(e.to_string()))?;
        let there = size.len().saturating_sub(begin);
        if self.length > there || self.length > LONGEST as u64 {
            return Ok(None);
        }
        let mut text = vec![0; self.length as usize];
        let whole = read_at(file, &mut text, begin)?;
        Ok((whole && checksum(self.number, &text) == self.checksum).then_some(text))
    }
}

/// `false`: the file ends before.
fn read_at(file: &File, bytes: &mut [u8], place: u64) -> Result<bool, Unreadable> {
    match file.read_exact_at(bytes, place) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(Unreadable::Io(error.to_string())),
    }
}

/// FNV-1a, 64 bits: against torn records, not against anybody.
fn checksum(number: u64, text: &[u8]) -> u64 {
    let number = number.to_le_bytes();
    let all = number.iter().chain(text);
    all.fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reopen(snapshot: &Snapshot) -> Result<(u64, Vec<u8>), Unreadable> {
        let fd = snapshot.file.try_clone().expect("a copy").into();
        Snapshot::open(fd).map(|(snapshot, text)| (snapshot.number, text))
    }

    #[test]
    fn the_newest_record_counts() {
        let mut snapshot = Snapshot::create().expect("a memfd");
        assert_eq!(reopen(&snapshot), Err(Unreadable::Torn));
        for (n, text) in [&b"one"[..], b"", b"a longer one", b"4"]
            .into_iter()
            .enumerate()
        {
            snapshot.write(text, || {}).expect("written");
            assert_eq!(reopen(&snapshot), Ok((n as u64 + 1, text.to_vec())));
        }
    }

    #[test]
    fn a_torn_record_leaves_the_one_before() {
        let mut snapshot = Snapshot::create().expect("a memfd");
        snapshot.write(b"first", || {}).expect("written");
        let copy = snapshot.file.try_clone().expect("a copy");
        let mut seen = None;
        let look = || seen = Some(Snapshot::open(copy.into()).map(|(_, text)| text));
        snapshot.write(b"second", look).expect("written");
        assert_eq!(seen, Some(Ok(b"first".to_vec())));
        // The number of the torn one is not used again.
        let place = PLACE + HEADER as u64;
        snapshot.file.write_all_at(b"S", place).expect("written");
        let (number, text) = reopen(&snapshot).expect("the first");
        assert_eq!((number, &*text), (3, &b"first"[..]));
        // Torn once more, while the next one writes.
        let fd = snapshot.file.try_clone().expect("a copy").into();
        let (mut next, _) = Snapshot::open(fd).expect("the first");
        let copy = next.file.try_clone().expect("a copy");
        let mut seen = None;
        let look = || seen = Some(Snapshot::open(copy.into()).map(|(_, text)| text));
        next.write(b"third", look).expect("written");
        assert_eq!(seen, Some(Ok(b"first".to_vec())));
        assert_eq!(reopen(&next).map(|(_, text)| text), Ok(b"third".to_vec()));
    }

    #[test]
    fn attempts_are_counted_until_one_succeeds() {
        let mut snapshot = Snapshot::create().expect("a memfd");
        snapshot.write(b"text", || {}).expect("written");
        let attempts: Vec<u8> = (0..3).map(|_| snapshot.begin().expect("noted")).collect();
        assert_eq!(attempts, [0, 1, 2]);
        assert_eq!(reopen(&snapshot), Ok((1, b"text".to_vec())));
        snapshot.write(b"more", || {}).expect("written");
        assert_eq!(snapshot.begin().ok(), Some(0));
    }

    #[test]
    fn another_format_is_refused() {
        let mut snapshot = Snapshot::create().expect("a memfd");
        snapshot.write(b"text", || {}).expect("written");
        for (format, word) in [(FORMAT + 1, "newer"), (0, "older")] {
            let bytes = format.to_le_bytes();
            snapshot.file.write_all_at(&bytes, 8).expect("written");
            let error = reopen(&snapshot).expect_err("a refusal");
            assert_eq!(error, Unreadable::Format(format));
            assert!(error.to_string().contains(word), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_borne(bytes in prop::collection::vec(any::<u8>(), 0..200), magic: bool) {
            let snapshot = Snapshot::create().expect("a memfd");
            for place in [0, PLACE] {
                snapshot.file.write_all_at(&bytes, place).expect("written");
                if magic {
                    snapshot.file.write_all_at(&MAGIC, place).expect("written");
                }
            }
            prop_assert!(reopen(&snapshot).is_err());
        }
    }
}
