// SPDX-License-Identifier: MIT OR Apache-2.0
//! `app-cluster`: parse, dispatch, map errors to exit codes.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    // Ahead of the command line parser: this one runs for every worker.
    if arguments
        .next()
        .is_some_and(|verb| verb == app_cluster::exec::VERB)
    {
        app_cluster::exec::run(arguments);
    }
    app_cluster::cli::main()
}
