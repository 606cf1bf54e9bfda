//! Connections are kept, used again, and given up in time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use thv_proxy::forward::{
    Connect, ConnectError, Connected, Forward, Options, TcpConnect, Upstream, secret_value,
};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt;

use crate::harness::{Front, Peer, Played, chunk, collect, get, post, server, soon, text};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Gives each connection a key of its own.
struct Numbered(TcpConnect, Arc<AtomicUsize>);

impl Connect for Numbered {
    type Stream = TcpStream;

    async fn connect(&self) -> Result<Connected<TcpStream>, ConnectError> {
        let mut connected = self.0.connect().await?;
        let number = self.1.fetch_add(1, Ordering::SeqCst);
        connected.key = Some(secret_value(number.to_string()).unwrap());
        Ok(connected)
    }
}

/// Dials these in turn, whatever the upstream's URL says.
struct Moving(Vec<SocketAddr>, AtomicUsize);

impl Connect for Moving {
    type Stream = TcpStream;

    async fn connect(&self) -> Result<Connected<TcpStream>, ConnectError> {
        let addr = self.0[self.1.fetch_add(1, Ordering::SeqCst)];
        let connected = TcpConnect::to(addr).connect().await?;
        Ok(Connected { port: Some(addr.port()), ..connected })
    }
}

#[tokio::test]
async fn a_server_that_moved_is_called_by_its_new_port() {
    let first = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let second = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addrs: Vec<_> = [&first, &second].map(|home| home.local_addr().unwrap()).into();
    let upstream = Upstream::parse(&format!("http://{}/", addrs[0])).unwrap();
    let forward = Forward::new(Moving(addrs, AtomicUsize::new(0)), upstream, Options::default()).unwrap();
    let front = Front::new(forward.clone()).await;
    for home in [first, second] {
        let up = home.local_addr().unwrap();
        let (response, head) = tokio::join!(front.send(get("/mcp")), async {
            let mut peer = Peer(soon(home.accept()).await.unwrap().0);
            let head = peer.head().await;
            peer.say(&format!("HTTP/1.1 307 X\r\nlocation: http://{up}/x\r\ncontent-length: 0\r\n\r\n"))
                .await;
            head
        });
        assert!(head.contains(&format!("host: {up}\r\n")), "{head}");
        assert_eq!(
            (response.status().as_u16(), &response.headers()["location"]),
            (307, &"/x".parse().unwrap())
        );
        forward.close_idle();
    }
}

/// An upstream that says which key it got.
async fn numbered() -> (Front, Forward<Numbered>, Arc<AtomicUsize>, crate::harness::Task) {
    let (addr, task) = server(|request: http::Request<hyper::body::Incoming>| async move {
        let key = request.headers()["x-toolhive-auth"].as_bytes().to_vec();
        http_body_util::BodyExt::collect(request.into_body()).await.unwrap();
        http::Response::new(bytes::Bytes::from(key).into())
    })
    .await;
    let made = Arc::new(AtomicUsize::new(0));
    let connect = Numbered(TcpConnect::to(addr), Arc::clone(&made));
    let upstream = Upstream::parse(&format!("http://{addr}/")).unwrap();
    let forward = Forward::new(connect, upstream, Options::default()).unwrap();
    (Front::new(forward.clone()).await, forward, made, task)
}

#[tokio::test]
async fn requests_share_connections_and_keys_stay_with_them() {
    let (front, forward, made, _server) = numbered().await;
    for _ in 0..50 {
        assert_eq!(text(front.send(post("/", "x")).await).await, "0");
    }
    assert_eq!(made.load(Ordering::SeqCst), 1);
    assert_eq!(forward.idle_connections(), 1);
    forward.close_idle();
    assert_eq!(text(front.send(get("/")).await).await, "1");
    assert_eq!(text(front.send(get("/")).await).await, "1");
    assert_eq!(made.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_costs_nothing() {
    let played = Played::new(Options::default()).await;
    for round in 0..20 {
        let response = played.exchange(post("/", format!("{round}")), OK).await;
        assert_eq!(text(response).await, "ok");
        // `exchange` has closed it, though the answer did not say so.
    }
    assert!(played.reported().await.iter().all(|(_, status, _)| *status == Some(200)));
}

/// The end of a connection is seen even if the runtime has not looked at its sockets since.
#[tokio::test]
async fn not_even_one_that_was_closed_a_moment_ago() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    let (sender, served) = std::sync::mpsc::channel();
    let upstream = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\nx") {
                let mut byte = [0];
                std::io::Read::read_exact(&mut stream, &mut byte).unwrap();
                head.extend(byte);
            }
            std::io::Write::write_all(&mut stream, OK.as_bytes()).unwrap();
            sender.send(stream).unwrap();
        }
    });
    let url = Upstream::parse(&format!("http://{addr}/")).unwrap();
    let forward = Forward::new(TcpConnect::to(addr), url, Options::default()).unwrap();
    for _ in 0..2 {
        let response = soon(forward.clone().oneshot(post("/", "x"))).await.unwrap();
        assert_eq!(response.status(), 200);
        http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
        assert_eq!(forward.idle_connections(), 1);
        // Without giving the runtime a chance to notice.
        drop(served.recv().unwrap());
    }
    upstream.join().unwrap();
}

async fn serve_one(peer: &mut Peer, extra: &str) {
    peer.head().await;
    peer.say(&format!("HTTP/1.1 200 OK\r\n{extra}content-length: 2\r\n\r\nok")).await;
}

/// How many connections two requests need, the second after the first is answered.
async fn connections(played: &Played, extra: &str) -> usize {
    let (_, mut first) = tokio::join!(async { collect(played.front.send(get("/")).await).await }, async {
        let mut peer = played.accept().await;
        serve_one(&mut peer, extra).await;
        peer
    });
    let second = async { text(played.front.send(get("/")).await).await };
    let (seen, used) = tokio::join!(second, async {
        tokio::select! {
            mut peer = played.accept() => {
                serve_one(&mut peer, extra).await;
                2
            }
            // Nothing comes if it was closed.
            Ok(_) = first.0.read_u8() => {
                serve_one(&mut first, extra).await;
                1
            }
        }
    });
    assert_eq!(seen, "ok");
    played.forward.close_idle();
    used
}

#[tokio::test]
async fn what_the_upstream_says_about_keeping_counts() {
    let played = Played::new(Options::default()).await;
    for (extra, expect) in [
        ("", 1),
        ("keep-alive: timeout=60\r\n", 1),
        ("keep-alive: timeout=1\r\n", 2),
        ("keep-alive: timeout=0\r\n", 2),
    ] {
        assert_eq!(connections(&played, extra).await, expect, "{extra}");
    }
}

#[tokio::test]
async fn idle_connections_are_closed_in_time() {
    let played = Played::new(Options { idle_timeout: Duration::from_millis(20), ..Options::default() }).await;
    let (_, mut peer) = tokio::join!(async { collect(played.front.send(get("/")).await).await }, async {
        let mut peer = played.accept().await;
        serve_one(&mut peer, "").await;
        peer
    });
    peer.gone().await;
    soon(async {
        while played.forward.idle_connections() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn no_more_are_kept_than_asked_for() {
    let played = Played::new(Options { max_idle: 2, ..Options::default() }).await;
    let mut bodies = Vec::new();
    let mut peers = Vec::new();
    for _ in 0..5 {
        let (response, peer) = tokio::join!(played.front.send(get("/")), async {
            let mut peer = played.accept().await;
            peer.head().await;
            peer.say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no").await;
            peer
        });
        bodies.push(response.into_body());
        peers.push(peer);
    }
    for (body, peer) in bodies.iter_mut().zip(&mut peers) {
        assert_eq!(chunk(body).await, "o");
        peer.say("k").await;
        assert_eq!(chunk(body).await, "k");
    }
    soon(async {
        while played.reports.lock().unwrap().len() < 5 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert_eq!(played.forward.idle_connections(), 2);
    for peer in &mut peers[..3] {
        peer.gone().await;
    }
}

#[tokio::test]
async fn dropping_the_proxy_closes_what_it_keeps() {
    let played = Played::new(Options::default()).await;
    let (_, mut peer) = tokio::join!(async { collect(played.front.send(get("/")).await).await }, async {
        let mut peer = played.accept().await;
        serve_one(&mut peer, "").await;
        peer
    });
    drop(played);
    peer.gone().await;
}

#[tokio::test]
async fn surplus_bytes_do_not_become_the_next_answer() {
    let played = Played::new(Options::default()).await;
    let (first, _peer) = tokio::join!(async { text(played.front.send(get("/")).await).await }, async {
        let mut peer = played.accept().await;
        peer.head().await;
        peer.say(&format!("{OK}HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")).await;
        peer
    });
    assert_eq!(first, "ok");
    let response = played.exchange(get("/"), OK).await;
    assert_eq!(text(response).await, "ok");
}

/// A server that refuses a large message may leave the rest of it unread for ever, as Express does. A further request on
/// that connection would never be answered.
#[tokio::test]
async fn a_connection_with_a_request_that_was_refused_unread_is_not_used_again() {
    // More than sockets take while nobody reads, and less.
    for size in [15 << 20, 256 << 10] {
        let played = Played::new(Options::default()).await;
        for _ in 0..3 {
            let (response, _peer) = tokio::join!(played.front.send(post("/", vec![b'x'; size])), async {
                let mut peer = played.accept().await;
                peer.head().await;
                peer.say("HTTP/1.1 400 No\r\ncontent-length: 2\r\n\r\nno").await;
                peer
            });
            assert_eq!(response.status(), 400);
            assert_eq!(text(response).await, "no");
            assert_eq!(played.forward.idle_connections(), 0);
        }
    }
}
