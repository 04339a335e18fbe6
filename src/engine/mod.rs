// SPDX-License-Identifier: MIT OR Apache-2.0
//! The shell around the core: one thread, one epoll.
//!
//! A turn: wait → ready sources in the order of their [`Token`]s, each turned into
//! [`Event`]s → deadlines → what systemd should know. Nothing in here blocks but the
//! wait itself, and what one worker does never leaves a turn as an error: it is an
//! event.

mod announce;
mod begin;
mod bind;
mod cgroup;
mod companion;
mod end;
mod events;
mod fault;
mod fits;
mod foreign;
mod health;
mod journal;
mod listeners;
mod memory;
mod messages;
mod node;
mod notify;
mod output;
mod perform;
mod plan;
mod poller;
mod readiness;
mod release;
mod report;
mod resume;
mod room;
mod runtime;
mod sources;
mod spawn;
mod steer;
mod systemd;
mod tree;

pub use bind::open;
pub use cgroup::mount as cgroup_mount;
pub use events::id as message_id;
pub use journal::{Journal, Level, Record};
pub use listeners::{Listener, Passed, group, inherit};
pub use node::learn;
pub use output::Style;
pub use report::{is_main_process_of_a_unit, rfc3339};
pub use resume::{CHECK_VERB, Kept, Resumed, check as check_snapshot};
pub use room::make as make_room;
pub use runtime::{Runtime, candidates as runtime_candidates, directory as runtime_directory};
pub use steer::SECRET_FILE;
pub use systemd::{Systemd, watchdog};

use crate::config::{Config, ConfigError};
use crate::core::{Action, Event, GenerationId, Outcome, RequestId, Supervisor, Time, WorkerId};
use crate::frontend::control::Control;
use crate::frontend::{Answer, Ask, OpenCalls};
use crate::units::Running;
use anyhow::{Context, Result};
use cgroup::Cgroup;
use nix::sys::eventfd::EventFd;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;
use nix::time::{ClockId, clock_gettime};
use notify::NotifySocket;
use output::Tail;
use poller::{Poller, Token};
use release::Release;
use resume::{Recorder, State, Strangers, Upgrade};
use sd_notify::NotifyState;
use spawn::Process;
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;
use steer::Steering;

/// Added to what is asked of systemd (EXTEND_TIMEOUT_USEC), so that our own deadlines
/// come first.
const MARGIN: Duration = Duration::from_secs(10);
/// Pause before systemd is told again what it did not take.
const SAY_AGAIN: Duration = Duration::from_secs(1);
/// How long the end may wait for a journald that does not read, and for clients.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Signals that are events; to be blocked before any thread is started.
pub const SIGNALS: [Signal; 10] = [
    Signal::SIGTERM,
    Signal::SIGQUIT,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGCHLD,
    Signal::SIGIO,
];

/// Blocks the signals that the engine reads from its signalfd. First thing in `main`.
pub fn block_signals() -> Result<()> {
    let mask: SigSet = SIGNALS.into_iter().collect();
    mask.thread_block().context("cannot block signals")
}

/// How to read the configuration; called again for each generation.
pub type Load = Box<dyn Fn() -> Result<Config, ConfigError>>;

/// What an engine is made of.
pub struct Parts {
    /// The app's name.
    pub name: String,
    /// Reads the configuration.
    pub load: Load,
    /// What `load` reads, for people.
    pub config: String,
    /// The first configuration, as read already.
    pub first: Config,
    /// The sockets to serve.
    pub listeners: Vec<Listener>,
    /// Whether the sockets are systemd's.
    pub inherited: bool,
    /// Where our sockets are made.
    pub runtime: Runtime,
    /// Where log lines go.
    pub journal: Journal,
    /// The line to systemd.
    pub systemd: Systemd,
    /// Foreground: how worker output is shown. `None`: workers write where we do.
    pub style: Option<Style>,
    /// What there is to go on with.
    pub resumed: Option<Resumed>,
    /// What the one before has left besides, if that cannot be gone on with.
    pub left: Kept,
}

/// What is held for a worker.
struct Held {
    process: Process,
    notify: NotifySocket,
    /// A readiness command under way.
    probe: Option<Process>,
    /// How it is asked how it is, at present.
    check: Option<health::Check>,
    tail: Option<Tail>,
    /// The line that it was given of each listener.
    lines: Vec<Option<usize>>,
    /// What is said over its channel, if it has one.
    talk: Option<node::Talk>,
}

/// Somebody who waits for an answer.
struct Waiting {
    answers: Sender<Answer>,
    /// Steps that may still be reported: a client that does not read costs no more.
    steps: u32,
}

/// The supervisor at work.
pub struct Engine {
    name: String,
    load: Load,
    config: String,
    core: Supervisor,
    poller: Poller,
    signals: SignalFd,
    bell: Arc<EventFd>,
    calls: Receiver<Ask>,
    open: OpenCalls,
    listeners: Vec<Listener>,
    steering: Steering,
    node: node::Primary,
    audience: messages::Audience,
    memory: memory::Looks,
    companion: companion::Companion,
    inherited: bool,
    releases: BTreeMap<GenerationId, Release>,
    held: BTreeMap<WorkerId, Held>,
    /// Output of the last workers that are gone, for whoever asks why.
    tails: VecDeque<(WorkerId, Tail)>,
    /// Cgroups of workers that are gone, with processes that are dying.
    dying: BTreeMap<WorkerId, File>,
    waiting: BTreeMap<RequestId, Waiting>,
    next_request: u64,
    pending: VecDeque<Event>,
    outcome: Option<Outcome>,
    runtime: Runtime,
    journal: Journal,
    systemd: Systemd,
    style: Option<Style>,
    cgroup: Option<Cgroup>,
    unit: Option<String>,
    /// What the packaged unit, if it is ours, was made from.
    running: Option<Running>,
    watchdog: Option<Duration>,
    next_ping: Option<Time>,
    extended: Option<Time>,
    notify_refused: u64,
    notify_garbage: u64,
    interrupted: bool,
    /// A listener that cannot be made to listen again, and what to do.
    broken: Option<String>,
    /// Hangs up when systemd knows that we are ready.
    barrier: Option<OwnedFd>,
    recorder: Recorder,
    upgrade: Option<Upgrade>,
    strangers: Strangers,
    foreign: foreign::Foreign,
    /// The configuration of now cannot be used.
    stale: Option<String>,
    /// Our program, as it may be executed again.
    program: PathBuf,
    /// What there is to go on with, until that is done.
    resumed: Option<State>,
    /// Descriptors for that, or of those who cannot be taken over.
    left: Kept,
    // Last, so that its file is removed when everything else is gone.
    control: Control,
}

/// CLOCK_MONOTONIC (clock_gettime(2)).
pub fn now() -> Time {
    let spec = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
    Time(spec.unwrap_or_default().as_micros() as u64)
}

impl Engine {
    /// Supervises until the end.
    ///
    /// # Errors
    /// Only what makes supervision itself impossible (epoll, signalfd).
    pub fn run(mut self) -> Result<Outcome> {
        self.next_ping = self.watchdog.map(|_| now());
        let mut left = std::mem::take(&mut self.left);
        match self.resumed.take() {
            Some(state) => {
                self.restore_watchdog();
                self.take_over(state, left);
            }
            None => {
                self.warn_of_other_units();
                // Ahead of the first worker: nobody accepts yet from what is put in order.
                self.steer();
                self.meet_strangers(false, &mut left);
                drop(left);
                // So that it misses no message.
                self.companion_turn();
                self.feed(Event::Begin);
            }
        }
        self.end_turn();
        while self.is_needed() {
            let timeout = self.next_deadline().map(|at| at.since(now()));
            for token in self.poller.wait(timeout)? {
                self.take(token);
            }
            self.health_turn();
            if self.core.next_deadline().is_some_and(|at| at <= now()) {
                self.feed(Event::Wake);
            }
            self.end_turn();
        }
        self.finish()
    }

    /// Whether there is something left to do.
    fn is_needed(&self) -> bool {
        let companion = self.companion.is_running() && !self.companion_is_foreign();
        self.outcome.is_none() || companion || self.strays_until().is_some()
    }

    fn next_deadline(&self) -> Option<Time> {
        let ping = self.next_ping.into_iter();
        let again = self.systemd.owes().then(|| now() + SAY_AGAIN);
        let core = self.core.next_deadline().into_iter();
        let steering = self.steering.next_deadline();
        let node = self.node_deadline();
        let companion = self.companion.deadline();
        let health = self.health_deadline();
        let upgrade = self.upgrade.as_ref().and_then(Upgrade::deadline);
        let strangers = self.strangers_deadline();
        let record = self.recorder.again().filter(|_| self.is_recorded());
        let record = record.map(|pause| now() + pause);
        ping.chain(core)
            .chain(again)
            .chain(steering)
            .chain(node)
            .chain(companion)
            .chain(health)
            .chain(upgrade)
            .chain(strangers)
            .chain(record)
            .min()
    }

    /// Gives an event to the core and does what it says, until nothing follows.
    fn feed(&mut self, event: Event) {
        self.pending.push_back(event);
        while let Some(event) = self.pending.pop_front() {
            let actions = self.recorder.follow(&mut self.core, now(), event);
            let first = actions.iter().position(Action::ends_a_worker);
            let signals = actions.iter().filter_map(Action::signals).collect();
            let mut signals = Some(signals);
            for (n, action) in actions.into_iter().enumerate() {
                if Some(n) == first {
                    self.record_ends(signals.take().unwrap_or_default());
                }
                self.perform(action);
            }
        }
    }

    /// What systemd should know after each turn. A ping is only sent from here: by a
    /// loop that turns.
    fn end_turn(&mut self) {
        self.node_turn();
        self.companion_turn();
        self.steer();
        self.systemd.set_status(&self.status_line());
        if let Some(barrier) = self.systemd.take_barrier()
            && self.poller.add(&barrier, Token::Barrier).is_ok()
        {
            self.barrier = Some(barrier);
        }
        let busy = self.core.busy_until().max(self.strays_until());
        if busy != self.extended {
            let heard = busy.is_none_or(|at| self.systemd.extend(at.since(now()) + MARGIN));
            if heard {
                self.extended = busy;
            }
        }
        if let (Some(at), Some(interval)) = (self.next_ping, self.watchdog)
            && at <= now()
        {
            self.systemd.say(&[NotifyState::Watchdog]);
            // What is only looked at now and then.
            self.steering.outdate();
            self.ask_all();
            self.ask_vitals();
            self.next_ping = Some(now() + interval / 2);
        }
        self.strangers_turn();
        self.foreigners_turn();
        self.upgrade_turn();
        self.record_turn();
    }

    /// The one that executed us has asked systemd to be patient.
    fn restore_watchdog(&mut self) {
        if let Some(interval) = self.watchdog {
            let line = format!("WATCHDOG_USEC={}", interval.as_micros());
            self.systemd
                .say(&[NotifyState::Custom(&line), NotifyState::Watchdog]);
        }
    }

    fn log(&mut self, record: Record) {
        self.journal.log(record);
    }

    fn warn(&mut self, message: impl Into<String>) {
        self.journal.log(Record::plain(Level::Warning, message));
    }

    fn cgroup_name(&self, worker: Option<WorkerId>) -> Option<String> {
        Some(self.cgroup.as_ref()?.name_of(worker?))
    }
}
