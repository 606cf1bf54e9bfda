//! The body of an event stream.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use pin_project_lite::pin_project;
use thv_wire::sse;
use tokio::time::{Instant, Sleep, sleep};

use crate::body::BoxError;

/// Events that are ready are written together, up to about so many bytes.
const FRAME: usize = 64 * 1024;

/// Where events come from.
pub(super) trait Source {
    /// Appends one event as soon as there is one, and tells whether there was one: if not, there will be no more.
    fn poll_write(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<bool>;
}

pin_project! {
    /// An event stream. Comments keep it alive while there is nothing to say, and let a dead peer be noticed.
    pub(super) struct Events<S> {
        source: S,
        every: Duration,
        #[pin]
        quiet: Sleep,
        done: bool,
    }
}

impl<S: Source> Events<S> {
    /// A stream of all that comes from `source`, with a comment whenever it was quiet for so long.
    pub(super) fn new(source: S, every: Duration) -> Self {
        Self { source, every, quiet: sleep(every), done: false }
    }
}

impl<S: Source> Body for Events<S> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let mut out = Vec::new();
        while !*this.done && out.len() < FRAME {
            match this.source.poll_write(cx, &mut out) {
                Poll::Ready(more) => *this.done = !more,
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
