//! Connections to the upstream: lent to one request at a time, kept while idle.
//!
//! Nothing here repeats a request. A connection that is dropped is closed at once, whatever is under way on it: that
//! is how the upstream learns that its client has left.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::connect::Connected;
use super::reference::Site;
use crate::body::ResponseBody;

/// What hyper may buffer of one connection, in bytes, each way.
const MAX_BUFFER: usize = 128 * 1024;

/// The least that is left of the time for which an upstream said that it keeps an idle connection, so that a request
/// does not meet its end.
const MARGIN: Duration = Duration::from_secs(1);

/// One connection. Dropping it closes it.
pub(super) struct Conn {
    sender: SendRequest<ResponseBody>,
    task: AbortHandle,
    deaf: Arc<AtomicBool>,
    /// The value of the key's field for this connection.
    pub(super) key: Option<HeaderValue>,
    /// The upstream as it is at the other end.
    pub(super) site: Arc<Site>,
    /// How long the upstream keeps it idle, as its last answer said.
    pub(super) kept: Option<Duration>,
}

impl Conn {
    pub(super) async fn open<S>(
        connected: Connected<S>,
        site: Arc<Site>,
        max_head_bytes: usize,
    ) -> Result<Self, hyper::Error>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let deaf = Arc::new(AtomicBool::new(false));
        let io = TokioIo::new(Deaf { stream: connected.stream, deaf: Arc::clone(&deaf) });
        let (sender, connection) = http1::Builder::new()
            .max_header_size(max_head_bytes)
            .max_buf_size(MAX_BUFFER)
            .handshake(io)
            .await?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to the upstream ended");
            }
        });
        Ok(Self { sender, task: task.abort_handle(), deaf, key: connected.key, site, kept: None })
    }

    /// Sends a request, once. An error that gives the request back says that no byte of it was written.
    pub(super) async fn send(
        &mut self,
        request: Request<ResponseBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<ResponseBody>>> {
        self.sender.try_send_request(request).await
    }

    fn is_over(&self) -> bool {
        self.sender.is_closed() || self.deaf.load(Ordering::Relaxed)
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The idle connections.
pub(super) struct Pool {
    idle: Mutex<Idle>,
    timeout: Duration,
    max: usize,
}

#[derive(Default)]
struct Idle {
    /// The one that came back last at the end.
    conns: VecDeque<(Instant, Conn)>,
    has_reaper: bool,
}

impl Pool {
    pub(super) fn new(timeout: Duration, max: usize) -> Self {
        Self { idle: Mutex::default(), timeout, max }
    }

    /// An idle connection, if there is one that is ready.
    pub(super) async fn take(&self) -> Option<Conn> {
        if self.idle().conns.is_empty() {
            return None;
        }
        // A task that yields runs again after the runtime has looked at its sockets: a connection that the other side
        // has closed by now is known to be closed, and no request is lost on it.
        tokio::task::yield_now().await;
        let now = Instant::now();
        let mut idle = self.idle();
        idle.conns.retain(|(until, conn)| *until > now && !conn.is_over());
        // One that is still busy with the end of its last request is left to finish.
        let ready = idle.conns.iter().rposition(|(_, conn)| conn.sender.is_ready())?;
        idle.conns.remove(ready).map(|(_, conn)| conn)
    }

    /// Takes a connection back whose answer was read to its end.
    pub(super) fn give(self: &Arc<Self>, conn: Conn) {
        let kept = conn.kept.map_or(self.timeout, |kept| kept.saturating_sub(MARGIN).min(self.timeout));
        if conn.is_over() || kept.is_zero() {
            return;
        }
        let mut idle = self.idle();
        idle.conns.push_back((Instant::now() + kept, conn));
        let surplus = (idle.conns.len() > self.max).then(|| idle.conns.pop_front());
        if !std::mem::replace(&mut idle.has_reaper, true) {
            tokio::spawn(reap(Arc::downgrade(self), self.timeout));
        }
        drop(idle);
        drop(surplus);
    }

    /// Closes all idle connections.
    pub(super) fn clear(&self) {
        let conns = std::mem::take(&mut self.idle().conns);
        drop(conns);
    }

    pub(super) fn len(&self) -> usize {
        self.idle().conns.len()
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes connections whose time is up, until there are none.
async fn reap(pool: Weak<Pool>, timeout: Duration) {
    loop {
        tokio::time::sleep(timeout).await;
        let Some(pool) = pool.upgrade() else { return };
        let now = Instant::now();
        let mut idle = pool.idle();
        idle.conns.retain(|(until, conn)| *until > now && !conn.is_over());
        if idle.conns.is_empty() {
            idle.has_reaper = false;
            return;
        }
    }
}

/// A stream that takes writes for granted once the other side has stopped to listen.
///
/// A server may answer before it has read the whole request, and close. Then a write fails while the answer waits to
/// be read, and hyper would give up on both. So the failure is kept from hyper, which reads the answer, or the error.
struct Deaf<S> {
    stream: S,
    deaf: Arc<AtomicBool>,
}

impl<S> Deaf<S> {
    fn is_deaf(&self) -> bool {
        self.deaf.load(Ordering::Relaxed)
    }

    fn forgive<T>(&self, outcome: Poll<io::Result<T>>, instead: T) -> Poll<io::Result<T>> {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
        match outcome {
            Poll::Ready(Err(error))
                if matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset) =>
            {
                tracing::debug!(%error, "the upstream does not listen any more");
                self.deaf.store(true, Ordering::Relaxed);
                Poll::Ready(Ok(instead))
            }
            outcome => outcome,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Deaf<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Deaf<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_deaf() {
            return Poll::Ready(Ok(buf.len()));
        }
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.forgive(outcome, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = bufs.iter().map(|buf| buf.len()).sum();
        if self.is_deaf() {
            return Poll::Ready(Ok(all));
        }
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.forgive(outcome, all)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_deaf() {
            return Poll::Ready(Ok(()));
        }
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        self.forgive(outcome, ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
