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
    if arguments
        .next()
        .is_some_and(|verb| verb == app_cluster::exec::VERB)
    {
        app_cluster::exec::run(arguments);
    }
    app_cluster::cli::main()
}

fn to_text(word: OsString) -> String {
    word.to_string_lossy().into_owned()
}
