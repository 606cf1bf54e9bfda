//! What the relay must be told: where the workload is and which key opens it.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;

use thv_keygen::{Name, SharedKey};
use thv_wire::code::Reason;

/// How a workload's server is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Transport {
    /// Streamable HTTP, since MCP 2025-03-26: each message is a POST, its answer the reply.
    #[default]
    Streamable,
    /// HTTP with SSE, of MCP 2024-11-05: one GET stream carries all that the server says, its first event names where
    /// messages are posted. [`Target::path`] is the path of the stream, `/sse` as a rule.
    Sse,
}

/// One workload's endpoint, and the key for it.
#[derive(Clone)]
pub struct Target {
    /// Where its supervisor listens. An address, never a name: nobody else gets to say where it leads.
    pub addr: SocketAddr,
    /// Path of the endpoint, `/mcp` as a rule.
    pub path: String,
    /// How that endpoint is spoken to.
    pub transport: Transport,
    /// The workload's name, which the server proof covers.
    pub name: Name,
    /// The current key. `None` only for a workload whose run config has no shared-key authentication: such a
    /// listener is asked for no proof and sent no key.
    pub key: Option<SharedKey>,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target")
            .field("addr", &self.addr)
            .field("path", &self.path)
            .field("transport", &self.transport)
            .field("name", &self.name.as_str())
            .field("key_id", &self.key.as_ref().map(SharedKey::id))
            .finish()
    }
}

/// Why the relay asks where the workload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Why {
    /// It does not know yet, or the last answer was an error.
    Start,
    /// The key was refused or is unknown over there: read it again, from the real store, past every cache.
    Refused,
    /// Nobody listens there, or somebody else does: is the workload alive, and where?
    Unreachable,
    /// Nobody waits for it: where is the workload now, and which key opens it? It must not be started for this. Read
    /// past every cache, and answered at once: the relay asks again if it still has reason to.
    Look,
}

/// Finds a workload and its key.
///
/// The relay never asks twice at once, and never again before something happened that the last answer does
/// not explain, with one exception: a workload without a key is looked for before each new connection to it. An implementation may take as long as it needs, for instance to start the workload.
pub trait Locate: Send + Sync + 'static {
    /// Answers where the workload is now and which key opens it now.
    ///
    /// # Errors
    /// There is no key to be had, or the workload does not run and must not or cannot be started.
    fn locate(&self, why: Why) -> impl Future<Output = Result<Target, LocateError>> + Send;
}

/// Why there is no target. Requests that wait for it are answered with this reason and message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LocateError {
    /// The stable word and, through it, the error code.
    pub reason: Reason,
    /// What happened and which command mends it, for the reader of the answer.
    pub message: String,
}

impl LocateError {
    /// An error with its reason and message.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_the_key_by_its_id_alone() {
        let key = SharedKey::from_bytes([7; 32]);
        let target = Target {
            addr: ([127, 0, 0, 1], 1).into(),
            path: "/mcp".into(),
            transport: Transport::Streamable,
            name: Name::parse("time").unwrap(),
            key: Some(key.clone()),
        };
        let shown = format!("{target:?}");
        assert!(shown.contains(&key.id().to_string()));
        assert!(!shown.contains(&key.expose_text().as_str()[..8]));
    }
}
