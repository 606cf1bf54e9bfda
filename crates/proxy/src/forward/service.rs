//! The way of a request to the upstream, and of its answer back.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, request};
use http_body::Body;
use hyper::body::Incoming;
use thv_wire::sse;
use tokio::sync::watch;
use tower_service::Service;

use super::body::{Answer, Sent, Trouble};
use super::connect::{Connect, sensitive};
use super::endpoint::EndpointScan;
use super::fault::Fault;
use super::headers::{self, AUTH};
use super::pool::{Conn, Pool};
use super::reference::{Base, Site};
use super::report::Tally;
use super::upstream::Upstream;
use super::{Options, OptionsError};
use crate::body::{BoxError, ResponseBody};

/// How often a request may meet a connection that is closed before a byte of it is written.
const MAX_UNSENT: u32 = 3;

/// Up to this size, in bytes, a server is taken to have read a message that it refused.
const HEARD_OUT: u64 = 64 * 1024;

/// Forwards requests to one upstream. Clones share its connections.
///
/// As a service it answers every request, and errors never. It must be called on a Tokio runtime.
pub struct Forward<C>(Arc<Shared<C>>);

struct Shared<C> {
    connect: C,
    site: Arc<Site>,
    options: Options,
    pool: Arc<Pool>,
    /// True when event streams are to end.
    ending: watch::Sender<bool>,
}

impl<C> Clone for Forward<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C> fmt::Debug for Forward<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forward").field("upstream", &self.0.site.upstream).finish_non_exhaustive()
    }
}

impl<C: Connect> Forward<C> {
    /// A proxy to `upstream`, over the connections that `connect` makes. Of the URL, the authority becomes `Host`, and
    /// the query is put before each request's own; its path counts only where [`Options::paths`] says so.
    ///
    /// # Errors
    /// [`OptionsError`].
    pub fn new(connect: C, upstream: Upstream, mut options: Options) -> Result<Self, OptionsError> {
        options.check()?;
        for value in options.headers.values_mut() {
            *value = sensitive(value.clone());
        }
        let pool = Arc::new(Pool::new(options.idle_timeout, options.max_idle));
        let site = Arc::new(Site { upstream, paths: options.paths.clone() });
        let (ending, _) = watch::channel(false);
        Ok(Self(Arc::new(Shared { connect, site, options, pool, ending })))
    }

    /// How many connections are kept while nobody uses them.
    pub fn idle_connections(&self) -> usize {
        self.0.pool.len()
    }

    /// Closes the connections that nobody uses: the upstream is about to go, or was replaced.
    pub fn close_idle(&self) {
        self.0.pool.clear();
    }

    /// Ends the answers to `GET`: event streams, which are over when their client leaves and not before. For the time
    /// when clients are to leave, and for good.
    pub fn end_streams(&self) {
        self.0.ending.send_replace(true);
    }

    async fn handle<B>(self, request: Request<B>) -> Response<ResponseBody>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let options = &self.0.options;
        let mut tally = Tally::new(&options.on_report, request.method(), request.uri().path());
        let is_get = request.method() == Method::GET;
        match self.forward(request).await {
            Ok((parts, rest)) => {
                tally.status(parts.status);
                let mut answer = Answer::new(rest.incoming, rest.conn, Arc::clone(&self.0.pool), tally);
                if let Some(base) = rest.endpoint {
                    answer = answer.scanned(EndpointScan::new(base));
                }
                if is_get {
                    let mut ending = self.0.ending.subscribe();
                    answer = answer.until(Box::pin(async move {
                        if ending.wait_for(|ending| *ending).await.is_err() {
                            std::future::pending::<()>().await;
                        }
                    }));
                }
                let body = if answer.is_end_stream() {
                    ResponseBody::default()
                } else {
                    ResponseBody::streamed(answer)
                };
                Response::from_parts(parts, body)
            }
            Err(fault) => {
                tally.status(fault.status());
                tally.fail(&fault);
                fault.response(&options.advice)
            }
        }
    }

    async fn forward<B>(&self, request: Request<B>) -> Result<(http::response::Parts, Rest), Fault>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let Shared { site, options, .. } = &*self.0;
        let (mut parts, body) = request.into_parts();
        if matches!(parts.method, Method::CONNECT | Method::TRACE) {
            return Err(Fault::Method);
        }
        let theirs = site.paths.to_theirs(parts.uri.path()).ok_or(Fault::Path)?.into_owned();
        let ours = parts.uri.path().to_owned();
        let announced = body.size_hint().lower();
        if announced > options.max_message_bytes as u64 {
            return Err(Fault::TooLarge { limit: options.max_message_bytes, size: Some(announced) });
        }

        let is_get = parts.method == Method::GET;
        let wants_endpoint = is_get && options.sse_path.as_deref() == Some(&*ours);
        self.rewrite(&mut parts, &theirs, &body)?;
        if wants_endpoint {
            headers::refuse_encodings(&mut parts.headers);
        }
        let trouble = Trouble::default();
        let has_body = !body.is_end_stream();
        let is_small = body.size_hint().upper().is_some_and(|size| size <= HEARD_OUT);
        let body = if has_body {
            ResponseBody::streamed(Sent::new(body, options.max_message_bytes, trouble.clone()))
        } else {
            ResponseBody::default()
        };
        let sending = self.send(Request::from_parts(parts, body), &trouble);
        let (mut conn, response) = match options.head_timeout {
            None => sending.await?,
            Some(limit) => {
                tokio::time::timeout(limit, sending).await.unwrap_or(Err(Fault::HeadTimeout(limit)))?
            }
        };

        let (mut parts, incoming) = response.into_parts();
        // A server that has answered before the request's end may never read the rest, and then no further request
        // either. Sockets take much at once, so what was sent may wait unread.
        let heard_out = trouble.is_whole() && (is_small || parts.status.as_u16() < 400);
        conn.kept = if has_body && !heard_out {
            Some(Duration::ZERO)
        } else {
            headers::keep_alive_timeout(&parts.headers)
        };
        headers::to_client(&mut parts.headers);
        parts.version = Version::HTTP_11;
        let base = Base { site: Arc::clone(&conn.site), ours, theirs };
        check(&mut parts, &base)?;
        let endpoint = if wants_endpoint && is_events(&parts.headers) {
            if parts.headers.get(CONTENT_ENCODING).is_some_and(|value| value != "identity") {
                return Err(Fault::Encoded);
            }
            parts.headers.remove(CONTENT_LENGTH);
            Some(base)
        } else {
            None
        };
        Ok((parts, Rest { incoming, conn, endpoint }))
    }

    /// Turns the head of a client's request into that of ours.
    fn rewrite<B: Body>(&self, parts: &mut request::Parts, theirs: &str, body: &B) -> Result<(), Fault> {
        let Shared { site, options, .. } = &*self.0;
        let target = site.upstream.target(theirs, parts.uri.query()).ok_or(Fault::Path)?;
        let mut uri = http::uri::Parts::default();
        uri.path_and_query = Some(target);
        parts.uri = Uri::from_parts(uri).map_err(|_| Fault::Path)?;
        parts.version = Version::HTTP_11;
        // What layers in front have noted is none of the upstream's business.
        parts.extensions.clear();
        headers::to_upstream(&mut parts.headers, &options.headers);
        let length = if body.is_end_stream() { Some(0) } else { body.size_hint().exact() };
        headers::frame(&mut parts.headers, length);
        Ok(())
    }

    /// Sends a request, over a connection that is there or a new one, and waits for the head of its answer.
    async fn send(
        &self,
        mut request: Request<ResponseBody>,
        trouble: &Trouble,
    ) -> Result<(Conn, Response<Incoming>), Fault> {
        let mut unsent = 0;
        loop {
            let mut conn = match self.0.pool.take().await {
                Some(conn) => conn,
                None => self.open().await?,
            };
            request.headers_mut().insert(HOST, conn.site.upstream.host_field());
            request.headers_mut().remove(AUTH);
            if let Some(key) = &conn.key {
                request.headers_mut().insert(AUTH, key.clone());
            }
            let mut error = match conn.send(request).await {
                Ok(response) => return Ok((conn, response)),
                Err(error) => error,
            };
            match error.take_message() {
                // It came back whole: nothing of it was written.
                Some(unwritten) => {
                    unsent += 1;
                    if unsent > MAX_UNSENT {
                        return Err(Fault::HungUp);
                    }
                    request = unwritten;
                }
                None => {
                    let error = error.into_error();
                    tracing::debug!(%error, "the request failed");
                    return Err(match trouble.fault(self.0.options.max_message_bytes) {
                        Some(fault) => fault,
                        None if error.is_parse() || error.is_parse_too_large() => Fault::BadHead(error),
                        None => Fault::Lost(error),
                    });
                }
            }
        }
    }

    async fn open(&self) -> Result<Conn, Fault> {
        let Shared { connect, site, options, .. } = &*self.0;
        let limit = options.connect_timeout;
        let mut connected = tokio::time::timeout(limit, connect.connect())
            .await
            .map_err(|_| Fault::ConnectTimeout(limit))?
            .map_err(Fault::Connect)?;
        tracing::debug!(local = %connected.local, peer = %connected.peer, "connected to the upstream");
        connected.key = connected.key.take().map(sensitive);
        let site = match connected.port {
            Some(port) if port != site.upstream.port() => {
                Arc::new(Site { upstream: site.upstream.on_port(port), paths: site.paths.clone() })
            }
            _ => Arc::clone(site),
        };
        Conn::open(connected, site, options.max_head_bytes).await.map_err(Fault::Lost)
    }
}

/// What belongs to the head of an answer.
struct Rest {
    incoming: Incoming,
    conn: Conn,
    /// The endpoint event is to be rewritten.
    endpoint: Option<Base>,
}

/// Refuses answers that must not reach a client, and makes `Location` ours.
fn check(parts: &mut http::response::Parts, base: &Base) -> Result<(), Fault> {
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Fault::Upgraded);
    }
    if parts.status == StatusCode::UNAUTHORIZED && headers::has_our_challenge(&parts.headers) {
        return Err(Fault::Impersonation);
    }
    let locations: Vec<HeaderValue> = parts.headers.get_all(LOCATION).iter().cloned().collect();
    let ours = match &locations[..] {
        [] => return Ok(()),
        [one] => one.to_str().ok().and_then(|text| base.ours(text)),
        // Clients may differ in which of them they take.
        _ => None,
    };
    match ours.and_then(|ours| HeaderValue::try_from(ours.as_bytes()).ok()) {
        Some(ours) => {
            parts.headers.insert(LOCATION, ours);
            Ok(())
        }
        None if parts.status.is_redirection() => Err(Fault::ForeignRedirect(parts.status)),
        None => Ok(()),
    }
}

fn is_events(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().is_some_and(|media| media.trim().eq_ignore_ascii_case(sse::MEDIA_TYPE))
}

impl<C, B> Service<Request<B>> for Forward<C>
where
    C: Connect,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let forward = self.clone();
        Box::pin(async move { Ok(forward.handle(request).await) })
    }
}
