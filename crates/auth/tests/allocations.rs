//! The accept path allocates nothing. A binary of its own, since a global allocator counts for every test.
// An allocator cannot be written in safe Rust; this one forwards to the system's and counts.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::convert::Infallible;
use std::future::ready;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use thv_auth::{Guards, LiveKeys, LockLayer, Realm};
use thv_keygen::{KeySet, LiveKey, Name, SharedKey};
use tower::{Layer, Service, service_fn};

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is forwarded unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of one call through `lock`, made by its layers and not by request, response or body.
fn allocations(lock: &LockLayer, key: &str) -> usize {
    let response = Cell::new(None);
    let mut service =
        lock.layer(service_fn(|_: Request<()>| ready(Ok::<_, Infallible>(response.take().unwrap()))));
    let request = || {
        Request::post("/mcp")
            .header("host", "127.0.0.1:41873")
            .header("content-type", "application/json")
            .header("content-length", "123")
            .header("mcp-session-id", "4b4d7a9c4f6b4e0f9b2c")
            .header("x-toolhive-auth", key)
            .body(())
            .unwrap()
    };
    let mut cx = Context::from_waker(Waker::noop());
    let mut counted = 0;
    // The first call lets thread-locals of the libraries settle.
    for _ in 0..2 {
        let request = request();
        let made = Response::builder().header("content-type", "application/json");
        response.set(Some(made.body(Full::<Bytes>::default()).unwrap()));
        let before = COUNT.with(Cell::get);
        assert!(service.poll_ready(&mut cx).is_ready());
        let future = pin!(service.call(request));
        let Poll::Ready(Ok(response)) = future.poll(&mut cx) else { panic!("not ready") };
        counted = COUNT.with(Cell::get) - before;
        assert_eq!(response.status(), 200);
    }
    counted
}

#[test]
fn an_accepted_request_costs_no_allocation() {
    let key = SharedKey::from_bytes([7; 32]);
    let client = LiveKey::new(SharedKey::from_bytes([8; 32]), Some(Name::parse("claude").unwrap()), None);
    let keys = LiveKeys::new(KeySet::new(vec![client, LiveKey::new(key.clone(), None, None)]));
    let realm = Realm::new(Name::parse("time").unwrap(), "Send the key").unwrap();
    let guards = Guards::new("127.0.0.1:41873".parse().unwrap()).unwrap();
    let lock = LockLayer::new(guards.allow_origins(["https://app.example"]).unwrap(), keys, realm);

    assert_eq!(allocations(&lock.clone().on_accept(|_, _| {}), &key.expose_text()), 0);
    // The counter does count: handing an `Identity` on boxes it.
    assert_ne!(allocations(&lock, &key.expose_text()), 0);
}
