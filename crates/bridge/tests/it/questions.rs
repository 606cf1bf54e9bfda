//! What the server asks: before it says that its session has begun, after it took the question back, and in too many
//! words.

use std::sync::Mutex;

use serde_json::{Value, json};
use thv_bridge::{Options, Target, Transport};
use tokio::sync::mpsc::UnboundedSender;

use crate::client::Client;
use crate::failure;
use crate::server::{Piece, Reply, Request, Server, event, fed_stream, json_reply, status, usual};

fn begun(id: u64) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": {"protocolVersion": "2025-11-25", "capabilities": {}}})
}

fn ping(id: u64) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "ping"})
}

fn say(stream: &UnboundedSender<Piece>, message: &Value) {
    stream.send(Piece::Data(event(message).into())).unwrap();
}

fn is_answer(request: &Request, id: u64) -> bool {
    request.method == "POST" && request.id() == id && request.rpc().is_empty()
}

/// A client that says all of its opening at once, and the server's stream in answer to it.
async fn opening(sessions: bool) -> (Server, Client, UnboundedSender<Piece>) {
    let (sender, reply) = fed_stream();
    let reply = Mutex::new(Some(reply));
    let server = Server::start(move |request| match request.rpc().as_str() {
        "initialize" => {
            let Some(Reply::Stream { pieces, .. }) = reply.lock().unwrap().take() else { return status(500) };
            let session = ("mcp-session-id", "s1".to_owned());
            Reply::Stream { headers: Vec::from_iter(sessions.then_some(session)), pieces }
        }
        _ => usual(request),
    })
    .await;
    let mut client = Client::to(&server);
    client.request(0, "initialize", json!({})).await;
    client.notify("notifications/initialized", json!({})).await;
    client.request(1, "work", json!({})).await;
    server.saw_rpc("initialize", 1).await;
    (server, client, sender)
}

#[tokio::test]
async fn a_server_that_asks_before_it_has_begun_the_session_is_answered_in_it() {
    for sessions in [true, false] {
        let (server, mut client, stream) = opening(sessions).await;
        for id in [7, 8] {
            say(&stream, &ping(id));
            assert_eq!(client.recv().await["method"], "ping");
            client.send(json!({"jsonrpc": "2.0", "id": id, "result": {}})).await;
            server.saw(|all| all.iter().any(|r| is_answer(r, id))).await;
        }
        // What must wait for the answer to `initialize` still does.
        assert_eq!(server.posted(), ["initialize", "", ""]);
        let session = sessions.then_some("s1");
        assert!(server.requests()[1..].iter().all(|r| r.header("mcp-session-id") == session));
        say(&stream, &begun(0));
        assert_eq!(client.recv().await["id"], 0);
        assert_eq!(client.recv().await["id"], 1);
        assert_eq!(server.posted()[3..], ["notifications/initialized", "work"]);
        assert!(client.end().await.is_empty());
    }
}

#[tokio::test]
async fn so_it_is_over_the_old_transport_and_in_another_session_of_the_same_client() {
    let streams: std::sync::Arc<Mutex<Vec<UnboundedSender<Piece>>>> = std::sync::Arc::default();
    let theirs = std::sync::Arc::clone(&streams);
    let server = Server::start(move |request| {
        if request.method != "GET" {
            return status(202);
        }
        let (sender, reply) = fed_stream();
        sender.send(Piece::Data("event: endpoint\ndata: /messages\n\n".into())).unwrap();
        theirs.lock().unwrap().push(sender);
        reply
    })
    .await;
    let target = Target { path: "/sse".into(), transport: Transport::Sse, ..server.target() };
    let mut client = Client::with(Options::default(), move |_, _| Ok(target.clone()));
    for n in [1, 2] {
        client.request(n, "initialize", json!({})).await;
        client.notify("notifications/initialized", json!({})).await;
        server.saw_rpc("initialize", n as usize).await;
        let stream = streams.lock().unwrap().last().unwrap().clone();
        say(&stream, &ping(n + 10));
        assert_eq!(client.recv().await["method"], "ping");
        client.send(json!({"jsonrpc": "2.0", "id": n + 10, "result": {}})).await;
        server.saw(|all| all.iter().any(|r| is_answer(r, n + 10))).await;
        say(&stream, &begun(n));
        assert_eq!(client.recv().await["id"], n);
        server.saw_rpc("notifications/initialized", n as usize).await;
    }
}

#[tokio::test]
async fn a_client_that_begins_again_answers_each_session_in_its_own() {
    let (sender, reply) = fed_stream();
    let reply = Mutex::new(Some(reply));
    let server = Server::start(move |request| match (request.rpc().as_str(), request.id().as_u64()) {
        ("initialize", Some(5)) => {
            let Some(Reply::Stream { pieces, .. }) = reply.lock().unwrap().take() else { return status(500) };
            Reply::Stream { headers: vec![("mcp-session-id", "s2".into())], pieces }
        }
        _ => usual(request),
    })
    .await;
    let mut client = Client::to(&server);
    client.open().await;
    client.request(5, "initialize", json!({})).await;
    server.saw_rpc("initialize", 2).await;
    say(&sender, &ping(7));
    assert_eq!(client.recv().await["method"], "ping");
    client.send(json!({"jsonrpc": "2.0", "id": 7, "result": {}})).await;
    server.saw(|all| all.iter().any(|r| is_answer(r, 7) && r.header("mcp-session-id") == Some("s2"))).await;
    say(&sender, &begun(5));
    assert_eq!(client.recv().await["id"], 5);
}

/// The client's answer to a question of the new session was taken for one to a question that the old session had taken
/// back, and dropped.
#[tokio::test]
async fn regression_a_question_that_was_taken_back_is_not_answered_for_by_a_later_one() {
    for in_batch in [false, true] {
        let life = std::sync::Arc::new(Mutex::new(0));
        let theirs = std::sync::Arc::clone(&life);
        let server = Server::start(move |request| {
            let current = format!("life{}", theirs.lock().unwrap());
            let question = json!({"jsonrpc": "2.0", "id": 1, "method": "sampling/createMessage"});
            let taken_back =
                json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}});
            let answer = json!({"jsonrpc": "2.0", "id": request.id(), "result": {}});
            match request.rpc().as_str() {
                "initialize" => crate::server::initialized(request, &current),
                _ if request.header("mcp-session-id") != Some(&current) => status(404),
                "ask" if in_batch => json_reply(200, &json!([question, taken_back, answer])),
                "ask" => {
                    crate::server::stream([&*(event(&question) + &event(&taken_back) + &event(&answer))])
                }
                "ask again" => crate::server::stream([&*(event(&question) + &event(&answer))]),
                _ => usual(request),
            }
        })
        .await;
        let mut client = Client::to(&server);
        client.open().await;
        client.request(1, "ask", json!({})).await;
        if in_batch {
            assert_eq!(client.recv().await.as_array().unwrap().len(), 3);
        } else {
            for _ in 0..3 {
                client.recv().await;
            }
        }
        *life.lock().unwrap() = 1;
        client.request(2, "ask again", json!({})).await;
        assert_eq!(client.recv().await["method"], "sampling/createMessage");
        client.recv().await;
        client.send(json!({"jsonrpc": "2.0", "id": 1, "result": "sampled"})).await;
        server.saw(|all| all.iter().any(|r| is_answer(r, 1))).await;
        assert_eq!(server.requests().last().unwrap().header("mcp-session-id"), Some("life1"));
    }
}

#[tokio::test]
async fn a_question_over_the_limit_is_answered_in_the_clients_stead() {
    let question =
        json!({"jsonrpc": "2.0", "id": "q", "method": "sampling/createMessage", "params": "x".repeat(300)});
    let server = Server::start(move |request| match request.rpc().as_str() {
        "work" => {
            let answer = json!({"jsonrpc": "2.0", "id": request.id(), "result": {}});
            crate::server::stream([&*(event(&question) + &event(&answer))])
        }
        _ => usual(request),
    })
    .await;
    let target = server.target();
    let options = Options { max_answer_bytes: 200, ..Options::default() };
    let mut client = Client::with(options, move |_, _| Ok(target.clone()));
    client.open().await;
    client.call(1, "work", json!({})).await;
    server.saw(|all| all.iter().any(|r| r.id() == "q")).await;
    let answered = server.requests().into_iter().find(|r| r.id() == "q").unwrap();
    assert_eq!(failure(&answered.json()), (-33006, "too_large"));
    assert_eq!(answered.header("mcp-session-id"), Some("s1"));
    assert!(client.end().await.is_empty());
}
