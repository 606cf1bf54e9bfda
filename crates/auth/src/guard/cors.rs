//! The CORS protocol (Fetch standard, section 3.2) for allowed origins, and its absence for all others.

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};

const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, DELETE");
const EXPOSED: HeaderValue = HeaderValue::from_static("mcp-session-id, www-authenticate");
const BY_ORIGIN: HeaderValue = HeaderValue::from_static("origin");
/// How long a browser may remember a preflight, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// What a page of an allowed origin may send. `Mcp-Param-*` names are made up by tools, so they are matched by
/// their beginning.
const HEADERS: &str = "accept, authorization, content-type, last-event-id, mcp-method, mcp-name, \
                       mcp-protocol-version, mcp-session-id, x-toolhive-auth";
const PARAM_PREFIX: &str = "mcp-param-";

/// What has to be said of CORS on a response.
#[derive(Clone, Debug)]
pub(super) struct Marks {
    /// The allowed origin that asked.
    pub(super) origin: Option<HeaderValue>,
    /// Whether the answer to another origin would differ.
    pub(super) vary: bool,
}

impl Marks {
    /// Replaces whatever the inner service said of CORS.
    pub(super) fn set(&self, headers: &mut HeaderMap) {
        scrub(headers);
        if let Some(origin) = &self.origin {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
        if self.vary {
            headers.append(VARY, BY_ORIGIN);
        }
    }
}

fn scrub(headers: &mut HeaderMap) {
    let is_cors = |name: &HeaderName| name.as_str().starts_with("access-control-");
    if headers.keys().any(is_cors) {
        let names: Vec<HeaderName> = headers.keys().filter(|name| is_cors(name)).cloned().collect();
        for name in names {
            headers.remove(name);
        }
    }
}

/// Whether a request asks in advance whether another one would be allowed.
pub(super) fn is_preflight<B>(request: &Request<B>) -> bool {
    request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to a preflight of an allowed origin. It lists what is allowed and leaves the verdict to the
/// browser.
pub(super) fn preflight<R: From<Bytes>>(origin: &HeaderValue, asked: &HeaderMap) -> Response<R> {
    let mut response = Response::new(R::from(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed_headers(asked));
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    headers.insert(VARY, HeaderValue::from_static("origin, access-control-request-headers"));
    response
}

fn allowed_headers(asked: &HeaderMap) -> HeaderValue {
    let mut allowed = String::from(HEADERS);
    let lists = asked.get_all(ACCESS_CONTROL_REQUEST_HEADERS);
    let names = lists.iter().filter_map(|list| list.to_str().ok()).flat_map(|list| list.split(','));
    for name in names.map(str::trim) {
        // Only a valid field name is echoed, in lowercase.
        if let Ok(name) = HeaderName::from_bytes(name.as_bytes())
            && name.as_str().starts_with(PARAM_PREFIX)
        {
            allowed.push_str(", ");
            allowed.push_str(name.as_str());
        }
    }
    HeaderValue::try_from(allowed).unwrap_or(HeaderValue::from_static(HEADERS))
}
