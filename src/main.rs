// SPDX-License-Identifier: MIT OR Apache-2.0
//! `app-cluster`: parse, dispatch, map errors to exit codes.

use app_cluster::units::generator;
use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let called = arguments.next().unwrap_or_default();
    if called.to_string_lossy().ends_with(generator::NAME) {
        let words: Vec<String> = arguments.map(to_text).collect();
        return generator::main(&words);
    }
    // Ahead of the command line parser: this one runs for every worker.
    match arguments.next() {
        Some(verb) if verb == app_cluster::exec::VERB => app_cluster::exec::run(arguments),
        Some(verb) if verb == app_cluster::engine::CHECK_VERB => return check_snapshot(),
        _ => {}
    }
    app_cluster::cli::main()
}

/// Called by a supervisor that is about to execute this program in its place.
fn check_snapshot() -> ExitCode {
    match app_cluster::engine::check_snapshot() {
        Ok(version) => {
            println!("{version}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            println!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn to_text(word: OsString) -> String {
    word.to_string_lossy().into_owned()
}
