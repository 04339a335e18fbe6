// SPDX-License-Identifier: MIT OR Apache-2.0
//! Going on with the workers of the supervisor before us.

use super::state::Worker;
use super::{End, Identity, Kept, Lines, Name, State, TakenOver, reopen};
use crate::config::Config;
use crate::core::{Event, Exit, SlotId, WorkerId};
use crate::engine::node::Talk;
use crate::engine::notify::NotifySocket;
use crate::engine::release::Release;
use crate::engine::spawn::{Process, try_wait};
use crate::engine::{Engine, Held, Level, Record, fault, now, tree};
use crate::protocol::node::channel::Channel;

impl Engine {
    /// Takes over: in place of [`Event::Begin`].
    pub(in super::super) fn take_over(&mut self, state: State, mut kept: Kept) {
        fault::point("before-adoption");
        let exact = state.end == End::Executed;
        self.recorder.taken_over = Some(TakenOver {
            how: match state.end {
                End::Executed => "re-exec",
                End::Left => "restart",
                End::Killed | End::Stopped => "crash",
            },
            at: now(),
            from_version: state.version,
        });
        if exact && self.core.said_ready() {
            self.systemd_knows();
        }
        for worker in state.unsent {
            self.core.doubt_signal(worker);
        }
        let lines = Lines::new(state.lines, &self.listeners);
        let mut gone = Vec::new();
        let mut found = Vec::new();
        for (id, worker) in state.workers {
            let recorded = worker.process.is_some();
            let told = self.core.worker(id).is_none_or(|known| known.pid.is_some());
            match self.adopt(id, worker, &lines, &mut kept) {
                Ok(pid) if !told => found.push((id, pid)),
                Ok(_) => {}
                Err(exit) if recorded || told => gone.push((id, exit)),
                Err(_) => {} // It was never spawned.
            }
            fault::point("mid-adoption");
        }
        self.restore_connections();
        self.resume_companion(state.companion, &mut kept);
        for (worker, pid) in found {
            self.feed(Event::Spawned { worker, pid });
        }
        self.meet_strangers(exact, &mut kept);
        self.end_commands();
        self.feed(Event::Resumed { exact });
        for (worker, exit) in gone {
            self.feed(Event::Exited { worker, exit });
        }
        if exact {
            // Who has died meanwhile is ours to bury; how workers ended is known by now.
            self.reap_orphans();
        }
        for worker in self.held.keys().copied().collect::<Vec<_>>() {
            self.catch_up_with(worker);
        }
        self.meet_foreigners();
        self.look_at_configuration(&lines);
        self.steering.outdate();
        self.recorder.outdate();
        fault::point("after-adoption");
    }

    /// Holds a worker again. As an error: how it ended.
    fn adopt(
        &mut self,
        id: WorkerId,
        worker: Worker,
        lines: &Lines,
        kept: &mut Kept,
    ) -> Result<i32, Exit> {
        let pidfd = kept.take(Name::Process(id));
        let notify = kept.take(Name::Notify(id));
        let output = kept.take(Name::Output(id));
        let path = self.runtime.notify(id);
        let Some(identity) = worker.process.or_else(|| self.find(id)) else {
            let _ = std::fs::remove_file(path);
            return Err(Exit::Unknown);
        };
        let how = pidfd.as_ref().map(|fd| fd.try_clone());
        let trusted = self
            .cgroup
            .as_ref()
            .is_none_or(|cgroup| cgroup.worker_of(identity.pid) == Some(id));
        let Some(pidfd) = reopen(pidfd, identity).filter(|_| trusted) else {
            let ended = how.and_then(Result::ok).and_then(|fd| try_wait(&fd));
            let _ = std::fs::remove_file(path);
            return Err(ended.unwrap_or(Exit::Unknown));
        };
        let notify = match notify {
            Some(fd) => Ok(NotifySocket::on(fd, &path)),
            None => NotifySocket::bind(&path),
        };
        let Ok(notify) = notify else {
            return Err(Exit::Unknown);
        };
        // Until here it may become a stranger, which ends by its channel.
        let channel = kept.take(Name::Channel(id)).map(Channel::on);
        let mut held = Held {
            process: Process {
                pid: identity.pid,
                started: identity.started,
                pidfd,
            },
            notify,
            probe: None,
            check: None,
            tail: None,
            lines: match worker.process {
                Some(_) => lines.of(&worker.lines, self.listeners.len()),
                None => self.first_lines(id),
            },
            talk: match worker.talk {
                Some(talk) => Talk::resume(talk, channel, lines),
                None => channel.and_then(|channel| self.first_talk(id, channel)),
            },
        };
        let slot = self.core.worker(id).map_or(SlotId(0), |w| w.slot);
        let output = output.map(|pipe| (pipe, worker.begun));
        let watched = self.watch(id, slot, &mut held, output);
        self.held.insert(id, held);
        if watched.is_err() {
            self.kill_tree(id);
        }
        Ok(identity.pid)
    }

    /// The lines of a worker that was about to be spawned when it was recorded.
    fn first_lines(&self, id: WorkerId) -> Vec<Option<usize>> {
        let worker = self.core.worker(id);
        let release = worker.and_then(|worker| self.releases.get(&worker.generation));
        let (Some(worker), Some(release)) = (worker, release) else {
            return vec![None; self.listeners.len()];
        };
        self.lines_for(release, worker.slot)
    }

    /// The main process of a worker that was being started: it leads a session in its group.
    fn find(&self, worker: WorkerId) -> Option<Identity> {
        let members = self.cgroup.as_ref()?.members(worker);
        let leads = |pid: &i32| tree::Stat::read(*pid).is_some_and(|stat| stat.session == *pid);
        Identity::of(members.into_iter().find(leads)?)
    }

    /// Readiness and health commands of the supervisor before us: nobody waits for them.
    fn end_commands(&self) {
        let Some(cgroup) = &self.cgroup else {
            return;
        };
        for (id, held) in &self.held {
            let mark = format!("APP_CLUSTER_PID={}", held.process.pid);
            for pid in cgroup.members(*id) {
                if pid != held.process.pid && tree::has_in_environment(pid, mark.as_bytes()) {
                    let _ = nix::sys::signal::kill(
                        nix::unistd::Pid::from_raw(pid),
                        nix::sys::signal::Signal::SIGKILL,
                    );
                }
            }
        }
    }

    /// What serves is what was rolled out, whatever the file and the units say now.
    fn look_at_configuration(&mut self, lines: &Lines) {
        // With what it leads to: programs and directories.
        let error = match (self.load)().and_then(Release::new) {
            Ok(release) => return self.look_at_units(&release.config, lines),
            Err(error) => error,
        };
        let generation = self.core.generation();
        let first = error.to_string();
        let first = first.lines().next().unwrap_or_default();
        self.stale = Some(format!(
            "the configuration cannot be used ({first}); generation {generation} serves on"
        ));
        let text = format!(
            "the configuration cannot be used; generation {generation}, which was rolled out \
             before, serves on:\n{error}"
        );
        self.log(Record::plain(Level::Error, text));
    }

    /// Sockets may have been opened and closed while nobody looked (`daemon-reload`).
    fn look_at_units(&mut self, config: &Config, lines: &Lines) {
        if let Err(changes) = self.units_fit(config) {
            let what = changes.lines().next().unwrap_or_default().trim();
            self.stale = Some(format!(
                "the units are not as the configuration says ({what})"
            ));
            return self.warn(format!(
                "the units are not as the configuration says:\n{changes}"
            ));
        }
        let listeners = self.listeners.iter();
        let new = listeners.filter(|listener| !listener.lines.iter().any(|l| lines.knew(l.inode)));
        let new: Vec<&str> = new.map(|listener| listener.address.as_str()).collect();
        if !new.is_empty() {
            let (new, name) = (new.join(", "), &self.name);
            let text = format!(
                "{new}: opened since; connections wait there until workers have it after \
                 `app-cluster reload {name}`"
            );
            self.stale = Some(text.clone());
            self.warn(text);
        }
    }
}

impl Held {
    /// What the next supervisor needs of it.
    pub(super) fn descriptors(
        &self,
        id: WorkerId,
    ) -> impl Iterator<Item = (Name, std::os::fd::BorrowedFd<'_>)> {
        use std::os::fd::AsFd;
        let talk = self.talk.as_ref().filter(|t| !t.channel().has_ended());
        let channel = talk.map(|talk| (Name::Channel(id), talk.channel().as_fd()));
        [
            (Name::Process(id), self.process.pidfd.as_fd()),
            (Name::Notify(id), self.notify.as_fd()),
        ]
        .into_iter()
        .chain(channel)
    }
}
