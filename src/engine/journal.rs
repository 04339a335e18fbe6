// SPDX-License-Identifier: MIT OR Apache-2.0
//! Our own log lines: a thread of their own, so that a journald that does not
//! read never stops supervision.
//!
//! `tracing_journald` sends blocking datagrams, and its socket is private; so the
//! loop only puts records into a bounded queue (what does not fit is counted and
//! reported later), and this thread hands them to the journal, or to stderr where
//! there is none.

use crate::core::{GenerationId, SlotId, WorkerId};
use std::io::Write;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender, TrySendError};
use std::time::Duration;
use tracing::{Dispatch, debug, error, info, warn};
use tracing_subscriber::layer::SubscriberExt;

/// Records that may wait for journald.
const QUEUE: usize = 1024;

/// How important a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Something is broken.
    Error,
    /// Something is not as it should be.
    Warning,
    /// What happens.
    Info,
    /// What only a developer wants to see.
    Debug,
}

/// One log line with its journal fields (systemd.journal-fields(7)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// PRIORITY=
    pub level: Level,
    /// MESSAGE=
    pub message: String,
    /// MESSAGE_ID=, see `units/app-cluster.catalog`.
    pub id: Option<&'static str>,
    /// APPC_SLOT=
    pub slot: Option<SlotId>,
    /// APPC_WORKER=
    pub worker: Option<WorkerId>,
    /// APPC_GENERATION=
    pub generation: Option<GenerationId>,
    /// OBJECT_PID=
    pub pid: Option<i32>,
    /// APPC_KEYS=, names of keys that have changed, with spaces between them
    pub keys: Option<String>,
    /// APPC_CHANGES=, [`crate::config::Changes`] as JSON
    pub changes: Option<String>,
    /// APPC_CGROUP=, the worker's cgroup as `_SYSTEMD_CGROUP=` names it.
    pub cgroup: Option<String>,
}

impl Record {
    /// A line without fields.
    pub fn plain(level: Level, message: impl Into<String>) -> Record {
        Record {
            level,
            message: message.into(),
            id: None,
            slot: None,
            worker: None,
            generation: None,
            pid: None,
            keys: None,
            changes: None,
            cgroup: None,
        }
    }
}

/// The way to the log.
#[derive(Debug)]
pub struct Journal {
    queue: Option<SyncSender<Record>>,
    done: mpsc::Receiver<()>,
    /// Records dropped since the start, and those not reported yet.
    dropped: u64,
    unreported: u64,
    debug: bool,
}

impl Journal {
    /// Starts the thread. Signals must be blocked by now.
    pub fn start(app: &str) -> std::io::Result<Journal> {
        let (queue, records) = mpsc::sync_channel::<Record>(QUEUE);
        let (finished, done) = mpsc::channel();
        let app = app.to_owned();
        let to_journal = std::env::var_os("JOURNAL_STREAM").is_some();
        std::thread::Builder::new()
            .name("journal".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || {
                let dispatch = to_journal.then(journal).flatten();
                let shares_stream = stderr_is_the_journal();
                for record in records {
                    if shares_stream && record.id == Some(super::message_id::WORKER_EXITED) {
                        end_line();
                    }
                    match &dispatch {
                        Some(journal) => {
                            tracing::dispatcher::with_default(journal, || emit(&app, &record));
                        }
                        None => print(&app, &record),
                    }
                }
                let _ = finished.send(());
            })?;
        Ok(Journal {
            queue: Some(queue),
            done,
            dropped: 0,
            unreported: 0,
            debug: std::env::var_os("APP_CLUSTER_DEBUG").is_some(),
        })
    }

    /// Logs a record, now or never. `Debug` only with APP_CLUSTER_DEBUG set.
    pub fn log(&mut self, record: Record) {
        let Some(queue) = self.queue.as_ref() else {
            return;
        };
        if record.level == Level::Debug && !self.debug {
            return;
        }
        if self.unreported > 0 {
            let text = format!("{} log lines were dropped", self.unreported);
            if queue.try_send(Record::plain(Level::Warning, text)).is_ok() {
                self.unreported = 0;
            }
        }
        if let Err(TrySendError::Full(_)) = queue.try_send(record) {
            self.dropped += 1;
            self.unreported += 1;
        }
    }

    /// Records dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Waits until everything is written, for at most `patience`.
    pub fn finish(&mut self, patience: Duration) {
        drop(self.queue.take());
        match self.done.recv_timeout(patience) {
            Ok(()) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }
}

/// Whether our stderr, and so our workers', is the stream to journald that systemd has
/// opened (systemd.exec(5), `$JOURNAL_STREAM`).
fn stderr_is_the_journal() -> bool {
    let opened = std::env::var("JOURNAL_STREAM").ok();
    let found = nix::sys::stat::fstat(std::io::stderr());
    found.is_ok_and(|stat| opened == Some(format!("{}:{}", stat.st_dev, stat.st_ino)))
}

/// journald keeps a line without an end until another process writes into the stream. All
/// workers share it: our empty line, which journald drops, brings out the last words of one
/// that has ended. Written here, in the thread that may be held up.
fn end_line() {
    let _ = std::io::stderr().write_all(b"\n");
}

fn journal() -> Option<Dispatch> {
    let layer = tracing_journald::layer().ok()?.with_field_prefix(None);
    Some(Dispatch::new(tracing_subscriber::registry().with(layer)))
}

/// Calls one tracing macro with all the fields; absent ones are not recorded.
macro_rules! event {
    ($macro:ident, $app:expr, $r:expr) => {
        $macro!(
            MESSAGE_ID = $r.id,
            APPC_APP = $app,
            APPC_SLOT = $r.slot.map(|s| s.0),
            APPC_WORKER = $r.worker.map(|w| w.0),
            APPC_GENERATION = $r.generation.map(|g| g.0),
            APPC_CGROUP = $r.cgroup.as_deref(),
            APPC_KEYS = $r.keys.as_deref(),
            APPC_CHANGES = $r.changes.as_deref(),
            OBJECT_PID = $r.pid,
            "{}",
            $r.message
        )
    };
}

fn emit(app: &str, record: &Record) {
    match record.level {
        Level::Error => event!(error, app, record),
        Level::Warning => event!(warn, app, record),
        Level::Info => event!(info, app, record),
        Level::Debug => event!(debug, app, record),
    }
}

fn print(app: &str, record: &Record) {
    let level = match record.level {
        Level::Error => "error: ",
        Level::Warning => "warning: ",
        Level::Info => "",
        Level::Debug => "debug: ",
    };
    // In one piece, since workers' lines go to the same terminal. One that is gone is no reason
    // to end.
    let line = format!("{app} | {level}{}\n", record.message);
    let _ = std::io::stderr().write_all(line.as_bytes());
}
