//! What the host holds of each server, whichever era it serves, and how a server's life goes.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use thv_wire::code::Reason;
use thv_wire::message::{Id, Incoming, error_response};
use thv_wire::skim::Skimmed;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::Options;
use super::room::{BIG_MESSAGES, Place, Room};
use crate::Owner;

/// The most requests to one server that wait for their answers.
pub(super) const MAX_IN_FLIGHT: usize = 1024;
/// The most messages that wait for a server to read them.
const INBOX: usize = 64;
/// What stands for "never" in arithmetic with times.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// Where a server is in its life. Changed under the lock of its user's state only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// It has not answered its first request yet.
    Starting,
    /// It has.
    Open,
    /// It is being stopped, or is gone.
    Ended,
}

/// Why it ended.
#[derive(Debug)]
pub(super) enum End {
    /// It could not be started.
    NotStarted(String),
    /// It exited, or closed its output.
    Exited,
    /// It did not answer its first request in time.
    Silent,
    /// It answered its first request with an error.
    Declined,
    /// It does not speak the era that it was started for.
    OtherEra,
    /// The client left before the first request was answered.
    Abandoned,
    /// DELETE.
    Deleted,
    /// Nobody used it for long.
    Expired,
    /// It made room for another.
    Evicted,
    /// The host ends.
    ShutDown,
}

/// Why messages were not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    Ended,
    InFlight,
    TooMany,
}

/// A server's connections to the rest of the host.
#[derive(Debug)]
pub(super) struct Link {
    /// Names it in logs, where the id of a session has no business.
    pub(super) number: u64,
    pub(super) owner: Owner,
    pub(super) options: Arc<Options>,
    /// Room for big messages to the server.
    pub(super) inward: Room,
    /// Room for big messages to the client.
    pub(super) outward: Room,
    pub(super) life: watch::Sender<Life>,
    pub(super) inbox: mpsc::Sender<Bytes>,
    pub(super) created: (Instant, SystemTime),
}

/// Who a server's output is for, and who decides when it ends: a session, or the modern callers of one owner.
pub(super) trait Peer: Send + Sync + 'static {
    fn link(&self) -> &Link;

    /// Ends it, if that has not happened yet: requests that wait are answered, streams end, and the task that owns
    /// the server stops it.
    fn end(&self, end: &End);

    /// When to look at the time again: it ends then if it is still starting, or still idle.
    fn deadline(&self, life: Life) -> Instant;

    /// Passes on what the server says. The place is taken up by the line's bytes.
    fn take(&self, line: Bytes, place: Option<Place>, seen: Incoming<'_>) -> impl Future<Output = ()> + Send;

    /// A line of the server was over the limit and is gone. Whoever waits for it must learn that.
    fn oversized(&self, length: u64, limit: usize, message: &Skimmed);
}

impl Link {
    pub(super) fn new(number: u64, owner: Owner, options: Arc<Options>) -> (Self, mpsc::Receiver<Bytes>) {
        let (inbox, messages) = mpsc::channel(INBOX);
        let room = || Room::new(BIG_MESSAGES.saturating_mul(options.max_message_bytes));
        let link = Self {
            number,
            owner,
            inward: room(),
            outward: room(),
            options,
            life: watch::Sender::new(Life::Starting),
            inbox,
            created: (Instant::now(), SystemTime::now()),
        };
        (link, messages)
    }

    pub(super) fn life(&self) -> Life {
        *self.life.borrow()
    }

    /// When a server's time is over: its time to start, or the time since it was last used.
    pub(super) fn deadline(&self, life: Life, used: Option<Instant>) -> Instant {
        let (from, wait) = match (life, used) {
            (Life::Starting, _) => (self.created.0, self.options.initialize_timeout),
            (_, Some(last)) => (last, self.options.session_ttl),
            (_, None) => (Instant::now(), self.options.session_ttl),
        };
        from + wait.min(FAR)
    }

    /// Tells the server that a message of its own cannot be passed on.
    pub(super) fn answer_server(&self, line: Bytes) {
        if self.inbox.try_send(line).is_err() {
            tracing::warn!(
                server = self.number,
                "the server does not read: one of its requests gets no answer"
            );
        }
    }

    /// The error that a request gets which waits when the server ends.
    pub(super) fn farewell(&self, id: &Id, end: &End, started: bool) -> Bytes {
        let seconds = self.options.initialize_timeout.as_secs_f32();
        let (reason, text) = match end {
            End::NotStarted(why) => (Reason::NotRunning, format!("the server could not be started: {why}")),
            End::Exited if started => (
                Reason::ConnectionLost,
                "the server exited before it answered; the request may or may not have run".to_owned(),
            ),
            End::Exited => {
                (Reason::NotRunning, "the server exited before it answered `initialize`".to_owned())
            }
            End::Silent => {
                (Reason::NotRunning, format!("the server did not answer `initialize` within {seconds} s"))
            }
            End::Declined => (Reason::NotRunning, "the server declined `initialize`".to_owned()),
            End::OtherEra => (Reason::NotRunning, "the server speaks another era of MCP".to_owned()),
            End::Deleted => (Reason::ShuttingDown, "the session was ended by its client".to_owned()),
            End::Abandoned | End::Expired | End::Evicted => {
                (Reason::ShuttingDown, "the session has ended".to_owned())
            }
            End::ShutDown => (Reason::ShuttingDown, "the server is being stopped".to_owned()),
        };
        let advice = match end {
            End::NotStarted(_) | End::Exited | End::Silent => self.options.advice.as_str(),
            _ => "",
        };
        let text = if advice.is_empty() { text } else { format!("{text}. {advice}") };
        reply(Some(id), reason, &text)
    }
}

impl End {
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::NotStarted(_) => "not_started",
            Self::Exited => "exited",
            Self::Silent => "silent",
            Self::Declined => "declined",
            Self::OtherEra => "other_era",
            Self::Abandoned => "abandoned",
            Self::Deleted => "deleted",
            Self::Expired => "expired",
            Self::Evicted => "evicted",
            Self::ShutDown => "shut_down",
        }
    }
}

/// An error of ours, in the server's stead.
pub(super) fn reply(id: Option<&Id>, reason: Reason, text: &str) -> Bytes {
    let data = serde_json::json!({ "reason": reason.as_str() });
    error_response(id, reason.code(), text, Some(&data)).into()
}
