// SPDX-License-Identifier: MIT OR Apache-2.0
//! Turning what is ready into events. Each source gets a bounded amount of work a turn.

use super::poller::Interest;
use super::resume::{Upgrade, Way};
use super::spawn::{next_zombie, reap, try_wait};
use super::{Engine, Level, Record, Tail, Token, Waiting, fault, tree};
use crate::api::{self, Call};
use crate::config::Cpus;
use crate::core::{
    Done, Event, Exit, Failure, Notification, Request, RequestId, Scale, SlotId, WorkerId,
};
use crate::frontend::{Answer, Ask};
use nix::libc;
use std::sync::mpsc::Sender;
use std::time::Duration;

/// Datagrams taken from one worker in one turn.
const DATAGRAMS: usize = 16;
/// The same ahead of a judgement: more than the kernel keeps (net.unix.max_dgram_qlen).
const ALL_DATAGRAMS: usize = 1024;
/// Steps reported of one call, at the most.
const STEPS: u32 = 4096;
/// Longest text, in characters, of where a number of workers comes from.
const LONGEST_SOURCE: usize = 300;
/// Calls taken in one turn.
const CALLS: usize = 32;
/// Orphans reaped in one turn.
const ORPHANS: usize = 4096;
/// How long the last words of a failed worker are waited for.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// `si_code` of a signal that the kernel sent by itself (sigaction(2)); of SIGHUP: the
/// terminal has hung up.
const SI_KERNEL: i32 = 0x80;

impl Engine {
    pub(super) fn take(&mut self, token: Token) {
        match token {
            Token::Notify(worker) => self.take_notify(worker, false),
            Token::Channel(worker) => self.take_channel(worker, false),
            Token::CompanionChannel => self.take_companion_channel(),
            Token::Exit(worker) => self.take_exit(worker),
            Token::CompanionExit => self.take_companion_exit(),
            Token::ProbeExit(worker) => self.take_probe_exit(worker),
            Token::Health(worker) => self.take_health(worker),
            Token::HealthExit(worker) => self.take_check_exit(worker),
            Token::Signal => self.take_signals(),
            Token::Request => self.take_calls(),
            Token::Measured => self.take_measured(),
            Token::Program => self.upgrade_turn(),
            Token::Barrier => self.systemd_knows(),
            Token::Line(listener, line) => self.take_line(listener, line),
            Token::Cgroup(worker) => self.remove_cgroup(worker),
        }
    }

    /// [`crate::core::Action::Hear`]
    pub(super) fn hear(&mut self, worker: WorkerId) {
        for _ in 0..ALL_DATAGRAMS {
            let Some(said) = self.read_notify(worker) else {
                break;
            };
            let events = said.into_iter();
            let events = events.map(|what| Event::Notified { worker, what });
            self.pending.extend(events);
        }
        self.pending.push_back(Event::Heard { worker });
    }

    /// `last`: there is no later turn.
    fn take_notify(&mut self, worker: WorkerId, last: bool) {
        for _ in 0..DATAGRAMS {
            let Some(said) = self.read_notify(worker) else {
                return;
            };
            for what in said {
                self.feed(Event::Notified { worker, what });
            }
            fault::point("after-datagram");
            if !last && self.recorder.is_outdated() && self.is_recorded() {
                // It is forgotten with the record; what follows is for the next turn.
                return;
            }
        }
    }

    /// What the next datagram says, nothing if it may not; `None`: there is none.
    fn read_notify(&mut self, worker: WorkerId) -> Option<Vec<Notification>> {
        let datagram = match self.held.get_mut(&worker)?.notify.receive() {
            Ok(datagram) => datagram?,
            Err(error) => {
                self.warn(format!(
                    "cannot read the notify socket of {worker}: {error}"
                ));
                return None;
            }
        };
        let before = self.notify_garbage;
        self.notify_garbage += datagram.garbage as u64;
        // At the first, and whenever there are twice as many.
        if before.checked_ilog2() != self.notify_garbage.checked_ilog2() {
            let text = format!(
                "{} line(s) on notify sockets were not understood (last: worker {})",
                self.notify_garbage, datagram.pid
            );
            self.warn(text);
        }
        if self.may_speak_for(worker, datagram.pid, datagram.uid) {
            return Some(datagram.said);
        }
        self.notify_refused += 1;
        if self.notify_refused.is_power_of_two() {
            let text = format!(
                "refused a notification for {worker} from process {} of user {} ({} refused so \
                 far)",
                datagram.pid, datagram.uid, self.notify_refused
            );
            self.warn(text);
        }
        Some(Vec::new())
    }

    /// What workers have said is recorded.
    pub(super) fn forget_notifications(&mut self) {
        for held in self.held.values_mut() {
            held.notify.forget();
            if let Some(talk) = &mut held.talk {
                talk.forget();
            }
        }
    }

    /// Whether a process may speak for a worker: one of its own tree, or one that is gone
    /// already and was of our user (`systemd-notify` ends at once), and root.
    fn may_speak_for(&self, worker: WorkerId, pid: i32, uid: u32) -> bool {
        if uid == 0 {
            return true;
        }
        if uid != nix::unistd::geteuid().as_raw() {
            return false;
        }
        let Some(held) = self.held.get(&worker) else {
            return false;
        };
        if pid == held.process.pid {
            return true;
        }
        let owner = match &self.cgroup {
            Some(cgroup) => cgroup.worker_of(pid),
            None => tree::Stat::read(pid).and_then(|stat| {
                let mut all = self.held.iter();
                let found = all.find(|(_, other)| other.process.pid == stat.session)?;
                Some(*found.0)
            }),
        };
        owner.is_none_or(|id| id == worker)
    }

    fn take_exit(&mut self, worker: WorkerId) {
        // While the zombie is there its pid, and so its session, is nobody else's.
        self.kill_tree(worker);
        self.take_notify(worker, true);
        self.take_channel(worker, true);
        let Some(held) = self.held.get(&worker) else {
            return;
        };
        match try_wait(&held.process.pidfd) {
            Some(exit) => self.feed(Event::Exited { worker, exit }),
            // Its parent, which is not we, has not waited for it.
            None => {
                let token = Token::Exit(worker);
                let _ = self
                    .poller
                    .change(&held.process.pidfd, token, Interest::Hangup);
            }
        }
    }

    fn take_probe_exit(&mut self, worker: WorkerId) {
        let Some(held) = self.held.get_mut(&worker) else {
            return;
        };
        let Some(exit) = held.probe.as_ref().and_then(|p| try_wait(&p.pidfd)) else {
            return;
        };
        if let Some(probe) = held.probe.take() {
            self.poller.remove(&probe.pidfd);
        }
        let ready = exit == Exit::Code(0);
        self.feed(Event::Probed { worker, ready });
    }

    /// Takes away children that are no workers: orphans that came to us.
    pub(super) fn reap_orphans(&mut self) {
        for _ in 0..ORPHANS {
            let Some(pid) = next_zombie() else {
                return;
            };
            if self.companion.pid() == Some(pid) {
                self.take_companion_exit();
                continue;
            }
            let ours = self.held.iter().find(|(_, held)| held.process.pid == pid);
            if let Some((worker, _)) = ours {
                let worker = *worker;
                self.take_exit(worker);
                continue;
            }
            if self.upgrade.as_ref().and_then(Upgrade::asked) == Some(pid) {
                self.upgrade_turn();
                continue;
            }
            if let Some(worker) = self.checked_by(pid) {
                self.take_check_exit(worker);
                continue;
            }
            let probe = |held: &super::Held| held.probe.as_ref().is_some_and(|p| p.pid == pid);
            let probing = self.held.iter().find(|(_, held)| probe(held));
            match probing.map(|(worker, _)| *worker) {
                Some(worker) => self.take_probe_exit(worker),
                None => reap(pid),
            }
        }
    }

    fn take_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            match info.ssi_signo as i32 {
                libc::SIGCHLD => self.reap_orphans(),
                libc::SIGIO => self.see_traffic(),
                libc::SIGHUP if info.ssi_code == SI_KERNEL => {
                    self.stop("the terminal is gone: stopping");
                }
                libc::SIGHUP => self.want(Request::Reload, "SIGHUP: reload"),
                libc::SIGTERM | libc::SIGQUIT => self.stop("stopping"),
                libc::SIGINT if self.interrupted => {
                    self.companion.hurry();
                    self.want(Request::StopNow, "interrupted again: killing all workers");
                }
                libc::SIGINT => {
                    self.interrupted = true;
                    self.stop("stopping; interrupt again to kill all workers");
                }
                libc::SIGTTIN => self.want(Request::Scale(Scale::By(1)), "SIGTTIN: one more"),
                libc::SIGTTOU => self.want(Request::Scale(Scale::By(-1)), "SIGTTOU: one fewer"),
                libc::SIGUSR1 => self.dump(),
                libc::SIGUSR2 => {
                    self.log(Record::plain(
                        Level::Info,
                        "SIGUSR2: executing the program again",
                    ));
                    self.want_upgrade(Way::Execute, false, None);
                }
                _ => {}
            }
        }
    }

    fn want(&mut self, what: Request, said: &str) {
        self.log(Record::plain(Level::Info, said));
        self.feed(Event::Requested { from: None, what });
    }

    fn stop(&mut self, said: &str) {
        self.systemd.say(&[sd_notify::NotifyState::Stopping]);
        let _ = self.runtime.say_ending();
        self.want(Request::Stop, said);
    }

    fn dump(&mut self) {
        let status = self.status();
        self.log(Record::plain(Level::Info, self.core.status_line()));
        for slot in &status.slots {
            let text = serde_json::to_string(slot).unwrap_or_default();
            self.log(Record::plain(Level::Info, text));
        }
        let text = format!("{} changes were recorded", self.recorder.changes);
        self.log(Record::plain(Level::Debug, text));
    }

    fn take_calls(&mut self) {
        let _ = self.bell.read();
        for _ in 0..CALLS {
            match self.calls.try_recv() {
                Ok(ask) => self.take_call(ask),
                Err(_) => return,
            }
        }
        // More may be waiting: ring for the next turn.
        let _ = self.bell.write(1);
    }

    fn take_call(&mut self, ask: Ask) {
        let Ask { call, answers } = ask;
        match call {
            Call::Plan {} => return self.plan(answers),
            Call::Upgrade { now } => return self.want_upgrade(Way::Execute, now, Some(answers)),
            Call::Restart {
                keep_workers: true,
                slot: None,
            } => return self.want_upgrade(Way::Leave, false, Some(answers)),
            _ => {}
        }
        let at_once = match &call {
            Call::GetStatus {} => {
                self.ask_vitals();
                Some(Answer::Status(Box::new(self.status())))
            }
            Call::Send { slot, message } => Some(Answer::Final(self.send(*slot, message))),
            Call::Subscribe { slot } => Some(match self.subscribe(*slot) {
                Ok(feed) => Answer::Messages(feed),
                Err(error) => Answer::Final(Err(error)),
            }),
            _ => None,
        };
        if let Some(answer) = at_once {
            let _ = answers.send(answer);
            return;
        }
        let what = match self.request_for(&call) {
            Ok(what) => what,
            Err(error) => {
                let _ = answers.send(Answer::Final(Err(error)));
                return;
            }
        };
        let id = RequestId(self.next_request);
        self.next_request += 1;
        let waiting = Waiting {
            answers,
            steps: STEPS,
        };
        self.waiting.insert(id, waiting);
        let from = Some(id);
        self.feed(Event::Requested { from, what });
    }

    fn request_for(&mut self, call: &Call) -> Result<Request, api::Error> {
        Ok(match *call {
            Call::GetStatus {} | Call::Plan {} | Call::Send { .. } | Call::Subscribe { .. } => {
                return Err(api::Error::InvalidParameter {
                    message: "it is answered at once".to_owned(),
                });
            }
            Call::Reload {} => Request::Reload,
            Call::Rollback {} => Request::Rollback,
            Call::Restart {
                slot: None,
                keep_workers: false,
            } => Request::Restart,
            Call::Restart {
                slot: Some(slot),
                keep_workers: false,
            } => Request::Replace(SlotId(slot)),
            Call::Restart {
                keep_workers: true, ..
            }
            | Call::Upgrade { .. } => {
                return Err(api::Error::InvalidParameter {
                    message: "a slot has no supervisor of its own to be replaced".to_owned(),
                });
            }
            Call::Stop { .. } if self.unit.is_some() => {
                let unit = self.unit.clone().unwrap_or_default();
                return Err(api::Error::ManagedBySystemd {
                    message: format!("systemd would start it again: systemctl stop {unit}"),
                    unit,
                });
            }
            Call::Stop { now: false } => Request::Stop,
            Call::Stop { now: true } => {
                self.companion.hurry();
                Request::StopNow
            }
            Call::Scale {
                workers,
                by,
                ref kept,
                reset,
            } => match (workers, by, kept, reset) {
                (Some(workers), None, Some(file), false) => Request::Configured {
                    workers,
                    source: shown(&format!("workers = {workers} ({file})")),
                },
                (Some(n), None, None, false) => Request::Scale(Scale::To(n)),
                (None, Some(n), None, false) => Request::Scale(Scale::By(n)),
                (None, None, None, true) => self.configured()?,
                _ => {
                    return Err(api::Error::InvalidParameter {
                        message:
                            "give either `workers` (with `kept`, if it is) or `by`, or `reset`"
                                .to_owned(),
                    });
                }
            },
        })
    }

    /// The number of workers that the configuration says now.
    fn configured(&self) -> Result<Request, api::Error> {
        let config = (self.load)().map_err(|error| api::Error::ConfigInvalid {
            message: format!("the configuration cannot be used:\n{error}"),
        })?;
        let policy = config.policy(&Cpus::detect());
        Ok(Request::Configured {
            workers: policy.workers,
            source: policy.workers_source,
        })
    }

    /// The one final answer to a request.
    pub(super) fn reply(&mut self, to: RequestId, result: Result<Done, Failure>) {
        if matches!(result, Ok(Done::Stopped)) && self.companion.stops_last(to) {
            return;
        }
        let Some(waiting) = self.waiting.remove(&to) else {
            return;
        };
        let answer = match result {
            Ok(done) => Ok(self.outcome_of(&done)),
            Err(failure) => {
                let error = self.error(&failure);
                if let Some(tail) = self.tail(&failure) {
                    return send_with_last_lines(error, tail, waiting.answers);
                }
                Err(error)
            }
        };
        let _ = waiting.answers.send(Answer::Final(answer));
    }
}

/// What a client said, fit to be shown in one line.
fn shown(text: &str) -> String {
    let kept = text.chars().filter(|c| !c.is_control());
    kept.take(LONGEST_SOURCE).collect()
}

/// Waits for the last words of the worker that is to blame, on a thread of its own.
fn send_with_last_lines(mut error: api::Error, tail: Tail, answers: Sender<Answer>) {
    let send = move || {
        if let api::Error::GenerationFailed { last_lines, .. } = &mut error {
            *last_lines = tail.at_end(LAST_WORDS);
        }
        let _ = answers.send(Answer::Final(Err(error)));
    };
    // Without a thread to be had the client learns that there is no answer.
    drop(std::thread::Builder::new().spawn(send));
}
