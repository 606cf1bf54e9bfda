//! Hosts a stdio server over HTTP, on a free port of 127.0.0.1, until Ctrl-C:
//!
//! ```text
//! cargo run -p thv-proxy --example host -- mcp-server-time
//! ```
//!
//! There is no lock on it. Whoever reaches the port can use the server, web pages included: this shows that the
//! crate works alone, not how to run it.

#![allow(clippy::print_stdout)]

use std::env;
use std::io;
use std::process::Stdio;

use thv_proxy::serve::{Limits, serve};
use thv_proxy::stdio::{Child, Options, Spawn, StdioHost, Stop};
use tokio::net::TcpListener;
use tokio::process::{self, ChildStdin, ChildStdout, Command};

/// Starts the command that was given.
struct Program(Vec<String>);

impl Spawn for Program {
    type Stdin = ChildStdin;
    type Stdout = ChildStdout;
    type Stop = Kill;

    async fn spawn(&self) -> io::Result<Child<ChildStdin, ChildStdout, Kill>> {
        let mut child = Command::new(&self.0[0])
            .args(&self.0[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("no pipes"));
        };
        Ok(Child { stdin, stdout, stop: Kill(child) })
    }
}

/// Kills the process alone. A real program would ask it first, and see to its descendants.
struct Kill(process::Child);

impl Stop for Kill {
    async fn stop(mut self) {
        // An error says that it has exited already.
        let _ = self.0.kill().await;
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let command: Vec<String> = env::args().skip(1).collect();
    if command.is_empty() {
        return Err("usage: host COMMAND [ARGS…]".into());
    }
    let host = StdioHost::new(Program(command), Options::default())?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("http://{}/mcp", listener.local_addr()?);
    let interrupted = async {
        let _ = tokio::signal::ctrl_c().await;
        // Ends the event streams too, which would otherwise hold up the end of the listener.
        host.shutdown().await;
    };
    serve(listener, Limits::default(), |_| host.clone(), |_, _| {}, interrupted).await;
    Ok(())
}
