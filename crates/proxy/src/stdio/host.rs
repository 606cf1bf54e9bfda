//! The endpoint: requests in, sessions behind.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use thv_wire::code::{INTERNAL_ERROR, Reason};
use thv_wire::{header, sse};
use tokio::sync::{mpsc, watch};
use tower_service::Service;

use super::incoming::{BodyError, Field, Version, accepts, field, is_json, read, version};
use super::messages::{Messages, first_message, messages, needs_session};
use super::outlet::{Events, Outlet};
use super::queue::What;
use super::refusal::{Refusal, json};
use super::room::{Room, bind};
use super::run::run;
use super::session::{Ask, End, Life, Refused, Session};
use super::{Options, OptionsError, SessionInfo, Spawn};
use crate::Owner;
use crate::body::ResponseBody;

/// A session makes room for another when nobody has used it for so long.
const EVICTABLE: Duration = Duration::from_secs(60);
/// Bodies of `initialize` requests are limited together, since they have no session yet.
const BIG_MESSAGES: usize = 4;

const JSON: &str = "application/json";

/// Hosts one stdio server behind an HTTP endpoint. Clones share their sessions.
///
/// As a service it answers every request, and errors never. It must be called on a Tokio runtime.
pub struct StdioHost<S>(Arc<Shared<S>>);

struct Shared<S> {
    spawner: S,
    options: Arc<Options>,
    sessions: Mutex<Sessions>,
    /// Servers that are not gone yet.
    running: watch::Sender<usize>,
    count: AtomicU64,
    room: Room,
}

#[derive(Default)]
struct Sessions {
    by_id: HashMap<Box<str>, Arc<Session>>,
    closing: bool,
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

/// A session's id, the session, and what its server is to read.
type Begun = (Box<str>, Arc<Session>, mpsc::Receiver<Bytes>);

type Reply = Result<Response<ResponseBody>, Refusal>;

impl<S: Spawn> StdioHost<S> {
    /// A host without sessions.
    ///
    /// # Errors
    /// [`OptionsError`], if the options leave no room for a single message.
    pub fn new(spawner: S, options: Options) -> Result<Self, OptionsError> {
        options.check()?;
        let room = Room::new(BIG_MESSAGES.saturating_mul(options.max_message_bytes));
        Ok(Self(Arc::new(Shared {
            spawner,
            options: Arc::new(options),
            sessions: Mutex::default(),
            running: watch::Sender::new(0),
            count: AtomicU64::new(0),
            room,
        })))
    }

    /// The sessions as they are now.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        let sessions: Vec<_> = self.0.lock().live().cloned().collect();
        let mut infos: Vec<_> = sessions.iter().map(|session| session.info()).collect();
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
        let mut running = self.0.running.subscribe();
        let gone = running.wait_for(|count| *count == 0);
        if tokio::time::timeout(self.0.options.shutdown_timeout, gone).await.is_err() {
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
            Method::GET => self.get(&parts),
            Method::DELETE => self.delete(&parts),
            _ => Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "the endpoint knows GET, POST and DELETE")),
        }
    }

    async fn post<B: Body>(&self, parts: &Parts, body: B) -> Reply {
        let session = self.session(parts)?;
        let headers = &parts.headers;
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
        let room = session.as_ref().map_or(&self.0.room, |session| &session.inward);
        let limit = self.0.options.max_message_bytes;
        let (body, place) = read(body, limit, room).await.map_err(|error| unread(&error, limit))?;
        match session {
            None => {
                let (line, ask) = first_message(&parts.headers, &body)?;
                self.initialize(owner(parts), bind(line, place), ask).await
            }
            Some(session) => {
                let Messages { line, asks, batch } = messages(&session, &body)?;
                drop(body);
                match session.submit(bind(line, place), asks).await.map_err(not_taken)? {
                    None => Ok(accepted()),
                    Some(outlet) => Ok(answer(outlet, batch).await.0),
                }
            }
        }
    }

    /// Begins a session: its server is started, and gets `initialize` as its first message.
    async fn initialize(&self, owner: Owner, line: Bytes, ask: Ask) -> Reply {
        let (id, session, inbox) = self.begin(owner)?;
        let gone = Gone { shared: Arc::clone(&self.0), id: id.clone(), session: Arc::clone(&session) };
        let outlet = session.submit_first(line, ask).map_err(not_taken)?;
        tokio::spawn(async move {
            run(&gone.session, &gone.shared.spawner, inbox).await;
        });
        let Some(outlet) = outlet else { return Ok(accepted()) };

        // Nobody else knows the session's id yet: if this client leaves, nobody ever will.
        let unknown = Unknown(Some(session));
        let (mut response, streams) = answer(outlet, false).await;
        if let Some(session) = unknown.told()
            && (streams || session.version().is_some())
            && let Ok(id) = HeaderValue::try_from(&*id)
        {
            response.headers_mut().insert(header::SESSION_ID, id);
        }
        Ok(response)
    }

    /// A new session, if there may be one more.
    fn begin(&self, owner: Owner) -> Result<Begun, Refusal> {
        let Ok(id) = mint() else {
            let text = "the operating system gives no random numbers";
            return Err(Refusal::about(StatusCode::INTERNAL_SERVER_ERROR, None, INTERNAL_ERROR, text));
        };
        let max = self.0.options.max_sessions;
        let mut sessions = self.0.lock();
        if sessions.closing {
            let text = "the server is being stopped";
            return Err(Refusal::because(StatusCode::SERVICE_UNAVAILABLE, None, Reason::ShuttingDown, text));
        }
        // Servers that are being stopped count too, or a client could have any number of them.
        let crowded = sessions.by_id.len() >= max.saturating_mul(2);
        let oldest = if sessions.live().count() < max { None } else { Some(sessions.longest_idle()) };
        if crowded || matches!(oldest, Some(None)) {
            let text = format!(
                "{max} sessions are open, and no more may be: end one with DELETE, or try again in a minute, \
                 when one that nobody uses makes room"
            );
            return Err(Refusal::about(StatusCode::SERVICE_UNAVAILABLE, None, INTERNAL_ERROR, &text));
        }
        let number = self.0.count.fetch_add(1, Ordering::Relaxed) + 1;
        let (session, inbox) = Session::new(number, owner, Arc::clone(&self.0.options));
        let session = Arc::new(session);
        sessions.by_id.insert(id.clone(), Arc::clone(&session));
        self.0.running.send_modify(|count| *count += 1);
        drop(sessions);
        if let Some(Some(oldest)) = oldest {
            oldest.end(&End::Evicted);
        }
        tracing::info!(session = number, "session begins");
        Ok((id, session, inbox))
    }

    fn get(&self, parts: &Parts) -> Reply {
        let session = self.session(parts)?.ok_or_else(needs_session)?;
        if !accepts(&parts.headers, sse::MEDIA_TYPE) {
            return Err(Refusal::new(StatusCode::NOT_ACCEPTABLE, "Accept must list text/event-stream"));
        }
        match session.open_get() {
            Some(outlet) => Ok(stream(Events::new(None, outlet))),
            None if session.life() == Life::Ended => Err(Refusal::no_session()),
            None => Err(Refusal::new(StatusCode::CONFLICT, "the session has its GET stream open already")),
        }
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

impl<S> Shared<S> {
    fn lock(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: &str, owner: &Owner) -> Option<Arc<Session>> {
        let session = self.lock().by_id.get(id).cloned()?;
        (session.owner == *owner && session.life() != Life::Ended).then_some(session)
    }
}

impl Sessions {
    fn live(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.by_id.values().filter(|session| session.life() != Life::Ended)
    }

    /// The session to give up for another, if there is one that may be.
    fn longest_idle(&self) -> Option<Arc<Session>> {
        let idle = self.live().filter_map(|session| Some((session.idle()?, session)));
        let longest = idle.max_by_key(|(idle, session)| (*idle, Reverse(session.number)));
        longest.filter(|(idle, _)| *idle >= EVICTABLE).map(|(_, session)| Arc::clone(session))
    }
}

/// Takes a session off the list when its server is gone, or its task has panicked.
struct Gone<S> {
    shared: Arc<Shared<S>>,
    id: Box<str>,
    session: Arc<Session>,
}

impl<S> Drop for Gone<S> {
    fn drop(&mut self) {
        self.session.end(&End::Exited);
        self.shared.lock().by_id.remove(&self.id);
        self.shared.running.send_modify(|count| *count -= 1);
    }
}

/// Ends a session whose id was never told to its client.
struct Unknown(Option<Arc<Session>>);

impl Unknown {
    fn told(mut self) -> Option<Arc<Session>> {
        self.0.take()
    }
}

impl Drop for Unknown {
    fn drop(&mut self) {
        if let Some(session) = self.0.take() {
            session.end(&End::Abandoned);
        }
    }
}

/// The id of a session: 256 random bits in hexadecimal.
fn mint() -> Result<Box<str>, getrandom::Error> {
    let mut random = [0; 32];
    getrandom::fill(&mut random)?;
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    let id: String = random.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect();
    Ok(id.into())
}

fn owner(parts: &Parts) -> Owner {
    parts.extensions.get::<Owner>().cloned().unwrap_or_default()
}

/// Waits for the first message of a stream, which decides what the response is. Tells also whether it is an
/// event stream.
async fn answer(outlet: Outlet, batch: bool) -> (Response<ResponseBody>, bool) {
    match outlet.next().await {
        Some(item) if item.what == What::Answer && !batch => (json(item.text), false),
        first => (stream(Events::new(first, outlet)), true),
    }
}

fn stream(events: Events) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::streamed(events));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(sse::MEDIA_TYPE));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

fn accepted() -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::default());
    *response.status_mut() = StatusCode::ACCEPTED;
    response
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

fn not_taken(refused: Refused) -> Refusal {
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
