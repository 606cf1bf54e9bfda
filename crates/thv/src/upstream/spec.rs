//! What it takes to start a workload's server: program, folder, and the whole of its environment.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use thv_keygen::SharedKey;
use thv_workload::config::Transport;
use thv_workload::guardian::StopTimes;
use thv_workload::server::{ServerSpec, may_pass};

use crate::failure::{Exit, Failure, Outcome};
use crate::launch::launcher;
use crate::secrets;
use crate::supervise::Order;

/// A server, and whether it is given a key of its own.
#[derive(Clone)]
pub struct Specified {
    pub spec: ServerSpec,
    pub has_key: bool,
}

impl Specified {
    /// What it takes to start it once, with a new key, which opens nothing of ours.
    pub fn start(&self) -> io::Result<(ServerSpec, Option<SharedKey>)> {
        let mut spec = self.spec.clone();
        if !self.has_key {
            return Ok((spec, None));
        }
        let key = SharedKey::generate().map_err(io::Error::other)?;
        spec.env.insert("TOOLHIVE_SHARED_KEY".to_owned(), key.expose_text().as_str().to_owned());
        Ok((spec, Some(key)))
    }
}

/// Puts together what the run config asks for.
pub fn specify(order: &Order<'_>) -> Outcome<Specified> {
    let Order { home, name, config, .. } = order;
    let program: PathBuf = config.command.clone().ok_or_else(|| {
        Failure::new(Exit::Refused, format!("workload {name} has neither a command nor a URL"))
            .hint(format!("thv rm {name}, and run it anew"))
    })?;
    let mut env: BTreeMap<String, String> = config.base_env.clone();
    env.extend(config.env_vars.clone());
    env.retain(|variable, _| may_pass(variable));
    let secrets = secrets::resolve(home, config, &order.given)?;
    env.extend(secrets.into_iter().map(|(variable, value)| (variable, value.as_str().to_owned())));
    let has_key = config.shared_key_auth.as_ref().is_some_and(|auth| auth.enabled && auth.upstream_key);
    let spec = ServerSpec {
        program,
        args: config.cmd_args.clone(),
        cwd: config.cwd.clone().unwrap_or_else(std::env::temp_dir),
        env,
        log: home.server_log(name),
        groups: home.groups(name),
        launcher: launcher(),
        stop: StopTimes::default(),
    };
    Ok(Specified { spec, has_key })
}

/// The same server, told to listen on a port. Servers agree on no variable for it; what the user gave stays.
pub fn on_port(spec: &ServerSpec, transport: Transport, port: u16) -> ServerSpec {
    let mut spec = spec.clone();
    let port = port.to_string();
    for (variable, value) in [
        ("PORT", port.as_str()),
        ("MCP_PORT", &port),
        ("FASTMCP_PORT", &port),
        ("MCP_HOST", "127.0.0.1"),
        ("MCP_TRANSPORT", transport.as_str()),
    ] {
        spec.env.entry(variable.to_owned()).or_insert_with(|| value.to_owned());
    }
    spec
}
