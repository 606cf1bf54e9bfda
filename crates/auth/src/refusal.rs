//! Why a request did not pass, for logs, and the answers that say so.

use std::fmt;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// JSON-RPC 2.0 section 5.1: the message is not a valid request.
const INVALID_REQUEST: i64 = -32600;

/// Why a request did not pass. It rides in the extensions of the response, so that an outer layer can log or
/// count it, and holds nothing of what was presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// The method is `CONNECT`.
    Connect,
    /// `Content-Length` together with `Transfer-Encoding`: two readers may see two different messages.
    Framing,
    /// No `Host` field.
    HostMissing,
    /// More than one `Host` field.
    HostRepeated,
    /// `Host` does not name this server with its port.
    HostForeign,
    /// The request target names another authority than `Host`, or another scheme than `http`.
    TargetMismatch,
    /// More than one `Origin` field.
    OriginRepeated,
    /// `Origin` is neither this server's nor a listed one; `null` is always foreign.
    OriginForeign,
    /// `Sec-Fetch-Site` says that another site asks, and no listed origin vouches for it.
    CrossSite,
    /// No key.
    KeyMissing,
    /// More than one key field.
    KeyRepeated,
    /// A key field beyond 128 bytes.
    KeyTooLong,
    /// A key field that is not the text form of a key.
    KeyMalformed,
    /// A well-formed key that is not live here.
    KeyWrong,
    /// A request for a proof whose challenge or key id is missing, repeated or malformed.
    ProofMalformed,
    /// A request for a proof with a key that is not live here.
    ProofUnknownKey,
    /// The path of the proof with a key, but with another method than `GET`.
    ProofMethod,
    /// A client looked for OAuth or OpenID metadata.
    Discovery,
    /// A client tried to register for OAuth.
    Registration,
}

impl Refusal {
    /// A stable word for logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Framing => "framing",
            Self::HostMissing => "host_missing",
            Self::HostRepeated => "host_repeated",
            Self::HostForeign => "host_foreign",
            Self::TargetMismatch => "target_mismatch",
            Self::OriginRepeated => "origin_repeated",
            Self::OriginForeign => "origin_foreign",
            Self::CrossSite => "cross_site",
            Self::KeyMissing => "key_missing",
            Self::KeyRepeated => "key_repeated",
            Self::KeyTooLong => "key_too_long",
            Self::KeyMalformed => "key_malformed",
            Self::KeyWrong => "key_wrong",
            Self::ProofMalformed => "proof_malformed",
            Self::ProofUnknownKey => "proof_unknown_key",
            Self::ProofMethod => "proof_method",
            Self::Discovery => "oauth_discovery",
            Self::Registration => "oauth_registration",
        }
    }

    /// Whether a key was looked for and not accepted: the outcome of an authentication attempt.
    #[must_use]
    pub fn is_authentication(self) -> bool {
        matches!(
            self,
            Self::KeyMissing | Self::KeyRepeated | Self::KeyTooLong | Self::KeyMalformed | Self::KeyWrong
        )
    }

    fn status(self) -> StatusCode {
        match self {
            Self::Connect | Self::ProofMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::Framing | Self::ProofMalformed | Self::Registration => StatusCode::BAD_REQUEST,
            Self::ProofUnknownKey | Self::Discovery => StatusCode::NOT_FOUND,
            Self::KeyMissing | Self::KeyRepeated | Self::KeyTooLong | Self::KeyMalformed | Self::KeyWrong => {
                StatusCode::UNAUTHORIZED
            }
            _ => StatusCode::FORBIDDEN,
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT is not served here",
            Self::Framing => "Content-Length and Transfer-Encoding exclude each other",
            Self::HostMissing => "a Host header is required",
            Self::HostRepeated => "the Host header must appear once",
            Self::HostForeign => "the Host header does not name this server",
            Self::TargetMismatch => "the request target does not name this server",
            Self::OriginRepeated => "the Origin header must appear once",
            _ => "requests from this web origin are not allowed",
        }
    }

    /// A bare answer, for the local endpoints whose body nobody reads.
    pub(crate) fn empty<R: From<Bytes>>(self) -> Response<R> {
        let mut response = Response::new(R::from(Bytes::new()));
        *response.status_mut() = self.status();
        if self == Self::ProofMethod {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        }
        response.extensions_mut().insert(self);
        response
    }

    /// An answer that MCP clients can show: a JSON-RPC error without an id.
    pub(crate) fn json_rpc<R: From<Bytes>>(self) -> Response<R> {
        let (message, reason) = (self.message(), self.as_str());
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":null,"error":{{"code":{INVALID_REQUEST},"message":"{message}","data":{{"reason":"{reason}"}}}}}}"#
        );
        let mut response = Response::new(R::from(Bytes::from(body)));
        *response.status_mut() = self.status();
        response.headers_mut().insert(CONTENT_TYPE, JSON);
        if self == Self::Connect {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, POST, DELETE"));
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
