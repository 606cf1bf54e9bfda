//! Event streams: of replies, resumed, and of the server's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::client::Client;
use crate::failure;
use crate::server::{Piece, Reply, Request, Server, cut_stream, event, fed_stream, status, stream, usual};

fn progress(n: u64) -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": n}})
}

fn answer(request: &Request) -> Value {
    json!({"jsonrpc": "2.0", "id": request.id(), "result": {}})
}

#[tokio::test]
async fn split_at_every_byte_it_says_the_same() {
    let text = "\u{feff}: hello\r\nretry: 1\r\n\r\nid: 1\ndata:\n\nevent: message\rdata: {\"jsonrpc\":\"2.0\",\r\
                data: \"method\":\"n\u{e9}\"}\r\rdata:{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":1.0}\n\n";
    let cut = Arc::new(AtomicUsize::new(0));
    let theirs = Arc::clone(&cut);
    let server = Server::start(move |_| match theirs.load(Ordering::SeqCst) {
        // At last, every byte alone.
        usize::MAX => {
            let (sender, reply) = fed_stream();
            for byte in text.bytes() {
                sender.send(Piece::Data(vec![byte])).unwrap();
            }
            reply
        }
        at => {
            let (sender, reply) = fed_stream();
            for part in [&text.as_bytes()[..at], &text.as_bytes()[at..]] {
                if !part.is_empty() {
                    sender.send(Piece::Data(part.to_vec())).unwrap();
                }
            }
            reply
        }
    })
    .await;
    let mut client = Client::to(&server);
    for at in (0..text.len()).chain([usize::MAX]) {
        cut.store(at, Ordering::SeqCst);
        client.request(1, "work", json!({})).await;
        assert_eq!(client.line().await, "{\"jsonrpc\":\"2.0\", \"method\":\"n\u{e9}\"}", "{at}");
        assert_eq!(client.line().await, "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":1.0}", "{at}");
    }
}

#[tokio::test]
async fn messages_of_a_reply_come_in_order_and_the_servers_requests_are_answered_meanwhile() {
    let (sender, reply) = fed_stream();
    let reply = std::sync::Mutex::new(Some(reply));
    let server = Server::start(move |request| match request.rpc().as_str() {
        "work" => reply.lock().unwrap().take().unwrap(),
        _ => usual(request),
    })
    .await;
    let mut client = Client::to(&server);
    client.request(1, "work", json!({})).await;
    let say = |message: Value| sender.send(Piece::Data(event(&message).into())).unwrap();
    for n in 0..3 {
        say(progress(n));
        assert_eq!(client.recv().await, progress(n));
    }
    say(json!({"jsonrpc": "2.0", "id": "q", "method": "sampling/createMessage"}));
    assert_eq!(client.recv().await["method"], "sampling/createMessage");
    client.send(json!({"jsonrpc": "2.0", "id": "q", "result": {}})).await;
    server.saw(|all| all.iter().any(|r| r.id() == "q")).await;
    say(json!({"jsonrpc": "2.0", "id": 1, "result": {}}));
    assert_eq!(client.recv().await["id"], 1);
    // Another answer to the same, and an answer to nobody, go nowhere.
    say(json!({"jsonrpc": "2.0", "id": 1, "result": "again"}));
    say(json!({"jsonrpc": "2.0", "id": 5, "result": "whose?"}));
    drop(sender);
    assert!(client.end().await.is_empty());
}

#[tokio::test]
async fn what_is_no_message_does_not_reach_the_client() {
    let server = Server::start(|request| {
        stream([
            "event: endpoint\ndata: /messages\n\n",
            "data: Server ready\n\n",
            "data: {\"log\":1}\n\n",
            &*event(&answer(request)),
        ])
    })
    .await;
    let mut client = Client::to(&server);
    client.call(1, "work", json!({})).await;
    assert!(client.end().await.is_empty());
}

#[tokio::test]
async fn cut_after_the_answer_it_is_not_missed() {
    let server = Server::start(|request| match request.method.as_str() {
        "POST" => cut_stream(["id: 1\ndata:\n\n", &*event(&answer(request)), "data: half"]),
        _ => status(405),
    })
    .await;
    let mut client = Client::to(&server);
    client.call(1, "work", json!({})).await;
    assert!(client.end().await.is_empty());
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn cut_before_the_answer_without_an_id_it_is_lost() {
    for cut in [false, true] {
        let end = move |pieces: [&str; 2]| if cut { cut_stream(pieces) } else { stream(pieces) };
        let server =
            Server::start(move |_| end([&*event(&progress(1)), "data: {\"jsonrpc\":\"2.0\",\"id\":1"])).await;
        let mut client = Client::to(&server);
        client.request(1, "work", json!({})).await;
        assert_eq!(client.recv().await, progress(1));
        assert_eq!(failure(&client.recv().await), (-33002, "connection_lost"));
        assert_eq!(server.requests().len(), 1);
    }
}

#[tokio::test]
async fn cut_before_the_answer_with_an_id_it_is_resumed_as_often_as_it_takes() {
    let gets = AtomicUsize::new(0);
    let server = Server::start(move |request| match (request.method.as_str(), request.rpc().as_str()) {
        ("POST", "work") => {
            cut_stream(["retry: 20\nid: e1\ndata:\n\n", &*format!("id: e2\n{}", event(&progress(1)))])
        }
        ("GET", _) if request.header("last-event-id").is_none() => status(405),
        ("GET", _) => match gets.fetch_add(1, Ordering::SeqCst) {
            0 => status(503),
            1 => Reply::Cut,
            2 => stream([&*format!("id: e3\n{}", event(&progress(2)))]),
            3 => stream([]),
            _ => stream([&*event(&json!({"jsonrpc": "2.0", "id": 7, "result": "at last"}))]),
        },
        _ => usual(request),
    })
    .await;
    let mut client = Client::to(&server);
    client.open().await;
    client.request(7, "work", json!({})).await;
    assert_eq!(client.recv().await, progress(1));
    assert_eq!(client.recv().await, progress(2));
    assert_eq!(client.recv().await["result"], "at last");
    let resumed: Vec<Request> =
        server.requests().into_iter().filter(|r| r.header("last-event-id").is_some()).collect();
    let ids: Vec<&str> = resumed.iter().filter_map(|r| r.header("last-event-id")).collect();
    assert_eq!(ids, ["e2", "e2", "e2", "e3", "e3"]);
    for get in &resumed {
        assert_eq!(get.header("accept"), Some("text/event-stream"));
        assert_eq!(
            (get.header("mcp-session-id"), get.header("mcp-protocol-version")),
            (Some("s1"), Some("2025-11-25"))
        );
    }
    assert_eq!(server.posted().iter().filter(|m| *m == "work").count(), 1);
}

#[tokio::test]
async fn a_stream_that_cannot_be_resumed_is_lost() {
    for refusal in [404, 405, 400] {
        let server = Server::start(move |request| match request.method.as_str() {
            "POST" => cut_stream(["id: 1\nretry: 1\ndata:\n\n"]),
            _ => status(refusal),
        })
        .await;
        let mut client = Client::to(&server);
        assert_eq!(failure(&client.call(1, "work", json!({})).await), (-33002, "connection_lost"));
    }
}

#[tokio::test]
async fn the_servers_own_stream_is_opened_after_initialized_and_resumed_when_it_ends() {
    let (sender, second) = fed_stream();
    let second = std::sync::Mutex::new(Some(second));
    let server =
        Server::start(move |request| match (request.method.as_str(), request.header("last-event-id")) {
            ("GET", None) => cut_stream(["retry: 1\n\n", &*format!("id: g1\n{}", event(&progress(1)))]),
            ("GET", Some("g1")) => second.lock().unwrap().take().unwrap_or(Reply::Hang),
            _ => usual(request),
        })
        .await;
    let mut client = Client::to(&server);
    client.open().await;
    assert_eq!(client.recv().await, progress(1));
    server.saw(|all| all.iter().filter(|r| r.method == "GET").count() == 2).await;
    sender.send(Piece::Data(event(&progress(2)).into())).unwrap();
    assert_eq!(client.recv().await, progress(2));

    let all = server.requests();
    let initialized = all.iter().position(|r| r.rpc() == "notifications/initialized").unwrap();
    let first_get = all.iter().position(|r| r.method == "GET").unwrap();
    assert!(initialized < first_get);
    let get = &all[first_get];
    assert_eq!(get.header("accept"), Some("text/event-stream"));
    assert_eq!(
        (get.header("mcp-session-id"), get.header("mcp-protocol-version")),
        (Some("s1"), Some("2025-11-25"))
    );
    // It does not keep the relay from ending.
    assert!(client.end().await.is_empty());
}

#[tokio::test]
async fn the_servers_own_stream_is_opened_anew_in_a_new_session() {
    let session = Arc::new(AtomicUsize::new(0));
    let theirs = Arc::clone(&session);
    let server = Server::start(move |request| {
        let current = format!("s{}", theirs.load(Ordering::SeqCst));
        match (request.method.as_str(), request.rpc().as_str()) {
            (_, "initialize") => crate::server::initialized(request, &current),
            _ if request.header("mcp-session-id") != Some(&current) => status(404),
            ("GET", _) => fed_stream().1,
            _ => usual(request),
        }
    })
    .await;
    let mut client = Client::to(&server);
    client.open().await;
    server.saw(|all| all.iter().any(|r| r.method == "GET")).await;
    session.store(1, Ordering::SeqCst);
    client.call(1, "work", json!({})).await;
    server.saw(|all| all.iter().any(|r| r.method == "GET" && r.header("mcp-session-id") == Some("s1"))).await;
}

#[tokio::test]
async fn an_answer_on_the_servers_own_stream_counts() {
    let (sender, get) = fed_stream();
    let (_never, post) = fed_stream();
    let streams = std::sync::Mutex::new((Some(get), Some(post)));
    let server = Server::start(move |request| match (request.method.as_str(), request.rpc().as_str()) {
        ("GET", _) => streams.lock().unwrap().0.take().unwrap_or(Reply::Hang),
        (_, "work") => streams.lock().unwrap().1.take().unwrap(),
        _ => usual(request),
    })
    .await;
    let mut client = Client::to(&server);
    client.open().await;
    client.request(1, "work", json!({})).await;
    server.saw_rpc("work", 1).await;
    sender.send(Piece::Data(event(&json!({"jsonrpc": "2.0", "id": 1, "result": {}})).into())).unwrap();
    assert_eq!(client.recv().await["id"], 1);
    assert!(client.end().await.is_empty());
}

#[tokio::test]
async fn requests_wait_until_the_servers_own_stream_is_open() {
    let worked = Arc::new(AtomicUsize::new(0));
    let (seen, theirs) = (Arc::new(AtomicUsize::new(usize::MAX)), Arc::clone(&worked));
    let noted = Arc::clone(&seen);
    let (_feed, stream) = fed_stream();
    let stream = std::sync::Mutex::new(Some(stream));
    let server = Server::start(move |request| {
        if request.rpc() == "work" {
            theirs.fetch_add(1, Ordering::SeqCst);
        }
        let Some(stream) = stream.lock().unwrap().take_if(|_| request.method == "GET") else {
            return usual(request);
        };
        let (sender, reply) = tokio::sync::oneshot::channel();
        let (worked, noted) = (Arc::clone(&theirs), Arc::clone(&noted));
        tokio::spawn(async move {
            // Time for a request that does not wait.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            noted.store(worked.load(Ordering::SeqCst), Ordering::SeqCst);
            let _ = sender.send(stream);
        });
        Reply::Later(reply)
    })
    .await;
    let mut client = Client::to(&server);
    client.open().await;
    assert_eq!(client.call(2, "work", json!({})).await["id"], 2);
    assert_eq!((seen.load(Ordering::SeqCst), worked.load(Ordering::SeqCst)), (0, 1));
}
