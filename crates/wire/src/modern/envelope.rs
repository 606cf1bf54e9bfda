//! What a request says of itself in `params._meta` (2026-07-28, `basic/index`, "`_meta`").

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::message::{Id, Kind, Peek, text};
use crate::splice::{MembersError, members};

/// The protocol version of a request. Required.
pub const PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// The client's name and version.
pub const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
/// What the client can do. Required.
pub const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// The level from which on log messages are sent for this request.
pub const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
/// The `subscriptions/listen` request that a notification belongs to.
pub const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";

/// Why a request is malformed. The error that goes with it is
/// [`INVALID_PARAMS`](crate::code::INVALID_PARAMS), with status 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// There is no `_meta`, or it is not an object.
    #[error(
        "`params._meta` is missing or no object: it must name `{PROTOCOL_VERSION}` and `{CLIENT_CAPABILITIES}`"
    )]
    NoMeta,
    /// A required member is missing.
    #[error("`params._meta` lacks `{0}`")]
    Missing(&'static str),
    /// The version is not a string.
    #[error("`{PROTOCOL_VERSION}` is not a string")]
    VersionNotText,
    /// Two readers could take it differently.
    #[error("`params` or `params._meta` is ambiguous: {0}")]
    Ambiguous(MembersError),
}

/// The members of `_meta` that a relay must know, as they stand in the text.
#[derive(Debug, Clone)]
pub struct Envelope<'a> {
    /// The version that the request is made in.
    pub protocol_version: Cow<'a, str>,
    /// What the client can do.
    pub client_capabilities: &'a RawValue,
    /// Who the client says it is.
    pub client_info: Option<&'a RawValue>,
    /// From which level on it wants log messages.
    pub log_level: Option<&'a RawValue>,
    /// The token under which it wants to hear of progress.
    pub progress_token: Option<&'a RawValue>,
}

impl<'a> Envelope<'a> {
    /// Reads what a request says of itself.
    ///
    /// # Errors
    /// [`EnvelopeError`], if something required is missing, or there twice.
    pub fn of(message: &Peek<'a>) -> Result<Self, EnvelopeError> {
        let meta = meta(message)?.ok_or(EnvelopeError::NoMeta)?;
        let names = [PROTOCOL_VERSION, CLIENT_CAPABILITIES, CLIENT_INFO, LOG_LEVEL, "progressToken"];
        let [version, capabilities, client_info, log_level, progress_token] = match members(meta, names) {
            Ok(found) => found,
            Err(MembersError::NotAnObject) => return Err(EnvelopeError::NoMeta),
            Err(error) => return Err(EnvelopeError::Ambiguous(error)),
        };
        let version = version.ok_or(EnvelopeError::Missing(PROTOCOL_VERSION))?;
        Ok(Self {
            protocol_version: text(version.get()).ok_or(EnvelopeError::VersionNotText)?,
            client_capabilities: capabilities.ok_or(EnvelopeError::Missing(CLIENT_CAPABILITIES))?,
            client_info,
            log_level,
            progress_token,
        })
    }

    /// Whether a message claims the modern era: no other era's requests have this member of `_meta`.
    pub fn is_claimed(message: &Peek<'_>) -> bool {
        let Ok(Some(meta)) = meta(message) else { return false };
        // Twice is a claim as well, if a broken one.
        members(meta, [PROTOCOL_VERSION]).map_or_else(|e| e == MembersError::Twice, |[found]| found.is_some())
    }
}

fn meta<'a>(message: &Peek<'a>) -> Result<Option<&'a RawValue>, EnvelopeError> {
    let Some(params) = message.params else { return Ok(None) };
    match members(params, ["_meta"]) {
        Ok([meta]) => Ok(meta),
        Err(MembersError::NotAnObject) => Ok(None),
        Err(error) => Err(EnvelopeError::Ambiguous(error)),
    }
}

/// The subscription that a notification, or the answer to `subscriptions/listen`, belongs to: the id itself and
/// its place in the text. Nothing, if it names none, or not clearly (`basic/patterns/subscriptions`).
pub fn subscription_id<'a>(message: &Peek<'a>) -> Option<(Id, &'a RawValue)> {
    let inner = match message.kind {
        Kind::Request => return None,
        Kind::Notification => message.params,
        Kind::Response => message.result,
    }?;
    let [meta] = members(inner, ["_meta"]).ok()?;
    let [id] = members(meta?, [SUBSCRIPTION_ID]).ok()?;
    Some((Id::from_valid_json(id?.get())?, id?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Incoming, peek};

    fn one(text: &str) -> Peek<'_> {
        match peek(text.as_bytes()) {
            Ok(Incoming::One(peek)) => peek,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_example_of_the_specification() {
        let text = r#"{"jsonrpc":"2.0","id":"discover-1","method":"server/discover","params":{"_meta":{
            "io.modelcontextprotocol/protocolVersion":"2026-07-28",
            "io.modelcontextprotocol/clientInfo":{"name":"ExampleClient","version":"1.0.0"},
            "io.modelcontextprotocol/clientCapabilities":{},"progressToken": "abc123"}}}"#;
        let message = one(text);
        let envelope = Envelope::of(&message).unwrap();
        assert_eq!(envelope.protocol_version, "2026-07-28");
        assert_eq!(envelope.client_capabilities.get(), "{}");
        assert_eq!(envelope.client_info.unwrap().get(), r#"{"name":"ExampleClient","version":"1.0.0"}"#);
        assert_eq!(envelope.progress_token.unwrap().get(), r#""abc123""#);
        assert!(envelope.log_level.is_none());
        assert!(Envelope::is_claimed(&message));
    }

    #[test]
    fn malformed_envelopes() {
        let v = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28""#;
        let c = r#""io.modelcontextprotocol/clientCapabilities":{}"#;
        for (params, error, claimed) in [
            (String::new(), EnvelopeError::NoMeta, false),
            (r#","params":{}"#.to_owned(), EnvelopeError::NoMeta, false),
            (r#","params":[]"#.to_owned(), EnvelopeError::NoMeta, false),
            (r#","params":{"_meta":null}"#.to_owned(), EnvelopeError::NoMeta, false),
            (r#","params":{"_meta":{}}"#.to_owned(), EnvelopeError::Missing(PROTOCOL_VERSION), false),
            (format!(r#","params":{{"_meta":{{{v}}}}}"#), EnvelopeError::Missing(CLIENT_CAPABILITIES), true),
            (format!(r#","params":{{"_meta":{{{c}}}}}"#), EnvelopeError::Missing(PROTOCOL_VERSION), false),
            (
                r#","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":1}}"#.to_owned(),
                EnvelopeError::VersionNotText,
                true,
            ),
            (
                format!(r#","params":{{"_meta":{{{v},{v},{c}}}}}"#),
                EnvelopeError::Ambiguous(MembersError::Twice),
                true,
            ),
            (
                format!(r#","params":{{"_meta":{{{v},{c}}},"_meta":{{}}}}"#),
                EnvelopeError::Ambiguous(MembersError::Twice),
                false,
            ),
        ] {
            let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m"{params}}}"#);
            assert_eq!(Envelope::of(&one(&text)).err(), Some(error), "{text}");
            assert_eq!(Envelope::is_claimed(&one(&text)), claimed, "{text}");
        }
    }

    #[test]
    fn subscriptions_are_named_by_notifications_and_answers() {
        for (text, expect) in [
            (
                r#"{"jsonrpc":"2.0","method":"m","params":{"_meta":{"io.modelcontextprotocol/subscriptionId": 1.0}}}"#,
                Some("1.0"),
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"result":{"_meta":{"io.modelcontextprotocol/subscriptionId":"a"}}}"#,
                Some("\"a\""),
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":1}}}"#,
                None,
            ),
            (r#"{"jsonrpc":"2.0","method":"m","params":{"_meta":{}}}"#, None),
            (r#"{"jsonrpc":"2.0","method":"m"}"#, None),
            (
                r#"{"jsonrpc":"2.0","method":"m","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":[1]}}}"#,
                None,
            ),
        ] {
            let message = one(text);
            let seen = subscription_id(&message).map(|(_, raw)| raw.get());
            assert_eq!(seen, expect, "{text}");
        }
    }
}
