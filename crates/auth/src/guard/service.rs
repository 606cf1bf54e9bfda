//! Applies the guard to requests.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tower_service::Service;

use super::cors::{self, Marks};
use super::{Guards, ResponseFuture};

/// Accompanies an h2c upgrade (RFC 7540 section 3.2.1) and is named in `Connection` beside it.
static HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Passes on what was meant for this server; see the [module](super).
#[derive(Clone, Debug)]
pub struct Guard<S> {
    pub(super) inner: S,
    pub(super) guards: Arc<Guards>,
}

impl<S, B, R> Service<Request<B>> for Guard<S>
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
        let origin = match self.guards.judge(&request) {
            Ok(origin) => origin,
            Err(why) => return ResponseFuture::answered(why.json_rpc()),
        };
        if let Some(origin) = origin
            && cors::is_preflight(&request)
        {
            return ResponseFuture::answered(cors::preflight(origin, request.headers()));
        }
        let marks = Marks { origin: origin.cloned(), vary: self.guards.has_origins() };
        if request.headers().contains_key(UPGRADE) {
            strip_upgrade(request.headers_mut());
        }
        ResponseFuture::passed(self.inner.call(request), marks)
    }
}

/// Takes an offer to change the protocol off a request. The other options of `Connection` stay: whoever forwards
/// the request has to honour them.
fn strip_upgrade(headers: &mut HeaderMap) {
    headers.remove(UPGRADE);
    headers.remove(&HTTP2_SETTINGS);
    let kept: Vec<HeaderValue> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| {
            let value = value.to_str().ok()?;
            let options: Vec<&str> = value
                .split(',')
                .map(str::trim)
                .filter(|option| {
                    !option.is_empty()
                        && !option.eq_ignore_ascii_case("upgrade")
                        && !option.eq_ignore_ascii_case(HTTP2_SETTINGS.as_str())
                })
                .collect();
            HeaderValue::try_from(options.join(", ")).ok().filter(|value| !value.is_empty())
        })
        .collect();
    headers.remove(CONNECTION);
    for value in kept {
        headers.append(CONNECTION, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_is_taken_off_and_nothing_else() {
        let cases: [(&[&str], &[&str]); 5] = [
            (&["Upgrade"], &[]),
            (&["keep-alive, Upgrade"], &["keep-alive"]),
            (&["Upgrade, HTTP2-Settings"], &[]),
            (&["close", "upgrade"], &["close"]),
            (&["x-hop ,UPGRADE,, close"], &["x-hop, close"]),
        ];
        for (given, kept) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(UPGRADE, HeaderValue::from_static("h2c"));
            headers.insert(&HTTP2_SETTINGS, HeaderValue::from_static("AAMAAABkAAQAAP__"));
            headers.insert("x-hop", HeaderValue::from_static("1"));
            for value in given {
                headers.append(CONNECTION, value.parse().unwrap());
            }
            strip_upgrade(&mut headers);
            assert!(!headers.contains_key(UPGRADE) && !headers.contains_key(&HTTP2_SETTINGS));
            assert!(headers.contains_key("x-hop"));
            let left: Vec<_> = headers.get_all(CONNECTION).iter().collect();
            assert_eq!(left, kept, "{given:?}");
        }
    }
}
