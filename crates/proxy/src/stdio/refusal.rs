//! Responses that the host gives by itself.

use bytes::Bytes;
use http::header::ALLOW;
use http::{HeaderValue, Response, StatusCode};
use thv_wire::code::{INVALID_REQUEST, Reason};
use thv_wire::message::{Id, error_response};

use super::link::reply;
use super::respond::json;
use crate::body::ResponseBody;

/// The methods of the endpoint.
const ALL: &str = "GET, POST, DELETE";

/// Why a request is refused, in HTTP's terms and in JSON-RPC's.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    body: Bytes,
    /// The methods that are known, for a status that tells them.
    allow: &'static str,
}

impl Refusal {
    /// A request that breaks the rules of the transport.
    pub(super) fn new(status: StatusCode, text: &str) -> Self {
        Self::about(status, None, INVALID_REQUEST, text)
    }

    /// The same, about a message whose id is known.
    pub(super) fn about(status: StatusCode, id: Option<&Id>, code: i64, text: &str) -> Self {
        Self { status, body: error_response(id, code, text, None).into(), allow: ALL }
    }

    /// A request that is in order, but cannot be served.
    pub(super) fn because(status: StatusCode, id: Option<&Id>, reason: Reason, text: &str) -> Self {
        Self { status, body: reply(id, reason, text), allow: ALL }
    }

    /// An answer of ours in the server's stead. As in a session, it is a response like any other.
    pub(super) fn told(body: Bytes) -> Self {
        Self { status: StatusCode::OK, body, allow: ALL }
    }

    /// A refusal where other methods are known than those of the older era.
    pub(super) fn allowing(self, allow: &'static str) -> Self {
        Self { allow, ..self }
    }

    /// The session is unknown, has ended, or belongs to somebody else: all the same to whoever asks.
    pub(super) fn no_session() -> Self {
        Self::new(StatusCode::NOT_FOUND, "no such session: begin a new one with `initialize`")
    }
}

impl From<Refusal> for Response<ResponseBody> {
    fn from(refusal: Refusal) -> Self {
        let mut response = json(refusal.body);
        *response.status_mut() = refusal.status;
        if refusal.status == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(refusal.allow));
        }
        response
    }
}
