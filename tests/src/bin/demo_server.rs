//! A small, honest MCP server on stdio, for the demo and for tests: tools `echo`, `add` and `now`.
//!
//! It speaks the revisions without batches, answers what it is asked, and ends when its input does.
#![allow(clippy::print_stdout, reason = "stdout is the wire of a stdio server")]

use serde_json::{Value, json};
use std::io::{BufRead, Write};
use std::time::{SystemTime, UNIX_EPOCH};

const REVISIONS: [&str; 2] = ["2025-11-25", "2025-06-18"];

const PARSE_ERROR: i64 = -32700;
const INVALID_REQUEST: i64 = -32600;
const METHOD_NOT_FOUND: i64 = -32601;
const INVALID_PARAMS: i64 = -32602;

fn main() -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    for line in std::io::stdin().lock().split(b'\n') {
        if let Some(answer) = answer(&line?) {
            writeln!(stdout, "{answer}")?;
            stdout.flush()?;
        }
    }
    Ok(())
}

/// The answer to one line, if it gets one: notifications and responses do not.
fn answer(line: &[u8]) -> Option<Value> {
    let Ok(message) = serde_json::from_slice::<Value>(line) else {
        return (!line.trim_ascii().is_empty()).then(|| error(&Value::Null, PARSE_ERROR, "this is not JSON"));
    };
    let Some(method) = message["method"].as_str() else {
        let is_response = message.get("result").or(message.get("error")).is_some();
        return (!is_response)
            .then(|| error(&Value::Null, INVALID_REQUEST, "this is not a JSON-RPC request"));
    };
    let id = message.get("id")?;
    Some(match handle(method, &message["params"]) {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err((code, text)) => error(id, code, &text),
    })
}

fn error(id: &Value, code: i64, text: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": text } })
}

fn handle(method: &str, params: &Value) -> Result<Value, (i64, String)> {
    match method {
        "initialize" => Ok(initialize(params)),
        "ping" => Ok(json!({})),
        "tools/list" => Ok(json!({ "tools": tools() })),
        "tools/call" => call(params),
        _ => Err((METHOD_NOT_FOUND, format!("no such method: {method}"))),
    }
}

fn initialize(params: &Value) -> Value {
    let wanted = params["protocolVersion"].as_str();
    let revision = REVISIONS.iter().find(|have| wanted == Some(have)).unwrap_or(&REVISIONS[0]);
    json!({
        "protocolVersion": revision,
        "capabilities": { "tools": {} },
        "serverInfo": { "name": "demo-server", "version": env!("CARGO_PKG_VERSION") },
    })
}

fn tools() -> Value {
    json!([
        {
            "name": "echo",
            "description": "Gives a text back",
            "inputSchema": {
                "type": "object",
                "properties": { "text": { "type": "string" } },
                "required": ["text"],
            },
        },
        {
            "name": "add",
            "description": "Adds two numbers",
            "inputSchema": {
                "type": "object",
                "properties": { "a": { "type": "number" }, "b": { "type": "number" } },
                "required": ["a", "b"],
            },
        },
        {
            "name": "now",
            "description": "Tells the time in UTC",
            "inputSchema": { "type": "object" },
        },
    ])
}

fn call(params: &Value) -> Result<Value, (i64, String)> {
    let arguments = &params["arguments"];
    let text = match params["name"].as_str() {
        Some("echo") => arguments["text"].as_str().map(str::to_owned).ok_or("echo needs `text`, a string"),
        Some("add") => add(&arguments["a"], &arguments["b"]).ok_or("add needs `a` and `b`, two numbers"),
        Some("now") => Ok(utc(SystemTime::now())),
        _ => return Err((INVALID_PARAMS, format!("no such tool: {}", params["name"]))),
    };
    // Wrong arguments are the tool's own failure, which the model is meant to see.
    let (text, is_error) = match text {
        Ok(text) => (text, false),
        Err(text) => (text.to_owned(), true),
    };
    Ok(json!({ "content": [{ "type": "text", "text": text }], "isError": is_error }))
}

/// Whole numbers stay whole as long as the sum fits.
fn add(a: &Value, b: &Value) -> Option<String> {
    let whole = a.as_i64().zip(b.as_i64()).and_then(|(a, b)| a.checked_add(b));
    whole.map(|sum| sum.to_string()).or_else(|| Some((a.as_f64()? + b.as_f64()?).to_string()))
}

/// `2026-01-31T12:00:00Z`. The date follows Howard Hinnant's `civil_from_days`.
fn utc(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
        ];
        for (seconds, text) in cases {
            assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn lines() {
        let check = |line: &str, expect: Option<Value>| assert_eq!(answer(line.as_bytes()), expect, "{line}");
        let text = |id: i32, text: &str, is_error: bool| {
            let result = json!({ "content": [{ "type": "text", "text": text }], "isError": is_error });
            Some(json!({ "jsonrpc": "2.0", "id": id, "result": result }))
        };
        let call = |id: i32, name: &str, arguments: Value| {
            json!({ "id": id, "method": "tools/call", "params": { "name": name, "arguments": arguments } })
                .to_string()
        };
        check("", None);
        check("\r", None);
        check("{", Some(error(&Value::Null, PARSE_ERROR, "this is not JSON")));
        check("[]", Some(error(&Value::Null, INVALID_REQUEST, "this is not a JSON-RPC request")));
        check(r#"{"id":1,"result":{}}"#, None);
        check(r#"{"method":"notifications/initialized"}"#, None);
        check(r#"{"id":"x","method":"ping"}"#, Some(json!({ "jsonrpc": "2.0", "id": "x", "result": {} })));
        check(r#"{"id":1,"method":"no"}"#, Some(error(&json!(1), METHOD_NOT_FOUND, "no such method: no")));
        check(&call(1, "echo", json!({ "text": "ä" })), text(1, "ä", false));
        check(&call(2, "add", json!({ "a": 19, "b": 23 })), text(2, "42", false));
        check(&call(3, "add", json!({ "a": 0.5, "b": 1 })), text(3, "1.5", false));
        check(
            &call(4, "add", json!({ "a": "1", "b": 1 })),
            text(4, "add needs `a` and `b`, two numbers", true),
        );
        check(&call(5, "rm", json!({})), Some(error(&json!(5), INVALID_PARAMS, "no such tool: \"rm\"")));
    }

    #[test]
    fn a_known_revision_is_kept_and_an_unknown_one_answered_with_the_newest() {
        for (asked, given) in
            [("2025-06-18", "2025-06-18"), ("2025-11-25", "2025-11-25"), ("1999", "2025-11-25")]
        {
            assert_eq!(initialize(&json!({ "protocolVersion": asked }))["protocolVersion"], given);
        }
    }
}
