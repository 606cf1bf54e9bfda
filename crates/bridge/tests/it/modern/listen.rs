//! `subscriptions/listen`: a reply that stays open.

use std::sync::Mutex;

use serde_json::{Value, json};
use thv_bridge::Options;
use tokio::sync::mpsc::UnboundedSender;

use super::{ask, call, echo, refusal};
use crate::client::Client;
use crate::failure;
use crate::server::{Piece, Server, event, fed_stream};
use crate::soon;

type Feeds = std::sync::Arc<Mutex<Vec<UnboundedSender<Piece>>>>;

/// A server that hands the streams of its subscriptions to the test.
async fn listened() -> (Server, Feeds) {
    let feeds = Feeds::default();
    let theirs = Feeds::clone(&feeds);
    let server = Server::start(move |request| match request.rpc().as_str() {
        "subscriptions/listen" => refusal(request).unwrap_or_else(|| {
            let (sender, reply) = fed_stream();
            sender
                .send(Piece::Data(event(&said(&request.id(), "subscriptions/acknowledged")).into()))
                .unwrap();
            theirs.lock().unwrap().push(sender);
            reply
        }),
        _ => echo(request),
    })
    .await;
    (server, feeds)
}

fn said(subscription: &Value, what: &str) -> Value {
    let meta = json!({"io.modelcontextprotocol/subscriptionId": subscription});
    json!({"jsonrpc": "2.0", "method": format!("notifications/{what}"), "params": {"_meta": meta, "x": 1.0}})
}

async fn listen(client: &mut Client, id: impl Into<Value>) {
    let id = id.into();
    ask(client, id.clone(), "subscriptions/listen", json!({"notifications": {"toolsListChanged": true}}))
        .await;
    assert_eq!(client.recv().await, said(&id, "subscriptions/acknowledged"));
}

fn say(feeds: &Feeds, which: usize, message: &Value) {
    feeds.lock().unwrap()[which].send(Piece::Data(event(message).into())).unwrap();
}

fn end(feeds: &Feeds, which: usize, how: Option<Piece>) {
    let feed = feeds.lock().unwrap().remove(which);
    how.into_iter().for_each(|piece| feed.send(piece).unwrap());
}

#[tokio::test]
async fn what_is_said_on_it_passes_until_the_client_cancels() {
    let (server, feeds) = listened().await;
    let mut client = Client::to(&server);
    listen(&mut client, "one").await;
    listen(&mut client, 2).await;
    for n in 0..20 {
        let (which, id) = if n % 3 == 0 { (0, json!("one")) } else { (1, json!(2)) };
        say(&feeds, which, &said(&id, "tools/list_changed"));
        assert_eq!(client.recv().await, said(&id, "tools/list_changed"));
        call(&mut client, n + 10, "tools/list", json!({})).await;
    }
    client.notify("notifications/cancelled", json!({"requestId": "one"})).await;
    let first = feeds.lock().unwrap()[0].clone();
    soon(first.closed()).await;
    say(&feeds, 1, &said(&json!(2), "resources/updated"));
    assert_eq!(client.recv().await, said(&json!(2), "resources/updated"));
    assert!(!server.posted().contains(&"notifications/cancelled".to_owned()));
    assert!(server.requests().iter().all(|r| r.method == "POST"));
}

#[tokio::test]
async fn its_end_is_told_as_the_server_meant_it() {
    let (server, feeds) = listened().await;
    let mut client = Client::to(&server);

    // In order: with an answer.
    listen(&mut client, 1).await;
    let meta = json!({"io.modelcontextprotocol/subscriptionId": 1});
    let answer = json!({"jsonrpc": "2.0", "id": 1, "result": {"resultType": "complete", "_meta": meta}});
    say(&feeds, 0, &answer);
    assert_eq!(client.recv().await, answer);
    end(&feeds, 0, None);

    // Broken, or ended without a word: one error, and the client may listen again.
    for how in [Some(Piece::Cut), None] {
        listen(&mut client, 1).await;
        end(&feeds, 0, how);
        assert_eq!(failure(&client.recv().await), (-33002, "connection_lost"));
    }

    // Cancelled by the server: what is cancelled is not answered.
    listen(&mut client, 1).await;
    let cancelled =
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}});
    say(&feeds, 0, &cancelled);
    assert_eq!(client.recv().await, cancelled);
    end(&feeds, 0, None);
    // The id is free as soon as the end was seen, which nothing tells.
    listen_again(&mut client).await;

    // Unless it is.
    say(&feeds, 0, &cancelled);
    say(&feeds, 0, &answer);
    assert_eq!((client.recv().await, client.recv().await), (cancelled, answer));
    assert!(client.end().await.is_empty());
    assert!(server.requests().iter().all(|r| r.method == "POST"));
}

async fn listen_again(client: &mut Client) {
    soon(async {
        loop {
            ask(client, 1, "subscriptions/listen", json!({})).await;
            let heard = client.recv().await;
            if heard == said(&json!(1), "subscriptions/acknowledged") {
                return;
            }
            // The id still waits.
            assert_eq!((&heard["id"], &heard["error"]["code"]), (&Value::Null, &json!(-32600)));
        }
    })
    .await;
}

#[tokio::test]
async fn subscriptions_keep_no_request_from_the_server() {
    let (server, _feeds) = listened().await;
    let target = server.target();
    let options = Options { max_in_flight: 2, ..Options::default() };
    let mut client = Client::with(options, move |_, _| Ok(target.clone()));
    for id in 0..2 {
        listen(&mut client, id).await;
    }
    // A third one waits for one of these to end, and nothing else does.
    ask(&mut client, 2, "subscriptions/listen", json!({})).await;
    for id in 10..20 {
        call(&mut client, id, "tools/list", json!({})).await;
    }
    client.notify("notifications/cancelled", json!({"requestId": 0})).await;
    assert_eq!(client.recv().await, said(&json!(2), "subscriptions/acknowledged"));
}

#[tokio::test]
async fn nobody_waits_for_a_subscription_at_the_end() {
    let (server, feeds) = listened().await;
    let target = server.target();
    // Longer than the test would wait.
    let options = Options { drain: std::time::Duration::from_secs(3600), ..Options::default() };
    let mut client = Client::with(options, move |_, _| Ok(target.clone()));
    listen(&mut client, 1).await;
    let rest = client.end().await;
    assert_eq!(rest.len(), 1);
    assert_eq!((&rest[0]["id"], failure(&rest[0])), (&json!(1), (-33007, "shutting_down")));
    let feed = feeds.lock().unwrap()[0].clone();
    soon(feed.closed()).await;
}
