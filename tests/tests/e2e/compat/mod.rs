//! What a client sees through `thv` equals what it sees directly: real servers, each driven by real clients, over the
//! bridge and straight at the port.
//!
//! A row is a server, how it is hosted, and a client. The client plays the server's plan (`fixtures/compat/plans`)
//! three times: at the server itself, over the bridge, at the guarded port. The three transcripts must be equal. A new
//! row is an entry in [`rows!`] below. What was run is written to `target/e2e/compatibility.md`.

mod clients;
mod hosting;
mod inspector;
mod servers;
mod table;
mod transcript;

use crate::fixture::wait_alone;
use clients::Client;
use hosting::{Direct, Hosting};
use serde_json::{Value, json};
use servers::{Server, Wire};
use std::path::Path;
use thv_e2e::{BINARY_VARIABLE, Exit, Failure, Foreground, Home, Result, ensure, need_part};

/// The workload's name.
const NAME: &str = "compat";

/// Makes a test of each row.
macro_rules! rows {
    ($($module:ident: $server:expr, $hosting:expr => [$($test:ident: $client:expr),+ $(,)?]),+ $(,)?) => {
        $(mod $module {
            use super::*;
            $(#[test]
            fn $test() -> Result {
                row($server, $hosting, $client)
            })+
        })+
    };
}

rows! {
    everything: Server::Everything, Hosting::Process(Wire::Stdio) => [
        python_v1: Client::PythonV1,
        python_v2: Client::PythonV2,
        python_v2_probing: Client::PythonV2Probing,
        typescript_v1: Client::TypeScriptV1,
        typescript_v2: Client::TypeScriptV2,
        typescript_v2_probing: Client::TypeScriptV2Probing,
        mcp_remote: Client::McpRemote,
    ],
    everything_http: Server::Everything, Hosting::Process(Wire::Http) => [
        python_v1: Client::PythonV1,
        python_v2: Client::PythonV2,
        typescript_v2: Client::TypeScriptV2,
        mcp_remote: Client::McpRemote,
    ],
    everything_sse: Server::Everything, Hosting::Process(Wire::Sse) => [
        python_v1: Client::PythonV1,
        python_v2: Client::PythonV2,
        typescript_v2: Client::TypeScriptV2,
        mcp_remote: Client::McpRemote,
    ],
    everything_url: Server::Everything, Hosting::Url(Wire::Http) => [
        typescript_v2: Client::TypeScriptV2,
    ],
    everything_sse_url: Server::Everything, Hosting::Url(Wire::Sse) => [
        typescript_v2: Client::TypeScriptV2,
    ],
    everything_behind_supergateway: Server::Gateway, Hosting::Url(Wire::Http) => [
        typescript_v2: Client::TypeScriptV2,
    ],
    git: Server::Git, Hosting::Process(Wire::Stdio) => [
        python_v1: Client::PythonV1,
        python_v2: Client::PythonV2,
        python_v2_probing: Client::PythonV2Probing,
        typescript_v2: Client::TypeScriptV2,
        typescript_v2_probing: Client::TypeScriptV2Probing,
        mcp_remote: Client::McpRemote,
    ],
    fastmcp: Server::FastMcp, Hosting::Process(Wire::Stdio) => [
        python_v1: Client::PythonV1,
        python_v2: Client::PythonV2,
        python_v2_probing: Client::PythonV2Probing,
        typescript_v2: Client::TypeScriptV2,
        typescript_v2_probing: Client::TypeScriptV2Probing,
    ],
    fastmcp_http: Server::FastMcp, Hosting::Process(Wire::Http) => [
        python_v2: Client::PythonV2,
        python_v2_probing: Client::PythonV2Probing,
        typescript_v2: Client::TypeScriptV2,
        typescript_v2_probing: Client::TypeScriptV2Probing,
        mcp_remote: Client::McpRemote,
    ],
    fastmcp_sse: Server::FastMcp, Hosting::Process(Wire::Sse) => [
        python_v2: Client::PythonV2,
        typescript_v2: Client::TypeScriptV2,
    ],
    fastmcp_url: Server::FastMcp, Hosting::Url(Wire::Http) => [
        python_v2: Client::PythonV2,
        python_v2_probing: Client::PythonV2Probing,
        typescript_v2_probing: Client::TypeScriptV2Probing,
    ],
    rmcp: Server::Rmcp, Hosting::Process(Wire::Stdio) => [
        python_v1: Client::PythonV1,
        python_v2: Client::PythonV2,
        python_v2_probing: Client::PythonV2Probing,
        typescript_v2: Client::TypeScriptV2,
        typescript_v2_probing: Client::TypeScriptV2Probing,
        mcp_remote: Client::McpRemote,
    ],
    rmcp_http: Server::Rmcp, Hosting::Process(Wire::Http) => [
        python_v1: Client::PythonV1,
        python_v2: Client::PythonV2,
        python_v2_probing: Client::PythonV2Probing,
        typescript_v2: Client::TypeScriptV2,
        typescript_v2_probing: Client::TypeScriptV2Probing,
        mcp_remote: Client::McpRemote,
    ],
    rmcp_url: Server::Rmcp, Hosting::Url(Wire::Http) => [
        python_v2_probing: Client::PythonV2Probing,
        typescript_v2: Client::TypeScriptV2,
        typescript_v2_probing: Client::TypeScriptV2Probing,
    ],
}

/// The ways to the server behind `thv`, as the drivers and the table name them.
const WAYS: [&str; 2] = ["bridge", "port"];

fn row(server: Server, hosting: Hosting, client: Client) -> Result {
    let node = need_part!(Node);
    let wire = hosting.wire();
    Home::with(|home| {
        let Some(command) = server.command(home, wire)? else { return Ok(()) };
        let direct = Direct::new(home, &command, wire)?;
        let guarded = hosting::guard(home, hosting, &command, &direct)?;
        let ways = ways(home, &node, hosting, client, &direct, &guarded)?;
        let revision = server.settles(wire, client);
        let plan = server.plan(home, hosting, client)?;
        let Some(report) = client.play(home, &node, &ways, &plan)? else { return Ok(()) };

        let mut report = transcript::masked(report);
        if let Some(chance) = server.may_say(wire) {
            transcript::without(&mut report, &chance);
        }
        let seen = &report["direct"];
        let settled = text(&seen["connected"], "protocolVersion")?;
        ensure!(settled == revision, "directly they settle on {settled}, not on {revision}");
        transcript::has_substance(seen, &plan)?;
        let meeting = Meeting {
            server,
            hosting,
            client: client.name(),
            revision: revision.to_owned(),
            compared: format!("{} steps", plan.as_array().map_or(0, Vec::len)),
        };
        meeting.compare(seen, WAYS.map(|way| report.get(way)))?;
        match (wire, client) {
            // It ends no sessions: a server stays for each until the supervisor ends.
            (_, Client::McpRemote) | (Wire::Http | Wire::Sse, _) => {}
            (Wire::Stdio, _) if revision == crate::sdk::NEWEST => crate::sdk::at_rest(home, guarded.pid())?,
            // The SDKs end their sessions, so the servers of those go.
            (Wire::Stdio, _) => wait_alone(home, guarded.pid())?,
        }
        stop(guarded)
    })
}

/// How a client gets to the server: directly, over the bridge, at the port. `mcp-remote` takes the place of the bridge,
/// also on the way to the server itself where that listens, so that what it leaves out is missing on both.
fn ways(
    home: &Home,
    node: &Path,
    hosting: Hosting,
    client: Client,
    direct: &Direct,
    guarded: &Foreground,
) -> Result<Value> {
    let wire = hosting.wire();
    let key = home.key(NAME)?;
    let bridge = bridge()?;
    Ok(match client {
        Client::McpRemote => {
            let remote = |url: &str, key| hosting::way_over_mcp_remote(node, url, wire, key);
            json!({
                "direct": direct.url.as_ref().map_or_else(|| direct.way.clone(), |url| remote(url, None)),
                "port": remote(guarded.url(), Some(&key)),
            })
        }
        _ => json!({
            "direct": direct.way,
            "bridge": { "command": bridge[0], "args": bridge[1..], "env": { "THV_HOME": home.path() } },
            "port": hosting::way(guarded.url(), wire, &json!({ "X-ToolHive-Auth": key })),
        }),
    })
}

/// A client that met a server, directly and through `thv`.
struct Meeting {
    server: Server,
    hosting: Hosting,
    client: &'static str,
    /// The revision of the protocol that the two settled on, where the client tells.
    revision: String,
    /// What was compared.
    compared: String,
}

impl Meeting {
    /// Compares what was seen over each of [`WAYS`] with what was seen directly, and adds a row to the table.
    ///
    /// # Errors
    /// It differs.
    fn compare(self, direct: &Value, seen: [Option<&Value>; 2]) -> Result {
        let differences = seen.map(|seen| seen.map(|seen| transcript::differences(direct, seen)));
        let Self { server, hosting, client, revision, compared } = self;
        table::add(table::Row {
            server: server.name(),
            hosting: hosting.name(),
            client,
            revision,
            compared,
            equal: differences.each_ref().map(|list| list.as_ref().map(Vec::is_empty)),
        })?;
        for (way, differences) in WAYS.iter().zip(differences) {
            let list = differences.unwrap_or_default().join("\n  ");
            ensure!(
                list.is_empty(),
                "{client} sees {} otherwise through the {way}:\n  {list}",
                server.name()
            );
        }
        Ok(())
    }
}

/// Ends the supervisor, and with it what clients left behind; the home checks that nothing stays.
fn stop(guarded: Foreground) -> Result {
    assert_eq!(guarded.stop()?, Exit::Code(0));
    Ok(())
}

/// The command of the bridge, for a client's config.
fn bridge() -> Result<[String; 4]> {
    let thv = std::env::var(BINARY_VARIABLE)
        .map_err(|error| Failure::new(format!("{BINARY_VARIABLE}: {error}")))?;
    Ok([thv, "proxy".into(), "stdio".into(), NAME.into()])
}

/// A text from a member that must be one.
fn text<'a>(value: &'a Value, member: &str) -> Result<&'a str> {
    value[member].as_str().ok_or_else(|| Failure::new(format!("no text `{member}` in {value}")))
}
