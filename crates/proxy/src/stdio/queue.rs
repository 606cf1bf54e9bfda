//! The messages that wait for one response stream.
//!
//! A queue has one reader at a time, the stream, and is bounded by bytes and by count: a writer waits for room, so
//! that a client that does not read stops its own server and nothing else. A reader that goes may be followed by
//! another, and one that is still there may be replaced: then it sees the end.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

/// A queue takes messages until it holds so many bytes. One message always fits.
const MAX_BYTES: usize = 1024 * 1024;
/// The most messages that a queue holds.
const MAX_ITEMS: usize = 256;

/// A message of the server on its way to the client.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) text: Bytes,
    pub(super) what: What,
}

/// What a message is to the stream that carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// The answer that this stream was opened for.
    Answer,
    /// A request of the server. The server waits, so it must reach the client.
    Request,
    /// Anything else.
    Notification,
}

#[derive(Debug)]
pub(super) struct Queue(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    items: VecDeque<Item>,
    bytes: usize,
    /// The answers that are still to come.
    awaited: usize,
    /// No more comes in. The reader takes what is left.
    finished: bool,
    /// Nothing comes in for now: there is no reader, or a younger stream takes what it would.
    shut: bool,
    /// How many readers there were before.
    turn: u64,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Queue {
    /// A queue for a stream that ends after so many answers, or never by itself if that is zero.
    pub(super) fn new(awaited: usize) -> Self {
        Self(Mutex::new(Inner { awaited, ..Inner::default() }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a message that is put in could still be read.
    pub(super) fn is_live(&self) -> bool {
        self.lock().takes()
    }

    /// Whether nothing is left, and nothing will come in.
    pub(super) fn is_over(&self) -> bool {
        let inner = self.lock();
        inner.finished && inner.items.is_empty()
    }

    /// Puts the message in as soon as there is room. It stays in the slot if nobody will read it, or if the
    /// future is dropped before.
    pub(super) async fn push(&self, slot: &mut Option<Item>) {
        std::future::poll_fn(|cx| {
            let mut inner = self.lock();
            if inner.takes()
                && let Some(item) = slot.take_if(|item| !inner.is_full(item))
            {
                inner.put(item);
            }
            if !inner.takes() || slot.is_none() {
                return Poll::Ready(());
            }
            inner.writer = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Puts a message in although there may be no room. It is given back if nobody will read it.
    pub(super) fn put(&self, item: Item) -> Result<(), Item> {
        let mut inner = self.lock();
        if !inner.takes() {
            return Err(item);
        }
        inner.put(item);
        Ok(())
    }

    /// One answer less to wait for: it was put in, or will never come.
    pub(super) fn settle(&self) {
        let mut inner = self.lock();
        inner.awaited = inner.awaited.saturating_sub(1);
        if inner.awaited == 0 {
            inner.finish();
        }
    }

    /// No more will come.
    pub(super) fn finish(&self) {
        self.lock().finish();
    }

    /// What the next message is to the reader whose turn it is; `None` after the last, or if it is another's turn.
    pub(super) fn poll_what(&self, turn: u64, cx: &mut Context<'_>) -> Poll<Option<What>> {
        let mut inner = self.lock();
        if inner.turn != turn {
            return Poll::Ready(None);
        }
        if let Some(item) = inner.items.front() {
            return Poll::Ready(Some(item.what));
        }
        if inner.finished {
            return Poll::Ready(None);
        }
        if inner.reader.as_ref().is_none_or(|reader| !reader.will_wake(cx.waker())) {
            inner.reader = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Takes the next message, if it is this reader's turn and there is one.
    pub(super) fn take(&self, turn: u64) -> Option<Item> {
        let mut inner = self.lock();
        let item = if inner.turn == turn { inner.items.pop_front() } else { None }?;
        inner.bytes -= item.text.len();
        if let Some(writer) = inner.writer.take() {
            writer.wake();
        }
        Some(item)
    }

    /// A reader goes whose turn it is. What it has not read is returned, and nothing comes in until there is
    /// another. `None` if it was not its turn any more.
    pub(super) fn leave(&self, turn: u64) -> Option<VecDeque<Item>> {
        let mut inner = self.lock();
        (inner.turn == turn).then(|| inner.shut())
    }

    /// Lets nothing in for now, although there is a reader. What it has not read is returned.
    pub(super) fn shut(&self) -> VecDeque<Item> {
        self.lock().shut()
    }

    /// Lets messages in again.
    pub(super) fn open(&self) {
        self.lock().shut = false;
    }

    /// Gives a new reader its turn.
    pub(super) fn next_turn(&self) -> u64 {
        let mut inner = self.lock();
        inner.turn += 1;
        inner.shut = false;
        if let Some(reader) = inner.reader.take() {
            reader.wake();
        }
        inner.turn
    }
}

impl Inner {
    fn takes(&self) -> bool {
        !self.finished && !self.shut
    }

    fn shut(&mut self) -> VecDeque<Item> {
        self.shut = true;
        self.bytes = 0;
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
        std::mem::take(&mut self.items)
    }

    fn is_full(&self, next: &Item) -> bool {
        let bytes = self.bytes + next.text.len();
        !self.items.is_empty() && (bytes > MAX_BYTES || self.items.len() >= MAX_ITEMS)
    }

    fn put(&mut self, item: Item) {
        self.bytes += item.text.len();
        self.items.push_back(item);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn finish(&mut self) {
        self.finished = true;
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;

    use super::*;

    fn item(text: &str) -> Item {
        Item { text: Bytes::copy_from_slice(text.as_bytes()), what: What::Notification }
    }

    async fn next(queue: &Queue) -> Option<Bytes> {
        poll_fn(|cx| queue.poll_what(0, cx)).await?;
        queue.take(0).map(|item| item.text)
    }

    #[tokio::test]
    async fn ends_after_the_last_answer() {
        let queue = Queue::new(2);
        queue.put(item("a")).unwrap();
        queue.settle();
        queue.put(item("b")).unwrap();
        queue.settle();
        assert!(queue.put(item("c")).is_err());
        let mut late = Some(item("c"));
        queue.push(&mut late).await;
        assert!(late.is_some());
        assert_eq!(next(&queue).await.unwrap(), "a");
        assert_eq!(next(&queue).await.unwrap(), "b");
        assert_eq!(next(&queue).await, None);
    }

    #[tokio::test]
    async fn a_writer_waits_for_the_reader() {
        let queue = Arc::new(Queue::new(0));
        let big = Item { text: Bytes::from(vec![0; 2 * MAX_BYTES]), what: What::Request };
        queue.push(&mut Some(big)).await;
        let writer = tokio::spawn({
            let queue = Arc::clone(&queue);
            async move { queue.push(&mut Some(item("next"))).await }
        });
        tokio::task::yield_now().await;
        assert!(!writer.is_finished());
        assert_eq!(next(&queue).await.unwrap().len(), 2 * MAX_BYTES);
        writer.await.unwrap();
        assert_eq!(next(&queue).await.unwrap(), "next");
    }

    #[tokio::test]
    async fn what_was_not_read_comes_back() {
        let queue = Arc::new(Queue::new(0));
        for _ in 0..MAX_ITEMS {
            queue.push(&mut Some(item("x"))).await;
        }
        let writer = tokio::spawn({
            let queue = Arc::clone(&queue);
            async move {
                let mut slot = Some(item("waiting"));
                queue.push(&mut slot).await;
                slot
            }
        });
        tokio::task::yield_now().await;
        assert_eq!(queue.leave(0).unwrap().len(), MAX_ITEMS);
        assert_eq!(writer.await.unwrap().unwrap().text, "waiting");
        assert!(!queue.is_live());
    }

    #[tokio::test]
    async fn a_reader_waits_for_the_writer() {
        let queue = Arc::new(Queue::new(1));
        let reader = tokio::spawn({
            let queue = Arc::clone(&queue);
            async move { (next(&queue).await, next(&queue).await) }
        });
        tokio::task::yield_now().await;
        queue.push(&mut Some(item("a"))).await;
        tokio::task::yield_now().await;
        queue.settle();
        assert_eq!(reader.await.unwrap(), (Some(Bytes::from_static(b"a")), None));
    }

    #[tokio::test]
    async fn a_reader_that_is_replaced_sees_the_end_and_takes_nothing() {
        let queue = Arc::new(Queue::new(0));
        let old = tokio::spawn({
            let queue = Arc::clone(&queue);
            async move { next(&queue).await }
        });
        tokio::task::yield_now().await;
        let turn = queue.next_turn();
        assert_eq!(old.await.unwrap(), None);
        queue.put(item("a")).unwrap();
        assert!(queue.take(0).is_none());
        assert!(queue.leave(0).is_none());
        assert_eq!(queue.take(turn).unwrap().text, "a");
    }

    #[tokio::test]
    async fn while_it_is_shut_nothing_comes_in_and_its_reader_waits() {
        let queue = Queue::new(0);
        queue.put(item("a")).unwrap();
        assert_eq!(queue.shut().len(), 1);
        assert!(!queue.is_live() && queue.put(item("b")).is_err());
        assert!(poll_fn(|cx| Poll::Ready(queue.poll_what(0, cx))).await.is_pending());
        queue.open();
        queue.put(item("c")).unwrap();
        assert_eq!(next(&queue).await.unwrap(), "c");
        queue.leave(0).unwrap();
        assert!(!queue.is_live());
        let turn = queue.next_turn();
        assert!(queue.is_live());
        queue.put(item("d")).unwrap();
        assert_eq!(queue.take(turn).unwrap().text, "d");
    }
}
