// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the paths of a generation lead to, found out once: all its workers run the same
//! code, also when a symbolic link on the way (`current`) has been moved since.
//!
//! Pinned are the working directory, the program, and each argument that is the absolute
//! path of a file or directory that is there. An argument that is a relative path means the pinned
//! directory, anyway.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A path, and what it led to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// As configured.
    written: PathBuf,
    /// The same name in what was its directory. To a program the name can matter: the
    /// interpreter of a virtual environment is a link to that of the system, and must not
    /// be started by the latter's name.
    beside: PathBuf,
    /// The file itself, without any symbolic link.
    real: PathBuf,
}

impl Pin {
    /// Follows `path` now.
    ///
    /// # Errors
    /// It leads nowhere (realpath(3)).
    pub fn new(path: &Path) -> io::Result<Pin> {
        let real = path.canonicalize()?;
        let beside = match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => parent.canonicalize()?.join(name),
            _ => real.clone(),
        };
        Ok(Pin {
            written: path.to_owned(),
            beside,
            real,
        })
    }

    /// The path to use now for what this one led to: as configured if that still leads
    /// there. `None`: what it led to is gone.
    pub fn now(&self) -> Option<&Path> {
        let place = |path: &Path| Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?));
        match self.is_there() {
            true if place(&self.written).as_ref() == Some(&self.beside) => Some(&self.written),
            true => Some(&self.beside),
            false if self.real.exists() => Some(&self.real),
            false => None,
        }
    }

    /// The directory it was in. Without it, a program may lack what belongs to it.
    fn place(&self) -> &Path {
        self.beside.parent().unwrap_or(&self.real)
    }

    /// Whether the same name in the same directory leads to the same file.
    fn is_there(&self) -> bool {
        let found = self.beside.canonicalize();
        found.is_ok_and(|real| real == self.real)
    }

    /// Whether there is no link on the way: it always leads to the same place.
    fn is_plain(&self) -> bool {
        self.written == self.real
    }
}

/// What to say when it is gone.
impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.real.exists() {
            return write!(f, "{} is gone", self.place().display());
        }
        write!(f, "{} is gone", self.real.display())?;
        match self.is_plain() {
            true => Ok(()),
            false => write!(f, ", which {} was", self.written.display()),
        }
    }
}

/// What tells a file from another version of it: device, inode, size and time of change, as
/// stat(2) has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Version(u64, u64, u64, i64, i64);

impl Version {
    /// That of a regular file.
    fn of(path: &Path) -> Option<Version> {
        let found = std::fs::metadata(path).ok().filter(|m| m.is_file())?;
        let (at, part) = (found.mtime(), found.mtime_nsec());
        Some(Version(found.dev(), found.ino(), found.size(), at, part))
    }
}

/// The pins of one command: of its program (0) and of some of its words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pins {
    /// The working directory.
    pub directory: Option<Pin>,
    /// By the place of the word; 0 is the program.
    pub words: Vec<(usize, Pin)>,
    /// The program, and the files that the words name.
    versions: Vec<(PathBuf, Version)>,
}

impl Pins {
    /// Follows the paths of `program` with `words` (the first is its name) in `directory`.
    pub fn new(directory: &Path, program: &Path, words: &[String]) -> Pins {
        let absolute = words.iter().enumerate().skip(1);
        // Not /dev/stdout and the like: it is another file for each process.
        let lasting = |word: &str| {
            let found = Path::new(word).metadata();
            let kind = found.is_ok_and(|found| found.is_file() || found.is_dir());
            kind && !["/dev/", "/proc/"].iter().any(|own| word.starts_with(own))
        };
        let absolute = absolute.filter(|(_, word)| word.starts_with('/') && lasting(word));
        let all = [(0, program)].into_iter();
        let all = all.chain(absolute.map(|(n, word)| (n, Path::new(word))));
        let files = words.iter().skip(1).map(|word| directory.join(word));
        let files = [program.to_owned()].into_iter().chain(files);
        let version = |path: PathBuf| {
            let path = path.canonicalize().ok()?;
            Some((path.clone(), Version::of(&path)?))
        };
        Pins {
            directory: Pin::new(directory).ok(),
            words: all
                .filter_map(|(n, path)| Some((n, Pin::new(path).ok()?)))
                .collect(),
            versions: files.filter_map(version).collect(),
        }
    }

    /// What of it is gone, for people.
    pub fn missing(&self) -> Option<String> {
        let all = self.directory.iter();
        let mut all = all.chain(self.words.iter().map(|(_, pin)| pin));
        let gone = |pin: &&Pin| !pin.real.exists() || !pin.place().exists();
        all.find(gone).map(Pin::to_string)
    }

    /// A file that is not what it was: one that was overwritten, or put in its place.
    pub fn changed(&self) -> Option<&Path> {
        let mut all = self.versions.iter();
        let other = |(path, version): &&(PathBuf, Version)| {
            Version::of(path).is_some_and(|now| now != *version)
        };
        all.find(other).map(|(path, _)| path.as_path())
    }

    /// Only those that can ever matter to a worker that is started.
    pub fn needed(&self) -> Pins {
        let words = self.words.iter();
        Pins {
            directory: self.directory.clone().filter(|pin| !pin.is_plain()),
            words: words.filter(|(_, pin)| !pin.is_plain()).cloned().collect(),
            versions: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// `current -> releases/1`, with a program there, and a link to one elsewhere.
    fn releases() -> tempfile::TempDir {
        let home = tempfile::tempdir().expect("tempdir");
        let at = |name: &str| home.path().join(name);
        for release in ["releases/1", "releases/2", "elsewhere"] {
            std::fs::create_dir_all(at(release)).expect("a directory");
            std::fs::write(at(release).join("app"), release).expect("a file");
        }
        for release in ["releases/1", "releases/2"] {
            symlink("../../elsewhere/app", at(release).join("python")).expect("a link");
        }
        symlink("releases/1", at("current")).expect("a link");
        home
    }

    fn point(home: &Path, link: &str, to: &str) {
        std::fs::remove_file(home.join(link)).expect("removed");
        symlink(to, home.join(link)).expect("a link");
    }

    #[test]
    fn a_pin_holds_when_a_link_is_moved() {
        let home = releases();
        let home = home.path().canonicalize().expect("a path");
        let app = Pin::new(&home.join("current/app")).expect("there");
        let python = Pin::new(&home.join("current/python")).expect("there");
        assert_eq!(app.now(), Some(&*home.join("current/app")), "as written");
        point(&home, "current", "releases/2");
        assert_eq!(app.now(), Some(&*home.join("releases/1/app")));
        // The same file by either name: an interpreter finds its packages beside its name.
        assert_eq!(python.now(), Some(&*home.join("releases/1/python")));
        point(&home, "releases/1/python", "app");
        assert_eq!(python.now(), Some(&*home.join("elsewhere/app")));
        std::fs::remove_dir_all(home.join("releases/1")).expect("removed");
        assert_eq!(app.now(), None);
    }

    #[test]
    fn pinned_are_the_directory_the_program_and_absolute_paths() {
        let home = releases();
        let home = home.path().canonicalize().expect("a path");
        let script = home.join("current/app").display().to_string();
        let words = [
            "node",
            "server.js",
            &script,
            "/no/such",
            "--config=/etc",
            "/dev/stdout",
            "/proc/self",
        ];
        let words = words.map(str::to_owned);
        let pins = Pins::new(&home.join("current"), &home.join("elsewhere/app"), &words);
        let places: Vec<usize> = pins.words.iter().map(|(n, _)| *n).collect();
        assert_eq!(places, [0, 2]);
        let needed = pins.needed();
        assert!(needed.directory.is_some());
        assert_eq!(needed.words.len(), 1, "a program without links needs none");
        assert_eq!((pins.missing(), pins.changed()), (None, None));
        let words = ["node", "app"].map(str::to_owned);
        let relative = Pins::new(&home.join("current"), Path::new("/bin/sh"), &words);
        std::fs::write(home.join("releases/1/new"), "new").expect("a file");
        std::fs::rename(home.join("releases/1/new"), home.join("releases/1/app")).expect("moved");
        for pins in [&pins, &relative] {
            assert_eq!(pins.changed(), Some(&*home.join("releases/1/app")));
        }
        std::fs::remove_dir_all(home.join("releases/1")).expect("removed");
        let missing = pins.missing().expect("gone");
        assert!(missing.contains("/releases/1 is gone, which "), "{missing}");
        let words = ["python".to_owned()];
        let link = home.join("releases/2/python");
        let interpreter = Pins::new(&home, &link, &words);
        assert_eq!(interpreter.missing(), None);
        std::fs::remove_dir_all(home.join("releases/2")).expect("removed");
        let missing = interpreter.missing().expect("gone");
        assert!(missing.ends_with("/releases/2 is gone"), "{missing}");
    }
}
