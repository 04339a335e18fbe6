// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading small text files that somebody may have got wrong.

use super::access;
use super::diagnostic::{Diagnostic, Position};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Largest file read, in bytes.
pub(super) const LARGEST: u64 = 1 << 20;

/// Why a file could not be read.
#[derive(Debug)]
pub(super) struct ReadError {
    /// Whether there is no such file.
    pub(super) missing: bool,
    message: String,
    hint: Option<String>,
    position: Position,
}

impl ReadError {
    fn new(message: impl Into<String>, hint: Option<String>) -> ReadError {
        ReadError {
            missing: false,
            message: message.into(),
            hint,
            position: Position::default(),
        }
    }

    /// The finding that says so about `origin`.
    pub(super) fn diagnostic(self, origin: &str) -> Diagnostic {
        Diagnostic {
            position: self.position,
            ..Diagnostic::file(origin, self.message, self.hint)
        }
    }
}

/// Reads `path`: a regular file (or a link to one) of at most [`LARGEST`] bytes of
/// UTF-8. Opened with O_NONBLOCK (open(2)), so a FIFO cannot hold it up.
pub(super) fn read(path: &Path) -> Result<String, ReadError> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags((nix::fcntl::OFlag::O_NONBLOCK | nix::fcntl::OFlag::O_NOCTTY).bits())
        .open(path)
        .map_err(|error| unopened(path, &error))?;
    let bytes = contents(&file)?;
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(error.as_bytes());
        ReadError {
            position: Position::of(&text, good..good),
            ..ReadError::new(
                "the file is not in UTF-8",
                Some("save it as UTF-8; this is where the first other byte is".into()),
            )
        }
    })
}

/// Everything in `file`, if it is a regular file and not too large.
fn contents(file: &File) -> Result<Vec<u8>, ReadError> {
    let failed = |error: io::Error| ReadError::new(format!("cannot read the file: {error}"), None);
    let kind = file.metadata().map_err(failed)?.file_type();
    if !kind.is_file() {
        let what = if kind.is_dir() {
            "a directory"
        } else if kind.is_fifo() {
            "a FIFO"
        } else {
            "a device"
        };
        return Err(ReadError::new(
            format!("this is {what}, not a regular file"),
            Some("name a file".into()),
        ));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > LARGEST {
        return Err(ReadError::new(
            format!("the file is larger than {} MiB", LARGEST >> 20),
            Some("is it the right file?".into()),
        ));
    }
    Ok(bytes)
}

fn unopened(path: &Path, error: &io::Error) -> ReadError {
    let missing = error.kind() == io::ErrorKind::NotFound;
    if error.kind() == io::ErrorKind::PermissionDenied {
        let (message, hint) = access::denied(path, "read");
        return ReadError::new(message, hint);
    }
    let message = match error.kind() {
        io::ErrorKind::NotFound => missing_because(path),
        // ENXIO: what open(2) says of a unix socket.
        _ if error.raw_os_error() == Some(nix::errno::Errno::ENXIO as i32) => {
            "this is a socket, not a regular file".to_owned()
        }
        _ => format!("cannot open the file: {error}"),
    };
    ReadError {
        missing,
        ..ReadError::new(message, None)
    }
}

/// The link on the way to `path` that leads nowhere, if that is why it is not there.
pub(super) fn dangling(path: &Path) -> Option<&Path> {
    let parts: Vec<&Path> = path.ancestors().collect();
    let mut parts = parts.into_iter().rev();
    parts.find(|part| part.is_symlink() && !part.exists())
}

/// Why `path` is not there: which part of it is missing, or which link leads nowhere.
pub(super) fn missing_because(path: &Path) -> String {
    let parts: Vec<&Path> = path.ancestors().collect();
    for part in parts
        .into_iter()
        .rev()
        .filter(|p| !p.as_os_str().is_empty())
    {
        if let Ok(target) = fs::read_link(part)
            && !part.exists()
        {
            return format!(
                "`{}` is a symbolic link to `{}`, which does not exist",
                part.display(),
                target.display()
            );
        }
        if part != path
            && fs::symlink_metadata(part).is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
        {
            return format!("`{}` does not exist", part.display());
        }
    }
    "no such file or directory".to_owned()
}

/// The current directory as the shell names it (`PWD`, with symbolic links) if that is
/// true, else as the kernel does; `/` if it is gone.
pub fn current_directory() -> PathBuf {
    let identity = |path: &Path| fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
    std::env::var_os("PWD")
        .map(PathBuf::from)
        .filter(|pwd| pwd.is_absolute() && identity(pwd).is_some())
        .filter(|pwd| identity(pwd) == identity(Path::new(".")))
        .or_else(|| std::env::current_dir().ok())
        .unwrap_or_else(|| PathBuf::from("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn message(path: &Path) -> String {
        read(path).unwrap_err().message
    }

    #[test]
    fn reads_only_small_regular_utf8_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "ä").unwrap();
        assert_eq!(read(&path).unwrap(), "ä");
        fs::write(&path, vec![b' '; LARGEST as usize]).unwrap();
        assert!(read(&path).is_ok());
        fs::write(&path, vec![b' '; LARGEST as usize + 1]).unwrap();
        assert_eq!(message(&path), "the file is larger than 1 MiB");
        fs::write(&path, b"ok\nb\xffx").unwrap();
        let error = read(&path).unwrap_err();
        assert_eq!((error.position.line, error.position.column), (2, 2));
        assert_eq!(
            message(dir.path()),
            "this is a directory, not a regular file"
        );
        assert_eq!(
            message(Path::new("/dev/null")),
            "this is a device, not a regular file"
        );
    }

    #[test]
    fn does_not_wait_for_the_writer_of_a_fifo() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(message(&path), "this is a FIFO, not a regular file");
    }

    #[test]
    fn says_which_part_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        symlink("releases/3", path("current")).unwrap();
        assert!(read(&path("x")).unwrap_err().missing);
        assert_eq!(message(&path("x")), "no such file or directory");
        assert!(message(&path("a/b/c")).ends_with("/a` does not exist"));
        assert!(
            message(&path("current/app.toml"))
                .ends_with("/current` is a symbolic link to `releases/3`, which does not exist")
        );
    }
}
