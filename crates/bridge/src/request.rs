//! The life of one request: sent, its reply read whatever form it has, taken up again where that is allowed,
//! and answered in any case.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{Method, StatusCode};
use thv_wire::header::SESSION_ID;
use thv_wire::message::{Id, Incoming, Kind, peek};
use thv_wire::skim::Skimmed;
use thv_wire::sse;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, timeout};

use crate::backoff::Backoff;
use crate::channel::finish;
use crate::era::{About, Modern};
use crate::events::{Events, Next};
use crate::exchange::{Call, Reply};
use crate::failure::Failure;
use crate::finder::Route;
use crate::gate::{Gate, Opener};
use crate::pending::Expected;
use crate::pool::Effort;
use crate::relay::{Initialize, Relay};
use crate::session::Session;
use crate::target::Transport;

/// How long a stream may go on after its last answer. The server should end it (MCP, `basic/transports`).
const LINGER: Duration = Duration::from_secs(1);

/// The pause before a broken stream is resumed where the server names none.
const RESUME_AFTER: Duration = Duration::from_millis(250);

/// The longest pause before it is resumed another time after that led to nothing.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// How many attempts to resume may fail in a row.
const MAX_MISSES: u32 = 5;

/// How many streams a request may be meant for until it is posted to one.
const MAX_CHANNELS: u32 = 4;

/// How often a request may find that the workload changed its transport meanwhile.
const MAX_TRANSPORTS: u32 = 4;

/// The longest body of an HTTP error that is looked at.
const MAX_ERROR: usize = 1024 * 1024;

/// What a request belongs to.
pub(crate) enum What {
    /// The session, or, before there is one, whatever the server makes of it.
    InSession,
    /// It is the client's `initialize`.
    Initialize(Initialize),
    /// Nothing: it is of the era without sessions.
    Alone(Modern),
}

impl What {
    fn is_endless(&self) -> bool {
        matches!(self, Self::Alone(Modern { about: About::Listen, .. }))
    }

    fn initialize(&self) -> Option<&Initialize> {
        if let Self::Initialize(initialize) = self { Some(initialize) } else { None }
    }
}

/// One request, or a batch with requests in it.
pub(crate) struct Job {
    pub(crate) body: Bytes,
    pub(crate) expected: Vec<Expected>,
    pub(crate) what: What,
    pub(crate) gate: Gate,
    /// Opened when the request is answered.
    pub(crate) opens: Option<Opener>,
    pub(crate) _room: OwnedSemaphorePermit,
}

impl Job {
    /// Whether the client still waits for any of it.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.expected.iter().all(Expected::is_withdrawn)
    }

    /// Whether any of it is still owed an answer.
    fn is_waiting(&self) -> bool {
        !self.expected.iter().all(|expected| expected.is_withdrawn() || expected.is_settled())
    }

    /// An error if any of it is still owed an answer.
    pub(crate) fn answered_or(&self, failure: Failure) -> Result<(), Failure> {
        if self.is_waiting() { Err(failure) } else { Ok(()) }
    }

    /// Whether this is the server's word that it ends what the request began (MCP 2026-07-28,
    /// `basic/patterns/cancellation`).
    pub(crate) fn is_torn_down_by(&self, message: &[u8]) -> bool {
        let Ok(Incoming::One(seen)) = peek(message) else { return false };
        seen.cancelled_id().is_some_and(|id| self.expected.iter().any(|expected| expected.id == id))
    }

    /// Returns when all of it is settled.
    async fn settled(&self) {
        for expected in &self.expected {
            expected.settled().await;
        }
    }
}

impl Relay {
    /// Gets a request answered.
    pub(crate) async fn run_request(self: Arc<Self>, mut job: Job) {
        let opens = job.opens.take();
        let mut work = pin!(self.work(&job));
        tokio::select! {
            biased;
            () = &mut work => return,
            () = job.settled() => drop(opens),
        }
        if job.is_wanted() {
            // Reading to the end keeps the connection.
            let _ = timeout(LINGER, work).await;
        }
    }

    async fn work(&self, job: &Job) {
        job.gate.passed().await;
        let slots = if job.what.is_endless() { &self.endless_slots } else { &self.slots };
        // The semaphore is never closed.
        let _slot = slots.acquire().await;
        if let Err(failure) = Box::pin(self.send_and_receive(job)).await {
            tracing::debug!(%failure, "request failed");
            for expected in &job.expected {
                self.refuse(expected, failure.answer(Some(&expected.id))).await;
            }
        }
    }

    async fn send_and_receive(&self, job: &Job) -> Result<(), Failure> {
        for _ in 0..MAX_TRANSPORTS {
            let outcome = match (self.pool.finder.transport(Effort::Follow).await?, &job.what) {
                (Transport::Streamable, What::Alone(modern)) => self.post_modern(job, modern).await,
                (Transport::Streamable, what) => self.post_and_receive(job, what.initialize()).await,
                // Such a server knows the older era alone, and says so in its own words.
                (Transport::Sse, what) => self.post_and_hear(job, what.initialize()).await,
            };
            if !matches!(outcome, Err(Failure::Elsewhere)) {
                return outcome;
            }
        }
        Err(Failure::Elsewhere)
    }

    /// Over streamable HTTP: the reply holds the answer.
    async fn post_and_receive(&self, job: &Job, initialize: Option<&Initialize>) -> Result<(), Failure> {
        let wanted = |_: &Route| job.is_wanted();
        let post = |session: &Session| Call { wanted: &wanted, ..self.post(session, job.body.clone()) };
        let mut session = match &initialize {
            Some(_) => Session { life: self.asked.life(), ..Session::default() },
            None => self.session_here(Transport::Streamable, Effort::Follow).await?,
        };
        let mut reply = self.pool.exchange(&post(&session)).await?;
        if reply.status == StatusCode::NOT_FOUND && session.id.is_some() {
            match self.renew(session.generation, Effort::Follow).await {
                Ok(()) => {
                    session = self.session.current();
                    reply = self.pool.exchange(&post(&session)).await?;
                }
                Err(Some(failure)) => return Err(failure),
                Err(None) => {}
            }
        }
        let initialize = initialize.map(|initialize| {
            session.id = reply.headers.get(SESSION_ID).cloned();
            Initialize { session: session.id.clone(), ..initialize.clone() }
        });
        if !reply.status.is_success() {
            self.receive_error(reply, job, session.life).await
        } else if reply.is(sse::MEDIA_TYPE) {
            self.receive_stream(reply, job, &session, initialize.as_ref()).await
        } else {
            self.receive_json(reply, job, session.life, initialize.as_ref()).await
        }
    }

    /// The current session. One of the other transport is begun anew.
    ///
    /// # Errors
    /// That failed; nothing of the client's was sent.
    pub(crate) async fn session_here(&self, here: Transport, effort: Effort) -> Result<Session, Failure> {
        let session = self.session.current();
        if session.is_elsewhere(here) {
            let none = Failure::NoSession("it refuses what it accepted before");
            self.renew(session.generation, effort).await.map_err(|failure| failure.unwrap_or(none))?;
            return Ok(self.session.current());
        }
        Ok(session)
    }

    /// Over HTTP with SSE: the reply only accepts the request, and the answer comes on the session's stream.
    async fn post_and_hear(&self, job: &Job, initialize: Option<&Initialize>) -> Result<(), Failure> {
        let initialize = initialize.map(|it| Arc::new(Initialize { over: Transport::Sse, ..it.clone() }));
        let mut refused = false;
        for _ in 0..MAX_CHANNELS {
            let channel = self.channel(Effort::Follow, initialize.is_some()).await?;
            let session = match &initialize {
                Some(initialize) => {
                    channel.begin(initialize);
                    Session::default()
                }
                None => self.session.current(),
            };
            let wanted = || job.is_wanted();
            match self.post_on(&channel, &session, job.body.clone(), Effort::Follow, &wanted).await {
                Ok(reply) if reply.status.is_success() => {
                    finish(reply).await;
                    return tokio::select! {
                        () = job.settled() => Ok(()),
                        () = channel.closed() => Err(Failure::Lost),
                    };
                }
                // A session that is over: it ran nothing.
                Ok(reply) if reply.status == StatusCode::NOT_FOUND && !refused => {
                    refused = true;
                    channel.close();
                }
                Ok(reply) => return self.receive_error(reply, job, session.life).await,
                // Not sent, since the channel was closed meanwhile.
                Err(Failure::Withdrawn) if job.is_wanted() => {}
                Err(failure) => return Err(failure),
            }
        }
        Err(Failure::NoSession("it breaks off again and again"))
    }

    async fn receive_json(
        &self,
        reply: Reply,
        job: &Job,
        life: u64,
        initialize: Option<&Initialize>,
    ) -> Result<(), Failure> {
        let status = reply.status;
        let body = reply.body.collect(self.options.max_answer_bytes).await?;
        self.deliver_or_adopt(body, job, life, initialize).await;
        job.answered_or(Failure::Http { status, what: "no answer in it" })
    }

    async fn receive_error(&self, reply: Reply, job: &Job, life: u64) -> Result<(), Failure> {
        let status = reply.status;
        let body = self.error_body(reply).await;
        self.relay_error(status, body, job, life).await
    }

    /// The body of an HTTP error. One that is too long or breaks off is none: the status is known and says enough.
    pub(crate) async fn error_body(&self, reply: Reply) -> Option<Bytes> {
        reply.body.collect(MAX_ERROR.min(self.options.max_answer_bytes)).await.ok()
    }

    pub(crate) async fn relay_error(
        &self,
        status: StatusCode,
        body: Option<Bytes>,
        job: &Job,
        life: u64,
    ) -> Result<(), Failure> {
        if let Some(body) = body {
            self.deliver_or_adopt(body, job, life, None).await;
        }
        job.answered_or(Failure::Http { status, what: "" })
    }

    /// Delivers a body. An error in it under no id, or a stranger's, is about the request that it replies to:
    /// a server that could not or would not read the request has no better id to give.
    pub(crate) async fn deliver_or_adopt(
        &self,
        body: Bytes,
        job: &Job,
        life: u64,
        initialize: Option<&Initialize>,
    ) {
        if body.is_empty() {
            return;
        }
        let error = match peek(&body) {
            Ok(Incoming::One(seen)) if seen.kind == Kind::Response => {
                let is_ours = seen.id.is_some_and(|id| job.expected.iter().any(|expected| expected.id == id));
                seen.error.filter(|_| !is_ours).map(|error| body.slice_ref(error.get().as_bytes()))
            }
            _ => None,
        };
        let Some(error) = error else { return self.deliver(body, life, initialize).await };
        for expected in &job.expected {
            self.refuse(expected, with_id(&expected.id, &error)).await;
        }
    }

    async fn receive_stream(
        &self,
        reply: Reply,
        job: &Job,
        session: &Session,
        initialize: Option<&Initialize>,
    ) -> Result<(), Failure> {
        let mut events = Events::new(reply.body, self.options.max_answer_bytes);
        let mut backoff = Backoff::new(RESUME_AFTER, MAX_PAUSE);
        loop {
            match events.next().await {
                Next::Message(message) => self.deliver(message, session.life, initialize).await,
                Next::TooLarge(message, failure) => self.fail_skimmed(&message, &failure).await,
                Next::Endpoint(_) => {}
                Next::End if !job.is_waiting() => return Ok(()),
                Next::End => self.resume(&mut events, session, &mut backoff).await?,
            }
        }
    }

    /// Answers the request whose answer was too large to be kept.
    pub(crate) async fn fail_skimmed(&self, message: &Skimmed, failure: &Failure) {
        match message {
            Skimmed { kind: Some(Kind::Response), id: Some(id) } => self.fail(id, failure).await,
            _ => tracing::warn!(%failure, "message dropped"),
        }
    }

    /// Takes a stream up again that ended before its answer (MCP 2025-11-25, "Resumability and Redelivery").
    /// From here on everything that goes wrong is a lost connection: the request was sent.
    ///
    /// No workload is started for it, since a new one knows nothing of the stream.
    async fn resume(
        &self,
        events: &mut Events,
        session: &Session,
        backoff: &mut Backoff,
    ) -> Result<(), Failure> {
        let mut least = Duration::ZERO;
        if events.take_news() {
            backoff.reset();
        } else {
            // A server that ends each stream without a word is asked ever less often, whatever it wishes.
            least = backoff.pause();
        }
        for _ in 0..MAX_MISSES {
            let last_id = events.last_id().ok_or(Failure::Lost)?;
            let pause = backoff.pause();
            sleep(events.retry().unwrap_or(pause).max(least)).await;
            let call = Call {
                method: Method::GET,
                headers: session.get(Some(last_id)),
                effort: Effort::Look,
                ..self.post(session, Bytes::new())
            };
            match self.pool.exchange(&call).await {
                Ok(reply) if reply.status == StatusCode::OK && reply.is(sse::MEDIA_TYPE) => {
                    events.resume(reply.body);
                    return Ok(());
                }
                Ok(reply) if reply.status.is_server_error() => {}
                Ok(_) => return Err(Failure::Lost),
                Err(Failure::Lost | Failure::Unreachable { .. } | Failure::Locate(_)) => {}
                Err(_) => return Err(Failure::Lost),
            }
            least = pause;
        }
        Err(Failure::Lost)
    }
}

/// An error response of the server's under another id; the error itself as it came.
fn with_id(id: &Id, error: &[u8]) -> Bytes {
    let mut answer = BytesMut::with_capacity(error.len() + id.as_json().len() + 40);
    answer.put_slice(br#"{"jsonrpc":"2.0","id":"#);
    answer.put_slice(id.as_json().as_bytes());
    answer.put_slice(br#","error":"#);
    answer.put_slice(error);
    answer.put_u8(b'}');
    thv_wire::lines::to_line(answer.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adopted_error_keeps_its_bytes() {
        let answer =
            with_id(&Id::string("a\"b"), b"{\"code\": -32601,\n\"message\":\"\\u0041\",\"data\":1.0}");
        assert_eq!(
            &answer[..],
            br#"{"jsonrpc":"2.0","id":"a\"b","error":{"code": -32601, "message":"\u0041","data":1.0}}"#
        );
    }
}
