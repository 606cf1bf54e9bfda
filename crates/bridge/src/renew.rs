//! A lost session, begun anew once for all, without the client noticing: `initialize` with the client's own
//! parameters under an id of ours, whose answer goes nowhere, then `notifications/initialized`, and then what the
//! client had told the old session to remember.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use thv_wire::header::SESSION_ID;
use thv_wire::message::{Id, Incoming, peek};
use tokio::time::timeout;

use crate::exchange::Call;
use crate::failure::Failure;
use crate::own::if_not_sent;
use crate::pool::Effort;
use crate::relay::Relay;
use crate::session::Session;
use crate::target::Transport;

/// How long a server may take to begin a session anew.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How long it may take to be told what the old session knew. It begins all the same then.
pub(crate) const REPLAY: Duration = Duration::from_secs(10);

/// How often one piece of that is tried to be told.
pub(crate) const REPLAYS: u32 = 3;

pub(crate) const INITIALIZED: &[u8] = br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

impl Relay {
    /// Makes sure that the session of generation `seen`, which is lost, has a successor.
    ///
    /// # Errors
    /// There is none. With a failure: the request that noticed it was not run and this is why; without one: the
    /// server's own 404 says it best.
    pub(crate) async fn renew(&self, seen: u64, effort: Effort) -> Result<(), Option<Failure>> {
        let attempt = self.session.attempts.load(Ordering::Acquire);
        let _turn = self.session.renewing.lock().await;
        if self.session.current().generation != seen {
            return Ok(());
        }
        if self.session.attempts.load(Ordering::Acquire) != attempt {
            // Somebody tried while this one waited, in vain.
            return Err(None);
        }
        let life = self.asked.lose();
        let outcome = match timeout(PATIENCE, self.begin_anew(effort, life)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(None),
        };
        self.session.attempts.fetch_add(1, Ordering::Release);
        match outcome {
            Ok(fresh) => {
                tracing::info!("session lost and begun anew");
                self.session.replace(fresh);
                Ok(())
            }
            Err(failure) => {
                tracing::warn!("session lost, and it could not be begun anew");
                Err(failure)
            }
        }
    }

    async fn begin_anew(&self, effort: Effort, life: u64) -> Result<Session, Option<Failure>> {
        let lost = self.session.current();
        let params = self.session.params().ok_or(None)?;
        let none = Session { life, ..Session::default() };
        let (head, answer) = self.ask(&none, effort, "initialize", &params).await?;
        // The client speaks the revision that it agreed on with the old session.
        let version = version_in(&answer).ok_or(None)?;
        if Some(&version) != lost.version.as_ref() {
            return Err(None);
        }
        // Open also if the lost one was not: the client's own `initialized` may have been lost with it.
        let fresh = Session {
            id: head.get(SESSION_ID).cloned(),
            open: true,
            life,
            over: Transport::Streamable,
            ..lost
        };
        let call = Call { effort, ..self.post(&fresh, Bytes::from_static(INITIALIZED)) };
        let reply = self.pool.exchange(&call).await.map_err(if_not_sent)?;
        if !reply.status.is_success() {
            return Err(None);
        }
        let replay = async {
            let requests = self.told().requests();
            for (method, params) in requests {
                for _ in 0..REPLAYS {
                    // A refusal is an answer too: the server has its reasons now.
                    match self.ask(&fresh, effort, method, &params).await {
                        Ok(_) => break,
                        Err(_) => tracing::debug!(method, "not told to the new session"),
                    }
                }
            }
        };
        if timeout(REPLAY, replay).await.is_err() {
            tracing::warn!("the new session was not told everything in time");
        }
        Ok(fresh)
    }
}

impl Relay {
    /// The session of that life confirms what this request changes. If it has a successor, which was told all else
    /// before, that is told first: once the client hears of the answer it may change its mind again.
    ///
    /// Over HTTP with SSE nothing is told: what a stream says ends with it, and another one is begun after that.
    pub(crate) async fn tell_successors(&self, id: &Id, mut life: u64) {
        let Some(change) = self.pending.change(id) else { return };
        let (method, params) = change.request();
        while life < self.asked.life() {
            // It may be just being begun.
            drop(self.session.renewing.lock().await);
            let session = self.session.current();
            if session.life == life || session.over != Transport::Streamable {
                return;
            }
            let tell = async {
                for _ in 0..REPLAYS {
                    if self.ask(&session, Effort::Look, method, &params).await.is_ok() {
                        break;
                    }
                }
            };
            if timeout(REPLAY, tell).await.is_err() {
                tracing::warn!(method, "the new session was not told in time");
            }
            life = session.life;
        }
    }
}

/// The revision in the answer to `initialize`; nothing if it was refused.
pub(crate) fn version_in(answer: &[u8]) -> Option<HeaderValue> {
    match peek(answer) {
        Ok(Incoming::One(seen)) if seen.result.is_some() => {
            HeaderValue::from_str(&seen.protocol_version()?).ok()
        }
        _ => None,
    }
}
