//! What a client sees through `thv` equals what it sees directly: real servers, each driven by real clients, over the
//! bridge and straight at the port.
//!
//! A row is a server, how it is hosted, and a client. The client plays the server's plan (`fixtures/compat/plans`)
//! three times: at the server itself, over the bridge, at the guarded port. The three transcripts must be equal. A new
//! row is an entry in [`rows!`] below. What was run is written to `target/e2e/compatibility.md`.

mod clients;
mod programs;
mod servers;
mod table;
mod transcript;

use crate::fixture::wait_alone;
use clients::Client;
use serde_json::{Value, json};
use servers::Server;
use thv_e2e::{BINARY_VARIABLE, Exit, Failure, Foreground, Home, Result, ensure};

/// The workload's name.
const NAME: &str = "compat";

/// Makes a test of each row.
macro_rules! rows {
    ($($module:ident: $server:expr => [$($test:ident: $client:expr),+ $(,)?]),+ $(,)?) => {
        $(mod $module {
            use super::*;
            $(#[test]
            fn $test() -> Result {
                row($server, $client)
            })+
        })+
    };
}

rows! {
    everything: Server::Everything => [
        python_v1: Client::PythonV1,
        python_v2: Client::PythonV2,
        python_v2_probing: Client::PythonV2Probing,
        typescript_v1: Client::TypeScriptV1,
        typescript_v2: Client::TypeScriptV2,
        typescript_v2_probing: Client::TypeScriptV2Probing,
    ],
    git: Server::Git => [
        python_v1: Client::PythonV1,
        python_v2: Client::PythonV2,
        typescript_v1: Client::TypeScriptV1,
        typescript_v2: Client::TypeScriptV2,
    ],
    fastmcp: Server::FastMcp => [
        python_v1: Client::PythonV1,
        python_v2: Client::PythonV2,
        typescript_v1: Client::TypeScriptV1,
        typescript_v2: Client::TypeScriptV2,
    ],
    rmcp: Server::Rmcp => [
        python_v1: Client::PythonV1,
        python_v2: Client::PythonV2,
        typescript_v1: Client::TypeScriptV1,
        typescript_v2: Client::TypeScriptV2,
    ],
}

/// The ways to the server behind `thv`, as the drivers and the table name them.
const WAYS: [&str; 2] = ["bridge", "port"];

fn row(server: Server, client: Client) -> Result {
    Home::with(|home| {
        let Some(command) = server.command(home)? else { return Ok(()) };
        let guarded = run(home, &command)?;
        let key = home.key(NAME)?;
        let bridge = bridge()?;
        let ways = json!({
            "direct": { "command": command[0], "args": command[1..] },
            "bridge": { "command": bridge[0], "args": bridge[1..], "env": { "THV_HOME": home.path() } },
            "port": { "url": guarded.url(), "transport": "http", "headers": { "X-ToolHive-Auth": key } },
        });
        let plan = server.plan(home)?;
        let Some(report) = client.play(home, &ways, &plan)? else { return Ok(()) };

        let direct = &report["direct"];
        transcript::has_substance(direct, &plan)?;
        let meeting = Meeting {
            server,
            client: client.name(),
            revision: text(&direct["connected"], "protocolVersion")?.to_owned(),
            compared: format!("{} steps", plan.as_array().map_or(0, Vec::len)),
        };
        meeting.compare(direct, WAYS.map(|way| report.get(way)))?;
        // The SDKs end their sessions, so the servers of those go.
        wait_alone(home, guarded.pid())?;
        stop(guarded)
    })
}

/// A client that met a server, directly and through `thv`.
struct Meeting {
    server: Server,
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
        let Self { server, client, revision, compared } = self;
        table::add(table::Row {
            server: server.name(),
            hosting: "stdio",
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

/// Guards a server. It runs until [`stop`].
fn run(home: &Home, command: &[String]) -> Result<Foreground> {
    home.run(
        ["--name", NAME, "--shared-key-auth", "--"].into_iter().chain(command.iter().map(String::as_str)),
    )
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
