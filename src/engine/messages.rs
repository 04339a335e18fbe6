// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages between Node workers and others: operators (`app-cluster send`, `messages`) and
//! the companion.

use super::Engine;
use super::node::Told;
use crate::api::{self, Json};
use crate::core::{SlotId, Worker, WorkerId, WorkerState};
use crate::frontend::Feed;
use crate::protocol::node::user::{INTERNAL, MAX_MESSAGE, To, envelope, is_internal};
use std::sync::Arc;

/// So many clients may follow messages: others are to find a free connection to the control
/// socket.
const MAX_AUDIENCE: usize = 16;

/// Clients that want to have workers' messages.
#[derive(Default)]
pub struct Audience(Vec<(Option<SlotId>, Arc<Feed>)>);

impl Audience {
    fn hears(&mut self, slot: SlotId, message: &Arc<str>) {
        let wants = |wanted: &Option<SlotId>| wanted.is_none_or(|wanted| wanted == slot);
        self.0
            .retain(|(wanted, feed)| !wants(wanted) || feed.put(message));
    }

    /// There will be no more messages.
    pub fn end(&mut self) {
        for (_, feed) in self.0.drain(..) {
            feed.end();
        }
    }
}

/// What became of a message to several workers.
#[derive(Debug, Default)]
pub struct Delivered {
    /// So many got it.
    pub workers: u32,
    /// Why others did not.
    pub failed: Vec<String>,
}

impl Engine {
    /// A worker has sent a message, as JSON text.
    pub(super) fn pass_on(&mut self, worker: WorkerId, message: &str) {
        if self.audience.0.is_empty() && !self.has_companion() {
            return;
        }
        let Some(slot) = self.core.worker(worker).map(|known| known.slot) else {
            return;
        };
        let envelope = envelope(slot.0, worker.0, message);
        if self.has_companion() {
            self.tell_companion(worker, &envelope);
        }
        if !self.audience.0.is_empty() {
            self.audience.hears(slot, &envelope.into());
        }
    }

    /// Somebody wants to have the messages of workers.
    pub(super) fn subscribe(&mut self, slot: Option<u32>) -> Result<Arc<Feed>, api::Error> {
        if let Some(slot) = slot {
            self.slot_is_there(slot)?;
        }
        if !self.speaks_node() {
            let message = "the workers have no channel: they are not run in Node's protocol \
                           (see protocol in app-cluster.toml(5))";
            return Err(api::Error::InvalidParameter {
                message: message.to_owned(),
            });
        }
        self.audience.0.retain(|(_, feed)| !feed.is_left());
        if self.audience.0.len() >= MAX_AUDIENCE {
            return Err(api::Error::InProgress {
                message: format!("{MAX_AUDIENCE} clients follow the messages already; end one"),
            });
        }
        let feed = Feed::new().map_err(|error| api::Error::InProgress {
            message: format!("no descriptor is left for it, try again: {error}"),
        })?;
        let feed = Arc::new(feed);
        self.audience.0.push((slot.map(SlotId), Arc::clone(&feed)));
        Ok(feed)
    }

    /// An operator's message.
    pub(super) fn send(
        &mut self,
        slot: Option<u32>,
        message: &Json,
    ) -> Result<api::Outcome, api::Error> {
        let text = message.text();
        let invalid = |message: String| Err(api::Error::InvalidParameter { message });
        if text.len() > MAX_MESSAGE {
            return invalid(format!(
                "the message has {} bytes, and may have {MAX_MESSAGE}",
                text.len()
            ));
        }
        if is_internal(text) {
            return invalid(format!("the message is refused: {INTERNAL}"));
        }
        let to = match slot {
            None => To::All,
            Some(slot) => {
                self.slot_is_there(slot)?;
                To::Slots(vec![slot])
            }
        };
        let delivered = self.deliver(&to, text);
        let workers = delivered.workers;
        if !delivered.failed.is_empty() {
            let got = match (slot, workers) {
                (Some(_), 0) => String::new(),
                (_, 1) => "; 1 worker got it".to_owned(),
                _ => format!("; {workers} workers got it"),
            };
            return Err(api::Error::NotDelivered {
                message: format!("{}{got}", delivered.failed.join("; ")),
                workers,
            });
        }
        let plural = if workers == 1 { "" } else { "s" };
        Ok(api::Outcome {
            message: format!("{workers} worker{plural} got it"),
            generation: None,
            back_to: None,
            workers: Some(workers),
            incarnation: None,
            changes: None,
        })
    }

    fn slot_is_there(&self, slot: u32) -> Result<(), api::Error> {
        let slots = self.core.slots().len();
        if (slot as usize) < slots {
            return Ok(());
        }
        let last = slots.saturating_sub(1);
        let message = format!("there is no slot {slot}: they are 0 to {last}");
        Err(api::Error::NoSuchWorker { message })
    }

    /// Sends JSON text to workers; it must not be one of Node's own messages.
    pub(super) fn deliver(&mut self, to: &To, message: &str) -> Delivered {
        let mut all = Delivered::default();
        let here = |target: Option<SlotId>| self.targets(target);
        let groups: Vec<(Vec<(WorkerId, SlotId)>, String)> = match to {
            To::All => vec![(here(None), "no worker serves now".to_owned())],
            To::Slots(slots) => {
                let slots = slots.iter().map(|slot| {
                    let none = format!("slot {slot} has no worker now");
                    (here(Some(SlotId(*slot))), none)
                });
                slots.collect()
            }
            To::Worker(id) => {
                let known = self.core.worker(WorkerId(*id));
                let known = known.map(|worker| (worker.id, worker.slot));
                vec![(known.into_iter().collect(), format!("worker {id} is gone"))]
            }
        };
        for (targets, none) in groups {
            if targets.is_empty() {
                all.failed.push(none);
            }
            for (worker, slot) in targets {
                match self.tell(worker, message) {
                    Told::Yes => all.workers += 1,
                    Told::NoChannel => all.failed.push(format!(
                        "the worker of slot {slot} has no channel (it is no Node worker, or has \
                         closed it)"
                    )),
                    Told::Full => all.failed.push(format!(
                        "the worker of slot {slot} does not read what was sent to it before"
                    )),
                }
            }
        }
        all
    }

    /// The workers that serve in a slot, else the one that is about to; without a slot all that
    /// serve or finish.
    fn targets(&self, slot: Option<SlotId>) -> Vec<(WorkerId, SlotId)> {
        let of = |states: &[WorkerState]| {
            let here = |w: &&Worker| slot.is_none_or(|slot| w.slot == slot);
            let workers = self.core.workers().filter(here);
            let found = workers.filter(|w| states.contains(&w.state));
            found.map(|w| (w.id, w.slot)).collect::<Vec<_>>()
        };
        if slot.is_none() {
            return of(&[WorkerState::Ready, WorkerState::Draining]);
        }
        let serving = of(&[WorkerState::Ready]);
        match serving.is_empty() {
            true => of(&[WorkerState::Starting]),
            false => serving,
        }
    }
}
