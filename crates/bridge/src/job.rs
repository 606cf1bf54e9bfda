//! One request, or a batch with requests in it, on its way to be answered.

use bytes::Bytes;
use thv_wire::message::{Id, Incoming, peek};
use tokio::sync::OwnedSemaphorePermit;

use crate::era::{About, Modern};
use crate::failure::Failure;
use crate::gate::{Gate, Opener};
use crate::pending::{Expected, Withdrawal};
use crate::relay::Initialize;

/// What a request belongs to.
pub(crate) enum What {
    /// The session, or, before there is one, whatever the server makes of it.
    InSession,
    /// It is the client's `initialize`.
    Initialize(Initialize),
    /// Nothing: it is of the era without sessions.
    Alone(Modern),
}

impl What {
    pub(crate) fn is_endless(&self) -> bool {
        matches!(self, Self::Alone(Modern { about: About::Listen, .. }))
    }

    pub(crate) fn initialize(&self) -> Option<&Initialize> {
        if let Self::Initialize(initialize) = self { Some(initialize) } else { None }
    }
}

/// What a batch says besides its requests.
#[derive(Default)]
pub(crate) struct Besides {
    /// There is anything of it: the batch is sent also if nobody waits for its requests any more.
    pub(crate) any: bool,
    /// `notifications/initialized`.
    pub(crate) initializes: bool,
    /// The requests of the server's that it answers.
    pub(crate) answers: Vec<Id>,
    /// The earlier requests that it cancels. They settle when this is done with.
    pub(crate) _cancels: Vec<Withdrawal>,
}

/// One request, or a batch with requests in it.
pub(crate) struct Job {
    pub(crate) body: Bytes,
    pub(crate) expected: Vec<Expected>,
    pub(crate) what: What,
    pub(crate) gate: Gate,
    /// Opened when the request is answered.
    pub(crate) opens: Option<Opener>,
    /// What else the batch says.
    pub(crate) besides: Besides,
    pub(crate) _room: OwnedSemaphorePermit,
}

impl Job {
    /// Whether the client still waits for any of it, or for it to be heard.
    pub(crate) fn is_wanted(&self) -> bool {
        self.besides.any || !self.expected.iter().all(Expected::is_withdrawn)
    }

    /// Whether any of it is still owed an answer.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.expected.iter().all(|expected| expected.is_withdrawn() || expected.is_settled())
    }

    /// An error if any of it is still owed an answer.
    pub(crate) fn answered_or(&self, failure: Failure) -> Result<(), Failure> {
        if self.is_waiting() { Err(failure) } else { Ok(()) }
    }

    /// Whether this is the server's word that it ends what the request began (MCP 2026-07-28,
    /// `basic/patterns/cancellation`).
    pub(crate) fn is_torn_down_by(&self, message: &[u8]) -> bool {
        let Ok(Incoming::One(seen)) = peek(message) else { return false };
        seen.cancelled_id().is_some_and(|id| self.expected.iter().any(|expected| expected.id == id))
    }

    /// Returns when all of it is settled.
    pub(crate) async fn settled(&self) {
        for expected in &self.expected {
            expected.settled().await;
        }
    }
}
