//! What a client may say when.

use bytes::{BufMut, Bytes, BytesMut};
use http::StatusCode;
use thv_wire::code::INVALID_REQUEST;
use thv_wire::era::Revision;
use thv_wire::lines;
use thv_wire::message::{Id, Incoming, Kind, Peek, PeekError};

use super::refusal::Refusal;
use super::session::{Ask, Session};

const NEEDS_SESSION: &str = "Mcp-Session-Id is missing: begin with `initialize`";

pub(super) fn needs_session() -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, NEEDS_SESSION)
}

/// The messages of a request, as the server gets them.
pub(super) struct Messages {
    pub(super) line: Bytes,
    pub(super) asks: Vec<Ask>,
    pub(super) batch: bool,
}

/// Checks the first message of a session, which must be `initialize`.
pub(super) fn first_message(body: &Bytes, seen: &Incoming<'_>) -> Result<(Bytes, Ask), Refusal> {
    let Incoming::One(message) = seen else { return Err(needs_session()) };
    let ask = ask(message);
    if matches!(ask, Ask::Request { initialize: true, .. }) {
        return Ok((lines::to_line(body.clone()), ask));
    }
    if message.is("server/discover") {
        return Err(legacy_only(message.id.as_ref()));
    }
    Err(Refusal::about(StatusCode::BAD_REQUEST, message.id.as_ref(), INVALID_REQUEST, NEEDS_SESSION))
}

/// The refusal of a modern request where the older era alone is to be had. Not 404, and none of the newer revision's
/// codes: its clients would not fall back.
pub(super) fn legacy_only(id: Option<&Id>) -> Refusal {
    let newest = Revision::LATEST_LEGACY;
    let text = format!("this server speaks MCP up to {newest}: begin with `initialize`");
    Refusal::about(StatusCode::BAD_REQUEST, id, INVALID_REQUEST, &text)
}

/// Checks the messages of a session that has begun.
pub(super) fn messages(session: &Session, body: &Bytes, seen: &Incoming<'_>) -> Result<Messages, Refusal> {
    let bad = |id: Option<&Id>, text| Err(Refusal::about(StatusCode::BAD_REQUEST, id, INVALID_REQUEST, text));
    match seen {
        Incoming::One(message) => {
            let ask = ask(message);
            if matches!(ask, Ask::Request { initialize: true, .. }) {
                let text = "the session has begun already: leave its id out to begin another";
                return bad(message.id.as_ref(), text);
            }
            Ok(Messages { line: lines::to_line(body.clone()), asks: vec![ask], batch: false })
        }
        Incoming::Batch(parts) => {
            let version = session.version().and_then(|version| Revision::parse(&version));
            if !version.is_some_and(Revision::has_batches) {
                return bad(None, "batches are part of revision 2025-03-26 only");
            }
            let asks: Vec<_> = parts.iter().map(|(_, message)| ask(message)).collect();
            if asks.iter().any(|ask| matches!(ask, Ask::Request { initialize: true, .. })) {
                return bad(None, "`initialize` cannot be part of a batch");
            }
            let mut line = BytesMut::with_capacity(body.len());
            for (part, _) in parts {
                if !line.is_empty() {
                    line.put_u8(b'\n');
                }
                line.put(lines::to_line(body.slice_ref(part.get().as_bytes())));
            }
            Ok(Messages { line: line.freeze(), asks, batch: true })
        }
    }
}

fn ask(message: &Peek<'_>) -> Ask {
    match (message.kind, &message.id) {
        (Kind::Request, Some(id)) => Ask::Request {
            id: id.clone(),
            token: message.progress_token(),
            initialize: message.is("initialize"),
        },
        _ => message.cancelled_id().map_or(Ask::Other, Ask::Cancel),
    }
}

pub(super) fn not_a_message(error: &PeekError) -> Refusal {
    Refusal::about(StatusCode::BAD_REQUEST, None, error.code(), &error.to_string())
}
