//! JSON-RPC messages, seen without being parsed in full.
//!
//! [`peek`] checks that a text is JSON and a JSON-RPC 2.0 message and tells what a relay must know of it.
//! The parts that it shows are slices of the text, and the text itself is what goes on.
//!
//! Nesting is not limited, since nothing here recurses: what is not looked at is skipped by a loop.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

pub use crate::id::Id;

/// The most messages that a batch may hold. A batch is small by nature, and each message of it costs more
/// memory than its own text.
pub const MAX_BATCH: usize = 1024;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It has a method and an id, and must be answered.
    Request,
    /// It has a method and no id.
    Notification,
    /// It has a result or an error.
    Response,
}

/// The members of one message.
#[derive(Debug, Clone)]
pub struct Peek<'a> {
    /// What the message is.
    pub kind: Kind,
    /// Its id. A request has one, and it is not null (MCP, `basic/index`); a notification has none; a
    /// response has one, unless it is an error about a message whose id could not be read.
    pub id: Option<Id>,
    /// The same as it stands in the text, for whoever must put another in its place ([`crate::splice`]).
    pub id_json: Option<&'a RawValue>,
    /// The method of a request or a notification.
    pub method: Option<Cow<'a, str>>,
    /// The parameters, as they stand in the text.
    pub params: Option<&'a RawValue>,
    /// The result of a response.
    pub result: Option<&'a RawValue>,
    /// The error of a response.
    pub error: Option<&'a RawValue>,
}

/// One message, or several that came as a batch (2025-03-26 only).
#[derive(Debug, Clone)]
pub enum Incoming<'a> {
    /// A message alone.
    One(Peek<'a>),
    /// A batch: each message's own text, and what is in it.
    Batch(Vec<(&'a RawValue, Peek<'a>)>),
}

/// Why a text is no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeekError {
    /// It is not JSON, or not UTF-8.
    #[error("the message is not JSON")]
    NotJson,
    /// It is JSON, but not a JSON-RPC 2.0 message.
    #[error("the message is not JSON-RPC 2.0: {0}")]
    NotJsonRpc(&'static str),
}

impl PeekError {
    /// JSON-RPC's code for it.
    pub fn code(&self) -> i64 {
        match self {
            Self::NotJson => crate::code::PARSE_ERROR,
            Self::NotJsonRpc(_) => crate::code::INVALID_REQUEST,
        }
    }
}

/// The members that JSON-RPC knows. `Option<Option<…>>` is spared by `present`: a member that is `null` is
/// there all the same.
#[derive(Deserialize)]
struct Members<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    jsonrpc: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    method: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    error: Option<&'a RawValue>,
}

fn present<'de: 'a, 'a, D: Deserializer<'de>>(from: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

/// Looks at a message or a batch.
///
/// A member that appears twice is refused, since two readers could take it differently; so is a leading
/// byte order mark (RFC 8259, section 8.1).
///
/// # Errors
/// [`PeekError`], if the text is not JSON, or not what JSON-RPC 2.0 and MCP call a message.
pub fn peek(bytes: &[u8]) -> Result<Incoming<'_>, PeekError> {
    let text = std::str::from_utf8(bytes).map_err(|_| PeekError::NotJson)?;
    match text.trim_ascii_start().as_bytes().first() {
        Some(b'[') => {
            let Batch(parts) = serde_json::from_str(text).map_err(|e| kind_of(&e, "too many messages"))?;
            if parts.is_empty() {
                return Err(PeekError::NotJsonRpc("an empty batch"));
            }
            let seen = parts.into_iter().map(|part| Ok((part, peek_one(part.get())?)));
            seen.collect::<Result<_, _>>().map(Incoming::Batch)
        }
        _ => peek_one(text).map(Incoming::One),
    }
}

fn kind_of(error: &serde_json::Error, otherwise: &'static str) -> PeekError {
    if error.is_data() { PeekError::NotJsonRpc(otherwise) } else { PeekError::NotJson }
}

/// The parts of a batch, up to [`MAX_BATCH`].
struct Batch<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Batch<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Parts;
        impl<'de> serde::de::Visitor<'de> for Parts {
            type Value = Vec<&'de RawValue>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "at most {MAX_BATCH} messages")
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = seq.next_element()? {
                    if parts.len() == MAX_BATCH {
                        return Err(serde::de::Error::invalid_length(MAX_BATCH + 1, &self));
                    }
                    parts.push(part);
                }
                Ok(parts)
            }
        }
        from.deserialize_seq(Parts).map(Self)
    }
}

fn peek_one(text: &str) -> Result<Peek<'_>, PeekError> {
    // A derived struct would also be read from an array.
    if !text.trim_ascii_start().starts_with('{') {
        return match serde_json::from_str::<serde::de::IgnoredAny>(text) {
            Ok(_) => Err(PeekError::NotJsonRpc("not an object")),
            Err(_) => Err(PeekError::NotJson),
        };
    }
    let members: Members<'_> =
        serde_json::from_str(text).map_err(|e| kind_of(&e, "a member appears twice"))?;
    let refuse = |why| Err(PeekError::NotJsonRpc(why));

    if members.jsonrpc.and_then(|raw| self::text(raw.get())).as_deref() != Some("2.0") {
        return refuse("`jsonrpc` is not \"2.0\"");
    }
    let id = match members.id {
        Some(raw) => match Id::from_valid_json(raw.get()) {
            Some(id) => Some(id),
            None => return refuse("`id` is neither a string nor a number"),
        },
        None => None,
    };
    let Members { id: id_json, params, result, error, .. } = members;
    // As JSON-RPC 1.0 had it, and some servers still do: the other member is there, and says nothing.
    let (result, error) = match (result, error) {
        (Some(result), Some(error)) if error.get() == "null" => (Some(result), None),
        (Some(result), Some(error)) if result.get() == "null" => (None, Some(error)),
        one_or_both => one_or_both,
    };
    let (kind, method) = match (members.method, result.or(error)) {
        (Some(_), Some(_)) => return refuse("both a request and a response"),
        (None, None) => return refuse("neither a request nor a response"),
        (Some(raw), None) => {
            let Some(method) = self::text(raw.get()) else { return refuse("`method` is not a string") };
            match &id {
                Some(id) if id.is_null() => return refuse("the `id` of a request is null"),
                Some(_) => (Kind::Request, Some(method)),
                None => (Kind::Notification, Some(method)),
            }
        }
        (None, Some(_)) => {
            if result.is_some() && error.is_some() {
                return refuse("both a result and an error");
            }
            if result.is_some() && id.as_ref().is_none_or(Id::is_null) {
                return refuse("a result without an `id`");
            }
            (Kind::Response, None)
        }
    };
    Ok(Peek { kind, id, id_json, method, params, result, error })
}

/// The text of a JSON string, borrowed if nothing in it is escaped. Nothing for another kind of value, or
/// for half a surrogate pair. `json` must be valid JSON without surrounding space.
pub(crate) fn text(json: &str) -> Option<Cow<'_, str>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str(json).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

/// The few members of `params` or `result` that routing needs.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Inner<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    progress_token: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    request_id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    protocol_version: Option<&'a RawValue>,
    #[serde(rename = "_meta", borrow, default, deserialize_with = "present")]
    meta: Option<&'a RawValue>,
}

fn inner(raw: Option<&RawValue>) -> Option<Inner<'_>> {
    let json = raw?.get();
    if json.starts_with('{') { serde_json::from_str(json).ok() } else { None }
}

fn token(raw: &RawValue) -> Option<Id> {
    Id::from_valid_json(raw.get()).filter(|id| !id.is_null())
}

impl<'a> Peek<'a> {
    /// Whether this is a message of that method.
    pub fn is(&self, method: &str) -> bool {
        self.method.as_deref() == Some(method)
    }

    /// The progress token: the one that a request hands out (`params._meta.progressToken`), or the one that a
    /// `notifications/progress` carries (`params.progressToken`).
    pub fn progress_token(&self) -> Option<Id> {
        match self.kind {
            Kind::Request => inner(inner(self.params)?.meta)?.progress_token.and_then(token),
            Kind::Notification if self.is("notifications/progress") => {
                inner(self.params)?.progress_token.and_then(token)
            }
            _ => None,
        }
    }

    /// The id of the request that a `notifications/cancelled` is about.
    pub fn cancelled_id(&self) -> Option<Id> {
        if !self.is("notifications/cancelled") {
            return None;
        }
        inner(self.params)?.request_id.and_then(token)
    }

    /// `protocolVersion` of an `initialize` request or of its result.
    pub fn protocol_version(&self) -> Option<Cow<'a, str>> {
        text(inner(self.params.or(self.result))?.protocol_version?.get())
    }
}

/// An error response as compact JSON on one line, without a newline at its end. Without an id it carries
/// `null`, as JSON-RPC asks where the request's id is not known.
pub fn error_response(
    id: Option<&Id>,
    code: i64,
    message: &str,
    data: Option<&serde_json::Value>,
) -> Vec<u8> {
    let id = id.map_or("null", Id::as_json);
    let message = serde_json::Value::from(message);
    let mut text = format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":{message}"#);
    if let Some(data) = data {
        text.push_str(r#","data":"#);
        text.push_str(&data.to_string());
    }
    text.push_str("}}");
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn one(text: &str) -> Peek<'_> {
        match peek(text.as_bytes()) {
            Ok(Incoming::One(peek)) => peek,
            other => panic!("{other:?}"),
        }
    }

    fn refused(text: &str) -> PeekError {
        match peek(text.as_bytes()) {
            Err(e) => e,
            Ok(seen) => panic!("{seen:?}"),
        }
    }

    #[test]
    fn kinds() {
        let request = one(r#" {"jsonrpc":"2.0","id":7,"method":"tools/list","params":{"cursor":null}} "#);
        assert_eq!(request.kind, Kind::Request);
        assert_eq!(request.id.as_ref().map(Id::as_json), Some("7"));
        assert!(request.is("tools/list"));
        assert_eq!(request.params.map(RawValue::get), Some(r#"{"cursor":null}"#));

        let notification = one(r#"{"method":"notifications/initialized","jsonrpc":"2.0"}"#);
        assert_eq!(notification.kind, Kind::Notification);
        assert_eq!(notification.id, None);

        let result = one(r#"{"jsonrpc":"2.0","result":null,"id":"a"}"#);
        assert_eq!(result.kind, Kind::Response);
        assert_eq!(result.result.map(RawValue::get), Some("null"));

        for error in [
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"x"}}"#,
            r#"{"jsonrpc":"2.0","error":{"code":-32700,"message":"x"}}"#,
        ] {
            let error = one(error);
            assert_eq!(error.kind, Kind::Response);
            assert!(error.id.is_none_or(|id| id.is_null()));
        }
    }

    #[test]
    fn parts_are_slices_of_the_text() {
        let text = r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"big":123456789012345678901234567890,"f":1.0}}"#;
        let seen = one(text);
        let params = seen.params.unwrap().get();
        assert!(text.as_bytes().as_ptr_range().contains(&params.as_ptr()));
        assert!(matches!(seen.method, Some(Cow::Borrowed(_))));
    }

    #[test]
    fn not_json() {
        for text in [
            "",
            " ",
            "{",
            "}",
            "{}}",
            "nonsense",
            "Server ready on stdio",
            "\u{feff}{\"jsonrpc\":\"2.0\",\"method\":\"a\"}",
            r#"{"jsonrpc":"2.0","method":"a"}{"jsonrpc":"2.0","method":"a"}"#,
            r#"{"jsonrpc":"2.0","method":"a",}"#,
            r#"{"jsonrpc":"2.0","method":"a","params":[1,]}"#,
            r#"{"jsonrpc":"2.0","id":01,"method":"a"}"#,
            r#"{"jsonrpc":"2.0","id":NaN,"method":"a"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"a"} x"#,
            "[1",
            "[",
        ] {
            assert_eq!(refused(text), PeekError::NotJson, "{text}");
        }
        assert_eq!(peek(b"{\"jsonrpc\":\"2.0\",\"method\":\"\xff\"}").unwrap_err(), PeekError::NotJson);
    }

    #[test]
    fn not_json_rpc() {
        for text in [
            "{}",
            "1",
            "\"x\"",
            "null",
            "[]",
            "[[]]",
            "[1]",
            r#"[["2.0",1,"a"]]"#,
            r#"{"level":30,"msg":"listening"}"#,
            r#"{"id":1,"method":"a"}"#,
            r#"{"jsonrpc":2.0,"id":1,"method":"a"}"#,
            r#"{"jsonrpc":"1.0","id":1,"method":"a"}"#,
            r#"{"jsonrpc":"2.0","id":1}"#,
            r#"{"jsonrpc":"2.0","id":null,"method":"a"}"#,
            r#"{"jsonrpc":"2.0","id":[1],"method":"a"}"#,
            r#"{"jsonrpc":"2.0","id":true,"method":"a"}"#,
            r#"{"jsonrpc":"2.0","id":"\ud800","method":"a"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":7}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"\udc00"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"a","result":1}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":1,"error":{}}"#,
            r#"{"jsonrpc":"2.0","result":1}"#,
            r#"{"jsonrpc":"2.0","id":null,"result":1}"#,
        ] {
            assert!(matches!(refused(text), PeekError::NotJsonRpc(_)), "{text}");
        }
    }

    #[test]
    fn a_null_beside_the_answer_is_none() {
        let result = one(r#"{"jsonrpc":"2.0","id":1,"result":{"a":1.0},"error":null}"#);
        assert_eq!((result.kind, result.result.map(RawValue::get)), (Kind::Response, Some(r#"{"a":1.0}"#)));
        assert!(result.error.is_none());
        let error = one(r#"{"jsonrpc":"2.0","id":1,"result":null,"error":{"code":1,"message":"x"}}"#);
        assert!(error.result.is_none() && error.error.is_some());
        let null = one(r#"{"jsonrpc":"2.0","id":1,"result":null,"error":null}"#);
        assert!(null.result.is_some() && null.error.is_none());
    }

    #[test]
    fn a_member_twice_is_refused_however_it_is_spelt() {
        for text in [
            r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"a"}"#,
            r#"{"jsonrpc":"2.0","id":1,"\u0069d":2,"method":"a"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"a","method":"b"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{},"params":{}}"#,
        ] {
            assert_eq!(refused(text), PeekError::NotJsonRpc("a member appears twice"), "{text}");
        }
        // Members that JSON-RPC does not know are nobody's business here.
        one(r#"{"jsonrpc":"2.0","id":1,"method":"a","x":1,"x":2}"#);
    }

    #[test]
    fn half_a_surrogate_in_the_parameters_passes() {
        one(r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{"s":"\ud800"}}"#);
    }

    #[test]
    fn deep_nesting_takes_no_stack() {
        let deep = 2_000_000;
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let core = if open == "[" { "" } else { "1" };
            let nest = format!("{}{core}{}", open.repeat(deep), close.repeat(deep));
            let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"a","params":{nest}}}"#);
            assert!(one(&text).progress_token().is_none());
            let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"a","unknown":{nest}}}"#);
            one(&text);
            let text = format!(r#"{{"jsonrpc":"2.0","id":{nest},"method":"a"}}"#);
            assert!(matches!(refused(&text), PeekError::NotJsonRpc(_)));
        }
        assert_eq!(refused(&"[".repeat(deep)), PeekError::NotJson);
        assert_eq!(refused(&"{\"a\":".repeat(deep)), PeekError::NotJson);
    }

    #[test]
    fn batches() {
        let text = r#"[{"jsonrpc":"2.0","id":1,"method":"a"} , {"jsonrpc":"2.0","method":"b"}]"#;
        let Ok(Incoming::Batch(parts)) = peek(text.as_bytes()) else { panic!() };
        assert_eq!(parts.len(), 2);
        assert_eq!(parts[0].0.get(), r#"{"jsonrpc":"2.0","id":1,"method":"a"}"#);
        assert_eq!(parts[1].1.kind, Kind::Notification);

        let batch = |n: usize| format!("[{}]", vec![r#"{"jsonrpc":"2.0","method":"b"}"#; n].join(","));
        assert!(peek(batch(MAX_BATCH).as_bytes()).is_ok());
        assert_eq!(refused(&batch(MAX_BATCH + 1)), PeekError::NotJsonRpc("too many messages"));
    }

    #[test]
    fn members_for_routing() {
        let request = one(
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","_meta":{"progressToken":"p"}}}"#,
        );
        assert_eq!(request.progress_token(), Some(Id::string("p")));
        let progress = one(
            r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1.0,"progress":1}}"#,
        );
        assert_eq!(progress.progress_token(), Some(Id::number(1)));
        let cancelled = one(
            r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":9,"reason":"x"}}"#,
        );
        assert_eq!(cancelled.cancelled_id(), Some(Id::number(9)));
        let init = one(
            r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18"}}"#,
        );
        assert_eq!(init.protocol_version().as_deref(), Some("2025-06-18"));
        let answer = one(r#"{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25"}}"#);
        assert_eq!(answer.protocol_version().as_deref(), Some("2025-11-25"));
    }

    #[test]
    fn members_for_routing_of_the_wrong_shape_are_absent() {
        for params in ["1", "[]", "null", "{}", r#"{"_meta":1}"#, r#"{"_meta":{"progressToken":null}}"#] {
            let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"a","params":{params}}}"#);
            assert_eq!(one(&text).progress_token(), None, "{params}");
        }
        let other = one(r#"{"jsonrpc":"2.0","method":"other","params":{"requestId":9,"progressToken":1}}"#);
        assert_eq!((other.cancelled_id(), other.progress_token()), (None, None));
    }

    #[test]
    fn errors_are_messages() {
        let id = Id::string("a\"b\n");
        let text = error_response(
            Some(&id),
            -33002,
            "it \"broke\"\nhere",
            Some(&json!({"reason": "connection_lost"})),
        );
        assert!(!text.contains(&b'\n'));
        let seen = one(std::str::from_utf8(&text).unwrap());
        assert_eq!((seen.kind, seen.id), (Kind::Response, Some(id)));
        let error: Value = serde_json::from_str(seen.error.unwrap().get()).unwrap();
        assert_eq!(error["message"], "it \"broke\"\nhere");
        assert_eq!(error["data"]["reason"], "connection_lost");

        let text = error_response(None, crate::code::PARSE_ERROR, "x", None);
        assert_eq!(text, br#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"x"}}"#);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::hash_map(any::<String>(), inner, 0..6)
                    .prop_map(|map| Value::from(serde_json::Map::from_iter(map))),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_request_is_seen_as_it_is(id in any::<u64>(), method in any::<String>(), params in any_json()) {
            let text = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string();
            let seen = one(&text);
            prop_assert_eq!(seen.kind, Kind::Request);
            prop_assert_eq!(seen.id, Some(Id::number(id)));
            prop_assert_eq!(seen.method.as_deref(), Some(&*method));
            let expected = params.to_string();
            prop_assert_eq!(seen.params.map(RawValue::get), Some(&*expected));
        }

        #[test]
        fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = peek(&bytes);
        }

        #[test]
        fn json_is_told_from_what_is_not(value in any_json(), cut in any::<prop::sample::Index>()) {
            let text = json!({"jsonrpc": "2.0", "id": 1, "result": value}).to_string();
            prop_assert!(peek(text.as_bytes()).is_ok());
            let cut = cut.index(text.len());
            prop_assert_eq!(peek(&text.as_bytes()[..cut]).unwrap_err(), PeekError::NotJson);
        }
    }
}
