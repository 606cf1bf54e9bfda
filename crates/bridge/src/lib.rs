//! A relay of MCP messages between stdio and a guarded HTTP endpoint.
//!
//! [`run`] is what an AI client talks to instead of the server: it reads JSON-RPC messages from one stream, a
//! line each, posts them to a workload over streamable HTTP (MCP 2025-03-26 to 2026-07-28) or over HTTP with SSE
//! (MCP 2024-11-05), and writes what comes back to another stream, a line each. Every request is answered exactly
//! once, with the server's answer or with an error of the relay's own that says what happened (`thv_wire::code`). Lost
//! sessions, changed keys, moved ports and broken event streams are mended without the client noticing, as far as that
//! is certain not to run anything twice.
//!
//! Which era a message belongs to, that with sessions or that without (2026-07-28), the message itself tells. What the
//! newer one wants to see in HTTP headers is derived from the messages and from the tools that the server lists.
//!
//! Where the workload is and which key opens it, a [`Locate`] tells, again whenever the relay must ask.
//!
//! What this crate refuses to do:
//!
//! - It sends no key and no message to a listener that has not proved, on that very connection, that it holds
//!   the same key (`thv_keygen::proof`).
//! - It resolves no names, follows no redirects, uses no proxies, and repeats no request of which a byte was
//!   sent, unless it was refused before it ran: by our own guard, which then forwards nothing, by a session that is
//!   over, or for headers that do not fit a tool that has changed, where the specification asks for another attempt.
//! - It changes no message, with one exception: tools whose header annotations are invalid are cut out of a list, as
//!   2026-07-28 demands of clients over HTTP. What it must look at, it looks at in place.
//! - It is not an MCP server: it has no tools, no capabilities and no opinion on methods. It knows
//!   `initialize`, `notifications/initialized`, `notifications/cancelled`, `server/discover`, `tools/list`,
//!   `tools/call` and `subscriptions/listen`, since HTTP demands it, and `resources/subscribe`,
//!   `resources/unsubscribe` and `logging/setLevel`, to tell them to the next session. The one thing that it asks on
//!   its own is `tools/list`, where a tool is called that nobody has listed.
//!
//! A line that is not a JSON-RPC message is answered with JSON-RPC's own error under a `null` id, as JSON-RPC
//! 2.0 (section 5) asks for a request whose id cannot be read.
#![forbid(unsafe_code)]

mod asked;
mod backoff;
mod batch;
mod channel;
mod dial;
mod endpoint;
mod era;
mod events;
mod exchange;
mod failure;
mod finder;
mod gate;
mod intake;
mod job;
mod listener;
mod modern;
mod ordered;
mod outbox;
mod own;
mod pending;
mod pool;
mod refusal;
mod relay;
mod renew;
mod request;
mod room;
mod schemas;
mod session;
mod state;
mod target;

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::channel::Channels;
use crate::exchange::Call;
use crate::failure::Failure;
use crate::intake::Intake;
use crate::pool::{Effort, Pool};
use crate::relay::Relay;
use crate::session::Session;
pub use crate::target::{Locate, LocateError, Target, Transport, Why};
pub use thv_wire::code::Reason;

/// How long the last words may take: answers to those who still wait, and the end of the session.
const FAREWELL: Duration = Duration::from_millis(300);

/// Limits of one relay.
#[derive(Clone, Debug)]
pub struct Options {
    /// The longest message that the client may send, in bytes. A longer request is answered with `too_large`.
    pub max_message_bytes: usize,
    /// The longest message that the server may send, in bytes.
    pub max_answer_bytes: usize,
    /// How many requests may be with the server at once; further ones wait. Each takes a connection. Subscriptions
    /// (`subscriptions/listen`) are counted apart, up to the same number.
    pub max_in_flight: usize,
    /// How long requests may still be answered after the input has ended.
    pub drain: Duration,
}

impl Default for Options {
    /// 16 MiB in, 64 MiB out, 128 requests at once, 600 ms to drain.
    fn default() -> Self {
        Self {
            max_message_bytes: 16 * 1024 * 1024,
            max_answer_bytes: 64 * 1024 * 1024,
            max_in_flight: 128,
            drain: Duration::from_millis(600),
        }
    }
}

/// Why a relay ended other than in order.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BridgeError {
    /// The client's messages could not be read.
    #[error("reading the client's messages failed")]
    Read(#[source] io::Error),
    /// Messages could not be written to the client.
    #[error("writing messages to the client failed")]
    Write(#[source] io::Error),
}

/// Relays until the input ends or `shutdown` resolves, and then, within [`Options::drain`] and another 300 ms,
/// lets requests finish, answers those that did not, ends the session and returns. A `shutdown` that resolves
/// while requests finish ends that wait.
///
/// A client that has closed its input is an end in order. Must be called within a tokio runtime with I/O and
/// time enabled; a current-thread runtime will do.
///
/// # Errors
/// [`BridgeError`], after the same end.
pub async fn run<R, W, L>(
    stdin: R,
    stdout: W,
    locate: L,
    options: Options,
    shutdown: impl Future<Output = ()>,
) -> Result<(), BridgeError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
    L: Locate,
{
    let drain = options.drain;
    let pool = Arc::new(Pool::new(locate));
    let (outbox, writer) = outbox::channel();
    let (opened, channels) = mpsc::unbounded_channel();
    let (ordered, items) = mpsc::unbounded_channel();
    let relay = Arc::new(Relay::new(options, Arc::clone(&pool), Channels::new(opened), outbox, ordered));

    let mut tasks = JoinSet::new();
    let warm = Arc::clone(&pool);
    tasks.spawn(async move { warm.warm_up().await });
    tasks.spawn(Arc::clone(&relay).run_ordered(items));
    tasks.spawn(Arc::clone(&relay).run_channels(channels));
    tasks.spawn(Arc::clone(&relay).run_listener());

    let mut writing = pin!(writer.run(stdout));
    let mut shutdown = pin!(shutdown);
    let intake = Intake::new(Arc::clone(&relay));
    let mut written = None;
    let mut asked_to_end = false;
    let read = tokio::select! {
        biased;
        read = intake.run(stdin, &mut tasks) => read,
        outcome = &mut writing => {
            written = Some(outcome);
            Ok(())
        }
        () = &mut shutdown => {
            asked_to_end = true;
            Ok(())
        }
    };
    if written.is_none() {
        tokio::select! {
            () = relay.pending.idle() => {}
            () = sleep(drain) => {}
            () = &mut shutdown, if !asked_to_end => {}
            outcome = &mut writing => written = Some(outcome),
        }
    }
    tasks.shutdown().await;

    let end_session = end_session(&relay);
    let last_words = async {
        if written.is_none() {
            let say = async {
                for id in relay.pending.take_all() {
                    relay.outbox.send(Failure::ShuttingDown.answer(Some(&id))).await;
                }
                relay.outbox.close();
            };
            written = Some(tokio::join!(say, writing).1);
        }
    };
    let _ = timeout(FAREWELL, async { tokio::join!(end_session, last_words) }).await;

    read.map_err(BridgeError::Read)?;
    match written {
        Some(Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => Err(BridgeError::Write(error)),
        _ => Ok(()),
    }
}

/// Tells the server that the session is over (MCP, "Session Management"). It may refuse.
async fn end_session(relay: &Relay) {
    let Some(headers) = relay.session.current().delete() else { return };
    let post = relay.post(&Session::default(), Bytes::new());
    let call = Call { method: Method::DELETE, headers, effort: Effort::Stay, ..post };
    if let Err(failure) = relay.pool.exchange(&call).await {
        tracing::debug!(%failure, "session not ended");
    }
}
