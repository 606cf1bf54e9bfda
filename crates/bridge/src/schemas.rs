//! Which parameters of the server's tools are repeated in headers (MCP 2026-07-28, `basic/transports/streamable-http`,
//! "Custom Headers from Tool Parameters"), and which tools the client must not see.
//!
//! What is known comes from the client's own `tools/list`. Where the client calls a tool that nobody has listed, and
//! where the server says that headers do not match, the relay lists the tools itself.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use serde_json::value::RawValue;
use thv_wire::message::{Id, Incoming, Kind, Peek, peek};
use thv_wire::modern::envelope::{CLIENT_CAPABILITIES, CLIENT_INFO, PROTOCOL_VERSION};
use thv_wire::modern::tools::{Tool, next_cursor, tools, without_invalid};
use thv_wire::modern::{Envelope, Param, headers, params};
use thv_wire::splice::members;
use tokio::time::timeout;

use crate::asked::NO_SESSION;
use crate::era::Modern;
use crate::exchange::Call;
use crate::pool::Effort;
use crate::relay::Relay;
use crate::session::Session;

/// How long the relay's own listing may take. The call that waits for it goes on all the same then.
const PATIENCE: Duration = Duration::from_secs(10);

/// The most pages of it.
const MAX_PAGES: usize = 100;

/// The most annotated parameters of a tool that are repeated. No server takes as many fields.
const MAX_PARAMS: usize = 256;

/// What is remembered may take so much, in bytes. A tool beyond it is taken for one without annotations.
const MAX_MEMORY: usize = 1024 * 1024;

/// The annotated parameters of the server's tools.
#[derive(Debug, Default)]
pub(crate) struct Schemas {
    known: Mutex<Known>,
    /// How often all tools were listed, or were to be: by the client or by the relay.
    listed: AtomicU64,
    /// Held while the relay lists them.
    listing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    /// Of tools that annotate any.
    tools: HashMap<String, Vec<Param>>,
    memory: usize,
}

impl Known {
    fn set(&mut self, name: String, params: Vec<Param>) {
        if let Some(old) = self.tools.remove(&name) {
            self.memory -= cost(&name, &old);
        }
        if params.is_empty() {
            return;
        }
        let cost = cost(&name, &params);
        if params.len() > MAX_PARAMS || self.memory + cost > MAX_MEMORY {
            tracing::warn!(tool = %short(&name), "too many annotated parameters; they are not repeated in headers");
        } else {
            self.memory += cost;
            self.tools.insert(name, params);
        }
    }
}

fn cost(name: &str, params: &[Param]) -> usize {
    let of = |param: &Param| {
        param.header.as_str().len() + param.path.iter().map(|part| part.len() + 32).sum::<usize>() + 64
    };
    name.len() + params.iter().map(of).sum::<usize>()
}

/// A name for the log.
fn short(name: &str) -> String {
    name.chars().take(100).collect()
}

impl Schemas {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listed(&self) -> u64 {
        self.listed.load(Ordering::Acquire)
    }

    /// Takes note of what an answer to `tools/list` says. Returns the answer as the client may see it if that differs:
    /// without the tools whose annotations are invalid (same section: "the client MUST exclude the invalid tool").
    pub(crate) fn learn(&self, answer: &Bytes, id: &Id) -> Option<Bytes> {
        let Ok(Incoming::One(seen)) = peek(answer) else { return None };
        if seen.kind != Kind::Response || seen.id.as_ref() != Some(id) {
            return None;
        }
        let tools = tools(&seen)?;
        let fit = without_invalid(answer, &tools);
        self.note(tools);
        if next_cursor(&seen).is_none() {
            self.listed.fetch_add(1, Ordering::Release);
        }
        fit
    }

    fn note(&self, tools: Vec<Tool<'_>>) {
        for Tool { name, params, .. } in tools {
            if let Err(error) = &params {
                tracing::warn!(tool = %short(&name), %error, "tool left out of the list");
            }
            self.known().set(name, params.unwrap_or_default());
        }
    }

    /// The headers of a tool call, as far as the tool is known.
    fn fields(&self, seen: &Peek<'_>) -> HeaderMap {
        let Some(name) = headers::name(seen) else { return HeaderMap::new() };
        let known = self.known();
        let Some(found) = known.tools.get(&*name) else { return HeaderMap::new() };
        params::derive(found, seen).into_iter().collect()
    }
}

/// The `Mcp-Param-*` of one call, and when they were derived.
pub(crate) struct Fields {
    pub(crate) headers: HeaderMap,
    listed: u64,
}

impl Relay {
    /// The headers of annotated parameters for a `tools/call`.
    pub(crate) async fn param_fields(&self, call: &[u8]) -> Fields {
        let Ok(Incoming::One(seen)) = peek(call) else {
            return Fields { headers: HeaderMap::new(), listed: 0 };
        };
        if self.schemas.listed() == 0 && has_arguments(&seen) {
            self.list_tools(0, &seen).await;
        }
        let listed = self.schemas.listed();
        Fields { headers: self.schemas.fields(&seen), listed }
    }

    /// The server says that headers and body of the call do not match. Its headers by the tools of now, if they are
    /// others (same section, "Client Behavior").
    pub(crate) async fn other_param_fields(&self, call: &[u8], sent: &Fields) -> Option<Fields> {
        let Ok(Incoming::One(seen)) = peek(call) else { return None };
        self.list_tools(sent.listed, &seen).await;
        let listed = self.schemas.listed();
        let headers = self.schemas.fields(&seen);
        (headers != sent.headers).then_some(Fields { headers, listed })
    }

    /// Lists the server's tools on behalf of a call, unless somebody did or tried since they were listed so often.
    async fn list_tools(&self, seen: u64, call: &Peek<'_>) {
        let _turn = self.schemas.listing.lock().await;
        if self.schemas.listed() != seen {
            return;
        }
        let Ok(envelope) = Envelope::of(call) else { return };
        match timeout(PATIENCE, self.read_tools(&envelope)).await {
            Ok(Some(found)) => *self.schemas.known() = found,
            Ok(None) => tracing::debug!("the tools could not be listed"),
            Err(_) => tracing::debug!("the tools were not listed in time"),
        }
        // Also in vain: those who waited do not try it one after the other.
        self.schemas.listed.fetch_add(1, Ordering::Release);
    }

    async fn read_tools(&self, envelope: &Envelope<'_>) -> Option<Known> {
        let mut found = Known::default();
        let mut cursor: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let waiting = self.own.expect();
            let params = list_params(envelope, cursor.as_deref());
            let body = waiting.request("tools/list", params.as_bytes());
            let Ok(Incoming::One(request)) = peek(&body) else { return None };
            let fields = Modern::with(&request, Some(&envelope.protocol_version)).ok()?.headers;
            let post = self.post(&Session::default(), body.clone());
            let call = Call { headers: fields, effort: Effort::Look, ..post };
            let (_, answer) = self.hear(&call, waiting, NO_SESSION).await.ok()?;
            let Ok(Incoming::One(page)) = peek(&answer) else { return None };
            for Tool { name, params, .. } in tools(&page)? {
                found.set(name, params.unwrap_or_default());
            }
            let next = next_cursor(&page).map(|cursor| cursor.get().to_owned());
            if next.is_none() || next == cursor {
                return Some(found);
            }
            cursor = next;
        }
        None
    }
}

fn has_arguments(call: &Peek<'_>) -> bool {
    let arguments = call.params.and_then(|params| members(params, ["arguments"]).ok()?[0]);
    arguments.is_some_and(|arguments| arguments.get().starts_with('{'))
}

/// The parameters of `tools/list` on behalf of a caller: which tools it may see depends on what it says of itself.
fn list_params(envelope: &Envelope<'_>, cursor: Option<&str>) -> String {
    let version = serde_json::Value::from(&*envelope.protocol_version);
    let mut text = format!(r#"{{"_meta":{{"{PROTOCOL_VERSION}":{version}"#);
    if let Some(info) = envelope.client_info.map(RawValue::get) {
        text += &format!(r#","{CLIENT_INFO}":{info}"#);
    }
    text += &format!(r#","{CLIENT_CAPABILITIES}":{}}}"#, envelope.client_capabilities.get());
    if let Some(cursor) = cursor {
        text += &format!(r#","cursor":{cursor}"#);
    }
    text.push('}');
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn list(tools: &Value) -> Bytes {
        json!({"jsonrpc": "2.0", "id": 1, "result": {"tools": tools}}).to_string().into()
    }

    fn tool(name: &str, kind: &str, count: usize) -> Value {
        let of = |n: usize| (format!("p{n}"), json!({"type": kind, "x-mcp-header": format!("H{n}")}));
        let properties: serde_json::Map<String, Value> = (0..count).map(of).collect();
        json!({"name": name, "inputSchema": {"type": "object", "properties": properties}})
    }

    fn fields(schemas: &Schemas, tool: &str) -> usize {
        let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": {"name": tool, "arguments": {"p0": "a", "p1": "b"}}});
        let text = call.to_string();
        let Ok(Incoming::One(seen)) = peek(text.as_bytes()) else { panic!("{text}") };
        schemas.fields(&seen).len()
    }

    #[test]
    fn what_was_listed_last_counts() {
        let schemas = Schemas::default();
        let id = Id::number(1);
        assert_eq!(schemas.learn(&list(&json!([tool("a", "string", 2), tool("b", "string", 0)])), &id), None);
        assert_eq!((fields(&schemas, "a"), fields(&schemas, "b"), fields(&schemas, "c")), (2, 0, 0));
        assert!(schemas.learn(&list(&json!([tool("a", "number", 1)])), &id).is_some());
        assert_eq!(fields(&schemas, "a"), 0);
        assert_eq!((schemas.known().memory, schemas.listed()), (0, 2));
        // Another request's answer, and what is no list, say nothing.
        assert_eq!(schemas.learn(&list(&json!([tool("a", "number", 1)])), &Id::number(2)), None);
        assert_eq!(schemas.learn(&list(&json!(7)), &id), None);
        assert_eq!(schemas.listed(), 2);
    }

    #[test]
    fn a_server_cannot_fill_the_memory() {
        let schemas = Schemas::default();
        let id = Id::number(1);
        schemas.learn(&list(&json!([tool("many", "string", MAX_PARAMS + 1)])), &id);
        assert_eq!(fields(&schemas, "many"), 0);
        let name = "x".repeat(100_000);
        for n in 0..20 {
            schemas.learn(&list(&json!([tool(&format!("{n}{name}"), "string", 2)])), &id);
        }
        assert!(schemas.known().memory <= MAX_MEMORY && schemas.known().tools.len() < 20);
        // What is forgotten makes room.
        let gone: Vec<Value> = (0..20).map(|n| tool(&format!("{n}{name}"), "string", 0)).collect();
        schemas.learn(&list(&json!(gone)), &id);
        assert_eq!(schemas.known().memory, 0);
    }

    #[test]
    fn the_relay_lists_in_the_name_of_the_caller() {
        let text =
            json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "t", "_meta": {
            PROTOCOL_VERSION: "2026-07-28", CLIENT_CAPABILITIES: {"x": 1}, "progressToken": 7}}})
            .to_string();
        let Ok(Incoming::One(seen)) = peek(text.as_bytes()) else { panic!("{text}") };
        let envelope = Envelope::of(&seen).unwrap();
        let meta = json!({PROTOCOL_VERSION: "2026-07-28", CLIENT_CAPABILITIES: {"x": 1}});
        let params: Value = serde_json::from_str(&list_params(&envelope, Some("\"c\""))).unwrap();
        assert_eq!(params, json!({"_meta": meta, "cursor": "c"}));
    }
}
