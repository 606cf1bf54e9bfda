//! The transport of 2024-11-05: where messages are to be posted.

use http::HeaderValue;
use http_body_util::BodyExt;
use thv_proxy::forward::{Options, Paths};

use crate::harness::{Played, chunk, get, soon, text};

const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\r\n";

fn options() -> Options {
    Options { sse_path: Some("/sse".to_owned()), ..Options::default() }
}

#[tokio::test]
async fn an_absolute_endpoint_becomes_ours_and_the_rest_is_untouched() {
    let played = Played::new(options()).await;
    let up = played.authority();
    let rest = "event: endpoint\ndata: http://elsewhere.test/\n\n: c\n\ndata: half";
    for (uri, expect) in [
        (format!("http://{up}/messages/?session_id=a%20b"), "/messages/?session_id=a%20b"),
        ("/messages?s=1".to_owned(), "/messages?s=1"),
        ("messages?s=1".to_owned(), "messages?s=1"),
        ("?s=1".to_owned(), "?s=1"),
    ] {
        let mut request = get("/sse");
        request.headers_mut().insert("accept-encoding", HeaderValue::from_static("gzip"));
        let (response, head) = tokio::join!(played.front.send(request), async {
            let mut peer = played.accept().await;
            let head = peer.head().await;
            peer.say(&format!("{STREAM}: hi\n\nevent: endpoint\r\ndata: {uri}\r\n\r\n{rest}")).await;
            head
        });
        assert!(!head.contains("accept-encoding"));
        assert_eq!(text(response).await, format!(": hi\n\nevent: endpoint\r\ndata: {expect}\r\n\r\n{rest}"));
    }
}

#[tokio::test]
async fn events_pass_at_once_before_and_after_it() {
    let played = Played::new(options()).await;
    let (response, mut peer) = tokio::join!(played.front.send(get("/sse")), async {
        let mut peer = played.accept().await;
        peer.head().await;
        peer.say(STREAM).await;
        peer
    });
    let mut body = response.into_body();
    for event in [": ping\n\n", "event: endpoint\ndata: /m\n\n", "da", "ta: x\n\n", ":", "\n"] {
        peer.say(event).await;
        assert_eq!(chunk(&mut body).await, event);
    }
    drop(peer);
    assert!(soon(body.frame()).await.is_none());
}

#[tokio::test]
async fn a_foreign_endpoint_ends_the_stream() {
    let played = Played::new(options()).await;
    for uri in ["http://evil.test/messages", "//evil.test/", "/\\evil.test", "javascript:1"] {
        let answer = format!("{STREAM}: hi\n\nevent: endpoint\ndata: {uri}\n\n");
        let whole = async {
            let response = played.front.client().await.send_request(get("/sse")).await?;
            response.into_body().collect().await
        };
        let (seen, ()) = tokio::join!(soon(whole), async {
            let mut peer = played.accept().await;
            peer.head().await;
            peer.say(&answer).await;
        });
        // Whether the head came through depends on what was written by then.
        assert!(seen.is_err(), "{uri}: {seen:?}");
        let reports = played.reported().await;
        assert!(reports[0].2.contains("endpoint event"), "{reports:?}");
    }
}

#[tokio::test]
async fn other_answers_are_not_looked_at() {
    let played = Played::new(options()).await;
    let event = "event: endpoint\ndata: http://evil.test/\n\n";
    let json = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n";
    for (path, head) in [("/mcp", STREAM), ("/sse/", STREAM), ("/sse", json)] {
        let response = played.exchange(get(path), &format!("{head}{event}")).await;
        assert_eq!(text(response).await, event, "{path}");
    }
}

#[tokio::test]
async fn a_compressed_stream_is_refused() {
    let played = Played::new(options()).await;
    let answer = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\n\r\nx";
    let response = played.exchange(get("/sse"), answer).await;
    assert_eq!(response.status(), 502);
}

#[tokio::test]
async fn an_event_stream_elsewhere() {
    let paths = Paths::map("/sse", "/api/sse").unwrap().and_others();
    let played = Played::with(Options { paths, ..options() }, "/api/sse", |connect| connect).await;
    let up = played.authority();
    for (uri, expect) in [
        ("messages?s=1".to_owned(), "/api/messages?s=1"),
        ("/api/messages?s=1".to_owned(), "/api/messages?s=1"),
        (format!("http://{up}/api/messages?s=1"), "/api/messages?s=1"),
        (format!("http://{up}/api/sse/m"), "/sse/m"),
    ] {
        // The length would be wrong after the change.
        let event = format!("event: endpoint\ndata: {uri}\n\n");
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {}\r\n\r\n",
            event.len()
        );
        let response = played.exchange(get("/sse"), &format!("{head}{event}")).await;
        assert_eq!(text(response).await, format!("event: endpoint\ndata: {expect}\n\n"));
    }
}
