//! The way in: lines of the client, each looked at and put on its way. Reading waits for room among the
//! messages under way, never for the client to read.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use thv_wire::code;
use thv_wire::lines::{LineDecoder, LineError};
use thv_wire::message::{Id, Incoming, Kind, Peek, error_response, peek};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::era::{About, Modern};
use crate::failure::Failure;
use crate::gate::{Gate, Opener};
use crate::ordered::{Item, ItemKind};
use crate::pending::{Expected, Traits};
use crate::relay::{Initialize, Relay};
use crate::request::{Job, What};
use crate::state::Change;
use crate::target::Transport;

/// What all messages under way together may cost, in KiB.
const ROOM_KIB: usize = 64 * 1024;

/// What a message under way is taken to cost beyond its text, in KiB.
const OVERHEAD_KIB: usize = 4;

/// Reads the client's messages.
pub(crate) struct Intake {
    relay: Arc<Relay>,
    ordered: mpsc::UnboundedSender<Item>,
    /// In KiB; bounds the memory of all messages under way.
    room: Arc<Semaphore>,
    /// What the next message has to wait for.
    gate: Gate,
}

impl Intake {
    pub(crate) fn new(relay: Arc<Relay>, ordered: mpsc::UnboundedSender<Item>) -> Self {
        // The largest message must fit.
        let room = ROOM_KIB.max(cost(relay.options.max_message_bytes));
        Self { relay, ordered, room: Arc::new(Semaphore::new(room)), gate: Gate::default() }
    }

    /// Reads until the input ends.
    ///
    /// # Errors
    /// Reading failed.
    pub(crate) async fn run<R: AsyncRead + Unpin>(
        mut self,
        mut stdin: R,
        tasks: &mut JoinSet<()>,
    ) -> io::Result<()> {
        let mut decoder = LineDecoder::new(self.relay.options.max_message_bytes);
        loop {
            while let Some(line) = decoder.next_line() {
                self.take(line, tasks).await;
            }
            tokio::select! {
                count = stdin.read_buf(decoder.space()) => if count? == 0 { break },
                Some(done) = tasks.join_next() => if let Err(error) = done {
                    tracing::error!(%error, "task failed");
                },
            }
        }
        // A script may end without a line end; half a line is no message and gets the answer of one.
        if let Some(line) = decoder.finish() {
            self.take(line, tasks).await;
        }
        Ok(())
    }

    async fn take(&mut self, line: Result<Bytes, LineError>, tasks: &mut JoinSet<()>) {
        let length = line.as_ref().map_or(0, Bytes::len);
        let cost = u32::try_from(cost(length)).unwrap_or(u32::MAX);
        // The semaphore is never closed, and no line is bigger than its room.
        let Ok(room) = Arc::clone(&self.room).acquire_many_owned(cost).await else { return };
        match line {
            Ok(line) => self.take_line(&line, room, tasks),
            Err(LineError::TooLong { limit, length, message }) => {
                let failure = Failure::TooLarge { what: "message", size: Some(length), limit };
                match (message.kind, message.id) {
                    // The server waits for this answer, and shall not wait for ever.
                    (Some(Kind::Response), Some(id)) => {
                        self.push(failure.answer(Some(&id)), ItemKind::Response, Some(&id), room);
                    }
                    (Some(Kind::Response | Kind::Notification), _) => {
                        tracing::warn!(%failure, "message dropped");
                    }
                    (_, id) => self.reply(failure.answer(id.as_ref()), room, tasks),
                }
            }
            Err(error) => tracing::warn!(%error, "line dropped"),
        }
    }

    fn take_line(&mut self, line: &Bytes, room: OwnedSemaphorePermit, tasks: &mut JoinSet<()>) {
        let seen = match peek(line) {
            Ok(seen) => seen,
            Err(error) => {
                // JSON-RPC 2.0, section 5: the id is null where the request's could not be read.
                let answer = error_response(None, error.code(), &error.to_string(), None);
                return self.reply(answer.into(), room, tasks);
            }
        };
        match seen {
            Incoming::One(one) => match (one.kind, one.id.clone()) {
                (Kind::Request, Some(id)) => self.take_request(line, &one, id, room, tasks),
                (Kind::Notification, _) if one.is("notifications/initialized") => {
                    self.push(line.clone(), ItemKind::Initialized, None, room);
                }
                (Kind::Notification, _) => self.take_notification(line, &one, room),
                (_, id) => self.push(line.clone(), ItemKind::Response, id.as_ref(), room),
            },
            Incoming::Batch(parts) => {
                let of = |kind| move |seen: &&Peek<'_>| seen.kind == kind;
                let messages = || parts.iter().map(|(_, seen)| seen);
                let ids: Vec<(Id, Traits)> = messages()
                    .filter(of(Kind::Request))
                    .filter_map(|seen| Some((seen.id.clone()?, in_session(seen))))
                    .collect();
                if !ids.is_empty() {
                    self.request(line.clone(), ids, What::InSession, room, tasks);
                } else if messages().any(|seen| seen.kind == Kind::Notification) {
                    self.push(line.clone(), ItemKind::Notification, None, room);
                } else {
                    self.push(line.clone(), ItemKind::Response, None, room);
                }
            }
        }
    }

    fn take_request(
        &mut self,
        line: &Bytes,
        seen: &Peek<'_>,
        id: Id,
        room: OwnedSemaphorePermit,
        tasks: &mut JoinSet<()>,
    ) {
        let (what, traits) = match Modern::of(seen) {
            Some(Ok(modern)) => {
                self.relay.era.note(&modern);
                let endless = modern.about == About::Listen;
                (What::Alone(modern), Traits { change: None, alone: true, endless })
            }
            Some(Err(error)) => {
                let answer = error_response(Some(&id), code::INVALID_REQUEST, &error.to_string(), None);
                return self.reply(answer.into(), room, tasks);
            }
            None if seen.is("initialize") => {
                self.relay.era.end();
                let params = seen.params.map(|params| line.slice_ref(params.get().as_bytes()));
                let over = Transport::Streamable;
                let initialize = Initialize { id: id.clone(), params, session: None, over };
                (What::Initialize(initialize), in_session(seen))
            }
            None => (What::InSession, in_session(seen)),
        };
        self.request(line.clone(), vec![(id, traits)], what, room, tasks);
    }

    fn take_notification(&mut self, line: &Bytes, seen: &Peek<'_>, room: OwnedSemaphorePermit) {
        let cancelled = seen.cancelled_id();
        let outside = self.relay.era.outside(&self.relay.session.current());
        // Over HTTP with SSE all is of one era.
        if self.relay.pool.finder.known_transport() == Transport::Streamable {
            let pending = &self.relay.pending;
            if cancelled.as_ref().is_some_and(|id| pending.withdraw_alone(id)) {
                // The end of its connection says it (MCP 2026-07-28, `basic/patterns/cancellation`).
                return;
            }
            let is_known = cancelled.as_ref().is_some_and(|id| pending.contains(id));
            if outside.is_some() && seen.is("notifications/cancelled") && !is_known {
                tracing::debug!("cancelled what is answered already");
                return;
            }
        }
        let modern = match Modern::of(seen) {
            None => outside.map(|version| Modern::with(seen, Some(&version))),
            claimed => claimed,
        };
        match modern.transpose() {
            Ok(modern) => {
                let item = self.item(line.clone(), ItemKind::Notification, cancelled.as_ref(), room);
                self.enqueue(Item { modern: modern.map(|modern| modern.headers), ..item });
            }
            Err(error) => tracing::warn!(%error, "notification dropped"),
        }
    }

    /// Starts a request, or a batch with requests in it.
    fn request(
        &mut self,
        body: Bytes,
        ids: Vec<(Id, Traits)>,
        what: What,
        room: OwnedSemaphorePermit,
        tasks: &mut JoinSet<()>,
    ) {
        let mut expected = Vec::with_capacity(ids.len());
        for (id, traits) in ids {
            let Some(one) = self.relay.pending.expect(id, traits) else {
                // Which of the two an answer under that id belongs to could not be told.
                let taken: Vec<Id> = expected.into_iter().map(|one: Expected| one.id).collect();
                for id in taken {
                    self.relay.pending.take(&id);
                }
                let why = "a request of this id still waits for its answer";
                let answer = error_response(None, code::INVALID_REQUEST, why, None);
                return self.reply(answer.into(), room, tasks);
            };
            expected.push(one);
        }
        let (gate, opens) = match &what {
            // What stands alone waits for nothing.
            What::Alone(_) => (Gate::default(), None),
            What::InSession => (self.gate.clone(), None),
            What::Initialize(_) => (self.gate.clone(), Some(self.close_gate())),
        };
        let job = Job { body, expected, what, gate, opens, _room: room };
        tasks.spawn(Arc::clone(&self.relay).run_request(job));
    }

    /// Queues a message that is sent in order; with the request that it cancels, or the server's that it answers.
    fn push(&mut self, body: Bytes, kind: ItemKind, about: Option<&Id>, room: OwnedSemaphorePermit) {
        let item = self.item(body, kind, about, room);
        self.enqueue(item);
    }

    fn enqueue(&self, item: Item) {
        // The other end lives as long as this one.
        let _ = self.ordered.send(item);
    }

    fn item(&mut self, body: Bytes, kind: ItemKind, about: Option<&Id>, room: OwnedSemaphorePermit) -> Item {
        let gate = self.gate.clone();
        let opens = (kind == ItemKind::Initialized).then(|| self.close_gate());
        let is_response = kind == ItemKind::Response;
        Item {
            body,
            kind,
            modern: None,
            gate,
            opens,
            cancels: about.filter(|_| !is_response).and_then(|id| self.relay.pending.withdraw(id)),
            answers: about.filter(|_| is_response).cloned(),
            under_way: self.relay.pending.under_way(),
            room,
        }
    }

    fn close_gate(&mut self) -> Opener {
        let (opener, gate) = Gate::closed();
        self.gate = gate;
        opener
    }

    /// Tells the client something of our own, without waiting for it to read.
    fn reply(&self, answer: Bytes, room: OwnedSemaphorePermit, tasks: &mut JoinSet<()>) {
        let relay = Arc::clone(&self.relay);
        let under_way = relay.pending.under_way();
        tasks.spawn(async move {
            relay.outbox.send(answer).await;
            drop((under_way, room));
        });
    }
}

fn in_session(seen: &Peek<'_>) -> Traits {
    Traits { change: Change::of(seen), ..Traits::default() }
}

/// What a message of this length costs, in KiB.
fn cost(length: usize) -> usize {
    length / 1024 + OVERHEAD_KIB
}
