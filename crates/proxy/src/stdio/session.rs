//! One session: its server, and what it knows of the requests under way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use thv_wire::code::{self, Reason};
use thv_wire::message::{Id, Incoming, Kind, Peek, error_response};
use thv_wire::skim::Skimmed;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::held::Held;
use super::link::{End, Life, Link, MAX_IN_FLIGHT, Peer, Refused, reply};
use super::outlet::Outlet;
use super::queue::{Item, Queue, What};
use super::replay::{Opened, Replay};
use super::room::{Place, bind};
use super::streams::{Stream, answer_item};
use super::{Options, SessionInfo};
use crate::Owner;

/// A stream whose client has read nothing for so long, while the server had more to say, is cut.
const STALLED: Duration = Duration::from_secs(60);

/// What the client asks, seen from outside.
#[derive(Debug)]
pub(super) enum Ask {
    Request { id: Id, token: Option<Id>, initialize: bool },
    Cancel(Id),
    Other,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) link: Link,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) ended: bool,
    /// `initialize` was answered with a result, of this version.
    pub(super) version: Option<Box<str>>,
    pub(super) last_used: Instant,
    /// Connections that read a stream, POSTs that wait included.
    pub(super) outlets: usize,
    pub(super) pending: HashMap<Id, Pending>,
    /// Progress tokens of the pending requests.
    pub(super) tokens: HashMap<Id, Arc<Stream>>,
    /// GET streams that are read, oldest first. Messages take the last.
    pub(super) gets: Vec<Arc<Stream>>,
    /// Streams that are read and that the client can name.
    pub(super) connected: HashMap<u64, Arc<Stream>>,
    pub(super) held: Held,
    pub(super) replay: Replay,
    pub(super) streams: u64,
    pub(super) events: u64,
    sequence: u64,
}

/// A request that waits for its answer.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) stream: Arc<Stream>,
    token: Option<Id>,
    initialize: bool,
    pub(super) sequence: u64,
}

impl Session {
    pub(super) fn new(number: u64, owner: Owner, options: Arc<Options>) -> (Self, mpsc::Receiver<Bytes>) {
        let (link, messages) = Link::new(number, owner, options);
        let state = State {
            ended: false,
            version: None,
            last_used: Instant::now(),
            outlets: 0,
            pending: HashMap::new(),
            tokens: HashMap::new(),
            gets: Vec::new(),
            connected: HashMap::new(),
            held: Held::default(),
            replay: Replay::default(),
            streams: 0,
            events: 0,
            sequence: 0,
        };
        (Self { link, state: Mutex::new(state) }, messages)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn life(&self) -> Life {
        self.link.life()
    }

    /// The version that `initialize` settled, once it has.
    pub(super) fn version(&self) -> Option<Box<str>> {
        self.lock().version.clone()
    }

    pub(super) fn info(&self) -> SessionInfo {
        let state = self.lock();
        SessionInfo {
            number: self.link.number,
            owner: self.link.owner.clone(),
            created: self.link.created.1,
            idle: state.idle(),
            version: state.version.as_deref().map(str::to_owned),
            in_flight: state.pending.len(),
            has_stream: !state.gets.is_empty(),
        }
    }

    /// How long nobody has used it; `None` while a stream of it is open.
    pub(super) fn idle(&self) -> Option<Duration> {
        self.lock().idle()
    }

    /// Hands messages of the client to the server, in order. `line` holds them, one a line, and `asks` says
    /// what they are. If there are requests among them, the stream that their answers go to is returned.
    ///
    /// Waits while the server does not read.
    pub(super) async fn submit(
        self: &Arc<Self>,
        line: Bytes,
        asks: Vec<Ask>,
    ) -> Result<Option<Outlet>, Refused> {
        let slot = self.link.inbox.reserve().await.map_err(|_| Refused::Ended)?;
        // From here on nothing waits: what is registered is also sent.
        let outlet = self.register(asks)?;
        slot.send(line);
        Ok(outlet)
    }

    /// Hands over the first message. It is written once the server has started.
    pub(super) fn submit_first(self: &Arc<Self>, line: Bytes, ask: Ask) -> Result<Option<Outlet>, Refused> {
        let slot = self.link.inbox.try_reserve().map_err(|_| Refused::Ended)?;
        let outlet = self.register(vec![ask])?;
        slot.send(line);
        Ok(outlet)
    }

    fn register(self: &Arc<Self>, asks: Vec<Ask>) -> Result<Option<Outlet>, Refused> {
        let mut state = self.lock();
        if state.ended {
            return Err(Refused::Ended);
        }
        state.last_used = Instant::now();
        let count = asks.iter().filter(|ask| matches!(ask, Ask::Request { .. })).count();
        if state.pending.len() + count > MAX_IN_FLIGHT {
            return Err(Refused::TooMany);
        }
        let stream = (count > 0).then(|| Stream::new(state.next_stream(Opened::ByPost), count));
        let mut taken: Vec<Id> = Vec::new();
        for ask in asks {
            match (ask, &stream) {
                (Ask::Request { id, token, initialize }, Some(stream)) => {
                    if state.pending.contains_key(&id) {
                        for id in taken {
                            state.forget(&id);
                        }
                        return Err(Refused::InFlight);
                    }
                    state.sequence += 1;
                    if let Some(token) = &token {
                        state.tokens.insert(token.clone(), Arc::clone(stream));
                    }
                    let sequence = state.sequence;
                    let pending = Pending { stream: Arc::clone(stream), token, initialize, sequence };
                    state.pending.insert(id.clone(), pending);
                    if count > 1 {
                        taken.push(id);
                    }
                }
                (Ask::Cancel(id), _) => state.cancel(&id),
                _ => {}
            }
        }
        let Some(stream) = stream else { return Ok(None) };
        let turn = state.attach(&stream);
        if state.gets.is_empty() {
            for item in state.held.take_requests() {
                // There is a reader.
                let _ = stream.queue.put(item);
            }
        }
        Ok(Some(Outlet::new(Arc::clone(self), stream, turn)))
    }

    /// Takes a request off the list and returns the stream of its answer, and whether it was `initialize`.
    fn answered(&self, id: &Id) -> Option<(Arc<Stream>, bool)> {
        self.lock().forget(id).map(|pending| (pending.stream, pending.initialize))
    }

    /// `initialize` was answered with a result.
    fn open(&self, version: Box<str>) {
        let mut state = self.lock();
        if !state.ended {
            state.version = Some(version);
            self.link.life.send_replace(Life::Open);
        }
    }

    async fn route(&self, text: Bytes, seen: &Peek<'_>) {
        match seen.kind {
            Kind::Response => {
                let Some((stream, initialize)) = seen.id.as_ref().and_then(|id| self.answered(id)) else {
                    tracing::debug!(session = self.link.number, "dropped an answer that nobody waits for");
                    return;
                };
                if initialize && seen.result.is_some() {
                    self.open(seen.protocol_version().unwrap_or_default().into());
                }
                self.answer(&stream, text).await;
                if initialize && seen.error.is_some() {
                    self.end(&End::Declined);
                }
            }
            Kind::Request => self.forward(Item { text, what: What::Request }, None).await,
            Kind::Notification => {
                let token = seen.progress_token();
                self.forward(Item { text, what: What::Notification }, token.as_ref()).await;
            }
        }
    }

    async fn answer(&self, stream: &Arc<Stream>, text: Bytes) {
        let mut slot = Some(answer_item(text));
        self.push(&stream.queue, &mut slot).await;
        if let Some(item) = slot {
            self.late_answer(stream, item);
        }
        stream.queue.settle();
    }

    /// Finds a stream for a message that is no answer, and another if that one breaks meanwhile.
    async fn forward(&self, mut item: Item, token: Option<&Id>) {
        while let Some((stream, mine)) = self.stream_for(item, token) {
            let mut slot = Some(mine);
            self.push(&stream.queue, &mut slot).await;
            let Some(back) = slot else { return };
            item = back;
        }
    }

    async fn push(&self, queue: &Queue, slot: &mut Option<Item>) {
        if timeout(STALLED, queue.push(slot)).await.is_err() {
            tracing::warn!(session = self.link.number, "cut a stream that its client does not read");
            queue.finish();
        }
    }

    pub(super) fn drop_items(&self, dropped: Vec<Item>) {
        for item in dropped {
            tracing::warn!(
                session = self.link.number,
                bytes = item.text.len(),
                "dropped a message that no stream took"
            );
            if item.what == What::Request
                && let Ok(Incoming::One(peek)) = thv_wire::message::peek(&item.text)
                && let Some(id) = &peek.id
            {
                let text = "the client has no stream open to be asked on";
                self.link.answer_server(error_response(Some(id), code::INTERNAL_ERROR, text, None).into());
            }
        }
    }
}

impl Peer for Session {
    fn link(&self) -> &Link {
        &self.link
    }

    fn end(&self, end: &End) {
        let mut state = self.lock();
        if state.ended {
            return;
        }
        state.ended = true;
        let pending = std::mem::take(&mut state.pending);
        let gets = std::mem::take(&mut state.gets);
        let started = state.version.is_some();
        state.tokens.clear();
        state.connected.clear();
        state.held.take();
        state.replay.clear();
        self.link.life.send_replace(Life::Ended);
        drop(state);

        tracing::info!(
            session = self.link.number,
            reason = end.word(),
            unanswered = pending.len(),
            "session ended"
        );
        for (id, Pending { stream, .. }) in pending {
            // Where nobody reads any more there is nobody to tell.
            let _ = stream.queue.put(answer_item(self.link.farewell(&id, end, started)));
            stream.queue.settle();
        }
        for get in gets {
            get.queue.finish();
        }
        self.link.inward.close();
        self.link.outward.close();
    }

    fn deadline(&self, life: Life) -> Instant {
        let state = self.lock();
        self.link.deadline(life, (state.outlets == 0).then_some(state.last_used))
    }

    async fn take(&self, line: Bytes, place: Option<Place>, seen: Incoming<'_>) {
        match seen {
            Incoming::One(seen) => self.route(bind(line, place), &seen).await,
            Incoming::Batch(parts) => {
                // The parts point into the line, which keeps its address when its place is tied to it.
                let ranges = parts.iter().map(|(part, _)| thv_wire::splice::position(&line, part.get()));
                let ranges: Vec<_> = ranges.collect();
                let line = bind(line, place);
                for (range, (_, seen)) in ranges.into_iter().zip(&parts) {
                    if let Some(range) = range {
                        self.route(line.slice(range), seen).await;
                    }
                }
            }
        }
    }

    fn oversized(&self, length: u64, limit: usize, message: &Skimmed) {
        let Skimmed { kind, id: Some(id) } = message else { return };
        match kind {
            Some(Kind::Response) => {
                if let Some((stream, initialize)) = self.answered(id) {
                    let text = format!("the server's answer has {length} bytes, the limit is {limit}");
                    self.late_answer(&stream, answer_item(reply(Some(id), Reason::TooLarge, &text)));
                    stream.queue.settle();
                    if initialize {
                        self.end(&End::Declined);
                    }
                }
            }
            Some(Kind::Request) => {
                let text = format!("the request has {length} bytes, the limit is {limit}");
                self.link.answer_server(reply(Some(id), Reason::TooLarge, &text));
            }
            _ => {}
        }
    }
}

impl State {
    pub(super) fn idle(&self) -> Option<Duration> {
        (self.outlets == 0).then(|| self.last_used.elapsed())
    }

    fn forget(&mut self, id: &Id) -> Option<Pending> {
        let pending = self.pending.remove(id)?;
        if let Some(token) = &pending.token
            && self.tokens.get(token).is_some_and(|stream| Arc::ptr_eq(stream, &pending.stream))
        {
            self.tokens.remove(token);
        }
        Some(pending)
    }

    /// A cancelled request gets no answer, so its stream must not wait for one. `initialize` cannot be
    /// cancelled (MCP, `basic/utilities/cancellation`).
    fn cancel(&mut self, id: &Id) {
        if self.pending.get(id).is_some_and(|pending| !pending.initialize)
            && let Some(pending) = self.forget(id)
        {
            pending.stream.queue.settle();
        }
    }
}
