//! The life of one request: sent, its reply read whatever form it has, taken up again where that is allowed,
//! and answered in any case.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use thv_wire::header::SESSION_ID;
use thv_wire::message::Kind;
use thv_wire::skim::Skimmed;
use thv_wire::sse;
use tokio::time::{sleep, timeout};

use crate::asked::NO_SESSION;
use crate::backoff::Backoff;
use crate::batch;
use crate::events::{Events, Next};
use crate::exchange::{Call, Reply};
use crate::failure::Failure;
use crate::finder::Route;
use crate::job::{Job, What};
use crate::pool::Effort;
use crate::refusal::Weighed;
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
        // A batch has requests in it, and is never empty of them.
        let body = self.without_lost(&job.body, &job.besides.answers).await.unwrap_or(job.body.clone());
        for _ in 0..MAX_TRANSPORTS {
            let outcome = match (self.pool.finder.transport(Effort::Follow).await?, &job.what) {
                (Transport::Streamable, What::Alone(modern)) => self.post_modern(job, modern).await,
                (Transport::Streamable, what) => self.post_and_receive(job, &body, what.initialize()).await,
                // Such a server knows the older era alone, and says so in its own words.
                (Transport::Sse, what) => self.post_and_hear(job, &body, what.initialize()).await,
            };
            if !matches!(outcome, Err(Failure::Elsewhere)) {
                return outcome;
            }
        }
        Err(Failure::Elsewhere)
    }

    /// Over streamable HTTP: the reply holds the answer.
    async fn post_and_receive(
        &self,
        job: &Job,
        body: &Bytes,
        initialize: Option<&Initialize>,
    ) -> Result<(), Failure> {
        let wanted = |_: &Route| job.is_wanted();
        let post = |session: &Session, body| Call { wanted: &wanted, ..self.post(session, body) };
        let mut session = match &initialize {
            Some(_) => Session { life: self.life_to_begin(), ..Session::default() },
            None => self.session_here(Transport::Streamable, Effort::Follow).await?,
        };
        let reply = self.pool.exchange(&post(&session, body.clone())).await?;
        let mut weighed = self.weigh(reply, &session).await;
        if weighed.is_lost() {
            match self.renew(session.generation, Effort::Follow).await {
                Ok(()) => {
                    session = self.session.current();
                    let body = batch::without(body, &job.besides.answers).unwrap_or(body.clone());
                    let reply = self.pool.exchange(&post(&session, body)).await?;
                    weighed = self.weigh(reply, &session).await;
                }
                Err(Some(failure)) => return Err(failure),
                Err(None) => {}
            }
        }
        let reply = match weighed {
            Weighed::Error { status, body, .. } => {
                return self.relay_error(status, body, job, session.life).await;
            }
            Weighed::Reply(reply) => reply,
        };
        if !reply.status.is_success() {
            return self.receive_error(reply, job, session.life).await;
        }
        if job.besides.initializes {
            self.session.open();
        }
        let initialize = initialize.map(|initialize| {
            session.id = reply.headers.get(SESSION_ID).cloned();
            Initialize { session: session.id.clone(), ..initialize.clone() }
        });
        let _beginning = initialize.is_some().then(|| self.asked.begin(session.clone()));
        if reply.is(sse::MEDIA_TYPE) {
            self.receive_stream(reply, job, &session, initialize.as_ref()).await
        } else {
            self.receive_json(reply, job, session.life, initialize.as_ref()).await
        }
    }

    /// The life of the session that the client begins.
    fn life_to_begin(&self) -> u64 {
        // What was asked outside of any session before the first is as well answered in it.
        if self.session.current().generation == 0 { self.asked.life() } else { self.asked.lose() }
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
    async fn post_and_hear(
        &self,
        job: &Job,
        body: &Bytes,
        initialize: Option<&Initialize>,
    ) -> Result<(), Failure> {
        let initialize = initialize.map(|it| Arc::new(Initialize { over: Transport::Sse, ..it.clone() }));
        let mut refused = false;
        for _ in 0..MAX_CHANNELS {
            let channel = self.channel(Effort::Follow, initialize.is_some()).await?;
            let session = match &initialize {
                Some(initialize) => {
                    channel.begin(initialize);
                    Session { life: channel.life(), over: Transport::Sse, ..Session::default() }
                }
                None => self.session.current(),
            };
            let _beginning = initialize.is_some().then(|| self.asked.begin(session.clone()));
            let wanted = || job.is_wanted();
            match self.post_on(&channel, &session, body.clone(), Effort::Follow, &wanted).await {
                Ok(reply) if reply.status.is_success() => {
                    if job.besides.initializes {
                        self.session.open();
                    }
                    self.finish(reply).await;
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
        let body = self.collect(reply).await?;
        self.deliver_or_adopt(body, job, life, initialize).await;
        job.answered_or(Failure::Http { status, what: "no answer in it" })
    }

    async fn receive_stream(
        &self,
        reply: Reply,
        job: &Job,
        session: &Session,
        initialize: Option<&Initialize>,
    ) -> Result<(), Failure> {
        let mut events = self.events(reply.body);
        let mut backoff = Backoff::new(RESUME_AFTER, MAX_PAUSE);
        loop {
            match events.next().await {
                Next::Message(message) => self.deliver(message, session.life, initialize).await,
                Next::TooLarge(message, failure) => self.fail_skimmed(&message, &failure, session.life).await,
                Next::Endpoint(_) => {}
                Next::End if !job.is_waiting() => return Ok(()),
                Next::End => self.resume(&mut events, session, &mut backoff).await?,
            }
        }
    }

    /// Answers for what was too large to be kept: the client's request whose answer it was, or the server, which said it
    /// in a session of that life and shall not wait for ever.
    pub(crate) async fn fail_skimmed(&self, message: &Skimmed, failure: &Failure, life: u64) {
        match message {
            Skimmed { kind: Some(Kind::Response), id: Some(id) } => self.fail(id, failure).await,
            Skimmed { kind: Some(Kind::Request), id: Some(id) } if life != NO_SESSION => {
                tracing::warn!(%failure, "request of the server's refused");
                self.asked.note(id.clone(), life);
                self.answer_server(id, failure.of("message").answer(Some(id)));
            }
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
