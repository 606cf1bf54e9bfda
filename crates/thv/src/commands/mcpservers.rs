//! `thv list --format mcpservers`: entries to paste into the configuration of an AI client. They start a bridge, which
//! finds key and port by itself, so they hold neither and never have to be changed.

use std::collections::BTreeMap;

use serde::Serialize;
use thv_workload::registry::Workload;

use crate::environment::{Environment, HOME_VARIABLE};
use crate::failure::{Exit, Failure, Outcome};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entries<'a> {
    mcp_servers: BTreeMap<&'a str, Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    /// An absolute path: AI clients do not search where a shell does.
    command: &'a str,
    args: [&'a str; 3],
    #[serde(skip_serializing_if = "Option::is_none")]
    env: Option<BTreeMap<&'static str, &'a str>>,
}

/// The entries, as JSON.
pub fn text(environment: &Environment, workloads: &[Workload]) -> Outcome<String> {
    let cannot =
        |error: &dyn std::error::Error| Failure::new(Exit::Failed, "cannot write the entries").because(error);
    let program = std::env::current_exe().map_err(|error| cannot(&error))?;
    let program = program.to_str().ok_or_else(|| {
        Failure::new(Exit::Failed, format!("{} is not a path that JSON can hold", program.display()))
            .hint("put thv into a folder whose name is plain text")
    })?;
    let home = environment.variable(HOME_VARIABLE).filter(|home| !home.is_empty());
    let mut mcp_servers = BTreeMap::new();
    for workload in workloads {
        let name = workload.name.as_str();
        let env = home.map(|home| BTreeMap::from([(HOME_VARIABLE, home)]));
        mcp_servers.insert(name, Entry { command: program, args: ["proxy", "stdio", name], env });
    }
    let mut json = serde_json::to_string_pretty(&Entries { mcp_servers }).map_err(|error| cannot(&error))?;
    json.push('\n');
    Ok(json)
}
