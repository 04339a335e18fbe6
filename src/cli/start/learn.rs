// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a new app listens, if nobody has said it: one worker of it is started, asked, and
//! ended.

use super::caller::DEFAULT_USER;
use super::file::NewApp;
use crate::cli::{Fail, Status, settings};
use crate::config::{Config, Launch, Listen, ListenAddress};
use crate::engine::learn::{Unknown, first_query};
use crate::protocol::node::message::{Kind, Query};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Uid, User, geteuid};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How long the worker may take to ask.
const WITHIN: Duration = Duration::from_secs(30);
/// What systemd gives to services (systemd.exec(5)).
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin";

/// Signals that end this command, caught as long as this lives, so that nothing that was
/// started is left.
pub struct Interrupts {
    mask: SigSet,
    signals: SignalFd,
}

impl Interrupts {
    /// To be called ahead of the first thread.
    pub fn catch() -> Result<Interrupts, Fail> {
        let ends = [
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGQUIT,
        ];
        let mask: SigSet = ends.into_iter().collect();
        let failed = |error: nix::Error| {
            let text = format!("cannot catch signals: {error}");
            Fail::new(Status::Failed, text)
        };
        mask.thread_block().map_err(failed)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&mask, flags).map_err(failed)?;
        Ok(Interrupts { mask, signals })
    }
}

impl Drop for Interrupts {
    /// One that has come acts now.
    fn drop(&mut self) {
        let _ = self.mask.thread_unblock();
    }
}

fn unknown(name: &str, why: &str) -> Fail {
    let text = format!("where is {name} to listen? {why}");
    Fail::new(Status::Usage, text).hint("say it: -l 3000")
}

/// What is said where no worker may be started.
pub fn not_with_dry_run(name: &str) -> Fail {
    unknown(name, "It is not started to find out with --dry-run")
}

/// Finds the address out.
pub fn address(app: &NewApp, interrupts: &Interrupts) -> Result<Listen, Fail> {
    let name = &app.name;
    let unknown = |why: String| unknown(name, &why);
    let user = app.user.as_deref().unwrap_or(DEFAULT_USER);
    let launch = launch(app, user)?;
    if launch.runner.is_some() {
        errln!("{name} | starting one worker to see where it listens");
    }
    let other = other_user(user)
        .map_err(|()| unknown(format!("Only root can start a worker as `{user}`")))?;
    let query = first_query(&launch, other.as_deref(), WITHIN, &interrupts.signals);
    let query = query.map_err(|why| match why {
        Unknown::NotNode => unknown("That is found out of Node programs only".to_owned()),
        Unknown::Ended(exit, lines) => {
            show(&lines);
            unknown(format!("A worker {exit} before it listened"))
        }
        Unknown::Silent(lines) => {
            show(&lines);
            unknown(format!(
                "A worker has not listened within {}s",
                WITHIN.as_secs()
            ))
        }
        Unknown::Interrupted => Fail::new(Status::Failed, "interrupted"),
        Unknown::System(error) => {
            let text = format!("cannot start a worker to see where it listens: {error}");
            Fail::new(Status::Failed, text).hint("say it: -l 3000")
        }
    })?;
    let listen = listener(&query)
        .ok_or_else(|| unknown(format!("A worker asks for {query}, which is no address")))?;
    errln!("{name} | it listens on {}", listen.address);
    Ok(listen)
}

/// What its workers will be: the same configuration, with any address.
fn launch(app: &NewApp, user: &str) -> Result<Launch, Fail> {
    let config = Config::parse(&app.render(), &app.name).map_err(settings::bad_config)?;
    let mut environment = vec![("PATH".to_owned(), PATH.to_owned())];
    if let Some(account) = account(user) {
        let home = account.dir.display().to_string();
        environment.push(("HOME".to_owned(), home));
        environment.push(("USER".to_owned(), account.name.clone()));
        environment.push(("LOGNAME".to_owned(), account.name));
    }
    if let Ok(language) = std::env::var("LANG") {
        environment.push(("LANG".to_owned(), language));
    }
    environment.push(("WORKER_COUNT".to_owned(), "1".to_owned()));
    environment.push(("NODE_APP_INSTANCE".to_owned(), "0".to_owned()));
    Launch::resolve(&config, environment).map_err(settings::bad_config)
}

fn account(user: &str) -> Option<User> {
    let found = match user.parse() {
        Ok(uid) => User::from_uid(Uid::from_raw(uid)),
        Err(_) => User::from_name(user),
    };
    found.ok().flatten()
}

/// The name of the user to become; `None`: we are it.
fn other_user(user: &str) -> Result<Option<String>, ()> {
    let account = account(user).ok_or(())?;
    match account.uid == geteuid() {
        true => Ok(None),
        false if geteuid().is_root() => Ok(Some(account.name)),
        false => Err(()),
    }
}

fn show(lines: &[String]) {
    if !lines.is_empty() {
        errln!("last lines of the worker:");
    }
    for line in lines {
        errln!("  | {}", crate::cli::logs::harmless(line));
    }
}

/// The listener that a worker means.
fn listener(query: &Query) -> Option<Listen> {
    let address = match query.kind {
        Kind::Path => ListenAddress::Unix(PathBuf::from(query.address.as_deref()?)),
        Kind::V4 | Kind::V6 if query.fd.is_none() => {
            let port = query.port.and_then(|p| u16::try_from(p).ok());
            let port = port.filter(|port| *port != 0)?;
            match query.address.as_deref() {
                None => ListenAddress::Port(port),
                Some(ip) => ListenAddress::Tcp(SocketAddr::new(ip.parse().ok()?, port)),
            }
        }
        _ => return None,
    };
    Listen::unnamed(address).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_worker_asks_for_becomes_an_address() {
        let asked = |address: Option<&str>, port, kind| {
            let query = Query {
                address: address.map(str::to_owned),
                port: Some(port),
                kind,
                ..Query::default()
            };
            listener(&query).map(|listen| listen.address.to_string())
        };
        assert_eq!(asked(None, 3000, Kind::V4).as_deref(), Some("3000"));
        let local = asked(Some("127.0.0.1"), 80, Kind::V4);
        assert_eq!(local.as_deref(), Some("127.0.0.1:80"));
        assert_eq!(
            asked(Some("::1"), 80, Kind::V6).as_deref(),
            Some("[::1]:80")
        );
        let path = asked(Some("/run/x.sock"), -1, Kind::Path);
        assert_eq!(path.as_deref(), Some("unix:/run/x.sock"));
        for nothing in [
            asked(None, 0, Kind::V4),
            asked(None, 70_000, Kind::V4),
            asked(None, 53, Kind::Udp),
        ] {
            assert_eq!(nothing, None);
        }
    }
}
