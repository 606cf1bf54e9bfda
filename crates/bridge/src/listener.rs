//! The server's own stream: a GET that stays open while there is a session, for messages that belong to no
//! request.
//!
//! It never starts a workload and never begins a lost session anew: the next request does.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};
use thv_wire::sse;
use tokio::time::sleep;

use crate::events::{Events, Next};
use crate::exchange::Call;
use crate::pool::Effort;
use crate::relay::Relay;
use crate::session::Session;

/// The pause before a stream that ended is opened again; doubled while that leads to nothing.
const PAUSE: Duration = Duration::from_millis(250);

/// The longest such pause.
const MAX_PAUSE: Duration = Duration::from_secs(30);

impl Relay {
    /// Listens to each session in turn, for ever.
    pub(crate) async fn run_listener(self: Arc<Self>) {
        let mut sessions = self.session.watch();
        loop {
            let session = sessions.borrow_and_update().clone();
            tokio::select! {
                biased;
                changed = sessions.changed() => if changed.is_err() { return },
                () = self.listen(&session), if session.open => {
                    // There is no stream to be had in this session.
                    if sessions.changed().await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Passes on what the server has to say until it says that there is nothing to be had.
    async fn listen(&self, session: &Session) {
        let mut stream: Option<Events> = None;
        let mut pause = PAUSE;
        loop {
            let last_id = stream.as_ref().and_then(Events::last_id);
            let mut least = PAUSE;
            match self.open_stream(session, last_id).await {
                Opened::Stream(body) => {
                    let events = match &mut stream {
                        Some(events) => {
                            events.resume(body);
                            events
                        }
                        None => stream.insert(Events::new(body, self.options.max_answer_bytes)),
                    };
                    loop {
                        match events.next().await {
                            Next::Message(message) => self.deliver(message, None).await,
                            Next::TooLarge(message, failure) => self.fail_skimmed(&message, &failure).await,
                            Next::End => break,
                        }
                        pause = PAUSE;
                    }
                }
                Opened::Never => return,
                Opened::NotNow => least = pause,
            }
            let wanted = stream.as_ref().and_then(Events::retry);
            sleep(wanted.unwrap_or(pause).max(least)).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    async fn open_stream(&self, session: &Session, last_id: Option<HeaderValue>) -> Opened {
        let call = Call {
            method: Method::GET,
            headers: session.get(last_id),
            body: Bytes::new(),
            effort: Effort::Stay,
            wanted: &|| true,
        };
        match self.pool.exchange(&call).await {
            Ok(reply) if reply.status == StatusCode::OK && reply.is(sse::MEDIA_TYPE) => {
                Opened::Stream(reply.body)
            }
            Ok(reply) if reply.status.is_server_error() => Opened::NotNow,
            Ok(reply) => {
                tracing::debug!(status = %reply.status, "the server has no stream of its own");
                Opened::Never
            }
            Err(failure) => {
                tracing::debug!(%failure, "the server's stream cannot be opened now");
                Opened::NotNow
            }
        }
    }
}

enum Opened {
    Stream(crate::exchange::Body),
    /// 405, or a session that is lost.
    Never,
    NotNow,
}
