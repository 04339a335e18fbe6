// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a configuration means on this machine now: program, directory, environment.

use super::diagnostic::{ConfigError, Diagnostic, Position, Severity};
use super::{Config, Pins, Runner, access, envfile, file, keys};
use crate::core::Ready;
use nix::unistd::{AccessFlags, eaccess};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

/// Where programs are looked for when no `PATH` is set: systemd's own default,
/// systemd.exec(5).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin";

/// Variables meant for the supervisor itself, which a worker must never see.
const PRIVATE: &[&str] = &[
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    // What the listenfd crate, which many workers use, reads besides.
    "LISTEN_FDS_FIRST_FD",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "FDSTORE",
    "MAINPID",
    "SYSTEMD_EXEC_PID",
    // Which sandbox the unit has, see the generator.
    "APP_CLUSTER_SANDBOX",
    "NODE_CHANNEL_FD",
    "NODE_UNIQUE_ID",
    "NODE_CHANNEL_SERIALIZATION_MODE",
    "APP_CLUSTER_COMPANION",
    "APP_CLUSTER_FD",
    "APP_CLUSTER_ID",
    "APP_CLUSTER_FAULT",
];

/// Variables that every worker gets from app-cluster, always.
const OURS: &[&str] = &[
    "APP_CLUSTER_NAME",
    "APP_CLUSTER_SLOT",
    "APP_CLUSTER_WORKERS",
    "APP_CLUSTER_GENERATION",
    "APP_CLUSTER_STOPPING",
];

/// What to do about those.
pub(super) const LEAVE_OUT: &str = "leave it out";

/// Checks that a configuration may set the variable `name`.
///
/// # Errors
/// It is one that app-cluster sets itself.
pub(super) fn settable(name: &str) -> Result<(), String> {
    if PRIVATE.contains(&name) || OURS.contains(&name) {
        return Err(format!(
            "`{name}` cannot be set: app-cluster sets it for each worker, or removes it"
        ));
    }
    Ok(())
}

/// The environment of this process. Variables that are not UTF-8 are left out.
pub fn inherited_environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// How to start a worker, but for what differs from worker to worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// Absolute path of the program, with symbolic links as written, so that
    /// `current/bin/app` is another file after the next deployment.
    pub program: PathBuf,
    /// Arguments with the program's name (as configured) first; never empty.
    pub arguments: Vec<String>,
    /// Absolute working directory, with symbolic links as written.
    pub directory: PathBuf,
    /// Absolute path of the command of `ready = { exec = [...] }`, if there is one.
    pub ready_program: Option<PathBuf>,
    /// The same of `health = { exec = [...] }`.
    pub health_program: Option<PathBuf>,
    /// The same of `companion`.
    pub companion_program: Option<PathBuf>,
    /// What the paths above and in `arguments` lead to.
    pub pins: Pins,
    /// The same of the command of `ready`.
    pub ready_pins: Pins,
    /// The same of that of `health`.
    pub health_pins: Pins,
    /// The same of `companion`.
    pub companion_pins: Pins,
    /// What is spoken to in Node's protocol; `None`: LISTEN_FDS and NOTIFY_SOCKET.
    pub runner: Option<Runner>,
    /// The whole environment, but for what is added for each worker.
    pub environment: BTreeMap<String, String>,
}

impl Launch {
    /// Finds out what `config` means now. `base` is the environment to start from, see
    /// [`inherited_environment`]: without what is meant for the supervisor, with the
    /// environment files and `environment` over it.
    ///
    /// # Errors
    /// Everything that is missing or cannot be used.
    pub fn resolve(
        config: &Config,
        base: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Launch, ConfigError> {
        let mut wrong = Vec::new();
        let mut environment: BTreeMap<String, String> = base
            .into_iter()
            .filter(|(name, _)| settable(name).is_ok())
            .collect();
        for listed in &config.environment_files {
            match read_environment(config, &listed.path, listed.optional) {
                Ok(variables) => environment.extend(variables),
                Err(errors) => wrong.extend(errors),
            }
        }
        environment.extend(config.environment.clone());

        let place = usable_directory(&config.directory);
        if let Err((why, hint)) = &place {
            wrong.push(error(config, "directory", why.clone(), hint.clone()));
        }
        let path = environment.get("PATH").map_or(DEFAULT_PATH, String::as_str);
        let mut look_up = |key: &str, words: &[String]| {
            let word = words.first().map_or("", String::as_str);
            match find(word, &config.directory, path) {
                Ok(program) => Some(program),
                // Missing only because its directory is: said once.
                Err(_) if place.is_err() && is_relative_path(word) => None,
                Err((message, hint)) => {
                    wrong.push(error(config, key, message, hint));
                    None
                }
            }
        };
        let program = look_up("command", &config.command);
        let ready_program = match &config.ready {
            Ready::Exec(words) => look_up("ready", words),
            _ => None,
        };
        let health_program = config
            .health_command()
            .and_then(|words| look_up("health", words));
        let companion_program = match &config.companion {
            Some(companion) => look_up("companion", &companion.command),
            None => None,
        };
        let runner = program.as_deref().and_then(|p| config.runner(p));
        if program.is_some()
            && let Some((key, message, hint)) = config.misfit(runner)
        {
            wrong.push(error(config, key, message, Some(hint)));
        }
        match program {
            Some(program) if wrong.is_empty() => Ok(Launch {
                pins: Pins::new(&config.directory, &program, &config.command),
                ready_pins: match (&config.ready, &ready_program) {
                    (Ready::Exec(words), Some(program)) => {
                        Pins::new(&config.directory, program, words)
                    }
                    _ => Pins::default(),
                },
                health_pins: match (config.health_command(), &health_program) {
                    (Some(words), Some(program)) => Pins::new(&config.directory, program, words),
                    _ => Pins::default(),
                },
                companion_pins: match (&config.companion, &companion_program) {
                    (Some(companion), Some(program)) => {
                        Pins::new(&config.directory, program, &companion.command)
                    }
                    _ => Pins::default(),
                },
                program,
                runner,
                arguments: config.command.clone(),
                directory: config.directory.clone(),
                ready_program,
                health_program,
                companion_program,
                environment,
            }),
            _ => {
                wrong.sort_by_key(|d| (d.origin != config.source.origin, d.position.line));
                Err(ConfigError { diagnostics: wrong })
            }
        }
    }

    /// The names of all variables that the operator set anywhere: inherited, in a file
    /// or in the configuration. What app-cluster adds by default (`PORT`,
    /// `WORKER_COUNT`, `NODE_APP_INSTANCE`) must not replace these.
    pub fn names_set(&self) -> impl Iterator<Item = &str> {
        self.environment.keys().map(String::as_str)
    }

    /// Whether `name` is one of [`Launch::names_set`].
    pub fn sets(&self, name: &str) -> bool {
        self.environment.contains_key(name)
    }
}

fn error(config: &Config, key: &str, message: String, hint: Option<String>) -> Diagnostic {
    config
        .source
        .diagnostic(Severity::Error, key, message, hint)
}

/// The variables of one environment file; none if it is missing and `optional`.
fn read_environment(
    config: &Config,
    path: &Path,
    optional: bool,
) -> Result<Vec<(String, String)>, Vec<Diagnostic>> {
    let path = absolute(&config.directory, path);
    let origin = path.display().to_string();
    match file::read(&path) {
        Ok(text) => envfile::parse(&text, &origin),
        Err(error) if error.missing && optional => Ok(Vec::new()),
        Err(error) => {
            let missing = error.missing;
            let found = error.diagnostic(&origin);
            if found.position != Position::default() {
                return Err(vec![found]);
            }
            let message = format!("environment file `{origin}`: {}", found.message);
            let optional = || format!("make it, or write \"-{origin}\" if it may be missing");
            let hint = found.hint.or_else(|| missing.then(optional));
            Err(vec![self::error(
                config,
                "environment_files",
                message,
                hint,
            )])
        }
    }
}

/// `path` from `directory` on, without `.` parts; symbolic links and `..` stay.
fn absolute(directory: &Path, path: &Path) -> PathBuf {
    let joined = directory.join(path);
    joined
        .components()
        .filter(|part| *part != Component::CurDir)
        .collect()
}

fn is_relative_path(word: &str) -> bool {
    word.contains('/') && !word.starts_with('/')
}

/// Checks that a worker can be started in `directory`.
fn usable_directory(directory: &Path) -> Result<(), (String, Option<String>)> {
    let shown = directory.display();
    let denied = || {
        let (why, hint) = access::denied(directory, "enter");
        (format!("directory `{shown}`: {why}"), hint)
    };
    let plain = |why: String| {
        let hint = "make it, or correct `directory`";
        (why, Some(hint.to_owned()))
    };
    match std::fs::metadata(directory) {
        Err(error) => Err(match error.kind() {
            ErrorKind::NotFound => {
                let why = file::missing_because(directory);
                let (why, hint) = plain(format!("directory `{shown}`: {why}"));
                let link = file::dangling(directory);
                let point = |link: &Path| {
                    let link = link.display();
                    format!("point the link at a release that is there: ln -sfn releases/N {link}")
                };
                (why, link.map(point).or(hint))
            }
            ErrorKind::PermissionDenied => denied(),
            _ => plain(format!("directory `{shown}`: {error}")),
        }),
        Ok(found) if !found.is_dir() => Err(plain(format!("`{shown}` is not a directory"))),
        Ok(_) if eaccess(directory, AccessFlags::X_OK).is_err() => Err(denied()),
        Ok(_) => Ok(()),
    }
}

/// Looks up the program `word` as execvp(3) would in a worker.
pub(super) fn find(
    word: &str,
    directory: &Path,
    path: &str,
) -> Result<PathBuf, (String, Option<String>)> {
    if word.is_empty() {
        return Err(("the command is empty".into(), None));
    }
    if word.starts_with("~/") {
        let message = format!("`{word}` cannot be run: no shell reads this, `~` means nothing");
        return Err((message, Some("write the whole path".into())));
    }
    if word.contains('/') {
        let program = absolute(directory, Path::new(word));
        return match executable(&program) {
            Ok(()) => Ok(program),
            Err((why, hint)) => Err((format!("`{}` {why}", program.display()), hint)),
        };
    }
    let mut unusable = None;
    for entry in path.split(':') {
        // An empty entry is the current directory.
        let program = absolute(directory, Path::new(entry)).join(word);
        match executable(&program) {
            Ok(()) => return Ok(program),
            Err((why, Some(hint))) if unusable.is_none() && program.exists() => {
                unusable = Some((format!("`{}` {why}", program.display()), Some(hint)));
            }
            Err(_) => {}
        }
    }
    Err(unusable.unwrap_or_else(|| {
        let message = format!("`{word}` was not found in PATH ({path})");
        (message, Some(not_found_hint(word, directory)))
    }))
}

fn not_found_hint(word: &str, directory: &Path) -> String {
    let local = directory.join(word);
    let common = ["node", "python3", "npm", "bun", "deno", "gunicorn", "ruby"];
    if local.is_file() {
        format!(
            "write \"./{word}\" for the file in `{}`",
            directory.display()
        )
    } else if let Some(meant) = keys::closest(word, common.into_iter()) {
        if meant == word {
            "write its whole path; the service does not see what a login shell adds to PATH".into()
        } else {
            format!("did you mean `{meant}`?")
        }
    } else {
        "write its whole path, or set PATH in `environment`".into()
    }
}

/// Checks that `program` can be executed by this process. What is wrong goes after its
/// name; there is a hint where the file is there.
fn executable(program: &Path) -> Result<(), (String, Option<String>)> {
    match std::fs::metadata(program) {
        Err(error) if error.kind() == ErrorKind::NotFound => Err((
            format!("cannot be run: {}", file::missing_because(program)),
            Some("deploy it first, or correct the path".into()),
        )),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            let (why, hint) = access::denied(program, "run");
            Err((format!("cannot be run: {why}"), hint))
        }
        Err(error) => Err((format!("cannot be run: {error}"), None)),
        Ok(found) if found.is_dir() => Err((
            "is a directory".into(),
            Some("name the program in it".into()),
        )),
        Ok(_) if eaccess(program, AccessFlags::X_OK).is_err() => Err((
            "exists but is not executable".into(),
            Some(runnable(program)),
        )),
        Ok(_) => Ok(()),
    }
}

/// What helps with a file that is not executable.
fn runnable(program: &Path) -> String {
    let shown = program.display();
    let interpreter = match program.extension().and_then(|ending| ending.to_str()) {
        Some("js" | "mjs" | "cjs") => "node",
        Some("ts" | "mts") => "tsx",
        Some("py") => "python3",
        Some("rb") => "ruby",
        Some("sh") => "sh",
        Some("pl") => "perl",
        Some("php") => "php",
        _ => return format!("chmod +x {shown}"),
    };
    format!("chmod +x {shown}, or name its interpreter first: [\"{interpreter}\", \"{shown}\"]")
}
