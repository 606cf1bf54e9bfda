//! `Mcp-Param-*` of a tool call (2026-07-28, `basic/transports/streamable-http`, "Custom Headers from Tool
//! Parameters").

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::value::RawValue;

use super::headers::{differs, once};
use super::schema::Param;
use super::{Mismatch, value};
use crate::id::Id;
use crate::message::{Peek, text};
use crate::splice::members;

/// How the name of each such header begins.
pub const PREFIX: &str = "mcp-param-";

/// Whether a request carries any of them.
pub fn are_in(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| name.as_str().starts_with(PREFIX))
}

/// The headers that repeat annotated parameters of a `tools/call`, for a client to send. A parameter that is
/// absent or `null`, or an object or array, has none.
pub fn derive(params: &[Param], message: &Peek<'_>) -> Vec<(HeaderName, HeaderValue)> {
    let fields = params.iter().filter_map(|param| {
        let text = rendered(find(message, &param.path)?)?;
        Some((param.header.clone(), HeaderValue::from_str(&value::encode(&text)).ok()?))
    });
    fields.collect()
}

/// Compares the headers of annotated parameters with the arguments of a `tools/call`.
///
/// # Errors
/// [`Mismatch`], if one is missing, repeated, malformed, says something else than the body, or something of which
/// the body says nothing.
pub fn check(params: &[Param], message: &Peek<'_>, headers: &HeaderMap) -> Result<(), Mismatch> {
    for param in params {
        let name = &param.header;
        let body = find(message, &param.path).and_then(rendered);
        match (once(headers, name)?, body) {
            (None, None) => {}
            (None, Some(_)) => return Err(Mismatch(format!("{name} is missing"))),
            (Some(_), None) => {
                return Err(Mismatch(format!("{name} is there, but the body has no value for it")));
            }
            (Some(sent), Some(body)) => {
                let decoded = value::decode(sent).map_err(|error| Mismatch(format!("{name}: {error}")))?;
                if decoded != body && !(param.integer && same_number(&decoded, &body)) {
                    return Err(differs(name, &decoded, &body));
                }
            }
        }
    }
    Ok(())
}

/// The value at a path in the arguments of a `tools/call`.
fn find<'a>(message: &Peek<'a>, path: &[String]) -> Option<&'a RawValue> {
    let [arguments] = members(message.params?, ["arguments"]).ok()?;
    let mut at = arguments?;
    for name in path {
        let [next] = members(at, [name.as_str()]).ok()?;
        at = next?;
    }
    Some(at)
}

/// A value as the text of a header. An integer has neither fraction nor exponent, however the body spells it.
fn rendered(value: &RawValue) -> Option<Cow<'_, str>> {
    let json = value.get();
    match json.as_bytes().first()? {
        b'"' => text(json),
        b't' | b'f' => Some(Cow::Borrowed(json)),
        b'-' | b'0'..=b'9' => {
            let id = Id::from_valid_json(json)?;
            let whole = id.canonical().bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
            Some(if whole { Cow::Owned(id.canonical().to_owned()) } else { Cow::Borrowed(json) })
        }
        _ => None,
    }
}

/// Whether both texts are JSON numbers of one value (same section, "Server Validation").
fn same_number(a: &str, b: &str) -> bool {
    let number = |text: &str| {
        let raw: &RawValue = serde_json::from_str(text).ok()?;
        let is_number = matches!(raw.get().as_bytes().first(), Some(b'-' | b'0'..=b'9'));
        if is_number && raw.get() == text { Id::from_valid_json(text) } else { None }
    };
    matches!((number(a), number(b)), (Some(a), Some(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::message::{Incoming, peek};
    use crate::modern::schema;

    fn with<T>(arguments: &str, then: impl FnOnce(&Peek<'_>) -> T) -> T {
        let params = format!(r#"{{"name":"t","arguments":{arguments}}}"#);
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
        let Ok(Incoming::One(message)) = peek(text.as_bytes()) else { panic!("{text}") };
        then(&message)
    }

    fn params() -> Vec<Param> {
        let of = |kind: &str, name: &str| json!({"type": kind, "x-mcp-header": name});
        let schema = json!({"properties": {
            "s": of("string", "S"), "i": of("integer", "I"), "b": of("boolean", "B"),
            "o": {"type": "object", "properties": {"s": of("string", "Deep")}},
        }});
        schema::params(serde_json::from_str(&schema.to_string()).unwrap()).unwrap()
    }

    fn derived(arguments: &str) -> Vec<(String, String)> {
        let fields = with(arguments, |message| derive(&params(), message));
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        let mut fields: Vec<_> = fields.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        fields.sort();
        fields
    }

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn values_become_headers() {
        for (arguments, expect) in [
            (r#"{"s":"us-west1"}"#, vec![("mcp-param-s", "us-west1")]),
            (r#"{"s":"Hello, 世界"}"#, vec![("mcp-param-s", "=?base64?SGVsbG8sIOS4lueVjA==?=")]),
            (r#"{"s":""}"#, vec![("mcp-param-s", "")]),
            (r#"{"i":42,"b":true}"#, vec![("mcp-param-b", "true"), ("mcp-param-i", "42")]),
            (r#"{"i":-7,"b":false}"#, vec![("mcp-param-b", "false"), ("mcp-param-i", "-7")]),
            (r#"{"i":42.0}"#, vec![("mcp-param-i", "42")]),
            (r#"{"i":9007199254740991}"#, vec![("mcp-param-i", "9007199254740991")]),
            (r#"{"i":1.5}"#, vec![("mcp-param-i", "1.5")]),
            (r#"{"o":{"s":"in"}}"#, vec![("mcp-param-deep", "in")]),
            (r#"{"s":null,"i":[1],"b":{"x":1},"o":7}"#, vec![]),
            (r#"{"s":"\ud800"}"#, vec![]),
            ("{}", vec![]),
            ("null", vec![]),
        ] {
            let expect: Vec<_> = expect.into_iter().map(|(a, b)| (a.to_owned(), b.to_owned())).collect();
            assert_eq!(derived(arguments), expect, "{arguments}");
        }
    }

    #[test]
    fn what_servers_accept_and_refuse() {
        let all = r#"{"s":"x","i":42,"b":true}"#;
        for (arguments, fields, fits) in [
            ("{}", &[][..], true),
            (all, &[("mcp-param-s", "x"), ("mcp-param-i", "42"), ("mcp-param-b", "true")], true),
            (
                all,
                &[("mcp-param-s", "=?base64?eA==?="), ("mcp-param-i", "42.0"), ("mcp-param-b", "true")],
                true,
            ),
            (r#"{"i":42.0}"#, &[("mcp-param-i", "42")], true),
            (r#"{"i":42}"#, &[("mcp-param-i", "042")], false),
            (r#"{"i":42}"#, &[("mcp-param-i", "43")], false),
            (r#"{"i":42}"#, &[("mcp-param-i", "\"42\"")], false),
            (all, &[("mcp-param-i", "42"), ("mcp-param-b", "true")], false),
            (r#"{"s":"x"}"#, &[("mcp-param-s", "y")], false),
            (r#"{"s":"1"}"#, &[("mcp-param-s", "1.0")], false),
            (r#"{"s":"x"}"#, &[("mcp-param-s", "=?base64?eA?=")], false),
            (r#"{"b":true}"#, &[("mcp-param-b", "True")], false),
            (r#"{"s":null}"#, &[("mcp-param-s", "null")], false),
            (r#"{"s":null}"#, &[], true),
            ("{}", &[("mcp-param-s", "x")], false),
            // Of a header that no annotation names, nothing is said.
            ("{}", &[("mcp-param-other", "x")], true),
        ] {
            let seen = with(arguments, |message| check(&params(), message, &headers(fields)));
            assert_eq!(seen.is_ok(), fits, "{arguments} {fields:?} {seen:?}");
        }
        let mut twice = headers(&[("mcp-param-s", "x")]);
        twice.append("mcp-param-s", HeaderValue::from_static("x"));
        assert!(with(r#"{"s":"x"}"#, |message| check(&params(), message, &twice)).is_err());
    }

    fn scalar() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<String>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
            Just(Value::Null),
        ]
    }

    proptest! {
        #[test]
        fn what_is_derived_matches(s in scalar(), i in scalar(), b in scalar(), deep in scalar()) {
            let arguments = json!({"s": s, "i": i, "b": b, "o": {"s": deep}}).to_string();
            let params = params();
            with(&arguments, |message| {
                let fields: HeaderMap = derive(&params, message).into_iter().collect();
                prop_assert_eq!(check(&params, message, &fields), Ok(()));
                for name in fields.keys() {
                    let mut other = fields.clone();
                    other.remove(name);
                    prop_assert!(check(&params, message, &other).is_err());
                }
                Ok(())
            })?;
        }
    }
}
