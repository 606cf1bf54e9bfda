//! The server's own stream: open while there is a session, for messages that belong to no request. Over streamable HTTP
//! it is a GET of its own; over HTTP with SSE it is the session itself.
//!
//! It follows a workload that was restarted or has moved, and begins its session anew there, since a client that only
//! waits would never hear of it otherwise. It never starts a workload: the next request does.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};
use thv_wire::sse;
use tokio::time::{Instant, sleep};

use crate::backoff::Backoff;
use crate::events::{Events, Next};
use crate::exchange::Call;
use crate::failure::Failure;
use crate::pool::Effort;
use crate::relay::Relay;
use crate::session::Session;
use crate::target::Transport;

/// The pause before a stream that ended is opened again; doubled while that leads to nothing.
const PAUSE: Duration = Duration::from_millis(250);

/// The longest such pause.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// What is remembered from one session to the next.
struct Listening {
    backoff: Backoff,
    /// The server has given a stream of its own at least once: then a 404 speaks of the session. There are servers that
    /// say 404 where 405 is meant, and their sessions are well.
    had_stream: bool,
}

impl Relay {
    /// Listens to each session in turn, for ever.
    pub(crate) async fn run_listener(self: Arc<Self>) {
        let mut sessions = self.session.watch();
        let mut state = Listening { backoff: Backoff::new(PAUSE, MAX_PAUSE), had_stream: false };
        loop {
            let session = sessions.borrow_and_update().clone();
            tokio::select! {
                biased;
                changed = sessions.changed() => if changed.is_err() { return },
                () = self.listen(&session, &mut state), if session.open => {
                    // There is no stream to be had in this session.
                    if sessions.changed().await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Passes on what the server has to say until it says that there is nothing to be had.
    async fn listen(&self, session: &Session, state: &mut Listening) {
        loop {
            match self.pool.finder.known_transport() {
                Transport::Sse => self.keep_channel(&mut state.backoff).await,
                Transport::Streamable if session.is_elsewhere(Transport::Streamable) => {
                    // A session that takes the place of this one ends this wait.
                    sleep(state.backoff.pause()).await;
                    if self.renew(session.generation, Effort::Look).await.is_ok() {
                        return;
                    }
                }
                Transport::Streamable => {
                    self.listen_to_get(session, state).await;
                    if self.pool.finder.known_transport() == Transport::Streamable {
                        return;
                    }
                }
            }
        }
    }

    async fn listen_to_get(&self, session: &Session, state: &mut Listening) {
        let mut stream: Option<Events> = None;
        loop {
            let last_id = stream.as_ref().and_then(Events::last_id);
            let mut least = PAUSE;
            let pause = state.backoff.pause();
            let opened = self.open_stream(session, last_id).await;
            self.session.listened(session.generation);
            match opened {
                Opened::Stream(body) => {
                    state.had_stream = true;
                    let events = match &mut stream {
                        Some(events) => {
                            events.resume(body);
                            events
                        }
                        None => stream.insert(self.events(body)),
                    };
                    let since = Instant::now();
                    loop {
                        match events.next().await {
                            Next::Message(message) => self.deliver(message, session.life, None).await,
                            Next::TooLarge(message, failure) => {
                                self.fail_skimmed(&message, &failure, session.life).await;
                            }
                            Next::Endpoint(_) => {}
                            Next::End => break,
                        }
                        state.backoff.reset();
                    }
                    if since.elapsed() > MAX_PAUSE {
                        state.backoff.reset();
                    }
                }
                Opened::NotFromHere => stream = None,
                Opened::Never => return,
                Opened::NotNow => least = pause,
                Opened::Lost if !state.had_stream => return,
                Opened::Lost => {
                    // A session that takes the place of this one ends this wait, and a server that loses them as
                    // fast as they are begun is asked for further ones ever less often.
                    sleep(pause).await;
                    if self.renew(session.generation, Effort::Look).await.is_ok() {
                        return;
                    }
                    continue;
                }
            }
            let wanted = stream.as_ref().and_then(Events::retry);
            sleep(wanted.unwrap_or(pause).max(least)).await;
        }
    }

    async fn open_stream(&self, session: &Session, last_id: Option<HeaderValue>) -> Opened {
        let resumes = last_id.is_some();
        let call = Call {
            method: Method::GET,
            headers: session.get(last_id),
            effort: Effort::Look,
            ..self.post(session, Bytes::new())
        };
        match self.pool.exchange(&call).await {
            Ok(reply) if reply.status == StatusCode::OK && reply.is(sse::MEDIA_TYPE) => {
                Opened::Stream(reply.body)
            }
            Ok(reply) if reply.status.is_server_error() => Opened::NotNow,
            Ok(reply) if reply.status == StatusCode::BAD_REQUEST && resumes => Opened::NotFromHere,
            // There are servers that say 400 of a session that they do not know.
            Ok(reply)
                if [StatusCode::NOT_FOUND, StatusCode::BAD_REQUEST].contains(&reply.status)
                    && session.id.is_some() =>
            {
                Opened::Lost
            }
            Ok(reply) => {
                tracing::debug!(status = %reply.status, "the server has no stream of its own");
                Opened::Never
            }
            // There is none of this kind, nor will there be.
            Err(Failure::Elsewhere) => Opened::Never,
            Err(failure) => {
                tracing::debug!(%failure, "the server's stream cannot be opened now");
                Opened::NotNow
            }
        }
    }

    /// Keeps a session open over HTTP with SSE, whose stream is read elsewhere, while that is how it is spoken to.
    async fn keep_channel(&self, backoff: &mut Backoff) {
        loop {
            match self.channel(Effort::Look, false).await {
                Ok(channel) => {
                    let since = Instant::now();
                    channel.closed().await;
                    if since.elapsed() > MAX_PAUSE {
                        backoff.reset();
                    }
                }
                Err(Failure::Elsewhere) => return,
                Err(failure) => tracing::debug!(%failure, "the session cannot be begun anew now"),
            }
            sleep(backoff.pause()).await;
        }
    }
}

enum Opened {
    Stream(crate::exchange::Body),
    /// 405, or something like it.
    Never,
    /// 404 or 400 in a session.
    Lost,
    /// The server cannot go on from the last event.
    NotFromHere,
    NotNow,
}
