//! The bodies, as they pass.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;

use super::endpoint::{EndpointScan, Step};
use super::fault::Fault;
use super::headers;
use super::pool::{Conn, Pool};
use super::report::Tally;
use crate::body::BoxError;

/// What became of a client's body, for the one who waits for the answer.
#[derive(Clone, Default)]
pub(super) struct Trouble(Arc<AtomicU8>);

const TOO_LARGE: u8 = 1;
const BROKEN: u8 = 2;
const WHOLE: u8 = 3;

impl Trouble {
    /// Whether the body has been taken to its end.
    pub(super) fn is_whole(&self) -> bool {
        self.0.load(Ordering::Acquire) == WHOLE
    }

    pub(super) fn fault(&self, limit: usize) -> Option<Fault> {
        match self.0.load(Ordering::Acquire) {
            TOO_LARGE => Some(Fault::TooLarge { limit, size: None }),
            BROKEN => Some(Fault::ClientBroke),
            _ => None,
        }
    }
}

pin_project! {
    /// A client's body on its way to the upstream. An error in it, its end at the limit among them, makes hyper close
    /// the upstream's connection before the body's end, so that no upstream takes it for whole.
    pub(super) struct Sent<B> {
        #[pin]
        body: B,
        left: u64,
        trouble: Trouble,
    }
}

impl<B> Sent<B> {
    pub(super) fn new(body: B, limit: usize, trouble: Trouble) -> Self {
        Self { body, left: limit as u64, trouble }
    }
}

impl<B> Body for Sent<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let frame = match ready!(this.body.as_mut().poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                this.trouble.0.store(BROKEN, Ordering::Release);
                return Poll::Ready(Some(Err(error.into())));
            }
            None => {
                this.trouble.0.store(WHOLE, Ordering::Release);
                return Poll::Ready(None);
            }
        };
        let mut frame = frame.map_data(|mut data| data.copy_to_bytes(data.remaining()));
        if let Some(data) = frame.data_ref() {
            let Some(left) = this.left.checked_sub(data.len() as u64) else {
                this.trouble.0.store(TOO_LARGE, Ordering::Release);
                return Poll::Ready(Some(Err("the message is over the limit".into())));
            };
            *this.left = left;
        } else if let Some(trailers) = frame.trailers_mut() {
            headers::trailers(trailers);
        }
        // Of a body with a length, nobody asks for what comes after the last byte.
        if this.body.is_end_stream() {
            this.trouble.0.store(WHOLE, Ordering::Release);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// When a stream is to end that would not do so by itself.
pub(super) type Ending = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The upstream's body on its way to the client. It owns the connection: at its end it gives it back, and when it is
/// dropped before, which is what happens when the client leaves, it closes it.
pub(super) struct Answer {
    incoming: Incoming,
    conn: Option<(Conn, Arc<Pool>)>,
    /// Until the endpoint is known.
    scan: Option<EndpointScan>,
    tally: Tally,
    /// Resolves when the proxy wants it to end.
    ending: Option<Ending>,
    /// The error that ends it, to be told at the next poll.
    error: Option<BoxError>,
    over: bool,
}

impl Answer {
    pub(super) fn new(incoming: Incoming, conn: Conn, pool: Arc<Pool>, tally: Tally) -> Self {
        let mut answer = Self {
            incoming,
            conn: Some((conn, pool)),
            scan: None,
            tally,
            ending: None,
            error: None,
            over: false,
        };
        if answer.incoming.is_end_stream() {
            answer.complete();
        }
        answer
    }

    /// Has the endpoint event rewritten.
    pub(super) fn scanned(self, scan: EndpointScan) -> Self {
        Self { scan: Some(scan), ..self }
    }

    /// Has it end when this resolves, if it has not by then.
    pub(super) fn until(self, ending: Ending) -> Self {
        Self { ending: Some(ending), ..self }
    }

    fn complete(&mut self) {
        if let Some((conn, pool)) = self.conn.take() {
            self.tally.complete();
            pool.give(conn);
        }
    }

    /// Ends with an error, but not yet: when hyper is told, it closes the client's connection with all that it has
    /// not flushed, and it flushes when there is nothing more at the moment. What the upstream did send goes on.
    fn fail(&mut self, fault: Fault, cx: &Context<'_>) {
        self.conn = None;
        self.tally.fail(&fault);
        self.error = Some(fault.into());
        cx.waker().wake_by_ref();
    }

    /// What may go on of these bytes.
    fn pass(&mut self, data: Bytes) -> Result<Bytes, Fault> {
        let Some(scan) = &mut self.scan else { return Ok(data) };
        match scan.feed(&data)? {
            Step::More(bytes) => Ok(bytes),
            Step::Done(bytes) => {
                self.scan = None;
                Ok(bytes)
            }
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(error) = self.error.take() {
            self.over = true;
            return Poll::Ready(Some(Err(error)));
        }
        if self.over {
            return Poll::Ready(None);
        }
        if self.ending.as_mut().is_some_and(|ending| ending.as_mut().poll(cx).is_ready()) {
            self.conn = None;
            self.over = true;
            self.tally.complete();
            return Poll::Ready(None);
        }
        loop {
            let mut frame = match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    self.fail(Fault::BrokenOff(error), cx);
                    return Poll::Pending;
                }
                None => {
                    self.complete();
                    return Poll::Ready(None);
                }
            };
            if let Some(trailers) = frame.trailers_mut() {
                headers::trailers(trailers);
                self.complete();
                return Poll::Ready(Some(Ok(frame)));
            }
            let Ok(data) = frame.into_data() else { continue };
            let data = match self.pass(data) {
                Ok(data) => data,
                Err(fault) => {
                    self.fail(fault, cx);
                    return Poll::Pending;
                }
            };
            // Whoever reads need not ask for more then.
            if self.incoming.is_end_stream() {
                self.complete();
            }
            if !data.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.over || (self.error.is_none() && self.incoming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        if self.scan.is_some() { SizeHint::default() } else { self.incoming.size_hint() }
    }
}
