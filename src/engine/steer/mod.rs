// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which line of a listener a connection goes to.
//!
//! A program attached to the lines ([`program`]) names those of the slots that have a ready
//! worker; whenever that changes, another one takes its place, and no socket opens or
//! closes. Lines that nobody accepts from are [`spare`]: what gets into their queues all
//! the same is handed to others. With `even`, slots that have less to do get more
//! ([`weights`]).

mod mend;
mod order;
mod program;
mod proxy;
mod secret;
mod spare;
mod weights;

pub use secret::FILE as SECRET_FILE;

use super::listeners::Listener;
use super::node::Talk;
use super::poller::{Interest, Token};
use super::{Engine, Level, Record, now};
use crate::config::Spread;
use crate::core::{SlotId, Time, WorkerId, WorkerState};
use program::Instruction;
use std::collections::{BTreeMap, BTreeSet};
use weights::Looks;

/// What is known about the choice of lines. Vectors are by listener, then by line.
pub struct Steering {
    /// systemd polls the lines, so that none may stop listening: until it knows that the
    /// service runs (socket units are `listening` until then).
    watched: bool,
    /// The lines by the number that the kernel has for them: one that stops listening gives
    /// its number to the last one, and one that begins is the last.
    order: Vec<Vec<usize>>,
    attached: Vec<Option<Vec<Instruction>>>,
    interest: Vec<Vec<Interest>>,
    /// Whether connections are announced.
    announced: Vec<Vec<bool>>,
    /// Something has changed that the programs depend on.
    outdated: bool,
    /// Since when a connection waits in a spare line whose last worker is still leaving.
    waiting_since: BTreeMap<(usize, usize), Time>,
    /// When it is to be seen whether those noticed to whom connections were handed.
    nudge: Option<Time>,
    looks: Looks,
    /// From which the places of clients are computed (`sticky`); read when needed.
    secret: Option<u64>,
    /// The order is known: a supervisor before us may have left another than ours.
    ordered: bool,
    /// What the file about it says.
    noted: Option<String>,
    /// Listeners whose order is not known, and when to put them in order.
    uncertain: BTreeSet<usize>,
    settle: Option<Time>,
    /// When to try again to make lines listen that could not.
    mend: Option<Time>,
    /// Errors that have been told: of attaching, of handing on.
    complained: (bool, bool),
    /// How often lines were shut down by workers.
    mended: u64,
    proxy: proxy::Proxy,
}

/// A slot that connections can go to, and its line of some listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    line: usize,
    slot: SlotId,
    /// `None`: it has no ready worker, but will have one.
    worker: Option<WorkerId>,
}

impl Steering {
    /// Nothing is attached yet.
    /// `watched`: systemd polls the lines, and would give them up if it saw one shut down.
    pub fn new(listeners: &[Listener], watched: bool) -> Steering {
        Steering {
            watched,
            order: listeners
                .iter()
                .map(|l| (0..l.lines.len()).collect())
                .collect(),
            attached: vec![None; listeners.len()],
            interest: listeners
                .iter()
                .map(|l| vec![Interest::Hangup; l.lines.len()])
                .collect(),
            announced: listeners
                .iter()
                .map(|l| vec![false; l.lines.len()])
                .collect(),
            outdated: true,
            waiting_since: BTreeMap::new(),
            nudge: None,
            looks: Looks::default(),
            secret: None,
            ordered: false,
            noted: None,
            uncertain: BTreeSet::new(),
            settle: None,
            mend: None,
            complained: (false, false),
            mended: 0,
            proxy: proxy::Proxy::default(),
        }
    }

    /// To be called when a worker or the number of workers has changed.
    pub fn outdate(&mut self) {
        self.outdated = true;
    }

    /// Whether no connection waits where it should not.
    pub fn is_idle(&self) -> bool {
        self.waiting_since.is_empty()
    }

    /// When [`Engine::steer`] has something to do.
    pub fn next_deadline(&self) -> Option<Time> {
        let spare = self
            .waiting_since
            .values()
            .map(|since| *since + spare::PATIENCE);
        let others = self.nudge.into_iter().chain(self.looks.next);
        spare
            .chain(others)
            .chain(self.settle)
            .chain(self.mend)
            .min()
    }
}

impl Engine {
    /// How connections are spread, in the generation that was rolled out last.
    pub(super) fn spread(&self) -> Spread {
        let release = self.releases.get(&self.core.generation());
        release.map_or(Spread::Shared, |release| release.config.spread())
    }

    /// Brings the choice of lines up to date. Called at the end of each turn; does nothing
    /// unless something has changed or is due.
    pub(super) fn steer(&mut self) {
        let due = self.steering.next_deadline().is_some_and(|at| at <= now());
        if !self.steering.outdated && !due {
            return;
        }
        self.steering.outdated = false;
        if !std::mem::replace(&mut self.steering.ordered, true) {
            self.find_order();
        }
        self.mend_again();
        self.settle_order();
        let spread = self.spread();
        if due {
            self.look_at_loads(spread);
            self.nudge_sleepers();
        }
        for listener in 0..self.listeners.len() {
            if self.listeners[listener].is_steered() {
                self.mend_now(listener);
                let places = self.places(listener, spread);
                self.attach_for(listener, spread, &places);
                let spares = self.tend_spares(listener, &places);
                // The numbers may be others now.
                self.attach_for(listener, spread, &places);
                self.watch_lines(listener, spread, &places, &spares);
            }
        }
        self.note_order();
    }

    /// systemd has left the sockets to us.
    pub(super) fn systemd_knows(&mut self) {
        if let Some(barrier) = self.barrier.take() {
            self.poller.remove(&barrier);
        }
        self.steering.watched = false;
        self.steering.outdate();
    }

    /// At the end, when no worker is left: nothing may stay shut down, and the next supervisor
    /// should find the lines in order.
    pub(super) fn leave_lines(&mut self) {
        for listener in 0..self.listeners.len() {
            let lines = &self.listeners[listener].lines;
            if lines.iter().any(|line| line.is_shut_down()) {
                self.mend(listener);
            }
            let in_order = self.steering.order[listener].is_sorted()
                && !self.steering.uncertain.contains(&listener);
            if !in_order && self.may_put_in_order(listener) {
                let _ = self.try_to_put_in_order(listener);
            }
        }
        self.note_order();
    }

    /// Something has happened on a line: it was shut down, or a connection waits in it though
    /// it is spare.
    pub(super) fn take_line(&mut self, listener: usize, line: usize) {
        let Some(socket) = self.listeners.get(listener).and_then(|l| l.lines.get(line)) else {
            return;
        };
        if socket.is_shut_down() {
            self.mend(listener);
        }
        self.deal();
        self.steering.outdate();
    }

    /// Connections come, in lines where they are announced.
    pub(super) fn see_traffic(&mut self) {
        self.steering.looks.begin(now());
        self.steering.outdate();
    }

    /// Who is to get connections: the slots with a ready worker that has not closed its server;
    /// where there is none, those that will have one, so that connections wait where somebody
    /// will come.
    fn places(&self, listener: usize, spread: Spread) -> Vec<Place> {
        let mut found: Vec<(bool, Place)> = self
            .core
            .workers()
            .filter(|w| w.state == WorkerState::Ready && w.blocked.is_none())
            .filter_map(|w| {
                let held = self.held.get(&w.id)?;
                let serves = |talk: &Talk| talk.serves(listener);
                let line = (*held.lines.get(listener)?)?;
                held.talk.as_ref().is_none_or(serves).then_some(())?;
                let place = Place {
                    line,
                    slot: w.slot,
                    worker: Some(w.id),
                };
                Some((w.not_ready.is_none(), place))
            })
            .collect();
        // Those that want no traffic get it only if all are such.
        if found.iter().any(|(wants, _)| *wants) {
            found.retain(|(wants, _)| *wants);
        }
        let mut places: Vec<Place> = found.into_iter().map(|(_, place)| place).collect();
        if places.is_empty() {
            let slots = (0..self.core.desired_workers().0).map(SlotId);
            places.extend(slots.filter_map(|slot| {
                let line = self.listeners[listener].line_of(slot, spread)?;
                Some(Place {
                    line,
                    slot,
                    worker: None,
                })
            }));
        }
        // Two workers of one slot, as during a reload, count once.
        places.sort();
        places.dedup_by_key(|place| (place.line, place.slot));
        places
    }

    fn attach_for(&mut self, listener: usize, spread: Spread, places: &[Place]) {
        let order = self.steering.order[listener].clone();
        let number = |line: usize| order.iter().position(|l| *l == line).unwrap_or(0) as u32;
        let mut numbers: Vec<u32> = places.iter().map(|place| number(place.line)).collect();
        let program = match spread {
            Spread::Shared | Spread::RoundRobin | Spread::Even => {
                let mut weights: BTreeMap<u32, u32> = BTreeMap::new();
                for place in places {
                    let weight = self.steering.looks.weight(place.worker);
                    *weights.entry(number(place.line)).or_default() += weight;
                }
                program::random(&weights.into_iter().collect::<Vec<_>>())
            }
            Spread::Sticky => {
                numbers.dedup();
                let secret = self.secret();
                let line = |number: u32| order[number as usize] as u32;
                program::by_address(&numbers, |number| secret::seed(secret, line(number)))
            }
        };
        self.attach(listener, program);
    }

    /// Attaches a program to the lines of a listener, unless it is there already.
    fn attach(&mut self, listener: usize, program: Vec<Instruction>) {
        if self.steering.attached[listener].as_ref() == Some(&program) {
            return;
        }
        let target = &self.listeners[listener];
        let mut encoded = program::encode(&program);
        let length = u16::try_from(encoded.len()).unwrap_or(u16::MAX);
        let filter = nix::libc::sock_fprog {
            len: length,
            filter: encoded.as_mut_ptr(),
        };
        // Through a line whose SO_REUSEPORT does not matter: see `Line::attach`.
        let order = &self.steering.order[listener];
        let through = match target.address.starts_with('[') {
            true => order.last(),
            false => order.first(),
        };
        let line = &target.lines[through.copied().unwrap_or(0)];
        match line.attach(&filter) {
            Ok(()) => self.steering.attached[listener] = Some(program),
            // Has just been shut down: that is reported, and mended first.
            Err(_) if line.is_shut_down() => self.steering.outdated = true,
            Err(error) if !self.steering.complained.0 => {
                self.steering.complained.0 = true;
                let text = format!(
                    "cannot choose between the sockets of listener {}: {error} (the socket unit \
                     needs ReusePort=yes); connections are spread by the kernel's own hash",
                    target.name
                );
                self.log(Record::plain(Level::Error, text));
            }
            Err(_) => {}
        }
    }

    /// Sets what is to be known of a line.
    pub(super) fn set_interest(&mut self, listener: usize, line: usize, interest: Interest) {
        if self.steering.interest[listener][line] == interest {
            return;
        }
        let socket = &self.listeners[listener].lines[line];
        let token = Token::Line(listener, line);
        if self.poller.change(&socket.fd, token, interest).is_ok() {
            self.steering.interest[listener][line] = interest;
        }
    }

    /// Says what is to be known of each line: of a spare one that a connection waits there,
    /// of one that is chosen that there is traffic, where that matters.
    fn watch_lines(&mut self, listener: usize, spread: Spread, places: &[Place], spares: &[usize]) {
        let matters = match spread {
            Spread::Shared | Spread::RoundRobin => false,
            Spread::Even => places.len() > 1,
            Spread::Sticky => self.steering.proxy.wants_to_look(now()) || self.speaks_node(),
        };
        let traffic = matters && self.steering.looks.next.is_none();
        for line in 0..self.listeners[listener].lines.len() {
            let ripening = self.steering.waiting_since.contains_key(&(listener, line));
            let free = !ripening
                && match self.speaks_node() {
                    // It waits for the first to come.
                    true => places.iter().any(|place| place.worker.is_some()),
                    false => !self.steering.watched,
                };
            if self.is_dealt(listener, line) {
                self.set_announced(listener, line, false);
                continue;
            }
            let interest = match spares.contains(&line) && free {
                true => Interest::Connection,
                false => Interest::Hangup,
            };
            self.set_interest(listener, line, interest);
            let chosen = places.iter().any(|place| place.line == line);
            self.set_announced(listener, line, traffic && chosen);
        }
    }

    fn set_announced(&mut self, listener: usize, line: usize, announced: bool) {
        let before = &mut self.steering.announced[listener][line];
        let socket = &self.listeners[listener].lines[line];
        if *before != announced && socket.announce(announced).is_ok() {
            *before = announced;
        }
    }
}
