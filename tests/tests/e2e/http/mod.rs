//! Servers that speak HTTP, as processes of ours and as URLs: their life, their faults, and who gets which key.

mod configs;
pub(crate) mod endpoints;
mod everything;
mod faults;
pub(crate) mod keys;
mod origins;
mod restart;
mod shell;
mod stranger;
mod target;
mod tls;

use crate::fixture::{fixture, wait_until};
use serde_json::{Value, json};
use std::collections::hash_map::RandomState;
use std::ffi::OsString;
use std::hash::BuildHasher as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use thv_e2e::http::Request;
use thv_e2e::{Exit, Failure, Foreground, Home, McpStdio, Result, Running, STOP_BOUND, Thv, ensure};

/// The workload's name.
const NAME: &str = "web";

/// The command of the server in `fixtures/http`, with its own options.
fn server(python: &Path, options: &[&str]) -> Vec<OsString> {
    let script = fixture("http/server.py");
    let words = [python.join("python3").into_os_string(), "-SB".into(), script.into_os_string()];
    words.into_iter().chain(options.iter().map(OsString::from)).collect()
}

/// `thv run` of that server behind a lock, not started yet.
fn guarding<'home>(home: &'home Home, python: &Path, run: &[&str], options: &[&str]) -> Thv<'home> {
    let run =
        ["run", "--name", NAME, "--shared-key-auth", "--transport", "streamable-http"].iter().chain(run);
    home.thv(run).arg("--").args(server(python, options))
}

/// The same in the foreground, running.
fn guard(home: &Home, python: &Path, options: &[&str]) -> Result<Foreground> {
    guarding(home, python, &["-f"], options).foreground()
}

/// The server in `fixtures/http`, started by somebody else. It ends when it is dropped.
struct Elsewhere {
    port: u16,
    running: Running,
}

impl Elsewhere {
    fn start(home: &Home, python: &Path, options: &[&str]) -> Result<Self> {
        Self::start_at(home, python, 0, options)
    }

    fn start_at(home: &Home, python: &Path, port: u16, options: &[&str]) -> Result<Self> {
        let words = server(python, options);
        let mut command = home.command(&words[0]);
        command.args(&words[1..]).env("PORT", port.to_string());
        let mut running = home.start(command)?;
        let line = running.line(STOP_BOUND)?.unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let port = line.strip_prefix("port ").and_then(|port| port.parse().ok());
        let port =
            port.ok_or_else(|| Failure::new(format!("{line:?} instead of a port\n{}", running.stderr())))?;
        Ok(Self { port, running })
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/mcp", self.port)
    }

    fn kill(mut self) {
        self.running.kill();
    }
}

/// What a server was sent, as the file of its option `--record` tells.
struct Record(PathBuf);

/// One request in a record.
#[derive(serde::Deserialize)]
struct Recorded {
    method: String,
    path: String,
    /// With names in lower case.
    headers: Vec<(String, String)>,
    /// The body, if it was read.
    message: Value,
}

impl Record {
    fn new(home: &Home) -> Self {
        Self(home.user().join("record"))
    }

    /// For the server's command line.
    fn path(&self) -> String {
        self.0.to_string_lossy().into_owned()
    }

    fn requests(&self) -> Result<Vec<Recorded>> {
        match std::fs::read_to_string(&self.0) {
            Ok(text) => text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// How often a tool was called.
    fn calls(&self, tool: &str) -> Result<usize> {
        Ok(self.requests()?.iter().filter(|request| request.message["params"]["name"] == tool).count())
    }
}

impl Recorded {
    fn values(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(have, _)| have == name).map(|(_, value)| value.as_str()).collect()
    }
}

/// A call of a tool, as a message.
fn calling(tool: &str, arguments: &Value) -> Value {
    json!({
        "jsonrpc": "2.0", "id": "of the test", "method": "tools/call",
        "params": { "name": tool, "arguments": arguments },
    })
}

/// The same as a request with the key.
fn posting(port: u16, key: &str, tool: &str, arguments: &Value) -> Request {
    Request::mcp(port, &calling(tool, arguments)).key(key)
}

/// The message that begins a session.
fn initializing() -> Value {
    json!({
        "jsonrpc": "2.0", "id": "first", "method": "initialize",
        "params": {
            "protocolVersion": thv_e2e::PROTOCOL_VERSION, "capabilities": {},
            "clientInfo": { "name": "thv-e2e", "version": "1" },
        },
    })
}

/// A bridge with its session begun.
fn bridge(home: &Home) -> Result<McpStdio> {
    let mut session = home.bridge(NAME)?;
    session.initialize()?;
    Ok(session)
}

/// Ends a bridge, which must have given no answer that was not asked for.
fn end(session: McpStdio) -> Result {
    let (exit, rest) = session.finish()?;
    assert_eq!(exit, Exit::Code(0));
    ensure!(rest.iter().all(|message| message.get("method").is_some()), "{rest:?}");
    Ok(())
}

/// Code and reason of an error.
fn reason(answer: &Value) -> (i64, &str) {
    let error = &answer["error"];
    (error["code"].as_i64().unwrap_or_default(), error["data"]["reason"].as_str().unwrap_or_default())
}

const LOST: (i64, &str) = (-33002, "connection_lost");
const STRANGER: (i64, &str) = (-33003, "stranger");
const NOT_RUNNING: (i64, &str) = (-33004, "not_running");
const UPSTREAM_HTTP: (i64, &str) = (-33005, "upstream_http");

/// A port that nobody listens on, out of the range from which the system gives ports to others.
fn free_port() -> Result<u16> {
    let seed = RandomState::new();
    (0..1000_u16)
        .map(|attempt| 10_000 + u16::try_from(seed.hash_one(attempt) % 9_000).unwrap_or_default())
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .ok_or_else(|| Failure::new("no port is free"))
}

/// Kills the supervisor, as a crash would.
fn crash(home: &Home) -> Result {
    let supervisor = home.supervisor(NAME).ok_or_else(|| Failure::new("there is no supervisor"))?;
    supervisor.kill();
    wait_until("it is dead", STOP_BOUND, || Ok(!supervisor.is_alive()))
}

/// Checks that nothing is left of the workloads of a home: no process, no folder, no key.
fn nothing_left(home: &Home, python: &Path) -> Result {
    assert_eq!(crate::fixture::list(home)?, Vec::<Value>::new());
    assert_eq!(home.processes(), []);
    assert_eq!(home.path().join("state/workloads").read_dir()?.count(), 0);
    assert_eq!(crate::fixture::store_entries(home, python)?, json!({}));
    Ok(())
}
