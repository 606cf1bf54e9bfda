//! Bodies are the same on both sides, byte for byte and however they are cut.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use proptest::prelude::*;
use thv_proxy::body::ResponseBody;
use thv_proxy::forward::{Forward, Options, TcpConnect, Upstream};
use tokio::io::AsyncReadExt;
use tokio::runtime::Runtime;

use crate::harness::{Front, Played, collect, data, get, piped, post, server, soon};

/// A proxy in front of a server that sends each request's body back as it comes, trailers included.
async fn echo() -> (Front, crate::harness::Task) {
    let (addr, task) = server(|request: Request<hyper::body::Incoming>| async move {
        let trailer = request.headers().get("trailer").cloned();
        let mut response = Response::new(ResponseBody::streamed(http_body_util::BodyExt::map_err(
            request.into_body(),
            Into::into,
        )));
        if let Some(trailer) = trailer {
            response.headers_mut().insert("trailer", trailer);
        }
        response
    })
    .await;
    let upstream = Upstream::parse(&format!("http://{addr}/")).unwrap();
    let options = Options { max_message_bytes: 128 << 20, ..Options::default() };
    (Front::new(Forward::new(TcpConnect::to(addr), upstream, options).unwrap()).await, task)
}

fn trailers(sum: &str) -> HeaderMap {
    HeaderMap::from_iter([
        ("x-sum".parse().unwrap(), HeaderValue::try_from(sum).unwrap()),
        ("x-toolhive-auth".parse().unwrap(), HeaderValue::from_static("key")),
    ])
}

/// Sends these pieces as one body, and returns what comes back.
async fn there_and_back(
    front: &Front,
    pieces: Vec<Bytes>,
    with_trailers: bool,
) -> (Bytes, Option<HeaderMap>) {
    let (body, mut request) = piped("/");
    if with_trailers {
        request.headers_mut().insert("trailer", HeaderValue::from_static("x-sum, x-toolhive-auth"));
        request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
    }
    let filling = tokio::spawn(async move {
        for piece in pieces {
            body.send(data(piece)).await.unwrap();
        }
        if with_trailers {
            body.send(Ok(Frame::trailers(trailers("5")))).await.unwrap();
        }
    });
    let answer = collect(front.send(request).await).await;
    filling.await.unwrap();
    answer
}

fn concat(pieces: &[Bytes]) -> Bytes {
    pieces
        .iter()
        .fold(BytesMut::new(), |mut all, piece| {
            all.extend_from_slice(piece);
            all
        })
        .freeze()
}

#[test]
fn any_bytes_in_any_pieces() {
    let runtime = Arc::new(Runtime::new().unwrap());
    let (front, _server) = runtime.block_on(echo());
    let pieces =
        prop::collection::vec(prop::collection::vec(any::<u8>(), 1..3000).prop_map(Bytes::from), 0..30);
    let config = ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(pieces in pieces, with_trailers: bool, whole: bool)| {
        let expect = concat(&pieces);
        let (seen, trailers) = runtime.block_on(async {
            if whole {
                collect(front.send(post("/", expect.clone())).await).await
            } else {
                there_and_back(&front, pieces, with_trailers).await
            }
        });
        prop_assert_eq!(seen, expect);
        let only_sum = HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("5"))]);
        prop_assert_eq!(trailers, (with_trailers && !whole).then_some(only_sum));
    });
}

#[tokio::test]
async fn big_bodies() {
    let (front, _server) = echo().await;
    for size in [5 << 20, 64 << 20] {
        let whole: Bytes = (0..size).map(|at: usize| (at * 31 % 251) as u8).collect::<Vec<_>>().into();
        let (seen, _) = collect(front.send(post("/", whole.clone())).await).await;
        assert!(seen == whole, "{size}");
        let pieces = whole.chunks(100_000).map(|piece| whole.slice_ref(piece)).collect();
        let (seen, _) = there_and_back(&front, pieces, false).await;
        assert!(seen == whole, "{size}");
    }
}

#[tokio::test]
async fn chunks_are_not_joined_with_what_is_not_there_yet() {
    let played = Played::new(Options::default()).await;
    let (body, request) = piped("/");
    let ((), mut response) = tokio::join!(
        async {
            let mut peer = played.accept().await;
            peer.head().await;
            peer.say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
            for text in ["a", "bc", "def"] {
                body.send(data(text)).await.unwrap();
                assert_eq!(
                    peer.until(&format!("{text}\r\n")).await,
                    format!("{:X}\r\n{text}\r\n", text.len())
                );
            }
            drop(body);
            assert_eq!(peer.until("0\r\n\r\n").await, "0\r\n\r\n");
            peer.say("0\r\n\r\n").await;
        },
        async { played.front.send(request).await }
    );
    assert!(soon(http_body_util::BodyExt::frame(response.body_mut())).await.is_none());
}

#[tokio::test]
async fn trailers_of_responses_reach_those_who_want_them() {
    let played = Played::new(Options::default()).await;
    let answer = "HTTP/1.1 200 OK\r\ntrailer: x-sum, x-toolhive-auth\r\ntransfer-encoding: chunked\r\n\r\n\
        2\r\nok\r\n0\r\nx-sum: 1\r\nx-toolhive-auth: key\r\n\r\n";
    for wanted in [true, false] {
        let mut request = get("/");
        if wanted {
            request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
        }
        let (body, trailers) = collect(played.exchange(request, answer).await).await;
        let sum = trailers.as_ref().and_then(|trailers| trailers.get("x-sum")).is_some();
        let key = trailers.is_some_and(|trailers| trailers.contains_key("x-toolhive-auth"));
        assert_eq!((&body[..], sum, key), (&b"ok"[..], wanted, false));
    }
}

#[tokio::test]
async fn a_body_that_ends_with_its_connection() {
    let played = Played::new(Options::default()).await;
    let response = played.exchange(get("/"), "HTTP/1.1 200 OK\r\n\r\nuntil the end").await;
    assert_eq!(collect(response).await.0, "until the end");
    let response = played.exchange(get("/"), "HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nold").await;
    assert_eq!(collect(response).await.0, "old");
}

#[tokio::test]
async fn a_get_may_have_a_body() {
    let played = Played::new(Options::default()).await;
    let mut client = played
        .front
        .raw("GET / HTTP/1.1\r\nHost: f\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
        .await;
    let mut peer = played.accept().await;
    peer.head().await;
    assert_eq!(peer.until("0\r\n\r\n").await, "2\r\nhi\r\n0\r\n\r\n");
    peer.say("HTTP/1.1 204 No Content\r\n\r\n").await;
    let mut seen = [0; 12];
    soon(client.read_exact(&mut seen)).await.unwrap();
    assert_eq!(&seen, b"HTTP/1.1 204");
}
