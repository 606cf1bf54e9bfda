//! The MCP session: what every request after `initialize` has to carry, and what it takes to begin it anew.

use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use thv_wire::header::{LAST_EVENT_ID, PROTOCOL_VERSION, SESSION_ID};
use tokio::sync::watch;

use crate::target::Transport;

/// What the answer to `initialize` said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Session {
    /// Counts sessions; 0 before the first.
    pub(crate) generation: u64,
    /// Tells what its server asks from what another one asks; see `asked`.
    pub(crate) life: u64,
    pub(crate) id: Option<HeaderValue>,
    pub(crate) version: Option<HeaderValue>,
    /// Where it was begun. It means nothing elsewhere.
    pub(crate) over: Transport,
    /// The server has accepted `notifications/initialized`: it may be asked for its stream.
    pub(crate) open: bool,
}

impl Session {
    /// One that was just begun with what the server said.
    pub(crate) fn begun(life: u64, id: Option<HeaderValue>, version: Option<&str>, over: Transport) -> Self {
        let version = version.and_then(|version| HeaderValue::from_str(version).ok());
        Self { life, id, version, over, ..Self::default() }
    }

    /// Whether it is a session of the other transport.
    pub(crate) fn is_elsewhere(&self, here: Transport) -> bool {
        self.generation > 0 && self.over != here
    }

    fn add_to(&self, headers: &mut HeaderMap) {
        if let Some(id) = &self.id {
            headers.insert(SESSION_ID, id.clone());
        }
        if let Some(version) = &self.version {
            headers.insert(PROTOCOL_VERSION, version.clone());
        }
    }

    /// The fields of a POST.
    pub(crate) fn post(&self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        self.add_to(&mut headers);
        headers
    }

    /// The fields of a GET, for the server's own stream or to take up a broken one.
    pub(crate) fn get(&self, last_event: Option<HeaderValue>) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(id) = last_event {
            headers.insert(LAST_EVENT_ID, id);
        }
        self.add_to(&mut headers);
        headers
    }

    /// The fields of a DELETE; nothing if there is no session to end.
    pub(crate) fn delete(&self) -> Option<HeaderMap> {
        self.id.as_ref()?;
        let mut headers = HeaderMap::new();
        self.add_to(&mut headers);
        Some(headers)
    }
}

/// The current session, and how to begin another.
pub(crate) struct Sessions {
    current: watch::Sender<Session>,
    /// The parameters of the client's own `initialize`, once it was answered.
    params: Mutex<Option<Bytes>>,
    /// Held by the one who begins a lost session anew.
    pub(crate) renewing: tokio::sync::Mutex<()>,
    /// How often that was tried.
    pub(crate) attempts: AtomicU64,
    /// Generation of the session of which it is known last whether the server has a stream of its own.
    listened: watch::Sender<u64>,
}

impl Sessions {
    pub(crate) fn new() -> Self {
        Self {
            current: watch::Sender::new(Session::default()),
            params: Mutex::default(),
            renewing: tokio::sync::Mutex::default(),
            attempts: AtomicU64::new(0),
            listened: watch::Sender::new(0),
        }
    }

    pub(crate) fn current(&self) -> Session {
        self.current.borrow().clone()
    }

    /// To be told when the session changes.
    pub(crate) fn watch(&self) -> watch::Receiver<Session> {
        self.current.subscribe()
    }

    /// The client's `initialize`, with these parameters, was answered with this session.
    pub(crate) fn begin(&self, session: Session, params: Option<Bytes>) {
        *self.params.lock().unwrap_or_else(PoisonError::into_inner) = params;
        self.replace(session);
    }

    /// The server accepted `notifications/initialized`.
    pub(crate) fn open(&self) {
        self.current.send_modify(|session| session.open = true);
    }

    /// The server was asked for its own stream in the session of this generation, and has replied.
    pub(crate) fn listened(&self, generation: u64) {
        self.listened.send_replace(generation);
    }

    /// Returns once that is so for the current session or a later one.
    pub(crate) async fn has_listened(&self) {
        let generation = self.current.borrow().generation;
        // The channel cannot be closed: its sender lives as long as this.
        let _ = self.listened.subscribe().wait_for(|listened| *listened >= generation).await;
    }

    /// This is the session from now on.
    pub(crate) fn replace(&self, next: Session) {
        self.current.send_modify(|session| {
            let generation = session.generation + 1;
            *session = Session { generation, ..next };
        });
    }

    /// The parameters to begin a session anew with.
    pub(crate) fn params(&self) -> Option<Bytes> {
        self.params.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carries_nothing_before_initialize_and_all_after_it() {
        let sessions = Sessions::new();
        let before = sessions.current();
        assert!(!before.post().contains_key(SESSION_ID) && !before.post().contains_key(PROTOCOL_VERSION));
        assert!(before.delete().is_none());

        let id = HeaderValue::from_static("s");
        sessions.begin(Session::begun(0, Some(id), Some("2025-06-18"), Transport::Streamable), None);
        let after = sessions.current();
        for headers in [after.post(), after.get(None), after.delete().unwrap()] {
            assert_eq!(
                (&headers[SESSION_ID], &headers[PROTOCOL_VERSION]),
                (&"s".parse().unwrap(), &"2025-06-18".parse().unwrap())
            );
        }
        assert_eq!(after.generation, before.generation + 1);
        assert!(!after.open);
        sessions.open();
        assert!(sessions.current().open);
        assert!(after.is_elsewhere(Transport::Sse) && !after.is_elsewhere(Transport::Streamable));
        assert!(!before.is_elsewhere(Transport::Sse));
    }

    #[test]
    fn a_version_that_no_header_can_carry_is_not_sent() {
        let session = Session::begun(0, None, Some("2025\r\nx: y"), Transport::Sse);
        assert_eq!(session.version, None);
    }
}
