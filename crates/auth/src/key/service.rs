//! Applies the key check to requests.

use std::task::{Context, Poll};
use std::time::SystemTime;

use bytes::Bytes;
use http::{Request, Response};
use thv_keygen::header::PROOF_PATH;
use tower_service::Service;

use super::authenticate;
use super::layer::{Hook, accepted};
use crate::{LiveKeys, Realm, Refusal, ResponseFuture};

/// Passes on what carries a live key; see the [module](super).
#[derive(Clone)]
pub struct KeyCheck<S> {
    pub(super) inner: S,
    pub(super) keys: LiveKeys,
    pub(super) realm: Realm,
    pub(super) hook: Option<Hook>,
}

impl<S, B, R> Service<Request<B>> for KeyCheck<S>
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
        {
            let keys = self.keys.peek();
            let key = match authenticate(&keys, request.headers_mut(), SystemTime::now()) {
                Ok(key) => key,
                Err(why) => return ResponseFuture::answered(self.realm.unauthorized(why)),
            };
            accepted(self.hook.as_ref(), key, request.extensions_mut());
        }
        // The local endpoints answer GET there before any key is asked for; nothing on that path goes upstream.
        if request.uri().path() == PROOF_PATH {
            return ResponseFuture::answered(Refusal::ProofMethod.empty());
        }
        ResponseFuture::passed(self.inner.call(request))
    }
}
