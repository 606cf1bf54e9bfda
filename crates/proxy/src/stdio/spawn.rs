//! What the host asks of whoever can start a server.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};

/// Starts servers. Each session has one of its own.
pub trait Spawn: Send + Sync + 'static {
    /// The server's standard input.
    type Stdin: AsyncWrite + Unpin + Send + 'static;
    /// The server's standard output.
    type Stdout: AsyncRead + Unpin + Send + 'static;
    /// Ends the server.
    type Stop: Stop;

    /// Starts one server. The future may be dropped before it is done, when the session has ended meanwhile;
    /// nothing may then be left behind.
    fn spawn(&self) -> impl Future<Output = io::Result<Child<Self::Stdin, Self::Stdout, Self::Stop>>> + Send;
}

/// A server that was started.
#[derive(Debug)]
pub struct Child<I, O, S> {
    /// Its standard input.
    pub stdin: I,
    /// Its standard output.
    pub stdout: O,
    /// How to end it.
    pub stop: S,
}

/// Ends a server.
pub trait Stop: Send + 'static {
    /// Ends what is left of the server, its descendants too, and returns when they are gone.
    ///
    /// It is called once for each server, also for one that has exited. Standard input has been closed
    /// before, and the server has had [`Options::exit_grace`](super::Options::exit_grace) to end by itself,
    /// as MCP asks (`basic/lifecycle`, "Shutdown"): next come the signals.
    fn stop(self) -> impl Future<Output = ()> + Send;
}
