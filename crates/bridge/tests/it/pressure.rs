//! Bounded memory, whatever either side does, and a way in that never waits for the way out.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use thv_bridge::{Options, Target, Transport};
use tokio::net::TcpSocket;

use crate::client::Client;
use crate::failure;
use crate::server::{Flood, Reply, Server, dammed, initialized, result, status, usual};

/// What may be on its way to a client that does not read: the relay's own bound of 16 MiB, the buffers of a socket on
/// both sides (up to 10 MiB, as Linux grows them), and some.
const BOUND: usize = 40 * 1024 * 1024;

fn flood(padding: usize, first: &str) -> Arc<Flood> {
    Arc::new(Flood { padding, first: first.to_owned(), ..Flood::default() })
}

/// Reads the flood out, in order, and whatever else came between; those are returned.
async fn read_out(client: &mut Client, flood: &Flood, others: usize) -> Vec<Value> {
    flood.stop.store(true, Ordering::SeqCst);
    let mut rest = Vec::new();
    let mut next = 0_u64;
    let mut bytes = 0;
    while rest.len() < others || bytes < flood.written.load(Ordering::SeqCst) - flood.first.len() {
        let line = client.line().await;
        let message: Value = serde_json::from_str(&line).unwrap();
        if message["method"] == "notifications/x" {
            assert_eq!(message["params"]["n"], next);
            next += 1;
            bytes += line.len() + "event: message\ndata: \n\n".len();
        } else {
            rest.push(message);
        }
    }
    rest
}

#[tokio::test]
async fn a_client_that_stops_reading_dams_the_servers_flood_and_is_still_heard() {
    // Small messages and big ones: a bound in number and a bound in bytes.
    for padding in [10, 100_000] {
        let flood = flood(padding, "");
        let theirs = Arc::clone(&flood);
        let server = Server::start(move |request| match (request.method.as_str(), request.rpc().as_str()) {
            ("GET", _) => Reply::Flood(Arc::clone(&theirs)),
            (_, "slow") => Reply::Hang,
            _ => usual(request),
        })
        .await;
        let mut client = Client::to(&server);
        client.open().await;
        let taken = flood.dammed().await;
        assert!(taken < BOUND, "{taken}");
        client.request("slow", "slow", json!({})).await;
        for id in 1..=20 {
            client.request(id, "ping", json!({})).await;
        }
        server.saw_rpc("ping", 20).await;
        client.notify("notifications/cancelled", json!({"requestId": "slow"})).await;
        server.saw_rpc("notifications/cancelled", 1).await;
        client.send(json!({"jsonrpc": "2.0", "id": "question", "result": {}})).await;
        server.saw(|all| all.iter().any(|r| r.id() == "question")).await;

        let answers = read_out(&mut client, &flood, 20).await;
        assert_eq!(answers.len(), 20);
        assert!(answers.iter().all(|answer| answer["result"] == json!({})), "{answers:?}");
        assert!(client.end().await.is_empty());
    }
}

#[tokio::test]
async fn over_the_old_transport_too() {
    let flood = flood(1000, "event: endpoint\ndata: /messages\n\n");
    let theirs = Arc::clone(&flood);
    let server = Server::start(move |request| match request.method.as_str() {
        "GET" => Reply::Flood(Arc::clone(&theirs)),
        _ => status(202),
    })
    .await;
    let target = Target { path: "/sse".into(), transport: Transport::Sse, ..server.target() };
    let mut client = Client::with(Options::default(), move |_, _| Ok(target.clone()));
    client.request("slow", "slow", json!({})).await;
    server.saw_rpc("slow", 1).await;
    let taken = flood.dammed().await;
    assert!(taken < BOUND, "{taken}");
    client.notify("notifications/cancelled", json!({"requestId": "slow"})).await;
    server.saw_rpc("notifications/cancelled", 1).await;
    for id in 1..=20 {
        client.request(id, "ping", json!({})).await;
    }
    server.saw_rpc("ping", 20).await;
    read_out(&mut client, &flood, 0).await;
    // The server answered nobody.
    let rest = client.end().await;
    assert_eq!(rest.len(), 20);
    assert!(rest.iter().all(|answer| failure(answer) == (-33007, "shutting_down")), "{rest:?}");
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answers_is_still_heard() {
    let server = Server::start(|request| match request.rpc().as_str() {
        "big" => result(request, &json!("x".repeat(1024 * 1024))),
        _ => usual(request),
    })
    .await;
    let mut client = Client::to(&server);
    client.open().await;
    for id in 1..=100 {
        client.request(id, "big", json!({})).await;
    }
    server.saw_rpc("big", 100).await;
    client.notify("notifications/x", json!({})).await;
    server.saw_rpc("notifications/x", 1).await;
    assert_eq!(client.recv_ids(100).await.len(), 100);
    assert!(client.end().await.is_empty());
}

/// As many big answers at once as requests may be with the server, in one piece and as events: what the relay does not
/// keep stays with the server, and comes when the client reads again.
#[tokio::test]
async fn big_answers_for_a_client_that_does_not_read_stay_with_the_server() {
    const ANSWERS: usize = 64;
    const LENGTH: usize = 4 * 1024 * 1024;
    // The relay's own bound of 64 MiB, one answer more, and for each connection what it is read ahead and the buffers of
    // its sockets: on average, since those that were read for long have the larger ones.
    const MOST: usize = 64 * 1024 * 1024 + LENGTH + ANSWERS * 1024 * 1024;
    let taken = Arc::new(AtomicUsize::new(0));
    let theirs = Arc::clone(&taken);
    let pad = "x".repeat(LENGTH);
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(64 * 1024).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let server = Server::start_on(socket.listen(128).unwrap(), move |request| {
        let answer = || format!(r#"{{"jsonrpc":"2.0","id":{},"result":"{pad}"}}"#, request.id());
        let (media, body) = match request.rpc().as_str() {
            "json" => ("application/json", answer()),
            "stream" => ("text/event-stream", format!("data: {}\n\n", answer())),
            _ => return usual(request),
        };
        Reply::Counted { media, body: body.into(), taken: Arc::clone(&theirs) }
    });
    let mut client = Client::to(&server);
    client.open().await;
    for id in 1..=ANSWERS {
        client.request(id, if id % 2 == 0 { "json" } else { "stream" }, json!({})).await;
    }
    let kept = dammed(&taken).await;
    assert!(kept < MOST, "{kept} of {}", ANSWERS * LENGTH);
    // It is still heard.
    client.notify("notifications/x", json!({})).await;
    server.saw_rpc("notifications/x", 1).await;
    let mut answered = HashSet::new();
    for _ in 0..ANSWERS {
        let line = client.line().await;
        assert!(line.len() > LENGTH && line.ends_with("x\"}"));
        answered.insert(line[..40].to_owned());
    }
    assert_eq!(answered.len(), ANSWERS);
    assert!(client.end().await.is_empty());
}

#[tokio::test]
async fn the_longest_line_passes_both_ways_and_a_byte_more_does_not() {
    let server = Server::start(|request| match request.rpc().as_str() {
        "initialize" => initialized(request, "s1"),
        "echo" => result(request, &request.json()["params"]["pad"]),
        _ => usual(request),
    })
    .await;
    let mut client = Client::to(&server);
    client.open().await;
    let limit = Options::default().max_message_bytes;
    let around = r#"{"jsonrpc":"2.0","id":1,"method":"echo","params":{"pad":""}}"#.len();
    let pad = "x".repeat(limit - around);
    let line = |pad: &str| {
        format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"echo\",\"params\":{{\"pad\":\"{pad}\"}}}}\n")
    };
    client.write(line(&pad).as_bytes()).await;
    assert_eq!(client.recv().await["result"].as_str().unwrap(), pad);
    assert_eq!(server.requests().last().unwrap().body.len(), limit);
    client.write(line(&format!("{pad}x")).as_bytes()).await;
    let answer = client.recv().await;
    assert_eq!(failure(&answer), (-33006, "too_large"));
    assert_eq!(
        (answer["id"].as_u64(), answer["error"]["data"]["size"].as_u64()),
        (Some(1), Some(limit as u64 + 1))
    );
}

/// As many of the longest lines as there are, to a server that takes its time: they wait on the client's side.
#[tokio::test]
async fn the_longest_lines_are_not_all_read_ahead() {
    let server = Server::start(|request| match request.rpc().as_str() {
        "slow" => Reply::Hang,
        _ => usual(request),
    })
    .await;
    let mut client = Client::to(&server);
    let limit = Options::default().max_message_bytes;
    let mut written = 0;
    for id in 0..10 {
        let pad = "x".repeat(limit - 100);
        let line = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"slow\",\"params\":\"{pad}\"}}\n");
        if !client.try_write(line.as_bytes()).await {
            break;
        }
        written += 1;
    }
    assert!((3..=6).contains(&written), "{written}");
}
