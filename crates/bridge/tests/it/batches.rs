//! Batches of the client's: each message in one is what it would be alone, though they travel as one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::client::Client;
use crate::server::{Reply, Request, Server, event, initialized, status, stream, usual};

fn note(method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "method": method, "params": params})
}

fn cancelled(id: u64) -> Value {
    note("notifications/cancelled", &json!({"requestId": id}))
}

fn streams(all: &[Request]) -> usize {
    all.iter().filter(|r| r.method == "GET").count()
}

fn batches(all: &[Request]) -> usize {
    all.iter().filter(|r| r.json().is_array()).count()
}

/// To a batch: accepted, or answers to the requests in it. `hang` is not answered.
fn answer(request: &Request) -> Reply {
    let message = request.json();
    let Some(parts) = message.as_array() else {
        return if request.rpc() == "hang" { Reply::Hang } else { usual(request) };
    };
    let requests = parts.iter().filter(|part| part.get("method").is_some() && part.get("id").is_some());
    let answers: String =
        requests.map(|part| event(&json!({"jsonrpc": "2.0", "id": part["id"], "result": {}}))).collect();
    if answers.is_empty() { status(202) } else { stream([&*answers]) }
}

#[tokio::test]
async fn initialized_in_a_batch_opens_the_session() {
    for with_a_request in [false, true] {
        let server = Server::start(answer).await;
        let mut client = Client::to(&server);
        client.call(0, "initialize", json!({})).await;
        let mut batch =
            vec![note("notifications/x", &json!({})), note("notifications/initialized", &json!({}))];
        if with_a_request {
            batch.push(json!({"jsonrpc": "2.0", "id": 1, "method": "work"}));
        }
        client.send(json!(batch)).await;
        client.request(2, "work", json!({})).await;
        server.saw(|all| streams(all) == 1).await;
        assert_eq!(client.recv_ids(1 + usize::from(with_a_request)).await.last(), Some(&json!(2)));
        // What came after it was sent after it.
        let all = server.requests();
        let sent = all.iter().position(|r| r.json() == json!(batch)).unwrap();
        assert!(all.iter().position(|r| r.id() == 2).unwrap() > sent);
    }
}

#[tokio::test]
async fn cancelled_in_a_batch_withdraws() {
    let server = Server::start(answer).await;
    let mut client = Client::to(&server);
    client.open().await;
    for (id, batch) in [
        (1, json!([cancelled(1)])),
        (2, json!([note("notifications/x", &json!({})), cancelled(2)])),
        (3, json!([cancelled(3), {"jsonrpc": "2.0", "id": 100, "method": "work"}])),
    ] {
        client.request(id, "hang", json!({})).await;
        server.saw_rpc("hang", id as usize).await;
        client.send(batch).await;
        server.saw(|all| batches(all) == id as usize).await;
    }
    assert_eq!(client.recv().await["id"], 100);
    // Its own request: the server hears of both, and the client of neither.
    client.send(json!([{"jsonrpc": "2.0", "id": 4, "method": "work"}, cancelled(4)])).await;
    server.saw(|all| batches(all) == 4).await;
    assert!(client.end().await.is_empty());
}

#[tokio::test]
async fn an_answer_in_a_batch_does_not_reach_another_session_than_the_one_that_asked() {
    let is_lost = Arc::new(AtomicBool::new(false));
    let theirs = Arc::clone(&is_lost);
    let server = Server::start(move |request| {
        let current = if theirs.load(Ordering::SeqCst) { "new" } else { "old" };
        match request.rpc().as_str() {
            "initialize" => initialized(request, current),
            _ if request.header("mcp-session-id") != Some(current) => status(404),
            "ask" => {
                let questions: String = (10..20)
                    .map(|id| event(&json!({"jsonrpc": "2.0", "id": id, "method": "roots/list"})))
                    .collect();
                let answer = json!({"jsonrpc": "2.0", "id": request.id(), "result": {}});
                stream([&*(questions + &event(&answer))])
            }
            _ => answer(request),
        }
    })
    .await;
    let mut client = Client::to(&server);
    client.open().await;
    client.request(1, "ask", json!({})).await;
    for _ in 0..11 {
        client.recv().await;
    }
    let result = |id: u64| json!({"jsonrpc": "2.0", "id": id, "result": {"roots": []}});
    // In the session that asked, they are as they were written.
    client.send(json!([result(10), result(11)])).await;
    server.saw(|all| batches(all) == 1).await;
    is_lost.store(true, Ordering::SeqCst);
    // A batch meets the loss itself: what else is in it is sent again.
    let work = json!({"jsonrpc": "2.0", "id": 2, "method": "work"});
    client.send(json!([result(12), work])).await;
    assert_eq!(client.recv().await["id"], 2);
    client.send(json!([result(13), result(14)])).await;
    client.send(json!([result(15), note("notifications/x", &json!({}))])).await;
    client.send(json!([{"jsonrpc": "2.0", "id": 3, "method": "work"}, result(16)])).await;
    assert_eq!(client.recv().await["id"], 3);
    assert!(client.end().await.is_empty());
    let of_session = |name: &str| {
        let all = server.requests();
        let of = all.iter().filter(|r| r.header("mcp-session-id") == Some(name) && r.json().is_array());
        of.map(Request::json).collect::<Vec<_>>()
    };
    assert_eq!(of_session("old"), [json!([result(10), result(11)]), json!([result(12), work])]);
    let mut new = of_session("new");
    new.sort_by_key(ToString::to_string);
    assert_eq!(
        new,
        [
            json!([{"jsonrpc": "2.0", "id": 2, "method": "work"}]),
            json!([{"jsonrpc": "2.0", "id": 3, "method": "work"}]),
            json!([note("notifications/x", &json!({}))]),
        ]
    );
}
