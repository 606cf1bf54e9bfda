//! The end, whatever the other side does: within a second, with every request answered.

use std::time::Duration;

use serde_json::json;
use thv_bridge::{LocateError, Options, Reason};
use tokio::time::Instant;

use crate::client::Client;
use crate::failure;
use crate::server::{Piece, Reply, Server, event, fed_stream, usual};

/// What the contract promises, from the end of stdin on.
const PROMISED: Duration = Duration::from_secs(1);

fn hang_at_work(request: &crate::server::Request) -> Reply {
    if request.rpc() == "work" { Reply::Hang } else { usual(request) }
}

#[tokio::test]
async fn requests_that_are_answered_in_time_are_answered_after_the_end_of_stdin() {
    let (sender, reply) = fed_stream();
    let reply = std::sync::Mutex::new(Some(reply));
    let server = Server::start(move |request| match request.rpc().as_str() {
        "work" => reply.lock().unwrap().take().unwrap(),
        _ => usual(request),
    })
    .await;
    let mut client = Client::to(&server);
    client.open().await;
    client.request(1, "work", json!({})).await;
    server.saw_rpc("work", 1).await;
    client.close_stdin();
    sender.send(Piece::Data(event(&json!({"jsonrpc": "2.0", "id": 1, "result": {}})).into())).unwrap();
    drop(sender);
    let rest = client.rest().await;
    assert_eq!(rest.len(), 1);
    assert_eq!(rest[0]["result"], json!({}));
    assert_eq!(server.requests().last().unwrap().method, "DELETE");
}

#[tokio::test]
async fn a_script_without_a_last_line_end_is_answered() {
    let server = Server::start(usual).await;
    let mut client = Client::to(&server);
    client.write(br#"{"jsonrpc":"2.0","id":1,"method":"work"}"#).await;
    let rest = client.end().await;
    assert_eq!(rest.len(), 1);
    assert_eq!(rest[0]["id"], 1);
}

#[tokio::test]
async fn notifications_on_their_way_are_delivered_before_the_end() {
    let server = Server::start(usual).await;
    let mut client = Client::to(&server);
    for _ in 0..20 {
        client.notify("notifications/x", json!({})).await;
    }
    assert!(client.end().await.is_empty());
    assert_eq!(server.posted().len(), 20);
}

#[tokio::test]
async fn requests_that_are_not_answered_in_time_get_an_answer_within_a_second() {
    let server = Server::start(hang_at_work).await;
    let mut client = Client::to(&server);
    client.open().await;
    client.request(1, "work", json!({})).await;
    client.request("b", "work", json!({})).await;
    server.saw_rpc("work", 2).await;
    let start = Instant::now();
    let mut rest = client.end().await;
    assert!(start.elapsed() < PROMISED);
    rest.sort_by_key(|answer| answer["id"].to_string());
    assert_eq!(rest.len(), 2);
    for (answer, id) in rest.iter().zip([json!("b"), json!(1)]) {
        assert_eq!((failure(answer), &answer["id"]), ((-33007, "shutting_down"), &id));
    }
    assert_eq!(server.requests().last().unwrap().method, "DELETE");
}

#[tokio::test]
async fn a_signal_ends_it_the_same_way() {
    let server = Server::start(hang_at_work).await;
    let mut client = Client::to(&server);
    client.open().await;
    client.request(1, "work", json!({})).await;
    server.saw_rpc("work", 1).await;
    let start = Instant::now();
    client.ask_to_end();
    let rest = client.rest().await;
    assert!(start.elapsed() < PROMISED);
    assert_eq!(failure(&rest[0]), (-33007, "shutting_down"));
    assert_eq!(server.requests().last().unwrap().method, "DELETE");
}

#[tokio::test]
async fn a_signal_cuts_a_long_drain_short() {
    let server = Server::start(hang_at_work).await;
    let target = server.target();
    let options = Options { drain: Duration::from_secs(3600), ..Options::default() };
    let mut client = Client::with(options, move |_, _| Ok(target.clone()));
    client.request(1, "work", json!({})).await;
    server.saw_rpc("work", 1).await;
    client.close_stdin();
    client.ask_to_end();
    assert_eq!(failure(&client.rest().await[0]), (-33007, "shutting_down"));
}

#[tokio::test]
async fn a_server_that_hangs_at_everything_does_not_hold_it_up() {
    let server = Server::start(|request| match request.rpc().as_str() {
        "initialize" => usual(request),
        _ => Reply::Hang,
    })
    .await;
    let mut client = Client::to(&server);
    client.open().await;
    server.saw_rpc("notifications/initialized", 1).await;
    // Held by `initialized`, which is never accepted, and yet answered in the end.
    client.request(1, "work", json!({})).await;
    let start = Instant::now();
    let rest = client.end().await;
    assert!(start.elapsed() < PROMISED);
    assert_eq!(rest.len(), 1);
    assert_eq!(failure(&rest[0]), (-33007, "shutting_down"));
}

#[tokio::test]
async fn a_client_that_does_not_read_does_not_hold_it_up() {
    let server = Server::start(|request| crate::server::result(request, &json!("x".repeat(60_000)))).await;
    let mut client = Client::to(&server);
    for id in 0..20 {
        client.request(id, "work", json!({})).await;
    }
    server.saw_rpc("work", 20).await;
    let start = Instant::now();
    client.close_stdin();
    client.outcome().await.unwrap();
    assert!(start.elapsed() < PROMISED);
}

#[tokio::test]
async fn a_client_that_is_gone_is_an_end_in_order() {
    let server = Server::start(usual).await;
    let mut client = Client::to(&server);
    client.open().await;
    client.close_stdout();
    client.request(1, "work", json!({})).await;
    // Stdin stays open, and still it ends.
    server.saw(|all| all.last().is_some_and(|r| r.method == "DELETE")).await;
    client.outcome().await.unwrap();
}

#[tokio::test]
async fn before_anything_was_said_it_ends_at_once() {
    let client = Client::with(Options::default(), |_, _| Err(LocateError::new(Reason::KeyMissing, "no key")));
    assert!(client.end().await.is_empty());
}
