//! MCP on the wire, without I/O.
//!
//! What a program needs that passes MCP messages on without being a client or a server itself:
//!
//! - [`message`]: who a JSON-RPC message is for ([`message::peek`]), and errors in the name of others;
//! - [`lines`]: messages on standard input and output, one a line;
//! - [`sse`]: messages on a `text/event-stream`;
//! - [`header`], [`era`], [`code`]: the names and numbers of the transport;
//! - [`modern`]: what revision 2026-07-28 asks of HTTP: `_meta`, headers that mirror the body, statuses;
//! - [`splice`]: a message with an id or a token replaced, every other byte as it was.
//!
//! What it refuses to do: it never re-serialises a message, so a number keeps its digits and an unknown
//! member its place; it knows no MCP types beyond the few members that routing needs; it never opens,
//! reads or writes anything; and each decoder has a limit that its caller must choose, since the far end
//! is not to be trusted with our memory.

#![forbid(unsafe_code)]

pub mod code;
pub mod era;
pub mod header;
pub mod id;
pub mod lines;
pub mod message;
pub mod modern;
pub mod skim;
pub mod splice;
pub mod sse;
