//! Requests of the era without sessions (MCP 2026-07-28): each is a POST of its own, its reply holds all that belongs to
//! it, and nothing is ever taken up again. Whoever closes the reply has cancelled the request.

use bytes::Bytes;
use http::StatusCode;
use thv_wire::code::HEADER_MISMATCH;
use thv_wire::message::{Incoming, peek};
use thv_wire::modern::status::error_code;
use thv_wire::sse;

use crate::asked::NO_SESSION;
use crate::era::{About, Modern};
use crate::events::Next;
use crate::exchange::{Call, Reply};
use crate::failure::Failure;
use crate::finder::Route;
use crate::job::Job;
use crate::relay::Relay;
use crate::session::Session;

impl Relay {
    /// Posts a request and passes on what its reply holds.
    pub(crate) async fn post_modern(&self, job: &Job, modern: &Modern) -> Result<(), Failure> {
        let calls_tool = modern.about == About::ToolCall;
        let mut fields = if calls_tool { Some(self.param_fields(&job.body).await) } else { None };
        let wanted = |_: &Route| job.is_wanted();
        let mut again = calls_tool;
        loop {
            let mut headers = modern.headers.clone();
            headers.extend(fields.as_ref().map(|fields| fields.headers.clone()).unwrap_or_default());
            let post = self.post(&Session::default(), job.body.clone());
            let reply = self.pool.exchange(&Call { headers, wanted: &wanted, ..post }).await?;
            let status = reply.status;
            if status.is_success() {
                return if reply.is(sse::MEDIA_TYPE) {
                    self.receive_modern_stream(reply, job, modern).await
                } else {
                    let body = self.collect(reply).await?;
                    self.deliver_or_adopt(self.fit(&body, job, modern), job, NO_SESSION, None).await;
                    job.answered_or(Failure::Http { status, what: "no answer in it" })
                };
            }
            let body = self.error_body(reply).await;
            // A server that finds the headers wanting has not run the call: it is to be sent again with others
            // (`basic/transports/streamable-http`, "Client Behavior").
            if std::mem::take(&mut again)
                && status == StatusCode::BAD_REQUEST
                && body.as_ref().is_some_and(is_mismatch)
                && let Some(sent) = &fields
                && let Some(other) = self.other_param_fields(&job.body, sent).await
            {
                tracing::debug!("the tool is another than it was listed; its call is sent again");
                fields = Some(other);
                continue;
            }
            return self.relay_error(status, body, job, NO_SESSION).await;
        }
    }

    async fn receive_modern_stream(&self, reply: Reply, job: &Job, modern: &Modern) -> Result<(), Failure> {
        let mut events = self.events(reply.body);
        let mut torn_down = false;
        loop {
            match events.next().await {
                Next::Message(message) => {
                    torn_down |= modern.about == About::Listen && job.is_torn_down_by(&message);
                    self.deliver(self.fit(&message, job, modern), NO_SESSION, None).await;
                }
                Next::TooLarge(message, failure) => self.fail_skimmed(&message, &failure, NO_SESSION).await,
                Next::Endpoint(_) => {}
                // The server has said so, and an answer to what was cancelled is none (`basic/patterns/cancellation`).
                Next::End if torn_down => {
                    for expected in &job.expected {
                        self.pending.take_this(expected);
                    }
                    return Ok(());
                }
                Next::End => return job.answered_or(Failure::Lost),
            }
        }
    }

    /// A message of the reply as the client may see it.
    fn fit(&self, message: &Bytes, job: &Job, modern: &Modern) -> Bytes {
        let asked = job.expected.first().filter(|_| modern.about == About::Tools);
        asked.and_then(|asked| self.schemas.learn(message, &asked.id)).unwrap_or(message.clone())
    }
}

fn is_mismatch(body: &Bytes) -> bool {
    matches!(peek(body), Ok(Incoming::One(seen)) if error_code(&seen) == Some(HEADER_MISMATCH))
}
