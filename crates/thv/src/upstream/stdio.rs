//! A server on standard input and output: one process for each session, under its guardian.

use std::io;

use thv_proxy::stdio::{Child, Options, Spawn, StdioHost, Stop};
use thv_workload::config::RunConfig;
use thv_workload::server::{Server, ServerHandle};
use tokio::process::{ChildStdin, ChildStdout};

use super::spec::{Specified, specify};
use super::{log_length, not_started};
use crate::failure::{Exit, Failure, Outcome};
use crate::supervise::Order;
use crate::trial::trial;

/// Tries one child of the server, and makes the host for all others.
pub async fn host(order: &Order<'_>, cancel: impl Future<Output = ()>) -> Outcome<StdioHost<ServerSpawn>> {
    let server = specify(order)?;
    let (spec, _) = server.start().map_err(|error| no_key(order, &error))?;
    let before = log_length(&spec);
    trial(&spec, order.ready_timeout, cancel)
        .await
        .map_err(|error| not_started(order, &spec, before, &error))?;
    StdioHost::new(ServerSpawn(server), options(order)).map_err(|error| {
        Failure::new(Exit::Usage, format!("workload {} cannot be served as it was asked for", order.name))
            .because(&error)
    })
}

fn no_key(order: &Order<'_>, error: &io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("cannot make a key for the server of {}", order.name)).because(error)
}

fn options(order: &Order<'_>) -> Options {
    let RunConfig { max_message_bytes, max_sessions, session_ttl, .. } = &order.config;
    let mut options = Options { advice: format!("See thv logs {}.", order.name), ..Options::default() };
    if let Some(bytes) = max_message_bytes {
        options.max_message_bytes = *bytes;
    }
    if let Some(sessions) = max_sessions {
        options.max_sessions = *sessions;
    }
    if let Some(ttl) = session_ttl {
        options.session_ttl = *ttl;
    }
    options
}

/// Starts the workload's server under its guardian.
pub struct ServerSpawn(Specified);

impl Spawn for ServerSpawn {
    type Stdin = ChildStdin;
    type Stdout = ChildStdout;
    type Stop = ServerStop;

    async fn spawn(&self) -> io::Result<Child<ChildStdin, ChildStdout, ServerStop>> {
        let Server { stdin, stdout, handle } = self.0.start()?.0.spawn()?;
        Ok(Child { stdin, stdout, stop: ServerStop(handle) })
    }
}

/// Ends the server and its tree.
pub struct ServerStop(ServerHandle);

impl Stop for ServerStop {
    async fn stop(self) {
        // The host has waited for the server to end by itself.
        self.0.hurry();
        self.0.stop().await;
    }
}
