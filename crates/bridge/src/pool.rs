//! Connections to the workload: made, proved, lent to one request at a time, kept while idle.
//!
//! A connection belongs to the route on which it was made, and the route's key travels on it alone. Nothing
//! here repeats a request.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use crate::backoff::Backoff;
use crate::dial::{DialError, dial};
use crate::failure::Failure;
use crate::finder::{Finder, Route};
use crate::target::{Locate, Why};

/// How long a connection is kept idle. Half of what a supervisor waits for the next request's header, so that
/// a request hardly ever meets a connection that is just being closed.
const IDLE: Duration = Duration::from_secs(5);

/// How many connections are made at once. A supervisor caps those that have not shown a key yet.
const MAX_DIALING: usize = 16;

/// How long a connection that came back may take until it is ready for the next request.
const SETTLE: Duration = Duration::from_millis(50);

/// The pauses between further attempts at an address that was named again and takes no connections: a supervisor
/// that is coming up, or one that is just ending.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);

/// How many such attempts there are, before and again after asking for the last time where the workload is.
const ATTEMPTS: u32 = 4;

/// How often one connection may ask where the workload is because nobody could be reached.
const MAX_ASKED: u32 = 2;

/// What may be done to get a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    /// Ask where the workload is as often as needed; that may start it.
    Follow,
    /// Ask where it is, and do not have it started: neither a background stream nor a notification is a reason to.
    Look,
    /// Do not ask where it is if nobody listens.
    Stay,
}

impl Effort {
    /// How to put a question that one with a request would put as `why`.
    pub(crate) fn why(self, why: Why) -> Why {
        if self == Self::Follow { why } else { Why::Look }
    }
}

/// All connections of one relay.
pub(crate) struct Pool {
    pub(crate) finder: Finder,
    /// The one that came back last at the end. No more than were ever in use at once.
    idle: Mutex<VecDeque<(Instant, Conn)>>,
    dialing: Semaphore,
}

/// A connection that may be sent a request: proved, if its route has a key.
pub(crate) struct Conn {
    pub(crate) route: Arc<Route>,
    sender: SendRequest<Full<Bytes>>,
    written: Arc<AtomicU64>,
}

impl Conn {
    async fn open(stream: TcpStream, route: Arc<Route>) -> Result<Self, hyper::Error> {
        let written = Arc::new(AtomicU64::new(0));
        let io = TokioIo::new(Counted { stream, written: Arc::clone(&written) });
        let (sender, connection) = http1::handshake(io).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
        });
        Ok(Self { route, sender, written })
    }

    /// Sends a request, once. The error tells whether any byte of it went out.
    pub(crate) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, SendError> {
        let before = self.written.load(Ordering::Acquire);
        self.sender.try_send_request(request).await.map_err(|error| {
            let sent = self.written.load(Ordering::Acquire) != before;
            tracing::debug!(sent, error = %error.error(), "request failed");
            if sent { SendError::Sent } else { SendError::NotSent }
        })
    }
}

/// How a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendError {
    /// Before any byte of it was written: it certainly did not run.
    NotSent,
    /// After bytes of it were written: it may have run.
    Sent,
}

impl Pool {
    pub(crate) fn new(locate: impl Locate) -> Self {
        Self { finder: Finder::new(locate), idle: Mutex::default(), dialing: Semaphore::new(MAX_DIALING) }
    }

    /// An idle connection, or a new one.
    pub(crate) async fn take(&self, effort: Effort) -> Result<Conn, Failure> {
        if let Some(conn) = self.take_idle().await {
            return Ok(conn);
        }
        // The semaphore is never closed.
        let _turn = self.dialing.acquire().await;
        // One may have come back while this request waited for its turn.
        if let Some(conn) = self.take_idle().await {
            return Ok(conn);
        }
        self.connect(effort).await
    }

    /// Takes a connection back whose answer was read to its end.
    pub(crate) fn give_back(&self, conn: Conn) {
        if conn.sender.is_closed() || conn.route.generation != self.finder.generation() {
            return;
        }
        let mut idle = self.idle();
        while idle.front().is_some_and(|(since, _)| since.elapsed() > IDLE) {
            idle.pop_front();
        }
        idle.push_back((Instant::now(), conn));
    }

    /// Makes a connection before there is a request, for the first one to find.
    ///
    /// The workload is started for it as for a client that is about to speak, once. When that answer does not hold, as
    /// of a supervisor that is just being ended, nobody waits who would have it started again.
    pub(crate) async fn warm_up(&self) {
        let _turn = self.dialing.acquire().await;
        let conn = async {
            let before = self.finder.generation();
            let route = self.finder.route().await?;
            let is_news = route.generation > before;
            self.connect_on(route, is_news, Effort::Look).await
        };
        match conn.await {
            Ok(conn) => self.give_back(conn),
            Err(error) => tracing::debug!(%error, "no connection yet"),
        }
    }

    /// Drops all idle connections: one of them turned out to be dead.
    pub(crate) fn drop_idle(&self) {
        self.idle().clear();
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<(Instant, Conn)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn take_idle(&self) -> Option<Conn> {
        if self.idle().is_empty() {
            return None;
        }
        // A task that yields runs again after the runtime has looked at its sockets: a connection that the
        // other side has closed by now is known to be closed, and no request is lost on it.
        tokio::task::yield_now().await;
        loop {
            let (since, mut conn) = self.idle().pop_back()?;
            let current = conn.route.generation == self.finder.generation();
            if !current || since.elapsed() > IDLE || conn.sender.is_closed() {
                continue;
            }
            if let Ok(Ok(())) = timeout(SETTLE, conn.sender.ready()).await {
                return Some(conn);
            }
        }
    }

    async fn connect(&self, effort: Effort) -> Result<Conn, Failure> {
        let before = self.finder.generation();
        let route = match effort {
            Effort::Follow => self.finder.route().await?,
            Effort::Look => match self.finder.known().await {
                Some(route) => route,
                None => self.finder.ask(Why::Look, before).await?,
            },
            Effort::Stay => self.finder.known().await.ok_or(Failure::Withdrawn)?,
        };
        let is_news = route.generation > before;
        self.connect_on(route, is_news, effort).await
    }

    /// Connects by this route, or by those that are named instead. `is_news` says that it was named just now.
    async fn connect_on(
        &self,
        mut route: Arc<Route>,
        mut is_news: bool,
        effort: Effort,
    ) -> Result<Conn, Failure> {
        let ask = |why, seen| self.finder.ask(effort.why(why), seen);
        let mut reread = false;
        let max_asked = match effort {
            Effort::Follow => MAX_ASKED,
            Effort::Look => 1,
            Effort::Stay => 0,
        };
        let mut asked = 0;
        // There is time for a supervisor to come up only if somebody waits for it.
        let max_attempts = if effort == Effort::Follow { ATTEMPTS } else { 0 };
        let mut attempts = 0;
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            // No proof would tell a stranger at its port from the workload: that it lives is asked each time.
            if route.key.is_none() && !std::mem::take(&mut is_news) {
                match self.finder.confirm().await {
                    Ok(found) => route = found,
                    Err(error) if asked == max_asked || effort != Effort::Follow => return Err(error.into()),
                    Err(_) => {
                        asked += 1;
                        route = ask(Why::Unreachable, route.generation).await?;
                    }
                }
            }
            let stranger = |why| Failure::Stranger { name: route.name.clone(), addr: route.addr, why };
            let failure = match dial(&route).await {
                Ok(stream) => {
                    return Conn::open(stream, Arc::clone(&route)).await.map_err(|e| unreachable(&route, &e));
                }
                Err(DialError::UnknownKey) if !reread => {
                    reread = true;
                    route = ask(Why::Refused, route.generation).await?;
                    is_news = true;
                    continue;
                }
                Err(DialError::UnknownKey) => return Err(stranger("it does not know the key")),
                Err(DialError::Stranger(why)) => {
                    // Somebody may have taken the port that the workload had before it moved. The one who sits
                    // there is not asked a second time.
                    let failure = stranger(why);
                    let avoided = route.addr;
                    if asked < max_asked {
                        asked = max_asked;
                        route = ask(Why::Unreachable, route.generation).await?;
                        is_news = true;
                    }
                    if route.addr == avoided {
                        return Err(failure);
                    }
                    continue;
                }
                Err(DialError::HungUp) => stranger("it hung up"),
                Err(DialError::Unreachable(error)) => unreachable(&route, &error),
            };
            if asked > 0 && attempts < max_attempts {
                attempts += 1;
                sleep(backoff.pause()).await;
            } else if asked < max_asked {
                asked += 1;
                attempts = 0;
                backoff.reset();
                route = ask(Why::Unreachable, route.generation).await?;
                is_news = true;
            } else {
                return Err(failure);
            }
        }
    }
}

pub(crate) fn unreachable(route: &Route, cause: &dyn std::fmt::Display) -> Failure {
    Failure::Unreachable { name: route.name.clone(), addr: route.addr, cause: cause.to_string() }
}

/// A socket that counts the bytes that went out, the one thing that tells whether a request may have run.
struct Counted {
    stream: TcpStream,
    written: Arc<AtomicU64>,
}

impl Counted {
    fn count(&self, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = &outcome {
            self.written.fetch_add(*count as u64, Ordering::Release);
        }
        outcome
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.count(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.count(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
