//! Hosting of MCP servers that speak on standard input and output.
//!
//! [`StdioHost`] is a service for one endpoint of the streamable HTTP transport (MCP 2025-03-26 to
//! 2025-11-25). Each session has a server of its own, started through [`Spawn`] when the client sends
//! `initialize` and stopped through [`Stop`] when the session ends. So ids need no mapping, and whatever a
//! server asks of its client reaches that client: sampling, elicitation, roots, logging, subscriptions.
//!
//! **Requests.** A request is answered with JSON, unless another message must come first on its stream: then
//! with an event stream. See below for which message goes where. Batches are taken in
//! sessions of revision 2025-03-26 only; they reach the server as single messages. A broken connection is no
//! cancellation; after `notifications/cancelled` nothing is answered any more, so the stream of that request
//! ends, and if it has not begun, it is an empty one.
//!
//! | message of the server | goes to |
//! |---|---|
//! | answer | the POST of its request |
//! | progress | the POST whose request handed out the token |
//! | anything else | the GET stream |
//! | a request, without a GET stream | the newest POST that is open, or the next |
//! | anything else, without a GET stream | held until there is one, the oldest notifications dropped first |
//!
//! A message whose stream breaks before it was read takes its way again. An answer does not: it belongs to
//! its POST.
//!
//! **Sessions** end by DELETE, when the server exits, when nobody has used them for
//! [`Options::session_ttl`], and when there are too many: then the one goes that has lain idle for longest,
//! if that is a minute at least, else a new one is refused with 503. An open event stream counts as use.
//!
//! **The newest revision**, 2026-07-28, has no sessions. Its requests are answered with 400 and an error that
//! none of its own codes carries, which sends its clients back to `initialize`.
//!
//! **Memory.** A message of either side is limited, and so are the messages under way in each direction of a
//! session. Where the server does not read, POSTs wait; where the client does not read, the server waits, and
//! a stream that was not read for a minute is cut. Messages that no stream can carry yet are held up to 1 MiB.
//!
//! **Bad servers.** What is no message is skipped. An answer over the limit becomes an error for whoever waits
//! for it. When a server exits, or never answers `initialize`, all that wait get an error.

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
    /// The most sessions at a time, and so the most servers.
    pub max_sessions: usize,
    /// How long a session lives that nobody uses.
    pub session_ttl: Duration,
    /// How long a server has to start and to answer `initialize`.
    pub initialize_timeout: Duration,
    /// How long a server has to exit by itself once its input is closed, before it is stopped.
    pub exit_grace: Duration,
    /// How long [`StdioHost::shutdown`] waits for all servers to be gone.
    pub shutdown_timeout: Duration,
    /// How long an event stream may be quiet before a comment is sent.
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

/// A session, as a status display may show it. Its id is not part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionInfo {
    /// Names the session in logs.
    pub number: u64,
    /// Who opened it.
    pub owner: Owner,
    /// When.
    pub created: SystemTime,
    /// How long nobody has used it; `None` while it is in use.
    pub idle: Option<Duration>,
    /// The protocol version that `initialize` settled, once it has.
    pub version: Option<String>,
    /// Requests that wait for their answers.
    pub in_flight: usize,
    /// Whether the client has its GET stream open.
    pub has_stream: bool,
}
