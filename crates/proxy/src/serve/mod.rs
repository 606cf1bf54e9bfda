//! Connections: accepts them, bounds what a stranger can hold, and speaks HTTP/1.1 on them and nothing else.
//!
//! Never HTTP/2, not even by prior knowledge: its requests have no `Host`, on which the guards in front of a
//! service rely.
//!
//! What a connection may do:
//!
//! - It has [`Limits::header_timeout`] to deliver the head of a request, from its opening or from the end of the
//!   last response. Once its caller has been [trusted](Conn::trust) that time begins with the head's first byte,
//!   and before that it may be idle for [`Limits::idle_timeout`].
//! - Until its caller is trusted it counts among at most [`Limits::max_strangers`]; one more, and the oldest of
//!   them is closed.
//! - A head has at most [`Limits::max_head_bytes`] and 100 fields.
//! - `Content-Length` with `Transfer-Encoding`, in any order, is 400. hyper alone would prefer the latter and hide
//!   the former, so a `screen` under it watches the bytes.
//! - A request with `Transfer-Encoding` is the last on its connection. So the screen needs no second reading of
//!   chunks, which could differ from hyper's.
//! - When a response is complete before its request was read, the rest of the request is read and thrown away for
//!   a moment. Closing at once would reset the connection, and the client would lose the response.
//!
//! What is refused here never reaches the service; a callback hears of it, so that it can be counted.

mod conn;
mod screen;
mod service;
#[cfg(test)]
mod tests;
mod timer;

use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tower_service::Service;

pub use conn::Conn;
use conn::Strangers;
use screen::Screen;
use service::Shim;
use timer::HeadTimer;

/// The shortest and the longest pause after a failed `accept`.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// What hyper may buffer of one connection, in bytes, each way.
const MAX_BUFFER: usize = 64 * 1024;

/// Bounds on connections.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long the head of a request may take.
    pub header_timeout: Duration,
    /// How long a trusted connection may stay open between requests.
    pub idle_timeout: Duration,
    /// The longest head of a request, in bytes, request line included. Beyond: 431.
    pub max_head_bytes: usize,
    /// How many connections may be open whose callers have not been trusted.
    pub max_strangers: usize,
    /// How long open requests may go on after the shutdown began. Then they are cut.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(600),
            max_head_bytes: 32 * 1024,
            max_strangers: 256,
            drain: Duration::from_secs(3),
        }
    }
}

/// Why a connection or request was refused before any service saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refused {
    /// Not HTTP/1, or forbidden by its grammar. Answered with 400.
    Malformed,
    /// A head beyond the limits. Answered with 431 (414 for a target beyond 64 KiB).
    HeadTooLarge,
    /// `Content-Length` with `Transfer-Encoding`, or more than one length. Answered with 400.
    Framing,
    /// The preface of HTTP/2. Closed.
    Http2,
    /// No complete head in time. Closed.
    HeaderTimeout,
    /// The oldest of too many strangers. Closed.
    Evicted,
}

impl Refused {
    /// A stable word for logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::HeadTooLarge => "head_too_large",
            Self::Framing => "framing",
            Self::Http2 => "http2",
            Self::HeaderTimeout => "header_timeout",
            Self::Evicted => "evicted",
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Serves `listener` until `shutdown` resolves, then lets open requests finish for [`Limits::drain`].
///
/// `make` gets each connection and returns the service for it. The service is called for one request at a time,
/// each time after it was ready. `on_refused` hears of what never reached a service; it must not block.
///
/// An `accept` that fails, for want of file descriptors for instance, is tried again after a pause.
pub async fn serve<M, S, B, R>(
    listener: TcpListener,
    limits: Limits,
    mut make: M,
    on_refused: R,
    shutdown: impl Future<Output = ()>,
) where
    M: FnMut(Conn) -> S,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
    B: Body + From<Bytes> + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
    R: Fn(SocketAddr, Refused) + Send + Sync + 'static,
{
    let strangers = Arc::new(Strangers::new(limits.max_strangers));
    let on_refused = Arc::new(on_refused);
    let (closing, closed) = watch::channel(());
    let mut tasks = JoinSet::new();
    let mut pause = Pause::default();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let stream = tokio::select! {
            () = &mut shutdown => break,
            Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
            accepted = pause.accept(&listener) => match accepted {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    // It may be a stranger who holds the descriptor that is missing.
                    if let Some(peer) = strangers.evict() {
                        on_refused(peer, Refused::Evicted);
                    }
                    continue;
                }
            },
        };
        // Both addresses come from the socket: what was proved to a client must hold for this very connection.
        let (Ok(peer), Ok(local), Ok(())) =
            (stream.peer_addr(), stream.local_addr(), stream.set_nodelay(true))
        else {
            continue;
        };
        let conn = Conn::new(peer, local, strangers.clone());
        let service = make(conn.clone());
        let task = drive(stream, conn.clone(), service, limits.clone(), on_refused.clone(), closed.clone());
        if let Some(evicted) = strangers.admit(&conn, || tasks.spawn(task)) {
            on_refused(evicted, Refused::Evicted);
        }
    }

    drop(listener);
    closing.send_replace(());
    let drained = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.drain, drained).await.is_err() {
        tracing::debug!(connections = tasks.len(), "cut after the drain");
        tasks.shutdown().await;
    }
}

/// Speaks HTTP/1.1 on one connection until it ends.
async fn drive<S, B, R>(
    stream: TcpStream,
    conn: Conn,
    service: S,
    limits: Limits,
    on_refused: Arc<R>,
    mut closed: watch::Receiver<()>,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
    B: Body + From<Bytes> + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
    R: Fn(SocketAddr, Refused) + Send + Sync + 'static,
{
    let _leave = conn.leave_on_drop();
    let io = TokioIo::new(Screen::new(stream, conn.clone()));
    let shim = Shim::new(service, conn.clone(), on_refused.clone());
    let serving = http1::Builder::new()
        .timer(HeadTimer::new(conn.clone(), limits.header_timeout, limits.idle_timeout))
        .header_read_timeout(limits.header_timeout)
        .max_header_size(limits.max_head_bytes)
        .max_buf_size(MAX_BUFFER)
        .serve_connection(io, shim);
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        _ = closed.changed() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        match refusal(&error, &conn) {
            Some(why) => on_refused(conn.peer, why),
            None => tracing::debug!(peer = %conn.peer, %error, "connection ended"),
        }
    }
}

/// Which errors of hyper mean that it refused the peer's bytes. All others are the ends of connections.
fn refusal(error: &hyper::Error, conn: &Conn) -> Option<Refused> {
    if error.is_timeout() {
        // A trusted caller who asks for nothing more has done nothing wrong.
        (!conn.is_idle()).then_some(Refused::HeaderTimeout)
    } else if error.is_parse_version_h2() {
        Some(Refused::Http2)
    } else if error.is_parse_too_large() {
        Some(Refused::HeadTooLarge)
    } else if error.is_parse() {
        Some(Refused::Malformed)
    } else {
        None
    }
}

/// Where connections come from: a seam for tests, since a listener fails only when the machine does.
trait Accept {
    async fn accept(&self) -> io::Result<TcpStream>;
}

impl Accept for TcpListener {
    async fn accept(&self) -> io::Result<TcpStream> {
        Self::accept(self).await.map(|(stream, _)| stream)
    }
}

/// Keeps a failing `accept` from turning into a busy loop.
#[derive(Default)]
struct Pause {
    length: Duration,
    until: Option<Instant>,
}

impl Pause {
    /// Accepts the next connection, not before the pause is over. Can be dropped and called again at any time.
    async fn accept(&mut self, listener: &impl Accept) -> io::Result<TcpStream> {
        loop {
            if let Some(until) = self.until {
                tokio::time::sleep_until(until).await;
                self.until = None;
            }
            match listener.accept().await {
                Ok(stream) => {
                    self.length = Duration::ZERO;
                    return Ok(stream);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    self.length = (self.length * 2).clamp(PAUSE.0, PAUSE.1);
                    self.until = Some(Instant::now() + self.length);
                    return Err(error);
                }
            }
        }
    }
}

/// Errors of a connection that ended before it was accepted. Linux reports them through `accept` (accept(2)).
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted, NetworkDown,
        NetworkUnreachable, TimedOut,
    };
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkDown
            | NetworkUnreachable
            | TimedOut
    )
}
