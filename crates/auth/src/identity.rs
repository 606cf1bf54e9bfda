//! Request extensions: where a request came from, and who was found to have sent it.

use std::net::SocketAddr;

use thv_keygen::{KeyId, LiveKey, Name};

/// The two ends of the connection that a request came in on. Whoever serves the connection puts it into the
/// request's extensions.
///
/// Both addresses must be read from the accepted socket itself, never from a header: the server proof is bound
/// to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnInfo {
    /// The address of the client.
    pub peer: SocketAddr,
    /// The address that the client connected to.
    pub local: SocketAddr,
}

/// Who sent a request, as its key tells. The key layer puts it into the request's extensions.
///
/// It is a name for logs and for the ownership of sessions. It is no boundary between programs of one user, who
/// can read each other's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The public name of the key that opened the door.
    pub key_id: KeyId,
    /// The client that the key was issued to; `None` for the server's own key.
    pub label: Option<Name>,
}

impl From<&LiveKey> for Identity {
    fn from(key: &LiveKey) -> Self {
        Self { key_id: key.id(), label: key.label().cloned() }
    }
}
