//! How `thv` reaches a server, and the same server without `thv`.

use super::NAME;
use super::clients::newer_node;
use super::servers::Wire;
use crate::fixture::listening;
use serde_json::{Value, json};
use std::path::Path;
use thv_e2e::{Foreground, Home, Result, Running};

/// How `thv` reaches a server.
#[derive(Clone, Copy)]
pub(super) enum Hosting {
    /// As a process of its own.
    Process(Wire),
    /// As a URL, behind which it runs already.
    Url(Wire),
}

impl Hosting {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Process(Wire::Stdio) | Self::Url(Wire::Stdio) => "stdio",
            Self::Process(Wire::Http) => "Streamable HTTP",
            Self::Process(Wire::Sse) => "HTTP with SSE",
            Self::Url(Wire::Http) => "URL, Streamable HTTP",
            Self::Url(Wire::Sse) => "URL, HTTP with SSE",
        }
    }

    pub(super) const fn wire(self) -> Wire {
        match self {
            Self::Process(wire) | Self::Url(wire) => wire,
        }
    }
}

/// A server as a client reaches it without `thv`.
pub(super) struct Direct {
    /// For the drivers.
    pub(super) way: Value,
    /// Where one listens.
    pub(super) url: Option<String>,
    /// One that listens runs until this is dropped.
    _running: Option<Running>,
}

impl Direct {
    /// Starts one that listens, and waits until it does. A client starts one that speaks on its input.
    pub(super) fn new(home: &Home, command: &[String], wire: Wire) -> Result<Self> {
        let path = match wire {
            Wire::Stdio => {
                let way = json!({ "command": command[0], "args": command[1..] });
                return Ok(Self { way, url: None, _running: None });
            }
            Wire::Http => "mcp",
            Wire::Sse => "sse",
        };
        let (running, port) = listening(home, command)?;
        let url = format!("http://127.0.0.1:{port}/{path}");
        let way = way(&url, wire, &json!({}));
        Ok(Self { way, url: Some(url), _running: Some(running) })
    }
}

/// A URL, for the drivers.
pub(super) fn way(url: &str, wire: Wire, headers: &Value) -> Value {
    let transport = if wire == Wire::Sse { "sse" } else { "http" };
    json!({ "url": url, "transport": transport, "headers": headers })
}

/// A URL behind `mcp-remote`, for the drivers.
pub(super) fn way_over_mcp_remote(node: &Path, url: &str, wire: Wire, key: Option<&str>) -> Value {
    let program = |name: &str| node.join(name).to_string_lossy().into_owned();
    let strategy = if wire == Wire::Sse { "sse-only" } else { "http-only" };
    let mut way = json!({
        "command": newer_node(node).to_string_lossy(),
        "args": [program("mcp-remote"), url, "--transport", strategy],
    });
    if let (Some(key), Some(args)) = (key, way["args"].as_array_mut()) {
        // It fills in variables, which other users of the machine cannot see, unlike arguments.
        args.extend(["--header", "X-ToolHive-Auth:${KEY}"].map(Value::from));
        way["env"] = json!({ "KEY": key });
    }
    way
}

/// Guards a server in one of the ways.
pub(super) fn guard(
    home: &Home,
    hosting: Hosting,
    command: &[String],
    direct: &Direct,
) -> Result<Foreground> {
    let transport: &[&str] = match hosting.wire() {
        Wire::Stdio => &[],
        Wire::Http => &["--transport", "streamable-http"],
        Wire::Sse => &["--transport", "sse"],
    };
    match (hosting, &direct.url) {
        (Hosting::Url(_), Some(url)) => {
            let options = ["--name", NAME, "--shared-key-auth"];
            home.run(options.iter().chain(transport).copied().chain([url.as_str()]))
        }
        _ => run(home, command, transport),
    }
}

/// Guards a process.
pub(super) fn run(home: &Home, command: &[String], options: &[&str]) -> Result<Foreground> {
    let words = ["--name", NAME, "--shared-key-auth"].iter().chain(options).copied();
    home.run(words.chain(["--"]).chain(command.iter().map(String::as_str)))
}
