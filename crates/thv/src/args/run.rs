//! `thv run` and `thv proxy`: what stands behind a lock, and how it is reached.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use thv_keygen::Name;

use super::duration;

/// `thv run`.
#[derive(Args)]
pub struct Run {
    /// The workload's name: letters, digits, '_', '.' and '-'; taken from SERVER when it is not given
    #[arg(long, value_parser = Name::parse)]
    pub name: Option<Name>,
    /// Let in only requests that carry the workload's key
    #[arg(long)]
    pub shared_key_auth: bool,
    /// Stay in the foreground until Ctrl-C
    #[arg(short, long)]
    pub foreground: bool,
    /// How the server speaks MCP; stdio for commands and streamable-http for URLs when it is not given
    #[arg(long, value_enum)]
    pub transport: Option<Transport>,
    /// The port that an HTTP server is told to listen on; picked anew at each start when it is not given
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub target_port: Option<u16>,
    /// Add a field to each request for a URL: NAME=VALUE
    #[arg(long = "remote-header", value_name = "NAME=VALUE")]
    pub remote_headers: Vec<String>,
    /// Add a field to each request for a URL, its value a stored secret: NAME=SECRET
    #[arg(long = "remote-header-secret", value_name = "NAME=SECRET")]
    pub remote_header_secrets: Vec<String>,
    /// Allow a URL beyond this machine without encryption
    #[arg(long)]
    pub allow_insecure_remote: bool,
    /// The address to listen on
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    pub host: IpAddr,
    /// The port to listen on; picked and then kept when it is not given
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub proxy_port: Option<u16>,
    /// Allow an address that other machines can reach
    #[arg(long)]
    pub allow_remote: bool,
    /// How long the server may take to answer for the first time
    #[arg(long, default_value = "60s", value_parser = duration, value_name = "DURATION")]
    pub ready_timeout: Duration,
    /// Give the server no key of its own to check the proxy with
    #[arg(long)]
    pub no_upstream_key: bool,
    /// Set a variable for the server: NAME=VALUE, or NAME to take over its present value
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Read variables for the server from a file with a NAME=VALUE on each line
    #[arg(long, value_name = "FILE")]
    pub env_file: Option<PathBuf>,
    /// Hand a stored secret to the server as a variable
    #[arg(long = "secret", value_name = "NAME,target=VARIABLE")]
    pub secrets: Vec<String>,
    /// Label the workload: NAME=VALUE
    #[arg(short, long = "label", value_name = "NAME=VALUE")]
    pub labels: Vec<String>,
    /// Let pages of this origin call the proxy, once they have the key
    #[arg(long, value_name = "ORIGIN")]
    pub allowed_origins: Vec<String>,
    /// Answer to this host besides our own address
    #[arg(long, value_name = "HOST[:PORT]")]
    pub allowed_hosts: Vec<String>,
    /// The largest message, in bytes
    #[arg(long, value_name = "BYTES")]
    pub max_message_bytes: Option<usize>,
    /// How many sessions there may be at once
    #[arg(long, value_name = "NUMBER")]
    pub max_sessions: Option<usize>,
    /// How long a session without requests is kept
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub session_ttl: Option<Duration>,
    /// Run what this run config asks for, after showing it; the other options do not apply
    #[arg(long, value_name = "FILE", conflicts_with_all = ["server", "command"])]
    pub from_config: Option<PathBuf>,
    /// Run what --from-config asks for without asking
    #[arg(long, requires = "from_config")]
    pub yes: bool,
    /// The server: npx://PACKAGE, uvx://PACKAGE, http(s)://URL, or a name in servers.toml
    #[arg(value_name = "SERVER")]
    pub server: Option<String>,
    /// With SERVER, its arguments; without, a program that speaks MCP, and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// How a server speaks MCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// Messages on standard input and output
    Stdio,
    /// Streamable HTTP, at /mcp
    StreamableHttp,
    /// HTTP with SSE, as of 2024-11-05, at /sse
    Sse,
}

/// `thv proxy`.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub struct Proxy {
    #[command(subcommand)]
    pub command: Option<ProxyCommand>,
    #[command(flatten)]
    pub target: Option<Target>,
}

/// What `thv proxy` does other than to guard a URL.
#[derive(Subcommand)]
pub enum ProxyCommand {
    /// Relay MCP between standard input and output and a workload
    Stdio(Stdio),
}

/// `thv proxy NAME --target-uri URL`.
#[derive(Args)]
pub struct Target {
    /// The workload: made if there is none of that name, and kept with its key when the proxy ends
    #[arg(value_parser = Name::parse, required = true)]
    pub name: Name,
    /// The MCP server to guard, as a URL; the proxy runs in the foreground until Ctrl-C
    #[arg(long, value_name = "URL", required = true)]
    pub target_uri: String,
    /// How the server speaks MCP; streamable-http if it is not given
    #[arg(long, value_enum)]
    pub transport: Option<Transport>,
    /// Let in only requests that carry the workload's key
    #[arg(long)]
    pub shared_key_auth: bool,
    /// The address to listen on
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    pub host: IpAddr,
    /// Allow an address that other machines can reach
    #[arg(long)]
    pub allow_remote: bool,
    /// The port to listen on; picked and then kept when it is not given
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Let pages of this origin call the proxy, once they have the key
    #[arg(long, value_name = "ORIGIN")]
    pub allowed_origins: Vec<String>,
    /// Answer to this host besides our own address
    #[arg(long, value_name = "HOST[:PORT]")]
    pub allowed_hosts: Vec<String>,
    /// Add a field to each request: NAME=VALUE
    #[arg(long = "remote-header", value_name = "NAME=VALUE")]
    pub remote_headers: Vec<String>,
    /// Add a field to each request, its value a stored secret: NAME=SECRET
    #[arg(long = "remote-header-secret", value_name = "NAME=SECRET")]
    pub remote_header_secrets: Vec<String>,
    /// Allow a URL beyond this machine without encryption
    #[arg(long)]
    pub allow_insecure_remote: bool,
    /// Take the key from this descriptor instead of the store; it must be one that a generator made, such as another
    /// thv's (thv key show), since a key that a person chose can be guessed from the proxy's proof
    #[arg(long, value_name = "DESCRIPTOR", requires = "shared_key_auth")]
    pub key_fd: Option<u32>,
    /// How long the server may take to answer for the first time
    #[arg(long, default_value = "60s", value_parser = duration, value_name = "DURATION")]
    pub ready_timeout: Duration,
}

/// `thv proxy stdio`.
#[derive(Args)]
pub struct Stdio {
    /// The workload
    #[arg(value_parser = Name::parse)]
    pub name: Name,
    /// How long requests may still take to be answered after the end of standard input
    #[arg(long, default_value = "600ms", value_parser = duration, value_name = "DURATION")]
    pub drain: Duration,
    /// Do not start the workload when it has crashed or did not survive a reboot
    #[arg(long)]
    pub no_start: bool,
}
