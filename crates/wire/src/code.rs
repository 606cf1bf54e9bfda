//! Error codes: JSON-RPC's own, and those of this product.
//!
//! Ours lie outside -32768…-32000, which the specification keeps for itself since 2026-07-28
//! (`basic/index`, "Error codes").

/// JSON-RPC 2.0: the text is not JSON.
pub const PARSE_ERROR: i64 = -32700;
/// JSON-RPC 2.0: JSON, but not a message, or not one that may come here.
pub const INVALID_REQUEST: i64 = -32600;
/// JSON-RPC 2.0: no such method.
pub const METHOD_NOT_FOUND: i64 = -32601;
/// JSON-RPC 2.0: the method does not take these parameters.
pub const INVALID_PARAMS: i64 = -32602;
/// JSON-RPC 2.0: the server failed.
pub const INTERNAL_ERROR: i64 = -32603;
/// MCP 2026-07-28 (`basic/index`, "Error Codes"): headers and body differ, or a header is missing or malformed.
pub const HEADER_MISMATCH: i64 = -32020;
/// MCP 2026-07-28: the request needs a capability that its client did not declare.
pub const MISSING_REQUIRED_CLIENT_CAPABILITY: i64 = -32021;
/// MCP 2026-07-28: the server does not speak the version that the request names.
pub const UNSUPPORTED_PROTOCOL_VERSION: i64 = -32022;

/// Why a request was answered by us in the server's stead. The word is stable and goes into `data.reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The key was refused, again after it had been read anew.
    KeyRefused,
    /// There is no key to be had.
    KeyMissing,
    /// The keychain is locked.
    KeychainLocked,
    /// The keychain cannot be reached.
    KeychainUnavailable,
    /// The connection was lost after bytes of the request had been sent: it may or may not have run.
    ConnectionLost,
    /// The far end could not prove that it holds the key.
    Stranger,
    /// The server is not running.
    NotRunning,
    /// An HTTP error without a JSON-RPC body.
    UpstreamHttp,
    /// A message over the limit.
    TooLarge,
    /// The end came before the answer.
    ShuttingDown,
}

impl Reason {
    /// The error code that belongs to it.
    pub const fn code(self) -> i64 {
        match self {
            Self::KeyRefused | Self::KeyMissing | Self::KeychainLocked | Self::KeychainUnavailable => -33001,
            Self::ConnectionLost => -33002,
            Self::Stranger => -33003,
            Self::NotRunning => -33004,
            Self::UpstreamHttp => -33005,
            Self::TooLarge => -33006,
            Self::ShuttingDown => -33007,
        }
    }

    /// The stable word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::KeyRefused => "key_refused",
            Self::KeyMissing => "key_missing",
            Self::KeychainLocked => "keychain_locked",
            Self::KeychainUnavailable => "keychain_unavailable",
            Self::ConnectionLost => "connection_lost",
            Self::Stranger => "stranger",
            Self::NotRunning => "not_running",
            Self::UpstreamHttp => "upstream_http",
            Self::TooLarge => "too_large",
            Self::ShuttingDown => "shutting_down",
        }
    }
}
