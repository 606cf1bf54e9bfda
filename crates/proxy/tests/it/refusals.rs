//! Requests that break the rules of the transport.

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};
use thv_proxy::Owner;
use thv_proxy::stdio::{MAX_MESSAGE_BYTES, Options, OptionsError};

use crate::harness::{Start, World, call, initialize, json_body, notification, options, post, request};

const NOW: &str = "2025-11-25";

fn with(mut request: Request<Full<Bytes>>, name: &'static str, value: &str) -> Request<Full<Bytes>> {
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

#[tokio::test]
async fn a_session_is_needed_for_all_but_initialize() {
    let world = World::new();
    let (status, body) = world.status(post(None, &call(5).to_string())).await;
    assert_eq!((status, &body["id"], &body["error"]["code"]), (400, &json!(5), &json!(-32600)));
    for request in [
        post(None, &notification("notifications/initialized").to_string()),
        post(None, &json!([initialize(NOW)]).to_string()),
        post(None, r#"{"jsonrpc":"2.0","method":"initialize"}"#),
        request(Method::GET, None, ""),
        request(Method::DELETE, None, ""),
    ] {
        assert_eq!(world.status(request).await.0, 400);
    }
    assert!(world.host.sessions().is_empty());
}

#[tokio::test]
async fn an_unknown_session_is_not_found() {
    let mut world = World::new();
    let (id, _server) = world.open(NOW).await;
    for unknown in ["x", "", &id[1..], &id.to_uppercase()] {
        for method in [Method::POST, Method::GET, Method::DELETE] {
            let (status, body) = world.status(request(method, Some(unknown), &call(1).to_string())).await;
            assert_eq!((status, &body["error"]["code"]), (404, &json!(-32600)), "{unknown}");
        }
        let begin = post(Some(unknown), &initialize(NOW).to_string());
        assert_eq!(world.status(begin).await.0, 404);
    }
    let mut twice = post(Some(&id), &call(1).to_string());
    twice.headers_mut().append("mcp-session-id", id.parse().unwrap());
    assert_eq!(world.status(twice).await.0, 400);
}

#[tokio::test]
async fn a_session_exists_for_its_owner_alone() {
    let mut world = World::new();
    let alice = Owner(Some("alice".to_owned()));
    let (id, mut server) = world.open_as(NOW, alice.clone()).await;
    let as_ = |owner: &Owner, method: Method| {
        let mut request = request(method, Some(&id), &notification("notifications/x").to_string());
        request.extensions_mut().insert(owner.clone());
        request
    };
    for other in [Owner(None), Owner(Some("bob".to_owned())), Owner(Some(String::new()))] {
        for method in [Method::POST, Method::GET, Method::DELETE] {
            assert_eq!(world.status(as_(&other, method)).await.0, 404);
        }
    }
    assert_eq!(world.status(post(Some(&id), &call(1).to_string())).await.0, 404);
    assert_eq!(world.status(as_(&alice, Method::POST)).await.0, 202);
    assert_eq!(server.read().await, notification("notifications/x"));
    assert_eq!(world.host.sessions()[0].owner, alice);
}

#[tokio::test]
async fn the_protocol_version_must_be_one_of_the_sessions() {
    let mut world = World::new();
    let (id, _server) = world.open(NOW).await;
    let message = notification("notifications/x").to_string();
    for (version, status) in [
        ("2025-11-25", 202),
        ("2025-06-18", 202),
        ("2025-03-26", 202),
        ("2026-07-28", 400),
        ("1.0", 400),
        ("", 400),
    ] {
        let request = with(post(Some(&id), &message), "mcp-protocol-version", version);
        assert_eq!(world.status(request).await.0, status, "{version}");
    }
    let mut twice = with(post(Some(&id), &message), "mcp-protocol-version", NOW);
    twice.headers_mut().append("mcp-protocol-version", NOW.parse().unwrap());
    assert_eq!(world.status(twice).await.0, 400);

    let (draft, _server) = world.open("DRAFT-2027").await;
    let request = with(post(Some(&draft), &message), "mcp-protocol-version", "DRAFT-2027");
    assert_eq!(world.status(request).await.0, 202);
    let request = with(post(None, &initialize(NOW).to_string()), "mcp-protocol-version", "1.0");
    assert_eq!(world.status(request).await.0, 400);
}

#[tokio::test]
async fn a_probe_that_names_no_version_is_sent_back_to_initialize() {
    let world = World::new();
    let discover =
        json!({"jsonrpc": "2.0", "id": "d", "method": "server/discover", "params": {}}).to_string();
    let (status, body) = world.status(post(None, &discover)).await;
    assert_eq!((status, &body["id"], &body["error"]["code"]), (400, &json!("d"), &json!(-32600)));
    assert!(body["error"]["message"].as_str().unwrap().contains("initialize"));
}

#[tokio::test]
async fn a_version_left_over_from_a_probe_does_not_stop_initialize() {
    let mut world = World::new();
    let request = with(post(None, &initialize(NOW).to_string()), "mcp-protocol-version", "2026-07-28");
    let response = world.start(request);
    let mut server = world.server().await;
    server.read().await;
    server.answer(0, json!({"protocolVersion": NOW})).await;
    assert_eq!(response.await.unwrap().status(), 200);
}

#[tokio::test]
async fn headers() {
    let mut world = World::new();
    let (id, _server) = world.open(NOW).await;
    let message = notification("notifications/x").to_string();
    let send = || post(Some(&id), &message);
    assert_eq!(world.status(with(send(), "content-type", "text/plain")).await.0, 415);
    assert_eq!(world.status(with(send(), "accept", "application/json")).await.0, 406);
    assert_eq!(world.status(with(send(), "accept", "text/event-stream")).await.0, 406);
    assert_eq!(world.status(with(send(), "accept", "*/*")).await.0, 202);
    let get = request(Method::GET, Some(&id), "");
    assert_eq!(world.status(with(get, "accept", "application/json")).await.0, 406);
}

#[tokio::test]
async fn methods_and_paths() {
    let world = World::new();
    for method in [Method::PUT, Method::HEAD, Method::OPTIONS, Method::PATCH] {
        let response = world.send(request(method, None, "")).await;
        assert_eq!(response.status(), 405);
        assert_eq!(response.headers()["allow"], "GET, POST, DELETE");
    }
    for path in ["/", "/mcp/", "//mcp", "/%6dcp", "/MCP", "/mcp/x"] {
        let mut request = post(None, &initialize(NOW).to_string());
        *request.uri_mut() = path.parse().unwrap();
        assert_eq!(world.status(request).await.0, 404, "{path}");
    }
}

#[tokio::test]
async fn bodies() {
    let mut world = World::with(Options { max_message_bytes: 1000, ..options() }, Start::Works);
    let (id, _server) = world.open(NOW).await;
    for session in [None, Some(&*id)] {
        for (body, status, code) in [
            ("", 400, -32700),
            ("{", 400, -32700),
            ("\u{feff}{}", 400, -32700),
            ("{}", 400, -32600),
            ("[]", 400, -32600),
            (r#"{"jsonrpc":"2.0","id":null,"method":"x"}"#, 400, -32600),
            (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"x"}"#, 400, -32600),
            (&"x".repeat(1001), 413, -33006),
        ] {
            let (seen, error) = world.status(post(session, body)).await;
            assert_eq!((seen, &error["error"]["code"]), (status, &json!(code)), "{body}");
            assert_eq!(error["id"], Value::Null);
        }
    }
}

#[tokio::test]
async fn a_session_begins_once() {
    let mut world = World::new();
    let (id, _server) = world.open(NOW).await;
    assert_eq!(world.status(post(Some(&id), &initialize(NOW).to_string())).await.0, 400);
    let (old, _server) = world.open("2025-03-26").await;
    let batch = json!([notification("notifications/x"), initialize(NOW)]).to_string();
    assert_eq!(world.status(post(Some(&old), &batch)).await.0, 400);
}

#[test]
fn wrong_options_fail_when_the_host_is_built() {
    for (options, error) in [
        (Options { max_sessions: 0, ..options() }, OptionsError::Zero("max_sessions")),
        (Options { keep_alive: std::time::Duration::ZERO, ..options() }, OptionsError::Zero("keep_alive")),
        (Options { max_message_bytes: MAX_MESSAGE_BYTES + 1, ..options() }, OptionsError::TooLarge),
        (Options { path: "mcp".to_owned(), ..options() }, OptionsError::Path("mcp".to_owned())),
    ] {
        assert_eq!(World::try_with(options, Start::Works).err(), Some(error));
    }
}

#[tokio::test]
async fn refusals_are_json_rpc() {
    let world = World::new();
    let body = json_body(world.send(request(Method::PUT, None, "")).await).await;
    assert_eq!(body["jsonrpc"], "2.0");
    assert!(body["error"]["message"].is_string());
}
