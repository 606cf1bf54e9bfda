//! Upstreams that fail, and clients that do.

use std::net::SocketAddr;
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt;
use serde_json::json;
use thv_proxy::body::ResponseBody;
use thv_proxy::forward::{Connect, ConnectError, Connected, Forward, Options, TcpConnect, Upstream};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::harness::{Front, Played, chunk, data, get, piped, post, soon, text};

fn upstream() -> Upstream {
    Upstream::parse("http://up.test/").unwrap()
}

#[tokio::test]
async fn a_dead_upstream() {
    let played = Played::new(Options { advice: "See the log.".to_owned(), ..Options::default() }).await;
    let Played { front, upstream, reports, .. } = played;
    drop(upstream);
    let (status, error) = front.error(post("/mcp?session=secret", "x")).await;
    assert_eq!((status.as_u16(), &error["code"]), (502, &json!(-33004)));
    assert_eq!(error["data"]["reason"], "not_running");
    assert!(error["message"].as_str().unwrap().ends_with("See the log."), "{error}");
    let reports = reports.lock().unwrap();
    assert_eq!((&*reports[0].0, reports[0].1), ("/mcp", Some(502)));
}

/// Refuses, hangs, or hangs up.
enum Odd {
    Stranger,
    Hangs,
    HangsUp,
}

impl Connect for Odd {
    type Stream = DuplexStream;

    async fn connect(&self) -> Result<Connected<DuplexStream>, ConnectError> {
        match self {
            Self::Stranger => Err(ConnectError::Stranger("pid 7".to_owned())),
            Self::Hangs => std::future::pending().await,
            Self::HangsUp => {
                let (stream, _) = tokio::io::duplex(64);
                let addr: SocketAddr = ([127, 0, 0, 1], 1).into();
                Ok(Connected { stream, local: addr, peer: addr, key: None, port: None })
            }
        }
    }
}

#[tokio::test]
async fn connections_that_are_none() {
    for (connect, status, code) in
        [(Odd::Stranger, 502, -33003), (Odd::Hangs, 504, -33004), (Odd::HangsUp, 502, -33004)]
    {
        let options = Options { connect_timeout: Duration::from_millis(20), ..Options::default() };
        let front = Front::new(Forward::new(connect, upstream(), options).unwrap()).await;
        let (seen, error) = front.error(post("/", "x")).await;
        assert_eq!((seen.as_u16(), &error["code"]), (status, &json!(code)));
        assert!(!error.to_string().contains("pid 7"));
    }
}

#[tokio::test]
async fn an_end_before_the_answer() {
    let played = Played::new(Options::default()).await;
    for (said, reset) in
        [("", true), ("", false), ("HTTP/1.1 200 OK\r\ncontent-le", true), ("HTTP/1.1", false)]
    {
        let (error, ()) = tokio::join!(played.front.error(post("/", "x")), async {
            let mut peer = played.accept().await;
            peer.head().await;
            peer.say(said).await;
            if reset {
                peer.reset();
            }
        });
        assert_eq!((error.0.as_u16(), &error.1["code"]), (502, &json!(-33002)), "{said:?}");
        assert_eq!(error.1["data"], json!({"reason": "connection_lost"}));
    }
}

#[tokio::test]
async fn an_end_in_the_middle_of_the_answer_never_looks_like_its_end() {
    let played = Played::new(Options::default()).await;
    for (answer, reset) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc", false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc", true),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", false),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", true),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n", false),
        ("HTTP/1.1 200 OK\r\n\r\nabc", true),
    ] {
        let (mut body, peer) =
            tokio::join!(async { played.front.send(post("/", "x")).await.into_body() }, async {
                let mut peer = played.accept().await;
                peer.head().await;
                peer.say(answer).await;
                peer
            });
        assert_eq!(chunk(&mut body).await, "abc");
        if reset {
            peer.reset();
        } else {
            drop(peer);
        }
        let rest = soon(body.frame()).await;
        assert!(matches!(rest, Some(Err(_))), "{answer:?}: {rest:?}");
        let reports = played.reported().await;
        assert!(reports[0].2.contains("in the middle"), "{reports:?}");
        assert_eq!(played.forward.idle_connections(), 0);
    }
}

#[tokio::test]
async fn heads_beyond_all_limits() {
    let played = Played::new(Options { max_head_bytes: 16 * 1024, ..Options::default() }).await;
    let many: String = (0..101).map(|n| format!("x-{n}: 1\r\n")).collect();
    for (head, endless) in [
        (format!("HTTP/1.1 200 OK\r\n{many}\r\n"), ""),
        ("HTTP/1.1 200 OK\r\n".to_owned(), "x: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n"),
        ("HTTP/1.1 200 OK\r\nx: ".to_owned(), "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
        ("HTTP/1.1 ".to_owned(), "9999999999"),
        ("ICY 200 OK\r\n\r\n".to_owned(), ""),
        ("HTTP/1.1 200 OK\r\nx y: 1\r\n\r\n".to_owned(), ""),
        ("HTTP/1.1 200 OK\r\nx: 1\r\n folded\r\n\r\n".to_owned(), ""),
        ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab".to_owned(), ""),
    ] {
        let (error, ()) = tokio::join!(played.front.error(post("/", "x")), async {
            let mut peer = played.accept().await;
            peer.head().await;
            peer.say(&head).await;
            // Until we are cut off.
            while !endless.is_empty() && peer.0.write_all(endless.as_bytes()).await.is_ok() {}
        });
        assert_eq!((error.0.as_u16(), &error.1["code"]), (502, &json!(-33005)), "{head:?}");
    }
}

#[tokio::test]
async fn a_hundred_fields_pass() {
    let played = Played::new(Options::default()).await;
    let many: String = (0..98).map(|n| format!("x-{n}: 1\r\n")).collect();
    let answer = format!("HTTP/1.1 200 OK\r\n{many}date: now\r\ncontent-length: 2\r\n\r\nok");
    let response = played.exchange(get("/"), &answer).await;
    assert_eq!(response.headers()["x-97"], "1");
    assert_eq!(text(response).await, "ok");
}

#[tokio::test]
async fn a_slow_upstream_is_waited_for() {
    let played = Played::new(Options::default()).await;
    let (response, ()) = tokio::join!(played.front.send(post("/", "x")), async {
        let mut peer = played.accept().await;
        peer.head().await;
        for byte in "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".bytes() {
            peer.0.write_all(&[byte]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert_eq!(text(response).await, "ok");
}

#[tokio::test]
async fn unless_there_is_a_limit() {
    let played =
        Played::new(Options { head_timeout: Some(Duration::from_millis(30)), ..Options::default() }).await;
    let (error, mut peer) = tokio::join!(played.front.error(post("/", "x")), played.accept());
    assert_eq!((error.0.as_u16(), &error.1["code"]), (504, &json!(-33002)));
    peer.gone().await;
}

#[tokio::test]
async fn a_switch_that_nobody_asked_for() {
    let played = Played::new(Options::default()).await;
    let request =
        Request::get("/").header("host", "x").header("upgrade", "evil").header("connection", "upgrade");
    let request = request.body(ResponseBody::default()).unwrap();
    let answer = "HTTP/1.1 101 Switching Protocols\r\nupgrade: evil\r\nconnection: upgrade\r\n\r\nbytes";
    let response = played.exchange(request, answer).await;
    assert_eq!(response.status(), 502);
    assert!(!response.headers().contains_key("upgrade"));
}

#[tokio::test]
async fn an_announced_size_over_the_limit_reaches_nobody() {
    let played = Played::new(Options { max_message_bytes: 10, ..Options::default() }).await;
    let (status, error) = played.front.error(post("/", vec![b'x'; 11])).await;
    assert_eq!((status.as_u16(), &error["code"]), (413, &json!(-33006)));
    assert_eq!(error["data"], json!({"reason": "too_large", "limit": 10, "size": 11}));
    assert!(tokio::time::timeout(Duration::from_millis(1), played.upstream.accept()).await.is_err());
    let response =
        played.exchange(post("/", vec![b'x'; 10]), "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn a_size_over_the_limit_that_shows_on_the_way() {
    let played = Played::new(Options { max_message_bytes: 10, ..Options::default() }).await;
    let (body, request) = piped("/");
    let (error, ()) = tokio::join!(played.front.error(request), async {
        body.send(data("12345")).await.unwrap();
        let mut peer = played.accept().await;
        peer.until("12345\r\n").await;
        body.send(data("678901")).await.unwrap();
        // The upstream must not take what it has for whole.
        let mut rest = Vec::new();
        let _ = soon(peer.0.read_to_end(&mut rest)).await;
        assert!(!String::from_utf8_lossy(&rest).contains("0\r\n\r\n"));
    });
    assert_eq!((error.0.as_u16(), &error.1["code"]), (413, &json!(-33006)));
}

#[tokio::test]
async fn a_size_over_the_limit_after_the_answer_began() {
    let played = Played::new(Options { max_message_bytes: 10, ..Options::default() }).await;
    let (body, request) = piped("/");
    let (mut answer, mut peer) =
        tokio::join!(async { played.front.send(request).await.into_body() }, async {
            let mut peer = played.accept().await;
            peer.head().await;
            peer.say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
            peer
        });
    assert_eq!(chunk(&mut answer).await, "abc");
    body.send(data("12345678901")).await.unwrap();
    assert!(soon(answer.frame()).await.unwrap().is_err());
    peer.gone().await;
}

#[tokio::test]
async fn a_client_that_breaks_off_its_body() {
    let played = Played::new(Options::default()).await;
    for head in ["Content-Length: 9\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"] {
        let client = played.front.raw(&format!("POST / HTTP/1.1\r\nHost: front\r\n{head}")).await;
        let mut peer = played.accept().await;
        peer.until("abc").await;
        drop(client);
        let mut rest = Vec::new();
        let _ = soon(peer.0.read_to_end(&mut rest)).await;
        assert!(!String::from_utf8_lossy(&rest).contains("0\r\n\r\n"));
        // Either it left, or its body broke: both are true, and which is seen first does not matter.
        let reports = played.reported().await;
        assert!(reports[0].2 == "ClientLeft" || reports[0].2.contains("body"), "{reports:?}");
    }
}

#[tokio::test]
async fn an_upstream_that_answers_early_and_stops_listening() {
    let played = Played::new(Options::default()).await;
    for _ in 0..20 {
        let body = vec![b'x'; 8 << 20];
        let (response, ()) = tokio::join!(played.front.send(post("/", body)), async {
            let mut peer = played.accept().await;
            peer.head().await;
            peer.say("HTTP/1.1 401 No\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno").await;
            // Closed with unread bytes: a reset follows.
        });
        assert_eq!(response.status(), 401);
        assert_eq!(text(response).await, "no");
        assert_eq!(played.forward.idle_connections(), 0);
    }
}

#[tokio::test]
async fn the_refusal_reaches_a_client_that_is_still_sending() {
    let played = Played::new(Options { max_message_bytes: 10, ..Options::default() }).await;
    let (status, _) = played.front.error(post("/", vec![b'x'; 1 << 20])).await;
    assert_eq!(status, 413);
}

#[test]
fn options_that_leave_nothing() {
    let zero = Duration::ZERO;
    for options in [
        Options { max_message_bytes: 0, ..Options::default() },
        Options { max_head_bytes: 0, ..Options::default() },
        Options { connect_timeout: zero, ..Options::default() },
        Options { head_timeout: Some(zero), ..Options::default() },
        Options { idle_timeout: zero, ..Options::default() },
        Options { sse_path: Some("sse".to_owned()), ..Options::default() },
    ] {
        assert!(Forward::new(TcpConnect::to_host("h", 1), upstream(), options).is_err());
    }
}
