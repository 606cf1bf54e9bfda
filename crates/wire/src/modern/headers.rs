//! `MCP-Protocol-Version`, `Mcp-Method` and `Mcp-Name` (2026-07-28, `basic/transports/streamable-http`,
//! "Standard Request Headers" and "Server Validation").

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::envelope::Envelope;
use super::{Mismatch, value};
use crate::header;
use crate::message::{Peek, text};
use crate::splice::members;

/// A method, or a version, that no header can carry: those two have no encoding.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` of the request cannot be the value of a header")]
pub struct NoHeader(HeaderName);

/// What a request about a task names.
const TASK_ID: &str = "taskId";

/// The member of `params` that `Mcp-Name` repeats, for the methods that have one.
pub fn name_member(method: &str) -> Option<&'static str> {
    match method {
        "tools/call" | "prompts/get" => Some("name"),
        "resources/read" => Some("uri"),
        "tasks/get" | "tasks/update" | "tasks/cancel" => Some(TASK_ID),
        _ => None,
    }
}

/// What `Mcp-Name` repeats; nothing for another method, or if the parameter is not there or no text.
pub fn name<'a>(message: &Peek<'a>) -> Option<Cow<'a, str>> {
    let member = name_member(message.method.as_deref()?)?;
    let [name] = members(message.params?, [member]).ok()?;
    text(name?.get())
}

/// The standard headers of a message in this version of the protocol, for a client to send.
///
/// # Errors
/// [`NoHeader`], if method or version hold what a header cannot.
pub fn derive(message: &Peek<'_>, version: &str) -> Result<Vec<(HeaderName, HeaderValue)>, NoHeader> {
    let plain = |name: HeaderName, text: &str| match HeaderValue::from_str(text) {
        // The far end would get it without the spaces around it.
        Ok(value) if text.trim_ascii() == text && text.is_ascii() => Ok((name, value)),
        _ => Err(NoHeader(name)),
    };
    let method = message.method.as_deref().unwrap_or_default();
    let mut fields = vec![plain(header::PROTOCOL_VERSION, version)?, plain(header::METHOD, method)?];
    if let Some(name) = name(message) {
        fields.push(plain(header::NAME, &value::encode(&name))?);
    }
    Ok(fields)
}

/// Compares the standard headers of a request with its body.
///
/// # Errors
/// [`Mismatch`], if one is missing, repeated, malformed, or says something else than the body.
pub fn check(headers: &HeaderMap, message: &Peek<'_>, envelope: &Envelope<'_>) -> Result<(), Mismatch> {
    let same = |name: &HeaderName, body: &str| match once(headers, name)? {
        Some(value) if value == body => Ok(()),
        Some(value) => Err(differs(name, value, body)),
        None => Err(Mismatch(format!("{name} is missing"))),
    };
    same(&header::PROTOCOL_VERSION, &envelope.protocol_version)?;
    same(&header::METHOD, message.method.as_deref().unwrap_or_default())?;

    let Some(member) = name_member(message.method.as_deref().unwrap_or_default()) else { return Ok(()) };
    let name = &header::NAME;
    match (once(headers, name)?, self::name(message)) {
        (Some(sent), Some(body)) => match value::decode(sent) {
            Ok(decoded) if decoded == body => Ok(()),
            Ok(decoded) => Err(differs(name, &decoded, &body)),
            Err(error) => Err(Mismatch(format!("{name}: {error}"))),
        },
        // Tasks are an extension (SEP-2663), whose clients may not know of it.
        (None, Some(_)) if member == TASK_ID => Ok(()),
        (None, Some(_)) => Err(Mismatch(format!("{name} is missing"))),
        (Some(_), None) => Err(Mismatch(format!("{name} is there, but the body names nothing"))),
        // The server says what it thinks of a request without a name.
        (None, None) => Ok(()),
    }
}

/// A header that may be there once, and must be text.
pub(super) fn once<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Mismatch> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            let text = value.to_str().map_err(|_| Mismatch(format!("{name} contains invalid characters")))?;
            Ok(Some(text))
        }
        // A reader of the first and a reader of the last would disagree.
        _ => Err(Mismatch(format!("{name} is there more than once"))),
    }
}

pub(super) fn differs(name: &HeaderName, header: &str, body: &str) -> Mismatch {
    let short = |text: &str| -> String { text.chars().take(100).collect() };
    Mismatch(format!("{name} is '{}', but the body says '{}'", short(header), short(body)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::message::{Incoming, peek};
    use crate::modern::envelope::{CLIENT_CAPABILITIES, PROTOCOL_VERSION};

    fn body(method: &str, params: serde_json::Value) -> String {
        let mut params = params;
        params["_meta"] = json!({PROTOCOL_VERSION: "2026-07-28", CLIENT_CAPABILITIES: {}});
        json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string()
    }

    fn with<T>(body: &str, then: impl FnOnce(&Peek<'_>, &Envelope<'_>) -> T) -> T {
        let Ok(Incoming::One(message)) = peek(body.as_bytes()) else { panic!("{body}") };
        then(&message, &Envelope::of(&message).unwrap())
    }

    fn derived(body: &str) -> HeaderMap {
        with(body, |message, envelope| {
            derive(message, &envelope.protocol_version).unwrap().into_iter().collect()
        })
    }

    fn checked(headers: &HeaderMap, body: &str) -> Result<(), Mismatch> {
        with(body, |message, envelope| check(headers, message, envelope))
    }

    fn fields(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn the_examples_of_the_specification() {
        let call =
            body("tools/call", json!({"name": "get_weather", "arguments": {"location": "Seattle, WA"}}));
        let expect = fields(&[
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", "tools/call"),
            ("mcp-name", "get_weather"),
        ]);
        assert_eq!(derived(&call), expect);
        let read = body("resources/read", json!({"uri": "file:///projects/myapp/config.json"}));
        assert_eq!(derived(&read)["mcp-name"], "file:///projects/myapp/config.json");
        assert!(!derived(&body("tools/list", json!({"name": "x"}))).contains_key("mcp-name"));
    }

    #[test]
    fn headers_that_do_not_match() {
        let call = body("tools/call", json!({"name": "bar"}));
        let (version, method) = (("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/call"));
        for (headers, message) in [
            (vec![version, method], "mcp-name is missing"),
            (vec![version, ("mcp-name", "bar")], "mcp-method is missing"),
            (vec![method, ("mcp-name", "bar")], "mcp-protocol-version is missing"),
            (vec![version, method, ("mcp-name", "foo")], "mcp-name is 'foo', but the body says 'bar'"),
            (vec![version, method, ("mcp-name", "BAR")], "mcp-name is 'BAR', but the body says 'bar'"),
            (
                vec![version, ("mcp-method", "tools/list"), ("mcp-name", "bar")],
                "mcp-method is 'tools/list', but the body says 'tools/call'",
            ),
            (
                vec![version, method, ("mcp-name", "=?base64?YQ?=")],
                "mcp-name: the value is marked as Base64, but is not canonical Base64 of UTF-8",
            ),
            (vec![version, method, ("mcp-name", "b\u{e4}r")], "mcp-name contains invalid characters"),
        ] {
            let error = checked(&fields(&headers), &call).unwrap_err();
            assert_eq!(error.to_string(), format!("header mismatch: {message}"));
        }
        let mut twice = fields(&[version, method, ("mcp-name", "bar")]);
        twice.append("mcp-name", HeaderValue::from_static("bar"));
        assert!(checked(&twice, &call).is_err());
        // Encoded although it need not be.
        assert_eq!(checked(&fields(&[version, method, ("mcp-name", "=?base64?YmFy?=")]), &call), Ok(()));
    }

    #[test]
    fn a_request_without_its_name_is_the_servers_to_refuse() {
        let nameless = body("tools/call", json!({}));
        let mut headers = fields(&[("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/call")]);
        assert_eq!(checked(&headers, &nameless), Ok(()));
        headers.insert("mcp-name", HeaderValue::from_static("x"));
        assert!(checked(&headers, &nameless).is_err());
    }

    #[test]
    fn a_task_is_named_by_its_id_and_need_not_be() {
        for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
            let text = body(method, json!({"taskId": "t-1", "name": "x"}));
            let mut headers = derived(&text);
            assert_eq!(headers["mcp-name"], "t-1", "{method}");
            headers.insert("mcp-name", HeaderValue::from_static("t-2"));
            assert!(checked(&headers, &text).is_err(), "{method}");
            headers.remove("mcp-name");
            assert_eq!(checked(&headers, &text), Ok(()), "{method}");
        }
    }

    #[test]
    fn a_method_that_no_header_can_carry() {
        for method in ["tools/\n", " x", "größe"] {
            let error =
                with(&body(method, json!({})), |message, _| derive(message, "2026-07-28")).unwrap_err();
            assert_eq!(error, NoHeader(header::METHOD), "{method}");
        }
    }

    proptest! {
        #[test]
        fn what_is_derived_matches(name in any::<String>(), method in prop_oneof![
            Just("tools/call"), Just("prompts/get"), Just("resources/read"), Just("server/discover"),
            Just("tasks/get"), Just("tasks/update"), Just("tasks/cancel"),
        ]) {
            let member = name_member(method).unwrap_or("name");
            let text = body(method, json!({member: name}));
            let headers = derived(&text);
            prop_assert_eq!(checked(&headers, &text), Ok(()));
            if name_member(method).is_some() {
                let other = body(method, json!({member: format!("{name}x")}));
                prop_assert!(checked(&headers, &other).is_err());
            }
        }
    }
}
