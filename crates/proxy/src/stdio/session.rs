//! One session: what it knows of the messages under way, and the rules by which they find their stream.
//! The rules are in the table of [`super`].

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use thv_wire::code::{self, Reason};
use thv_wire::message::{Id, error_response};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::held::Held;
use super::outlet::Outlet;
use super::queue::{Item, Queue, What};
use super::room::Room;
use super::{Options, SessionInfo};
use crate::Owner;

/// The most requests of one session that wait for their answers.
const MAX_IN_FLIGHT: usize = 1024;
/// The most messages that wait for the server to read them.
const INBOX: usize = 64;
/// A session holds so many of the biggest messages in each direction.
const BIG_MESSAGES: usize = 4;
/// What stands for "never" in arithmetic with times.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// Where a session is in its life. Changed under the lock of the state only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// `initialize` is not answered yet.
    Starting,
    /// It is.
    Open,
    /// The server is being stopped, or is gone.
    Ended,
}

/// Why a session ended.
#[derive(Debug)]
pub(super) enum End {
    /// The server could not be started.
    NotStarted(String),
    /// The server exited, or closed its output.
    Exited,
    /// It did not answer `initialize` in time.
    Silent,
    /// It answered `initialize` with an error.
    Declined,
    /// The client left before `initialize` was answered.
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

/// What the client asks, seen from outside.
#[derive(Debug)]
pub(super) enum Ask {
    Request { id: Id, token: Option<Id>, initialize: bool },
    Cancel(Id),
    Other,
}

/// Why messages were not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    Ended,
    InFlight,
    TooMany,
}

#[derive(Debug)]
pub(super) struct Session {
    /// Names it in logs, where its id has no business.
    pub(super) number: u64,
    pub(super) owner: Owner,
    pub(super) options: Arc<Options>,
    /// Room for big messages to the server.
    pub(super) inward: Room,
    /// Room for big messages to the client.
    pub(super) outward: Room,
    pub(super) life: watch::Sender<Life>,
    inbox: mpsc::Sender<Bytes>,
    created: (Instant, SystemTime),
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    ended: bool,
    /// `initialize` was answered with a result, of this version.
    version: Option<Box<str>>,
    last_used: Instant,
    /// Response streams that are open, POSTs that wait included.
    outlets: usize,
    pending: HashMap<Id, Pending>,
    /// Progress tokens of the pending requests.
    tokens: HashMap<Id, Arc<Queue>>,
    get: Option<Arc<Queue>>,
    held: Held,
    sequence: u64,
}

/// A request that waits for its answer.
#[derive(Debug)]
struct Pending {
    queue: Arc<Queue>,
    token: Option<Id>,
    initialize: bool,
    sequence: u64,
}

impl Session {
    pub(super) fn new(number: u64, owner: Owner, options: Arc<Options>) -> (Self, mpsc::Receiver<Bytes>) {
        let (inbox, messages) = mpsc::channel(INBOX);
        let room = || Room::new(BIG_MESSAGES.saturating_mul(options.max_message_bytes));
        let now = Instant::now();
        let state = State {
            ended: false,
            version: None,
            last_used: now,
            outlets: 0,
            pending: HashMap::new(),
            tokens: HashMap::new(),
            get: None,
            held: Held::default(),
            sequence: 0,
        };
        let session = Self {
            number,
            owner,
            inward: room(),
            outward: room(),
            options,
            life: watch::Sender::new(Life::Starting),
            inbox,
            created: (now, SystemTime::now()),
            state: Mutex::new(state),
        };
        (session, messages)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn life(&self) -> Life {
        *self.life.borrow()
    }

    /// The version that `initialize` settled, once it has.
    pub(super) fn version(&self) -> Option<Box<str>> {
        self.lock().version.clone()
    }

    pub(super) fn info(&self) -> SessionInfo {
        let state = self.lock();
        SessionInfo {
            number: self.number,
            owner: self.owner.clone(),
            created: self.created.1,
            idle: state.idle(),
            version: state.version.as_deref().map(str::to_owned),
            in_flight: state.pending.len(),
            has_stream: state.get.is_some(),
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
        let slot = self.inbox.reserve().await.map_err(|_| Refused::Ended)?;
        // From here on nothing waits: what is registered is also sent.
        let outlet = self.register(asks)?;
        slot.send(line);
        Ok(outlet)
    }

    /// Hands over the first message. It is written once the server has started.
    pub(super) fn submit_first(self: &Arc<Self>, line: Bytes, ask: Ask) -> Result<Option<Outlet>, Refused> {
        let slot = self.inbox.try_reserve().map_err(|_| Refused::Ended)?;
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
        let queue = (count > 0).then(|| Arc::new(Queue::new(count)));
        let mut taken: Vec<Id> = Vec::new();
        for ask in asks {
            match (ask, &queue) {
                (Ask::Request { id, token, initialize }, Some(queue)) => {
                    if state.pending.contains_key(&id) {
                        for id in taken {
                            state.forget(&id);
                        }
                        return Err(Refused::InFlight);
                    }
                    state.sequence += 1;
                    if let Some(token) = &token {
                        state.tokens.insert(token.clone(), Arc::clone(queue));
                    }
                    let sequence = state.sequence;
                    let pending = Pending { queue: Arc::clone(queue), token, initialize, sequence };
                    state.pending.insert(id.clone(), pending);
                    if count > 1 {
                        taken.push(id);
                    }
                }
                (Ask::Cancel(id), _) => state.cancel(&id),
                _ => {}
            }
        }
        let Some(queue) = queue else { return Ok(None) };
        if state.get.is_none() {
            for item in state.held.take_requests() {
                // The queue is new, so there is a reader.
                let _ = queue.put(item);
            }
        }
        state.outlets += 1;
        Ok(Some(Outlet::new(Arc::clone(self), queue)))
    }

    /// Opens the session's GET stream; nothing if it is open, or the session has ended.
    pub(super) fn open_get(self: &Arc<Self>) -> Option<Outlet> {
        let mut state = self.lock();
        if state.ended || state.get.is_some() {
            return None;
        }
        let queue = Arc::new(Queue::new(0));
        for item in state.held.take() {
            // The queue is new, so there is a reader.
            let _ = queue.put(item);
        }
        state.get = Some(Arc::clone(&queue));
        state.outlets += 1;
        state.last_used = Instant::now();
        Some(Outlet::new(Arc::clone(self), queue))
    }

    /// A stream of this session is gone. What it has not carried finds another way.
    pub(super) fn close_outlet(&self, queue: &Arc<Queue>, ahead: Option<Item>) {
        let mut state = self.lock();
        if state.get.as_ref().is_some_and(|get| Arc::ptr_eq(get, queue)) {
            state.get = None;
        }
        state.outlets -= 1;
        state.last_used = Instant::now();
        let unread = ahead.into_iter().chain(queue.abandon());
        let left: VecDeque<_> = unread.filter(|item| item.what != What::Answer).collect();
        if left.is_empty() || state.ended {
            return;
        }
        let dropped = match state.get.clone() {
            Some(get) => left.into_iter().filter_map(|item| get.put(item).err()).collect(),
            None => state.held.prepend(left),
        };
        drop(state);
        self.drop_items(dropped);
    }

    /// Takes a request off the list and returns the stream of its answer, and whether it was `initialize`.
    pub(super) fn answered(&self, id: &Id) -> Option<(Arc<Queue>, bool)> {
        self.lock().forget(id).map(|pending| (pending.queue, pending.initialize))
    }

    /// The stream for a message that is no answer; holds the message if there is none.
    pub(super) fn stream_for(&self, item: Item, token: Option<&Id>) -> Option<(Arc<Queue>, Item)> {
        let mut state = self.lock();
        if state.ended {
            return None;
        }
        let by_token = token.and_then(|token| state.tokens.get(token)).filter(|queue| queue.is_live());
        let by_get = || state.get.as_ref().filter(|queue| queue.is_live());
        let by_post = || {
            let open = state.pending.values().filter(|pending| pending.queue.is_live());
            let newest = open.max_by_key(|pending| pending.sequence);
            newest.filter(|_| item.what == What::Request).map(|pending| &pending.queue)
        };
        if let Some(queue) = by_token.or_else(by_get).or_else(by_post) {
            return Some((Arc::clone(queue), item));
        }
        let dropped = state.held.append([item]);
        drop(state);
        self.drop_items(dropped);
        None
    }

    /// `initialize` was answered with a result.
    pub(super) fn open(&self, version: Box<str>) {
        let mut state = self.lock();
        if !state.ended {
            state.version = Some(version);
            self.life.send_replace(Life::Open);
        }
    }

    /// Ends the session, if it has not ended yet: requests that wait are answered, streams end, and the task
    /// that owns the server stops it.
    pub(super) fn end(&self, end: &End) {
        let mut state = self.lock();
        if state.ended {
            return;
        }
        state.ended = true;
        let pending = std::mem::take(&mut state.pending);
        let get = state.get.take();
        let started = state.version.is_some();
        state.tokens.clear();
        state.held.take();
        self.life.send_replace(Life::Ended);
        drop(state);

        tracing::info!(
            session = self.number,
            reason = end.word(),
            unanswered = pending.len(),
            "session ended"
        );
        for (id, Pending { queue, .. }) in pending {
            let text = self.farewell(&id, end, started);
            // Where nobody reads any more there is nobody to tell.
            let _ = queue.put(Item { text, what: What::Answer });
            queue.settle();
        }
        if let Some(get) = get {
            get.finish();
        }
        self.inward.close();
        self.outward.close();
    }

    /// The error that a request gets which waits when the session ends.
    fn farewell(&self, id: &Id, end: &End, started: bool) -> Bytes {
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

    /// When to look at the time again: the session ends then if it is still starting, or still idle.
    pub(super) fn deadline(&self, life: Life) -> Instant {
        let state = self.lock();
        let (from, wait) = match life {
            Life::Starting => (self.created.0, self.options.initialize_timeout),
            _ if state.outlets > 0 => (Instant::now(), self.options.session_ttl),
            _ => (state.last_used, self.options.session_ttl),
        };
        from + wait.min(FAR)
    }

    /// Tells the server that a message of its own cannot be passed on.
    pub(super) fn answer_server(&self, id: &Id, reason: Option<Reason>, text: &str) {
        let line = match reason {
            Some(reason) => reply(Some(id), reason, text),
            None => error_response(Some(id), code::INTERNAL_ERROR, text, None).into(),
        };
        if self.inbox.try_send(line).is_err() {
            tracing::warn!(
                session = self.number,
                "the server does not read: one of its requests gets no answer"
            );
        }
    }

    fn drop_items(&self, dropped: Vec<Item>) {
        for item in dropped {
            tracing::warn!(
                session = self.number,
                bytes = item.text.len(),
                "dropped a message that no stream took"
            );
            if item.what == What::Request
                && let Ok(thv_wire::message::Incoming::One(peek)) = thv_wire::message::peek(&item.text)
                && let Some(id) = &peek.id
            {
                self.answer_server(id, None, "the client has no stream open to be asked on");
            }
        }
    }
}

impl State {
    fn idle(&self) -> Option<Duration> {
        (self.outlets == 0).then(|| self.last_used.elapsed())
    }

    fn forget(&mut self, id: &Id) -> Option<Pending> {
        let pending = self.pending.remove(id)?;
        if let Some(token) = &pending.token
            && self.tokens.get(token).is_some_and(|queue| Arc::ptr_eq(queue, &pending.queue))
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
            pending.queue.settle();
        }
    }
}

impl End {
    fn word(&self) -> &'static str {
        match self {
            Self::NotStarted(_) => "not_started",
            Self::Exited => "exited",
            Self::Silent => "silent",
            Self::Declined => "declined",
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
