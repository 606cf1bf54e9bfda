//! Hosting of MCP servers that speak on standard input and output.
//!
//! [`StdioHost`] is a service for one endpoint of the streamable HTTP transport, for clients of both eras: those with
//! sessions (MCP 2025-03-26 to 2025-11-25, "legacy") and those without (2026-07-28, "modern"). Each session has a
//! server of its own, started through [`Spawn`] when the client sends `initialize` and stopped through [`Stop`] when
//! the session ends. So ids need no mapping, and whatever a server asks of its client reaches that client: sampling,
//! elicitation, roots, logging, subscriptions. Modern callers of one [`Owner`] share a server that no session has,
//! since a server's era is settled by its first message.
//!
//! # Sessions
//!
//! **Requests.** A request is answered with JSON, unless another message must come first on its stream, or nothing
//! comes for [`Options::keep_alive`]: then with an event stream. See below for which message goes where. Batches are
//! taken in sessions of revision 2025-03-26 only; they reach the server as single messages. A broken connection is no
//! cancellation; after `notifications/cancelled` nothing is answered any more, so the stream of that request ends, and
//! if it has not begun, it is an empty one.
//!
//! | message of the server | goes to |
//! |---|---|
//! | answer | the POST of its request |
//! | progress | the POST whose request handed out the token |
//! | anything else | the youngest GET stream |
//! | a request, without a GET stream | the newest POST that is open, or the next |
//! | anything else, without a GET stream | held until there is one, the oldest notifications dropped first |
//!
//! **Streams.** A session may have a few GET streams. A new one takes over at once, with what the others have not read
//! yet, since those may be dead without anybody knowing. Every event has an id that names its stream, and with clients
//! of 2025-11-25 a stream begins with a priming event. A client whose stream broke takes it up with a GET and
//! `Last-Event-ID`: it gets what was written after that event and what came meanwhile, answers too, and the stream goes
//! on. So much is kept of a session's events as fits into 1 MiB; the oldest go first, those that were written before
//! those that were not. Of a stream that is over and of which nothing is left, the client learns so with 400. A message
//! of a stream that its client cannot name, and any request of the server that was not written yet, takes its way again
//! instead; an answer does not.
//!
//! **End.** Sessions end by DELETE, when the server exits, when nobody has used them for [`Options::session_ttl`], and
//! when there are too many: then the one goes that has lain idle for longest, if that is a minute at least, else a new
//! one is refused with 503. An open event stream counts as use.
//!
//! # Modern callers
//!
//! Headers are compared with the body before a server gets the request: a missing `_meta` member is 400 with -32602, a header that is missing or
//! says something else 400 with -32020, and so is an `Mcp-Param-*` of a tool whose schema asks for it; for that the
//! server is asked for its tools once, and again before a call is refused. GET and DELETE are 405. Each request gets an
//! id of ours on its way to the server and its own on the way back, as do progress tokens and subscriptions; every
//! other byte stays as it was. Progress goes to the request that handed out the token, what names a subscription to
//! that subscription. A log message names nobody: it goes to the one request in flight that asked for log messages, and
//! where several did, to nobody. A caller that closes its response cancels: the server is sent
//! `notifications/cancelled`. An error that is the whole response gives it its status, -32601 that is 404.
//!
//! A server is asked `server/discover` before it gets a caller's request. If it turns out to be of the older era, modern
//! callers are answered with 400 and an error that none of the newer revision's codes carries, which sends them back to
//! `initialize`. A server that nobody uses for [`Options::session_ttl`] is ended; the next request starts another.
//!
//! # Both
//!
//! **Memory.** A message of either side is limited, and so are the messages under way in each direction. Where the
//! server does not read, POSTs wait; where the client does not read, the server waits, and a stream that was not read
//! for a minute is cut, or for ten seconds where callers share a server. Messages that no stream can carry yet are held
//! up to 1 MiB.
//!
//! **Bad servers.** What is no message is skipped. An answer over the limit becomes an error for whoever waits
//! for it. When a server exits, or never answers its first request, all that wait get an error.

mod callers;
mod events;
mod held;
mod host;
mod incoming;
mod link;
mod messages;
mod modern;
mod outlet;
mod pump;
mod queue;
mod refusal;
mod registry;
mod replay;
mod respond;
mod room;
mod run;
mod session;
mod spawn;
mod streams;

use std::time::{Duration, SystemTime};

pub use host::StdioHost;
pub use spawn::{Child, Spawn, Stop};

use crate::Owner;

/// The most that [`Options::max_message_bytes`] can be.
pub const MAX_MESSAGE_BYTES: usize = 256 * 1024 * 1024;

/// The limits and times of a host.
#[derive(Debug, Clone)]
pub struct Options {
    /// The path of the endpoint, compared without decoding.
    pub path: String,
    /// The most bytes of a request's body and of a line of the server, up to [`MAX_MESSAGE_BYTES`].
    pub max_message_bytes: usize,
    /// The most sessions at a time, and the most owners of modern callers whose servers run.
    pub max_sessions: usize,
    /// How long a session, or a server of modern callers, lives that nobody uses.
    pub session_ttl: Duration,
    /// How long a server has to start and to answer `initialize`.
    pub initialize_timeout: Duration,
    /// How long a server has to exit by itself once its input is closed, before it is stopped.
    pub exit_grace: Duration,
    /// How long [`StdioHost::shutdown`] waits for all servers to be gone.
    pub shutdown_timeout: Duration,
    /// How long an event stream may be quiet before a comment is sent, and a response before it begins as one.
    pub keep_alive: Duration,
    /// What the user can do when the server fails, as a sentence. It is added to the errors that say so.
    pub advice: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            path: "/mcp".to_owned(),
            max_message_bytes: 16 * 1024 * 1024,
            max_sessions: 64,
            session_ttl: Duration::from_secs(30 * 60),
            initialize_timeout: Duration::from_secs(60),
            exit_grace: Duration::from_secs(2),
            shutdown_timeout: Duration::from_secs(10),
            keep_alive: Duration::from_secs(15),
            advice: String::new(),
        }
    }
}

/// Why options cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OptionsError {
    /// A path that no request can have.
    #[error("the endpoint's path `{0}` does not begin with `/`")]
    Path(String),
    /// A limit or a time that leaves nothing.
    #[error("`{0}` is zero")]
    Zero(&'static str),
    /// A limit that is beyond reason.
    #[error("`max_message_bytes` is over {MAX_MESSAGE_BYTES}")]
    TooLarge,
}

impl Options {
    fn check(&self) -> Result<(), OptionsError> {
        let zero = [
            ("max_message_bytes", self.max_message_bytes == 0),
            ("max_sessions", self.max_sessions == 0),
            ("session_ttl", self.session_ttl.is_zero()),
            ("initialize_timeout", self.initialize_timeout.is_zero()),
            ("keep_alive", self.keep_alive.is_zero()),
        ];
        if let Some((name, _)) = zero.into_iter().find(|(_, zero)| *zero) {
            return Err(OptionsError::Zero(name));
        }
        if self.max_message_bytes > MAX_MESSAGE_BYTES {
            return Err(OptionsError::TooLarge);
        }
        if !self.path.starts_with('/') {
            return Err(OptionsError::Path(self.path.clone()));
        }
        Ok(())
    }
}

/// A session, or the server of modern callers, as a status display may show it. A session's id is not part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionInfo {
    /// Names it in logs.
    pub number: u64,
    /// Who opened it, or whose callers it serves.
    pub owner: Owner,
    /// When.
    pub created: SystemTime,
    /// How long nobody has used it; `None` while it is in use.
    pub idle: Option<Duration>,
    /// The protocol version that `initialize` settled, once it has; `2026-07-28` for modern callers.
    pub version: Option<String>,
    /// Requests that wait for their answers.
    pub in_flight: usize,
    /// Whether a client has a GET stream open, or a subscription.
    pub has_stream: bool,
}
