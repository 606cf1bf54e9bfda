//! The command line as typed. What it means is decided by the commands.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use thv_keygen::Name;

/// A lock for every local MCP server.
///
/// `thv run` starts an MCP server behind a proxy that lets in only requests with the server's key; `thv proxy stdio`
/// is what an AI client launches to reach it. The key is made and kept by the program; no person has to see it.
#[derive(Parser)]
#[command(name = "thv", version, disable_help_subcommand = true, arg_required_else_help = true)]
pub struct Cli {
    /// Log more, to standard error or to the proxy's log
    #[arg(long, global = true)]
    pub debug: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Subcommand)]
pub enum Command {
    /// Start an MCP server behind a locked proxy
    Run(Box<Run>),
    /// Reach a workload from an AI client, or guard a server that runs elsewhere
    Proxy(Box<Proxy>),
    /// List workloads
    List(List),
    /// Show one workload in full
    Status(Status),
    /// Show what a server or its proxy has written
    Logs(Logs),
    /// Stop workloads; their keys stay
    Stop(Stop),
    /// Start workloads again
    Start(Start),
    /// Stop workloads and start them again
    Restart(Restart),
    /// Remove workloads with their keys and logs
    Rm(Rm),
    /// Write a workload's run config to a file, for thv run --from-config
    Export(Export),
    /// Show keys, lock and unlock workloads
    #[command(subcommand)]
    Key(Key),
    /// Keep secrets for servers, and say in which store everything rests
    #[command(subcommand)]
    Secret(Secret),
    /// Try a workload from the shell: list what it offers, call a tool
    #[command(subcommand)]
    Mcp(Mcp),
    /// Look for what is wrong and say what mends it
    Doctor(Doctor),
    /// Write completions for a shell
    Completions(Completions),
    /// Show the version
    Version,
}

impl Command {
    /// Whether the command reads or writes what the store keeps.
    pub fn uses_keys(&self) -> bool {
        match self {
            Self::Run(_)
            | Self::Proxy(_)
            | Self::Start(_)
            | Self::Restart(_)
            | Self::Rm(_)
            | Self::Key(_)
            | Self::Secret(_)
            | Self::Mcp(_)
            | Self::Doctor(_) => true,
            Self::List(_)
            | Self::Status(_)
            | Self::Logs(_)
            | Self::Stop(_)
            | Self::Export(_)
            | Self::Completions(_)
            | Self::Version => false,
        }
    }
}

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

/// `thv status`.
#[derive(Args)]
pub struct Status {
    /// The workload
    #[arg(value_parser = Name::parse)]
    pub name: Name,
}

/// `thv logs`.
#[derive(Args)]
pub struct Logs {
    /// The workload
    #[arg(value_parser = Name::parse)]
    pub name: Option<Name>,
    /// Go on showing what is written
    #[arg(short, long)]
    pub follow: bool,
    /// Show the proxy's log instead of the server's
    #[arg(long)]
    pub proxy: bool,
    /// Delete the logs of all workloads that are not running
    #[arg(long, conflicts_with_all = ["name", "follow", "proxy"])]
    pub prune: bool,
}

/// `thv stop`.
#[derive(Args)]
pub struct Stop {
    /// The workloads
    #[arg(required_unless_present = "all", conflicts_with = "all", value_parser = Name::parse)]
    pub names: Vec<Name>,
    /// All workloads
    #[arg(long)]
    pub all: bool,
    /// How long a workload may take to end before it is told to by a signal
    #[arg(long, default_value = "15s", value_parser = seconds, value_name = "DURATION")]
    pub timeout: Duration,
}

/// `thv restart`.
#[derive(Args)]
pub struct Restart {
    /// The workloads
    #[arg(required_unless_present = "all", conflicts_with = "all", value_parser = Name::parse)]
    pub names: Vec<Name>,
    /// All workloads
    #[arg(long)]
    pub all: bool,
    /// How long a workload may take to end before it is told to by a signal
    #[arg(long, default_value = "15s", value_parser = seconds, value_name = "DURATION")]
    pub timeout: Duration,
    /// How long the server may take to answer for the first time
    #[arg(long, default_value = "60s", value_parser = duration, value_name = "DURATION")]
    pub ready_timeout: Duration,
}

/// `thv export`.
#[derive(Args)]
pub struct Export {
    /// The workload
    #[arg(value_parser = Name::parse)]
    pub name: Name,
    /// The file to write; '-' is standard output
    pub file: PathBuf,
}

/// `thv doctor`.
#[derive(Args)]
pub struct Doctor {
    /// Mend what can be mended without losing anything
    #[arg(long)]
    pub fix: bool,
    /// How to show the findings
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// `thv completions`.
#[derive(Args)]
pub struct Completions {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// `thv list`.
#[derive(Args)]
pub struct List {
    /// Show those that are not running, too
    #[arg(short, long)]
    pub all: bool,
    /// Show those with this label only: NAME=VALUE
    #[arg(short, long = "label", value_name = "NAME=VALUE")]
    pub labels: Vec<String>,
    /// How to show them
    #[arg(long, value_enum, default_value_t = ListFormat::Text)]
    pub format: ListFormat,
}

/// How a list of workloads is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    /// For people
    Text,
    /// For programs
    Json,
    /// As entries to paste into an AI client's configuration; they hold no secret
    Mcpservers,
}

/// How data is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

/// `thv start`.
#[derive(Args)]
pub struct Start {
    /// The workloads
    #[arg(required_unless_present = "all", conflicts_with = "all", value_parser = Name::parse)]
    pub names: Vec<Name>,
    /// All workloads
    #[arg(long)]
    pub all: bool,
    /// Stay in the foreground until Ctrl-C
    #[arg(short, long)]
    pub foreground: bool,
    /// How long the server may take to answer for the first time
    #[arg(long, default_value = "60s", value_parser = duration, value_name = "DURATION")]
    pub ready_timeout: Duration,
}

/// `thv rm`.
#[derive(Args)]
pub struct Rm {
    /// The workloads
    #[arg(required_unless_present = "all", conflicts_with = "all", value_parser = Name::parse)]
    pub names: Vec<Name>,
    /// All workloads
    #[arg(long)]
    pub all: bool,
}

/// `thv key`.
#[derive(Subcommand)]
pub enum Key {
    /// Show a workload's key on standard output
    Show(KeyShow),
    /// Lock an open workload: from now on requests need a key
    Enable(KeySwitch),
    /// Unlock a workload: its key is deleted, and anybody on this machine can call its tools
    Disable(KeySwitch),
}

/// `thv key enable` and `thv key disable`.
#[derive(Args)]
pub struct KeySwitch {
    /// The workload
    #[arg(value_parser = Name::parse)]
    pub name: Name,
}

/// `thv key show`.
#[derive(Args)]
pub struct KeyShow {
    /// The workload
    #[arg(value_parser = Name::parse)]
    pub name: Name,
    /// Show it without asking
    #[arg(long)]
    pub yes: bool,
    /// Show it as a header line
    #[arg(long)]
    pub header: bool,
}

/// `thv secret`.
#[derive(Subcommand)]
pub enum Secret {
    /// Keep a secret; its value comes from standard input, or is typed unseen
    Set(SecretName),
    /// Show a secret on standard output
    Get(SecretGet),
    /// List the names of all secrets
    List(SecretList),
    /// Delete a secret
    Delete(SecretName),
    /// Unlock the store for all programs of yours that run thv
    Unlock(SecretUnlock),
    /// Take over the secrets of another program
    Import(SecretImport),
    /// Show in which store keys and secrets rest, or move all of them to another one
    Provider(SecretProvider),
}

/// `thv secret set` and `thv secret delete`.
#[derive(Args)]
pub struct SecretName {
    /// The secret
    pub name: String,
}

/// `thv secret get`.
#[derive(Args)]
pub struct SecretGet {
    /// The secret
    pub name: String,
    /// Show it without asking
    #[arg(long)]
    pub yes: bool,
}

/// `thv secret list`.
#[derive(Args)]
pub struct SecretList {
    /// How to show the names
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// `thv secret unlock`.
#[derive(Args)]
pub struct SecretUnlock {
    /// Read the passphrase from this descriptor instead of the terminal
    #[arg(long, value_name = "DESCRIPTOR")]
    pub passphrase_fd: Option<u32>,
    /// How long a store under a passphrase stays unlocked; 12h if it is not given
    #[arg(long = "for", value_parser = duration, value_name = "DURATION")]
    pub lifetime: Option<Duration>,
}

/// Programs whose secrets can be taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ImportSource {
    /// The encrypted store of ToolHive
    Toolhive,
}

/// `thv secret import`.
#[derive(Args)]
pub struct SecretImport {
    /// The program
    #[arg(value_enum)]
    pub source: ImportSource,
    /// Its file, if that is not where it usually is; it is read and never written
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Read its password from this descriptor instead of the keychain or the terminal
    #[arg(long, value_name = "DESCRIPTOR")]
    pub password_fd: Option<u32>,
    /// Replace secrets of the same name
    #[arg(long)]
    pub overwrite: bool,
}

/// `thv secret provider`.
#[derive(Args)]
pub struct SecretProvider {
    /// The store to move to; without it, the present one is shown
    #[arg(value_enum)]
    pub provider: Option<crate::settings::Provider>,
    /// Read the new passphrase from this descriptor instead of the terminal
    #[arg(long, value_name = "DESCRIPTOR")]
    pub passphrase_fd: Option<u32>,
    /// How to show the present one
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// `thv mcp`.
#[derive(Subcommand)]
pub enum Mcp {
    /// List the tools, resources or prompts of a workload
    List(McpList),
    /// Call a tool of a workload and show what it returns
    Call(McpCall),
}

/// What a server offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum McpWhat {
    /// Tools
    Tools,
    /// Resources
    Resources,
    /// Prompts
    Prompts,
}

/// `thv mcp list`.
#[derive(Args)]
pub struct McpList {
    /// What to list
    #[arg(value_enum)]
    pub what: McpWhat,
    /// The workload
    #[arg(value_parser = Name::parse)]
    pub name: Name,
    /// How to show it; json is as the server sent it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// `thv mcp call`.
#[derive(Args)]
pub struct McpCall {
    /// The workload
    #[arg(value_parser = Name::parse)]
    pub name: Name,
    /// The tool
    pub tool: String,
    /// The tool's arguments
    #[arg(long, value_name = "JSON", default_value = "{}")]
    pub args: String,
    /// How to show the result; json is as the server sent it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// A duration as people write it: `90s`, `10m`, `36h`, `7d`.
fn duration(text: &str) -> Result<Duration, humantime::DurationError> {
    humantime::parse_duration(text)
}

/// A duration, where a bare number means seconds.
fn seconds(text: &str) -> Result<Duration, humantime::DurationError> {
    text.parse().map(Duration::from_secs).or_else(|_| duration(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_command_after_two_dashes_keeps_its_own_flags() {
        let cli =
            Cli::try_parse_from(["thv", "run", "--name", "x", "-f", "--", "server", "--name", "y"]).unwrap();
        let Command::Run(run) = cli.command else { panic!("another command") };
        assert_eq!(run.command, ["server", "--name", "y"]);
        assert!(run.foreground);
    }

    #[test]
    fn names_and_durations_are_checked_while_parsing() {
        for bad in [
            &["thv", "rm", "../x"][..],
            &["thv", "run", "--name", "stdio", "--", "x"],
            &["thv", "run", "--name", "x", "--session-ttl", "soon", "--", "x"],
            &["thv", "run", "--name", "x", "--proxy-port", "0", "--", "x"],
            &["thv", "run", "--from-config", "x", "--", "x"],
            &["thv", "rm"],
            &["thv", "rm", "x", "--all"],
        ] {
            assert!(Cli::try_parse_from(bad).is_err(), "{bad:?}");
        }
    }
}
