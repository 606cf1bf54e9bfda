//! HTTP in front of an MCP server.
//!
//! - [`stdio`] hosts a server that speaks MCP on its standard input and output, one process a session,
//!   and one for the modern callers of an owner.
//! - [`forward`] passes requests on to a server that speaks HTTP itself, byte for byte.
//! - [`serve`] accepts the connections, bounds what strangers can hold, and speaks HTTP/1.1 only.
//! - [`body`] is the response body that all of it shares.
//!
//! What it refuses to do: it authenticates nobody and guards against no web page, which is the work of the
//! layers that a program puts in front of it; it starts no process itself but asks a [`stdio::Spawn`]; it
//! never re-serialises a message; and nothing that a client or a server sends makes it hold more memory than
//! its [`stdio::Options`] or [`forward::Options`] allow.

#![forbid(unsafe_code)]

pub mod body;
pub mod forward;
pub mod serve;
pub mod stdio;

/// On whose behalf a request is made. A layer in front puts it into the request's extensions; absent means
/// `Owner(None)`. A session belongs to the owner that opened it and does not exist for any other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Owner(pub Option<String>);
