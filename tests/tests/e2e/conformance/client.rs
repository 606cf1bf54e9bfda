//! A client as the suite sees it: a driver on the official Python SDK, at the suite's servers itself and over the
//! bridge, behind which each of those servers is a workload.
//!
//! The scenarios of `auth/` are left out. They are about OAuth over HTTP, which the protocol does not have on standard
//! input and output (MCP, `basic/authorization`).

use super::{LEGACY, MODERN, Suite};
use crate::fixture::{fixture, listening};
use serde_json::json;
use std::path::Path;
use thv_e2e::{BINARY_VARIABLE, Failure, Home, Result, ensure, need_part};

/// The workload's name.
const NAME: &str = "judged";

/// Makes a test of each scenario of a revision.
macro_rules! scenarios {
    ($($module:ident, $revision:expr => [$($test:ident: $scenario:literal),+ $(,)?];)+) => {
        $(mod $module {
            use super::*;
            $(#[test]
            fn $test() -> Result {
                judged($revision, $scenario)
            })+
        })+
    };
}

scenarios! {
    with_sessions, LEGACY => [
        initialize: "initialize",
        tools_call: "tools_call",
        elicitation_defaults: "elicitation-sep1034-client-defaults",
        sse_retry: "sse-retry",
        json_schema_preservation: "json-schema-2020-12-preservation",
    ];
    without_sessions, MODERN => [
        tools_call: "tools_call",
        request_metadata: "request-metadata",
        request_state: "sep-2322-client-request-state",
        standard_headers: "http-standard-headers",
        custom_headers: "http-custom-headers",
        invalid_tool_headers: "http-invalid-tool-headers",
        json_schema_ref: "json-schema-ref-no-deref",
        json_schema_preservation: "json-schema-2020-12-preservation",
    ];
}

fn judged(revision: &str, scenario: &str) -> Result {
    let node = need_part!(Node);
    let python = need_part!(Python);
    Home::with(|home| {
        let suite = Suite { home, programs: node };
        let client =
            format!("{} -B {}", python.join("python3").display(), fixture("conformance/client.py").display());
        let run = |label: &str, env: &[(&str, &str)]| {
            let args = ["client", "--command", &client, "--scenario", scenario, "--spec-version", revision];
            suite.run(label, "loopback.mjs", env, &args)
        };
        let direct = run("direct", &[])?;
        ensure!(direct.all("SUCCESS") > 0, "nothing passes directly: {direct:?}");

        // The suite's server is there only while its client runs, and would note the trial of the workload. So another
        // one passes that, in the same place.
        let (mut understudy, port) = listening(home, &understudy(&python, &path(home, scenario)?))?;
        let url = format!("http://127.0.0.1:{port}{}", path(home, scenario)?);
        home.detached(["--name", NAME, "--shared-key-auth", &url])?;
        understudy.stop()?;

        let thv = std::env::var(BINARY_VARIABLE).map_err(|error| Failure::new(error.to_string()))?;
        let environment = json!({ "THV_HOME": home.path(), "DBUS_SESSION_BUS_ADDRESS": home.bus() });
        let bridge = json!({ "command": thv, "args": ["proxy", "stdio", NAME], "env": environment });
        let env = [("CONFORMANCE_BRIDGE", &*bridge.to_string()), ("CONFORMANCE_PORT", &*port.to_string())];
        let seen = run("bridged", &env)?;
        home.thv(["rm", NAME]).output()?.expect(0)?;
        let worse = seen.worse_than(&direct);
        ensure!(worse.is_empty(), "over the bridge, the suite sees less than directly:\n{worse}");
        Ok(())
    })
}

/// A server that answers `initialize` at a path.
fn understudy(python: &Path, path: &str) -> [String; 5] {
    let words = [python.join("python3"), "-SB".into(), fixture("http/server.py")];
    let [python, flags, script] = words.map(|word| word.to_string_lossy().into_owned());
    [python, flags, script, "--path".into(), path.into()]
}

/// The path of the server of a scenario, as its client was told.
fn path(home: &Home, scenario: &str) -> Result<String> {
    for entry in std::fs::read_dir(home.user().join("direct"))? {
        let said = std::fs::read_to_string(entry?.path().join("stderr.txt"))?;
        if let Some(rest) = said.lines().find_map(|line| line.strip_prefix("http://localhost:")) {
            let path = rest.trim_start_matches(|byte: char| byte.is_ascii_digit());
            return Ok(if path.is_empty() { "/".into() } else { path.into() });
        }
    }
    Err(Failure::new(format!("the client of {scenario} was told no URL")))
}
