//! The era without sessions (MCP 2026-07-28), against a scripted server of it.

mod bytes;
mod cancel;
mod course;
mod listen;
mod tools;

use serde_json::{Value, json};

use crate::client::Client;
use crate::server::{Reply, Request, json_reply, result, status};

pub(crate) const VERSION: &str = "2026-07-28";

/// Parameters with what each request says of itself.
pub(crate) fn with_meta(mut params: Value) -> Value {
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!(VERSION);
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({"elicitation": {}});
    params
}

/// Sends a request of this era.
pub(crate) async fn ask(client: &mut Client, id: impl Into<Value>, method: &str, params: Value) {
    client.request(id, method, with_meta(params)).await;
}

/// The same, and its answer.
pub(crate) async fn call(client: &mut Client, id: impl Into<Value>, method: &str, params: Value) -> Value {
    client.call(id, method, with_meta(params)).await
}

/// Why a server of this era refuses a request, if it must (`basic/transports/streamable-http`, "Server Validation").
pub(crate) fn refusal(request: &Request) -> Option<Reply> {
    if request.method != "POST" || request.header("mcp-session-id").is_some() {
        return Some(status(405));
    }
    let message = request.json();
    let params = &message["params"];
    let version = params["_meta"]["io.modelcontextprotocol/protocolVersion"].as_str();
    let name = match request.rpc().as_str() {
        "tools/call" | "prompts/get" => params["name"].as_str(),
        "resources/read" => params["uri"].as_str(),
        _ => None,
    };
    let fits = request.header("mcp-protocol-version") == version
        && request.header("mcp-method") == message["method"].as_str()
        && request.header("mcp-name") == name;
    (!fits).then(|| mismatch(request))
}

pub(crate) fn mismatch(request: &Request) -> Reply {
    let error = json!({"code": -32020, "message": "Header mismatch"});
    json_reply(400, &json!({"jsonrpc": "2.0", "id": request.id(), "error": error}))
}

/// A server that refuses what it must, and else answers with the parameters.
pub(crate) fn echo(request: &Request) -> Reply {
    refusal(request).unwrap_or_else(|| result(request, &request.json()["params"]))
}

/// A tool whose parameter `p` is repeated in `Mcp-Param-{header}`.
pub(crate) fn tool(name: &str, kind: &str, header: &str) -> Value {
    let p = json!({"type": kind, "x-mcp-header": header});
    json!({"name": name, "inputSchema": {"type": "object", "properties": {"p": p}}})
}

/// All fields that mirror parameters.
pub(crate) fn param<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    request.header(&format!("mcp-param-{}", name.to_lowercase()))
}
