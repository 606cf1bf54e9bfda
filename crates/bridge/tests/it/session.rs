//! Sessions that get lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::client::Client;
use crate::failure;
use crate::server::{Reply, Request, Server, event, initialized, json_reply, status, usual};

/// A server that knows the sessions `s1`, `s2`, … in turn; what it says to `initialize` is up to the test.
struct Forgetful {
    session: AtomicUsize,
    /// What it says to who names another session.
    refusal: (u16, Value),
}

impl Forgetful {
    fn new() -> Arc<Self> {
        Self::refusing(404, &json!({"code": -32001, "message": "Session not found"}))
    }

    fn refusing(status: u16, error: &Value) -> Arc<Self> {
        let body = json!({"jsonrpc": "2.0", "id": null, "error": error});
        Arc::new(Self { session: AtomicUsize::new(0), refusal: (status, body) })
    }

    fn forget(&self) {
        self.session.fetch_add(1, Ordering::SeqCst);
    }

    fn answer(&self, request: &Request) -> Reply {
        let current = format!("s{}", self.session.load(Ordering::SeqCst));
        match request.rpc().as_str() {
            "initialize" => initialized(request, &current),
            _ if request.header("mcp-session-id") != Some(&current) => {
                json_reply(self.refusal.0, &self.refusal.1)
            }
            _ => usual(request),
        }
    }
}

#[tokio::test]
async fn a_lost_session_is_begun_anew_once_for_all() {
    let sessions = Forgetful::new();
    let theirs = Arc::clone(&sessions);
    let server = Server::start(move |request| theirs.answer(request)).await;
    let mut client = Client::to(&server);
    let params =
        json!({"protocolVersion": "2025-11-25", "capabilities": {"x": 1.0}, "clientInfo": {"name": "c"}});
    client.call(0, "initialize", params.clone()).await;
    client.notify("notifications/initialized", json!({})).await;
    client.call(1, "work", json!({})).await;

    sessions.forget();
    for id in 10..20 {
        client.request(id, "work", json!({})).await;
    }
    let answered = client.recv_ids(10).await;
    assert_eq!(answered, (10..20).map(|id| json!(id)).collect::<Vec<_>>());

    let all = server.requests();
    let begun: Vec<&Request> = all.iter().filter(|r| r.rpc() == "initialize").collect();
    assert_eq!(begun.len(), 2);
    assert_eq!(begun[1].json()["params"], params);
    assert_eq!(begun[1].header("mcp-session-id"), None);
    assert!(begun[1].id().is_string());
    let told: Vec<&Request> = all.iter().filter(|r| r.rpc() == "notifications/initialized").collect();
    assert_eq!(told.len(), 2);
    assert_eq!(told[1].header("mcp-session-id"), Some("s1"));
    assert_eq!(told[1].header("mcp-protocol-version"), Some("2025-11-25"));
    // The client sees nothing of it, and the new session is the one that is ended.
    assert!(client.end().await.is_empty());
    assert_eq!(server.requests().last().unwrap().header("mcp-session-id"), Some("s1"));
}

#[tokio::test]
async fn a_notification_that_meets_a_lost_session_is_sent_again() {
    let sessions = Forgetful::new();
    let theirs = Arc::clone(&sessions);
    let server = Server::start(move |request| theirs.answer(request)).await;
    let mut client = Client::to(&server);
    client.open().await;
    server.saw_rpc("notifications/initialized", 1).await;
    sessions.forget();
    client.notify("notifications/x", json!({})).await;
    server
        .saw(|all| {
            all.iter().any(|r| r.rpc() == "notifications/x" && r.header("mcp-session-id") == Some("s1"))
        })
        .await;
}

/// As `server-everything` and the examples of the TypeScript SDK have it.
#[tokio::test]
async fn a_server_that_says_400_of_a_lost_session_is_sent_the_message_again() {
    let sessions = Forgetful::refusing(
        400,
        &json!({"code": -32000, "message": "Bad Request: No valid session ID provided"}),
    );
    let theirs = Arc::clone(&sessions);
    let server = Server::start(move |request| theirs.answer(request)).await;
    let mut client = Client::to(&server);
    client.open().await;
    client.call(1, "work", json!({})).await;
    sessions.forget();
    assert_eq!(client.call(2, "work", json!({})).await["result"], json!({}));
    sessions.forget();
    client.notify("notifications/x", json!({})).await;
    server
        .saw(|all| {
            all.iter().any(|r| r.rpc() == "notifications/x" && r.header("mcp-session-id") == Some("s2"))
        })
        .await;
    assert_eq!(server.posted().iter().filter(|m| *m == "initialize").count(), 3);
    assert!(client.end().await.is_empty());
}

#[tokio::test]
async fn a_400_that_does_not_speak_of_the_session_is_an_answer() {
    let server = Server::start(|request| match request.rpc().as_str() {
        "work" => json_reply(
            400,
            &json!({"jsonrpc": "2.0", "id": null, "error": {"code": -32000, "message": "no"}}),
        ),
        _ => usual(request),
    })
    .await;
    let mut client = Client::to(&server);
    client.open().await;
    assert_eq!(client.call(1, "work", json!({})).await["error"], json!({"code": -32000, "message": "no"}));
    assert_eq!(server.posted().iter().filter(|m| *m == "work").count(), 1);
    assert_eq!(server.posted().iter().filter(|m| *m == "initialize").count(), 1);
}

#[tokio::test]
async fn a_session_lost_twice_in_a_row_is_told() {
    let server = Server::start(|request| match request.rpc().as_str() {
        "work" => status(404),
        _ => usual(request),
    })
    .await;
    let mut client = Client::to(&server);
    client.open().await;
    let answer = client.call(1, "work", json!({})).await;
    assert_eq!(failure(&answer), (-33005, "upstream_http"));
    assert_eq!(answer["error"]["data"]["httpStatus"], 404);
    assert_eq!(server.posted().iter().filter(|m| *m == "initialize").count(), 2);
    assert_eq!(server.posted().iter().filter(|m| *m == "work").count(), 2);
}

#[tokio::test]
async fn a_server_that_has_changed_its_revision_is_not_taken_for_the_old_one() {
    let begun = AtomicBool::new(false);
    let server = Server::start(move |request| match request.rpc().as_str() {
        "initialize" if begun.swap(true, Ordering::SeqCst) => json_reply(
            200,
            &json!({"jsonrpc": "2.0", "id": request.id(), "result": {"protocolVersion": "2025-03-26"}}),
        ),
        "work" => json_reply(
            404,
            &json!({"jsonrpc": "2.0", "id": null, "error": {"code": -32001, "message": "Session not found"}}),
        ),
        _ => usual(request),
    })
    .await;
    let mut client = Client::to(&server);
    client.open().await;
    let answer = client.call(1, "work", json!({})).await;
    assert_eq!(answer["error"], json!({"code": -32001, "message": "Session not found"}));
    assert_eq!(server.posted().iter().filter(|m| *m == "work").count(), 1);
}

#[tokio::test]
async fn a_404_without_a_session_is_an_answer() {
    let server = Server::start(|request| match request.rpc().as_str() {
        "no/such" => json_reply(
            404,
            &json!({"jsonrpc": "2.0", "id": request.id(), "error": {"code": -32601, "message": "no"}}),
        ),
        _ => usual(request),
    })
    .await;
    let mut client = Client::to(&server);
    assert_eq!(client.call(1, "no/such", json!({})).await["error"]["code"], -32601);
    assert_eq!(server.posted(), ["no/such"]);
}

#[tokio::test]
async fn an_event_stream_may_answer_initialize_too() {
    let server = Server::start(|request| match request.rpc().as_str() {
        "initialize" => {
            let log = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {}});
            let answer =
                json!({"jsonrpc": "2.0", "id": request.id(), "result": {"protocolVersion": "2025-11-25"}});
            let Reply::Stream { pieces, .. } = crate::server::stream([&*event(&log), &*event(&answer)])
            else {
                unreachable!()
            };
            Reply::Stream { headers: vec![("mcp-session-id", "s1".into())], pieces }
        }
        "work" if request.header("mcp-session-id") != Some("s1") => status(400),
        _ => usual(request),
    })
    .await;
    let mut client = Client::to(&server);
    client.request(0, "initialize", json!({})).await;
    assert_eq!(client.recv().await["method"], "notifications/message");
    assert_eq!(client.recv().await["id"], 0);
    client.notify("notifications/initialized", json!({})).await;
    assert_eq!(client.call(1, "work", json!({})).await["result"], json!({}));
}
