//! Cancellation: the end of the connection says it, and nothing else does.

use std::sync::Mutex;

use serde_json::{Value, json};
use thv_bridge::Options;
use tokio::sync::oneshot;

use super::{ask, call, echo, refusal};
use crate::client::Client;
use crate::server::{Piece, Reply, Server, event, fed_stream, json_reply};
use crate::soon;

async fn cancel(client: &mut Client, id: impl Into<Value>) {
    client.notify("notifications/cancelled", json!({"requestId": id.into(), "reason": "bored"})).await;
}

#[tokio::test]
async fn a_cancelled_request_ends_with_its_connection_and_without_an_answer() {
    // One whose reply has begun, and one whose has not.
    let (sender, begun) = fed_stream();
    let (mut later, not_begun) = oneshot::channel();
    let replies = Mutex::new(vec![Reply::Later(not_begun), begun]);
    let server = Server::start(move |request| match request.rpc().as_str() {
        "slow" => refusal(request).unwrap_or_else(|| replies.lock().unwrap().pop().unwrap()),
        _ => echo(request),
    })
    .await;
    let mut client = Client::to(&server);
    let said = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": 1}});
    sender.send(Piece::Data(event(&said).into())).unwrap();
    ask(&mut client, "a", "slow", json!({})).await;
    assert_eq!(client.recv().await, said);
    cancel(&mut client, "a").await;
    soon(sender.closed()).await;

    ask(&mut client, "b", "slow", json!({})).await;
    server.saw_rpc("slow", 2).await;
    cancel(&mut client, "b").await;
    soon(later.closed()).await;

    // Cancelled once more, and what was answered, and what never was: nobody is told.
    call(&mut client, 1, "tools/list", json!({})).await;
    for id in [json!("a"), json!(1), json!("never")] {
        cancel(&mut client, id).await;
    }
    client.notify("notifications/cancelled", json!({})).await;
    call(&mut client, 2, "tools/list", json!({})).await;
    assert!(client.end().await.is_empty());
    assert_eq!(server.posted(), ["slow", "slow", "tools/list", "tools/list"]);
}

#[tokio::test]
async fn a_request_cancelled_before_it_was_sent_is_not_sent() {
    let (held, reply) = oneshot::channel();
    let reply = Mutex::new(Some(Reply::Later(reply)));
    let server = Server::start(move |request| match request.rpc().as_str() {
        "first" => reply.lock().unwrap().take().unwrap(),
        _ => echo(request),
    })
    .await;
    let target = server.target();
    let options = Options { max_in_flight: 1, ..Options::default() };
    let mut client = Client::with(options, move |_, _| Ok(target.clone()));
    ask(&mut client, 1, "first", json!({})).await;
    server.saw_rpc("first", 1).await;
    ask(&mut client, 2, "second", json!({})).await;
    cancel(&mut client, 2).await;
    ask(&mut client, 3, "third", json!({})).await;
    let _ = held.send(json_reply(200, &json!({"jsonrpc": "2.0", "id": 1, "result": {}})));
    assert_eq!(client.recv_ids(2).await, [json!(1), json!(3)]);
    assert!(client.end().await.is_empty());
    assert_eq!(server.posted(), ["first", "third"]);
}

#[tokio::test]
async fn an_id_that_was_cancelled_can_be_used_again() {
    let server = Server::start(|request| match request.rpc().as_str() {
        "slow" => Reply::Hang,
        _ => echo(request),
    })
    .await;
    let mut client = Client::to(&server);
    for _ in 0..5 {
        ask(&mut client, 1, "slow", json!({})).await;
        cancel(&mut client, 1).await;
        let answer = call(&mut client, 1, "tools/list", json!({})).await;
        assert!(answer.get("result").is_some(), "{answer}");
    }
    assert!(client.end().await.is_empty());
}
