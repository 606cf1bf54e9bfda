//! Which era a message of the client's belongs to, and the fields that the era without sessions puts beside it (MCP
//! 2026-07-28, `basic/versioning`, and `basic/transports/streamable-http`, "Request Metadata").
//!
//! The era is a property of each message, since a client may probe with one and go on in the other. Only of
//! notifications that say nothing of themselves it is that of the last request.

use std::borrow::Cow;
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::{HeaderMap, HeaderValue};
use thv_wire::era::Revision;
use thv_wire::header::PROTOCOL_VERSION;
use thv_wire::message::{Kind, Peek};
use thv_wire::modern::Envelope;
use thv_wire::modern::envelope;
use thv_wire::modern::headers::{NoHeader, derive};
use thv_wire::splice::members;

use crate::session::Session;

/// A message of the era without sessions, as far as HTTP must know it.
#[derive(Debug)]
pub(crate) struct Modern {
    /// All fields but those of tools' parameters.
    pub(crate) headers: HeaderMap,
    pub(crate) about: About,
}

/// What the relay itself must know of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// `tools/list`: its answer tells which parameters go into headers.
    Tools,
    /// `tools/call`: such parameters are in it.
    ToolCall,
    /// `subscriptions/listen`: the answer comes when the subscription ends.
    Listen,
    Other,
}

impl Modern {
    /// What a message says of itself; nothing if it is not of this era.
    ///
    /// # Errors
    /// HTTP has no way to carry it.
    pub(crate) fn of(seen: &Peek<'_>) -> Option<Result<Self, NoHeader>> {
        // Clients send `initialize` after a probe with what the probe had.
        if seen.kind == Kind::Response || seen.is("initialize") {
            return None;
        }
        let discovers = seen.kind == Kind::Request && seen.is("server/discover");
        if !discovers && !Envelope::is_claimed(seen) {
            return None;
        }
        let version = claimed_version(seen);
        let known = version.as_deref().and_then(Revision::parse);
        if !discovers && known.is_some_and(|revision| !revision.is_modern()) {
            return None;
        }
        Some(Self::with(seen, version.as_deref()))
    }

    /// A message that is taken to be of this era, and of this version.
    pub(crate) fn with(seen: &Peek<'_>, version: Option<&str>) -> Result<Self, NoHeader> {
        let mut headers = Session::default().post();
        headers.extend(derive(seen, version.unwrap_or_default())?);
        if version.is_none() {
            // The server has something to say about a request that names no version.
            headers.remove(PROTOCOL_VERSION);
        }
        let about = match seen.method.as_deref().filter(|_| seen.kind == Kind::Request) {
            Some("tools/list") => About::Tools,
            Some("tools/call") => About::ToolCall,
            Some("subscriptions/listen") => About::Listen,
            _ => About::Other,
        };
        Ok(Self { headers, about })
    }
}

/// The version in `_meta`, also where the rest of it is malformed: it is for the server to refuse that.
fn claimed_version<'a>(seen: &Peek<'a>) -> Option<Cow<'a, str>> {
    let [meta] = members(seen.params?, ["_meta"]).ok()?;
    let [version] = members(meta?, [envelope::PROTOCOL_VERSION]).ok()?;
    serde_json::from_str::<String>(version?.get()).ok().map(Cow::Owned)
}

/// The era of the client's last request.
#[derive(Debug, Default)]
pub(crate) struct Era(Mutex<Option<HeaderValue>>);

impl Era {
    fn version(&self) -> MutexGuard<'_, Option<HeaderValue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request of the era without sessions.
    pub(crate) fn note(&self, modern: &Modern) {
        if let Some(version) = modern.headers.get(PROTOCOL_VERSION) {
            *self.version() = Some(version.clone());
        }
    }

    /// The client begins a session.
    pub(crate) fn end(&self) {
        *self.version() = None;
    }

    /// The version of what says nothing of itself; nothing if it belongs to the session, or to one to come.
    pub(crate) fn outside(&self, session: &Session) -> Option<String> {
        let version = self.version().clone().filter(|_| session.generation == 0)?;
        version.to_str().ok().map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use thv_wire::header::{METHOD, NAME, SESSION_ID};
    use thv_wire::message::{Incoming, peek};

    use super::*;

    fn of(message: &Value) -> Option<Result<Modern, NoHeader>> {
        let text = message.to_string();
        let Ok(Incoming::One(seen)) = peek(text.as_bytes()) else { panic!("{text}") };
        Modern::of(&seen)
    }

    fn claiming(version: &Value, method: &str) -> Value {
        let meta = json!({envelope::PROTOCOL_VERSION: version});
        json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"name": "é", "_meta": meta}})
    }

    #[test]
    fn what_claims_it_is_of_this_era() {
        let call = of(&claiming(&json!("2026-07-28"), "tools/call")).unwrap().unwrap();
        assert_eq!(call.about, About::ToolCall);
        assert_eq!(call.headers[PROTOCOL_VERSION], "2026-07-28");
        assert_eq!(call.headers[METHOD], "tools/call");
        assert_eq!(call.headers[NAME], "=?base64?w6k=?=");
        assert_eq!(call.headers[http::header::CONTENT_TYPE], "application/json");
        assert!(!call.headers.contains_key(SESSION_ID));
        // One that we do not know yet.
        let later = of(&claiming(&json!("2027-01-01"), "tools/list")).unwrap().unwrap();
        assert_eq!(
            (later.about, &later.headers[PROTOCOL_VERSION]),
            (About::Tools, &"2027-01-01".parse().unwrap())
        );
        let mut told = claiming(&json!("2026-07-28"), "notifications/x");
        told.as_object_mut().unwrap().remove("id");
        assert_eq!(of(&told).unwrap().unwrap().headers[METHOD], "notifications/x");
    }

    #[test]
    fn what_does_not_is_of_the_older_one() {
        for message in [
            claiming(&json!("2025-11-25"), "tools/call"),
            claiming(&json!("2026-07-28"), "initialize"),
            json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"_meta": {"progressToken": 1}}}),
            json!({"jsonrpc": "2.0", "id": 1, "method": "ping"}),
            json!({"jsonrpc": "2.0", "method": "server/discover"}),
            json!({"jsonrpc": "2.0", "id": 1, "result": {"_meta": {envelope::PROTOCOL_VERSION: "2026-07-28"}}}),
        ] {
            assert!(of(&message).is_none(), "{message}");
        }
    }

    #[test]
    fn a_version_that_is_none_is_not_sent() {
        for message in [
            json!({"jsonrpc": "2.0", "id": 1, "method": "server/discover"}),
            claiming(&json!(7), "server/discover"),
            claiming(&json!(null), "tools/list"),
        ] {
            let modern = of(&message).unwrap().unwrap();
            assert!(!modern.headers.contains_key(PROTOCOL_VERSION), "{message}");
            assert!(modern.headers.contains_key(METHOD));
        }
    }

    #[test]
    fn what_no_header_can_carry_cannot_be_sent() {
        assert!(of(&claiming(&json!("2026-07-28"), "größe")).unwrap().is_err());
        assert!(of(&claiming(&json!("2026\r\nx: y"), "tools/list")).unwrap().is_err());
    }

    #[test]
    fn a_message_that_says_nothing_follows_the_last_request_while_there_is_no_session() {
        let era = Era::default();
        let (none, some) = (Session::default(), Session { generation: 1, ..Session::default() });
        assert_eq!(era.outside(&none), None);
        era.note(&of(&claiming(&json!("2026-07-28"), "tools/list")).unwrap().unwrap());
        assert_eq!((era.outside(&none).as_deref(), era.outside(&some)), (Some("2026-07-28"), None));
        era.end();
        assert_eq!(era.outside(&none), None);
    }
}
