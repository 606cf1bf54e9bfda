//! A lost session, begun anew once for all, without the client noticing: `initialize` with the client's own
//! parameters under an id of ours, whose answer goes nowhere, then `notifications/initialized`.
//!
//! What the client had told the old session beyond that (subscriptions, log level) is to be replayed here.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::HeaderValue;
use thv_wire::header::SESSION_ID;
use thv_wire::message::{Id, Incoming, Kind, peek};
use thv_wire::sse;
use tokio::time::timeout;

use crate::events::{Events, Next};
use crate::failure::Failure;
use crate::relay::Relay;
use crate::session::Session;

/// How long a server may take to begin a session anew.
const PATIENCE: Duration = Duration::from_secs(30);

const INITIALIZED: &[u8] = br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

impl Relay {
    /// Makes sure that the session of generation `seen`, which is lost, has a successor.
    ///
    /// # Errors
    /// There is none. With a failure: the request that noticed it was not run and this is why; without one: the
    /// server's own 404 says it best.
    pub(crate) async fn renew(&self, seen: u64) -> Result<(), Option<Failure>> {
        let attempt = self.session.attempts.load(Ordering::Acquire);
        let _turn = self.session.renewing.lock().await;
        if self.session.current().generation != seen {
            return Ok(());
        }
        if self.session.attempts.load(Ordering::Acquire) != attempt {
            // Somebody tried while this one waited, in vain.
            return Err(None);
        }
        let outcome = match timeout(PATIENCE, self.begin_anew()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(None),
        };
        self.session.attempts.fetch_add(1, Ordering::Release);
        match &outcome {
            Ok(()) => tracing::info!("session lost and begun anew"),
            Err(_) => tracing::warn!("session lost, and it could not be begun anew"),
        }
        outcome
    }

    async fn begin_anew(&self) -> Result<(), Option<Failure>> {
        let lost = self.session.current();
        let id = Id::string(&format!("thv-bridge-{}", lost.generation));
        let body = initialize(&id, &self.session.params().ok_or(None)?);
        let reply = self.pool.exchange(&self.post(&Session::default(), body)).await.map_err(if_not_sent)?;
        if !reply.status.is_success() {
            return Err(None);
        }
        let session = reply.headers.get(SESSION_ID).cloned();
        let version = if reply.is(sse::MEDIA_TYPE) {
            let mut events = Events::new(reply.body, self.options.max_answer_bytes);
            loop {
                match events.next().await {
                    Next::Message(message) => match version_in(&message, &id) {
                        Some(version) => break version,
                        None => self.deliver(message, None).await,
                    },
                    Next::TooLarge(message, failure) => self.fail_skimmed(&message, &failure).await,
                    Next::End => return Err(None),
                }
            }
        } else {
            let body = reply.body.collect(self.options.max_answer_bytes).await.map_err(|_| None)?;
            version_in(&body, &id).ok_or(None)?
        };
        // The client speaks the revision that it agreed on with the old session.
        if version.is_none() || version != lost.version {
            return Err(None);
        }
        // Open also if the lost one was not: the client's own `initialized` may have been lost with it.
        let fresh = Session { id: session, version, open: true, ..lost };
        let body = Bytes::from_static(INITIALIZED);
        let reply = self.pool.exchange(&self.post(&fresh, body)).await.map_err(if_not_sent)?;
        if !reply.status.is_success() {
            return Err(None);
        }
        self.session.replace(fresh.id, fresh.version, fresh.open);
        Ok(())
    }
}

/// A failure of ours says why the request was not run, unless it speaks of the `initialize` itself.
fn if_not_sent(failure: Failure) -> Option<Failure> {
    Some(failure).filter(|failure| !matches!(failure, Failure::Lost))
}

fn initialize(id: &Id, params: &[u8]) -> Bytes {
    let mut text = BytesMut::with_capacity(params.len() + 100);
    text.put_slice(br#"{"jsonrpc":"2.0","id":"#);
    text.put_slice(id.as_json().as_bytes());
    text.put_slice(br#","method":"initialize","params":"#);
    text.put_slice(params);
    text.put_u8(b'}');
    text.freeze()
}

/// The version in the answer of this id; nothing if this is another message.
fn version_in(message: &[u8], id: &Id) -> Option<Option<HeaderValue>> {
    match peek(message) {
        Ok(Incoming::One(seen)) if seen.kind == Kind::Response && seen.id.as_ref() == Some(id) => {
            Some(seen.protocol_version().and_then(|version| HeaderValue::from_str(&version).ok()))
        }
        _ => None,
    }
}
