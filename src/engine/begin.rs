// SPDX-License-Identifier: MIT OR Apache-2.0
//! The beginning: a supervisor with everything that it needs, of its own or another one's.

use super::cgroup::Cgroup;
use super::listeners::Listener;
use super::poller::{Poller, Token};
use super::release::Release;
use super::resume::{Kept, Name, Recorder, Resumed, State, Strangers};
use super::steer::Steering;
use super::tree;
use super::{
    Engine, Level, Parts, Record, SIGNALS, companion, memory, messages, node, now, report, systemd,
};
use crate::core::{GenerationId, Supervisor};
use crate::frontend::Desk;
use crate::frontend::control::Control;
use crate::units::Running;
use anyhow::Result;
use nix::sys::eventfd::EventFd;
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;

/// What is known at the start.
struct Known {
    core: Supervisor,
    releases: BTreeMap<GenerationId, Release>,
    node: node::Primary,
    recorder: Recorder,
    incarnation: u64,
    resumed: Option<State>,
    left: Kept,
}

impl Engine {
    /// Prepares everything; nothing is spawned yet.
    ///
    /// # Errors
    /// The configuration does not fit this machine, or a system call failed.
    pub fn new(mut parts: Parts) -> Result<Engine> {
        let (desk, calls, bell) = Desk::new()?;
        let open = desk.open();
        let kept = parts.resumed.as_mut();
        let kept = kept.and_then(|resumed| resumed.kept.take(Name::Control));
        let (control, control_is_new) = Control::listen(&parts.runtime.control(), desk, kept)?;
        let cgroup = Cgroup::delegated();
        let preload = write_preload(&mut parts);
        let mut known = match parts.resumed.take() {
            Some(resumed) => go_on(resumed, preload),
            None => begin(&mut parts, preload)?,
        };
        // Whoever was left keeps its number.
        let groups = match &cgroup {
            Some(cgroup) => cgroup.workers(),
            None => tree::by_notify_socket(&parts.runtime.notify_directory())
                .into_iter()
                .map(|(worker, _)| worker)
                .collect(),
        };
        let left = groups.into_iter().chain(known.left.channels());
        let highest = left.map(|worker| worker.0).max();
        known.core.number_from(highest.unwrap_or(0) + 1);
        if control_is_new {
            known.recorder.replaced(Name::Control);
        }
        let serving = known.releases.get(&known.core.generation());
        let blocking = serving.is_some_and(|release| release.config.blocking);
        let memory = memory::Looks::new()?;
        let (poller, signals) = watch(&parts.listeners, blocking, &bell, &memory)?;
        // Processes that lose their parent become our children, so that none is lost.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let managed = report::is_main_process_of_a_unit();
        let unit = managed.then(report::own_unit).flatten();
        let is_there = parts.systemd.is_there();
        Ok(Engine {
            running: Running::look(&parts.name, unit.as_deref()),
            core: known.core,
            name: parts.name,
            load: parts.load,
            config: parts.config,
            poller,
            signals,
            bell,
            calls,
            open,
            // systemd watches the sockets that it passed until it knows that we are ready.
            steering: Steering::new(&parts.listeners, parts.inherited && is_there),
            listeners: parts.listeners,
            node: known.node,
            audience: messages::Audience::default(),
            memory,
            companion: companion::Companion::default(),
            inherited: parts.inherited,
            releases: known.releases,
            held: BTreeMap::new(),
            tails: VecDeque::new(),
            dying: BTreeMap::new(),
            waiting: BTreeMap::new(),
            // Those of a supervisor before us may still be known.
            next_request: (known.incarnation << 32) + 1,
            pending: VecDeque::new(),
            outcome: None,
            runtime: parts.runtime,
            journal: parts.journal,
            unit,
            watchdog: is_there.then(|| systemd::watchdog().0).flatten(),
            systemd: parts.systemd,
            style: parts.style,
            cgroup,
            next_ping: None,
            extended: None,
            notify_refused: 0,
            notify_garbage: 0,
            interrupted: false,
            broken: None,
            barrier: None,
            recorder: known.recorder,
            upgrade: None,
            strangers: Strangers::default(),
            foreign: BTreeMap::new(),
            stale: None,
            program: own_program(),
            resumed: known.resumed,
            left: known.left,
            control,
        })
    }
}

/// An app that nobody has supervised.
fn begin(parts: &mut Parts, preload: Option<PathBuf>) -> Result<Known> {
    parts.runtime.clear()?;
    let mut left = std::mem::take(&mut parts.left);
    let is_channel = |name: &String| matches!(Name::parse(name), Some(Name::Channel(_)));
    left.keep_channels();
    let names = std::mem::take(&mut left.names).into_iter();
    // They stay as long as there is somebody at the other end.
    let (channels, rest): (Vec<String>, Vec<String>) = names.partition(is_channel);
    let mut recorder = Recorder::new(None, channels, 1);
    for name in rest {
        // Of no use to anybody.
        if !parts.systemd.unstore(&name) {
            recorder.remove(name);
        }
    }
    parts.runtime.begins_afresh();
    let release = Release::new(parts.first.clone())?;
    let policy = release.policy(parts.listeners.is_empty());
    let seed = now().0 ^ u64::from(std::process::id());
    Ok(Known {
        core: Supervisor::new(policy, seed),
        releases: BTreeMap::from([(GenerationId(1), release)]),
        node: node::Primary::new(preload),
        recorder,
        incarnation: 1,
        resumed: None,
        left,
    })
}

/// An app that somebody has supervised.
fn go_on(resumed: Resumed, preload: Option<PathBuf>) -> Known {
    let Resumed {
        mut state,
        snapshot,
        mut kept,
    } = resumed;
    let mut releases = std::mem::take(&mut state.releases);
    for release in releases.values_mut() {
        let own = crate::config::inherited_environment();
        release.launch.renew(&release.config, own);
    }
    let primary = std::mem::take(&mut state.node);
    let incarnation = state.incarnation + 1;
    let names = std::mem::take(&mut kept.names);
    Known {
        core: state.core.clone(),
        releases,
        node: node::Primary::resume(primary, preload, &mut kept),
        recorder: Recorder::new(Some(snapshot), names, incarnation),
        incarnation,
        resumed: Some(state),
        left: kept,
    }
}

/// The file that Node workers load ahead of the app.
fn write_preload(parts: &mut Parts) -> Option<PathBuf> {
    let place = parts.runtime.preload();
    match parts.runtime.write_preload(crate::protocol::node::PRELOAD) {
        Ok(()) => Some(place),
        Err(error) => {
            parts.journal.log(Record::plain(
                Level::Warning,
                format!(
                    "cannot write {}: {error}; kept-alive connections of Node workers may lose \
                     requests at reloads, and launchers such as npm do not work",
                    place.display()
                ),
            ));
            None
        }
    }
}

/// All that is there from the start and that something may happen on.
fn watch(
    listeners: &[Listener],
    blocking: bool,
    bell: &EventFd,
    memory: &memory::Looks,
) -> Result<(Poller, SignalFd)> {
    for listener in listeners {
        listener.set_blocking(blocking)?;
        listener.prepare_for_steering()?;
    }
    let mask: SigSet = SIGNALS.into_iter().collect();
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&mask, flags)?;
    let poller = Poller::new()?;
    poller.add(&signals, Token::Signal)?;
    poller.add(bell, Token::Request)?;
    poller.add(memory.bell(), Token::Measured)?;
    for (n, listener) in listeners.iter().enumerate() {
        for (line, socket) in listener.lines.iter().enumerate() {
            poller.add(&socket.fd, Token::Line(n, line))?;
        }
    }
    Ok((poller, signals))
}

/// Where our program was when we were started: there a newer one is put in its place.
fn own_program() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    let text = own.to_string_lossy();
    // As proc_pid_exe(5) has it if that has happened already.
    PathBuf::from(text.strip_suffix(" (deleted)").unwrap_or(&text))
}
