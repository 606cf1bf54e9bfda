//! The ordinary course of things, beside the older era, and what goes wrong.

use std::sync::Arc;

use serde_json::{Value, json};
use thv_bridge::{Options, Transport, Why};
use thv_keygen::SharedKey;

use super::{VERSION, ask, call, echo, refusal, with_meta};
use crate::client::Client;
use crate::failure;
use crate::server::{Reply, Server, event, fed_stream, json_reply, status, stream, text_reply, usual};

#[tokio::test]
async fn each_request_is_a_post_of_its_own_with_what_mirrors_it() {
    let server = Server::start(echo).await;
    let mut client = Client::to(&server);
    for (id, method, params) in [
        (1, "server/discover", json!({})),
        (2, "tools/list", json!({"cursor": null})),
        (3, "tools/call", json!({"name": "add"})),
        (4, "resources/read", json!({"uri": "file:///a b"})),
        (5, "prompts/get", json!({"name": "p"})),
        (6, "completion/complete", json!({"name": "not mirrored"})),
    ] {
        let answer = call(&mut client, id, method, params.clone()).await;
        assert_eq!(answer["result"], with_meta(params), "{method}");
    }
    assert!(client.end().await.is_empty());

    // No GET, no DELETE, nothing of the relay's own.
    let all = server.requests();
    let seen: Vec<(&str, Option<&str>)> = all
        .iter()
        .map(|r| {
            assert_eq!((r.method.as_str(), r.path.as_str()), ("POST", "/mcp"));
            assert_eq!(r.header("content-type"), Some("application/json"));
            assert_eq!(r.header("accept"), Some("application/json, text/event-stream"));
            assert_eq!(r.header("mcp-protocol-version"), Some(VERSION));
            (r.header("mcp-method").unwrap(), r.header("mcp-name"))
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("server/discover", None),
            ("tools/list", None),
            ("tools/call", Some("add")),
            ("resources/read", Some("file:///a b")),
            ("prompts/get", Some("p")),
            ("completion/complete", None),
        ]
    );
}

#[tokio::test]
async fn names_that_no_header_can_hold_are_encoded() {
    let server = Server::start(|request| crate::server::result(request, &json!({}))).await;
    let mut client = Client::to(&server);
    for (id, (name, field)) in [
        ("größe", "=?base64?Z3LDtsOfZQ==?="),
        (" padded ", "=?base64?IHBhZGRlZCA=?="),
        ("a\r\nx-evil: 1", "=?base64?YQ0KeC1ldmlsOiAx?="),
        ("=?base64?YQ==?=", "=?base64?PT9iYXNlNjQ/WVE9PT89?="),
    ]
    .into_iter()
    .enumerate()
    {
        call(&mut client, id, "prompts/get", json!({"name": name})).await;
        assert_eq!(server.requests()[id].header("mcp-name"), Some(field));
    }
}

#[tokio::test]
async fn what_http_cannot_carry_is_refused_and_not_sent() {
    let server = Server::start(echo).await;
    let mut client = Client::to(&server);
    let answer = call(&mut client, 1, "größe", json!({})).await;
    assert_eq!(answer["error"]["code"], -32600);
    call(&mut client, 2, "tools/list", json!({})).await;
    assert_eq!(server.posted(), ["tools/list"]);
}

#[tokio::test]
async fn a_malformed_request_is_for_the_server_to_refuse() {
    let server = Server::start(|request| {
        let error = json!({"code": -32602, "message": "no capabilities"});
        json_reply(400, &json!({"jsonrpc": "2.0", "id": request.id(), "error": error}))
    })
    .await;
    let mut client = Client::to(&server);
    let meta = json!({"io.modelcontextprotocol/protocolVersion": VERSION});
    for (id, (params, version)) in
        [(json!({"_meta": meta}), Some(VERSION)), (json!({}), None)].into_iter().enumerate()
    {
        let answer = client.call(id, "server/discover", params).await;
        assert_eq!(answer["error"]["code"], -32602);
        let request = &server.requests()[id];
        assert_eq!(request.header("mcp-protocol-version"), version);
        assert_eq!(request.header("mcp-method"), Some("server/discover"));
    }
}

#[tokio::test]
async fn errors_of_this_era_pass_with_their_status_gone() {
    let server = Server::start(|request| {
        let method = request.rpc();
        let id = if method == "nameless" { json!(null) } else { request.id() };
        let (status, code) = match method.as_str() {
            "unknown" => (404, -32601),
            "old" => (400, -32022),
            "poor" => (400, -32021),
            "nameless" => (400, -32020),
            _ => (200, -32603),
        };
        text_reply(
            status,
            &format!(r#"{{"error":{{"data":{{"n":1.0}},"code":{code},"message":"\u0041"}},"id":{id} ,"jsonrpc":"2.0"}}"#),
        )
    })
    .await;
    let mut client = Client::to(&server);
    for (id, (method, code)) in
        [("unknown", -32601), ("old", -32022), ("poor", -32021), ("failed", -32603)].into_iter().enumerate()
    {
        ask(&mut client, id, method, json!({})).await;
        let expect = format!(
            r#"{{"error":{{"data":{{"n":1.0}},"code":{code},"message":"\u0041"}},"id":{id} ,"jsonrpc":"2.0"}}"#
        );
        assert_eq!(client.line().await, expect);
    }
    let answer = call(&mut client, "a", "nameless", json!({})).await;
    assert_eq!(answer["error"], json!({"code": -32020, "message": "A", "data": {"n": 1.0}}));
}

#[tokio::test]
async fn whatever_an_older_server_says_to_a_probe_the_client_hears_and_falls_back() {
    for (code, body) in [
        (400, r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"Server not initialized"}}"#),
        (400, r#"{"jsonrpc":"2.0","id":"server-error","error":{"code":-32600,"message":"no session"}}"#),
        (404, r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"Session not found"}}"#),
        (400, ""),
        (404, "<html>"),
        (405, ""),
        (406, "{}"),
        (200, r#"{"jsonrpc":"2.0","id":"probe","error":{"code":-32601,"message":"Method not found"}}"#),
    ] {
        let server = Server::start(move |request| match request.rpc().as_str() {
            "server/discover" => text_reply(code, body),
            _ => usual(request),
        })
        .await;
        let mut client = Client::to(&server);
        let answer = call(&mut client, "probe", "server/discover", json!({})).await;
        // None of them is an error by which a client knows a server of this era.
        assert!(![-32020, -32021, -32022].contains(&answer["error"]["code"].as_i64().unwrap()), "{answer}");
        client.open().await;
        client.call(1, "tools/list", json!({})).await;
        client.notify("notifications/roots/list_changed", json!({})).await;
        client.notify("notifications/cancelled", json!({"requestId": 1})).await;
        server.saw_rpc("notifications/cancelled", 1).await;
        let all = server.requests();
        for request in all.iter().filter(|r| r.method == "POST").skip(2) {
            assert_eq!(request.header("mcp-session-id"), Some("s1"), "{}", request.rpc());
            assert_eq!(request.header("mcp-protocol-version"), Some("2025-11-25"));
            assert_eq!(request.header("mcp-method"), None);
        }
        assert!(client.end().await.is_empty());
        assert_eq!(server.requests().last().unwrap().method, "DELETE");
    }
}

#[tokio::test]
async fn a_probe_over_the_oldest_transport_is_answered_on_its_stream() {
    let (sender, reply) = fed_stream();
    sender.send(crate::server::Piece::Data(b"event: endpoint\ndata: /messages\n\n".to_vec())).unwrap();
    let reply = std::sync::Mutex::new(Some(reply));
    let server = Server::start(move |request| {
        if request.method == "GET" {
            return reply.lock().unwrap().take().unwrap_or_else(|| status(503));
        }
        let error = json!({"code": -32602, "message": "Invalid request parameters"});
        let answer = json!({"jsonrpc": "2.0", "id": request.id(), "error": error});
        sender.send(crate::server::Piece::Data(event(&answer).into())).unwrap();
        status(202)
    })
    .await;
    let target = thv_bridge::Target { path: "/sse".into(), transport: Transport::Sse, ..server.target() };
    let mut client = Client::with(Options::default(), move |_, _| Ok(target.clone()));
    let answer = call(&mut client, "probe", "server/discover", json!({})).await;
    assert_eq!(answer["error"]["code"], -32602);
}

#[tokio::test]
async fn a_client_of_both_eras_is_served_in_both() {
    let server = Server::start(|request| match request.header("mcp-protocol-version") {
        Some(VERSION) => echo(request),
        _ => usual(request),
    })
    .await;
    let mut client = Client::to(&server);
    call(&mut client, 1, "server/discover", json!({})).await;
    client.open().await;
    for id in 10..14 {
        call(&mut client, id, "tools/list", json!({})).await;
        client.call(id + 10, "tools/list", json!({})).await;
        client.notify("notifications/x", json!({})).await;
        client.notify("notifications/y", with_meta(json!({}))).await;
    }
    server.saw_rpc("notifications/y", 4).await;
    assert!(client.end().await.is_empty());
    for request in server.requests() {
        let modern = match request.rpc().as_str() {
            "initialize" | "notifications/initialized" | "notifications/x" | "" => false,
            "tools/list" => request.id().as_u64() < Some(20),
            _ => true,
        };
        assert_eq!(request.header("mcp-method").is_some(), modern, "{request:?}");
        let session = request.header("mcp-session-id");
        assert_eq!(session.is_some(), !modern && request.rpc() != "initialize", "{request:?}");
    }
    assert_eq!(server.requests().last().unwrap().method, "DELETE");
}

#[tokio::test]
async fn after_initialize_what_says_nothing_of_itself_is_of_the_older_era() {
    let server = Server::start(|request| match request.header("mcp-protocol-version") {
        Some(VERSION) => echo(request),
        _ => usual(request),
    })
    .await;
    let mut client = Client::to(&server);
    call(&mut client, 1, "server/discover", json!({})).await;
    // A script: all at once, without waiting for the session.
    client.request(2, "initialize", json!({})).await;
    client.notify("notifications/initialized", json!({})).await;
    client.notify("notifications/x", json!({})).await;
    client.notify("notifications/cancelled", json!({"requestId": 7})).await;
    server.saw_rpc("notifications/cancelled", 1).await;
    for request in &server.requests()[2..] {
        assert_eq!(request.header("mcp-session-id"), Some("s1"), "{request:?}");
    }
}

#[tokio::test]
async fn a_question_that_no_server_may_ask_is_answered_to_no_session() {
    let server = Server::start(|request| match request.header("mcp-protocol-version") {
        Some(VERSION) => {
            let question = json!({"jsonrpc": "2.0", "id": 5, "method": "sampling/createMessage"});
            let answer = json!({"jsonrpc": "2.0", "id": request.id(), "result": {}});
            stream([&*event(&question), &*event(&answer)])
        }
        _ => usual(request),
    })
    .await;
    let mut client = Client::to(&server);
    client.open().await;
    ask(&mut client, 1, "tools/call", json!({"name": "t"})).await;
    assert_eq!(client.recv().await["method"], "sampling/createMessage");
    assert_eq!(client.recv().await["id"], 1);
    client.send(json!({"jsonrpc": "2.0", "id": 5, "result": {}})).await;
    client.notify("notifications/x", json!({})).await;
    server.saw_rpc("notifications/x", 1).await;
    assert!(server.requests().iter().all(|r| r.json().get("result").is_none()));
}

#[tokio::test]
async fn a_request_of_this_era_waits_for_no_initialize() {
    let server = Server::start(|request| match request.rpc().as_str() {
        "initialize" => Reply::Hang,
        _ => echo(request),
    })
    .await;
    let mut client = Client::to(&server);
    client.request(0, "initialize", json!({})).await;
    call(&mut client, 1, "tools/list", json!({})).await;
}

#[tokio::test]
async fn a_notification_without_a_session_says_which_version_it_is_of() {
    let server =
        Server::start(|request| if request.rpc() == "tools/list" { echo(request) } else { status(202) })
            .await;
    let mut client = Client::to(&server);
    call(&mut client, 1, "tools/list", json!({})).await;
    client.notify("notifications/x", json!({})).await;
    client.notify("notifications/y", with_meta(json!({}))).await;
    server.saw_rpc("notifications/y", 1).await;
    for request in &server.requests()[1..] {
        assert_eq!(request.header("mcp-protocol-version"), Some(VERSION));
        assert_eq!(request.header("mcp-method"), Some(&*request.rpc()));
        assert_eq!(request.header("mcp-session-id"), None);
    }
}

#[tokio::test]
async fn a_notification_starts_no_server() {
    let server = Server::start(echo).await;
    let mut client = Client::to(&server);
    call(&mut client, 1, "tools/list", json!({})).await;
    drop(server);
    client.notify("notifications/x", json!({})).await;
    crate::soon(async {
        while client.asked() == [Why::Start] {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(client.asked(), [Why::Start, Why::Look]);
}

#[tokio::test]
async fn a_result_that_asks_for_input_passes_and_so_does_the_next_round() {
    let question = r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","inputRequests":{"login":{"method":"elicitation/create","params":{"n":1.0}}},"requestState":"\u00e9+/="}}"#;
    let server = Server::start(move |request| match request.json()["params"].get("requestState") {
        None => refusal(request).unwrap_or_else(|| text_reply(200, question)),
        Some(_) => echo(request),
    })
    .await;
    let mut client = Client::to(&server);
    ask(&mut client, 1, "tools/call", json!({"name": "t"})).await;
    assert_eq!(client.line().await, question);
    let next =
        json!({"name": "t", "requestState": "é+/=", "inputResponses": {"login": {"action": "accept"}}});
    let answer = call(&mut client, 2, "tools/call", next.clone()).await;
    assert_eq!(answer["result"], with_meta(next));
}

#[tokio::test]
async fn what_a_reply_says_before_its_answer_comes_before_it() {
    let progress = |n: f64| json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 9, "progress": n}});
    let server = Server::start(move |request| {
        let answer = json!({"jsonrpc": "2.0", "id": request.id(), "result": {"resultType": "complete"}});
        let events = [": hello\n\n".to_owned(), event(&progress(0.5)), event(&progress(1.0)), event(&answer)];
        refusal(request).unwrap_or_else(|| stream(events.iter().map(String::as_str)))
    })
    .await;
    let mut client = Client::to(&server);
    ask(&mut client, 1, "tools/call", json!({"name": "t", "_meta": {"progressToken": 9}})).await;
    assert_eq!(client.recv().await, progress(0.5));
    assert_eq!(client.recv().await, progress(1.0));
    assert_eq!(client.recv().await["result"]["resultType"], "complete");
}

#[tokio::test]
async fn a_broken_reply_is_told_once_and_never_taken_up_again() {
    let server = Server::start(|request| match request.rpc().as_str() {
        "cut" => Reply::Cut,
        "resumable" => crate::server::cut_stream(["id: 7\nretry: 1\ndata:\n\n"]),
        "ended" => stream(["id: 7\nretry: 1\ndata:\n\n"]),
        "half" => crate::server::cut_stream(["data: {\"jsonrpc\":\"2.0\",\"id\":3,\"resu"]),
        "accepted" => status(202),
        _ => echo(request),
    })
    .await;
    let mut client = Client::to(&server);
    for (id, method) in ["cut", "resumable", "ended", "half"].into_iter().enumerate() {
        let answer = call(&mut client, id, method, json!({})).await;
        assert_eq!(failure(&answer), (-33002, "connection_lost"), "{method}");
    }
    let answer = call(&mut client, 8, "accepted", json!({})).await;
    assert_eq!(failure(&answer), (-33005, "upstream_http"));
    call(&mut client, 9, "tools/list", json!({})).await;
    assert_eq!(server.posted(), ["cut", "resumable", "ended", "half", "accepted", "tools/list"]);
    assert!(server.requests().iter().all(|r| r.method == "POST"));
    assert!(client.end().await.is_empty());
}

#[tokio::test]
async fn a_workload_that_moved_and_has_another_key_is_a_pause_for_what_was_not_sent() {
    let first = Server::start(|request| match request.rpc().as_str() {
        "slow" => Reply::Hang,
        _ => echo(request),
    })
    .await;
    let second = Arc::new(Server::start(echo).await);
    let (there, then) = (first.target(), Arc::clone(&second));
    let mut client = Client::with(Options::default(), move |why, _| match why {
        Why::Start => Ok(there.clone()),
        _ => Ok(then.target()),
    });
    call(&mut client, 1, "tools/list", json!({})).await;
    ask(&mut client, 2, "slow", json!({})).await;
    first.saw_rpc("slow", 1).await;
    drop(first);
    assert_eq!(failure(&client.recv().await), (-33002, "connection_lost"));
    let answer = call(&mut client, 3, "tools/list", json!({})).await;
    assert!(answer.get("result").is_some(), "{answer}");
    second.set_key(Some(SharedKey::generate().unwrap()));
    let answer = call(&mut client, 4, "tools/list", json!({})).await;
    assert!(answer.get("result").is_some(), "{answer}");
    let posted: Vec<Value> = second.requests().iter().map(crate::server::Request::id).collect();
    assert_eq!(posted, [json!(3), json!(4)]);
    assert_eq!(second.unproved(), 0);
}
