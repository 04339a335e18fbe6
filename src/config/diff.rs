// SPDX-License-Identifier: MIT OR Apache-2.0
//! What differs between two generations: keys, names of variables, and the files that the
//! paths lead to.

use super::inherited::is_of_one_start;
use super::kind::Kind;
use super::launch::find;
use super::{Config, KEYS, Launch, Status};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// So many arguments of the command are looked at.
const ARGUMENTS: usize = 32;
/// Longest value that is shown, in characters.
const LONGEST: usize = 120;

/// What a generation changes. Never with the value of a variable.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// Keys of the configuration, but for those of variables.
    pub keys: Vec<KeyChange>,
    /// Variables of the workers, wherever they are set.
    pub variables: VariableChanges,
    /// What the program, its directory and its arguments lead to.
    pub files: Vec<FileChange>,
}

/// A key with another value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyChange {
    /// `workers`, `node.preload`.
    pub key: String,
    /// As it was written; `not set` where it was not, and has no default.
    pub from: String,
    /// As it is written now.
    pub to: String,
    /// `FILE:LINE` of that, `default`, or after a rollback `as in generation N`.
    pub origin: String,
}

/// Names of variables.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VariableChanges {
    /// Those that were not there before.
    pub added: Vec<String>,
    /// Those that are there no more.
    pub removed: Vec<String>,
    /// Those with another value.
    pub changed: Vec<String>,
}

/// A path that is another one, or leads to another file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChange {
    /// `directory`, `program`, `interpreter`, `argument`, `ready`, `companion`.
    pub what: String,
    /// The path as configured or found, with symbolic links.
    pub path: PathBuf,
    /// What was meant before, without symbolic links.
    pub from: Option<PathBuf>,
    /// What is meant now.
    pub to: Option<PathBuf>,
    /// The same path, but another file, or written to since.
    pub replaced: bool,
}

/// A path, and what it leads to now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    what: String,
    path: PathBuf,
    target: Option<PathBuf>,
    /// Device, inode, size and time of the last change, of a file.
    identity: Option<(u64, u64, u64, i64, i64)>,
}

impl Seen {
    fn look(what: &str, path: &Path) -> Seen {
        let found = fs::metadata(path).ok().filter(|found| found.is_file());
        Seen {
            what: what.to_owned(),
            path: path.to_owned(),
            target: fs::canonicalize(path).ok(),
            identity: found.map(|found| {
                let size = found.size();
                (
                    found.dev(),
                    found.ino(),
                    size,
                    found.mtime(),
                    found.mtime_nsec(),
                )
            }),
        }
    }
}

impl Launch {
    /// What its paths lead to now.
    pub fn seen(&self) -> Vec<Seen> {
        let mut all = vec![
            Seen::look("directory", &self.directory),
            Seen::look("program", &self.program),
        ];
        all.extend(self.interpreter().map(|p| Seen::look("interpreter", &p)));
        for word in self.arguments.iter().skip(1).take(ARGUMENTS) {
            let path = self.directory.join(word);
            if !word.is_empty() && !word.starts_with('-') && path.is_file() {
                all.push(Seen::look("argument", &path));
            }
        }
        let others = [
            ("ready", &self.ready_program),
            ("companion", &self.companion_program),
        ];
        for (what, path) in others {
            all.extend(path.iter().map(|path| Seen::look(what, path)));
        }
        all
    }

    /// What runs a script (execve(2), "Interpreter scripts"); with env(1), what that finds.
    fn interpreter(&self) -> Option<PathBuf> {
        let mut head = Vec::new();
        let file = fs::File::open(&self.program).ok()?;
        file.take(256).read_to_end(&mut head).ok()?;
        let line = head.split(|byte| *byte == b'\n').next()?;
        let line = std::str::from_utf8(line).ok()?.strip_prefix("#!")?;
        let mut words = line.split_whitespace();
        let first = words.next()?;
        if !first.ends_with("/env") {
            return Some(PathBuf::from(first));
        }
        let name = words.find(|word| !word.starts_with('-') && !word.contains('='))?;
        let path = self.environment.get("PATH").map_or("", String::as_str);
        find(name, &self.directory, path).ok()
    }
}

impl Changes {
    /// From one generation to the next: what each says, how it is started, and what its
    /// paths led to when it was read.
    pub fn between(
        (old, old_launch, old_seen): (&Config, &Launch, &[Seen]),
        (new, new_launch, new_seen): (&Config, &Launch, &[Seen]),
    ) -> Changes {
        Changes {
            keys: keys(old, new),
            variables: variables(&old_launch.environment, &new_launch.environment),
            files: files(old_seen, new_seen),
        }
    }

    /// The same, where the new values are those of an older `generation`: the files that they
    /// came from may say something else now.
    pub fn as_in(mut self, generation: u64) -> Changes {
        let values = self.keys.iter_mut();
        for change in values.filter(|change| change.origin != "default") {
            change.origin = format!("as in generation {generation}");
        }
        self
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        let variables = &self.variables;
        self.keys.is_empty() && self.files.is_empty() && *variables == VariableChanges::default()
    }

    /// A line for each, for people.
    pub fn lines(&self) -> Vec<String> {
        let key = |change: &KeyChange| {
            let place = match change.origin.as_str() {
                "default" => String::new(),
                origin => format!(" ({origin})"),
            };
            let (from, to) = (short(&change.from), short(&change.to));
            format!("{}: {from} → {to}{place}", change.key)
        };
        let keys = self.keys.iter().map(key);
        let variables = &self.variables;
        let names = [
            ("added", &variables.added),
            ("removed", &variables.removed),
            ("changed", &variables.changed),
        ];
        let names = names.into_iter().filter(|(_, names)| !names.is_empty());
        let names = names.map(|(how, names)| format!("variables {how}: {}", names.join(", ")));
        keys.chain(names)
            .chain(self.files.iter().map(FileChange::line))
            .collect()
    }
}

impl FileChange {
    fn line(&self) -> String {
        let (what, path) = (&self.what, self.path.display());
        let shown = |target: &Option<PathBuf>| {
            let target = target.as_ref().map(|target| target.display().to_string());
            target.unwrap_or_else(|| "nothing".to_owned())
        };
        match self.replaced {
            true => format!("{what} {path}: not the file that it was"),
            false => format!("{what} {path}: {} → {}", shown(&self.from), shown(&self.to)),
        }
    }
}

fn short(text: &str) -> String {
    match text.chars().count() > LONGEST {
        true => text.chars().take(LONGEST).chain("...".chars()).collect(),
        false => text.to_owned(),
    }
}

/// The keys whose meaning differs, not only their spelling.
fn keys(old: &Config, new: &Config) -> Vec<KeyChange> {
    let meaning = |config: &Config| serde_json::to_value(config).unwrap_or_default();
    let (before, after) = (meaning(old), meaning(new));
    let mut changes = Vec::new();
    let mut compare = |name: String, differs: bool| {
        if differs {
            let shown = new.shown(false).into_iter().find(|s| s.key == name);
            changes.push(KeyChange {
                from: old.written(&name),
                to: new.written(&name),
                origin: shown.map(|s| s.origin()).unwrap_or_default(),
                key: name,
            });
        }
    };
    let read = KEYS.iter().filter(|k| k.status == Status::Implemented);
    for key in read.filter(|key| key.kind != Kind::Variables) {
        let (one, other) = (&before[key.name], &after[key.name]);
        match key.section() {
            None => compare(key.name.to_owned(), one != other),
            Some(keys) => {
                for inner in keys {
                    let name = format!("{}.{}", key.name, inner.name);
                    compare(name, one[inner.name] != other[inner.name]);
                }
            }
        }
    }
    changes
}

fn variables(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> VariableChanges {
    let only = |one: &BTreeMap<String, String>, other: &BTreeMap<String, String>| {
        let names = one.keys().filter(|name| !other.contains_key(*name));
        let names = names.filter(|name| !is_of_one_start(name));
        names.cloned().collect()
    };
    let changed = new.iter().filter(|(name, value)| {
        let before = old.get(*name).filter(|_| !is_of_one_start(name));
        before.is_some_and(|before| before != *value)
    });
    VariableChanges {
        added: only(new, old),
        removed: only(old, new),
        changed: changed.map(|(name, _)| name.clone()).collect(),
    }
}

/// Arguments are compared with that of the same path, all else with its counterpart: other
/// arguments are a change of `command`.
fn files(old: &[Seen], new: &[Seen]) -> Vec<FileChange> {
    let counterpart = |now: &Seen| {
        let mut same = old.iter().filter(|before| before.what == now.what);
        same.find(|before| now.what != "argument" || before.path == now.path)
    };
    let change = |now: &Seen| {
        let before = counterpart(now)?;
        let moved = before.target != now.target;
        let replaced = !moved && before.identity != now.identity;
        (moved || replaced).then(|| FileChange {
            what: now.what.clone(),
            path: now.path.clone(),
            from: before.target.clone(),
            to: now.target.clone(),
            replaced,
        })
    };
    new.iter().filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    struct Release(Config, Launch, Vec<Seen>);

    fn release(directory: &Path, more: &str, base: &[(&str, &str)]) -> Release {
        let text = format!(
            "command = [\"./server.js\", \"--x\", \"app.json\"]\ndirectory = {:?}\n{more}",
            directory.join("current")
        );
        let config = Config::parse(&text, "web.toml").expect("a configuration");
        let base = base.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        let launch = Launch::resolve(&config, base).expect("a launch");
        let seen = launch.seen();
        Release(config, launch, seen)
    }

    fn lines(old: &Release, new: &Release, home: &Path) -> Vec<String> {
        let changes = Changes::between((&old.0, &old.1, &old.2), (&new.0, &new.1, &new.2));
        assert_eq!(changes.is_empty(), changes.lines().is_empty());
        let home = home.display().to_string();
        let lines = changes.lines().into_iter();
        lines.map(|line| line.replace(&home, "[HOME]")).collect()
    }

    /// Two releases behind a link, with an interpreter of their own in PATH.
    fn home() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        let put = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
            fs::write(&path, text).expect("write");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
        };
        for release in ["releases/1", "releases/2"] {
            put(
                &format!("{release}/server.js"),
                "#!/usr/bin/env -S node --x\n",
            );
            put(&format!("{release}/app.json"), "{}");
        }
        put("old/node", "");
        put("new/node", "");
        symlink("releases/1", dir.path().join("current")).expect("a link");
        dir
    }

    #[test]
    fn keys_and_variables() {
        let home = home();
        let home = home.path();
        let old = release(
            home,
            "drain_timeout = 60\nworkers = 2\nenvironment = { A = \"s3cret\", B = \"1\" }\n\
             node.preload = false",
            &[("PATH", "/bin"), ("KEPT", "1")],
        );
        let new = release(
            home,
            "drain_timeout = \"1min\"\nlisten = \"8080\"\nenvironment = { A = \"s4cret\", C = \"1\" }\n\
             node.strict_ports = true",
            &[("PATH", "/bin"), ("KEPT", "1")],
        );
        assert_eq!(lines(&old, &old, home), Vec::<String>::new());
        let told = lines(&old, &new, home);
        assert_eq!(
            told,
            [
                "listen: not set → \"8080\" (web.toml:4)",
                "workers: 2 → \"max\"",
                "node.preload: false → true",
                "node.strict_ports: false → true (web.toml:6)",
                "variables added: C",
                "variables removed: B",
                "variables changed: A",
            ]
        );
        let changes = Changes::between((&old.0, &old.1, &old.2), (&new.0, &new.1, &new.2));
        let told = changes.as_in(3).lines();
        assert_eq!(
            told[..2],
            [
                "listen: not set → \"8080\" (as in generation 3)",
                "workers: 2 → \"max\"",
            ]
        );
    }

    #[test]
    fn what_paths_lead_to() {
        let home = home();
        let home = home.path();
        let path = |name: &str| format!("{}:/usr/bin:/bin", home.join(name).display());
        let old = release(home, "", &[("PATH", &path("old"))]);
        fs::remove_file(home.join("current")).expect("rm");
        symlink("releases/2", home.join("current")).expect("a link");
        let new = release(home, "", &[("PATH", &path("new"))]);
        assert_eq!(
            lines(&old, &new, home),
            [
                "variables changed: PATH",
                "directory [HOME]/current: [HOME]/releases/1 → [HOME]/releases/2",
                "program [HOME]/current/server.js: [HOME]/releases/1/server.js → \
                 [HOME]/releases/2/server.js",
                "interpreter [HOME]/new/node: [HOME]/old/node → [HOME]/new/node",
                "argument [HOME]/current/app.json: [HOME]/releases/1/app.json → \
                 [HOME]/releases/2/app.json",
            ]
        );
        // In its place.
        fs::write(home.join("new/node"), "other").expect("write");
        let later = release(home, "", &[("PATH", &path("new"))]);
        assert_eq!(
            lines(&new, &later, home),
            ["interpreter [HOME]/new/node: not the file that it was"]
        );
    }
}
