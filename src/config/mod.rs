// SPDX-License-Identifier: MIT OR Apache-2.0
//! Configuration files: one app each, `/etc/app-cluster/NAME.toml`, described in
//! app-cluster.toml(5).
//!
//! [`Config`] is what a file says, checked on its own; [`Launch`] what that means on
//! this machine now (program found, environment complete); [`check()`] both, with
//! warnings. Nothing in here has an effect on the machine.

mod access;
mod accounts;
mod affinity;
mod ageing;
mod check;
mod companion;
mod cpus;
mod diagnostic;
mod diff;
mod envfile;
mod file;
mod fragments;
mod health;
mod hide;
mod inherited;
mod keys;
mod kind;
mod launch;
mod lines;
mod listen;
mod node;
mod pins;
mod policy;
mod read;
mod scan;
mod schema;
mod show;
mod slot_listen;
mod syntax;
mod together;
mod toml_reader;
mod units;
mod values;
mod variables;
mod words;

#[cfg(test)]
mod launch_tests;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod schema_tests;
#[cfg(test)]
mod section_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod wrong_tests;

pub use accounts::missing_accounts;
pub use affinity::{CpuAffinity, list as cpu_list, order as cpu_order};
pub use check::{check, doubts};
pub use companion::Companion;
pub use cpus::Cpus;
pub use diagnostic::{ConfigError, Diagnostic, Place, Position, Severity, Source};
pub use diff::{Changes, FileChange, KeyChange, Seen, VariableChanges};
pub use file::current_directory;
pub use fragments::{drop_in_directory, is_of_an_app};
pub use health::{HealthCheck, Question};
pub use keys::{KEYS, Key, Status};
pub use kind::Kind;
pub use launch::{Launch, inherited_environment};
pub use lines::Spread;
pub use listen::{Listen, ListenAddress};
pub use node::{NodeSettings, Runner};
pub use pins::{Pin, Pins};
pub use schema::{SCHEMA_FILE, schema};
pub use show::{HIDDEN, Shown, without_values};
pub use slot_listen::SlotListen;
pub use units::{duration, show as show_duration, show_size, signal, valid_account, valid_name};
pub use words::split as split_command;

use crate::core::{Batch, OnFailure, Ready, Restart};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// The most workers an app can have.
pub const MAX_WORKERS: u32 = 1024;
/// The most sockets of one listener. The kernel's limit on the program that chooses
/// between them is 4096 instructions (BPF_MAXINSNS), of which each needs up to 13.
pub const MAX_LINES: u32 = 256;
/// The most sockets of an app: more descriptors than that are not taken.
pub const MAX_SOCKETS: u32 = 4096;
/// Name in LISTEN_FDNAMES of a slot's own address (`slot_listen`).
pub const SLOT_LISTENER: &str = "slot";

/// How many workers an app has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workers {
    /// One for each CPU.
    Max,
    /// One fewer than there are CPUs, at least one.
    MaxMinusOne,
    /// This many, 1 to [`MAX_WORKERS`].
    Count(u32),
}

impl fmt::Display for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Workers::Max => f.write_str("\"max\""),
            Workers::MaxMinusOne => f.write_str("\"-1\""),
            Workers::Count(count) => count.fmt(f),
        }
    }
}

/// `max`, `-1` or a number, as the command line's `--workers` takes it.
impl FromStr for Workers {
    type Err = String;

    fn from_str(text: &str) -> Result<Workers, String> {
        match (text, text.parse::<u32>()) {
            ("max", _) => Ok(Workers::Max),
            ("-1", _) => Ok(Workers::MaxMinusOne),
            (_, Ok(0)) => Err("an app has at least one worker".into()),
            (_, Ok(count)) if count <= MAX_WORKERS => Ok(Workers::Count(count)),
            _ if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
                Err(format!("an app has at most {MAX_WORKERS} workers"))
            }
            _ => Err(format!(
                "{text:?} is no number of workers: write a number, \"max\" or \"-1\" (max minus one)"
            )),
        }
    }
}

/// How a worker is given its sockets and says how it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// Chosen by the program: [`Protocol::Node`] for Node, Deno and what starts these, else
    /// [`Protocol::ListenFds`].
    Auto,
    /// `LISTEN_FDS` of sd_listen_fds(3) and a `NOTIFY_SOCKET` of sd_notify(3).
    ListenFds,
    /// We are the primary of a `node:cluster`.
    Node,
}

/// How connections are spread over the workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// Chosen by the program: [`Balance::Even`] for Node, [`Balance::RoundRobin`] for Deno,
    /// else [`Balance::Shared`].
    Auto,
    /// Every worker accepts from the same socket.
    Shared,
    /// Each slot has a socket, and the kernel picks one at random.
    Even,
    /// Each slot has a socket, and the kernel picks by the client's address.
    Sticky,
    /// The supervisor accepts, and hands the connections over in turn (Node's protocol).
    RoundRobin,
}

/// How much the unit shuts the workers in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sandbox {
    /// What the packaged unit says.
    Default,
    /// The file system is read-only, /home hidden, system calls are filtered.
    Strict,
}

/// What starts an app after a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Autostart {
    /// The boot.
    Boot,
    /// The first connection.
    Connection,
    /// Nothing but a command.
    Never,
}

/// A file of variables for the workers, `EnvironmentFile=` of systemd.exec(5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentFile {
    /// Relative to `directory` unless absolute.
    pub path: PathBuf,
    /// Whether it may be missing (written with a leading `-`).
    pub optional: bool,
}

/// What the configuration of one app says: one field for each key of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Program and arguments; never empty.
    pub command: Vec<String>,
    /// Absolute working directory of the workers. Default `/`.
    pub directory: PathBuf,
    /// Variables for the workers, over everything else. Default none.
    pub environment: BTreeMap<String, String>,
    /// Files of variables, later ones over earlier ones. Default none.
    pub environment_files: Vec<EnvironmentFile>,
    /// What to listen on. Default: nothing, the sockets are the socket unit's. Names are
    /// unique.
    pub listen: Vec<Listen>,
    /// An address for each slot besides. Default none.
    pub slot_listen: Option<SlotListen>,
    /// See [`Workers`]. Default `max`.
    pub workers: Workers,
    /// What the main file alone says of them: how many sockets there are by default follows
    /// this, so that `scale`, which writes a drop-in, changes none.
    pub main_workers: Workers,
    /// See [`CpuAffinity`]. Default `none`.
    pub cpu_affinity: CpuAffinity,
    /// See [`Protocol`]. Default `auto`.
    pub protocol: Protocol,
    /// How many sockets a listener has, 1 to [`MAX_LINES`], see [`Config::lines`].
    pub max_workers: Option<u32>,
    /// See [`Balance`]. Default `auto`.
    pub balance: Balance,
    /// Owner of socket files. Default: the socket unit's, else `user`.
    pub socket_user: Option<String>,
    /// Their group. Default: the socket unit's, else `group`.
    pub socket_group: Option<String>,
    /// Their permissions. Default: the socket unit's.
    pub socket_mode: Option<u32>,
    /// User of supervisor and workers, by name or number. Default: the service unit's.
    pub user: Option<String>,
    /// Their group. Default: the main group of `user`.
    pub group: Option<String>,
    /// See [`Sandbox`]. Default `default`.
    pub sandbox: Sandbox,
    /// See [`Autostart`]. Default: `boot`; for the app `app-cluster`, what
    /// systemctl(1) has enabled.
    pub autostart: Option<Autostart>,
    /// Whether the workers get sockets without O_NONBLOCK. Default no.
    pub blocking: bool,
    /// See [`Ready`]. Default `auto`.
    pub ready: Ready,
    /// Longest time from spawn to ready. Default 30 s.
    pub start_timeout: Duration,
    /// Time from the stop signal to SIGKILL. Default 30 s.
    pub drain_timeout: Duration,
    /// Number of the signal that asks a worker to finish; neither SIGKILL nor
    /// SIGSTOP. Default SIGTERM.
    pub stop_signal: i32,
    /// A message over a Node worker's channel, as JSON, in place of the signal. Default none.
    pub stop_message: Option<String>,
    /// How long a Node worker may not answer before it gets no more connections; `None`:
    /// nobody asks it. Default 1 s.
    pub blocked_timeout: Option<Duration>,
    /// How long before it is replaced; `None`: never. Default 30 s.
    pub hung_timeout: Option<Duration>,
    /// See [`HealthCheck`]. Default none.
    pub health: Option<HealthCheck>,
    /// How often a worker owes `WATCHDOG=1`; `None`: never, unless it says so itself.
    /// Default none.
    pub watchdog: Option<Duration>,
    /// How long the workers serve on when the app is to stop. Default 0.
    pub pre_stop_delay: Duration,
    /// See [`NodeSettings`].
    pub node: NodeSettings,
    /// See [`Companion`]. Default none.
    pub companion: Option<Companion>,
    /// See [`Restart`]. Default `always`.
    pub restart: Restart,
    /// Exit codes (0 to 255) after which a worker is not replaced. Default none.
    pub stop_exit_codes: Vec<i32>,
    /// First delay between crashes; at most `backoff_max`. Default 100 ms.
    pub backoff_min: Duration,
    /// Longest delay between crashes. Default 15 s.
    pub backoff_max: Duration,
    /// Crashes borne within `crash_window`. Default 10.
    pub crash_budget: u32,
    /// Time over which crashes are counted. Default 60 s.
    pub crash_window: Duration,
    /// How many bytes a worker may use, at least 1 MiB. Default: any number.
    pub max_memory: Option<u64>,
    /// How long a worker may be ready, at least 1 s. Default: for ever.
    pub max_lifetime: Option<Duration>,
    /// How long the first new worker of a reload must stay ready. Default 1 s.
    pub canary_time: Duration,
    /// Workers replaced at a time in a reload: 1 to [`MAX_WORKERS`], or 1 to 100 percent.
    /// Default 1.
    pub batch: Batch,
    /// How long each further new worker must stay ready. Default 0.
    pub min_ready_time: Duration,
    /// How many old workers may drain at once in a reload, at least 1. Default: any number.
    pub max_draining: Option<u32>,
    /// See [`OnFailure`]. Default `rollback`.
    pub on_failure: OnFailure,
    /// Where the values stand, for what is found wrong with them later.
    #[serde(skip)]
    pub source: Source,
}

impl Config {
    /// Every default, and `command`, which has none.
    fn defaults(command: Vec<String>, source: Source) -> Config {
        Config {
            command,
            directory: PathBuf::from("/"),
            environment: BTreeMap::new(),
            environment_files: Vec::new(),
            listen: Vec::new(),
            slot_listen: None,
            workers: Workers::Max,
            main_workers: Workers::Max,
            cpu_affinity: CpuAffinity::None,
            protocol: Protocol::Auto,
            max_workers: None,
            balance: Balance::Auto,
            socket_user: None,
            socket_group: None,
            socket_mode: None,
            user: None,
            group: None,
            sandbox: Sandbox::Default,
            autostart: None,
            blocking: false,
            ready: Ready::Auto,
            start_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(30),
            stop_signal: nix::sys::signal::Signal::SIGTERM as i32,
            stop_message: None,
            blocked_timeout: Some(Duration::from_secs(1)),
            hung_timeout: Some(Duration::from_secs(30)),
            health: None,
            watchdog: None,
            pre_stop_delay: Duration::ZERO,
            node: NodeSettings::default(),
            companion: None,
            restart: Restart::Always,
            stop_exit_codes: Vec::new(),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(15),
            crash_budget: 10,
            crash_window: Duration::from_secs(60),
            max_memory: None,
            max_lifetime: None,
            canary_time: Duration::from_secs(1),
            batch: Batch::Count(1),
            min_ready_time: Duration::ZERO,
            max_draining: None,
            on_failure: OnFailure::Rollback,
            source,
        }
    }

    /// The configuration of `app-cluster dev`: all defaults, but the current directory
    /// (as the shell names it, so that symbolic links are followed anew at each
    /// reload) and `127.0.0.1:3000`. An empty `command` is found by [`Launch::resolve`].
    pub fn for_command(command: Vec<String>) -> Config {
        let source = Source {
            origin: "command line".to_owned(),
            ..Source::default()
        };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 3000));
        Config {
            directory: file::current_directory(),
            listen: vec![Listen {
                name: "3000".to_owned(),
                address: ListenAddress::Tcp(address),
            }],
            ..Config::defaults(command, source)
        }
    }

    /// Reads a configuration from `text`; `origin` is what errors call it.
    ///
    /// # Errors
    /// Everything that is wrong with it; of errors in the TOML syntax only the first.
    pub fn parse(text: &str, origin: &str) -> Result<Config, ConfigError> {
        read::config(&[(text.to_owned(), origin.to_owned())])
    }

    /// Reads the configuration file `path` and the drop-ins `PATH.d/*.toml` over it: regular
    /// files (or links to such) of at most 1 MiB in UTF-8. Never blocks on a FIFO.
    ///
    /// # Errors
    /// A file cannot be read, or as [`Config::parse`].
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        read::config(&Config::files(path)?)
    }

    /// What the units of the app are made from, where [`Config::load`] fails because of
    /// something else in the same files. All other keys have their defaults.
    ///
    /// # Errors
    /// A file cannot be read, its syntax is wrong, or one of those keys is.
    pub fn load_for_units(path: &Path) -> Result<Config, ConfigError> {
        read::for_units(&Config::files(path)?)
    }
}
