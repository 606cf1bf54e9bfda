//! Responses of the host that are no refusals.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use thv_wire::sse;

use super::events::{Events, Source};
use crate::body::ResponseBody;

/// Asks proxies of one kind not to hold events back (MCP 2026-07-28, `basic/transports/streamable-http`, "Receiving
/// Messages").
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// A response of one JSON text.
pub(super) fn json(body: Bytes) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::from(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A response that is an event stream.
pub(super) fn events<S: Source + Send + 'static>(events: Events<S>) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::streamed(events));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(sse::MEDIA_TYPE));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

/// 202: a message without an answer was taken.
pub(super) fn accepted() -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::default());
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}
