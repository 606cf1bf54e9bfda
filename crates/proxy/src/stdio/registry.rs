//! The sessions of a host: how one begins, is found, makes room for another and goes.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use thv_wire::code::{INTERNAL_ERROR, Reason};
use tokio::sync::mpsc;

use super::Spawn;
use super::host::{Shared, StdioHost};
use super::link::{End, Life, Peer};
use super::refusal::Refusal;
use super::session::Session;
use crate::Owner;

/// A session makes room for another when nobody has used it for so long.
const EVICTABLE: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Sessions {
    pub(super) by_id: HashMap<Box<str>, Arc<Session>>,
    pub(super) closing: bool,
}

/// A session's id, the session, and what its server is to read.
type Begun = (Box<str>, Arc<Session>, mpsc::Receiver<Bytes>);

impl<S: Spawn> StdioHost<S> {
    /// A new session, if there may be one more.
    pub(super) fn begin(&self, owner: Owner) -> Result<Begun, Refusal> {
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
}

impl<S> Shared<S> {
    pub(super) fn lock(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn find(&self, id: &str, owner: &Owner) -> Option<Arc<Session>> {
        let session = self.lock().by_id.get(id).cloned()?;
        (session.link.owner == *owner && session.life() != Life::Ended).then_some(session)
    }
}

impl Sessions {
    pub(super) fn live(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.by_id.values().filter(|session| session.life() != Life::Ended)
    }

    /// The session to give up for another, if there is one that may be.
    fn longest_idle(&self) -> Option<Arc<Session>> {
        let idle = self.live().filter_map(|session| Some((session.idle()?, session)));
        let longest = idle.max_by_key(|(idle, session)| (*idle, Reverse(session.link.number)));
        longest.filter(|(idle, _)| *idle >= EVICTABLE).map(|(_, session)| Arc::clone(session))
    }
}

/// Takes a session off the list when its server is gone, or its task has panicked.
pub(super) struct Gone<S> {
    pub(super) shared: Arc<Shared<S>>,
    id: Box<str>,
    pub(super) session: Arc<Session>,
}

impl<S> Gone<S> {
    pub(super) fn new(shared: &Arc<Shared<S>>, id: Box<str>, session: &Arc<Session>) -> Self {
        Self { shared: Arc::clone(shared), id, session: Arc::clone(session) }
    }
}

impl<S> Drop for Gone<S> {
    fn drop(&mut self) {
        self.session.end(&End::Exited);
        self.shared.lock().by_id.remove(&self.id);
        self.shared.running.send_modify(|count| *count -= 1);
    }
}

/// Ends a session whose id was never told to its client.
pub(super) struct Unknown(Option<Arc<Session>>);

impl Unknown {
    pub(super) fn new(session: Arc<Session>) -> Self {
        Self(Some(session))
    }

    pub(super) fn told(mut self) -> Option<Arc<Session>> {
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
