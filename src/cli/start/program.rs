// SPDX-License-Identifier: MIT OR Apache-2.0
//! What to run: a script with its interpreter, an executable file, or a command.

use super::caller::{Account, Caller};
use crate::cli::{Fail, Status};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

/// Interpreters of scripts by the ending of their names.
const INTERPRETERS: &[(&str, &str)] = &[
    ("js", "node"),
    ("mjs", "node"),
    ("cjs", "node"),
    ("py", "python3"),
    ("rb", "ruby"),
];

/// Where tools that install interpreters into a home put them, best first; `*` is a version.
const HOME_PROGRAMS: &[&str] = &[
    ".nvm/versions/node/*/bin",
    ".volta/bin",
    ".local/share/fnm/aliases/default/bin",
    ".local/share/mise/shims",
    ".asdf/shims",
    ".pyenv/shims",
    ".rbenv/shims",
    ".local/bin",
    "bin",
];

/// A command as it goes into the configuration.
#[derive(Debug)]
pub struct Program {
    /// An absolute program, or one that begins with `./`, and its arguments.
    pub command: Vec<String>,
    /// The file that the program has to read, if it is an interpreter.
    pub script: Option<PathBuf>,
    /// What the caller should know about the choice.
    pub note: Option<String>,
}

/// The interpreter of `script`, `None` if it is to be run itself.
///
/// # Errors
/// It is a kind of file that cannot be run, with what to do.
fn interpreter(script: &Path) -> Result<Option<&'static str>, Fail> {
    let name = script.file_name().unwrap_or_default().to_string_lossy();
    let shown = script.display();
    let refuse = |text: String, hint: &str| Err(Fail::new(Status::Usage, text).hint(hint));
    if name.contains(".config.") || name.ends_with(".json") {
        return refuse(
            format!("{shown} is a configuration of PM2, which is not read yet"),
            "start each of its apps: app-cluster start FILE --name NAME -i N -l PORT",
        );
    }
    let ending = script.extension().unwrap_or_default().to_string_lossy();
    if ["ts", "mts", "cts", "tsx"].contains(&&*ending) {
        return refuse(
            format!("{shown}: TypeScript is not run directly yet"),
            "name the command that runs it: app-cluster start --name NAME -l PORT -- \
             node --import tsx FILE",
        );
    }
    if let Some((_, program)) = INTERPRETERS.iter().find(|(known, _)| *known == ending) {
        return Ok(Some(program));
    }
    let mode = fs::metadata(script).map_or(0, |found| found.permissions().mode());
    match mode & 0o111 {
        0 => refuse(
            format!("{shown} is not executable, and its name does not say what runs it"),
            "chmod +x FILE, or name the command: -- INTERPRETER FILE",
        ),
        _ => Ok(None),
    }
}

/// `script` with `arguments`, for workers in `directory`.
pub fn of_script(
    script: &Path,
    arguments: &[String],
    here: &Path,
    directory: &Path,
    caller: &Caller,
) -> Result<Program, Fail> {
    let file = here.join(script);
    let found = fs::metadata(&file).map_err(|error| {
        let text = format!("cannot use {}: {error}", script.display());
        Fail::new(Status::Failed, text)
    })?;
    if found.is_dir() {
        let text = format!("{} is a directory", script.display());
        let hint = "name the file that is to be run, or a command after --";
        return Err(Fail::new(Status::Usage, text).hint(hint));
    }
    let word = word_for(&file, directory)?;
    let mut program = match interpreter(&file)? {
        None => Program {
            command: vec![word],
            script: None,
            note: None,
        },
        Some(interpreter) => {
            let (path, note) = look_up(interpreter, here, caller)?;
            Program {
                command: vec![text(&path)?, word],
                script: Some(file),
                note,
            }
        }
    };
    program.command.extend_from_slice(arguments);
    Ok(program)
}

/// `words` as typed in the directory `here`, for workers in `directory`.
pub fn of_command(
    words: &[String],
    here: &Path,
    directory: &Path,
    caller: &Caller,
) -> Result<Program, Fail> {
    let first = words.first().map_or("", String::as_str);
    let (program, note) = match first.contains('/') {
        true => (word_for(&here.join(first), directory)?, None),
        false => {
            let (path, note) = look_up(first, here, caller)?;
            (text(&path)?, note)
        }
    };
    let mut command = vec![program];
    command.extend_from_slice(&words[1..]);
    Ok(Program {
        command,
        script: None,
        note,
    })
}

/// How `file` is named by workers in `directory`: from there on if it is in it, so that a
/// deployment may move both.
fn word_for(file: &Path, directory: &Path) -> Result<String, Fail> {
    let file: PathBuf = file
        .components()
        .filter(|c| *c != Component::CurDir)
        .collect();
    match file.strip_prefix(directory) {
        Ok(inside) => Ok(format!("./{}", text(inside)?)),
        Err(_) => text(&file),
    }
}

fn text(path: &Path) -> Result<String, Fail> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        let text = format!("{} is not UTF-8, which a configuration is", path.display());
        Fail::new(Status::Failed, text)
    })
}

/// The absolute path of a program, in the caller's own `PATH`.
fn look_up(word: &str, here: &Path, caller: &Caller) -> Result<(PathBuf, Option<String>), Fail> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let home = caller.user.as_ref().filter(|_| caller.through_sudo);
    let own = home.and_then(|user| in_home(word, &user.dir));
    let found = in_path(word, &path, here);
    let name = home.map_or("", |user| user.name.as_str());
    match (found, own) {
        (Some(found), Some(own)) if own != found => {
            let note = format!(
                "sudo's {word} is taken, {}; {name} has another, {}: to use that one, name it \
                 after --",
                found.display(),
                own.display()
            );
            Ok((found, Some(note)))
        }
        (Some(found), _) => Ok((found, None)),
        (None, own) => Err(not_found(word, own, caller)),
    }
}

fn not_found(word: &str, own: Option<PathBuf>, caller: &Caller) -> Fail {
    let text = format!("there is no `{word}` in PATH");
    let hint = match (own, caller.through_sudo) {
        (Some(own), _) => format!(
            "sudo has a PATH of its own; name the program after --: -- {} …",
            own.display()
        ),
        (None, true) => format!(
            "sudo has a PATH of its own; with yours: sudo env \"PATH=$PATH\" app-cluster start … \
             (the app's user must be able to run that {word})"
        ),
        (None, false) => "install it, or name its whole path after --".to_owned(),
    };
    Fail::new(Status::Failed, text).hint(hint)
}

fn in_path(word: &str, path: &OsString, here: &Path) -> Option<PathBuf> {
    let candidates = std::env::split_paths(path).map(|entry| here.join(entry).join(word));
    candidates.into_iter().find(|file| is_executable(file))
}

/// `word` among the programs that somebody has installed at home.
fn in_home(word: &str, home: &Path) -> Option<PathBuf> {
    let directories = HOME_PROGRAMS.iter().flat_map(|pattern| {
        let Some((before, after)) = pattern.split_once("/*/") else {
            return vec![home.join(pattern)];
        };
        let versions = fs::read_dir(home.join(before))
            .into_iter()
            .flatten()
            .flatten();
        let mut versions: Vec<PathBuf> = versions.map(|entry| entry.path()).collect();
        versions.sort_by_cached_key(|path| std::cmp::Reverse(numbers(path)));
        versions.iter().map(|version| version.join(after)).collect()
    });
    directories
        .map(|directory| directory.join(word))
        .find(|file| is_executable(file))
}

/// `v22.3.0` as numbers, to be compared.
fn numbers(path: &Path) -> Vec<u64> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let parts = name.split(|c: char| !c.is_ascii_digit());
    parts.filter_map(|part| part.parse().ok()).collect()
}

fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Checks that `user` can run `program` in `directory`.
pub fn usable_by(user: &Account, program: &Program, directory: &Path) -> Result<(), Fail> {
    let first = program.command.first().map_or("", String::as_str);
    let file = directory.join(first);
    let mut needs = vec![(directory, 1, "work in"), (file.as_path(), 1, "run")];
    if let Some(script) = &program.script {
        needs.push((script, 4, "read"));
    }
    for (path, bits, what) in needs {
        let Some(closed) = user.stopped_at(path, bits) else {
            continue;
        };
        let name = &user.name;
        let text = format!(
            "user `{name}` may not {what} {}: {} is closed to it",
            path.display(),
            closed.display()
        );
        let hint = format!(
            "put it where `{name}` can get at it (/srv, /usr/local), or run the app as somebody \
             else: --user USER"
        );
        return Err(Fail::new(Status::Failed, text).hint(hint));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn executable(path: &Path) {
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        fs::write(path, "").expect("a file");
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a mode");
    }

    #[test]
    fn programs_at_home_the_newest_first() {
        let home = tempfile::tempdir().expect("a directory");
        let node = |version: &str| {
            let below = format!(".nvm/versions/node/{version}/bin/node");
            home.path().join(below)
        };
        for version in ["v9.11.2", "v22.3.0", "v18.20.1"] {
            executable(&node(version));
        }
        assert_eq!(in_home("node", home.path()), Some(node("v22.3.0")));
        assert_eq!(in_home("python3", home.path()), None);
        let python = home.path().join(".pyenv/shims/python3");
        executable(&python);
        assert_eq!(in_home("python3", home.path()), Some(python));
    }

    #[test]
    fn words_follow_the_directory() {
        let word = |file: &str| word_for(Path::new(file), Path::new("/srv/app")).ok();
        assert_eq!(word("/srv/app/./server.js").as_deref(), Some("./server.js"));
        assert_eq!(word("/srv/app/bin/x").as_deref(), Some("./bin/x"));
        assert_eq!(word("/opt/x").as_deref(), Some("/opt/x"));
    }

    #[test]
    fn what_runs_a_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let plain = dir.path().join("run");
        fs::write(&plain, "").expect("a file");
        let of = |name: &str| interpreter(&dir.path().join(name)).map_err(|fail| fail.to_string());
        assert_eq!(of("a.mjs"), Ok(Some("node")));
        assert_eq!(of("a.py"), Ok(Some("python3")));
        assert!(of("a.ts").is_err_and(|why| why.contains("TypeScript")));
        assert!(of("ecosystem.config.js").is_err_and(|why| why.contains("PM2")));
        assert!(of("run").is_err_and(|why| why.contains("not executable")));
        executable(&plain);
        assert_eq!(of("run"), Ok(None));
    }
}
