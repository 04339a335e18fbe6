// SPDX-License-Identifier: MIT OR Apache-2.0
//! `app-cluster check FILE|NAME`.

use super::{
    CONFIG_DIRECTORY, DEFAULT_NAME, Fail, Status, autostart, checked, config_file, inside, scale,
};
use crate::config::{
    Config, Cpus, Diagnostic, Severity, Spread, check, drop_in_directory, inherited_environment,
    is_of_an_app, missing_accounts, valid_name,
};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::{Path, PathBuf};

pub fn main(what: &str, json: bool, as_is: bool) -> Result<(), Fail> {
    let is_file = what.contains('/') || what.ends_with(".toml");
    let path = match is_file {
        true => PathBuf::from(what),
        false => config_file(&checked(what.to_owned())?),
    };
    let failed = match is_file || path.exists() {
        true => Status::Failed,
        false => Status::NoSuchApp,
    };
    let mut notes = Vec::new();
    let mut workers = None;
    let found: Vec<Diagnostic> = match Config::load(&path) {
        Ok(config) => {
            workers = Some(Workers::of(&config));
            match as_is {
                true => check(&config, inherited_environment()),
                false => all(&path, &config, &mut notes, &mut workers),
            }
        }
        Err(error) => error.diagnostics,
    };
    let errors = found.iter().filter(|d| d.is_error()).count();
    if json {
        let file = path.display().to_string();
        outln!(
            "{}",
            json!({
                "file": file, "ok": errors == 0, "diagnostics": found, "notes": notes,
                "workers": workers,
            })
        );
    } else {
        for diagnostic in &found {
            errln!("{diagnostic}\n");
        }
        for note in &notes {
            errln!("note: {note}");
        }
    }
    if errors > 0 {
        let text = format!("{}: {}", path.display(), counted(errors, "error"));
        // The diagnostics are in there.
        return Err(Fail::new(failed, text).printed());
    }
    if !json {
        let warnings = found.len();
        let told = match warnings {
            0 => String::new(),
            _ => format!(", {}", counted(warnings, "warning")),
        };
        outln!("{}: ok{told}", path.display());
        if let Some(Workers { count, source }) = workers.filter(|w| w.depends()) {
            outln!("{} ({source})", counted(count as usize, "worker"));
        }
    }
    Ok(())
}

/// How many workers there will be, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workers {
    count: u32,
    source: String,
}

impl Workers {
    /// As things look from here.
    fn of(config: &Config) -> Workers {
        let policy = config.policy(&Cpus::detect());
        Workers {
            count: policy.workers,
            source: policy.workers_source,
        }
    }

    /// Whether the machine has a say in it.
    fn depends(&self) -> bool {
        self.source.contains(": ")
    }
}

/// What is wrong with the file, with its app and, where that can be found out, inside the unit.
fn all(
    path: &Path,
    config: &Config,
    notes: &mut Vec<String>,
    workers: &mut Option<Workers>,
) -> Vec<Diagnostic> {
    let mut found = missing_accounts(config);
    let unusable = !found.is_empty();
    found.extend(doubts(path, config));
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let own_view = || check(config, inherited_environment());
    match () {
        () if !is_of_an_app(path) => found.extend(own_view()),
        () if valid_name(&name).is_err() => {
            let why = valid_name(&name).err().unwrap_or_default();
            let hint = Some("nothing reads a file of that name".to_owned());
            let error = Severity::Error;
            found.push(config.source.diagnostic(error, "", why, hint));
            found.extend(own_view());
        }
        // Without its user there is no unit to look from.
        () if unusable => {}
        () if !geteuid().is_root() || !sd_notify::booted().unwrap_or(false) => {
            found.extend(own_view());
            notes.push(
                "looked at as you, not as the unit's user in its sandbox: that takes root and systemd"
                    .to_owned(),
            );
        }
        () => match inside::look(&name, &config_file(&name), config) {
            Ok(inside) => {
                found.extend(inside.diagnostics);
                *workers = inside.workers;
            }
            Err(why) => {
                found.extend(own_view());
                notes.push(format!("the unit's view could not be looked at: {why}"));
            }
        },
    }
    found
}

/// What can be used, but perhaps is not meant.
fn doubts(path: &Path, config: &Config) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let mut warn = |key: &str, text: String, hint: String| {
        let warning = Severity::Warning;
        found.push(config.source.diagnostic(warning, key, text, Some(hint)));
    };
    let workers = config.policy(&Cpus::detect()).workers;
    let lines = config.slots_with_address();
    if config.spread().has_lines() && workers > lines {
        let so = match config.spread() {
            Spread::Sticky => "workers with the same one serve the same clients",
            _ => "workers with the same one share its connections",
        };
        warn(
            "max_workers",
            format!("{workers} workers have {lines} sockets: {so}"),
            format!("max_workers = {workers}, and restart service and socket"),
        );
    }
    if let Some(autostart) = config.autostart
        && is_of_an_app(path)
        && path.file_name() == config_file(DEFAULT_NAME).file_name()
    {
        for link in autostart::links_against(autostart, Path::new(autostart::LINKS)) {
            let unit = link.file_name().unwrap_or_default().display();
            warn(
                "autostart",
                format!("a boot starts {unit} all the same: {}", link.display()),
                format!("sudo systemctl disable {unit}"),
            );
        }
    }
    let file = std::fs::read_to_string(path).unwrap_or_default();
    let main = Config::parse(&file, &path.display().to_string());
    if let (Some(drop_in), Ok(main)) = (config.source.drop_in("workers"), main)
        && main.source.gives("workers")
        && main.workers != config.workers
    {
        warn(
            "workers",
            format!(
                "{drop_in} says this over the file's workers = {}",
                main.workers
            ),
            way_out(path, Path::new(drop_in)),
        );
    }
    found
}

/// How the file's own number of workers comes to hold again over that of `drop_in`.
fn way_out(path: &Path, drop_in: &Path) -> String {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    if [scale::KEPT, scale::RUNTIME]
        .iter()
        .any(|own| own.path(&name) == drop_in)
    {
        return format!("app-cluster scale {name} --reset removes what `scale` has written");
    }
    let own = drop_in_directory(Path::new(CONFIG_DIRECTORY), path);
    if !is_of_an_app(path) || drop_in.starts_with(&own) {
        return format!("take it out of {}", drop_in.display());
    }
    let mask = own.join(drop_in.file_name().unwrap_or_default());
    format!("remove it, or mask it: ln -s /dev/null {}", mask.display())
}

/// `1 worker`, `2 workers`.
pub fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_helps_against_a_drop_in() {
        let told = |file: &str, drop_in: &str| way_out(Path::new(file), Path::new(drop_in));
        let web = "/etc/app-cluster/web.toml";
        for own in [
            "/etc/app-cluster/web.toml.d/50-scale.toml",
            "/run/app-cluster/web.toml.d/51-scale.toml",
        ] {
            assert!(
                told(web, own).starts_with("app-cluster scale web --reset "),
                "{own}"
            );
        }
        assert_eq!(
            told(web, "/run/app-cluster/web.toml.d/30-y.toml"),
            "remove it, or mask it: ln -s /dev/null /etc/app-cluster/web.toml.d/30-y.toml"
        );
        let file = "/etc/app-cluster/web.toml.d/30-y.toml";
        assert_eq!(told(web, file), format!("take it out of {file}"));
        assert_eq!(
            told("x/web.toml", "x/web.toml.d/1.toml"),
            "take it out of x/web.toml.d/1.toml"
        );
    }
}
