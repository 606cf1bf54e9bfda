//! The streams of a session: how they open, break and go on, and which message goes where. The rules are in the
//! table of [`super`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use thv_wire::era::Revision;
use thv_wire::message::Id;
use tokio::time::Instant;

use super::link::Refused;
use super::outlet::Outlet;
use super::queue::{Item, Queue, What};
use super::replay::{EventId, Opened, StreamId};
use super::session::{Session, State};

/// The most GET streams of a session. One more ends the oldest.
const MAX_GETS: usize = 4;

/// A stream of messages to the client, with a connection or, for now, without.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: StreamId,
    pub(super) queue: Queue,
    /// The client was sent an event's id, and so can come back for the rest.
    told: AtomicBool,
}

impl Stream {
    pub(super) fn new(id: StreamId, awaited: usize) -> Arc<Self> {
        Arc::new(Self { id, queue: Queue::new(awaited), told: AtomicBool::new(false) })
    }

    /// Whether the client can come back for what it has not got.
    fn is_resumable(&self) -> bool {
        self.told.load(Ordering::Relaxed)
    }
}

/// Why a stream cannot be taken up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotResumed {
    /// The session has ended.
    Ended,
    /// All of it was sent, or what was left of it is kept no longer.
    Over,
}

impl Session {
    /// Opens a new GET stream, which takes over from those there are.
    pub(super) fn open_get(self: &Arc<Self>) -> Result<Outlet, Refused> {
        let mut state = self.lock();
        if state.ended {
            return Err(Refused::Ended);
        }
        let stream = Stream::new(state.next_stream(Opened::ByGet), 0);
        let turn = state.attach_get(&stream);
        Ok(Outlet::new(Arc::clone(self), stream, turn))
    }

    /// Takes up a stream after the event that the client has got last. Another connection that still reads it ends.
    pub(super) fn resume(self: &Arc<Self>, last: EventId) -> Result<Outlet, NotResumed> {
        let mut state = self.lock();
        if state.ended {
            return Err(NotResumed::Ended);
        }
        let backlog = state.replay.after(last);
        let known = state.find_stream(last.stream);
        let stream = match (last.stream.opened, known) {
            (_, Some(stream)) if backlog.is_empty() && stream.queue.is_over() => {
                return Err(NotResumed::Over);
            }
            (_, Some(stream)) => stream,
            (Opened::ByGet, None) => Stream::new(last.stream, 0),
            (Opened::ByPost, None) if backlog.is_empty() => return Err(NotResumed::Over),
            (Opened::ByPost, None) => {
                let stream = Stream::new(last.stream, 0);
                stream.queue.finish();
                stream
            }
        };
        stream.told.store(true, Ordering::Relaxed);
        let turn = match stream.id.opened {
            Opened::ByGet => state.attach_get(&stream),
            Opened::ByPost => state.attach(&stream),
        };
        state.connected.insert(stream.id.number, Arc::clone(&stream));
        Ok(Outlet::new(Arc::clone(self), stream, turn).resumed(backlog))
    }

    /// The id of a priming event, where the client knows what that is.
    pub(super) fn prime(&self, stream: &Arc<Stream>) -> Option<EventId> {
        let mut state = self.lock();
        let revision = Revision::parse(state.version.as_deref()?)?;
        (revision >= Revision::V2025_11_25).then(|| state.tell(stream))
    }

    /// Takes the next message of a stream, which is being written to the connection whose turn it is.
    pub(super) fn next_event(&self, stream: &Arc<Stream>, turn: u64) -> Option<(EventId, Bytes)> {
        // Under the lock, or a connection that takes over could miss what this one has just taken.
        let mut state = self.lock();
        let item = stream.queue.take(turn)?;
        let id = state.tell(stream);
        if !state.ended {
            state.replay.keep(id, &item.text, true);
        }
        Some((id, item.text))
    }

    /// A connection is gone. What it has not carried is kept for the next, or finds another way.
    pub(super) fn close_outlet(&self, stream: &Arc<Stream>, turn: u64) {
        let mut state = self.lock();
        state.outlets -= 1;
        state.last_used = Instant::now();
        let Some(unread) = stream.queue.leave(turn) else { return };
        state.connected.remove(&stream.id.number);
        state.gets.retain(|get| !Arc::ptr_eq(get, stream));
        if let Some(get) = state.gets.last() {
            get.queue.open();
        }
        if state.ended {
            return;
        }
        let mut left = VecDeque::new();
        for item in unread {
            match (item.what, stream.id.opened) {
                // The server waits for an answer: it must not depend on a client that may not come back.
                (What::Request, _) | (What::Notification, Opened::ByGet) => left.push_back(item),
                _ if stream.is_resumable() => self.park(&mut state, stream, &item),
                (What::Notification, Opened::ByPost) => left.push_back(item),
                (What::Answer, _) => {}
            }
        }
        let dropped = match state.gets.last().cloned() {
            _ if left.is_empty() => Vec::new(),
            Some(get) => left.into_iter().filter_map(|item| get.queue.put(item).err()).collect(),
            None => state.held.prepend(left),
        };
        drop(state);
        self.drop_items(dropped);
    }

    /// Takes an answer that its queue did not take: its connection is gone, or has changed meanwhile.
    pub(super) fn late_answer(&self, stream: &Arc<Stream>, item: Item) {
        let mut state = self.lock();
        if !state.ended
            && let Err(item) = stream.queue.put(item)
            && stream.is_resumable()
        {
            self.park(&mut state, stream, &item);
        }
    }

    /// The stream for a message that is no answer. The message is kept if there is none for now.
    pub(super) fn stream_for(&self, item: Item, token: Option<&Id>) -> Option<(Arc<Stream>, Item)> {
        let mut state = self.lock();
        if state.ended {
            return None;
        }
        let by_token = token.and_then(|token| state.tokens.get(token)).cloned();
        if let Some(stream) = &by_token
            && !stream.queue.is_live()
            && stream.is_resumable()
        {
            self.park(&mut state, stream, &item);
            return None;
        }
        let by_token = by_token.filter(|stream| stream.queue.is_live());
        let by_get = || state.gets.last().filter(|stream| stream.queue.is_live()).cloned();
        let by_post = || {
            let open = state.pending.values().filter(|pending| pending.stream.queue.is_live());
            let newest = open.max_by_key(|pending| pending.sequence);
            newest.filter(|_| item.what == What::Request).map(|pending| Arc::clone(&pending.stream))
        };
        if let Some(stream) = by_token.or_else(by_get).or_else(by_post) {
            return Some((stream, item));
        }
        let dropped = state.held.append([item]);
        drop(state);
        self.drop_items(dropped);
        None
    }

    /// Keeps a message of a stream that has no connection, for when the client comes back.
    fn park(&self, state: &mut State, stream: &Arc<Stream>, item: &Item) {
        let id = EventId { stream: stream.id, place: state.next_event() };
        if !state.replay.keep(id, &item.text, false) {
            let bytes = item.text.len();
            tracing::warn!(session = self.link.number, bytes, "dropped a message whose stream had broken");
        }
    }
}

impl State {
    pub(super) fn next_stream(&mut self, opened: Opened) -> StreamId {
        self.streams += 1;
        StreamId { opened, number: self.streams }
    }

    fn next_event(&mut self) -> u64 {
        self.events += 1;
        self.events
    }

    /// An id for an event that is about to be written.
    fn tell(&mut self, stream: &Arc<Stream>) -> EventId {
        if !stream.told.swap(true, Ordering::Relaxed) && !self.ended {
            self.connected.insert(stream.id.number, Arc::clone(stream));
        }
        EventId { stream: stream.id, place: self.next_event() }
    }

    /// A stream that is read, or that answers are still to come on.
    fn find_stream(&self, id: StreamId) -> Option<Arc<Stream>> {
        let read = self.connected.get(&id.number);
        let awaited = || self.pending.values().map(|pending| &pending.stream).find(|stream| stream.id == id);
        read.or_else(awaited).filter(|stream| stream.id == id).cloned()
    }

    pub(super) fn attach(&mut self, stream: &Stream) -> u64 {
        self.outlets += 1;
        self.last_used = Instant::now();
        stream.queue.next_turn()
    }

    /// Makes this the GET stream that messages take. What others have not read yet comes first, then what was held.
    fn attach_get(&mut self, stream: &Arc<Stream>) -> u64 {
        self.gets.retain(|get| !Arc::ptr_eq(get, stream));
        let turn = self.attach(stream);
        for get in &self.gets {
            for item in get.queue.shut() {
                // There is a reader.
                let _ = stream.queue.put(item);
            }
        }
        for item in self.held.take() {
            let _ = stream.queue.put(item);
        }
        if self.gets.len() >= MAX_GETS {
            self.gets.remove(0).queue.finish();
        }
        self.gets.push(Arc::clone(stream));
        turn
    }
}

/// The text of an answer in the server's stead.
pub(super) fn answer_item(text: Bytes) -> Item {
    Item { text, what: What::Answer }
}
