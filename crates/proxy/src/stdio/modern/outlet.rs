//! The caller's end of a request: a POST that waits, or an event stream that runs.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::task::{Context, Poll, ready};

use http::{Response, StatusCode};
use thv_wire::sse;
use tokio::time::timeout;

use super::super::events::{Events, Source};
use super::super::queue::{Queue, What};
use super::super::respond::{events, json};
use super::worker::Worker;
use crate::body::ResponseBody;

/// Where the messages of one request go.
#[derive(Debug)]
pub(in super::super) struct Reply {
    pub(super) queue: Queue,
    /// The status of a response that is the answer alone.
    status: AtomicU16,
}

impl Default for Reply {
    fn default() -> Self {
        Self { queue: Queue::new(1), status: AtomicU16::new(StatusCode::OK.as_u16()) }
    }
}

impl Reply {
    pub(super) fn set_status(&self, status: StatusCode) {
        self.status.store(status.as_u16(), Ordering::Relaxed);
    }
}

/// Reads the messages of one request. When it is dropped before the answer, the request is cancelled.
#[derive(Debug)]
pub(in super::super) struct Outlet {
    worker: Arc<Worker>,
    reply: Arc<Reply>,
    number: u64,
}

impl Outlet {
    pub(super) fn new(worker: Arc<Worker>, reply: Arc<Reply>, number: u64) -> Self {
        Self { worker, reply, number }
    }
}

impl Source for Outlet {
    fn poll_write(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<bool> {
        let what = ready!(self.reply.queue.poll_what(0, cx));
        let Some(item) = what.and_then(|_| self.reply.queue.take(0)) else { return Poll::Ready(false) };
        // Without an id: these streams cannot be taken up again.
        sse::encode(out, None, None, &item.text);
        Poll::Ready(true)
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        self.worker.close_outlet(self.number);
    }
}

/// Waits for the first message, which decides what the response is. It is an event stream too when there is none for
/// long, so that the caller can tell a quiet server from a dead one, and can close it to cancel.
pub(in super::super) async fn respond(outlet: Outlet) -> Response<ResponseBody> {
    let every = outlet.worker.link.options.keep_alive;
    let first = timeout(every, poll_fn(|cx| outlet.reply.queue.poll_what(0, cx))).await;
    if let Ok(Some(What::Answer)) = first
        && let Some(item) = outlet.reply.queue.take(0)
    {
        let mut response = json(item.text);
        let status = outlet.reply.status.load(Ordering::Relaxed);
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
        return response;
    }
    events(Events::new(outlet, every))
}
