//! Comparing what clients saw.

use serde_json::Value;
use thv_e2e::{Result, ensure};

/// How many differences are listed, and how much of each value.
const LISTED: usize = 20;
const EXCERPT: usize = 160;

/// Transcripts without the ids of sessions, which servers put into texts, and which are chosen by chance.
pub(super) fn masked(value: Value) -> Value {
    match value {
        Value::Object(members) => members.into_iter().map(|(name, value)| (name, masked(value))).collect(),
        Value::Array(entries) => entries.into_iter().map(masked).collect(),
        Value::String(text) => without_ids(&text).into(),
        other => other,
    }
}

/// What a server says or not, as chance has it.
pub(super) struct Chance {
    /// A notification, by its method.
    pub(super) news: &'static str,
    /// A question to the client, by its method.
    pub(super) question: &'static str,
    /// How the log message begins that follows the answer.
    pub(super) log: &'static str,
}

/// Takes what came by chance out of what was heard and asked over each way.
pub(super) fn without(report: &mut Value, chance: &Chance) {
    let is_log =
        |message: &Value| message["params"]["data"].as_str().is_some_and(|text| text.starts_with(chance.log));
    for seen in report.as_object_mut().into_iter().flat_map(|ways| ways.values_mut()) {
        if let Some(heard) = seen["heard"].as_array_mut() {
            heard.retain(|message| message["method"] != chance.news && !is_log(message));
        }
        if let Some(asked) = seen["asked"].as_array_mut() {
            asked.retain(|message| message["method"] != chance.question);
        }
    }
}

/// Puts `ID` in the place of each UUID.
fn without_ids(text: &str) -> String {
    const LENGTH: usize = 36;
    let is_id = |bytes: &[u8]| {
        bytes.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
    };
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        if rest.as_bytes().get(..LENGTH).is_some_and(is_id) {
            masked.push_str("ID");
            rest = &rest[LENGTH..];
        } else {
            masked.push(next);
            rest = &rest[next.len_utf8()..];
        }
    }
    masked
}

/// Where two transcripts differ, for a reader; empty when they are equal.
pub(super) fn differences(direct: &Value, guarded: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare("", direct, guarded, &mut found);
    let more = found.len().saturating_sub(LISTED);
    found.truncate(LISTED);
    if more > 0 {
        found.push(format!("and {more} more"));
    }
    found
}

fn compare(place: &str, direct: &Value, guarded: &Value, found: &mut Vec<String>) {
    match (direct, guarded) {
        (Value::Object(one), Value::Object(other)) => {
            let names = one.keys().chain(other.keys().filter(|name| !one.contains_key(*name)));
            for name in names {
                let place = format!("{place}.{name}");
                match (one.get(name), other.get(name)) {
                    (Some(one), Some(other)) => compare(&place, one, other, found),
                    (one, other) => found.push(said(&place, one, other)),
                }
            }
        }
        (Value::Array(one), Value::Array(other)) => {
            for at in 0..one.len().max(other.len()) {
                let place = format!("{place}[{at}]{}", step(one.get(at)));
                match (one.get(at), other.get(at)) {
                    (Some(one), Some(other)) => compare(&place, one, other, found),
                    (one, other) => found.push(said(&place, one, other)),
                }
            }
        }
        (one, other) if one == other => {}
        (one, other) => found.push(said(place, Some(one), Some(other))),
    }
}

/// The name of a step beside its number.
fn step(entry: Option<&Value>) -> String {
    entry.and_then(|entry| entry["step"].as_str()).map_or_else(String::new, |name| format!(" ({name})"))
}

fn said(place: &str, direct: Option<&Value>, guarded: Option<&Value>) -> String {
    let shown = |value: Option<&Value>| {
        let text = value.map_or_else(|| "nothing".to_owned(), Value::to_string);
        text.chars().take(EXCERPT).collect::<String>()
    };
    format!("{place}: directly {}, guarded {}", shown(direct), shown(guarded))
}

/// Checks that what was seen directly proves something: notifications came, the cancelled call got no answer, each of
/// many calls got one. Two transcripts of nothing would be equal too.
pub(super) fn has_substance(direct: &Value, plan: &Value) -> Result {
    let plan = plan.as_array().map_or(&[][..], Vec::as_slice);
    let steps = direct["steps"].as_array().map_or(&[][..], Vec::as_slice);
    ensure!(steps.len() == plan.len() && !plan.is_empty(), "{} of {} steps", steps.len(), plan.len());
    for (planned, seen) in plan.iter().zip(steps) {
        let result = &seen["result"];
        let holds = match planned["do"].as_str() {
            Some("hear") => result == "heard",
            Some("cancel") => result["answers"].as_array().is_some_and(Vec::is_empty),
            Some("many") => {
                result.as_array().is_some_and(|all| Some(all.len() as u64) == planned["count"].as_u64())
            }
            Some("call") if planned["progress"] == true => {
                result["progress"].as_array().is_some_and(|all| all.len() > 1)
            }
            _ => result.is_null() != seen["error"].is_null(),
        };
        ensure!(holds, "directly at the server: {seen}");
    }
    Ok(())
}

#[test]
fn differences_are_found_and_placed() {
    use serde_json::json;
    let direct = json!({ "steps": [{ "step": "a", "result": { "x": [1, 2] } }], "same": "s" });
    assert_eq!(differences(&direct, &direct), [""; 0]);
    for (guarded, expected) in [
        (
            json!({ "steps": [{ "step": "a", "result": { "x": [1, 3] } }], "same": "s" }),
            ".steps[0] (a).result.x[1]: directly 2, guarded 3",
        ),
        (
            json!({ "steps": [{ "step": "a", "error": 1, "result": { "x": [1, 2] } }], "same": "s" }),
            ".steps[0] (a).error: directly nothing, guarded 1",
        ),
        (
            json!({ "steps": [], "same": "s" }),
            ".steps[0] (a): directly {\"result\":{\"x\":[1,2]},\"step\":\"a\"}, guarded nothing",
        ),
        (
            json!({ "steps": [{ "step": "a", "result": { "x": [1, 2.0] } }], "same": "s" }),
            ".steps[0] (a).result.x[1]: directly 2, guarded 2.0",
        ),
    ] {
        assert_eq!(differences(&direct, &guarded), [expected]);
    }
    let (none, many) = (json!([]), json!(vec![0; 30]));
    assert_eq!(differences(&none, &many).last().map(String::as_str), Some("and 10 more"));
}

#[test]
fn ids_of_sessions_are_masked() {
    use serde_json::json;
    let id = "3c25e70f-07aa-4238-bb71-3538fe8cf3c1";
    let seen = json!({ "ä": [format!("from session {id}, 𝄞"), id, &id[1..], 7], "b": "-" });
    assert_eq!(masked(seen), json!({ "ä": ["from session ID, 𝄞", "ID", &id[1..], 7], "b": "-" }));
}
