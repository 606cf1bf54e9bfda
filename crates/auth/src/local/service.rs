//! Answers local endpoints and passes all other requests on.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use thv_keygen::header::PROOF_PATH;
use tower_service::Service;

use super::proof;
use crate::key::AUTH;
use crate::{LiveKeys, Realm, Refusal, ResponseFuture};

/// Answers the endpoints of its [module](super).
#[derive(Clone)]
pub struct Local<S> {
    pub(super) inner: S,
    pub(super) lock: Option<(LiveKeys, Realm)>,
}

impl<S, B, R> Service<Request<B>> for Local<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: From<Bytes>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if let Some(response) = self.answer(&request) {
            return ResponseFuture::answered(response);
        }
        if self.lock.is_none() {
            request.headers_mut().remove(&AUTH);
        }
        ResponseFuture::passed(self.inner.call(request))
    }
}

impl<S> Local<S> {
    fn answer<B, R: From<Bytes>>(&self, request: &Request<B>) -> Option<Response<R>> {
        let (method, path) = (request.method(), request.uri().path());
        if path == "/health" && method == Method::GET {
            let mut response = Response::new(R::from(Bytes::new()));
            *response.status_mut() = StatusCode::NO_CONTENT;
            return Some(response);
        }
        let Some((keys, realm)) = &self.lock else {
            return (path == PROOF_PATH).then(|| Refusal::ProofUnknownKey.empty());
        };
        if path == PROOF_PATH && method == Method::GET {
            let answer = proof::answer(&keys.peek(), realm.name(), request.headers(), request.extensions());
            return Some(answer.unwrap_or_else(Refusal::empty));
        }
        if path == "/register" && method == Method::POST {
            return Some(realm.registration());
        }
        if path.starts_with("/.well-known/oauth-") || path.starts_with("/.well-known/openid-") {
            return Some(Refusal::Discovery.empty());
        }
        None
    }
}
