//! A transparent proxy to an HTTP server.
//!
//! [`Forward`] is a service that sends each request on to one [`Upstream`] and streams the answer back. Statuses,
//! bodies and trailers pass unchanged and unbuffered, chunk by chunk, with all end-to-end header fields, known or not.
//! What it does change:
//!
//! - `Host` is the upstream's. Hop-by-hop fields and those that `Connection` names are dropped, and with them every
//!   `Upgrade`; so is `X-ToolHive-Auth`, in which only a key for the upstream itself may stand
//!   ([`Connected::key`]). `Expect` is met here. `Origin` and `Sec-Fetch-*` are dropped: which pages may call is for the
//!   guards in front to judge, and a server that judges by its own address would refuse those that they let in.
//! - `Location`, if it points to the upstream, is turned into a path of ours. A redirect to anywhere else becomes 502,
//!   and none is followed: clients and libraries carry keys along to other places.
//! - `Access-Control-*` fields of the upstream are dropped, since only the guards in front know who may read.
//! - A 401 with the challenge of our own front becomes 502.
//! - On [`Options::sse_path`], the first `endpoint` event of the transport of 2024-11-05 names a path of ours.
//!
//! A request is sent at most once. It is repeated only if a connection, kept from an earlier one, turns out to be
//! closed before any byte was written. When a client leaves, the upstream's connection is closed at once: for MCP since
//! 2026-07-28 that is the cancel. When the upstream breaks off, so does the client's response, and never looks whole.
//!
//! Faults become responses with a JSON-RPC error, see [`Fault`]. They have no id, since bodies go by unread.
//!
//! Limits of hyper that show: field names are in lower case, and trailers pass only if `Trailer` announced them (in
//! responses also only to clients that sent `TE: trailers`).

mod body;
mod connect;
mod endpoint;
mod fault;
mod headers;
mod paths;
mod pool;
mod reference;
mod report;
mod service;
#[cfg(feature = "tls")]
mod tls;
mod upstream;

use std::time::Duration;

use http::{HeaderMap, HeaderName};

pub use connect::{Connect, ConnectError, Connected, TcpConnect, secret_value};
pub use fault::Fault;
pub use paths::{Paths, PathsError};
pub use report::{OnReport, Outcome, Report};
pub use service::Forward;
#[cfg(feature = "tls")]
pub use tls::{TlsConnect, TlsError};
pub use upstream::{Upstream, UpstreamError};

/// TLS, as [`TlsConnect::with_roots`] wants it.
#[cfg(feature = "tls")]
pub use tokio_rustls::rustls;

/// Limits and times of a [`Forward`], and what it changes.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which paths of ours stand for which of the upstream's.
    pub paths: Paths,
    /// The path of ours on which `GET` opens the event stream of the transport of 2024-11-05, `/sse` mostly.
    pub sse_path: Option<String>,
    /// Fields to set on each request to the upstream, in place of the client's. Their values are never shown.
    pub headers: HeaderMap,
    /// The most bytes of a request's body. Responses have no limit.
    pub max_message_bytes: usize,
    /// The most bytes of the head of a response, and of its trailers. Each has at most 100 fields.
    pub max_head_bytes: usize,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long the head of an answer may take, from the moment when the request is handed to a connection. `None`,
    /// the default, waits as long as the client: tools may take their time.
    pub head_timeout: Option<Duration>,
    /// How long a connection is kept while nobody uses it. Less than servers keep theirs (five seconds for many), so
    /// that a request hardly ever meets one that is just being closed. A shorter time that the upstream gives in
    /// `Keep-Alive` counts, less a second.
    pub idle_timeout: Duration,
    /// How many unused connections are kept. More may be in use.
    pub max_idle: usize,
    /// What the user can do when the upstream fails, as a sentence. It is added to the errors that say so.
    pub advice: String,
    /// Who is told what became of each request.
    pub on_report: OnReport,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            paths: Paths::one_to_one(),
            sse_path: None,
            headers: HeaderMap::new(),
            max_message_bytes: 16 * 1024 * 1024,
            max_head_bytes: 64 * 1024,
            connect_timeout: Duration::from_secs(10),
            head_timeout: None,
            idle_timeout: Duration::from_secs(4),
            max_idle: 64,
            advice: String::new(),
            on_report: OnReport::default(),
        }
    }
}

/// Why options cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OptionsError {
    /// A field that the proxy sets itself, or that is about one connection.
    #[error("the header field `{0}` cannot be set: the proxy decides about it")]
    Header(HeaderName),
    /// A path that no request can have.
    #[error("the path `{0}` does not begin with `/`")]
    Path(String),
    /// A limit or a time that leaves nothing.
    #[error("`{0}` is zero")]
    Zero(&'static str),
}

impl Options {
    fn check(&self) -> Result<(), OptionsError> {
        let zero = [
            ("max_message_bytes", self.max_message_bytes == 0),
            ("max_head_bytes", self.max_head_bytes == 0),
            ("connect_timeout", self.connect_timeout.is_zero()),
            ("head_timeout", self.head_timeout.is_some_and(|timeout| timeout.is_zero())),
            ("idle_timeout", self.idle_timeout.is_zero()),
        ];
        if let Some((name, _)) = zero.into_iter().find(|(_, zero)| *zero) {
            return Err(OptionsError::Zero(name));
        }
        if let Some(path) = self.sse_path.as_ref().filter(|path| !path.starts_with('/')) {
            return Err(OptionsError::Path(path.clone()));
        }
        match self.headers.keys().find(|name| headers::is_ours_to_set(name)) {
            Some(name) => Err(OptionsError::Header(name.clone())),
            None => Ok(()),
        }
    }
}
