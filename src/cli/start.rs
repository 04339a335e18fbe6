// SPDX-License-Identifier: MIT OR Apache-2.0
//! `app-cluster start`: a configuration from a command line, and an app from a configuration.

mod bring_up;
mod caller;
mod file;
mod learn;
mod program;

use super::client::no_such_app;
use super::port::{self, Taken};
use super::systemd::Systemd;
use super::{
    CONFIG_DIRECTORY, DEFAULT_NAME, Fail, Status, autostart, checked, config_file, settings, units,
};
use crate::config::{Config, Listen, Workers, valid_account};
use caller::{Account, Caller, DEFAULT_USER};
use clap::Args;
use file::NewApp;
use nix::unistd::Gid;
use program::Program;
use std::path::{Path, PathBuf};

/// Command line of `start`.
#[derive(Debug, Args)]
pub struct Options {
    /// A script or an executable file that becomes a new app, or the name of an app
    #[arg(value_name = "FILE|NAME")]
    target: Option<String>,
    /// Name of the new app [default: that of the file, or of the directory]
    #[arg(long)]
    name: Option<String>,
    /// Number of workers: N, max, or -1 (max minus one)
    #[arg(
        short = 'i',
        long = "instances",
        visible_short_alias = 'w',
        visible_alias = "workers",
        value_name = "N|max",
        allow_hyphen_values = true
    )]
    workers: Option<Workers>,
    /// Address to listen on: 127.0.0.1:3000, [::]:80, 3000, unix:/path, or NAME=ADDRESS
    /// [default: of a Node program, where it listens itself]
    #[arg(short, long = "listen", value_name = "ADDR")]
    listen: Vec<Listen>,
    /// User that the app runs as [default: you, also through sudo]
    #[arg(long)]
    user: Option<String>,
    /// Working directory [default: the current one]
    #[arg(long, visible_alias = "directory", value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// A variable for the workers; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// How connections are spread over the workers
    #[arg(long, value_parser = ["auto", "shared", "even", "sticky", "round-robin"])]
    balance: Option<String>,
    /// Do not start it at boot
    #[arg(long)]
    no_autostart: bool,
    /// Only print the configuration (to standard output) and the steps
    #[arg(long)]
    dry_run: bool,
    /// The program to run and its arguments; with FILE, arguments of that
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

/// What is to be started.
enum Form {
    Existing(String),
    Script(PathBuf),
    Command,
}

pub fn main(options: &Options) -> Result<(), Fail> {
    let here = crate::config::current_directory();
    match form(options, &here)? {
        Form::Existing(name) => existing(&name, options.dry_run),
        Form::Script(script) => new(options, Some(&script), &here),
        Form::Command => new(options, None, &here),
    }
}

impl Options {
    /// Whether something is given that only a new app takes.
    fn describes(&self) -> bool {
        self.name.is_some()
            || self.workers.is_some()
            || !self.listen.is_empty()
            || self.user.is_some()
            || self.cwd.is_some()
            || !self.env.is_empty()
            || self.balance.is_some()
            || self.no_autostart
            || !self.command.is_empty()
    }
}

fn form(options: &Options, here: &Path) -> Result<Form, Fail> {
    let Some(target) = &options.target else {
        return match (options.command.is_empty(), options.describes()) {
            (false, _) => Ok(Form::Command),
            (true, false) => Ok(Form::Existing(DEFAULT_NAME.to_owned())),
            (true, true) => {
                let text = "what is to be run? Name a file, or a command after --";
                let hint = match &options.name {
                    Some(name) => format!("an app that is there already: app-cluster start {name}"),
                    None => "app-cluster start ./server.js -l 3000".to_owned(),
                };
                Err(Fail::new(Status::Usage, text).hint(hint))
            }
        };
    };
    let is_file = here.join(target).exists();
    let is_app = crate::config::valid_name(target).is_ok() && config_file(target).exists();
    match (options.describes(), is_app, is_file) {
        _ if target.contains('/') => Ok(Form::Script(PathBuf::from(target))),
        (false, true, _) => Ok(Form::Existing(target.clone())),
        (true, true, false) => Err(exists(target)),
        (_, _, true) | (true, false, false) => Ok(Form::Script(PathBuf::from(target))),
        (false, false, false) if Path::new(target).extension().is_some() => {
            Ok(Form::Script(PathBuf::from(target)))
        }
        (false, false, false) => Err(no_such_app(&checked(target.clone())?)),
    }
}

fn exists(name: &str) -> Fail {
    let text = format!(
        "there is an app {name} already: {}",
        config_file(name).display()
    );
    let hint =
        format!("edit that file, then app-cluster start {name}; or app-cluster delete {name}");
    Fail::new(Status::Failed, text).hint(hint)
}

/// An app that has a configuration.
fn existing(name: &str, dry_run: bool) -> Result<(), Fail> {
    let file = config_file(name);
    if !file.exists() {
        return Err(no_such_app(name));
    }
    let config = Config::load(&file).map_err(settings::bad_config)?;
    let (service, socket) = units(name);
    if dry_run {
        return steps(name, None);
    }
    let systemd = Systemd::connect(&format!("start {socket} {service}"))?;
    if systemd.state(&service)? == "active" {
        errln!("{name} | runs already; to take over changes: app-cluster reload {name}");
        return bring_up::show(name);
    }
    if systemd.state(&socket)? != "active" {
        free(&config.listen, Some(&systemd))?;
    }
    bring_up::start(name, &systemd, &config.listen)
}

/// A new app.
fn new(options: &Options, script: Option<&Path>, here: &Path) -> Result<(), Fail> {
    let mut app = describe(options, script, here)?;
    let name = app.name.clone();
    let file = config_file(&name);
    if app.listen.is_empty() && options.dry_run {
        return Err(learn::not_with_dry_run(&name));
    }
    let rendered = |app: &NewApp| {
        let text = app.render();
        let read = Config::parse(&text, &file.display().to_string());
        read.map_err(settings::bad_config).map(|_| text)
    };
    let mut text = rendered(&app)?;
    if options.dry_run {
        print!("{text}");
        return steps(&name, Some(&file));
    }
    settings::may_write(Path::new(CONFIG_DIRECTORY), &own_arguments())?;
    // Ahead of the bus, which has threads.
    let interrupts = app.listen.is_empty().then(learn::Interrupts::catch);
    let systemd = Systemd::connect("daemon-reload")?;
    if let Some(interrupts) = interrupts {
        app.listen = vec![learn::address(&app, &interrupts?)?];
        text = rendered(&app)?;
    }
    free(&app.listen, Some(&systemd))?;
    if name == DEFAULT_NAME {
        autostart::set_links(&systemd, app.autostart, None)?;
    }
    settings::write_new(&file, &text, readers(&app)?)?;
    errln!("{name} | wrote {}", file.display());
    bring_up::start(&name, &systemd, &app.listen)
}

/// The group whose members alone may read the file: there are values of variables in it.
fn readers(app: &NewApp) -> Result<Option<Gid>, Fail> {
    if app.environment.is_empty() {
        return Ok(None);
    }
    let user = app.user.as_deref().unwrap_or(DEFAULT_USER);
    match Account::find(user) {
        Some(account) => Ok(Some(account.group())),
        None => Err(no_such_user(user, app.user.is_some())),
    }
}

fn describe(options: &Options, script: Option<&Path>, here: &Path) -> Result<NewApp, Fail> {
    let caller = Caller::find();
    let directory = match &options.cwd {
        None => here.to_owned(),
        Some(given) => here.join(given).components().collect(),
    };
    let name = match &options.name {
        Some(name) => checked(name.clone())?,
        None => name_of(script, here)?,
    };
    if config_file(&name).exists() {
        return Err(exists(&name));
    }
    Listen::distinct(&options.listen).map_err(|error| Fail::new(Status::Usage, error))?;
    let words = &options.command;
    let program = match script {
        Some(script) => program::of_script(script, words, here, &directory, &caller)?,
        None => program::of_command(words, here, &directory, &caller)?,
    };
    let user = user(options, &caller, &directory, &program)?;
    if let Some(note) = &program.note {
        errln!("{name} | note: {note}");
    }
    if let Some(number) = user.as_ref().filter(|user| user.parse::<u32>().is_ok()) {
        errln!("{name} | the workers run as the user with the number {number}");
    }
    if user.is_none() {
        errln!("{name} | the workers run as the user {DEFAULT_USER} (--user says another)");
    }
    let Some(directory) = directory.to_str() else {
        let text = format!(
            "{} is not UTF-8, which a configuration is",
            directory.display()
        );
        return Err(Fail::new(Status::Failed, text));
    };
    Ok(NewApp {
        name,
        command: program.command,
        directory: directory.to_owned(),
        user,
        listen: options.listen.clone(),
        workers: options.workers,
        environment: options.env.clone(),
        balance: options.balance.clone(),
        autostart: !options.no_autostart,
    })
}

/// As whom it runs, after a look whether that works; `None`: the user of the units.
fn user(
    options: &Options,
    caller: &Caller,
    directory: &Path,
    program: &Program,
) -> Result<Option<String>, Fail> {
    let chosen = match &options.user {
        Some(user) => Some(user.clone()),
        None => caller.user_for(directory).map(|user| user.name),
    };
    let name = chosen.as_deref().unwrap_or(DEFAULT_USER);
    let Some(account) = Account::find(name) else {
        return Err(no_such_user(name, chosen.is_some()));
    };
    program::usable_by(&account, program, directory)?;
    // One that was given as a number stays one.
    match chosen {
        Some(user) if valid_account(&user).is_err() => Ok(Some(account.written())),
        chosen => Ok(chosen),
    }
}

fn no_such_user(name: &str, chosen: bool) -> Fail {
    let hint = match chosen {
        true => format!("make it: sudo useradd --system {name}; or say another: --user"),
        false => "the package makes it; or say another: --user".to_owned(),
    };
    Fail::new(Status::Failed, format!("there is no user `{name}`")).hint(hint)
}

/// The name of the file without its ending, or of the directory.
fn name_of(script: Option<&Path>, here: &Path) -> Result<String, Fail> {
    let part = match script {
        Some(script) => script.file_stem(),
        None => here.file_name(),
    };
    let name = part.unwrap_or_default().to_string_lossy().into_owned();
    match crate::config::valid_name(&name) {
        Ok(()) => Ok(name),
        Err(why) => Err(Fail::new(Status::Usage, why).hint("give the app a name: --name NAME")),
    }
}

/// This command, for a second try.
fn own_arguments() -> String {
    let plain = |word: &str| {
        word.chars()
            .all(|c| c.is_ascii_alphanumeric() || "./_-=:[]".contains(c))
    };
    let words = std::env::args().skip(1).map(|word| match plain(&word) {
        true if !word.is_empty() => word,
        _ => format!("'{}'", word.replace('\'', "'\\''")),
    });
    words.collect::<Vec<_>>().join(" ")
}

fn steps(name: &str, file: Option<&Path>) -> Result<(), Fail> {
    let (service, socket) = units(name);
    if let Some(file) = file {
        errln!("{name} | would write this to {}", file.display());
    }
    errln!("{name} | then: systemctl daemon-reload");
    errln!("{name} | then: systemctl start {socket} {service}");
    Ok(())
}

/// Checks that nobody else listens where the app is to.
fn free(listen: &[Listen], systemd: Option<&Systemd>) -> Result<(), Fail> {
    for Listen { address, .. } in listen {
        match port::taken(address) {
            None => {}
            Some(Taken::NotOurs) => {
                let text = format!("{address} is no address of this machine");
                let hint = "ip address shows those that are; a port alone means all of them";
                return Err(Fail::new(Status::Failed, text).hint(hint));
            }
            Some(Taken::InUse(mut holders)) => {
                if let (Some(first), Some(systemd)) = (holders.first_mut(), systemd)
                    && first.pid == 1
                {
                    first.unit = port::socket_unit(systemd, address);
                }
                return Err(in_use(&address.to_string(), &holders));
            }
        }
    }
    Ok(())
}

fn in_use(address: &str, holders: &[port::Holder]) -> Fail {
    let shown: Vec<String> = holders.iter().map(ToString::to_string).collect();
    let text = match shown.as_slice() {
        [] => format!("{address} is in use, by a process that cannot be seen from here"),
        some => format!("{address} is in use: {}", some.join("; ")),
    };
    let unit = holders.first().and_then(|holder| holder.unit.clone());
    let hint = match unit.as_deref() {
        Some("app-cluster.socket") => "that is the app `app-cluster`, which the package brings: \
             sudo app-cluster delete app-cluster, or listen elsewhere"
            .to_owned(),
        Some(unit) => match unit
            .strip_prefix("app-cluster@")
            .and_then(|u| u.split_once(['.', ':']))
        {
            Some((app, _)) => format!("sudo app-cluster stop {app}, or listen elsewhere"),
            None => format!("sudo systemctl stop {unit}, or listen elsewhere"),
        },
        None => "stop that, or listen elsewhere".to_owned(),
    };
    Fail::new(Status::Failed, text).hint(hint)
}
