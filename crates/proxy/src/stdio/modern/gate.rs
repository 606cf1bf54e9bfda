//! Which requests are of the modern era, and what they must look like (MCP 2026-07-28,
//! `basic/transports/streamable-http`, "Server Validation").

use http::StatusCode;
use http::request::Parts;
use thv_wire::code::{HEADER_MISMATCH, INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND};
use thv_wire::header;
use thv_wire::message::{Incoming, Kind, Peek};
use thv_wire::modern::{Envelope, Mismatch, headers};

use super::super::incoming::{Version, version};
use super::super::refusal::Refusal;

/// What a message of a modern caller is.
pub(in super::super) enum Headed<'a> {
    Request(Envelope<'a>),
    Notification,
}

/// Whether a message is of the modern era.
///
/// Its `_meta` claims that era and no session was named in a version that has sessions, or the header names a version
/// that is not of the older era, and no session. Of `initialize` the header says nothing: clients send it after a probe
/// with the probe's version.
pub(in super::super) fn is_modern(parts: &Parts, seen: &Incoming<'_>) -> bool {
    let message = match seen {
        Incoming::One(message) if message.is("initialize") => return Envelope::is_claimed(message),
        Incoming::One(message) => Some(message),
        Incoming::Batch(_) => None,
    };
    let session = parts.headers.contains_key(header::SESSION_ID);
    let version = version(&parts.headers);
    let legacy = matches!(version, Version::Known(revision) if !revision.is_modern());
    if !(session && legacy) && message.is_some_and(Envelope::is_claimed) {
        return true;
    }
    !session && !legacy && version != Version::Absent
}

/// What a message of a modern caller is, and what it says of itself.
pub(in super::super) fn take<'a>(message: &Peek<'a>) -> Result<Headed<'a>, Refusal> {
    let bad = |code, text: &str| Refusal::about(StatusCode::BAD_REQUEST, message.id.as_ref(), code, text);
    match message.kind {
        Kind::Request => {
            let envelope = Envelope::of(message).map_err(|error| bad(INVALID_PARAMS, &error.to_string()))?;
            Ok(Headed::Request(envelope))
        }
        Kind::Notification => Ok(Headed::Notification),
        Kind::Response => {
            Err(Refusal::about(StatusCode::BAD_REQUEST, None, INVALID_REQUEST, "clients send no responses"))
        }
    }
}

/// Checks a request of a modern caller, once it is known that there is a modern server: the errors would keep a client
/// from falling back to the older era.
pub(in super::super) fn check(
    parts: &Parts,
    message: &Peek<'_>,
    envelope: &Envelope<'_>,
) -> Result<(), Refusal> {
    headers::check(&parts.headers, message, envelope).map_err(|error| mismatch(message, &error))?;
    if message.is("initialize") {
        // Over standard input the server could not tell whom the era of this request is to bind.
        let text = "revision 2026-07-28 has no `initialize`";
        let (status, id) = (StatusCode::NOT_FOUND, message.id.as_ref());
        return Err(Refusal::about(status, id, METHOD_NOT_FOUND, text));
    }
    Ok(())
}

/// The refusal of a request whose headers do not match its body.
pub(in super::super) fn mismatch(message: &Peek<'_>, error: &Mismatch) -> Refusal {
    Refusal::about(StatusCode::BAD_REQUEST, message.id.as_ref(), HEADER_MISMATCH, &error.to_string())
}
