//! One request, one response.

use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use thv_proxy::stdio::Options;

use crate::harness::{
    Start, Stream, World, json_body, modern, modern_post, notification, options, post, request, settle,
};

fn call(id: impl Into<Value>) -> Value {
    modern(id, "tools/call", json!({"name": "x"}))
}

#[tokio::test]
async fn only_the_ids_change() {
    let mut world = World::new();
    let mut server = world.modern_server().await;
    let text = r#"{"jsonrpc": "2.0",  "params":{ "name":"t\u0061", "_meta" : {"progressToken" : "a\"b", "io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"x":1.0}, "big":123456789012345678901234567890},"method":"tools/call","id" : "i\u0064"}"#;
    let response = world.start(modern_post(text));
    let seen = server.line().await;
    let ours = serde_json::from_str::<Value>(&seen).unwrap()["id"].as_u64().unwrap().to_string();
    assert_eq!(seen, text.replace(r#""i\u0064""#, &ours).replace(r#""a\"b""#, &ours));

    let progress = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":1.0,"progressToken":OURS ,"n":null}}"#;
    let answer = r#"{"result":{"resultType":"complete","big":123456789012345678901234567890,"f":1.0,"x":null} , "id":OURS,"jsonrpc":"2.0"}"#;
    for line in [progress, answer] {
        server.say_text(&format!("{}\n", line.replace("OURS", &ours))).await;
    }
    let response = response.await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    assert!(!response.headers().contains_key("mcp-session-id"));
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let (progress, answer) = (progress.replace("OURS", r#""a\"b""#), answer.replace("OURS", r#""i\u0064""#));
    assert_eq!(body, format!("data: {progress}\n\ndata: {answer}\n\n"));
}

#[tokio::test]
async fn an_answer_alone_is_json_and_an_error_has_its_status() {
    let mut world = World::new();
    let mut server = world.modern_server().await;
    let (response, id) = world.begin(&mut server, &call("a")).await;
    server.answer(id, json!({"resultType": "input_required", "inputRequests": {"k": {"method": "m"}}})).await;
    let response = response.await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let body = json_body(response).await;
    assert_eq!((&body["id"], &body["result"]["resultType"]), (&json!("a"), &json!("input_required")));

    for (code, status) in
        [(-32601, 404), (-32602, 400), (-32021, 400), (-32022, 400), (-32603, 200), (7, 200)]
    {
        let (response, id) = world.begin(&mut server, &call(1)).await;
        let error = json!({"code": code, "message": "no", "data": {"x": 1}});
        server.say(json!({"jsonrpc": "2.0", "id": id, "error": error})).await;
        let response = response.await.unwrap();
        assert_eq!(response.status(), status, "{code}");
        assert_eq!(json_body(response).await, json!({"jsonrpc": "2.0", "id": 1, "error": error}));
    }
}

#[tokio::test]
async fn closing_the_response_cancels() {
    let mut world = World::new();
    let mut server = world.modern_server().await;
    // Before the response has begun, and after.
    let (waiting, waiting_id) = world.begin(&mut server, &call(1)).await;
    waiting.abort();
    assert_eq!(cancelled(&server.read().await), waiting_id);
    let with_token = modern(1, "tools/call", json!({"name": "x", "_meta": {"progressToken": "t"}}));
    let (streaming, id) = world.begin(&mut server, &with_token).await;
    let params = json!({"progressToken": id, "progress": 1});
    server.say(json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})).await;
    let mut stream = Stream::new(streaming.await.unwrap());
    assert_eq!(stream.next().await.unwrap()["params"]["progressToken"], "t");
    drop(stream);
    assert_eq!(cancelled(&server.read().await), id);
    // What the server says of them all the same is for nobody.
    server.answer(waiting_id, json!({})).await;
    server.say(json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})).await;
    let (response, id) = world.begin(&mut server, &call(1)).await;
    server.answer(id, json!({"n": 1})).await;
    assert_eq!(json_body(response.await.unwrap()).await["result"]["n"], 1);
    // An answered request is not cancelled.
    settle().await;
    world.begin(&mut server, &call(2)).await;
}

fn cancelled(message: &Value) -> u64 {
    assert_eq!(message["method"], "notifications/cancelled", "{message}");
    message["params"]["requestId"].as_u64().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_quiet_response_begins_as_an_event_stream() {
    let mut world = World::new();
    let mut server = world.modern_server().await;
    let (response, id) = world.begin(&mut server, &call(1)).await;
    tokio::time::sleep(options().keep_alive).await;
    let mut stream = Stream::new(response.await.unwrap());
    assert_eq!(stream.raw().await, ":\n\n");
    server.answer(id, json!({})).await;
    let event = stream.event().await.unwrap();
    assert_eq!(event.id, None);
    assert_eq!(stream.event().await, None);
}

#[tokio::test]
async fn log_messages_go_to_the_one_request_that_asked_for_them() {
    let mut world = World::new();
    let mut server = world.modern_server().await;
    let logging = |id: u64| {
        let meta = json!({"io.modelcontextprotocol/logLevel": "debug"});
        modern(id, "tools/call", json!({"name": "x", "_meta": meta}))
    };
    let log = |n: u64| json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": n}});
    let (quiet, quiet_id) = world.begin(&mut server, &call(1)).await;
    let (one, one_id) = world.begin(&mut server, &logging(2)).await;
    server.say(log(1)).await;
    let mut one = Stream::new(one.await.unwrap());
    assert_eq!(one.next().await, Some(log(1)));
    // With two of them nothing says whose it is.
    let (two, two_id) = world.begin(&mut server, &logging(3)).await;
    server.say(log(2)).await;
    for id in [two_id, one_id, quiet_id] {
        server.answer(id, json!({})).await;
    }
    assert_eq!(one.next().await.unwrap()["id"], 2);
    assert_eq!(json_body(two.await.unwrap()).await["id"], 3);
    assert_eq!(json_body(quiet.await.unwrap()).await["id"], 1);
}

#[tokio::test]
async fn a_request_of_the_server_is_refused_to_it() {
    let mut world = World::new();
    let mut server = world.modern_server().await;
    let (response, id) = world.begin(&mut server, &call(1)).await;
    server.say(json!({"jsonrpc": "2.0", "id": "s", "method": "sampling/createMessage", "params": {}})).await;
    let refused = server.read().await;
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!("s"), &json!(-32601)));
    server.answer(id, json!({})).await;
    assert_eq!(json_body(response.await.unwrap()).await["id"], 1);
}

#[tokio::test]
async fn notifications_are_taken_and_cancellations_are_not_passed_on() {
    let mut world = World::new();
    let send = |message: &Value| {
        let mut request = post(None, &message.to_string());
        request.headers_mut().insert("mcp-protocol-version", "2026-07-28".parse().unwrap());
        request
    };
    // Nothing starts a server for a notification.
    assert_eq!(world.status(send(&notification("notifications/x"))).await, (202, Value::Null));
    assert!(world.host.sessions().is_empty());
    let mut server = world.modern_server().await;
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}});
    assert_eq!(world.status(send(&cancel)).await.0, 202);
    assert_eq!(world.status(send(&notification("notifications/x"))).await.0, 202);
    assert_eq!(server.read().await, notification("notifications/x"));
    for body in [json!([call(1)]), json!({"jsonrpc": "2.0", "id": 1, "result": {}})] {
        let (status, error) = world.status(send(&body)).await;
        assert_eq!((status, &error["error"]["code"]), (400, &json!(-32600)), "{body}");
    }
}

#[tokio::test]
async fn only_post_is_known() {
    let world = World::new();
    for method in [Method::GET, Method::DELETE] {
        let mut request = request(method, None, "");
        request.headers_mut().insert("mcp-protocol-version", "2026-07-28".parse().unwrap());
        let response = world.send(request).await;
        assert_eq!(response.status(), 405);
        assert_eq!(response.headers()["allow"], "POST");
    }
}

#[tokio::test]
async fn a_session_that_is_named_is_ignored() {
    let mut world = World::new();
    let mut server = world.modern_server().await;
    let mut request = modern_post(&call(1).to_string());
    request.headers_mut().insert("mcp-session-id", "left-over".parse().unwrap());
    request.headers_mut().insert("last-event-id", "left-over".parse().unwrap());
    let response = world.start(request);
    let (_, id) = server.request("tools/call").await;
    server.answer(id, json!({})).await;
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(!response.headers().contains_key("mcp-session-id"));
}

#[tokio::test]
async fn an_answer_over_the_limit_becomes_an_error() {
    let mut world = World::with(Options { max_message_bytes: 200_000, ..options() }, Start::Works);
    let mut server = world.modern_server().await;
    let (response, id) = world.begin(&mut server, &call("big")).await;
    server.answer(id, json!("x".repeat(300_000))).await;
    let error = json_body(response.await.unwrap()).await;
    assert_eq!((&error["id"], &error["error"]["code"]), (&json!("big"), &json!(-33006)));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_does_not_read_is_cut_and_the_others_go_on() {
    let mut world = World::new();
    let mut server = world.modern_server().await;
    let with_token = modern(1, "tools/call", json!({"name": "x", "_meta": {"progressToken": "t"}}));
    let (lazy, lazy_id) = world.begin(&mut server, &with_token).await;
    let (other, other_id) = world.begin(&mut server, &call(2)).await;
    let params = json!({"progressToken": lazy_id, "progress": 1, "message": "x".repeat(60_000)});
    let flood = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params});
    let writer = tokio::spawn(async move {
        for _ in 0..40 {
            server.say(flood.clone()).await;
        }
        server.answer(other_id, json!("through")).await;
        server
    });
    assert_eq!(json_body(other.await.unwrap()).await["result"], "through");
    let mut server = writer.await.unwrap();
    assert_eq!(cancelled(&server.read().await), lazy_id);
    drop(lazy);
}
