//! The front of a workload: connections, guards, key, and the host of its server, in their order.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use thv_auth::{ConnInfo, Guards, LiveKeys, LockLayer, OpenLayer, Realm, Refusal};
use thv_keygen::{KeySet, LiveKey, Name};
use thv_proxy::Owner;
use thv_proxy::body::ResponseBody;
use thv_proxy::serve::{self, Conn, Limits};
use thv_proxy::stdio::{Child, Options, Spawn, StdioHost};
use thv_workload::config::RunConfig;
use thv_workload::server::{Server, ServerHandle, ServerSpec};
use thv_workload::supervisor::Front;
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::watch;
use tower_layer::Layer as _;
use tower_service::Service;

use crate::failure::{Exit, Failure, Outcome};

/// A stdio server behind guards and, unless the workload is open, a key.
pub struct GuardedFront {
    name: Name,
    keys: Option<LiveKeys>,
    realm: Realm,
    hosts: Vec<String>,
    origins: Vec<String>,
    host: StdioHost<ServerSpawn>,
}

impl GuardedFront {
    /// Puts the parts together. `keys` are those in force from the first request on; `None` leaves the door open.
    pub fn new(name: &Name, config: &RunConfig, keys: Option<KeySet>, spec: ServerSpec) -> Outcome<Self> {
        let wrong = |error: &dyn std::error::Error| {
            Failure::new(Exit::Usage, format!("workload {name} cannot be served as it was asked for"))
                .because(error)
        };
        let advice = format!(
            "This MCP server is locked. Let your client start it as a stdio server with the command: thv proxy stdio {name}"
        );
        let mut options = Options { advice: format!("See thv logs {name}."), ..Options::default() };
        if let Some(bytes) = config.max_message_bytes {
            options.max_message_bytes = bytes;
        }
        if let Some(sessions) = config.max_sessions {
            options.max_sessions = sessions;
        }
        if let Some(ttl) = config.session_ttl {
            options.session_ttl = Duration::from_secs(ttl);
        }
        let front = Self {
            name: name.clone(),
            keys: keys.map(LiveKeys::new),
            realm: Realm::new(name.clone(), &advice).map_err(|error| wrong(&error))?,
            hosts: config.allowed_hosts.clone(),
            origins: config.allowed_origins.clone(),
            host: StdioHost::new(ServerSpawn(spec), options).map_err(|error| wrong(&error))?,
        };
        // What is wrong with hosts and origins shows here, not when the listener is up; any port will do.
        front.guards(([127, 0, 0, 1], 1).into()).map_err(|error| wrong(&error))?;
        Ok(front)
    }

    fn guards(&self, bound: SocketAddr) -> Result<Guards, thv_auth::GuardsError> {
        Guards::new(bound)?.allow_hosts(&self.hosts)?.allow_origins(&self.origins)
    }

    /// The layers of a workload with a key. Each accepted request is logged, trusted and given its owner.
    fn lock(&self, guards: Guards, keys: &LiveKeys) -> LockLayer {
        let name = self.name.clone();
        LockLayer::new(guards, keys.clone(), self.realm.clone()).on_accept(move |key: &LiveKey, request| {
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
        let host = self.host.clone();
        let accepting = async {
            match &self.keys {
                Some(keys) => {
                    self.accept(listener, self.lock(guards, keys).layer(host), stopped(stop.clone())).await;
                }
                None => {
                    let service = OpenLayer::new(guards).layer(Trusting(host));
                    self.accept(listener, service, stopped(stop.clone())).await;
                }
            }
        };
        // Sessions end while connections drain: an open event stream would hold its connection up otherwise.
        tokio::join!(accepting, async {
            stopped(stop.clone()).await;
            self.host.shutdown().await;
        });
        Ok(())
    }

    fn replace_keys(&self, keys: KeySet) {
        if let Some(live) = &self.keys {
            live.store(keys);
        }
    }

    fn sessions(&self) -> usize {
        self.host.sessions().len()
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

/// Starts the workload's server under its guardian.
struct ServerSpawn(ServerSpec);

impl Spawn for ServerSpawn {
    type Stdin = ChildStdin;
    type Stdout = ChildStdout;
    type Stop = ServerStop;

    async fn spawn(&self) -> io::Result<Child<ChildStdin, ChildStdout, ServerStop>> {
        let Server { stdin, stdout, handle } = self.0.spawn()?;
        Ok(Child { stdin, stdout, stop: ServerStop(handle) })
    }
}

/// Ends the server and its tree.
struct ServerStop(ServerHandle);

impl thv_proxy::stdio::Stop for ServerStop {
    async fn stop(self) {
        // The host has waited for the server to end by itself.
        self.0.hurry();
        self.0.stop().await;
    }
}
