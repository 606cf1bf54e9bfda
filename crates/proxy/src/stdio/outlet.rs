//! The client's end of a session's stream: a POST that waits, or an event stream that runs.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use thv_wire::sse;

use super::events::Source;
use super::queue::{Item, What};
use super::replay::EventId;
use super::session::Session;
use super::streams::Stream;

/// How long a client is asked to wait before it takes up a stream again.
const RETRY: Duration = Duration::from_secs(1);

/// Reads a stream. When it is dropped, what it has not read goes back to the session.
#[derive(Debug)]
pub(super) struct Outlet {
    session: Arc<Session>,
    stream: Arc<Stream>,
    turn: u64,
    /// What was sent on an earlier connection and did not arrive.
    backlog: VecDeque<(EventId, Bytes)>,
    /// A priming event is still to be sent.
    primes: bool,
}

impl Outlet {
    pub(super) fn new(session: Arc<Session>, stream: Arc<Stream>, turn: u64) -> Self {
        Self { session, stream, turn, backlog: VecDeque::new(), primes: true }
    }

    /// Takes up a stream where an earlier connection has left it.
    pub(super) fn resumed(mut self, backlog: VecDeque<(EventId, Bytes)>) -> Self {
        self.backlog = backlog;
        // A priming event has a later id than the backlog: whoever broke off after it would lose the backlog.
        self.primes = false;
        self
    }

    /// Waits for the next message and tells what it is; `None` if there will be none.
    pub(super) async fn what(&self) -> Option<What> {
        poll_fn(|cx| self.stream.queue.poll_what(self.turn, cx)).await
    }

    /// Takes the next message as the only one there is, without an event's id.
    pub(super) fn take(&self) -> Option<Item> {
        self.stream.queue.take(self.turn)
    }

    /// Nothing was said, and nothing will be: there is nothing to come back for.
    pub(super) fn without_priming(mut self) -> Self {
        self.primes = false;
        self
    }

    pub(super) fn keep_alive(&self) -> Duration {
        self.session.link.options.keep_alive
    }
}

impl Source for Outlet {
    fn poll_write(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<bool> {
        if std::mem::take(&mut self.primes)
            && let Some(id) = self.session.prime(&self.stream)
        {
            sse::encode_prime(out, &id.to_string(), RETRY);
            return Poll::Ready(true);
        }
        let (id, text) = match self.backlog.pop_front() {
            Some(event) => event,
            None => {
                if ready!(self.stream.queue.poll_what(self.turn, cx)).is_none() {
                    return Poll::Ready(false);
                }
                let Some(event) = self.session.next_event(&self.stream, self.turn) else {
                    return Poll::Ready(false);
                };
                event
            }
        };
        sse::encode(out, None, Some(&id.to_string()), &text);
        Poll::Ready(true)
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        self.session.close_outlet(&self.stream, self.turn);
    }
}
