// SPDX-License-Identifier: MIT OR Apache-2.0
//! Drop-ins: further files over a configuration file, as systemd.unit(5) has them.

use super::diagnostic::{ConfigError, Diagnostic};
use super::{Config, file};
use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Where the configuration of apps is, and where drop-ins for it may be, the more
/// important ones last.
const DIRECTORIES: [&str; 4] = [
    "/usr/lib/app-cluster",
    "/usr/local/lib/app-cluster",
    "/run/app-cluster",
    "/etc/app-cluster",
];
/// Most drop-ins that are read.
const MOST: usize = 100;

/// The directory of the drop-ins for the configuration `file` that are in `directory`.
pub fn drop_in_directory(directory: &Path, file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".d");
    directory.join(name)
}

/// Whether `file` is that of an app: in /etc/app-cluster, however its path is written.
pub fn is_of_an_app(file: &Path) -> bool {
    let beside = match file.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    DIRECTORIES.last().is_some_and(|etc| {
        let etc = Path::new(etc);
        beside == etc || real(beside).is_some_and(|beside| Some(beside) == real(etc))
    })
}

/// The drop-ins for the configuration `file`, in the order in which they are to be read:
/// by name. Of several of one name the one in the most important directory counts. For a file
/// that is not in /etc/app-cluster only the directory beside it is looked at.
///
/// # Errors
/// A directory is there and cannot be read: what its drop-ins say is not known.
fn drop_ins(file: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let directories = match is_of_an_app(file) {
        true => DIRECTORIES.map(PathBuf::from).to_vec(),
        false => vec![file.parent().unwrap_or(Path::new(".")).to_owned()],
    };
    let mut found = BTreeMap::new();
    for directory in directories {
        let directory = drop_in_directory(&directory, file);
        let paths = entries(&directory).map_err(|error| unreadable(&directory, &error))?;
        for path in paths {
            if let Some(name) = path
                .file_name()
                .filter(|n| n.to_str().is_some_and(is_drop_in))
            {
                found.insert(name.to_owned(), path);
            }
        }
    }
    // A link to /dev/null, however it gets there.
    let null = std::fs::metadata("/dev/null").map(|null| null.rdev()).ok();
    let masked = |path: &PathBuf| {
        let found = std::fs::metadata(path);
        found.is_ok_and(|at| at.file_type().is_char_device() && Some(at.rdev()) == null)
    };
    let found: Vec<PathBuf> = found.into_values().filter(|p| !masked(p)).collect();
    match found.len() > MOST {
        true => {
            let message = format!("there are more than {MOST} drop-ins");
            let hint = Some("join some".to_owned());
            Err(Diagnostic::file(&file.display().to_string(), message, hint).into())
        }
        false => Ok(found),
    }
}

/// What is in `directory`; nothing if it is not there.
fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match std::fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn unreadable(directory: &Path, error: &io::Error) -> ConfigError {
    let shown = directory.display().to_string();
    let (why, hint) = match error.kind() {
        ErrorKind::PermissionDenied => (
            "permission denied".to_owned(),
            Some(format!("chmod 755 {shown}")),
        ),
        ErrorKind::NotADirectory => (
            "it is no directory".to_owned(),
            Some("remove it, or make a directory of it".to_owned()),
        ),
        _ => (error.to_string(), None),
    };
    Diagnostic::file(&shown, format!("`{shown}` cannot be read: {why}"), hint).into()
}

/// Checks that nobody but root can change the `drop_in` of an app: root's units are made
/// from it. Those of a file elsewhere are its owner's business.
///
/// # Errors
/// It, or its directory, is or may be written by somebody else.
pub(super) fn check_owner(drop_in: &Path) -> Result<(), ConfigError> {
    let ours = DIRECTORIES
        .iter()
        .any(|directory| drop_in.starts_with(directory));
    match ours {
        true => only_of(0, drop_in),
        false => Ok(()),
    }
}

fn only_of(owner: u32, drop_in: &Path) -> Result<(), ConfigError> {
    let foreign = |found: &Metadata| {
        let by_group = found.mode() & 0o020 != 0 && found.gid() != 0;
        found.uid() != owner || by_group || found.mode() & 0o002 != 0
    };
    for path in drop_in.parent().into_iter().chain([drop_in]) {
        // One that is not there is found out when it is read.
        if std::fs::metadata(path).is_ok_and(|found| foreign(&found)) {
            let found = Diagnostic::file(
                &drop_in.display().to_string(),
                format!(
                    "others than root can write to {}: it is not read",
                    path.display()
                ),
                Some(format!(
                    "chown root:root {path}; chmod go-w {path}",
                    path = path.display()
                )),
            );
            return Err(found.into());
        }
    }
    Ok(())
}

impl Config {
    /// The files that [`Config::load`] reads, in its order: text and name of each.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn files(path: &Path) -> Result<Vec<(String, String)>, ConfigError> {
        let origin = path.display().to_string();
        let text = file::read(path).map_err(|error| {
            let missing = error.missing;
            let mut found = error.diagnostic(&origin);
            if missing && found.hint.is_none() {
                found.hint = Some("correct the name, or write it: see app-cluster.toml(5)".into());
            }
            found
        })?;
        let mut all = vec![(text, origin)];
        for path in drop_ins(path)? {
            check_owner(&path)?;
            let origin = path.display().to_string();
            let text = file::read(&path).map_err(|error| {
                let missing = error.missing;
                let mut found = error.diagnostic(&origin);
                if missing && found.hint.is_none() {
                    found.hint = Some("correct the link, or remove it".into());
                }
                found
            })?;
            all.push((text, origin));
        }
        Ok(all)
    }
}

fn is_drop_in(name: &str) -> bool {
    name.ends_with(".toml") && !name.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::{Config, check_owner, is_of_an_app, only_of, unreadable};
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    #[test]
    fn later_files_replace_what_earlier_ones_say() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("web.toml");
        let text =
            "command = \"true\"\nworkers = 2\nbatch = 3\nenvironment = { A = \"1\", B = \"1\" }";
        fs::write(&file, text).unwrap();
        let drop_in = dir.path().join("web.toml.d");
        fs::create_dir(&drop_in).unwrap();
        fs::write(drop_in.join("20-b.toml"), "workers = 7").unwrap();
        fs::write(
            drop_in.join("10-a.toml"),
            "workers = 5\nenvironment = { B = \"2\" }",
        )
        .unwrap();
        fs::write(drop_in.join(".swp.toml"), "not toml").unwrap();
        fs::write(drop_in.join("readme"), "not toml").unwrap();
        symlink("/dev/null", drop_in.join("30-masked.toml")).unwrap();
        symlink("30-masked.toml", drop_in.join("31-masked.toml")).unwrap();
        let config = Config::load(&file).unwrap();
        assert_eq!(
            (config.workers, config.batch.of(100)),
            (super::super::Workers::Count(7), 3)
        );
        // As many sockets as without it.
        assert_eq!(config.main_workers, super::super::Workers::Count(2));
        assert_eq!(config.environment["A"], "1");
        assert_eq!(config.environment["B"], "2");
        let b = drop_in.join("20-b.toml").display().to_string();
        assert_eq!(config.source.drop_in("workers"), Some(b.as_str()));
        assert_eq!(config.source.drop_in("batch"), None);

        fs::write(drop_in.join("40-c.toml"), "\nwrokers = 1").unwrap();
        let error = Config::load(&file).unwrap_err().to_string();
        assert!(error.contains("web.toml.d/40-c.toml:2:1"), "{error}");
    }

    #[test]
    fn what_cannot_be_listed_is_no_empty_directory() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("web.toml");
        fs::write(&file, "command = \"true\"").unwrap();
        assert!(Config::load(&file).is_ok(), "no directory is no error");
        let directory = dir.path().join("web.toml.d");
        fs::create_dir(&directory).unwrap();
        symlink("gone", directory.join("1.toml")).unwrap();
        let why = Config::load(&file).unwrap_err().to_string();
        assert!(why.contains("correct the link, or remove it"), "{why}");
        fs::remove_file(directory.join("1.toml")).unwrap();
        // None is left out in silence.
        for n in 0..=super::MOST {
            assert!(Config::load(&file).is_ok(), "{n} drop-ins");
            fs::write(directory.join(format!("{n:03}.toml")), "workers = 2").unwrap();
        }
        let why = Config::load(&file).unwrap_err().to_string();
        assert!(why.contains("more than 100 drop-ins"), "{why}");
        fs::remove_dir_all(&directory).unwrap();
        // Root may read everything: a file in its place fails for everybody.
        fs::write(dir.path().join("web.toml.d"), "").unwrap();
        let why = Config::load(&file).unwrap_err().to_string();
        assert!(
            why.contains("web.toml.d` cannot be read: it is no"),
            "{why}"
        );
        let denied = std::io::ErrorKind::PermissionDenied.into();
        let why = unreadable(Path::new("/x/web.toml.d"), &denied).to_string();
        assert!(why.contains("permission denied") && why.contains("chmod 755 /x/web.toml.d"));
    }

    #[test]
    fn files_of_apps() {
        for (file, is) in [
            ("/etc/app-cluster/web.toml", true),
            ("/srv/etc/app-cluster/web.toml", false),
            ("web.toml", false),
        ] {
            assert_eq!(is_of_an_app(Path::new(file)), is, "{file}");
        }
        // The same directory by another way, where it is there.
        let file = "/etc/../etc/app-cluster/web.toml";
        assert_eq!(
            is_of_an_app(Path::new(file)),
            Path::new("/etc/app-cluster").exists()
        );
    }

    #[test]
    fn drop_ins_of_others_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let drop_in = dir.path().join("user.toml");
        fs::write(&drop_in, "user = \"root\"").unwrap();
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(&drop_in, 0o644);
        mode(dir.path(), 0o755);
        let own = nix::unistd::geteuid().as_raw();
        assert!(only_of(own, &drop_in).is_ok());
        let why = only_of(own + 1, &drop_in).unwrap_err().to_string();
        assert!(why.contains("others than root can write"), "{why}");
        for path in [drop_in.as_path(), dir.path()] {
            mode(path, 0o757);
            assert!(only_of(own, &drop_in).is_err(), "{}", path.display());
            mode(path, 0o755);
        }
        // Elsewhere anybody may have them.
        mode(&drop_in, 0o666);
        assert!(check_owner(&drop_in).is_ok());
    }
}
