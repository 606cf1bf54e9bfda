//! The transport of MCP 2024-11-05, HTTP with SSE: all that the server says comes on one stream, whose first event names
//! where messages are posted. The stream is the session: when it breaks, all that was posted is lost, and a new one is
//! begun with the client's own `initialize`.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode, Uri};
use thv_wire::sse;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use crate::backoff::Backoff;
use crate::endpoint::resolve;
use crate::events::{Events, Next};
use crate::exchange::{Call, Reply};
use crate::failure::Failure;
use crate::finder::Route;
use crate::pool::Effort;
use crate::relay::{Initialize, Relay};
use crate::renew::{INITIALIZED, PATIENCE, REPLAY, REPLAYS, version_in};
use crate::session::Session;
use crate::target::Transport;

/// How often a session is tried to be begun on streams that break off.
const ATTEMPTS: u32 = 4;

/// The longest body of a reply to a POST that is read for the sake of its connection.
const MAX_REPLY: usize = 64 * 1024;

/// How long that may take.
const LINGER: Duration = Duration::from_secs(1);

/// One stream of the server's, and where messages for it are posted.
pub(crate) struct Channel {
    addr: SocketAddr,
    /// Of the session that it is.
    life: u64,
    endpoint: Uri,
    closed: watch::Sender<bool>,
    /// The client's own `initialize`, once it is posted here.
    initialize: Mutex<Option<Arc<Initialize>>>,
    /// A session was begun here; another one needs a stream of its own.
    begun: AtomicBool,
}

impl Channel {
    pub(crate) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Nothing more comes from it, and nothing more is posted.
    pub(crate) fn close(&self) {
        self.closed.send_replace(true);
    }

    /// Returns when it is closed.
    pub(crate) async fn closed(&self) {
        // The sender lives as long as this.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// Of the session that it is.
    pub(crate) fn life(&self) -> u64 {
        self.life
    }

    /// Whether a connection leads to where the stream came from. If the workload has moved, this is over.
    fn is_at(&self, route: &Route) -> bool {
        if route.addr != self.addr {
            self.close();
        }
        !self.is_closed()
    }

    /// Takes note of the client's `initialize`, so that its answer is known when it comes.
    pub(crate) fn begin(&self, initialize: &Arc<Initialize>) {
        self.begun.store(true, Ordering::Release);
        *self.initialize() = Some(Arc::clone(initialize));
    }

    fn initialize(&self) -> MutexGuard<'_, Option<Arc<Initialize>>> {
        self.initialize.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is read of a channel: handed to the one task that reads.
pub(crate) type Opened = (Arc<Channel>, Events);

/// The current channel, and what it takes to open another.
pub(crate) struct Channels {
    current: Mutex<Option<Arc<Channel>>>,
    opened: mpsc::UnboundedSender<Opened>,
    /// Held by the one who opens one; why that failed the last time, and with what effort.
    opening: tokio::sync::Mutex<Option<(Effort, Failure)>>,
    /// How often that was tried.
    attempts: AtomicU64,
}

/// Closes a channel that nobody gets to know of.
struct Half(Option<Arc<Channel>>);

impl Drop for Half {
    fn drop(&mut self) {
        if let Some(channel) = &self.0 {
            channel.close();
        }
    }
}

impl Channels {
    /// None is open. Each that is will be sent to be read.
    pub(crate) fn new(opened: mpsc::UnboundedSender<Opened>) -> Self {
        Self {
            current: Mutex::default(),
            opened,
            opening: tokio::sync::Mutex::default(),
            attempts: AtomicU64::new(0),
        }
    }

    /// Returns when nobody is about to open one.
    pub(crate) async fn settled(&self) {
        drop(self.opening.lock().await);
    }

    fn current(&self) -> MutexGuard<'_, Option<Arc<Channel>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The current channel if it is open; with `fresh` only if no session was begun on it.
    pub(crate) fn usable(&self, fresh: bool) -> Option<Arc<Channel>> {
        let current = self.current().clone()?;
        let fits = !current.is_closed() && (!fresh || !current.begun.load(Ordering::Acquire));
        fits.then_some(current)
    }

    fn replace(&self, channel: Arc<Channel>) {
        if let Some(old) = self.current().replace(channel) {
            old.close();
        }
    }
}

impl Relay {
    /// An open channel; opens one, once for all who ask at the same time. If the client has a session, it was begun on
    /// it, unless a `fresh` one is asked for to begin another.
    ///
    /// # Errors
    /// There is none, and why.
    pub(crate) async fn channel(&self, effort: Effort, fresh: bool) -> Result<Arc<Channel>, Failure> {
        if let Some(channel) = self.channels.usable(fresh) {
            return Ok(channel);
        }
        let attempt = self.channels.attempts.load(Ordering::Acquire);
        let mut last = self.channels.opening.lock().await;
        if let Some(channel) = self.channels.usable(fresh) {
            return Ok(channel);
        }
        // Somebody tried while this one waited, in vain. That a mere look found nothing is no answer to others.
        if self.channels.attempts.load(Ordering::Acquire) != attempt
            && let Some((tried, failure)) = &*last
            && (*tried == Effort::Follow || *tried == effort)
        {
            return Err(failure.clone());
        }
        let outcome = self.open_channel(effort, fresh).await;
        self.channels.attempts.fetch_add(1, Ordering::Release);
        *last = outcome.as_ref().err().map(|failure| (effort, failure.clone()));
        outcome
    }

    async fn open_channel(&self, effort: Effort, fresh: bool) -> Result<Arc<Channel>, Failure> {
        let life = self.asked.lose();
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        for _ in 0..ATTEMPTS {
            match timeout(PATIENCE, self.try_to_open(effort, fresh, life)).await {
                // A supervisor that is ending. Nothing of the client's was sent.
                Ok(Err(Failure::Lost | Failure::Withdrawn)) => sleep(backoff.pause()).await,
                Ok(outcome) => return outcome,
                Err(_) => return Err(Failure::NoSession("it takes too long")),
            }
        }
        Err(Failure::NoSession("it breaks every connection"))
    }

    async fn try_to_open(&self, effort: Effort, fresh: bool, life: u64) -> Result<Arc<Channel>, Failure> {
        let channel = self.connect_channel(effort, life).await?;
        let mut half = Half(Some(Arc::clone(&channel)));
        let params = self.session.params().filter(|_| !fresh);
        let version = self.session.current().version;
        let session = Session { life, version, over: Transport::Sse, open: true, ..Session::default() };
        if let Some(params) = &params {
            channel.begun.store(true, Ordering::Release);
            self.begin_on(&channel, &session, params, effort).await?;
        }
        half.0 = None;
        self.channels.replace(Arc::clone(&channel));
        if params.is_some() {
            tracing::info!("session lost and begun anew");
            self.session.replace(session);
        }
        Ok(channel)
    }

    /// Asks for a stream and reads its first event.
    async fn connect_channel(&self, effort: Effort, life: u64) -> Result<Arc<Channel>, Failure> {
        let call = Call {
            method: Method::GET,
            headers: Session::default().get(None),
            effort,
            over: Transport::Sse,
            ..self.post(&Session::default(), Bytes::new())
        };
        let reply = self.pool.exchange(&call).await?;
        let status = reply.status;
        if status != StatusCode::OK || !reply.is(sse::MEDIA_TYPE) {
            return Err(Failure::Http { status, what: "it opened no event stream" });
        }
        let (addr, uri) = (reply.route.addr, reply.route.uri.clone());
        let mut events = self.events(reply.body);
        let what = "its event stream does not begin with an endpoint at the same address";
        let endpoint = match events.first().await {
            Next::Endpoint(data) => {
                std::str::from_utf8(&data).ok().and_then(|text| resolve(&uri, &addr.to_string(), text))
            }
            Next::End => return Err(Failure::Lost),
            Next::Message(_) | Next::TooLarge(..) => None,
        };
        let channel = Arc::new(Channel {
            addr,
            life,
            endpoint: endpoint.ok_or(Failure::Http { status, what })?,
            closed: watch::Sender::new(false),
            initialize: Mutex::default(),
            begun: AtomicBool::new(false),
        });
        // The reader lives as long as the relay relays.
        let _ = self.channels.opened.send((Arc::clone(&channel), events));
        Ok(channel)
    }

    /// Begins the client's session again on a new channel, and tells it what the old one knew.
    async fn begin_on(
        &self,
        channel: &Channel,
        session: &Session,
        params: &[u8],
        effort: Effort,
    ) -> Result<(), Failure> {
        let none = Session::default();
        let answer = self.ask_on(channel, &none, effort, "initialize", params).await?;
        let version = version_in(&answer).ok_or(Failure::NoSession("it refuses what it accepted before"))?;
        // The client speaks the revision that it agreed on with the old session.
        if Some(&version) != session.version.as_ref() {
            return Err(Failure::NoSession("it speaks another revision of MCP than before"));
        }
        let initialized = Bytes::from_static(INITIALIZED);
        let reply = self.post_on(channel, session, initialized, effort, &|| true).await?;
        self.accepted(reply, channel).await?;
        let replay = async {
            let requests = self.told().requests();
            for (method, params) in requests {
                for _ in 0..REPLAYS {
                    match self.ask_on(channel, session, effort, method, &params).await {
                        Ok(_) => break,
                        Err(failure) => tracing::debug!(method, %failure, "not told to the new session"),
                    }
                }
            }
        };
        if timeout(REPLAY, replay).await.is_err() {
            tracing::warn!("the new session was not told everything in time");
        }
        if channel.is_closed() { Err(Failure::Lost) } else { Ok(()) }
    }

    /// Posts a request of our own and waits for its answer on the stream.
    async fn ask_on(
        &self,
        channel: &Channel,
        session: &Session,
        effort: Effort,
        method: &str,
        params: &[u8],
    ) -> Result<Bytes, Failure> {
        let mut waiting = self.own.expect();
        let body = waiting.request(method, params);
        let reply = self.post_on(channel, session, body, effort, &|| true).await?;
        self.accepted(reply, channel).await?;
        tokio::select! {
            biased;
            answer = waiting.answer() => answer.ok_or(Failure::Lost),
            () = channel.closed() => Err(Failure::Lost),
        }
    }

    async fn accepted(&self, reply: Reply, channel: &Channel) -> Result<(), Failure> {
        let status = reply.status;
        self.finish(reply).await;
        match status {
            status if status.is_success() => Ok(()),
            StatusCode::NOT_FOUND => {
                channel.close();
                Err(Failure::Lost)
            }
            status => Err(Failure::Http { status, what: "it did not accept a message of the session" }),
        }
    }

    /// Posts a message; the reply says no more than whether it was accepted. `Withdrawn` means that it was not sent:
    /// it is not wanted any more, or the channel is closed.
    pub(crate) async fn post_on(
        &self,
        channel: &Channel,
        session: &Session,
        body: Bytes,
        effort: Effort,
        wanted: &(dyn Fn() -> bool + Send + Sync),
    ) -> Result<Reply, Failure> {
        let wanted_here = |route: &Route| wanted() && channel.is_at(route);
        let call = Call {
            to: Some(channel.endpoint.clone()),
            until: Some(channel.closed.subscribe()),
            effort,
            over: Transport::Sse,
            wanted: &wanted_here,
            ..self.post(session, body)
        };
        self.pool.exchange(&call).await
    }

    /// Reads each channel that is opened, one at a time, until it ends or is closed.
    pub(crate) async fn run_channels(self: Arc<Self>, mut opened: mpsc::UnboundedReceiver<Opened>) {
        while let Some((channel, events)) = opened.recv().await {
            tokio::select! {
                biased;
                () = self.read_channel(&channel, events) => {}
                () = channel.closed() => {}
            }
            channel.close();
        }
    }

    async fn read_channel(&self, channel: &Channel, mut events: Events) {
        loop {
            match events.next().await {
                Next::Message(message) => {
                    let initialize = channel.initialize().clone();
                    self.deliver(message, channel.life, initialize.as_deref()).await;
                }
                Next::TooLarge(message, failure) => self.fail_skimmed(&message, &failure, channel.life).await,
                Next::Endpoint(_) => {}
                Next::End => return,
            }
        }
    }
    /// Reads what is left of a reply to a POST, so that its connection can be used again.
    pub(crate) async fn finish(&self, reply: Reply) {
        let _ = timeout(LINGER, reply.body.collect(MAX_REPLY, &self.room)).await;
    }
}
