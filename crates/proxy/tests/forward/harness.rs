//! A proxy on a socket, its clients, and an upstream that is played or real.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use thv_proxy::body::{BoxError, ResponseBody};
use thv_proxy::forward::{Connect, Forward, OnReport, Options, Outcome, TcpConnect, Upstream};
use thv_proxy::serve::{Limits, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How long anything may take that has to happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for what has to happen.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it did not happen")
}

/// A task that ends with its owner.
pub(crate) struct Task(JoinHandle<()>);

impl Task {
    pub(crate) fn spawn(future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(future))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A proxy on a socket.
pub(crate) struct Front {
    pub(crate) addr: SocketAddr,
    _task: Task,
}

impl Front {
    pub(crate) async fn new<C: Connect>(forward: Forward<C>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let task = Task::spawn(async move {
            serve(listener, Limits::default(), |_| forward.clone(), |_, _| {}, std::future::pending()).await;
        });
        Self { addr, _task: task }
    }

    /// A client of its own connection.
    pub(crate) async fn client(&self) -> SendRequest<ResponseBody> {
        let stream = TcpStream::connect(self.addr).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(async move {
            let _ = connection.await;
        });
        sender
    }

    pub(crate) async fn send(&self, request: Request<ResponseBody>) -> Response<Incoming> {
        // The connection ends when the response is read.
        soon(self.client().await.send_request(request)).await.unwrap()
    }

    /// Status and JSON-RPC error of a refusal.
    pub(crate) async fn error(&self, request: Request<ResponseBody>) -> (StatusCode, Value) {
        let response = self.send(request).await;
        let status = response.status();
        let body = soon(response.into_body().collect()).await.unwrap().to_bytes();
        let value: Value = serde_json::from_slice(&body).expect("a JSON-RPC error");
        assert_eq!(value["jsonrpc"], "2.0");
        (status, value["error"].clone())
    }

    /// Sends bytes on a connection of their own.
    pub(crate) async fn raw(&self, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }
}

/// A request's path, status, and how it ended.
pub(crate) type Reported = (String, Option<u16>, String);

/// A proxy in front of an upstream that the test plays.
pub(crate) struct Played {
    pub(crate) front: Front,
    pub(crate) forward: Forward<TcpConnect>,
    pub(crate) upstream: TcpListener,
    pub(crate) reports: Arc<Mutex<Vec<Reported>>>,
}

impl Played {
    pub(crate) async fn new(options: Options) -> Self {
        Self::with(options, "/", |connect| connect).await
    }

    /// The upstream's URL has this path; `adjust` may change how it is dialled.
    pub(crate) async fn with(
        mut options: Options,
        path: &str,
        adjust: impl FnOnce(TcpConnect) -> TcpConnect,
    ) -> Self {
        let upstream = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = upstream.local_addr().unwrap();
        let reports = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&reports);
        options.on_report = OnReport::new(move |report| {
            let outcome = match report.outcome {
                Outcome::Failed(fault) => fault.to_string(),
                other => format!("{other:?}"),
            };
            let status = report.status.map(|status| status.as_u16());
            told.lock().unwrap().push((report.path.to_owned(), status, outcome));
        });
        let url = Upstream::parse(&format!("http://{addr}{path}")).unwrap();
        let forward = Forward::new(adjust(TcpConnect::to(addr)), url, options).unwrap();
        Self { front: Front::new(forward.clone()).await, forward, upstream, reports }
    }

    /// The upstream's authority.
    pub(crate) fn authority(&self) -> String {
        self.upstream.local_addr().unwrap().to_string()
    }

    /// The next connection to the upstream.
    pub(crate) async fn accept(&self) -> Peer {
        Peer(soon(self.upstream.accept()).await.unwrap().0)
    }

    /// Sends a request, has the upstream answer with these bytes and close, and returns the response.
    pub(crate) async fn exchange(&self, request: Request<ResponseBody>, answer: &str) -> Response<Incoming> {
        let (response, ()) = tokio::join!(self.front.send(request), async {
            let mut peer = self.accept().await;
            peer.head().await;
            peer.say(answer).await;
        });
        response
    }

    /// Waits until a request's end was reported, and takes the reports.
    pub(crate) async fn reported(&self) -> Vec<Reported> {
        soon(async {
            while self.reports.lock().unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        std::mem::take(&mut *self.reports.lock().unwrap())
    }
}

/// The upstream's end of a connection.
pub(crate) struct Peer(pub(crate) TcpStream);

impl Peer {
    /// The head of the next request, in lower case.
    pub(crate) async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await.to_ascii_lowercase()
    }

    /// Everything up to this text, byte for byte.
    pub(crate) async fn until(&mut self, end: &str) -> String {
        let mut text = Vec::new();
        while !text.ends_with(end.as_bytes()) {
            text.push(soon(self.0.read_u8()).await.unwrap());
        }
        String::from_utf8(text).unwrap()
    }

    pub(crate) async fn say(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// Waits until the other side is gone, however it left.
    pub(crate) async fn gone(&mut self) {
        let mut rest = [0; 4096];
        while !matches!(soon(self.0.read(&mut rest)).await, Ok(0) | Err(_)) {}
    }

    /// Ends the connection with a reset.
    pub(crate) fn reset(self) {
        self.0.set_zero_linger().unwrap();
    }
}

pub(crate) fn get(path: &str) -> Request<ResponseBody> {
    Request::get(path).header("host", "front").body(ResponseBody::default()).unwrap()
}

pub(crate) fn post(path: &str, body: impl Into<Bytes>) -> Request<ResponseBody> {
    let body = ResponseBody::from(body.into());
    Request::post(path).header("host", "front").body(body).unwrap()
}

/// A frame of a body.
pub(crate) type Piece = Result<Frame<Bytes>, BoxError>;

pub(crate) fn data(bytes: impl Into<Bytes>) -> Piece {
    Ok(Frame::data(bytes.into()))
}

/// A body of what is sent into a channel.
pub(crate) struct Piped(mpsc::Receiver<Piece>);

impl Body for Piped {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Piece>> {
        self.0.poll_recv(cx)
    }
}

/// A body, and what fills it.
fn pipe() -> (mpsc::Sender<Piece>, ResponseBody) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, ResponseBody::streamed(Piped(receiver)))
}

/// A request in chunks, and what fills its body.
pub(crate) fn piped(path: &str) -> (mpsc::Sender<Piece>, Request<ResponseBody>) {
    let (sender, body) = pipe();
    (sender, Request::post(path).header("host", "front").body(body).unwrap())
}

/// Body and trailers.
pub(crate) async fn collect(response: Response<Incoming>) -> (Bytes, Option<HeaderMap>) {
    let collected = soon(response.into_body().collect()).await.expect("a whole body");
    let trailers = collected.trailers().cloned();
    (collected.to_bytes(), trailers)
}

pub(crate) async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(collect(response).await.0.to_vec()).unwrap()
}

/// The next bytes of a body, of which there must be some.
pub(crate) async fn chunk(body: &mut Incoming) -> Bytes {
    soon(body.frame()).await.expect("more").expect("no error").into_data().expect("data")
}

/// A real server on a socket.
pub(crate) async fn server<F, R>(answer: F) -> (SocketAddr, Task)
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<ResponseBody>> + Send + 'static,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let task = Task::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            tokio::spawn(async move {
                let service = hyper::service::service_fn(move |request| {
                    let response = answer(request);
                    async move { Ok::<_, Infallible>(response.await) }
                });
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (addr, task)
}
