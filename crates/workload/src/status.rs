//! What is running: `status.json`, and how far to believe it.
//!
//! The live supervisor alone writes it, or whoever holds the workload's lock and has proved that supervisor dead.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::process::ProcessRef;

/// The version that this crate writes and the only one it reads.
pub const VERSION: u32 = 1;

/// The state of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The supervisor is on its way up.
    Starting,
    /// It listens, and its server answered.
    Running,
    /// It listens, and its server does not answer.
    Unhealthy,
    /// It is on its way down.
    Stopping,
    /// It is down, as somebody wished.
    Stopped,
    /// It is down, and nobody wished so.
    Error,
}

impl State {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Unhealthy => "unhealthy",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Error => "error",
        }
    }
}

/// What the user wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Desired {
    /// It should run; a bridge may start it again after a crash.
    Running,
    /// It was stopped by hand; only the user starts it again.
    Stopped,
}

impl Desired {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
        }
    }
}

/// A change that somebody began: left behind, it tells the next command what to finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unfinished {
    /// The workload was being created: undo it.
    Creating,
    /// The workload was being removed: finish it.
    Removing,
}

/// What may be known of a workload's key by everybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyInfo {
    /// The key's public name.
    pub id: String,
    /// When the key was made (RFC 3339).
    pub rotated_at: String,
}

/// The content of `status.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The version of this format.
    pub v: u32,
    /// The state when it was written.
    pub status: State,
    /// What the user wants.
    pub desired: Desired,
    /// Why it is in that state, for people.
    #[serde(default)]
    pub status_context: String,
    /// The supervisor, while there is one.
    #[serde(default)]
    pub supervisor: Option<ProcessRef>,
    /// A change that was begun.
    #[serde(default)]
    pub unfinished: Option<Unfinished>,
    /// The port that the supervisor listens on.
    #[serde(default)]
    pub port: u16,
    /// When the supervisor started (RFC 3339).
    #[serde(default)]
    pub started_at: Option<String>,
    /// The workload's key, when it has one.
    #[serde(default)]
    pub key: Option<KeyInfo>,
}

/// Why a `status.json` cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StatusError {
    /// Not JSON, or a field of the wrong type.
    #[error("it is not a status file")]
    Json(#[from] serde_json::Error),
    /// Written by another version.
    #[error("it has version {0}; this program reads {VERSION}")]
    Version(u32),
}

impl Status {
    /// A new status without supervisor.
    #[must_use]
    pub fn new(status: State, desired: Desired) -> Self {
        Self {
            v: VERSION,
            status,
            desired,
            status_context: String::new(),
            supervisor: None,
            unfinished: None,
            port: 0,
            started_at: None,
            key: None,
        }
    }

    /// Reads the content of a status file.
    ///
    /// # Errors
    /// It is not one, or is one of another version.
    pub fn parse(json: &[u8]) -> Result<Self, StatusError> {
        #[derive(Deserialize)]
        struct Versioned {
            v: u32,
        }
        // The version first: the fields of another one mean nothing here.
        let Versioned { v } = serde_json::from_slice(json)?;
        if v != VERSION {
            return Err(StatusError::Version(v));
        }
        Ok(serde_json::from_slice(json)?)
    }

    /// The text to write.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        text
    }

    /// Whether the supervisor that wrote it still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.supervisor.is_some_and(|process| process.is_alive())
    }

    /// What is true now: a supervisor that is gone without a word makes the status an error, or `stopped` if that is
    /// what the user wants.
    #[must_use]
    pub fn reconciled(mut self) -> Self {
        if self.supervisor.is_none() || self.is_alive() {
            return self;
        }
        self.supervisor = None;
        if self.desired == Desired::Stopped {
            self.status = State::Stopped;
        } else {
            self.status = State::Error;
            "the supervisor is gone: it crashed, was killed, or the machine was restarted"
                .clone_into(&mut self.status_context);
        }
        self
    }
}

/// A moment as RFC 3339 in UTC, to the second.
#[must_use]
pub fn timestamp(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_refuses_other_versions() {
        let mut status = Status::new(State::Running, Desired::Running);
        status.supervisor = Some(ProcessRef { pid: 1, start_time: 2 });
        status.key =
            Some(KeyInfo { id: "08b5d7d2ef52b8b6".into(), rotated_at: timestamp(SystemTime::UNIX_EPOCH) });
        assert_eq!(Status::parse(&status.to_json()).unwrap(), status);

        let newer = String::from_utf8(status.to_json()).unwrap().replace("\"v\": 1", "\"v\": 2");
        assert!(matches!(Status::parse(newer.as_bytes()), Err(StatusError::Version(2))));
        for end in 0..status.to_json().len() - 2 {
            assert!(Status::parse(&status.to_json()[..end]).is_err(), "cut at {end}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_dead_supervisor_is_not_running() {
        let us = ProcessRef::current().unwrap();
        let dead = ProcessRef { start_time: us.start_time - 1, ..us };
        let mut status = Status::new(State::Running, Desired::Running);
        status.supervisor = Some(us);
        assert_eq!(status.clone().reconciled(), status);

        status.supervisor = Some(dead);
        let now = status.clone().reconciled();
        assert_eq!((now.status, now.supervisor), (State::Error, None));
        assert!(!now.status_context.is_empty());

        status.desired = Desired::Stopped;
        assert_eq!(status.reconciled().status, State::Stopped);
    }
}
