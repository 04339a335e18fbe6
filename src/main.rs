// SPDX-License-Identifier: MIT OR Apache-2.0
//! `app-cluster`: parse, dispatch, map errors to exit codes.

use std::process::ExitCode;

fn main() -> ExitCode {
    let result = match std::env::args().nth(1).as_deref() {
        Some("hello") => app_cluster::hello::run(),
        _ => Err(anyhow::anyhow!("say `app-cluster hello`")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("app-cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}
