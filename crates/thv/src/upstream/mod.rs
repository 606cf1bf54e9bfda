//! What is behind the lock: a server on standard input and output, one that speaks HTTP, or a URL.

mod dial;
mod health;
mod http;
mod owner;
mod spec;
mod stdio;

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use ::http::{Request, Response};
use hyper::body::Incoming;
use thv_proxy::body::ResponseBody;
use thv_proxy::forward::Forward;
use thv_proxy::stdio::StdioHost;
use thv_workload::config::Transport;
use thv_workload::files;
use thv_workload::server::ServerSpec;
use tokio::sync::watch;
use tower_service::Service;

use self::dial::Dial;
use self::http::HttpUpstream;
use self::stdio::ServerSpawn;
use crate::failure::{Exit, Failure, Outcome};
use crate::supervise::Order;
use crate::trial::TrialError;

/// How many of a server's last lines are shown when it does not start.
const LAST_WORDS: usize = 15;

/// A server that has answered and can be put behind a lock.
pub enum Upstream {
    Stdio(StdioHost<ServerSpawn>),
    Http(HttpUpstream),
}

impl Upstream {
    /// Finds out whether the server answers, unless `cancel` resolves first. One that speaks HTTP runs from here on; of
    /// any other nothing is left running.
    pub async fn up(order: &Order<'_>, cancel: impl Future<Output = ()>) -> Outcome<Self> {
        match (&order.config.remote_url, order.config.transport) {
            (Some(url), _) => HttpUpstream::of_url(order, url, cancel).await.map(Self::Http),
            (None, Transport::Stdio) => stdio::host(order, cancel).await.map(Self::Stdio),
            (None, Transport::StreamableHttp | Transport::Sse) => {
                HttpUpstream::of_process(order, cancel).await.map(Self::Http)
            }
        }
    }

    /// The service that requests go to which were let in.
    pub fn service(&self) -> Routes {
        match self {
            Self::Stdio(host) => Routes::Stdio(host.clone()),
            Self::Http(http) => Routes::Http(http.service()),
        }
    }

    /// Ends all sessions and what runs for them. Returns when it is gone.
    pub async fn shutdown(&self) {
        match self {
            Self::Stdio(host) => host.shutdown().await,
            Self::Http(http) => http.shutdown().await,
        }
    }

    /// What is wrong with the server, where it is watched.
    pub fn trouble(&self) -> Option<watch::Receiver<Option<String>>> {
        match self {
            Self::Stdio(_) => None,
            Self::Http(http) => http.trouble(),
        }
    }

    /// How many sessions are open, as far as the proxy keeps them.
    pub fn sessions(&self) -> usize {
        match self {
            Self::Stdio(host) => host.sessions().len(),
            Self::Http(_) => 0,
        }
    }
}

/// The service of any upstream.
#[derive(Clone)]
pub enum Routes {
    Stdio(StdioHost<ServerSpawn>),
    Http(Forward<Dial>),
}

impl Service<Request<Incoming>> for Routes {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        match self {
            Self::Stdio(host) => Service::<Request<Incoming>>::poll_ready(host, cx),
            Self::Http(forward) => Service::<Request<Incoming>>::poll_ready(forward, cx),
        }
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        match self {
            Self::Stdio(host) => Box::pin(host.call(request)),
            Self::Http(forward) => Box::pin(forward.call(request)),
        }
    }
}

/// What a server that did not pass its trial has to say. `before` is how long its log was.
fn not_started(order: &Order<'_>, spec: &ServerSpec, before: u64, error: &TrialError) -> Failure {
    let mut failure =
        Failure::new(Exit::Failed, format!("the server of {} did not start", order.name)).because(error);
    // What was written before this start says nothing about it.
    if let Ok(words) = files::tail(&spec.log, before, LAST_WORDS)
        && !words.trim().is_empty()
    {
        failure = failure.because(&std::io::Error::other(format!("its last words were:\n{words}")));
    }
    failure.hint(format!("run it by hand to see more: {}", spec.program.display()))
}

/// How long a server's log is before its start.
fn log_length(spec: &ServerSpec) -> u64 {
    std::fs::symlink_metadata(&spec.log).map_or(0, |meta| meta.len())
}
