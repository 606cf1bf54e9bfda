//! Clients that are programs: the Inspector on its command line, and `mcp-remote`, a bridge that others made. They list
//! the tools and call one. Neither ends its sessions: a server stays for each until the supervisor ends.

use super::hosting::{Hosting, run};
use super::servers::Wire;
use super::{Meeting, NAME, Server, bridge, stop, text};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use thv_e2e::{Exit, Failure, Foreground, Home, McpStdio, Result, ensure, need_part};

/// How long one of them may take to end.
const BOUND: Duration = Duration::from_secs(60);

/// Makes a test of each server.
macro_rules! programs {
    ($($server:ident: $value:expr),+ $(,)?) => {
        mod inspector {
            use super::*;
            $(#[test]
            fn $server() -> Result {
                inspected($value)
            })+
        }
        mod mcp_remote {
            use super::*;
            $(#[test]
            fn $server() -> Result {
                bridged($value)
            })+
        }
    };
}

programs! {
    everything: Server::Everything,
}

/// `mcp-inspector --cli`, which ends after each request.
fn inspected(server: Server) -> Result {
    let node = need_part!(Node);
    Home::with(|home| {
        let Some(command) = server.command(home, Wire::Stdio)? else { return Ok(()) };
        let guarded = run(home, &command, &[])?;
        let header = format!("X-ToolHive-Auth: {}", home.key(NAME)?);
        let bridge = bridge()?;
        let servers = json!({ "mcpServers": {
            "direct": { "command": command[0], "args": command[1..] },
            "bridge": { "command": bridge[0], "args": bridge[1..], "env": { "THV_HOME": home.path() } },
        } });
        let config = home.file("inspector.json", servers.to_string())?;
        let config = config.to_string_lossy();
        let port = [guarded.url(), "--transport", "http", "--header", &header];

        let (tool, arguments) = server.call(home);
        let arguments = arguments.as_object().into_iter().flatten().map(|(name, value)| {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            format!("{name}={value}")
        });
        let mut call: Vec<_> = ["tools/call", "--tool-name", tool].map(str::to_owned).into();
        call.extend(arguments.flat_map(|argument| ["--tool-arg".to_owned(), argument]));
        let requests = [vec!["tools/list".to_owned()], call];

        let ask = |target: &[&str]| -> Result<Value> {
            requests.iter().map(|request| inspector(home, &node, target, request)).collect()
        };
        let direct = ask(&["--config", &config, "--server", "direct"])?;
        ensure!(direct[0]["tools"].is_array() && direct[1]["content"].is_array(), "directly: {direct}");
        let [over_bridge, at_port] = [ask(&["--config", &config, "--server", "bridge"])?, ask(&port)?];
        let meeting = Meeting {
            server,
            hosting: Hosting::Process(Wire::Stdio),
            client: "MCP Inspector",
            revision: "–".into(),
            compared: "list and call".into(),
        };
        meeting.compare(&direct, [Some(&over_bridge), Some(&at_port)])?;
        stop(guarded)
    })
}

fn inspector(home: &Home, node: &Path, target: &[&str], request: &[String]) -> Result<Value> {
    let mut command = home.command(newer_node(node));
    command.arg(node.join("mcp-inspector")).arg("--cli").args(target).arg("--method").args(request);
    let mut inspector = home.start(command)?;
    let exit = inspector.wait(BOUND)?;
    let stdout = inspector.stdout();
    ensure!(exit == Exit::Code(0), "{request:?}: {exit:?}\n{stdout}\n{}", inspector.stderr());
    serde_json::from_str(&stdout)
        .map_err(|error| Failure::from(error).during(format!("{request:?}: {stdout:?}")))
}

/// The Node.js that came with the packages, or where none did, the machine's own.
fn newer_node(programs: &Path) -> PathBuf {
    let node = programs.join("node");
    if node.is_file() { node } else { "node".into() }
}

/// `mcp-remote --header` in place of our own bridge.
fn bridged(server: Server) -> Result {
    let node = need_part!(Node);
    Home::with(|home| {
        let Some(command) = server.command(home, Wire::Stdio)? else { return Ok(()) };
        let mut direct = home.command(&command[0]);
        direct.args(&command[1..]);
        let mut direct = McpStdio::new(home.start(direct)?);
        let expected = tour(home, server, &mut direct)?;
        ensure!(
            expected["tools"]["tools"].is_array() && expected["call"]["content"].is_array(),
            "{expected}"
        );
        direct.running().close_stdin();
        drop(direct);

        let guarded = run(home, &command, &[])?;
        let seen = over_mcp_remote(home, &node, server, &guarded)?;
        let meeting = Meeting {
            server,
            hosting: Hosting::Process(Wire::Stdio),
            client: "mcp-remote",
            revision: text(&expected["initialized"], "protocolVersion")?.to_owned(),
            compared: "list and call".into(),
        };
        meeting.compare(&expected, [None, Some(&seen)])?;
        stop(guarded)
    })
}

fn over_mcp_remote(home: &Home, node: &Path, server: Server, guarded: &Foreground) -> Result<Value> {
    let mut command = home.command(newer_node(node));
    command.arg(node.join("mcp-remote")).arg(guarded.url());
    // It fills in variables, which other users of the machine cannot see, unlike arguments.
    command
        .args(["--transport", "http-only", "--header", "X-ToolHive-Auth:${KEY}"])
        .env("KEY", home.key(NAME)?);
    let mut remote = McpStdio::new(home.start(command)?);
    let seen = tour(home, server, &mut remote)?;
    remote.running().close_stdin();
    remote.running().wait(BOUND)?;
    Ok(seen)
}

fn tour(home: &Home, server: Server, session: &mut McpStdio) -> Result<Value> {
    let initialized = session.initialize()?;
    let (tool, arguments) = server.call(home);
    let mut tools = session.request("tools/list", &json!({}))?;
    let mut call = session.request("tools/call", &json!({ "name": tool, "arguments": arguments }))?;
    Ok(json!({ "initialized": initialized, "tools": tools["result"].take(), "call": call["result"].take() }))
}
