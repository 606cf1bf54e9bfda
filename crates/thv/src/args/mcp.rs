//! `thv mcp`.

use clap::{Args, Subcommand, ValueEnum};
use thv_keygen::Name;

use super::Format;

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
