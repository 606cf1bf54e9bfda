//! Which HTTP status an error has, and what an error tells of the era of whoever gave it.

use http::StatusCode;

use crate::code;
use crate::message::Peek;
use crate::splice::members;

/// The code of an error response; nothing for any other message, or if it is no integer of 64 bits.
pub fn error_code(message: &Peek<'_>) -> Option<i64> {
    let [code] = members(message.error?, ["code"]).ok()?;
    serde_json::from_str(code?.get()).ok()
}

/// The status of a response that consists of an error of this code (2026-07-28,
/// `basic/transports/streamable-http`, "Protocol Version Header" and "Server Validation"; `basic/index`,
/// "`_meta`"). Codes that the specification gives no status go with 200, as a result does.
pub fn http_status(code: i64) -> StatusCode {
    match code {
        code::METHOD_NOT_FOUND => StatusCode::NOT_FOUND,
        code::PARSE_ERROR | code::INVALID_REQUEST | code::INVALID_PARAMS => StatusCode::BAD_REQUEST,
        _ if is_modern(code) => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    }
}

/// Whether an error of this code tells that whoever gave it speaks the modern era. After any other, a client may
/// fall back to `initialize` (`basic/versioning`, "Backward Compatibility").
pub fn is_modern(code: i64) -> bool {
    matches!(
        code,
        code::HEADER_MISMATCH | code::MISSING_REQUIRED_CLIENT_CAPABILITY | code::UNSUPPORTED_PROTOCOL_VERSION
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Incoming, peek};

    #[test]
    fn codes_and_statuses() {
        for (error, expect, status) in [
            (r#"{"code":-32601,"message":"x"}"#, Some(-32601), 404),
            (r#"{"message":"x","code":-32602}"#, Some(-32602), 400),
            (r#"{"code":-32020}"#, Some(-32020), 400),
            (r#"{"code":-32022}"#, Some(-32022), 400),
            (r#"{"code":-32603}"#, Some(-32603), 200),
            (r#"{"code":-33002}"#, Some(-33002), 200),
            (r#"{"code":"x"}"#, None, 200),
            (r#"{"code":1.5}"#, None, 200),
            ("{}", None, 200),
            ("null", None, 200),
        ] {
            let text = format!(r#"{{"jsonrpc":"2.0","id":1,"error":{error}}}"#);
            let Ok(Incoming::One(message)) = peek(text.as_bytes()) else { panic!("{text}") };
            assert_eq!(error_code(&message), expect, "{text}");
            assert_eq!(http_status(expect.unwrap_or(0)), status, "{text}");
        }
    }
}
