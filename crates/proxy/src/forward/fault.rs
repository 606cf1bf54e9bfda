//! What can go wrong, and what the client is told.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use serde_json::json;
use thv_wire::code::{INVALID_REQUEST, Reason};
use thv_wire::message::error_response;

use super::connect::ConnectError;
use crate::body::ResponseBody;

/// Why a request was not forwarded, or its answer not passed on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// A method that is never forwarded: `CONNECT` is for proxies of another kind, and `TRACE` would show the client
    /// the fields that were added for the server.
    #[error("this method is not forwarded")]
    Method,
    /// A path that stands for nothing of the upstream's.
    #[error("no such endpoint")]
    Path,
    /// A body over the limit.
    #[error("the message is over the limit of {limit} bytes")]
    TooLarge {
        /// [`Options::max_message_bytes`](super::Options::max_message_bytes).
        limit: usize,
        /// The size that was announced, if one was.
        size: Option<u64>,
    },
    /// The client's body ended in the middle.
    #[error("the body ended in the middle")]
    ClientBroke,
    /// No connection.
    #[error("the server cannot be reached: {0}")]
    Connect(#[source] ConnectError),
    /// No connection in time.
    #[error("the server did not take the connection within {} s", .0.as_secs_f32())]
    ConnectTimeout(Duration),
    /// New connections are closed before a byte of the request could be sent.
    #[error("the server closes every connection before the request is sent")]
    HungUp,
    /// The connection ended before the head of the answer, after bytes of the request had been sent.
    #[error("the connection to the server was lost before it answered: the request may or may not have run")]
    Lost(#[source] hyper::Error),
    /// No head of an answer within [`Options::head_timeout`](super::Options::head_timeout).
    #[error("the server did not answer within {} s: the request may or may not have run", .0.as_secs_f32())]
    HeadTimeout(Duration),
    /// The answer is no HTTP, or its head is beyond the limits.
    #[error(
        "the server's answer is no HTTP response, or its head has more than 100 fields or too many bytes"
    )]
    BadHead(#[source] hyper::Error),
    /// A redirect to somewhere else. It is not followed, nor shown to clients, which would take their key there.
    #[error("the server redirects to another place ({0}), which is not followed")]
    ForeignRedirect(StatusCode),
    /// A 401 with our own challenge.
    #[error("the server refused with the challenge that only the proxy may give")]
    Impersonation,
    /// A switch of protocols that nobody asked for.
    #[error("the server switched protocols without being asked to")]
    Upgraded,
    /// An event stream that must be read, but is compressed.
    #[error("the server compresses its event stream although it was asked not to")]
    Encoded,
    /// The `endpoint` event names another host, or is none.
    #[error("the server's endpoint event names no path of its own")]
    ForeignEndpoint,
    /// The connection ended in the middle of the answer.
    #[error("the connection to the server was lost in the middle of its answer")]
    BrokenOff(#[source] hyper::Error),
}

impl Fault {
    /// The status of the response, where there can still be one.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Path => StatusCode::NOT_FOUND,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::ClientBroke => StatusCode::BAD_REQUEST,
            Self::ConnectTimeout(_) | Self::HeadTimeout(_) => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::BAD_GATEWAY,
        }
    }

    /// The reason that goes into `data.reason`; `None` for requests that break the rules.
    fn reason(&self) -> Option<Reason> {
        match self {
            Self::Method | Self::Path | Self::ClientBroke => None,
            Self::TooLarge { .. } => Some(Reason::TooLarge),
            Self::Connect(ConnectError::Stranger(_)) => Some(Reason::Stranger),
            Self::Connect(_) | Self::ConnectTimeout(_) | Self::HungUp => Some(Reason::NotRunning),
            Self::Lost(_) | Self::HeadTimeout(_) | Self::BrokenOff(_) => Some(Reason::ConnectionLost),
            Self::BadHead(_)
            | Self::ForeignRedirect(_)
            | Self::Impersonation
            | Self::Upgraded
            | Self::Encoded
            | Self::ForeignEndpoint => Some(Reason::UpstreamHttp),
        }
    }

    /// What the client is told: less than a log, since who holds a port is not its business.
    fn text(&self) -> String {
        match self {
            Self::Connect(ConnectError::Stranger(_)) => {
                "the server's port is held by another program, which gets nothing from here".to_owned()
            }
            _ => self.to_string(),
        }
    }

    /// The response. `advice` is added where the server is to blame. The error has no id: the request's is in a body
    /// that went by unread.
    pub(super) fn response(&self, advice: &str) -> Response<ResponseBody> {
        let mut text = self.text();
        let (code, data) = match self.reason() {
            None => (INVALID_REQUEST, None),
            Some(reason) => {
                let mut data = json!({ "reason": reason.as_str() });
                match self {
                    Self::TooLarge { limit, size } => {
                        data["limit"] = (*limit).into();
                        if let Some(size) = size {
                            data["size"] = (*size).into();
                        }
                    }
                    Self::ForeignRedirect(status) => data["httpStatus"] = status.as_u16().into(),
                    Self::Impersonation => data["httpStatus"] = 401.into(),
                    _ if reason == Reason::UpstreamHttp => data["httpStatus"] = self.status().as_u16().into(),
                    _ => {}
                }
                if reason != Reason::TooLarge && !advice.is_empty() {
                    text = format!("{text}. {advice}");
                }
                (reason.code(), Some(data))
            }
        };
        let body = Bytes::from(error_response(None, code, &text, data.as_ref()));
        let mut response = Response::new(ResponseBody::from(body));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if matches!(self, Self::Method) {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::Value;

    use super::*;

    #[tokio::test]
    async fn what_the_client_is_told() {
        let stranger = ConnectError::Stranger("pid 7 of uid 8".to_owned());
        let gone = ConnectError::Unreachable(std::io::ErrorKind::ConnectionRefused.into());
        for (fault, status, code, data) in [
            (Fault::Path, 404, -32600, Value::Null),
            (Fault::Method, 405, -32600, Value::Null),
            (
                Fault::TooLarge { limit: 5, size: Some(9) },
                413,
                -33006,
                json!({"reason": "too_large", "limit": 5, "size": 9}),
            ),
            (Fault::Connect(stranger), 502, -33003, json!({"reason": "stranger"})),
            (Fault::Connect(gone), 502, -33004, json!({"reason": "not_running"})),
            (Fault::ConnectTimeout(Duration::from_secs(10)), 504, -33004, json!({"reason": "not_running"})),
            (Fault::HeadTimeout(Duration::from_secs(10)), 504, -33002, json!({"reason": "connection_lost"})),
            (
                Fault::ForeignRedirect(StatusCode::FOUND),
                502,
                -33005,
                json!({"reason": "upstream_http", "httpStatus": 302}),
            ),
            (Fault::Upgraded, 502, -33005, json!({"reason": "upstream_http", "httpStatus": 502})),
        ] {
            let response = fault.response("Look at the log.");
            assert_eq!(response.status(), status, "{fault}");
            assert_eq!(response.headers().contains_key(ALLOW), status == 405);
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let text = String::from_utf8_lossy(&body);
            assert!(!text.contains("pid 7"), "{text}");
            assert_eq!(text.contains("Look at the log."), status > 500, "{text}");
            let value: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!((&value["id"], &value["error"]["code"]), (&Value::Null, &json!(code)), "{text}");
            assert_eq!(value["error"]["data"], data, "{text}");
        }
    }
}
