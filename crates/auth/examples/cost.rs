//! What the lock costs a request that passes: nanoseconds per request, the lock's layers against none.
//!
//! Run it in release mode: `cargo run --release -p thv-auth --example cost`
#![allow(clippy::print_stdout)]

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use thv_auth::{ConnInfo, Guards, LiveKeys, LockLayer, Realm};
use thv_keygen::{KeySet, LiveKey, Name, SharedKey};
use tower::{Layer, Service, service_fn};

const ROUNDS: usize = 4_000;
/// Few enough to stay in the cache, as the requests of a real server do.
const BATCH: u32 = 64;

fn upstream(request: Request<()>) -> Ready<Result<Response<Full<Bytes>>, Infallible>> {
    black_box(request);
    ready(Ok(Response::new(Full::default())))
}

fn request(key: &str) -> Request<()> {
    let request = Request::post("/mcp")
        .header("host", "127.0.0.1:41873")
        .header("accept", "application/json, text/event-stream")
        .header("content-type", "application/json")
        .header("content-length", "123")
        .header("mcp-session-id", "4b4d7a9c4f6b4e0f9b2c")
        .header("mcp-protocol-version", "2025-11-25")
        .header("user-agent", "example/1.0")
        .header("x-toolhive-auth", key)
        .extension(ConnInfo {
            peer: ([127, 0, 0, 1], 50_000).into(),
            local: ([127, 0, 0, 1], 41_873).into(),
        });
    request.body(()).expect("a valid request")
}

/// Shortest time of the calls alone: requests are made and responses dropped between the measurements.
fn measure<S>(mut service: S, key: &str) -> Duration
where
    S: Service<Request<()>, Response = Response<Full<Bytes>>, Error = Infallible>,
    S::Future: Unpin,
{
    let mut cx = Context::from_waker(Waker::noop());
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let requests: Vec<_> = (0..BATCH).map(|_| request(key)).collect();
        let mut responses = Vec::with_capacity(BATCH as usize);
        let start = Instant::now();
        for request in requests {
            let Poll::Ready(Ok(())) = service.poll_ready(&mut cx) else { unreachable!("always ready") };
            let mut future = service.call(request);
            match std::pin::Pin::new(&mut future).poll(&mut cx) {
                Poll::Ready(Ok(response)) => responses.push(response),
                Poll::Ready(Err(never)) => match never {},
                Poll::Pending => unreachable!("always ready"),
            }
        }
        best = best.min(start.elapsed() / BATCH);
        assert!(responses.iter().all(|response| response.status() == 200));
    }
    best
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let key = SharedKey::generate()?;
    let text = key.expose_text();
    let later = SystemTime::now() + Duration::from_secs(3_600);
    for live in [1, 4] {
        let mut set = vec![LiveKey::new(key.clone(), None, None)];
        while set.len() < live {
            set.push(LiveKey::new(SharedKey::generate()?, None, Some(later)));
        }
        let realm = Realm::new(Name::parse("example")?, "Send the key in X-ToolHive-Auth")?;
        let guards = Guards::new("127.0.0.1:41873".parse()?)?;
        let lock = LockLayer::new(guards, LiveKeys::new(KeySet::new(set)), realm);
        let bare = measure(service_fn(upstream), &text);
        let quiet = measure(lock.clone().on_accept(|_, _| {}).layer(service_fn(upstream)), &text);
        let handed = measure(lock.layer(service_fn(upstream)), &text);
        println!(
            "{live} live: lock {} ns, with Identity handed on {} ns (bare service {} ns)",
            (quiet - bare).as_nanos(),
            (handed - bare).as_nanos(),
            bare.as_nanos()
        );
    }
    Ok(())
}
