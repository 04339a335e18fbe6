// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line: one verb a file. Results go to stdout, everything else to stderr.

#[macro_use]
mod output;

mod autostart;
mod check;
mod client;
mod config;
mod delete;
mod dev;
mod fail;
mod inside;
mod logs;
mod manage;
mod plan;
mod port;
mod reload;
mod run;
mod scale;
mod send;
mod settings;
mod start;
mod status;
mod sweep;
mod systemd;
mod target;
mod upgrade;
mod why;

use crate::config::{Listen, Workers};
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use target::Target;

pub use fail::{Fail, Status};

/// Where the configuration files are.
const CONFIG_DIRECTORY: &str = "/etc/app-cluster";
/// Below it each supervisor has a directory while it runs.
const RUNTIME_DIRECTORY: &str = "/run/app-cluster";
/// The app that is meant when none is named.
const DEFAULT_NAME: &str = "app-cluster";

/// Runs an application as N worker processes behind one listening socket.
#[derive(Debug, Parser)]
#[command(
    name = "app-cluster",
    version,
    max_term_width = 100,
    subcommand_required = true
)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Supervise an app in the foreground, without systemd and without root
    ///
    /// Without COMMAND it runs the built-in `hello` worker. The first Ctrl-C drains the workers,
    /// the second kills them. SIGHUP, or `app-cluster reload`, replaces them one by one.
    Dev(dev::Options),
    /// Supervise an app as its configuration file says; what the systemd units run
    Run {
        /// The app
        #[arg(default_value = DEFAULT_NAME)]
        name: String,
        /// Configuration file [default: /etc/app-cluster/NAME.toml]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Be a worker: a small HTTP server on the sockets that are passed in
    Hello,
    /// Show an app: state, workers, listeners
    Status {
        /// The app
        #[arg(default_value = DEFAULT_NAME)]
        name: String,
        /// As one JSON object
        #[arg(long)]
        json: bool,
        /// Say whether the app takes traffic now: exit status 0 if it does, else 1
        #[arg(long)]
        ready: bool,
    },
    /// Replace all workers by new ones, one by one, without losing a request
    ///
    /// Reads the configuration afresh. Returns when every slot runs the new generation; if a new
    /// worker fails, the old generation serves on and the exit status is 1.
    Reload {
        /// The app
        #[arg(default_value = DEFAULT_NAME)]
        name: String,
        /// Change nothing: show what a reload would do now; fails if it would be refused
        #[arg(long)]
        dry_run: bool,
        /// The result as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Go back to the last good generation: its configuration, and its code where that is kept
    ///
    /// New before old, as in a reload. During a reload it undoes that. Nothing is read from the
    /// configuration; the next reload reads it again.
    Rollback {
        /// The app
        #[arg(default_value = DEFAULT_NAME)]
        name: String,
        /// The result as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Stop all workers, then start new ones (or, with NAME[SLOT], replace one)
    ///
    /// Connections wait in the socket meanwhile. For a new generation that must not run beside the
    /// old one; otherwise prefer `reload`.
    Restart {
        /// The app, or one slot of it: NAME[SLOT]
        #[arg(default_value = DEFAULT_NAME)]
        target: Target,
        /// Replace the supervisor only: a new one takes the workers over, which serve on
        #[arg(long)]
        keep_workers: bool,
    },
    /// Execute the supervisor's program again, as it is on disk now; the workers stay
    ///
    /// What the upgrade of the package does. The same process goes on with the new program, and
    /// nothing is lost or broken. What is under way (a reload, a start) is waited for. If the new program
    /// cannot go on with what the old one has, nothing is changed and the exit status is 1.
    Upgrade {
        /// The app
        #[arg(default_value = DEFAULT_NAME)]
        name: String,
        /// Take back a reload that is under way instead of waiting for its end
        #[arg(long)]
        now: bool,
        /// The result as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// End what a supervisor that is gone has left; what the units run when they stop
    #[command(hide = true)]
    Sweep {
        /// The app
        name: String,
    },
    /// Start an app, a new one from a file or a command, or one that has a configuration
    ///
    /// A new one gets the configuration /etc/app-cluster/NAME.toml, which is yours to edit, and
    /// is started at boot from then on. Returns when all workers are ready.
    Start(start::Options),
    /// Stop an app: drain its workers, end its supervisor, close its sockets
    Stop {
        /// The app
        #[arg(default_value = DEFAULT_NAME)]
        name: String,
        /// Kill the workers instead of draining them (foreground only)
        #[arg(long)]
        now: bool,
    },
    /// Delete an app: stop it, remove its configuration and all that systemd knows of it
    ///
    /// The app's own program and files are not touched.
    Delete {
        /// The app
        name: String,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Start an app at boot
    Enable {
        /// The app
        #[arg(default_value = DEFAULT_NAME)]
        name: String,
    },
    /// Do not start an app at boot any more
    Disable {
        /// The app
        #[arg(default_value = DEFAULT_NAME)]
        name: String,
    },
    /// Change the number of workers: N, +N or -N
    ///
    /// Returns when the new workers are ready. The number of an app with units is kept beside
    /// its configuration, and holds over reloads, restarts and boots.
    Scale(scale::Options),
    /// Show what workers wrote, from the journal
    Logs(logs::Options),
    /// Send a message to Node workers, which get it by `process.on('message')`
    ///
    /// To all workers that serve, or to that of one slot.
    Send {
        /// The app, or one slot of it: NAME[SLOT]
        target: Target,
        /// The message, as JSON; `-` reads it from standard input
        #[arg(value_name = "JSON", allow_negative_numbers = true)]
        message: String,
        /// The answer as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show the messages that Node workers send (`process.send`), from now on
    ///
    /// One JSON object a line, with the slot and the worker that sent it. They are not kept:
    /// what was sent before is not shown.
    Messages {
        /// The app, or one slot of it: NAME[SLOT]
        #[arg(default_value = DEFAULT_NAME)]
        target: Target,
        /// As always: go on until interrupted
        #[arg(short, long)]
        follow: bool,
        /// As always: one JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Show the configuration of an app: what holds, the files, or what may be in them
    #[command(subcommand)]
    Config(config::Part),
    /// Check a configuration file, as a reload would
    Check {
        /// A file, or an app
        #[arg(default_value = DEFAULT_NAME, value_name = "FILE|NAME")]
        what: String,
        /// As one JSON object
        #[arg(long)]
        json: bool,
        /// From where this process stands only: what the check inside the unit runs
        #[arg(long, hide = true)]
        as_is: bool,
    },
}

impl Verb {
    /// Whether the caller wants one JSON object, which a failure is then too.
    fn answers_in_json(&self) -> bool {
        match self {
            Verb::Status { json, .. }
            | Verb::Reload { json, .. }
            | Verb::Rollback { json, .. }
            | Verb::Upgrade { json, .. }
            | Verb::Send { json, .. }
            | Verb::Check { json, .. }
            | Verb::Config(config::Part::Show { json, .. } | config::Part::Cat { json, .. }) => {
                *json
            }
            _ => false,
        }
    }
}

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let json = arguments.verb.answers_in_json();
    match dispatch(arguments.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fail) => {
            if json && !fail.printed {
                outln!("{}", fail.json());
            }
            if !fail.said {
                errln!("{fail}");
            }
            ExitCode::from(fail.status as u8)
        }
    }
}

fn dispatch(verb: Verb) -> Result<(), Fail> {
    match verb {
        Verb::Dev(options) => dev::main(options),
        Verb::Run { name, config } => run::main(&checked(name)?, config),
        Verb::Hello => Ok(crate::hello::run()?),
        Verb::Status { name, json, ready } => status::main(&checked(name)?, json, ready),
        Verb::Reload {
            name,
            dry_run,
            json,
        } => match dry_run {
            true => plan::main(&checked(name)?, json),
            false => reload::main(&checked(name)?, json),
        },
        Verb::Rollback { name, json } => reload::rollback(&checked(name)?, json),
        Verb::Restart {
            target,
            keep_workers: true,
        } => upgrade::keep_workers(&target),
        Verb::Restart { target, .. } => reload::restart(&target),
        Verb::Upgrade { name, now, json } => upgrade::main(&checked(name)?, now, json),
        Verb::Sweep { name } => sweep::main(&checked(name)?),
        Verb::Start(options) => start::main(&options),
        Verb::Stop { name, now } => manage::stop(&checked(name)?, now),
        Verb::Delete { name, yes } => delete::delete(&checked(name)?, yes),
        Verb::Enable { name } => autostart::set(&checked(name)?, true),
        Verb::Disable { name } => autostart::set(&checked(name)?, false),
        Verb::Scale(mut options) => {
            options.name = checked(options.name)?;
            scale::main(&options)
        }
        Verb::Logs(options) => logs::main(&options),
        Verb::Send {
            target,
            message,
            json,
        } => send::send(&target, &message, json),
        Verb::Messages { target, .. } => send::messages(&target),
        Verb::Config(part) => config::main(&part),
        Verb::Check { what, json, as_is } => check::main(&what, json, as_is),
    }
}

fn checked(name: String) -> Result<String, Fail> {
    match crate::config::valid_name(&name) {
        Ok(()) => Ok(name),
        Err(error) => {
            let fail = Fail::new(Status::Usage, error);
            Err(match name.contains(['[', ':']) {
                true => fail.hint(
                    "this is about the whole app; `restart`, `logs`, `send` and `messages` \
                         take NAME[SLOT]",
                ),
                false => fail,
            })
        }
    }
}

/// The systemd units of an app: service and socket.
fn units(name: &str) -> (String, String) {
    let stem = match name {
        DEFAULT_NAME => name.to_owned(),
        _ => format!("{DEFAULT_NAME}@{name}"),
    };
    (format!("{stem}.service"), format!("{stem}.socket"))
}

/// The configuration file of an app.
fn config_file(name: &str) -> PathBuf {
    PathBuf::from(CONFIG_DIRECTORY).join(format!("{name}.toml"))
}
