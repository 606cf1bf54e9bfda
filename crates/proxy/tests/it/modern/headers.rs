//! Headers and body must say the same.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};

use crate::harness::{Server, World, modern, modern_post, post, settle};

fn with(mut request: Request<Full<Bytes>>, name: &'static str, value: Option<&str>) -> Request<Full<Bytes>> {
    match value {
        Some(value) => drop(request.headers_mut().insert(name, value.parse().unwrap())),
        None => drop(request.headers_mut().remove(name)),
    }
    request
}

#[tokio::test(start_paused = true)]
async fn what_does_not_match_is_refused_before_the_server_gets_it() {
    let mut world = World::new();
    let mut server = world.modern_server().await;
    let call = modern("c", "tools/call", json!({"name": "größe"})).to_string();
    for (name, value) in [
        ("mcp-protocol-version", None),
        ("mcp-protocol-version", Some("2025-11-25")),
        ("mcp-protocol-version", Some("2027-01-01")),
        ("mcp-method", None),
        ("mcp-method", Some("tools/list")),
        ("mcp-name", None),
        ("mcp-name", Some("groesse")),
        ("mcp-name", Some("=?base64?!?=")),
    ] {
        let (status, error) = world.status(with(modern_post(&call), name, value)).await;
        let seen = (status, &error["id"], &error["error"]["code"]);
        assert_eq!(seen, (400, &json!("c"), &json!(-32020)), "{name} {value:?}");
    }
    let mut twice = modern_post(&call);
    twice.headers_mut().append("mcp-method", "tools/call".parse().unwrap());
    assert_eq!(world.status(twice).await.1["error"]["code"], -32020);
    world.host.shutdown().await;
    server.input_ended().await;
}

#[tokio::test]
async fn what_a_request_must_say_of_itself() {
    let world = World::new();
    let meta =
        |meta: Value| json!({"jsonrpc": "2.0", "id": 5, "method": "tools/list", "params": {"_meta": meta}});
    let version = "io.modelcontextprotocol/protocolVersion";
    let capabilities = "io.modelcontextprotocol/clientCapabilities";
    for body in [
        json!({"jsonrpc": "2.0", "id": 5, "method": "tools/list"}),
        meta(json!({})),
        meta(json!({version: "2026-07-28"})),
        meta(json!({capabilities: {}})),
        meta(json!({version: 1, capabilities: {}})),
    ] {
        let request = with(post(None, &body.to_string()), "mcp-protocol-version", Some("2026-07-28"));
        let (status, error) = world.status(with(request, "mcp-method", Some("tools/list"))).await;
        let seen = (status, &error["id"], &error["error"]["code"]);
        assert_eq!(seen, (400, &json!(5), &json!(-32602)), "{body}");
    }
}

#[tokio::test]
async fn the_revision_has_no_initialize() {
    let mut world = World::new();
    let _server = world.modern_server().await;
    let initialize = modern(1, "initialize", json!({"protocolVersion": "2025-11-25"})).to_string();
    let (status, error) = world.status(modern_post(&initialize)).await;
    assert_eq!((status, &error["id"], &error["error"]["code"]), (404, &json!(1), &json!(-32601)));
}

/// Answers as a server with one tool, whose parameter `p` belongs into a header if `annotated`.
async fn list(server: &mut Server, annotated: bool) {
    let (request, id) = server.request("tools/list").await;
    assert_eq!(request["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
    // Two pages.
    if request["params"]["cursor"].is_null() {
        server.answer(id, json!({"tools": [], "nextCursor": "next"})).await;
        return Box::pin(list(server, annotated)).await;
    }
    assert_eq!(request["params"]["cursor"], "next");
    let mut p = json!({"type": "string"});
    if annotated {
        p["x-mcp-header"] = "P".into();
    }
    server.answer(id, json!({"tools": [{"name": "t", "inputSchema": {"properties": {"p": p}}}]})).await;
}

#[tokio::test(start_paused = true)]
async fn annotated_parameters_are_compared() {
    let mut world = World::new();
    let mut server = world.modern_server().await;
    let call = modern(1, "tools/call", json!({"name": "t", "arguments": {"p": "v"}})).to_string();
    let right = || with(modern_post(&call), "mcp-param-p", Some("v"));

    let response = world.start(right());
    list(&mut server, true).await;
    let (_, id) = server.request("tools/call").await;
    server.answer(id, json!({})).await;
    assert_eq!(response.await.unwrap().status(), 200);

    // The tools are not listed again for a call that is in order.
    let response = world.start(right());
    let (_, id) = server.request("tools/call").await;
    server.answer(id, json!({})).await;
    assert_eq!(response.await.unwrap().status(), 200);

    for wrong in [None, Some("w")] {
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        let response = world.start(with(modern_post(&call), "mcp-param-p", wrong));
        // It could be right by now.
        list(&mut server, true).await;
        let response = response.await.unwrap();
        assert_eq!(response.status(), 400);
        assert_eq!(crate::harness::json_body(response).await["error"]["code"], -32020);
    }
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let response = world.start(modern_post(&call));
    list(&mut server, false).await;
    let (_, id) = server.request("tools/call").await;
    server.answer(id, json!({})).await;
    assert_eq!(response.await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_server_that_lists_no_tools_is_called_all_the_same() {
    let mut world = World::new();
    let mut server = world.modern_server().await;
    let call = modern(1, "tools/call", json!({"name": "t", "arguments": {"p": "v"}})).to_string();
    let response = world.start(with(modern_post(&call), "mcp-param-other", Some("v")));
    let (_, id) = server.request("tools/list").await;
    server.say(json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "no"}})).await;
    let (_, id) = server.request("tools/call").await;
    server.answer(id, json!({})).await;
    assert_eq!(response.await.unwrap().status(), 200);
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_lists_its_tools_holds_up_no_call_for_ever() {
    let mut world = World::new();
    let mut server = world.modern_server().await;
    let call = modern(1, "tools/call", json!({"name": "t", "arguments": {"p": "v"}})).to_string();
    let response = world.start(modern_post(&call));
    server.request("tools/list").await;
    let (_, id) = server.request("tools/call").await;
    server.answer(id, json!({})).await;
    assert_eq!(response.await.unwrap().status(), 200);
}
