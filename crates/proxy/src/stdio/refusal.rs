//! Responses that the host gives by itself.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use thv_wire::code::{INVALID_REQUEST, Reason};
use thv_wire::message::{Id, error_response};

use super::session::reply;
use crate::body::ResponseBody;

/// Why a request is refused, in HTTP's terms and in JSON-RPC's.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    body: Bytes,
}

impl Refusal {
    /// A request that breaks the rules of the transport.
    pub(super) fn new(status: StatusCode, text: &str) -> Self {
        Self::about(status, None, INVALID_REQUEST, text)
    }

    /// The same, about a message whose id is known.
    pub(super) fn about(status: StatusCode, id: Option<&Id>, code: i64, text: &str) -> Self {
        Self { status, body: error_response(id, code, text, None).into() }
    }

    /// A request that is in order, but cannot be served.
    pub(super) fn because(status: StatusCode, id: Option<&Id>, reason: Reason, text: &str) -> Self {
        Self { status, body: reply(id, reason, text) }
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
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, POST, DELETE"));
        }
        response
    }
}

/// A response of one JSON text.
pub(super) fn json(body: Bytes) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::from(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
