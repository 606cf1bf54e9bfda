//! The front of a workload: connections, guards, key, and what is behind them, in their order.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use hyper::body::Incoming;
use thv_auth::{ConnInfo, Guards, LiveKeys, LockLayer, OpenLayer, Realm, Refusal};
use thv_keygen::{KeySet, LiveKey, Name};
use thv_proxy::Owner;
use thv_proxy::body::ResponseBody;
use thv_proxy::serve::{self, Conn, Limits};
use thv_workload::config::RunConfig;
use thv_workload::supervisor::Front;
use tokio::sync::watch;
use tower_layer::Layer as _;
use tower_service::Service;

use crate::failure::{Exit, Failure, Outcome};
use crate::upstream::Upstream;

/// A server behind guards and, unless the workload is open, a key.
pub struct GuardedFront {
    name: Name,
    keys: Option<LiveKeys>,
    hosts: Vec<String>,
    origins: Vec<String>,
    upstream: Upstream,
}

impl GuardedFront {
    /// Puts the parts together. `keys` are those in force from the first request on; `None` leaves the door open.
    pub fn new(name: &Name, config: &RunConfig, keys: Option<KeySet>, upstream: Upstream) -> Self {
        Self {
            name: name.clone(),
            keys: keys.map(LiveKeys::new),
            hosts: config.allowed_hosts.clone(),
            origins: config.allowed_origins.clone(),
            upstream,
        }
    }

    /// Says what is wrong with hosts and origins, before a listener is up.
    pub fn check(&self) -> Outcome {
        let wrong = |error: &dyn std::error::Error| {
            Failure::new(Exit::Usage, format!("workload {} cannot be served as it was asked for", self.name))
                .because(error)
        };
        // Any port will do.
        self.guards(([127, 0, 0, 1], 1).into()).map_err(|error| wrong(&error))?;
        self.realm().map(drop).map_err(|error| wrong(&error))
    }

    /// Ends the server of a front that never served.
    pub async fn give_up(&self) {
        self.upstream.shutdown().await;
    }

    fn realm(&self) -> Result<Realm, thv_auth::RealmError> {
        let advice = format!(
            "This MCP server is locked. Let your client start it as a stdio server with the command: thv proxy stdio {}",
            self.name
        );
        Realm::new(self.name.clone(), &advice)
    }

    fn guards(&self, bound: SocketAddr) -> Result<Guards, thv_auth::GuardsError> {
        Guards::new(bound)?.allow_hosts(&self.hosts)?.allow_origins(&self.origins)
    }

    /// The layers of a workload with a key. Each accepted request is logged, trusted and given its owner.
    fn lock(&self, guards: Guards, keys: &LiveKeys, realm: Realm) -> LockLayer {
        let name = self.name.clone();
        LockLayer::new(guards, keys.clone(), realm).on_accept(move |key: &LiveKey, request| {
            if let Some(conn) = request.get::<Conn>() {
                conn.trust();
                tracing::info!(target: "thv::auth", workload = %name, outcome = "accepted", key = %key.id(), peer = %conn.peer);
            }
            request.insert(Owner(key.label().map(|label| label.lower().to_owned())));
        })
    }
}

impl Front for GuardedFront {
    async fn serve(&self, listener: TcpListener, stop: watch::Receiver<bool>) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let guards = self.guards(listener.local_addr()?).map_err(io::Error::other)?;
        let realm = self.realm().map_err(io::Error::other)?;
        let service = self.upstream.service();
        let accepting = async {
            match &self.keys {
                Some(keys) => {
                    self.accept(
                        listener,
                        self.lock(guards, keys, realm).layer(service),
                        stopped(stop.clone()),
                    )
                    .await;
                }
                None => {
                    let service = OpenLayer::new(guards).layer(Trusting(service));
                    self.accept(listener, service, stopped(stop.clone())).await;
                }
            }
        };
        // Sessions end while connections drain: an open event stream would hold its connection up otherwise.
        tokio::join!(accepting, async {
            stopped(stop.clone()).await;
            self.upstream.shutdown().await;
        });
        Ok(())
    }

    fn replace_keys(&self, keys: KeySet) {
        if let Some(live) = &self.keys {
            live.store(keys);
        }
    }

    fn sessions(&self) -> usize {
        self.upstream.sessions()
    }

    fn trouble(&self) -> Option<watch::Receiver<Option<String>>> {
        self.upstream.trouble()
    }

    fn key_ids(&self) -> Vec<String> {
        self.keys
            .iter()
            .flat_map(|live| live.load().iter().map(|key| key.id().to_string()).collect::<Vec<_>>())
            .collect()
    }
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

impl GuardedFront {
    /// Serves connections, each through a clone of the same service, and logs what is refused on the way.
    async fn accept<S>(
        &self,
        listener: tokio::net::TcpListener,
        service: S,
        stopped: impl Future<Output = ()>,
    ) where
        S: Service<Request<Incoming>, Response = Response<ResponseBody>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send + 'static,
    {
        let make = |conn: Conn| Observed { service: service.clone(), conn, workload: self.name.clone() };
        let name = self.name.clone();
        let on_refused = move |peer: SocketAddr, why: serve::Refused| {
            tracing::info!(target: "thv::auth", workload = %name, outcome = "refused", reason = %why, %peer);
        };
        serve::serve(listener, Limits::default(), make, on_refused, stopped).await;
    }
}

/// The outermost service of a connection: tells the layers where a request came from, and the log why it was refused.
#[derive(Clone)]
struct Observed<S> {
    service: S,
    conn: Conn,
    workload: Name,
}

impl<S> Service<Request<Incoming>> for Observed<S>
where
    S: Service<Request<Incoming>, Response = Response<ResponseBody>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Incoming>) -> Self::Future {
        let Conn { peer, local, .. } = self.conn;
        request.extensions_mut().insert(ConnInfo { peer, local });
        request.extensions_mut().insert(self.conn.clone());
        let response = self.service.call(request);
        let workload = self.workload.clone();
        Box::pin(async move {
            let response = response.await?;
            if let Some(why) = response.extensions().get::<Refusal>() {
                tracing::info!(target: "thv::auth", %workload, outcome = "refused", reason = why.as_str(), %peer);
            }
            Ok(response)
        })
    }
}

/// Without a key, whoever passes the guards counts as known.
#[derive(Clone)]
struct Trusting<S>(S);

impl<S, B> Service<Request<B>> for Trusting<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> S::Future {
        if let Some(conn) = request.extensions().get::<Conn>() {
            conn.trust();
        }
        self.0.call(request)
    }
}
