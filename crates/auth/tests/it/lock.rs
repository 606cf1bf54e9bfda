//! The three layers together, and around an axum router.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use axum::body::Body;
use axum::routing::post;
use axum::{Extension, Router};
use http::{Method, Request, Response, StatusCode};
use thv_auth::{Identity, OpenLayer, Refusal};
use thv_keygen::header;
use tower::{Layer as _, Service, ServiceExt as _};

use crate::{KEY, guards, key, locked, request, send};

#[tokio::test]
async fn the_guard_comes_before_everything() {
    // A web page cannot even learn that there is a lock.
    for (method, target) in [
        (Method::GET, "/health"),
        (Method::GET, header::PROOF_PATH),
        (Method::POST, "/register"),
        (Method::GET, "/.well-known/oauth-protected-resource"),
        (Method::POST, "/mcp"),
    ] {
        for foreign in [("host", "evil.example:41873"), ("origin", "http://evil.example")] {
            let headers = [foreign, (header::AUTH, KEY)];
            let (status, refusal, _) = send(&locked(), request(method.clone(), target, &headers)).await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{target} {foreign:?} {refusal:?}");
        }
    }
}

#[tokio::test]
async fn an_open_server_keeps_its_guard() {
    let open = OpenLayer::new(guards());
    let (status, _, _) = send(&open, request(Method::POST, "/mcp", &[])).await;
    assert_eq!(status, StatusCode::OK);
    let foreign = [("host", "evil.example:41873")];
    let (_, refusal, _) = send(&open, request(Method::POST, "/mcp", &foreign)).await;
    assert_eq!(refusal, Some(Refusal::HostForeign));
}

#[tokio::test]
async fn an_axum_router_is_locked_whole() {
    let app: Router = Router::new()
        .route("/mcp", post(|Extension(who): Extension<Identity>| async move { who.key_id.to_string() }))
        .layer(locked());
    let send = async |method: Method, target: &str, with_key: bool| {
        let mut request = Request::builder().method(method).uri(target).header("host", "localhost:41873");
        if with_key {
            request = request.header(header::AUTH, KEY);
        }
        app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    };
    // The router's own 404 and 405 are behind the lock.
    for (method, target) in [(Method::POST, "/mcp"), (Method::GET, "/mcp"), (Method::GET, "/nothing")] {
        assert_eq!(send(method, target, false).await.status(), StatusCode::UNAUTHORIZED, "{target}");
    }
    assert_eq!(send(Method::GET, "/nothing", true).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(send(Method::GET, "/mcp", true).await.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(send(Method::GET, "/health", false).await.status(), StatusCode::NO_CONTENT);

    let body = send(Method::POST, "/mcp", true).await.into_body();
    let body = axum::body::to_bytes(body, 1_024).await.unwrap();
    assert_eq!(body, key(0).id().to_string());
}

/// A service that is ready once for each call, as tower allows, and panics when called without.
#[derive(Default)]
struct Strict {
    ready: bool,
}

impl Service<Request<crate::Body>> for Strict {
    type Response = Response<crate::Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<crate::Body>) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called without being ready");
        ready(Ok(Response::default()))
    }
}

#[tokio::test]
async fn the_service_that_was_made_ready_is_the_one_that_is_called() {
    let mut service = locked().layer(Strict::default());
    for with_key in [false, true, true] {
        let headers: &[(&str, &str)] = if with_key { &[(header::AUTH, KEY)] } else { &[] };
        let request = request(Method::POST, "/mcp", headers);
        let response = service.ready().await.unwrap().call(request).await.unwrap();
        assert_eq!(response.status() == StatusCode::OK, with_key);
    }
}
