//! Servers that misbehave on their standard output.

use serde_json::json;
use thv_proxy::stdio::Options;

use crate::harness::{Start, World, call, initialize, json_body, notification, options, post};

const NOW: &str = "2025-11-25";

fn small() -> World {
    World::with(Options { max_message_bytes: 200_000, ..options() }, Start::Works)
}

#[tokio::test]
async fn a_banner_before_the_first_message() {
    let mut world = World::new();
    let response = world.start(post(None, &initialize(NOW).to_string()));
    let mut server = world.server().await;
    server.read().await;
    server.say_text("\u{feff}\n\n  *** Welcome to MCP ***\r\nListening on stdio\n{\"level\":30}\n").await;
    server.answer(0, json!({"protocolVersion": NOW})).await;
    assert_eq!(response.await.unwrap().status(), 200);
}

#[tokio::test]
async fn garbage_between_messages_is_skipped() {
    let mut world = World::new();
    let (id, mut server) = world.open(NOW).await;
    let response = world.ask(&id, &mut server, call(1)).await;
    for garbage in [
        "npm WARN deprecated\n",
        "{\"jsonrpc\":\"2.0\",\"id\":1\n",
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"id\":1,\"result\":{}}\n",
        "[]\n",
        "[1,2]\n",
        "null\n",
        "\"text\"\n",
        "{\"jsonrpc\":\"2.0\",\"id\":[1],\"result\":{}}\n",
        "{\"jsonrpc\":\"2.0\",\"result\":{}}\n",
        "{\"jsonrpc\":\"2.0\",\"id\":99,\"result\":\"nobody asked\"}\n",
        "{\"jsonrpc\":\"2.0\",\"id\":\"1\",\"result\":\"another id\"}\n",
        "\u{0}\u{1}\u{7f}\n",
        "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32700,\"message\":\"?\"}}\n",
    ] {
        server.say_text(garbage).await;
    }
    tokio::io::AsyncWriteExt::write_all(&mut server.output, b"\xff\xfe\xfd\n").await.unwrap();
    server.answer(1, json!("found")).await;
    assert_eq!(json_body(response.await.unwrap()).await["result"], "found");
}

#[tokio::test]
async fn deep_nesting_passes() {
    let mut world = World::new();
    let (id, mut server) = world.open(NOW).await;
    let response = world.ask(&id, &mut server, call(1)).await;
    let deep = 20_000;
    let nest = format!("{}{}", "[".repeat(deep), "]".repeat(deep));
    let text = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{nest}}}"#);
    server.say_text(&format!("{text}\n")).await;
    let body = http_body_util::BodyExt::collect(response.await.unwrap().into_body()).await.unwrap();
    assert_eq!(body.to_bytes(), text);
}

#[tokio::test]
async fn half_a_line_at_the_end() {
    let mut world = World::new();
    let (id, mut server) = world.open(NOW).await;
    let response = world.ask(&id, &mut server, call(1)).await;
    server.say_text(r#"{"jsonrpc":"2.0","id":1,"result":{"half"#).await;
    drop(server);
    assert_eq!(json_body(response.await.unwrap()).await["error"]["code"], -33002);
}

#[tokio::test]
async fn an_answer_over_the_limit_becomes_an_error() {
    let mut world = small();
    let (id, mut server) = world.open(NOW).await;
    let big = world.ask(&id, &mut server, call(1)).await;
    let other = world.ask(&id, &mut server, call(2)).await;
    server.answer(1, json!("x".repeat(1_000_000))).await;
    server.answer(2, json!("small")).await;
    let error = json_body(big.await.unwrap()).await;
    assert_eq!((&error["id"], &error["error"]["code"]), (&json!(1), &json!(-33006)));
    assert_eq!(error["error"]["data"]["reason"], "too_large");
    assert!(error["error"]["message"].as_str().unwrap().contains("200000"));
    // The session goes on.
    assert_eq!(json_body(other.await.unwrap()).await["result"], "small");
}

#[tokio::test]
async fn a_request_of_the_server_over_the_limit_is_answered_to_it() {
    let mut world = small();
    let (_, mut server) = world.open(NOW).await;
    let params = json!({"x": "x".repeat(300_000)});
    server
        .say(json!({"jsonrpc": "2.0", "method": "sampling/createMessage", "params": params, "id": 9}))
        .await;
    let error = server.read().await;
    assert_eq!((&error["id"], &error["error"]["code"]), (&json!(9), &json!(-33006)));
}

#[tokio::test]
async fn an_endless_line_holds_up_nobody_for_ever() {
    let mut world = small();
    let (id, mut server) = world.open(NOW).await;
    let response = world.ask(&id, &mut server, call(1)).await;
    let chunk = "x".repeat(60_000);
    for _ in 0..200 {
        server.say_text(&chunk).await;
    }
    drop(server);
    assert_eq!(json_body(response.await.unwrap()).await["error"]["code"], -33002);
}

#[tokio::test]
async fn an_initialize_answer_over_the_limit_ends_the_session() {
    let mut world = small();
    let response = world.start(post(None, &initialize(NOW).to_string()));
    let mut server = world.server().await;
    server.read().await;
    server.answer(0, json!("x".repeat(300_000))).await;
    let response = response.await.unwrap();
    assert!(!response.headers().contains_key("mcp-session-id"));
    assert_eq!(json_body(response).await["error"]["code"], -33006);
    server.input_ended().await;
}

#[tokio::test]
async fn a_server_that_closes_its_input_but_speaks() {
    let mut world = World::new();
    let (id, mut server) = world.open(NOW).await;
    let waiting = world.ask(&id, &mut server, call(1)).await;
    drop(server.input);
    assert_eq!(world.status(post(Some(&id), &notification("notifications/x").to_string())).await.0, 202);
    let text = format!("{}\n", json!({"jsonrpc": "2.0", "id": 1, "result": "still here"}));
    tokio::io::AsyncWriteExt::write_all(&mut server.output, text.as_bytes()).await.unwrap();
    assert_eq!(json_body(waiting.await.unwrap()).await["result"], "still here");
    drop(server.output);
    server.stopped.wait_for(|stopped| *stopped).await.unwrap();
}
