//! Connections as raw sockets see them.

use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tower::service_fn;

use super::*;

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

/// A server whose service answers with method, target and length of the body, and obeys some paths:
/// `/early` answers before the body is read, `/trust` trusts the caller, `/hang` never answers, `/wait` answers
/// when told to.
struct Server {
    addr: SocketAddr,
    calls: Arc<AtomicUsize>,
    /// Told once for each request to `/hang` and `/wait` that has begun, and for each that was dropped.
    events: mpsc::UnboundedReceiver<&'static str>,
    go_on: Arc<Notify>,
    refused: mpsc::UnboundedReceiver<(SocketAddr, Refused)>,
    shutdown: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

struct Dropped(mpsc::UnboundedSender<&'static str>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.send("dropped");
    }
}

async fn start(limits: Limits) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let go_on = Arc::new(Notify::new());
    let (tell, events) = mpsc::unbounded_channel();
    let (refuse, refused) = mpsc::unbounded_channel();
    let (shutdown, stop) = oneshot::channel::<()>();
    let make = {
        let (calls, go_on) = (calls.clone(), go_on.clone());
        move |conn: Conn| {
            let (calls, go_on, tell) = (calls.clone(), go_on.clone(), tell.clone());
            service_fn(move |request: Request<Incoming>| {
                calls.fetch_add(1, Ordering::SeqCst);
                let (conn, go_on, tell) = (conn.clone(), go_on.clone(), tell.clone());
                async move {
                    let (parts, body) = request.into_parts();
                    let mut length = 0;
                    match parts.uri.path() {
                        "/early" => drop(body),
                        "/hang" => {
                            tell.send("begun").unwrap();
                            let _dropped = Dropped(tell);
                            pending::<()>().await;
                        }
                        "/wait" => {
                            tell.send("begun").unwrap();
                            go_on.notified().await;
                        }
                        path => {
                            if path == "/trust" {
                                conn.trust();
                            }
                            length = body.collect().await.unwrap().to_bytes().len();
                        }
                    }
                    let text = format!("[{} {} {length}]", parts.method, parts.uri);
                    Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(text)))
                }
            })
        }
    };
    let on_refused = move |peer, why| {
        let _ = refuse.send((peer, why));
    };
    let task = tokio::spawn(serve(listener, limits, make, on_refused, async {
        let _ = stop.await;
    }));
    Server { addr, calls, events, go_on, refused, shutdown: Some(shutdown), task }
}

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    /// Sends all of `input`, then reads until the server closes.
    async fn exchange(&self, input: &str) -> String {
        let mut client = self.connect().await;
        client.write_all(input.as_bytes()).await.unwrap();
        rest(&mut client).await
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    async fn refused(&mut self) -> Refused {
        patient(self.refused.recv()).await.unwrap().1
    }
}

async fn rest(client: &mut TcpStream) -> String {
    let mut all = Vec::new();
    patient(client.read_to_end(&mut all)).await.unwrap();
    String::from_utf8(all).unwrap()
}

/// Turns waiting for ever into a failed test.
async fn patient<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("nothing happened for a minute")
}

/// Reads one response of [`Server`], up to the bracket that ends its body.
async fn response(client: &mut TcpStream) -> String {
    let mut all = Vec::new();
    while all.last() != Some(&b']') {
        all.push(patient(client.read_u8()).await.unwrap());
    }
    String::from_utf8(all).unwrap()
}

fn status_of(response: &str) -> &str {
    response.get(9..12).unwrap_or("")
}

#[tokio::test]
async fn requests_follow_each_other_on_one_connection() {
    let server = start(Limits::default()).await;
    let mut client = server.connect().await;
    for target in ["/one", "/two"] {
        client.write_all(GET.replace("/ ", &format!("{target} ")).as_bytes()).await.unwrap();
        assert!(response(&mut client).await.ends_with(&format!("[GET {target} 0]")));
    }
    // Pipelined, and the last one says goodbye.
    let post = "POST /three HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello";
    let last = "GET /four HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    client.write_all(format!("{post}{last}").as_bytes()).await.unwrap();
    let answers = rest(&mut client).await;
    let at = |text: &str| answers.find(text).unwrap_or_else(|| panic!("no {text} in {answers}"));
    assert!(at("[POST /three 5]") < at("[GET /four 0]"));
}

#[tokio::test]
async fn length_with_encoding_is_400_in_both_orders() {
    let mut server = start(Limits::default()).await;
    let chunks = "0\r\n\r\n";
    for fields in [
        "content-length: 5\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 5",
        "Transfer-Encoding: gzip, chunked\r\nx: y\r\nContent-Length: 0",
        "content-length: 5\r\ncontent-length: 5",
    ] {
        let bad = format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n\r\n{chunks}{GET}");
        let answer = server.exchange(&bad).await;
        assert_eq!(status_of(&answer), "400", "{fields}");
        assert!(answer.contains("\r\nconnection: close\r\n") && answer.contains(r#""reason":"framing""#));
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
        assert_eq!(server.refused().await, Refused::Framing);
        assert_eq!(server.calls(), 0);
    }
    // Behind a good request only the bad one is refused.
    let bad =
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n";
    let answer = server.exchange(&format!("{GET}{bad}{GET}")).await;
    assert!(answer.contains("[GET / 0]HTTP/1.1 400 "), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1").count(), 2, "{answer}");
    assert_eq!(server.calls(), 1);
    assert_eq!(server.refused().await, Refused::Framing);
}

#[tokio::test]
async fn a_chunked_request_is_the_last_on_its_connection() {
    let server = start(Limits::default()).await;
    let chunked = "POST /c HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let hidden =
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n";
    let answer = server.exchange(&format!("{chunked}3\r\nabc\r\n0\r\n\r\n{hidden}{GET}")).await;
    assert!(answer.ends_with("[POST /c 3]"), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert_eq!(server.calls(), 1);
}

#[tokio::test]
async fn what_is_not_http_1_is_refused() {
    let mut server = start(Limits::default()).await;
    let cases = [
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", "", Refused::Http2),
        ("GET / HTTP/2.0\r\nhost: a\r\n\r\n", "400", Refused::Malformed),
        ("GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\n 2\r\n\r\n", "400", Refused::Malformed),
        ("GET / HTTP/1.1\r\nhost : a\r\n\r\n", "400", Refused::Malformed),
        ("GET / HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n", "400", Refused::Malformed),
        ("GET / HTTP/1.1\r\nhost: a\r\nno colon\r\n\r\n", "400", Refused::Malformed),
        ("GET /a b HTTP/1.1\r\nhost: a\r\n\r\n", "400", Refused::Malformed),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5,5\r\n\r\n", "400", Refused::Malformed),
        ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n", "400", Refused::Malformed),
        ("POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n", "400", Refused::Malformed),
        ("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\r\n\r\n", "400", Refused::Malformed),
    ];
    for (input, status, why) in cases {
        let answer = server.exchange(input).await;
        assert_eq!(status_of(&answer), status, "{input:?}");
        assert_eq!(server.refused().await, why, "{input:?}");
        assert_eq!(server.calls(), 0, "{input:?}");
    }
}

#[tokio::test]
async fn no_offer_changes_the_protocol() {
    let server = start(Limits::default()).await;
    for offer in [
        "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__",
        "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13",
    ] {
        let mut client = server.connect().await;
        client.write_all(format!("GET / HTTP/1.1\r\nhost: a\r\n{offer}\r\n\r\n").as_bytes()).await.unwrap();
        assert_eq!(status_of(&response(&mut client).await), "200");
        client.write_all(GET.as_bytes()).await.unwrap();
        assert_eq!(status_of(&response(&mut client).await), "200");
    }
}

#[tokio::test]
async fn heads_are_bounded() {
    let mut server = start(Limits::default()).await;
    let long = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}", "y".repeat(33 * 1024));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(101));
    let blank = "\r\n".repeat(40 * 1024);
    for input in [&long, &format!("{long}\r\n\r\n"), &many, &blank] {
        let answer = server.exchange(input).await;
        assert_eq!(status_of(&answer), "431");
        assert_eq!(server.refused().await, Refused::HeadTooLarge);
    }
    assert_eq!(server.calls(), 0);
    let most =
        format!("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx: {}\r\n\r\n", "y".repeat(31 * 1024));
    assert_eq!(status_of(&server.exchange(&most).await), "200");
}

#[tokio::test]
async fn a_request_may_come_in_single_bytes() {
    let mut server = start(Limits::default()).await;
    let good = "POST /b HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc";
    let bad = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n";
    let mut client = server.connect().await;
    client.set_nodelay(true).unwrap();
    for byte in format!("{good}{bad}").into_bytes() {
        client.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let answers = rest(&mut client).await;
    assert!(answers.contains("[POST /b 3]HTTP/1.1 400 "), "{answers}");
    assert_eq!(server.refused().await, Refused::Framing);
}

/// Seconds from the beginning, on the paused clock, at which the server closes a connection that sends `first`
/// at once and then one byte of `drip` a second.
async fn closed_after(server: &Server, first: &str, drip: &str) -> u64 {
    let mut client = server.connect().await;
    client.write_all(first.as_bytes()).await.unwrap();
    let (mut reader, mut writer) = client.into_split();
    let start = Instant::now();
    let drip = drip.to_owned();
    let dripping = tokio::spawn(async move {
        for byte in drip.into_bytes() {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if writer.write_all(&[byte]).await.is_err() {
                break;
            }
        }
        pending::<()>().await;
    });
    let mut all = Vec::new();
    let _ = reader.read_to_end(&mut all).await;
    dripping.abort();
    start.elapsed().as_secs()
}

#[tokio::test(start_paused = true)]
async fn a_head_has_ten_seconds() {
    let mut server = start(Limits::default()).await;
    let half = "GET / HTTP/1.1\r\nhost: a\r\n";
    for (first, drip) in
        [("", ""), ("G", ""), ("\r\n", ""), (half, ""), ("", GET), (half, "x: 0123456789abcdef")]
    {
        assert_eq!(closed_after(&server, first, drip).await, 10, "{first:?} {drip:?}");
        assert_eq!(server.refused().await, Refused::HeaderTimeout);
    }
    assert_eq!(server.calls(), 0);
    // A stranger whose request was answered has as long for the next.
    assert_eq!(closed_after(&server, GET, "").await, 10);
    assert_eq!(server.refused().await, Refused::HeaderTimeout);
}

#[tokio::test(start_paused = true)]
async fn a_trusted_connection_may_idle_but_not_dawdle() {
    let mut server = start(Limits::default()).await;
    let trust = "GET /trust HTTP/1.1\r\nhost: a\r\n\r\n";
    assert_eq!(closed_after(&server, trust, "").await, 600);
    assert!(server.refused.try_recv().is_err(), "being idle is no offence");

    // Half a head, sent after a long silence, has its ten seconds from its own first byte on.
    let mut client = server.connect().await;
    client.write_all(trust.as_bytes()).await.unwrap();
    response(&mut client).await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    let start = Instant::now();
    client.write_all(b"GET / HT").await.unwrap();
    rest(&mut client).await;
    assert_eq!(start.elapsed().as_secs(), 10);
    assert_eq!(server.refused().await, Refused::HeaderTimeout);
}

#[tokio::test(start_paused = true)]
async fn a_long_response_is_not_idleness() {
    let mut server = start(Limits::default()).await;
    let mut client = server.connect().await;
    // The beginning of a second request waits in the buffer while the first is served.
    let trust = "GET /trust HTTP/1.1\r\nhost: a\r\n\r\n";
    client
        .write_all(format!("{trust}GET /wait HTTP/1.1\r\nhost: a\r\n\r\nGET /next").as_bytes())
        .await
        .unwrap();
    response(&mut client).await;
    assert_eq!(server.events.recv().await, Some("begun"));
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    server.go_on.notify_one();
    assert!(response(&mut client).await.ends_with("[GET /wait 0]"));
    tokio::time::sleep(Duration::from_secs(9)).await;
    client.write_all(b" HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(response(&mut client).await.ends_with("[GET /next 0]"));
}

#[tokio::test]
async fn the_oldest_stranger_makes_room() {
    let mut server = start(Limits { max_strangers: 2, ..Limits::default() }).await;
    let mut trusted = server.connect().await;
    trusted.write_all(b"GET /trust HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    response(&mut trusted).await;
    let mut strangers = Vec::new();
    for _ in 0..4 {
        let mut client = server.connect().await;
        // An answer proves that the server has taken this one in.
        client.write_all(GET.as_bytes()).await.unwrap();
        response(&mut client).await;
        strangers.push(client);
    }
    for client in &mut strangers[..2] {
        assert_eq!(rest(client).await, "");
        assert_eq!(server.refused.recv().await, Some((client.local_addr().unwrap(), Refused::Evicted)));
    }
    for client in strangers[2..].iter_mut().chain([&mut trusted]) {
        client.write_all(GET.as_bytes()).await.unwrap();
        assert_eq!(status_of(&response(client).await), "200");
    }
    // Those who leave make room too.
    drop(strangers);
    assert!(server.refused.try_recv().is_err());
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_is_still_sending() {
    const BODY: usize = 20 * 1024 * 1024;
    let server = start(Limits::default()).await;
    for encoding in [format!("content-length: {BODY}"), "transfer-encoding: chunked".to_owned()] {
        let mut client = server.connect().await;
        let head = format!("POST /early HTTP/1.1\r\nhost: a\r\n{encoding}\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        if encoding.contains("chunked") {
            client.write_all(format!("{BODY:x}\r\n").as_bytes()).await.unwrap();
        }
        client.write_all(&vec![b'x'; BODY]).await.unwrap();
        assert!(rest(&mut client).await.ends_with("[POST /early 0]"));
    }
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_request() {
    let mut server = start(Limits::default()).await;
    let mut client = server.connect().await;
    client.write_all(b"GET /hang HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert_eq!(server.events.recv().await, Some("begun"));
    drop(client);
    assert_eq!(server.events.recv().await, Some("dropped"));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_lets_requests_finish_within_bounds() {
    let mut server = start(Limits::default()).await;
    let mut idle = server.connect().await;
    idle.write_all(GET.as_bytes()).await.unwrap();
    response(&mut idle).await;
    let mut waiting = server.connect().await;
    waiting.write_all(b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert_eq!(server.events.recv().await, Some("begun"));
    let mut hanging = server.connect().await;
    hanging.write_all(b"GET /hang HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert_eq!(server.events.recv().await, Some("begun"));

    let start = Instant::now();
    drop(server.shutdown.take());
    assert_eq!(rest(&mut idle).await, "");
    assert!(TcpStream::connect(server.addr).await.is_err(), "still listening");
    server.go_on.notify_one();
    let answer = rest(&mut waiting).await;
    assert!(answer.ends_with("[GET /wait 0]") && answer.contains("connection: close"), "{answer}");
    assert_eq!(start.elapsed().as_secs(), 0);

    let _ = hanging.read(&mut [0; 1]).await;
    server.task.await.unwrap();
    assert_eq!(start.elapsed().as_secs(), Limits::default().drain.as_secs());
    assert_eq!(server.events.recv().await, Some("dropped"));
}

#[tokio::test]
async fn a_connection_knows_both_its_ends() {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, mut told) = mpsc::unbounded_channel();
    let make = move |conn: Conn| {
        tell.send((conn.peer, conn.local)).unwrap();
        service_fn(async |_| Ok(Response::new(Full::<Bytes>::default())))
    };
    tokio::spawn(serve(listener, Limits::default(), make, |_, _| {}, pending()));
    let client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let ends = (client.local_addr().unwrap(), client.peer_addr().unwrap());
    assert_eq!(told.recv().await, Some(ends));
}

/// A listener that fails as told before it accepts.
struct Failing {
    errors: std::sync::Mutex<Vec<io::Error>>,
    listener: TcpListener,
}

impl Accept for Failing {
    async fn accept(&self) -> io::Result<TcpStream> {
        let error = self.errors.lock().unwrap().pop();
        match error {
            Some(error) => Err(error),
            None => Accept::accept(&self.listener).await,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_accept_is_tried_again_after_a_pause() {
    const EMFILE: i32 = 24;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let mut errors: Vec<_> = (0..10).map(|_| io::Error::from_raw_os_error(EMFILE)).collect();
    errors.push(io::ErrorKind::ConnectionAborted.into());
    let failing = Failing { errors: std::sync::Mutex::new(errors), listener };
    let mut pause = Pause::default();
    let start = Instant::now();
    let mut waits = Vec::new();
    for _ in 0..10 {
        let error = pause.accept(&failing).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(EMFILE));
        waits.push(start.elapsed().as_millis());
    }
    assert_eq!(waits, [0, 10, 30, 70, 150, 310, 630, 1_270, 2_270, 3_270]);
    let _client = TcpStream::connect(addr).await.unwrap();
    pause.accept(&failing).await.unwrap();
    assert_eq!(pause.length, Duration::ZERO);
}
