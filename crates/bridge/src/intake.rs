//! The way in: lines of the client, each looked at and put on its way. Reading waits for room among the
//! messages under way, never for the client to read.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use thv_wire::code;
use thv_wire::lines::{LineDecoder, LineError};
use thv_wire::message::{Id, Incoming, Kind, Peek, error_response, peek};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use crate::batch::Batch;
use crate::era::{About, Modern};
use crate::failure::Failure;
use crate::gate::{Gate, Opener};
use crate::job::{Besides, Job, What};
use crate::ordered::{Item, ItemKind};
use crate::pending::{Expected, Traits};
use crate::relay::{Initialize, Relay};
use crate::state::Change;
use crate::target::Transport;

/// What all messages under way together may cost, in KiB.
const ROOM_KIB: usize = 64 * 1024;

/// What a message under way is taken to cost beyond its text, in KiB.
const OVERHEAD_KIB: usize = 4;

/// Reads the client's messages.
pub(crate) struct Intake {
    relay: Arc<Relay>,
    /// In KiB; bounds the memory of all messages under way.
    room: Arc<Semaphore>,
    /// What the next message has to wait for.
    gate: Gate,
}

impl Intake {
    pub(crate) fn new(relay: Arc<Relay>) -> Self {
        // The largest message must fit.
        let room = ROOM_KIB.max(cost(relay.options.max_message_bytes));
        Self { relay, room: Arc::new(Semaphore::new(room)), gate: Gate::default() }
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
                        self.push_answers(failure.answer(Some(&id)), vec![id], room, tasks);
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
                    let item = self.item(line.clone(), ItemKind::Initialized, true, room);
                    self.enqueue(item);
                }
                (Kind::Notification, _) => self.take_notification(line, &one, room),
                (_, id) => self.push_answers(line.clone(), id.into_iter().collect(), room, tasks),
            },
            Incoming::Batch(parts) => self.take_batch(line, Batch::of(&parts), room, tasks),
        }
    }

    fn take_batch(
        &mut self,
        line: &Bytes,
        batch: Batch,
        room: OwnedSemaphorePermit,
        tasks: &mut JoinSet<()>,
    ) {
        let Batch { requests, notifies, initializes, cancelled, answered } = batch;
        let pending = &self.relay.pending;
        if !requests.is_empty() {
            let Some(expected) = self.expect(requests) else { return self.refuse_id(room, tasks) };
            let is_own = |id: &Id| expected.iter().any(|one| one.id == *id);
            let mut cancels = Vec::new();
            for id in cancelled {
                // One that it cancels itself is settled at once: the server hears of both.
                cancels.extend(pending.withdraw(&id).filter(|_| !is_own(&id)));
            }
            let any = notifies || !answered.is_empty();
            let besides = Besides { any, initializes, answers: answered, _cancels: cancels };
            self.start(line.clone(), expected, What::InSession, besides, room, tasks);
        } else if notifies {
            let cancels = cancelled.iter().filter_map(|id| pending.withdraw(id)).collect();
            let item = self.item(line.clone(), ItemKind::Notification, initializes, room);
            self.enqueue(Item { cancels, answers: answered, ..item });
        } else {
            self.push_answers(line.clone(), answered, room, tasks);
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
        let Some(expected) = self.expect(vec![(id, traits)]) else { return self.refuse_id(room, tasks) };
        self.start(line.clone(), expected, what, Besides::default(), room, tasks);
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
                let item = self.item(line.clone(), ItemKind::Notification, false, room);
                let withdraw = |id: &Id| self.relay.pending.withdraw(id);
                let cancels = cancelled.as_ref().and_then(withdraw).into_iter().collect();
                self.enqueue(Item { modern: modern.map(|modern| modern.headers), cancels, ..item });
            }
            Err(error) => tracing::warn!(%error, "notification dropped"),
        }
    }

    /// Puts requests on the list of those that are owed an answer; nothing if one of them is on it already.
    fn expect(&self, ids: Vec<(Id, Traits)>) -> Option<Vec<Expected>> {
        let mut expected = Vec::with_capacity(ids.len());
        for (id, traits) in ids {
            let Some(one) = self.relay.pending.expect(id, traits) else {
                for one in &expected {
                    self.relay.pending.take_this(one);
                }
                return None;
            };
            expected.push(one);
        }
        Some(expected)
    }

    fn refuse_id(&self, room: OwnedSemaphorePermit, tasks: &mut JoinSet<()>) {
        // Which of the two an answer under that id belongs to could not be told.
        let why = "a request of this id still waits for its answer";
        self.reply(error_response(None, code::INVALID_REQUEST, why, None).into(), room, tasks);
    }

    /// Starts a request, or a batch with requests in it.
    fn start(
        &mut self,
        body: Bytes,
        expected: Vec<Expected>,
        what: What,
        besides: Besides,
        room: OwnedSemaphorePermit,
        tasks: &mut JoinSet<()>,
    ) {
        let (gate, opens) = match &what {
            // What stands alone waits for nothing.
            What::Alone(_) => (Gate::default(), None),
            What::InSession if !besides.initializes => (self.gate.clone(), None),
            What::InSession | What::Initialize(_) => (self.gate.clone(), Some(self.close_gate())),
        };
        let job = Job { body, expected, what, gate, opens, besides, _room: room };
        tasks.spawn(Arc::clone(&self.relay).run_request(job));
    }

    /// Queues the client's answers to what the server asked. To a session that is only just being begun they go at once:
    /// it may wait for them before it says that it has begun, for which all others wait.
    fn push_answers(
        &mut self,
        body: Bytes,
        answers: Vec<Id>,
        room: OwnedSemaphorePermit,
        tasks: &mut JoinSet<()>,
    ) {
        let early = answers.first().and_then(|id| self.relay.asked.early(id));
        let item = self.item(body, ItemKind::Response, false, room);
        if early.is_some() {
            let relay = Arc::clone(&self.relay);
            let item = Item { gate: Gate::default(), answers, early, ..item };
            tasks.spawn(async move { relay.run_item(item).await });
        } else {
            self.enqueue(Item { answers, ..item });
        }
    }

    fn enqueue(&self, item: Item) {
        // The other end lives as long as the relay relays.
        let _ = self.relay.ordered.send(item);
    }

    /// A message that is sent in order.
    fn item(&mut self, body: Bytes, kind: ItemKind, initializes: bool, room: OwnedSemaphorePermit) -> Item {
        let gate = self.gate.clone();
        let opens = initializes.then(|| self.close_gate());
        Item {
            body,
            kind,
            modern: None,
            gate,
            opens,
            initializes,
            cancels: Vec::new(),
            answers: Vec::new(),
            early: None,
            under_way: self.relay.pending.under_way(),
            room: Some(room),
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
