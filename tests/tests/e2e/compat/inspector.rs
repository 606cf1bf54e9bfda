//! The Inspector on its command line. It ends after each request, and over HTTP it ends no sessions: a server stays for
//! each until the supervisor ends.

use super::clients::newer_node;
use super::hosting::{self, Direct, Hosting};
use super::servers::Wire;
use super::{Meeting, NAME, Server, bridge, stop};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use thv_e2e::{Exit, Failure, Home, Result, ensure, need_part};

/// How long one request may take.
const BOUND: Duration = Duration::from_secs(90);

/// Makes a test of each server.
macro_rules! inspected {
    ($($test:ident: $server:expr, $wire:expr),+ $(,)?) => {
        $(#[test]
        fn $test() -> Result {
            inspected($server, $wire)
        })+
    };
}

inspected! {
    everything: Server::Everything, Wire::Stdio,
    everything_http: Server::Everything, Wire::Http,
    everything_sse: Server::Everything, Wire::Sse,
    git: Server::Git, Wire::Stdio,
    fastmcp: Server::FastMcp, Wire::Http,
    rmcp: Server::Rmcp, Wire::Stdio,
}

fn inspected(server: Server, wire: Wire) -> Result {
    let node = need_part!(Node);
    Home::with(|home| {
        let Some(command) = server.command(home, wire)? else { return Ok(()) };
        let hosting = Hosting::Process(wire);
        let direct = Direct::new(home, &command, wire)?;
        let guarded = hosting::guard(home, hosting, &command, &direct)?;
        let header = format!("X-ToolHive-Auth: {}", home.key(NAME)?);
        let bridge = bridge()?;
        let servers = json!({ "mcpServers": {
            "direct": { "command": command[0], "args": command[1..] },
            "bridge": { "command": bridge[0], "args": bridge[1..], "env": { "THV_HOME": home.path() } },
        } });
        let config = home.file("inspector.json", servers.to_string())?;
        let config = config.to_string_lossy();
        let transport = if wire == Wire::Sse { "sse" } else { "http" };
        let at_server = match &direct.url {
            Some(url) => vec![url.as_str(), "--transport", transport],
            None => vec!["--config", &config, "--server", "direct"],
        };
        let over_bridge = vec!["--config", &config, "--server", "bridge"];
        let at_port = vec![guarded.url(), "--transport", transport, "--header", &header];

        let requests = server.inspected(home, wire);
        let ask = |target: &[&str]| -> Result<Value> {
            requests.iter().map(|request| inspector(home, &node, target, request)).collect()
        };
        // At once: most of the time of a request, the Inspector waits for its own end.
        let (seen, over_bridge, at_port) = std::thread::scope(|scope| {
            let [over_bridge, at_port] =
                [over_bridge, at_port].map(|target| scope.spawn(move || ask(&target)));
            (ask(&at_server), over_bridge.join(), at_port.join())
        });
        let seen = seen?;
        let panicked = |_| Failure::new("the Inspector's thread panicked");
        let (over_bridge, at_port) = (over_bridge.map_err(panicked)??, at_port.map_err(panicked)??);
        ensure!(seen[0]["tools"].is_array() && seen[1]["content"].is_array(), "directly: {seen}");
        let meeting = Meeting {
            server,
            hosting,
            client: "MCP Inspector",
            revision: "–".into(),
            compared: format!("{} requests", requests.len()),
        };
        meeting.compare(&seen, [Some(&over_bridge), Some(&at_port)])?;
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
