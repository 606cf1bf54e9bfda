//! What revision 2026-07-28 ("modern": no `initialize`, no sessions) asks of whoever passes its messages on.
//!
//! | module | section of the specification |
//! |---|---|
//! | [`envelope`]: what each request says of itself in `_meta` | `basic/index`, "`_meta`" |
//! | [`value`]: texts as values of headers | `basic/transports/streamable-http`, "Value Encoding" |
//! | [`headers`]: `Mcp-Method` and `Mcp-Name`, derived and compared | same, "Standard Request Headers", "Server Validation" |
//! | [`schema`]: the `x-mcp-header` annotations of a tool | same, "Schema Extension" |
//! | [`params`]: `Mcp-Param-*`, derived and compared | same, "Custom Headers from Tool Parameters" |
//! | [`tools`]: a list of tools without those that must be left out | same, and `server/tools`, "x-mcp-header" |
//! | [`status`]: which HTTP status an error has, and what an error tells of the era | same, `basic/versioning` |
//!
//! A client over HTTP sends the fields of [`headers::derive`] and of [`params::derive`] with each request; a
//! server compares them with [`headers::check`] and [`params::check`].

pub mod envelope;
pub mod headers;
pub mod params;
pub mod schema;
pub mod status;
pub mod tools;
pub mod value;

pub use envelope::{Envelope, EnvelopeError};
pub use schema::{InvalidAnnotation, Param};

/// Headers that do not match the body. The error that goes with it is
/// [`HEADER_MISMATCH`](crate::code::HEADER_MISMATCH), with status 400.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("header mismatch: {0}")]
pub struct Mismatch(String);
