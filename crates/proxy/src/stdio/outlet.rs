//! The client's end of a stream: a POST that waits, or an event stream that runs.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use pin_project_lite::pin_project;
use thv_wire::sse;
use tokio::time::{Instant, Sleep, sleep};

use super::queue::{Item, Queue};
use super::session::Session;
use crate::body::BoxError;

/// Messages that are ready are written together, up to about so many bytes.
const FRAME: usize = 64 * 1024;

/// Reads a queue. When it is dropped, what it has not read goes back to the session.
#[derive(Debug)]
pub(super) struct Outlet {
    session: Arc<Session>,
    queue: Arc<Queue>,
    /// Was read, but not written.
    ahead: Option<Item>,
}

impl Outlet {
    pub(super) fn new(session: Arc<Session>, queue: Arc<Queue>) -> Self {
        Self { session, queue, ahead: None }
    }

    pub(super) async fn next(&self) -> Option<Item> {
        poll_fn(|cx| self.queue.poll_next(cx)).await
    }

    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        match self.ahead.take() {
            Some(item) => Poll::Ready(Some(item)),
            None => self.queue.poll_next(cx),
        }
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        self.session.close_outlet(&self.queue, self.ahead.take());
    }
}

pin_project! {
    /// An event stream. Comments keep it alive while there is nothing to say, and let a dead peer be noticed.
    pub(super) struct Events {
        outlet: Outlet,
        every: Duration,
        #[pin]
        quiet: Sleep,
        done: bool,
    }
}

impl Events {
    /// A stream of `first`, if there is one, and of all that comes after it.
    pub(super) fn new(first: Option<Item>, mut outlet: Outlet) -> Self {
        let every = outlet.session.options.keep_alive;
        outlet.ahead = first;
        Self { outlet, every, quiet: sleep(every), done: false }
    }
}

impl Body for Events {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let mut out = Vec::new();
        while !*this.done && out.len() < FRAME {
            match this.outlet.poll_item(cx) {
                Poll::Ready(Some(item)) => sse::encode(&mut out, None, None, &item.text),
                Poll::Ready(None) => *this.done = true,
                Poll::Pending => break,
            }
        }
        if out.is_empty() && !*this.done {
            if this.quiet.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            out.extend_from_slice(sse::KEEP_ALIVE);
        }
        if out.is_empty() {
            return Poll::Ready(None);
        }
        this.quiet.as_mut().reset(Instant::now() + *this.every);
        Poll::Ready(Some(Ok(Frame::data(out.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.done
    }
}
