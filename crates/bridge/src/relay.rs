//! What all tasks of a relay share, and the one way by which the server's messages reach the client.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderValue, Method};
use thv_wire::lines::to_line;
use thv_wire::message::{Id, Incoming, Kind, Peek, peek};
use tokio::sync::Semaphore;

use crate::Options;
use crate::exchange::Call;
use crate::failure::Failure;
use crate::outbox::Outbox;
use crate::pending::Pending;
use crate::pool::{Effort, Pool};
use crate::session::{Session, Sessions};

/// The state of one relay.
pub(crate) struct Relay {
    pub(crate) options: Options,
    pub(crate) pool: Arc<Pool>,
    pub(crate) session: Sessions,
    pub(crate) pending: Pending,
    pub(crate) outbox: Outbox,
    /// One for each request that may be with the server at the same time.
    pub(crate) slots: Semaphore,
}

/// The client's `initialize`, while its answer is awaited.
pub(crate) struct Initialize {
    pub(crate) id: Id,
    pub(crate) params: Option<Bytes>,
    /// From the head of the reply.
    pub(crate) session: Option<HeaderValue>,
}

impl Relay {
    pub(crate) fn new(options: Options, pool: Arc<Pool>, outbox: Outbox) -> Self {
        let slots = Semaphore::new(options.max_in_flight);
        Self { options, pool, session: Sessions::new(), pending: Pending::new(), outbox, slots }
    }

    /// A POST of a message that is sent whatever happens meanwhile.
    pub(crate) fn post(&self, session: &Session, body: Bytes) -> Call<'static> {
        Call { method: Method::POST, headers: session.post(), body, effort: Effort::Follow, wanted: &|| true }
    }

    /// Answers a request in the server's stead, if it still waits.
    pub(crate) async fn fail(&self, id: &Id, failure: &Failure) {
        tracing::debug!(%failure, "request failed");
        self.answer(id, failure.answer(Some(id))).await;
    }

    /// Answers a request, if it still waits.
    pub(crate) async fn answer(&self, id: &Id, line: Bytes) {
        if let Some(slot) = self.outbox.reserve(line.len()).await
            && self.pending.take(id)
        {
            slot.send(line);
        }
    }

    /// Passes a message of the server on: requests and notifications as they are, answers to those who still
    /// wait for them. What is no message goes nowhere, since the client's input is for messages only.
    pub(crate) async fn deliver(&self, message: Bytes, initialize: Option<&Initialize>) {
        match peek(&message) {
            Ok(Incoming::One(seen)) => match seen.kind {
                Kind::Request | Kind::Notification => self.outbox.send(to_line(message)).await,
                Kind::Response => {
                    let Some(id) = seen.id.clone().filter(|id| self.pending.contains(id)) else {
                        tracing::debug!("answer to nobody dropped");
                        return;
                    };
                    if let Some(initialize) = initialize.filter(|initialize| initialize.id == id) {
                        self.begin(initialize, &seen);
                    }
                    self.answer(&id, to_line(message)).await;
                }
            },
            Ok(Incoming::Batch(parts)) => self.deliver_batch(&message, &parts).await,
            Err(error) => {
                tracing::warn!(%error, length = message.len(), "the server sent what is no message");
            }
        }
    }

    /// Takes note of the session before the client hears of it: its next message belongs to it.
    fn begin(&self, initialize: &Initialize, answer: &Peek<'_>) {
        if answer.result.is_some() {
            let version = answer.protocol_version();
            self.session.begin(initialize.session.clone(), version.as_deref(), initialize.params.clone());
        }
    }

    async fn deliver_batch(&self, message: &Bytes, parts: &[(&serde_json::value::RawValue, Peek<'_>)]) {
        let Some(slot) = self.outbox.reserve(message.len()).await else { return };
        let is_for_client = |seen: &Peek<'_>| match (seen.kind, &seen.id) {
            (Kind::Response, Some(id)) => self.pending.take(id),
            (Kind::Response, None) => false,
            _ => true,
        };
        let passed: Vec<&str> =
            parts.iter().filter(|(_, seen)| is_for_client(seen)).map(|(text, _)| text.get()).collect();
        if passed.len() == parts.len() {
            slot.send(to_line(message.clone()));
            return;
        }
        // Some of it is for nobody: the rest goes out one by one.
        let mut lines = BytesMut::with_capacity(message.len());
        for text in passed {
            if !lines.is_empty() {
                lines.put_u8(b'\n');
            }
            lines.put_slice(&to_line(Bytes::copy_from_slice(text.as_bytes())));
        }
        if !lines.is_empty() {
            slot.send(lines.freeze());
        }
    }
}
