//! What a request asks of its server, and who waits for an answer.

use std::sync::Arc;

use bytes::Bytes;
use thv_wire::message::{Id, Peek};
use thv_wire::modern::Envelope;
use tokio::sync::oneshot;

use super::outlet::Reply;
use super::usage::Way;

/// Who waits for an answer.
#[derive(Debug)]
pub(super) enum Pending {
    /// This host, to learn the era.
    Probe,
    /// This host, for something else.
    Own(oneshot::Sender<Bytes>),
    Call(Call),
}

/// A caller's request.
#[derive(Debug, Clone)]
pub(super) struct Call {
    /// The caller's id for it.
    pub(super) id: Id,
    /// The caller's progress token, as it stood in the request.
    pub(super) token: Option<Box<str>>,
    /// It is `subscriptions/listen`.
    pub(super) listens: bool,
    /// It asked for log messages. A subscription gets none all the same (`server/utilities/logging`).
    pub(super) logs: bool,
    pub(super) reply: Arc<Reply>,
}

impl Pending {
    pub(super) fn call(&self) -> Option<&Call> {
        match self {
            Self::Call(call) => Some(call),
            Self::Probe | Self::Own(_) => None,
        }
    }
}

impl Way {
    /// How a request wants its server.
    pub(in super::super) fn of(message: &Peek<'_>, envelope: &Envelope<'_>) -> Self {
        if message.is("subscriptions/listen") {
            Self::Listening
        } else if wants_logs(envelope) {
            Self::Alone
        } else {
            Self::Shared
        }
    }
}

/// Whether a request asks for log messages.
pub(super) fn wants_logs(envelope: &Envelope<'_>) -> bool {
    envelope.log_level.is_some_and(|level| level.get() != "null")
}

/// Progress tokens are strings and numbers (`basic/patterns/progress`). What is none is the server's to refuse.
pub(super) fn is_token(json: &str) -> bool {
    matches!(json.as_bytes().first(), Some(b'"' | b'-' | b'0'..=b'9'))
}

/// The orderly end of a subscription (`basic/patterns/subscriptions`, "Graceful Closure").
pub(super) fn closed(id: &Id) -> Bytes {
    let id = id.as_json();
    let meta = format!(r#"{{"io.modelcontextprotocol/subscriptionId":{id}}}"#);
    let text =
        format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"resultType":"complete","_meta":{meta}}}}}"#);
    text.into()
}
