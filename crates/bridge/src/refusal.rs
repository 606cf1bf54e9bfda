//! HTTP errors: what they say, to whom, and whether it is that the session is over.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::StatusCode;
use thv_wire::message::{Id, Incoming, Kind, peek};
use thv_wire::modern::status::error_code;
use tokio::time::timeout;

use crate::exchange::Reply;
use crate::failure::Failure;
use crate::job::Job;
use crate::relay::{Initialize, Relay};
use crate::session::Session;

/// The longest body of an HTTP error that is looked at.
const MAX_ERROR: usize = 1024 * 1024;

/// How long it may take to come.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest text that is no message and is looked at for what it speaks of.
const MAX_TEXT: usize = 200;

/// JSON-RPC's first code for errors of a server's own making, with which the TypeScript SDK's servers refuse a session.
const SERVER_ERROR: i64 = -32000;

/// A reply, looked at for what it says of the session.
pub(crate) enum Weighed {
    /// Nothing.
    Reply(Reply),
    /// An HTTP error to a message of a session. If the session is lost, nothing was run.
    Error { status: StatusCode, body: Option<Bytes>, is_lost: bool },
}

impl Weighed {
    /// Whether it says that the session is over.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(self, Self::Error { is_lost: true, .. })
    }
}

impl Relay {
    pub(crate) async fn receive_error(&self, reply: Reply, job: &Job, life: u64) -> Result<(), Failure> {
        let status = reply.status;
        let body = self.error_body(reply).await;
        self.relay_error(status, body, job, life).await
    }

    /// The body of an HTTP error. One that is too long, breaks off or does not end is none: the status is known and says
    /// enough.
    pub(crate) async fn error_body(&self, reply: Reply) -> Option<Bytes> {
        let limit = MAX_ERROR.min(self.options.max_answer_bytes);
        timeout(PATIENCE, reply.body.collect(limit, &self.room)).await.ok()?.ok()
    }

    /// Tells from a reply whether the session that the message named is over.
    pub(crate) async fn weigh(&self, reply: Reply, session: &Session) -> Weighed {
        let status = reply.status;
        if session.id.is_none() || ![StatusCode::NOT_FOUND, StatusCode::BAD_REQUEST].contains(&status) {
            return Weighed::Reply(reply);
        }
        let body = self.error_body(reply).await;
        let is_lost = status == StatusCode::NOT_FOUND || body.as_deref().is_some_and(speaks_of_session);
        Weighed::Error { status, body, is_lost }
    }

    pub(crate) async fn relay_error(
        &self,
        status: StatusCode,
        body: Option<Bytes>,
        job: &Job,
        life: u64,
    ) -> Result<(), Failure> {
        if let Some(body) = body {
            self.deliver_or_adopt(body, job, life, None).await;
        }
        job.answered_or(Failure::Http { status, what: "" })
    }

    /// Delivers a body. An error in it under no id, or a stranger's, is about the request that it replies to:
    /// a server that could not or would not read the request has no better id to give.
    pub(crate) async fn deliver_or_adopt(
        &self,
        body: Bytes,
        job: &Job,
        life: u64,
        initialize: Option<&Initialize>,
    ) {
        if body.is_empty() {
            return;
        }
        let error = match peek(&body) {
            Ok(Incoming::One(seen)) if seen.kind == Kind::Response => {
                let is_ours = seen.id.is_some_and(|id| job.expected.iter().any(|expected| expected.id == id));
                seen.error.filter(|_| !is_ours).map(|error| body.slice_ref(error.get().as_bytes()))
            }
            _ => None,
        };
        let Some(error) = error else { return self.deliver(body, life, initialize).await };
        for expected in &job.expected {
            self.refuse(expected, with_id(&expected.id, &error)).await;
        }
    }
}

/// Whether this is why a server says 400 where 404 is meant, as many do (`server-everything` and the examples of the
/// TypeScript SDK: "No valid session ID provided"): an error that is about no request, or of the server's own making,
/// or a plain text, and speaks of the session.
fn speaks_of_session(body: &[u8]) -> bool {
    let words = match peek(body) {
        Ok(Incoming::One(seen)) => {
            let is_about_none = seen.id.as_ref().is_none_or(Id::is_null);
            match seen.error {
                Some(error) if is_about_none || error_code(&seen) == Some(SERVER_ERROR) => error.get(),
                _ => return false,
            }
        }
        Ok(Incoming::Batch(_)) => return false,
        Err(_) if body.len() > MAX_TEXT => return false,
        Err(_) => std::str::from_utf8(body).unwrap_or_default(),
    };
    words.to_ascii_lowercase().contains("session")
}

/// An error response of the server's under another id; the error itself as it came.
fn with_id(id: &Id, error: &[u8]) -> Bytes {
    let mut answer = BytesMut::with_capacity(error.len() + id.as_json().len() + 40);
    answer.put_slice(br#"{"jsonrpc":"2.0","id":"#);
    answer.put_slice(id.as_json().as_bytes());
    answer.put_slice(br#","error":"#);
    answer.put_slice(error);
    answer.put_u8(b'}');
    thv_wire::lines::to_line(answer.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_400_that_speaks_of_the_session_and_one_that_does_not() {
        let message = "Bad Request: No valid session ID provided";
        for (body, expect) in [
            (
                format!(r#"{{"jsonrpc":"2.0","error":{{"code":-32000,"message":"{message}"}},"id":null}}"#),
                true,
            ),
            (format!(r#"{{"jsonrpc":"2.0","error":{{"code":-32600,"message":"{message}"}}}}"#), true),
            (format!(r#"{{"jsonrpc":"2.0","error":{{"code":-32000,"message":"{message}"}},"id":7}}"#), true),
            (message.to_owned(), true),
            (format!(r#"{{"jsonrpc":"2.0","error":{{"code":-32602,"message":"{message}"}},"id":7}}"#), false),
            (r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"no"},"id":null}"#.to_owned(), false),
            (r#"{"jsonrpc":"2.0","result":"session","id":7}"#.to_owned(), false),
            (format!("{message}{}", " ".repeat(MAX_TEXT)), false),
            (String::new(), false),
        ] {
            assert_eq!(speaks_of_session(body.as_bytes()), expect, "{body}");
        }
    }

    #[test]
    fn an_adopted_error_keeps_its_bytes() {
        let answer =
            with_id(&Id::string("a\"b"), b"{\"code\": -32601,\n\"message\":\"\\u0041\",\"data\":1.0}");
        assert_eq!(
            &answer[..],
            br#"{"jsonrpc":"2.0","id":"a\"b","error":{"code": -32601, "message":"\u0041","data":1.0}}"#
        );
    }
}
