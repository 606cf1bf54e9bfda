//! Between hyper and a tower service: waits until the service is ready, and answers what the screen refused.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, TRANSFER_ENCODING};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::Refused;
use super::conn::Conn;

const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// The JSON-RPC error of a request with ambiguous framing.
const FRAMING: &str = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Content-Length and Transfer-Encoding exclude each other, and a length is one number","data":{"reason":"framing"}}}"#;

/// The service of one connection, as hyper wants it.
pub(super) struct Shim<S, R> {
    /// Behind a lock because hyper shares it and tower does not. hyper calls for one request at a time, so nobody
    /// ever waits.
    service: Arc<Mutex<S>>,
    conn: Conn,
    calls: AtomicU64,
    on_refused: Arc<R>,
}

impl<S, R> Shim<S, R> {
    pub(super) fn new(service: S, conn: Conn, on_refused: Arc<R>) -> Self {
        Self { service: Arc::new(Mutex::new(service)), conn, calls: AtomicU64::new(0), on_refused }
    }
}

impl<S, B, R> hyper::service::Service<Request<Incoming>> for Shim<S, R>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    B: From<Bytes>,
    R: Fn(SocketAddr, Refused),
{
    type Response = Response<B>;
    type Error = Infallible;
    type Future = Answer<S, S::Future>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        // hyper and the screen see the same heads in the same order, so the numbers agree.
        let number = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let bad = self.conn.bad_head();
        if bad != 0 && number >= bad {
            (self.on_refused)(self.conn.peer, Refused::Framing);
            return Answer::Refused;
        }
        let close = request.headers().contains_key(TRANSFER_ENCODING);
        Answer::Waiting { service: self.service.clone(), request: Some(request), close }
    }
}

pin_project! {
    /// Resolves to the service's response, or to the refusal.
    #[project = AnswerProj]
    pub(super) enum Answer<S, F> {
        Waiting { service: Arc<Mutex<S>>, request: Option<Request<Incoming>>, close: bool },
        Running { #[pin] future: F, close: bool },
        Refused,
    }
}

impl<S, B> Future for Answer<S, S::Future>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    B: From<Bytes>,
{
    type Output = Result<Response<B>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let running = match self.as_mut().project() {
                AnswerProj::Waiting { service, request, close } => {
                    let mut service = service.lock().unwrap_or_else(PoisonError::into_inner);
                    let Ok(()) = ready!(service.poll_ready(cx));
                    let request = request.take().expect("polled after it was ready");
                    Self::Running { future: service.call(request), close: *close }
                }
                AnswerProj::Running { future, close } => {
                    let Ok(mut response) = ready!(future.poll(cx));
                    // The screen does not follow a body without a length, so nothing may come after it.
                    if *close {
                        response.headers_mut().insert(CONNECTION, CLOSE);
                    }
                    return Poll::Ready(Ok(response));
                }
                AnswerProj::Refused => return Poll::Ready(Ok(refused())),
            };
            self.set(running);
        }
    }
}

fn refused<B: From<Bytes>>() -> Response<B> {
    let mut response = Response::new(B::from(Bytes::from_static(FRAMING.as_bytes())));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CONNECTION, CLOSE);
    response
}
