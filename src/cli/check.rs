// SPDX-License-Identifier: MIT OR Apache-2.0
//! `app-cluster check FILE|NAME`.

use super::{Fail, Status, checked, config_file};
use crate::config::{Config, Diagnostic, check, inherited_environment};
use serde_json::json;
use std::path::PathBuf;

pub fn main(what: &str, json: bool) -> Result<(), Fail> {
    let path = match what.contains('/') || what.ends_with(".toml") {
        true => PathBuf::from(what),
        false => config_file(&checked(what.to_owned())?),
    };
    let found: Vec<Diagnostic> = match Config::load(&path) {
        Ok(config) => check(&config, inherited_environment()),
        Err(error) => error.diagnostics,
    };
    let errors = found.iter().filter(|d| d.is_error()).count();
    if json {
        let file = path.display().to_string();
        println!(
            "{}",
            json!({ "file": file, "ok": errors == 0, "diagnostics": found })
        );
    } else {
        for diagnostic in &found {
            eprintln!("{diagnostic}\n");
        }
    }
    if errors > 0 {
        let text = format!("{}: {}", path.display(), counted(errors, "error"));
        return Err(Fail::new(Status::Failed, text));
    }
    if !json {
        let warnings = found.len();
        let told = match warnings {
            0 => String::new(),
            _ => format!(", {}", counted(warnings, "warning")),
        };
        println!("{}: ok{told}", path.display());
    }
    Ok(())
}

fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}
