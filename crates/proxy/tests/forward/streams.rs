//! Event streams and other long answers: nothing waits, nothing piles up, and an end is told at once.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use thv_proxy::forward::{Connect, ConnectError, Connected, Forward, Options, Upstream};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{Mutex, mpsc};
use tower::Service;

use crate::harness::{Peer, Played, Task, chunk, data, get, piped, post, soon, text};

const STREAM: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

async fn opened(played: &Played) -> (hyper::body::Incoming, Peer) {
    let (response, peer) = tokio::join!(played.front.send(get("/mcp")), async {
        let mut peer = played.accept().await;
        peer.head().await;
        peer.say(STREAM).await;
        peer
    });
    (response.into_body(), peer)
}

#[tokio::test]
async fn each_event_arrives_before_the_next_is_sent() {
    let played = Played::new(Options::default()).await;
    let (mut body, mut peer) = opened(&played).await;
    for n in 0..200 {
        let event =
            if n % 3 == 0 { ": still here\n\n".to_owned() } else { format!("id: {n}\ndata: {n}\n\n") };
        peer.say(&format!("{:x}\r\n{event}\r\n", event.len())).await;
        assert_eq!(chunk(&mut body).await, event);
    }
    peer.say("0\r\n\r\n").await;
    assert!(soon(body.frame()).await.is_none());
    assert_eq!(played.reported().await, [("/mcp".to_owned(), Some(200), "Complete".to_owned())]);
}

#[tokio::test]
async fn half_an_event_is_not_held_back() {
    let played = Played::new(Options { sse_path: Some("/sse".to_owned()), ..Options::default() }).await;
    let (mut body, mut peer) = opened(&played).await;
    for piece in ["da", "ta: ", "x\n"] {
        peer.say(&format!("{:x}\r\n{piece}\r\n", piece.len())).await;
        assert_eq!(chunk(&mut body).await, piece);
    }
}

#[tokio::test]
async fn a_client_that_leaves_a_quiet_stream() {
    let played = Played::new(Options::default()).await;
    let (body, mut peer) = opened(&played).await;
    drop(body);
    peer.gone().await;
    assert_eq!(played.reported().await, [("/mcp".to_owned(), Some(200), "ClientLeft".to_owned())]);
    assert_eq!(played.forward.idle_connections(), 0);
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer() {
    let played = Played::new(Options::default()).await;
    let client = played.front.raw("POST /mcp HTTP/1.1\r\nHost: f\r\nContent-Length: 2\r\n\r\nhi").await;
    let mut peer = played.accept().await;
    peer.until("hi").await;
    drop(client);
    peer.gone().await;
    assert_eq!(played.reported().await, [("/mcp".to_owned(), None, "ClientLeft".to_owned())]);
}

#[tokio::test]
async fn a_client_that_leaves_while_it_sends() {
    let played = Played::new(Options::default()).await;
    let mut client = played.front.client().await;
    let (body, request) = piped("/mcp");
    let sending = tokio::spawn(async move { client.send_request(request).await.map(|_| ()) });
    body.send(data("x")).await.unwrap();
    let mut peer = played.accept().await;
    peer.until("x\r\n").await;
    sending.abort();
    peer.gone().await;
}

#[tokio::test]
async fn a_client_that_leaves_while_the_upstream_pours() {
    let played = Played::new(Options::default()).await;
    let (response, mut peer) = tokio::join!(played.front.send(get("/")), async {
        let mut peer = played.accept().await;
        peer.head().await;
        peer.say("HTTP/1.1 200 OK\r\n\r\n").await;
        peer
    });
    let pouring = Task::spawn(async move { while peer.0.write_all(&[0; 65536]).await.is_ok() {} });
    let mut body = response.into_body();
    assert!(!chunk(&mut body).await.is_empty());
    drop(body);
    assert_eq!(played.reported().await[0].2, "ClientLeft");
    drop(pouring);
}

#[tokio::test]
async fn an_idle_stream_outlives_all_idle_limits() {
    let options = Options { idle_timeout: Duration::from_millis(10), ..Options::default() };
    let played = Played::new(options).await;
    let (mut body, mut peer) = opened(&played).await;
    // Long past the idle limit of unused connections, which has a reaper by then.
    let other = played.exchange(post("/", "x"), "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    drop(other);
    tokio::time::sleep(Duration::from_millis(100)).await;
    peer.say("2\r\n:\n\r\n").await;
    assert_eq!(chunk(&mut body).await, ":\n");
}

#[tokio::test]
async fn streams_can_be_ended_and_calls_go_on() {
    let played = Played::new(Options::default()).await;
    let (mut body, mut peer) = opened(&played).await;
    let (call, mut callee) = tokio::join!(played.front.send(post("/", "x")), async {
        let mut callee = played.accept().await;
        callee.head().await;
        callee.say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no").await;
        callee
    });
    played.forward.end_streams();
    assert!(soon(body.frame()).await.is_none(), "a stream ends as if the server had ended it");
    peer.gone().await;
    callee.say("k").await;
    assert_eq!(text(call).await, "ok");
    // One that comes too late does not begin.
    let (late, ()) = tokio::join!(played.front.send(get("/mcp")), async {
        callee.head().await;
        callee.say(STREAM).await;
    });
    assert_eq!(text(late).await, "");
    callee.gone().await;
}

/// Connections without a kernel in between, so that the bytes on their way can be counted.
struct Pipes(mpsc::Sender<DuplexStream>);

const PIPE: usize = 16 * 1024;

impl Connect for Pipes {
    type Stream = DuplexStream;

    async fn connect(&self) -> Result<Connected<DuplexStream>, ConnectError> {
        let (ours, theirs) = tokio::io::duplex(PIPE);
        self.0.send(theirs).await.unwrap();
        let addr: SocketAddr = ([127, 0, 0, 1], 1).into();
        Ok(Connected { stream: ours, local: addr, peer: addr, key: None, port: None })
    }
}

/// A client's and an upstream's end of a proxy.
async fn piped_ends(options: Options) -> (DuplexStream, impl AsyncFnOnce() -> DuplexStream, Task) {
    let (sender, receiver) = mpsc::channel(1);
    let receiver = Mutex::new(receiver);
    let forward = Forward::new(Pipes(sender), Upstream::parse("http://up.test/").unwrap(), options).unwrap();
    let (client, front) = tokio::io::duplex(PIPE);
    let task = Task::spawn(async move {
        let service = hyper::service::service_fn(move |request| {
            let response = forward.clone().call(request);
            async move { Ok::<_, Infallible>(response.await.unwrap()) }
        });
        // As `serve` sets it.
        let _ = hyper::server::conn::http1::Builder::new()
            .max_buf_size(64 * 1024)
            .serve_connection(TokioIo::new(front), service)
            .await;
    });
    (client, async move || receiver.lock().await.recv().await.unwrap(), task)
}

const BIG: u64 = 64 << 20;
/// Four pipes and the buffers of hyper, each way. Far less than the body.
const HELD: u64 = 1 << 20;

/// Reads so much, never more than a little at a time, and counts.
async fn drink(mut from: DuplexStream, drunk: &AtomicU64, total: u64) -> DuplexStream {
    let mut buffer = vec![0; 8 * 1024];
    while drunk.load(Ordering::SeqCst) < total {
        let count = soon(from.read(&mut buffer)).await.unwrap();
        assert_ne!(count, 0);
        drunk.fetch_add(count as u64, Ordering::SeqCst);
    }
    from
}

/// Writes up to `total` bytes, of which some were written before, and returns the most that were on their way at any
/// time.
async fn pour(to: &mut DuplexStream, drunk: &AtomicU64, mut poured: u64, total: u64) -> u64 {
    let piece = Bytes::from(vec![b'x'; 8 * 1024]);
    let mut most = 0;
    while poured < total {
        soon(to.write_all(&piece)).await.unwrap();
        poured += piece.len() as u64;
        most = most.max(poured.saturating_sub(drunk.load(Ordering::SeqCst)));
    }
    most
}

#[tokio::test]
async fn a_big_answer_is_never_held() {
    let (mut client, accept, _task) = piped_ends(Options::default()).await;
    client.write_all(b"GET / HTTP/1.1\r\nhost: f\r\n\r\n").await.unwrap();
    let mut upstream = accept().await;
    upstream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {BIG}\r\n\r\n").as_bytes()).await.unwrap();
    let drunk = Arc::new(AtomicU64::new(0));
    // The client does not read at all until the upstream is stuck.
    let stuck = {
        let mut piece = 0_u64;
        while tokio::time::timeout(Duration::from_millis(200), upstream.write_all(&[b'x'; 8192]))
            .await
            .is_ok()
        {
            piece += 8192;
            assert!(piece < HELD, "it holds {piece} bytes");
        }
        piece
    };
    let counted = Arc::clone(&drunk);
    let drinking = tokio::spawn(async move { drink(client, &counted, BIG).await });
    let most = pour(&mut upstream, &drunk, stuck, BIG).await;
    assert!(most < HELD, "it held {most} bytes");
    drinking.await.unwrap();
}

#[tokio::test]
async fn a_big_request_is_never_held() {
    let (mut client, accept, _task) =
        piped_ends(Options { max_message_bytes: BIG as usize, ..Options::default() }).await;
    let drunk = Arc::new(AtomicU64::new(0));
    client
        .write_all(format!("POST / HTTP/1.1\r\nhost: f\r\ncontent-length: {BIG}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let upstream = accept().await;
    let counted = Arc::clone(&drunk);
    let drinking = tokio::spawn(async move { drink(upstream, &counted, BIG).await });
    let most = pour(&mut client, &drunk, 0, BIG).await;
    assert!(most < HELD, "it held {most} bytes");
    drinking.await.unwrap();
}
