//! Header names of the streamable HTTP transport.

use http::HeaderName;

/// `Mcp-Session-Id`: names a session of the revisions before 2026-07-28 (2025-03-26, "Session Management").
pub const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");

/// `MCP-Protocol-Version`: the revision agreed on; follows `initialize` since 2025-06-18.
pub const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");

/// `Last-Event-ID`: where a broken event stream is to be taken up again (WHATWG HTML, "Server-sent events").
pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// `Mcp-Method`: the message's method, since 2026-07-28.
pub const METHOD: HeaderName = HeaderName::from_static("mcp-method");

/// `Mcp-Name`: the tool, prompt or resource that is asked for, since 2026-07-28.
pub const NAME: HeaderName = HeaderName::from_static("mcp-name");
