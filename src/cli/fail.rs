// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a verb fails, and with which exit status.

use std::fmt;

/// Exit statuses, as app-cluster(1) lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It did not work.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// The app does not run.
    NotRunning = 3,
    /// There is no such app, or no permission.
    NoSuchApp = 4,
    /// The configuration cannot be used (EX_CONFIG of sysexits.h).
    Config = 78,
}

/// An error that decides about the exit status.
#[derive(Debug)]
pub struct Fail {
    pub(super) status: Status,
    pub(super) message: String,
    pub(super) hint: Option<String>,
    pub(super) said: bool,
    /// What the supervisor answered, if it was that.
    pub(super) answer: Option<serde_json::Value>,
    /// The result has been printed as JSON already.
    pub(super) printed: bool,
}

impl Fail {
    pub(super) fn new(status: Status, message: impl Into<String>) -> Fail {
        Fail {
            status,
            message: message.into(),
            hint: None,
            said: false,
            answer: None,
            printed: false,
        }
    }

    /// The same as an object: as the supervisor has answered, else in that form.
    pub(super) fn json(&self) -> serde_json::Value {
        let name = match self.status {
            Status::Failed => "Failed",
            Status::Usage => "Usage",
            Status::NotRunning => "NotRunning",
            Status::NoSuchApp => "NoSuchApp",
            Status::Config => "ConfigInvalid",
        };
        let said = || {
            let (message, hint) = (&self.message, &self.hint);
            serde_json::json!({ "error": name, "parameters": { "message": message, "hint": hint } })
        };
        self.answer.clone().unwrap_or_else(said)
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Fail {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn status(&self) -> Status {
        self.status
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }

    pub(super) fn has_hint(&self) -> bool {
        self.hint.is_some()
    }

    /// Standard output has the JSON that was asked for already.
    pub(super) fn printed(mut self) -> Fail {
        self.printed = true;
        self
    }

    /// The user has been told already.
    pub(super) fn said(mut self) -> Fail {
        self.said = true;
        self
    }
}

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

impl From<anyhow::Error> for Fail {
    fn from(error: anyhow::Error) -> Fail {
        Fail::new(Status::Failed, format!("{error:#}"))
    }
}

impl From<std::io::Error> for Fail {
    fn from(error: std::io::Error) -> Fail {
        Fail::new(Status::Failed, error.to_string())
    }
}
