//! One HTTP request and its reply: what may be repeated, and when a connection is free again.
//!
//! A request is repeated in two cases only, both of which are certain not to have run it: no byte of it was
//! written, or our own guard refused the key. Redirects are replies like any other.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use thv_keygen::header::{AUTH, SCHEME};
use tokio::sync::watch;

use crate::failure::Failure;
use crate::finder::Route;
use crate::pool::{Conn, Effort, Pool, SendError, unreachable};
use crate::room::{Place, Room};
use crate::target::{Transport, Why};

/// How often a request may meet a connection that is closed before a byte of it is written.
const MAX_UNSENT: u32 = 3;

/// A request, less what belongs to the connection (host, path, key).
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) effort: Effort,
    /// What it is made for. Over the other transport it would mean something else.
    pub(crate) over: Transport,
    /// Where on the server it goes, if not to the endpoint.
    pub(crate) to: Option<Uri>,
    /// Asked right before the request is handed to a connection of this route: is it still wanted there?
    pub(crate) wanted: &'a (dyn Fn(&Route) -> bool + Send + Sync),
    /// Once this is true, a request that is on its way is lost.
    pub(crate) until: Option<watch::Receiver<bool>>,
}

impl Call<'_> {
    fn on(&self, route: &Route) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.to.as_ref().unwrap_or(&route.uri).clone();
        let headers = request.headers_mut();
        *headers = self.headers.clone();
        headers.insert(header::HOST, route.host.clone());
        if let Some(auth) = &route.auth {
            headers.insert(HeaderName::from_static(AUTH), auth.clone());
        }
        request
    }

    /// Sends it, once.
    async fn send(&self, conn: &mut Conn) -> Result<Response<Incoming>, SendError> {
        let request = self.on(&conn.route);
        let Some(mut until) = self.until.clone() else { return conn.send(request).await };
        let given_up = async {
            if until.wait_for(|over| *over).await.is_err() {
                // Nobody will ever say so.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            outcome = conn.send(request) => outcome,
            () = given_up => Err(SendError::Sent),
        }
    }
}

/// The head of a reply, and its body to be read.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
    /// The way by which it came.
    pub(crate) route: Arc<Route>,
}

impl Reply {
    /// Whether the body's media type is `name`, whatever its parameters.
    pub(crate) fn is(&self, name: &str) -> bool {
        let value = self.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media = value.and_then(|value| value.split(';').next()).unwrap_or_default();
        media.trim().eq_ignore_ascii_case(name)
    }
}

/// A body that gives its connection back when it was read to the end, and closes it when it was not.
pub(crate) struct Body {
    incoming: Incoming,
    home: Option<(Arc<Pool>, Conn)>,
}

impl Body {
    fn new(incoming: Incoming, pool: Arc<Pool>, conn: Conn) -> Self {
        let mut body = Self { incoming, home: Some((pool, conn)) };
        body.go_home_if_done();
        body
    }

    fn go_home_if_done(&mut self) {
        if self.incoming.is_end_stream()
            && let Some((pool, conn)) = self.home.take()
        {
            pool.give_back(conn);
        }
    }

    /// The next bytes, nothing at the end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let Some(frame) = self.incoming.frame().await else {
                self.go_home_if_done();
                return Ok(None);
            };
            let frame = frame.map_err(|error| {
                tracing::debug!(%error, "reply broke off");
                Failure::Lost
            })?;
            self.go_home_if_done();
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }

    /// The whole body, up to `limit` bytes, as far as there is room for it.
    pub(crate) async fn collect(mut self, limit: usize, room: &Room) -> Result<Bytes, Failure> {
        let too_large = |size| Failure::TooLarge { what: "answer", size, limit };
        let expected = self.incoming.size_hint().exact();
        if expected.is_some_and(|size| size > limit as u64) {
            return Err(too_large(expected));
        }
        let mut first = self.chunk().await?.unwrap_or_default();
        let mut all = BytesMut::new();
        let mut place = Place::default();
        while first.len() + all.len() <= limit {
            let Some(more) = self.chunk().await? else {
                return Ok(place.bind(if all.is_empty() { first } else { all.freeze() }));
            };
            room.fit(&mut place, first.len() + all.len() + more.len()).await;
            if all.is_empty() {
                all.reserve(expected.map_or(first.len() + more.len(), |size| size as usize));
                all.extend_from_slice(&std::mem::take(&mut first));
            }
            all.extend_from_slice(&more);
        }
        Err(too_large(None))
    }
}

impl Pool {
    /// Sends a request and waits for the head of its reply.
    pub(crate) async fn exchange(self: &Arc<Self>, call: &Call<'_>) -> Result<Reply, Failure> {
        let mut refused = false;
        let mut unsent = 0;
        loop {
            let mut conn = self.take(call.effort).await?;
            if conn.route.transport != call.over {
                self.give_back(conn);
                return Err(Failure::Elsewhere);
            }
            if !(call.wanted)(&conn.route) {
                self.give_back(conn);
                return Err(Failure::Withdrawn);
            }
            let response = match call.send(&mut conn).await {
                Ok(response) => response,
                Err(SendError::Sent) => return Err(Failure::Lost),
                Err(SendError::NotSent) if unsent < MAX_UNSENT => {
                    unsent += 1;
                    self.drop_idle();
                    continue;
                }
                Err(SendError::NotSent) => {
                    return Err(unreachable(&conn.route, &"it closes every connection"));
                }
            };
            if is_our_refusal(&response) {
                if refused {
                    return Err(Failure::KeyRefused(conn.route.name.clone()));
                }
                refused = true;
                // The answer counts also when it names the same key again: whoever refused may have learned it
                // meanwhile. The connection does not: it was proved with the key that is being replaced.
                self.finder.ask(call.effort.why(Why::Refused), conn.route.generation).await?;
                continue;
            }
            let (parts, incoming) = response.into_parts();
            let route = Arc::clone(&conn.route);
            let body = Body::new(incoming, Arc::clone(self), conn);
            return Ok(Reply { status: parts.status, headers: parts.headers, body, route });
        }
    }
}

/// Whether this is the 401 of a supervisor's guard, which forwards nothing before it has seen the key.
fn is_our_refusal(response: &Response<Incoming>) -> bool {
    response.status() == StatusCode::UNAUTHORIZED
        && response.headers().get_all(header::WWW_AUTHENTICATE).iter().any(|value| {
            let scheme = value.as_bytes().split(|byte| *byte == b' ').next().unwrap_or_default();
            scheme.eq_ignore_ascii_case(SCHEME.as_bytes())
        })
}
