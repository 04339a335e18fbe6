// SPDX-License-Identifier: MIT OR Apache-2.0
//! `app-cluster config show|cat|schema`.

use super::{Fail, Status, checked, config_file, settings};
use crate::config::{Config, Shown, schema, without_values};
use clap::Subcommand;
use nix::unistd::geteuid;
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// What of a configuration is to be shown.
#[derive(Debug, Subcommand)]
pub enum Part {
    /// Show the effective configuration: every key, with its default where nothing is set
    ///
    /// With --show-values the lines could be a configuration file. They say what the files say now, which the
    /// workers that run may not know yet: `reload --dry-run` shows the difference.
    Show {
        /// An app, or a file
        #[arg(default_value = super::DEFAULT_NAME, value_name = "NAME|FILE")]
        what: String,
        /// With the file and the line that each value comes from
        #[arg(long)]
        origin: bool,
        /// As one JSON object, always with where the values come from
        #[arg(long)]
        json: bool,
        /// With the values of environment variables; for root
        #[arg(long)]
        show_values: bool,
    },
    /// Show the configuration file and its drop-ins, in the order in which they are read
    Cat {
        /// An app, or a file
        #[arg(default_value = super::DEFAULT_NAME, value_name = "NAME|FILE")]
        what: String,
        /// As one JSON object
        #[arg(long)]
        json: bool,
        /// With the values of environment variables; for root
        #[arg(long)]
        show_values: bool,
    },
    /// Show the JSON Schema of configuration files, for editors
    ///
    /// The package has it in /usr/share/app-cluster/app-cluster.toml.schema.json.
    Schema,
}

pub fn main(part: &Part) -> Result<(), Fail> {
    match part {
        Part::Show {
            what,
            origin,
            json,
            show_values,
        } => show(what, *origin, *json, *show_values),
        Part::Cat {
            what,
            json,
            show_values,
        } => cat(what, *json, *show_values),
        Part::Schema => {
            outln!("{:#}", schema());
            Ok(())
        }
    }
}

fn show(what: &str, origin: bool, json: bool, values: bool) -> Result<(), Fail> {
    let path = file(what, values)?;
    let config = Config::load(&path).map_err(settings::bad_config)?;
    let all = config.shown(values);
    if json {
        // Variables have an entry each, so none where there are none.
        let keys = all.iter().filter(|shown| shown.key != "environment");
        let keys: Map<String, Value> = keys.map(|s| (s.key.clone(), s.json())).collect();
        outln!(
            "{}",
            json!({ "file": path.display().to_string(), "keys": keys })
        );
        return Ok(());
    }
    let width = all.iter().map(|shown| shown.line().chars().count());
    let width = width.filter(|width| *width <= 48).max().unwrap_or_default();
    for shown in &all {
        match origin {
            true => outln!("{:width$}  # {}", shown.line(), shown.origin()),
            false => outln!("{}", shown.line()),
        }
    }
    if !values && all.iter().any(is_variable) {
        errln!("note: root can see the values of variables: --show-values");
    }
    Ok(())
}

fn is_variable(shown: &Shown) -> bool {
    shown.key.starts_with("environment.")
}

fn cat(what: &str, json: bool, values: bool) -> Result<(), Fail> {
    let path = file(what, values)?;
    let files = Config::files(&path).map_err(settings::bad_config)?;
    let mut all = Vec::new();
    for (text, origin) in files {
        let text = match values {
            true => text,
            false => without_values(&text, &origin).map_err(|error| {
                let why = "a file that is no TOML is not shown: its variables cannot be told from the rest";
                settings::bad_config(error).hint(format!("{why}; root can see it: --show-values"))
            })?,
        };
        all.push((origin, text));
    }
    if json {
        let files: Vec<Value> = all
            .iter()
            .map(|(file, text)| json!({ "file": file, "text": text }))
            .collect();
        outln!("{}", json!({ "files": files }));
        return Ok(());
    }
    for (n, (origin, text)) in all.iter().enumerate() {
        let gap = if n == 0 { "" } else { "\n" };
        outln!("{gap}# {origin}\n{}", text.trim_end_matches('\n'));
    }
    Ok(())
}

/// The file that is meant, if this process may see what it is to show.
fn file(what: &str, values: bool) -> Result<PathBuf, Fail> {
    if values && !geteuid().is_root() {
        let text = "only root is shown the values of variables";
        let fail = Fail::new(Status::NoSuchApp, text);
        return Err(fail.hint("leave out --show-values, or use sudo"));
    }
    match what.contains('/') || what.ends_with(".toml") {
        true => Ok(PathBuf::from(what)),
        false => {
            let path = config_file(&checked(what.to_owned())?);
            match path.exists() {
                true => Ok(path),
                false => {
                    let text = format!("there is no {}", path.display());
                    let fail = Fail::new(Status::NoSuchApp, text);
                    Err(fail.hint("name the file: app-cluster config show FILE"))
                }
            }
        }
    }
}
