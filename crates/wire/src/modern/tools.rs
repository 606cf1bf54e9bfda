//! The tools of a `tools/list` result, and the result without those that a client over HTTP must leave out
//! (2026-07-28, `server/tools`, "x-mcp-header").

use bytes::Bytes;
use serde_json::value::RawValue;

use super::schema::{InvalidAnnotation, Param, params};
use crate::message::{Peek, text};
use crate::splice::{members, splice};

/// A tool of a list.
#[derive(Debug, Clone)]
pub struct Tool<'a> {
    /// Its name. Empty if it has none.
    pub name: String,
    /// Its annotated parameters.
    pub params: Result<Vec<Param>, InvalidAnnotation>,
    json: &'a str,
}

/// The tools that an answer lists; nothing, if it is no result of `tools/list`.
pub fn tools<'a>(answer: &Peek<'a>) -> Option<Vec<Tool<'a>>> {
    let [list] = members(answer.result?, ["tools"]).ok()?;
    let list: Vec<&'a RawValue> = serde_json::from_str(list?.get()).ok()?;
    Some(list.into_iter().map(tool).collect())
}

fn tool(json: &RawValue) -> Tool<'_> {
    // What is no tool has nothing to be invalid.
    let [name, schema] = members(json, ["name", "inputSchema"]).unwrap_or_default();
    let name = name.and_then(|name| text(name.get())).unwrap_or_default().into_owned();
    Tool { name, params: schema.map_or_else(|| Ok(Vec::new()), params), json: json.get() }
}

/// The cursor of the next page of a list, as JSON text; nothing if this was the last page.
pub fn next_cursor<'a>(answer: &Peek<'a>) -> Option<&'a RawValue> {
    let [cursor] = members(answer.result?, ["nextCursor"]).ok()?;
    cursor.filter(|cursor| cursor.get().starts_with('"'))
}

/// `whole`, an answer to `tools/list` that lists `tools`, without those whose annotations are invalid. Every other
/// byte is as it was. Nothing, if none is invalid.
pub fn without_invalid(whole: &[u8], tools: &[Tool<'_>]) -> Option<Bytes> {
    let mut edits = Vec::new();
    for (at, tool) in tools.iter().enumerate() {
        if tool.params.is_ok() {
            continue;
        }
        edits.push((tool.json, ""));
        // One comma goes with each: that before it, unless nothing is left before it, then that behind it.
        let kept_before = tools[..at].iter().any(|tool| tool.params.is_ok());
        let (from, to) = match (kept_before, tools.get(at + 1)) {
            (true, _) => (&tools[at - 1], tool),
            (false, Some(next)) => (tool, next),
            (false, None) => continue,
        };
        let comma = comma_between(whole, from.json, to.json)?;
        edits.push((comma, ""));
    }
    if edits.is_empty() { None } else { splice(whole, &edits) }
}

/// The comma between two elements of an array.
fn comma_between<'a>(whole: &'a [u8], from: &str, to: &str) -> Option<&'a str> {
    let start = crate::splice::position(whole, from)?.end;
    let end = crate::splice::position(whole, to)?.start;
    let between = std::str::from_utf8(whole.get(start..end)?).ok()?;
    let comma = between.find(',')?;
    between.get(comma..=comma)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::message::{Incoming, peek};

    fn seen<T>(whole: &str, then: impl FnOnce(&Peek<'_>) -> T) -> T {
        let Ok(Incoming::One(answer)) = peek(whole.as_bytes()) else { panic!("{whole}") };
        then(&answer)
    }

    fn filtered(whole: &str) -> Option<String> {
        let out = seen(whole, |answer| without_invalid(whole.as_bytes(), &tools(answer).unwrap()))?;
        Some(String::from_utf8(out.to_vec()).unwrap())
    }

    const GOOD: &str =
        r#"{ "name":"good","inputSchema":{"properties":{"p":{"type":"string","x-mcp-header":"P"}}} }"#;
    const BAD: &str =
        r#"{"inputSchema":{"properties":{"p":{"type":"number","x-mcp-header":"P"}}},"name":"bad"}"#;

    fn list(tools: &str) -> String {
        format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{{\"tools\": [{tools}] , \"nextCursor\":\"a, b\",\"x\":1.0}}}}"
        )
    }

    #[test]
    fn invalid_tools_go_and_nothing_else() {
        for (before, after) in [
            (format!("{GOOD} , {BAD}"), format!("{GOOD}  ")),
            (format!(" {BAD} , {GOOD} "), format!("   {GOOD} ")),
            (format!("{GOOD},{BAD},{BAD},{GOOD}"), format!("{GOOD},{GOOD}")),
            (format!("{BAD},{BAD}"), String::new()),
            (format!("{BAD},{GOOD},{BAD}"), GOOD.to_owned()),
            (BAD.to_owned(), String::new()),
        ] {
            assert_eq!(filtered(&list(&before)), Some(list(&after)), "{before}");
        }
        for same in [GOOD, "", "1, null", r#"{"name":"t"}"#, r#"{"name":"t","inputSchema":null}"#] {
            assert_eq!(filtered(&list(same)), None, "{same}");
        }
    }

    #[test]
    fn names_parameters_and_cursor() {
        let whole = list(&format!("{GOOD},{BAD}"));
        seen(&whole, |answer| {
            let tools = tools(answer).unwrap();
            assert_eq!((tools[0].name.as_str(), tools[1].name.as_str()), ("good", "bad"));
            assert_eq!(tools[0].params.as_ref().unwrap()[0].path, ["p"]);
            assert!(tools[1].params.is_err());
            assert_eq!(next_cursor(answer).unwrap().get(), "\"a, b\"");
        });
        for none in [
            r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"tools":{}}}"#,
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":1}}"#,
        ] {
            assert!(seen(none, |answer| tools(answer).is_none() && next_cursor(answer).is_none()));
        }
    }

    proptest! {
        #[test]
        fn what_is_left_is_json_of_the_valid_tools(
            valid in prop::collection::vec(any::<bool>(), 0..12),
            spaces in prop::collection::vec("[ \n]{0,2}", 26),
        ) {
            let mut text = String::new();
            for (at, valid) in valid.iter().enumerate() {
                if at > 0 {
                    text += &format!("{},{}", spaces[2 * at], spaces[2 * at + 1]);
                }
                let kind = if *valid { "string" } else { "number" };
                let p = json!({"type": kind, "x-mcp-header": "P"});
                let tool = json!({"name": format!("t{at}"), "inputSchema": {"properties": {"p": p}}});
                text += &tool.to_string();
            }
            let whole = list(&text);
            let out = filtered(&whole).unwrap_or(whole);
            let left: Value = serde_json::from_str(&out).unwrap();
            let names: Vec<_> =
                left["result"]["tools"].as_array().unwrap().iter().map(|tool| tool["name"].clone()).collect();
            let expect: Vec<_> =
                (0..valid.len()).filter(|at| valid[*at]).map(|at| json!(format!("t{at}"))).collect();
            prop_assert_eq!(names, expect);
        }
    }
}
