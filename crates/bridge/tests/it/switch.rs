//! A workload that is recreated under a live relay as one of the other transport.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use thv_bridge::{Options, Target, Why};

use crate::client::Client;
use crate::failure;
use crate::http_sse::{self, Old};
use crate::modern::with_meta;
use crate::server::{Piece, Reply, Request, Server, event, fed_stream, status, usual};

type Stream = Arc<Mutex<Option<tokio::sync::mpsc::UnboundedSender<Piece>>>>;

/// A server of streamable HTTP that agrees on the oldest revision and has a stream of its own.
async fn new_kind() -> (Server, Stream) {
    let stream = Stream::default();
    let theirs = Stream::clone(&stream);
    let server = Server::start(move |request| match (request.method.as_str(), &*request.rpc()) {
        (_, "initialize") => begun(request),
        _ if request.header("mcp-session-id") != Some("new") => status(400),
        ("GET", _) => {
            let (sender, reply) = fed_stream();
            *theirs.lock().unwrap() = Some(sender);
            reply
        }
        _ => usual(request),
    })
    .await;
    (server, stream)
}

fn begun(request: &Request) -> Reply {
    let result = json!({"protocolVersion": "2024-11-05", "capabilities": {}});
    let answer = json!({"jsonrpc": "2.0", "id": request.id(), "result": result});
    let headers = vec![("content-type", "application/json".into()), ("mcp-session-id", "new".into())];
    Reply::Full { status: 200, headers, body: answer.to_string().into_bytes() }
}

/// A client that is told of one target first and of the other from then on.
fn moving(first: Target, then: Target) -> Client {
    Client::with(Options::default(), move |why, _| match why {
        Why::Start => Ok(first.clone()),
        _ => Ok(then.clone()),
    })
}

fn news(n: u64) -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"n": n}})
}

#[tokio::test]
async fn from_streamable_http_to_http_with_sse() {
    for only_waits in [false, true] {
        let (first, _stream) = new_kind().await;
        let old = Old::new();
        let then = old.start().await;
        let mut client = moving(first.target(), http_sse::target(&then));
        http_sse::open(&mut client).await;
        first.saw(|all| all.iter().any(|r| r.method == "GET")).await;
        drop(first);
        if !only_waits {
            assert_eq!(client.call(1, "work", json!({"n": 1})).await["result"], json!({"n": 1}));
        }
        then.saw_rpc("notifications/initialized", 1).await;
        old.say(&news(7));
        assert_eq!(client.recv().await, news(7));
        client.notify("notifications/x", json!({})).await;
        then.saw_rpc("notifications/x", 1).await;
        assert_eq!(client.call(2, "work", json!({"n": 2})).await["result"], json!({"n": 2}));
        assert_eq!(then.posted()[..2], ["initialize", "notifications/initialized"]);
        assert!(then.requests().iter().all(|r| r.header("mcp-session-id").is_none()));
        assert!(client.end().await.is_empty());
    }
}

#[tokio::test]
async fn from_http_with_sse_to_streamable_http() {
    for only_waits in [false, true] {
        let old = Old::new();
        let first = old.start().await;
        let (then, stream) = new_kind().await;
        let mut client = moving(http_sse::target(&first), then.target());
        http_sse::open(&mut client).await;
        first.saw_rpc("notifications/initialized", 1).await;
        drop(first);
        if !only_waits {
            assert_eq!(client.call(1, "work", json!({"n": 1})).await["result"], json!({"n": 1}));
        }
        then.saw(|all| all.iter().any(|r| r.method == "GET")).await;
        stream.lock().unwrap().as_ref().unwrap().send(Piece::Data(event(&news(7)).into())).unwrap();
        assert_eq!(client.recv().await, news(7));
        client.notify("notifications/x", json!({})).await;
        then.saw_rpc("notifications/x", 1).await;
        assert_eq!(client.call(2, "work", json!({"n": 2})).await["result"], json!({"n": 2}));
        assert_eq!(then.posted()[..2], ["initialize", "notifications/initialized"]);
        assert!(client.end().await.is_empty());
        assert_eq!(then.requests().last().unwrap().method, "DELETE");
    }
}

#[tokio::test]
async fn a_server_of_the_other_transport_that_agrees_on_less_is_told() {
    let first = Server::start(usual).await;
    let old = Old::new();
    let then = old.start().await;
    let mut client = moving(first.target(), http_sse::target(&then));
    client.open().await;
    drop(first);
    let answer = client.call(1, "work", json!({})).await;
    assert_eq!(failure(&answer), (-33004, "not_running"));
    assert!(!then.posted().contains(&"work".to_owned()));
    // The client's own new session is as good as any.
    http_sse::open(&mut client).await;
    client.call(2, "work", json!({})).await;
}

#[tokio::test]
async fn what_belongs_to_no_session_follows_as_well() {
    let first = Server::start(crate::modern::echo).await;
    let old = Old::new();
    let then = old.start().await;
    let mut client = moving(first.target(), http_sse::target(&then));
    for id in 1..4 {
        assert_eq!(
            client.call(id, "server/discover", with_meta(json!({}))).await["result"],
            with_meta(json!({}))
        );
        first.hang_up();
    }
    drop(first);
    client.call(4, "server/discover", with_meta(json!({}))).await;
    assert_eq!(then.posted(), ["server/discover"]);
}
