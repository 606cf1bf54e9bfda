//! The endpoint: requests in, sessions behind.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use thv_wire::code::{INTERNAL_ERROR, Reason};
use thv_wire::message::peek;
use thv_wire::{header, sse};
use tokio::sync::watch;
use tokio::time::timeout;
use tower_service::Service;

use super::events::Events;
use super::incoming::{
    BodyError, Field, Version, accepts, field, is_json, may_be_modern, names_modern, read, version,
};
use super::link::{End, Peer, Refused};
use super::messages::{Messages, first_message, messages, needs_session, not_a_message};
use super::modern::{Pool, is_modern};
use super::outlet::Outlet;
use super::queue::What;
use super::refusal::Refusal;
use super::registry::{Gone, Sessions, Unknown};
use super::replay::EventId;
use super::respond::{accepted, events, json};
use super::room::{Rooms, bind};
use super::run::run;
use super::session::{Ask, Session};
use super::streams::NotResumed;
use super::{Options, OptionsError, SessionInfo, Spawn};
use crate::Owner;
use crate::body::ResponseBody;

const JSON: &str = "application/json";

/// Hosts one stdio server behind an HTTP endpoint. Clones share their sessions.
///
/// As a service it answers every request, and errors never. It must be called on a Tokio runtime.
pub struct StdioHost<S>(pub(super) Arc<Shared<S>>);

pub(super) struct Shared<S> {
    pub(super) spawner: S,
    pub(super) options: Arc<Options>,
    pub(super) sessions: Mutex<Sessions>,
    pub(super) pool: Pool,
    /// Servers that are not gone yet.
    pub(super) running: watch::Sender<usize>,
    pub(super) count: AtomicU64,
    rooms: Rooms,
}

impl<S> Clone for StdioHost<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S> fmt::Debug for StdioHost<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StdioHost").field("options", &self.0.options).finish_non_exhaustive()
    }
}

pub(super) type Reply = Result<Response<ResponseBody>, Refusal>;

impl<S: Spawn> StdioHost<S> {
    /// A host without sessions.
    ///
    /// # Errors
    /// [`OptionsError`], if the options leave no room for a single message.
    pub fn new(spawner: S, options: Options) -> Result<Self, OptionsError> {
        options.check()?;
        Ok(Self(Arc::new(Shared {
            rooms: Rooms::new(options.max_message_bytes),
            spawner,
            options: Arc::new(options),
            sessions: Mutex::default(),
            pool: Pool::default(),
            running: watch::Sender::new(0),
            count: AtomicU64::new(0),
        })))
    }

    /// The sessions as they are now, and the servers of modern callers, which have none.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        let sessions: Vec<_> = self.0.lock().live().cloned().collect();
        let mut infos: Vec<_> = sessions.iter().map(|session| session.info()).collect();
        infos.extend(self.0.pool.infos());
        infos.sort_by_key(|info| info.number);
        infos
    }

    /// Ends all sessions, takes no new ones, and returns when all servers are gone, or after
    /// [`Options::shutdown_timeout`].
    pub async fn shutdown(&self) {
        let sessions: Vec<_> = {
            let mut sessions = self.0.lock();
            sessions.closing = true;
            sessions.by_id.values().cloned().collect()
        };
        for session in sessions {
            session.end(&End::ShutDown);
        }
        for worker in self.0.pool.close() {
            worker.end(&End::ShutDown);
        }
        let mut running = self.0.running.subscribe();
        let gone = running.wait_for(|count| *count == 0);
        if timeout(self.0.options.shutdown_timeout, gone).await.is_err() {
            let left = *self.0.running.borrow();
            tracing::warn!(left, "servers did not end in time");
        }
    }

    async fn handle<B: Body>(self, request: Request<B>) -> Reply {
        let (parts, body) = request.into_parts();
        if parts.uri.path() != self.0.options.path {
            return Err(Refusal::new(StatusCode::NOT_FOUND, "no such endpoint"));
        }
        match parts.method {
            Method::POST => self.post(&parts, body).await,
            Method::GET | Method::DELETE if names_modern(&parts.headers) => {
                let text = "revision 2026-07-28 knows POST alone";
                Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, text).allowing("POST"))
            }
            Method::GET => self.get(&parts),
            Method::DELETE => self.delete(&parts),
            _ => Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "the endpoint knows GET, POST and DELETE")),
        }
    }

    async fn post<B: Body>(&self, parts: &Parts, body: B) -> Reply {
        let session = self.session(parts);
        let headers = &parts.headers;
        // Modern callers have no session, so what they say of one is of no account, if that is what they are: the
        // message decides, unless the header rules it out.
        let session = if may_be_modern(headers) { session } else { Ok(session?) };
        if !is_json(headers) {
            return Err(Refusal::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "Content-Type must be application/json",
            ));
        }
        if !accepts(headers, JSON) || !accepts(headers, sse::MEDIA_TYPE) {
            let text = "Accept must list application/json and text/event-stream";
            return Err(Refusal::new(StatusCode::NOT_ACCEPTABLE, text));
        }
        let owner = owner(parts);
        let limit = self.0.options.max_message_bytes;
        let read = match &session {
            Ok(Some(session)) => read(body, limit, &session.link.inward).await,
            _ => read(body, limit, &self.0.rooms.of(&owner)).await,
        };
        let (body, place) = read.map_err(|error| unread(&error, limit))?;
        let seen = peek(&body).map_err(|error| not_a_message(&error))?;
        if is_modern(parts, &seen) {
            return self.modern(parts, owner, &body, place).await;
        }
        match session? {
            None => {
                let (line, ask) = first_message(&body, &seen)?;
                self.initialize(owner, bind(line, place), ask).await
            }
            Some(session) => {
                let Messages { line, asks, batch } = messages(&session, &body, &seen)?;
                drop(seen);
                drop(body);
                match session.submit(bind(line, place), asks).await.map_err(not_taken)? {
                    None => Ok(accepted()),
                    Some(outlet) => Ok(answer(outlet, batch, false).await.0),
                }
            }
        }
    }

    /// Begins a session: its server is started, and gets `initialize` as its first message.
    async fn initialize(&self, owner: Owner, line: Bytes, ask: Ask) -> Reply {
        let (id, session, inbox) = self.begin(owner)?;
        let gone = Gone::new(&self.0, id.clone(), &session);
        let outlet = session.submit_first(line, ask).map_err(not_taken)?;
        tokio::spawn(async move {
            run(&gone.session, &gone.shared.spawner, inbox).await;
        });
        let Some(outlet) = outlet else { return Ok(accepted()) };

        // Nobody else knows the session's id yet: if this client leaves, nobody ever will.
        let unknown = Unknown::new(session);
        let (mut response, streams) = answer(outlet, false, true).await;
        if let Some(session) = unknown.told()
            && (streams || session.version().is_some())
            && let Ok(id) = HeaderValue::try_from(&*id)
        {
            response.headers_mut().insert(header::SESSION_ID, id);
        }
        Ok(response)
    }

    fn get(&self, parts: &Parts) -> Reply {
        let session = self.session(parts)?.ok_or_else(needs_session)?;
        if !accepts(&parts.headers, sse::MEDIA_TYPE) {
            return Err(Refusal::new(StatusCode::NOT_ACCEPTABLE, "Accept must list text/event-stream"));
        }
        let last = match field(&parts.headers, &header::LAST_EVENT_ID) {
            Field::Absent => None,
            // An id that was never ours says nothing about a stream of ours: this is a new one.
            Field::Once(text) => EventId::parse(text),
            Field::Malformed => {
                let text = "Last-Event-ID is malformed or repeated";
                return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
            }
        };
        let outlet = match last {
            None => session.open_get().map_err(not_taken)?,
            Some(last) => session.resume(last).map_err(not_resumed)?,
        };
        Ok(stream(outlet))
    }

    fn delete(&self, parts: &Parts) -> Reply {
        let session = self.session(parts)?.ok_or_else(needs_session)?;
        session.end(&End::Deleted);
        let mut response = Response::new(ResponseBody::default());
        *response.status_mut() = StatusCode::NO_CONTENT;
        Ok(response)
    }

    /// The session that a request names, if it names one. Checks the version it claims too.
    fn session(&self, parts: &Parts) -> Result<Option<Arc<Session>>, Refusal> {
        let bad = |text: &str| Err(Refusal::new(StatusCode::BAD_REQUEST, text));
        let session = match field(&parts.headers, &header::SESSION_ID) {
            Field::Absent => None,
            Field::Malformed => return bad("Mcp-Session-Id is malformed or repeated"),
            Field::Once(id) => Some(self.0.find(id, &owner(parts)).ok_or_else(Refusal::no_session)?),
        };
        let (claimed, known) = match version(&parts.headers) {
            Version::Absent => return Ok(session),
            Version::Malformed => return bad("MCP-Protocol-Version is malformed or repeated"),
            // Without a session, the message decides.
            Version::Known(revision) => (revision.as_str(), session.is_none() || !revision.is_modern()),
            Version::Other(claimed) => (claimed, false),
        };
        let agreed = || session.as_ref().is_some_and(|session| session.version().as_deref() == Some(claimed));
        if known || agreed() {
            Ok(session)
        } else {
            bad("MCP-Protocol-Version names no version of this session")
        }
    }
}

fn owner(parts: &Parts) -> Owner {
    parts.extensions.get::<Owner>().cloned().unwrap_or_default()
}

/// Waits for the first message of a stream, which decides what the response is. Tells also whether it is an
/// event stream: that it is too when there is no message for long, so that the client can tell a quiet server from a
/// dead one. For the answer to `initialize` it waits longer, since the response says whether there is a session.
async fn answer(outlet: Outlet, batch: bool, initialize: bool) -> (Response<ResponseBody>, bool) {
    let first =
        if initialize { Ok(outlet.what().await) } else { timeout(outlet.keep_alive(), outlet.what()).await };
    match first {
        Ok(Some(What::Answer)) if !batch => {
            if let Some(item) = outlet.take() {
                return (json(item.text), false);
            }
        }
        Ok(None) => return (stream(outlet.without_priming()), true),
        _ => {}
    }
    (stream(outlet), true)
}

fn stream(outlet: Outlet) -> Response<ResponseBody> {
    let every = outlet.keep_alive();
    events(Events::new(outlet, every))
}

fn unread(error: &BodyError, limit: usize) -> Refusal {
    match error {
        BodyError::TooLarge => {
            let text = format!("the message is over the limit of {limit} bytes");
            Refusal::because(StatusCode::PAYLOAD_TOO_LARGE, None, Reason::TooLarge, &text)
        }
        BodyError::Slow => Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"),
        BodyError::Broken => Refusal::new(StatusCode::BAD_REQUEST, "the body ended in the middle"),
        BodyError::Ended => Refusal::no_session(),
    }
}

fn not_resumed(reason: NotResumed) -> Refusal {
    match reason {
        NotResumed::Ended => Refusal::no_session(),
        // No empty stream: a client without its answer would come back for it, again and again.
        NotResumed::Over => {
            let text = "this stream is over, and nothing after Last-Event-ID is kept of it";
            Refusal::new(StatusCode::BAD_REQUEST, text)
        }
    }
}

pub(super) fn not_taken(refused: Refused) -> Refusal {
    match refused {
        Refused::Ended => Refusal::no_session(),
        // Without its id, or the error could be taken for the answer of the request that is under way.
        Refused::InFlight => {
            Refusal::new(StatusCode::BAD_REQUEST, "a request with this id waits for its answer already")
        }
        Refused::TooMany => {
            let text = "too many requests of this session wait for their answers";
            Refusal::about(StatusCode::SERVICE_UNAVAILABLE, None, INTERNAL_ERROR, text)
        }
    }
}

impl<S, B> Service<Request<B>> for StdioHost<S>
where
    S: Spawn,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Send,
{
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let host = self.clone();
        Box::pin(async move { Ok(host.handle(request).await.unwrap_or_else(Response::from)) })
    }
}
