//! The command line as typed. What it means is decided by the commands.

mod mcp;
mod run;
mod secret;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use thv_keygen::Name;

pub use mcp::{Mcp, McpCall, McpList, McpWhat};
pub use run::{Proxy, ProxyCommand, Run, Stdio, Target, Transport};
pub use secret::{
    ImportSource, Secret, SecretGet, SecretImport, SecretList, SecretName, SecretProvider, SecretUnlock,
};

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
