// SPDX-License-Identifier: MIT OR Apache-2.0
//! Drop-ins: further files over a configuration file, as systemd.unit(5) has them.

use std::collections::BTreeMap;
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

/// The drop-ins for the configuration `file`, in the order in which they are to be read:
/// by name. Of several of one name the one in the most important directory counts. For a file
/// that is not in /etc/app-cluster only the directory beside it is looked at.
pub(super) fn drop_ins(file: &Path) -> Vec<PathBuf> {
    let beside = file.parent().unwrap_or(Path::new("."));
    let directories = match DIRECTORIES.last() {
        Some(etc) if beside == Path::new(etc) => DIRECTORIES.map(PathBuf::from).to_vec(),
        _ => vec![beside.to_owned()],
    };
    let mut found = BTreeMap::new();
    for directory in directories {
        let entries = std::fs::read_dir(drop_in_directory(&directory, file));
        for entry in entries.into_iter().flatten().flatten() {
            let name = entry.file_name();
            if name.to_str().is_some_and(is_drop_in) {
                found.insert(name, entry.path());
            }
        }
    }
    let masked = |path: &PathBuf| {
        let target = std::fs::read_link(path).unwrap_or_default();
        target == Path::new("/dev/null")
    };
    found
        .into_values()
        .filter(|p| !masked(p))
        .take(MOST)
        .collect()
}

fn is_drop_in(name: &str) -> bool {
    name.ends_with(".toml") && !name.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use std::fs;
    use std::os::unix::fs::symlink;

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
        let config = Config::load(&file).unwrap();
        assert_eq!(
            (config.workers, config.batch),
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
}
