//! The layers as a server uses them, through `oneshot`.
#![allow(clippy::unwrap_used)]

mod cors;
mod guard;
mod key;
mod local;
mod lock;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use thv_auth::{ConnInfo, Guards, LiveKeys, LockLayer, Realm, Refusal};
use thv_keygen::{KeySet, LiveKey, Name, SharedKey};
use tower::{Layer, Service, ServiceExt as _};

/// The contract's sequential key, 00 to 1f.
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const HOST: &str = "127.0.0.1:41873";
const ADVICE: &str = "Start your client with: thv proxy stdio time";

type Body = Full<Bytes>;

/// What the inner service saw of a request.
#[derive(Clone, Debug)]
struct Seen {
    headers: HeaderMap,
    identity: Option<thv_auth::Identity>,
}

/// An inner service that counts its calls, repeats what it saw in the response's extensions, and says something
/// of CORS that the guard has to take back.
#[derive(Clone, Default)]
struct Upstream {
    calls: Arc<AtomicUsize>,
}

impl Upstream {
    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl Service<Request<Body>> for Upstream {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let identity = request.extensions().get().cloned();
        let seen = Seen { headers: request.headers().clone(), identity };
        let response = Response::builder()
            .header("access-control-allow-origin", "*")
            .header("access-control-allow-private-network", "true")
            .extension(seen)
            .body(Full::from("upstream"));
        std::future::ready(Ok(response.unwrap()))
    }
}

fn key(n: u8) -> SharedKey {
    if n == 0 { SharedKey::parse(KEY).unwrap() } else { SharedKey::from_bytes([n; 32]) }
}

fn keys(live: impl IntoIterator<Item = SharedKey>) -> LiveKeys {
    LiveKeys::new(KeySet::new(live.into_iter().map(|key| LiveKey::new(key, None, None)).collect()))
}

fn realm(name: &str) -> Realm {
    Realm::new(Name::parse(name).unwrap(), ADVICE).unwrap()
}

fn guards() -> Guards {
    Guards::new(HOST.parse().unwrap()).unwrap()
}

fn conn() -> ConnInfo {
    ConnInfo { peer: "127.0.0.1:50000".parse().unwrap(), local: HOST.parse().unwrap() }
}

/// A locked server named `time` with the sequential key.
fn locked() -> LockLayer {
    LockLayer::new(guards(), keys([key(0)]), realm("time"))
}

/// A request with these headers and, unless they say otherwise, the right `Host`.
fn request(method: Method, target: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let mut builder = Request::builder().method(method).uri(target).extension(conn());
    if !headers.iter().any(|(name, _)| *name == "host") {
        builder = builder.header("host", HOST);
    }
    for (name, value) in headers {
        builder = builder.header(*name, value.as_bytes());
    }
    builder.body(Full::default()).unwrap()
}

/// Sends a request through `layer` around `upstream`.
async fn send_to<L>(layer: &L, upstream: &Upstream, request: Request<Body>) -> Response<Body>
where
    L: Layer<Upstream>,
    L::Service: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let Ok(response) = layer.layer(upstream.clone()).oneshot(request).await;
    response
}

/// Sends a request through `layer` and tells the status and the reason of a refusal. Also checks what holds for
/// every request: a refused one never reaches the inner service, a passed one does exactly once.
async fn send<L>(layer: &L, request: Request<Body>) -> (StatusCode, Option<Refusal>, Response<Body>)
where
    L: Layer<Upstream>,
    L::Service: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let upstream = Upstream::default();
    let response = send_to(layer, &upstream, request).await;
    let refusal = response.extensions().get::<Refusal>().copied();
    assert_eq!(upstream.calls(), usize::from(response.extensions().get::<Seen>().is_some()));
    if refusal.is_some() {
        assert_eq!(upstream.calls(), 0, "{refusal:?}");
    }
    (response.status(), refusal, response)
}

async fn text(response: Response<Body>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}
