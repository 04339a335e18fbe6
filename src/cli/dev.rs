// SPDX-License-Identifier: MIT OR Apache-2.0
//! `app-cluster dev`: the same supervisor in the foreground, without systemd or root.

use super::run::{Setup, supervise};
use super::{DEFAULT_NAME, Fail, Listen, Status, Workers, checked};
use crate::config::{Config, ConfigError};
use crate::engine::{Listener, Style};
use clap::Args;
use std::path::PathBuf;

/// Command line of `dev`.
#[derive(Debug, Args)]
pub struct Options {
    /// The app's name
    #[arg(long, default_value = DEFAULT_NAME)]
    name: String,
    /// Number of workers: N, max, or -1 (max minus one)
    #[arg(short, long, value_name = "N|max", allow_hyphen_values = true)]
    workers: Option<Workers>,
    /// Address to listen on: 127.0.0.1:3000, [::]:80, 3000, unix:/path, or NAME=ADDRESS
    /// [default: 127.0.0.1:3000]
    #[arg(short, long = "listen", value_name = "ADDR")]
    listen: Vec<Listen>,
    /// Configuration file
    #[arg(short, long, value_name = "FILE", conflicts_with = "command")]
    config: Option<PathBuf>,
    /// The program to run and its arguments [default: the built-in hello worker]
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub fn main(options: Options) -> Result<(), Fail> {
    let name = checked(options.name.clone())?;
    if let Err(error) = Listen::distinct(&options.listen) {
        return Err(Fail::new(Status::Usage, error));
    }
    let config = match (&options.config, options.command.first()) {
        (Some(file), _) => file.display().to_string(),
        (None, Some(_)) => "command line".to_owned(),
        (None, None) => "built-in hello worker".to_owned(),
    };
    // Found out once: a path to a binary that has been replaced since is no path.
    let hello = hello();
    supervise(Setup {
        name,
        config,
        load: Box::new(move || load(&options, &hello)),
        style: Some(Style::for_stdout()),
        greet,
    })
}

fn load(options: &Options, hello: &[String]) -> Result<Config, ConfigError> {
    let command = match options.command.as_slice() {
        [] => hello.to_vec(),
        given => given.to_vec(),
    };
    let mut config = Config::for_command(command);
    if let Some(file) = &options.config {
        let default = config.listen;
        config = Config::load(file)?;
        if config.listen.is_empty() && !config.listens_nowhere() {
            config.listen = default;
        }
    }
    if let Some(workers) = options.workers {
        (config.workers, config.main_workers) = (workers, workers);
    }
    if !options.listen.is_empty() {
        config.listen.clone_from(&options.listen);
    }
    Ok(config)
}

/// Our own program as a worker.
fn hello() -> Vec<String> {
    let own = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("app-cluster"));
    vec![own.display().to_string(), "hello".to_owned()]
}

fn greet(name: &str, listeners: &[Listener]) {
    for listener in listeners {
        let shown = match listener.port {
            Some(_) => format!("http://{}", listener.address),
            None => listener.address.clone(),
        };
        eprintln!("{name} | listening on {shown} (Ctrl-C drains, twice kills)");
    }
}
