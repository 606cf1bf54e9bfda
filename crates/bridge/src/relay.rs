//! What all tasks of a relay share, and the one way by which the server's messages reach the client.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderValue, Method};
use thv_wire::lines::to_line;
use thv_wire::message::{Id, Incoming, Kind, Peek, peek};
use tokio::sync::{Semaphore, mpsc};

use crate::Options;
use crate::asked::Asked;
use crate::channel::Channels;
use crate::era::Era;
use crate::events::Events;
use crate::exchange::{Body, Call, Reply};
use crate::failure::Failure;
use crate::ordered::Item;
use crate::outbox::Outbox;
use crate::own::Own;
use crate::pending::{Expected, Owed, Pending};
use crate::pool::{Effort, Pool};
use crate::room::Room;
use crate::schemas::Schemas;
use crate::session::{Session, Sessions};
use crate::state::Told;
use crate::target::Transport;

/// The state of one relay.
pub(crate) struct Relay {
    pub(crate) options: Options,
    pub(crate) pool: Arc<Pool>,
    pub(crate) session: Sessions,
    /// Used only where the server speaks the transport of 2024-11-05.
    pub(crate) channels: Channels,
    pub(crate) pending: Pending,
    /// Requests of the relay's own.
    pub(crate) own: Own,
    /// Requests of the server's.
    pub(crate) asked: Asked,
    told: Mutex<Told>,
    /// Messages that are sent in order.
    pub(crate) ordered: mpsc::UnboundedSender<Item>,
    /// Of the client's last request.
    pub(crate) era: Era,
    /// What the server's tools want to see in headers.
    pub(crate) schemas: Schemas,
    pub(crate) outbox: Outbox,
    /// For what comes from the server until it is written.
    pub(crate) room: Room,
    /// One for each request that may be with the server at the same time.
    pub(crate) slots: Semaphore,
    /// The same for those that stay there: they shall not keep others from being answered.
    pub(crate) endless_slots: Semaphore,
}

/// The client's `initialize`, while its answer is awaited.
#[derive(Clone)]
pub(crate) struct Initialize {
    pub(crate) id: Id,
    pub(crate) params: Option<Bytes>,
    /// From the head of the reply.
    pub(crate) session: Option<HeaderValue>,
    /// Over which it was sent.
    pub(crate) over: Transport,
}

impl Relay {
    pub(crate) fn new(
        options: Options,
        pool: Arc<Pool>,
        channels: Channels,
        outbox: Outbox,
        ordered: mpsc::UnboundedSender<Item>,
    ) -> Self {
        let slots = || Semaphore::new(options.max_in_flight);
        let (slots, endless_slots) = (slots(), slots());
        Self {
            options,
            pool,
            session: Sessions::new(),
            channels,
            pending: Pending::new(),
            own: Own::default(),
            asked: Asked::default(),
            told: Mutex::default(),
            ordered,
            era: Era::default(),
            schemas: Schemas::default(),
            outbox,
            room: Room::new(),
            slots,
            endless_slots,
        }
    }

    /// What the client has told the server to remember.
    pub(crate) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A POST of a message that is sent whatever happens meanwhile.
    pub(crate) fn post(&self, session: &Session, body: Bytes) -> Call<'static> {
        Call {
            method: Method::POST,
            headers: session.post(),
            body,
            effort: Effort::Follow,
            over: Transport::Streamable,
            to: None,
            wanted: &|_| true,
            until: None,
        }
    }

    /// The body of a reply that is one answer.
    pub(crate) async fn collect(&self, reply: Reply) -> Result<Bytes, Failure> {
        reply.body.collect(self.options.max_answer_bytes, &self.room).await
    }

    /// The events of a reply that is a stream.
    pub(crate) fn events(&self, body: Body) -> Events {
        Events::new(body, self.options.max_answer_bytes, self.room.clone())
    }

    /// Answers the request of this id in the server's stead, if it still waits.
    pub(crate) async fn fail(&self, id: &Id, failure: &Failure) {
        tracing::debug!(%failure, "request failed");
        self.settle(id, failure.answer(Some(id)), None).await;
    }

    /// Answers this very request, if it still waits, with an error.
    pub(crate) async fn refuse(&self, expected: &Expected, error: Bytes) {
        if let Some(slot) = self.outbox.reserve(error.len()).await
            && self.pending.take_this(expected).is_some()
        {
            slot.send(error);
        }
    }

    /// `done` is the life of the session in which it succeeded.
    async fn settle(&self, id: &Id, line: Bytes, done: Option<u64>) {
        let Some(slot) = self.outbox.reserve(line.len()).await else { return };
        if let Some(life) = done {
            Box::pin(self.tell_successors(id, life)).await;
        }
        if let Some(owed) = self.pending.take(id) {
            self.note(owed, done.is_some());
            slot.send(line);
        }
    }

    /// Takes note of what the server remembers from now on.
    fn note(&self, owed: Owed, succeeded: bool) {
        if let Some(change) = owed.into_change().filter(|_| succeeded) {
            self.told().apply(change);
        }
    }

    /// Takes note of what the server asks, or takes back.
    fn note_question(&self, seen: &Peek<'_>, life: u64) {
        if let Some(id) = &seen.id {
            self.asked.note(id.clone(), life);
        } else if let Some(id) = seen.cancelled_id() {
            self.asked.cancel(&id, life);
        }
    }

    /// Passes a message of the server on: requests and notifications as they are, answers to those who still
    /// wait for them. What is no message goes nowhere, since the client's input is for messages only.
    ///
    /// `life` is that of the session in which the server said it.
    pub(crate) async fn deliver(&self, message: Bytes, life: u64, initialize: Option<&Initialize>) {
        match peek(&message) {
            Ok(Incoming::One(seen)) => match (seen.kind, seen.id.clone()) {
                (Kind::Response, id) => {
                    let Some(id) = id.filter(|id| self.awaits(id, &message)) else {
                        tracing::debug!("answer to nobody dropped");
                        return;
                    };
                    if let Some(initialize) = initialize.filter(|initialize| initialize.id == id) {
                        self.begin(initialize, life, &seen);
                    }
                    let done = seen.result.is_some().then_some(life);
                    self.settle(&id, to_line(message.clone()), done).await;
                }
                _ => {
                    self.note_question(&seen, life);
                    self.outbox.send(to_line(message.clone())).await;
                }
            },
            Ok(Incoming::Batch(parts)) => self.deliver_batch(&message, life, &parts).await,
            Err(error) => {
                tracing::warn!(%error, length = message.len(), "the server sent what is no message");
            }
        }
    }

    /// Whether the client waits for this answer. One to a request of the relay's own is handed over here.
    fn awaits(&self, id: &Id, answer: &Bytes) -> bool {
        self.pending.contains(id) || {
            self.own.take(id, answer);
            false
        }
    }

    /// Takes note of the session before the client hears of it: its next message belongs to it.
    fn begin(&self, initialize: &Initialize, life: u64, answer: &Peek<'_>) {
        if answer.result.is_some() {
            let version = answer.protocol_version();
            self.told().clear();
            let Initialize { session, params, over, .. } = initialize.clone();
            self.session.begin(Session::begun(life, session, version.as_deref(), over), params);
        }
    }

    async fn deliver_batch(
        &self,
        message: &Bytes,
        life: u64,
        parts: &[(&serde_json::value::RawValue, Peek<'_>)],
    ) {
        let Some(slot) = self.outbox.reserve(message.len()).await else { return };
        for id in
            parts.iter().filter(|(_, seen)| seen.result.is_some()).filter_map(|(_, seen)| seen.id.as_ref())
        {
            Box::pin(self.tell_successors(id, life)).await;
        }
        let is_for_client = |seen: &Peek<'_>| match (seen.kind, &seen.id) {
            (Kind::Response, Some(id)) => match self.pending.take(id) {
                Some(owed) => {
                    self.note(owed, seen.result.is_some());
                    true
                }
                None => false,
            },
            (Kind::Response, None) => false,
            _ => {
                self.note_question(seen, life);
                true
            }
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
