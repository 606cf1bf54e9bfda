//! The whole life of a real server that speaks HTTP, in both of its transports.

use super::{NAME, bridge, calling, crash, end, free_port, guarding, initializing, nothing_left, reason};
use super::{NOT_RUNNING, Record};
use crate::fixture::{call_text, only_row, wait_until};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use thv_e2e::http::{Http, Request};
use thv_e2e::{Detached, Failure, Home, McpStdio, Result, STOP_BOUND, ensure, need_part};

/// A way to speak HTTP.
struct Kind {
    transport: &'static str,
    /// What `server-everything` calls it.
    word: &'static str,
    path: &'static str,
}

const STREAMABLE: Kind = Kind { transport: "streamable-http", word: "streamableHttp", path: "/mcp" };
const SSE: Kind = Kind { transport: "sse", word: "sse", path: "/sse" };

impl Kind {
    /// `server-everything` behind a lock. Its environment is written to a file first.
    fn run(&self, home: &Home, node: &Path, more: &[&str]) -> Result<Detached> {
        let run = home.thv(["run", "--name", NAME, "--shared-key-auth", "--transport", self.transport]);
        let run = run.args(more).args(["--", "sh", "-c", r#"env > "$0"; exec "$@""#]);
        let run = run.arg(home.user().join("environment")).arg(node.join("mcp-server-everything"));
        Detached::of(run.arg(self.word).output()?)
    }

    /// The variables that the server was started with the last time.
    fn environment(home: &Home) -> Result<BTreeMap<String, String>> {
        let text = std::fs::read_to_string(home.user().join("environment"))?;
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        Ok(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}

fn echoes(session: &mut McpStdio) -> Result {
    let text = call_text(session, "echo", &json!({ "message": "once more" }))?;
    ensure!(text.contains("once more"), "{text}");
    Ok(())
}

#[test]
fn a_whole_life_over_streamable_http() -> Result {
    let (python, node) = (need_part!(Python), need_part!(Node));
    Home::with(|home| {
        whole_life(home, &STREAMABLE, &node, streamable_port)?;
        nothing_left(home, &python)
    })
}

#[test]
fn a_whole_life_over_http_with_sse() -> Result {
    let (python, node) = (need_part!(Python), need_part!(Node));
    Home::with(|home| {
        whole_life(home, &SSE, &node, sse_port)?;
        nothing_left(home, &python)
    })
}

fn whole_life(home: &Home, kind: &Kind, node: &Path, port: fn(u16, &str) -> Result) -> Result {
    let first = kind.run(home, node, &[])?;
    ensure!(first.url.ends_with(kind.path), "{first:?}");
    let row = only_row(home)?;
    let supervisor = home.supervisor(NAME).map(|process| process.pid);
    let expected = json!({
        "status": "running", "desired": "running", "url": first.url, "port": first.port,
        "transport_type": kind.transport, "proxy_mode": kind.transport, "runtime": "process",
        "remote": false, "pid": supervisor,
    });
    for (member, value) in expected.as_object().into_iter().flatten() {
        assert_eq!(&row[member], value, "{member}");
    }

    for (what, word) in [("tools", "echo  "), ("resources", "://"), ("prompts", "simple-prompt")] {
        let list = home.thv(["mcp", "list", what, NAME]).output()?.expect(0)?;
        ensure!(list.stdout.lines().any(|line| line.contains(word)), "{list:?}");
    }
    let call = ["mcp", "call", NAME, "echo", "--args", r#"{"message":"from the shell"}"#];
    let call = home.thv(call).output()?.expect(0)?;
    ensure!(call.stdout.contains("from the shell"), "{call:?}");

    let mut live = bridge(home)?;
    echoes(&mut live)?;
    port(first.port, &home.key(NAME)?)?;

    home.thv(["stop", NAME]).output()?.expect(0)?;
    assert_eq!(reason(&live.request("tools/list", &json!({}))?), NOT_RUNNING);
    let left = home.processes();
    ensure!(left.iter().all(|process| process.pid == live.pid()), "{left:?}");
    end(live)?;
    for command in ["start", "start", "restart"] {
        assert_eq!(Detached::of(home.thv([command, NAME]).output()?)?, first, "{command}");
        let mut session = bridge(home)?;
        echoes(&mut session)?;
        end(session)?;
    }
    let log = home.thv(["logs", NAME]).output()?.expect(0)?.stdout;
    // The one is written to standard output, the other to standard error.
    for words in ["Streamable HTTP server...", "Streamable HTTP Server listening on port"] {
        ensure!(kind.path == "/sse" || log.contains(words), "{log}");
    }
    ensure!(kind.path == "/mcp" || log.contains("Server is running on port"), "{log}");
    let log = home.thv(["logs", "--proxy", NAME]).output()?.expect(0)?.stdout;
    ensure!(log.contains("accepted") && log.contains("refused"), "{log}");
    home.thv(["rm", NAME]).output()?.expect(0)?;
    Ok(())
}

fn refused(request: &Request) -> Result {
    let refusal = request.send()?;
    let challenge = refusal.header("WWW-Authenticate");
    assert_eq!((refusal.status, challenge), (401, Some(&*format!("ToolHive-SharedKey realm=\"{NAME}\""))));
    assert_eq!(refusal.json()?["error"]["code"], -33001);
    Ok(())
}

fn streamable_port(port: u16, key: &str) -> Result {
    refused(&Request::mcp(port, &initializing()))?;
    let begun = Request::mcp(port, &initializing()).key(key).send()?;
    assert_eq!(begun.status, 200, "{begun:?}");
    ensure!(begun.text().contains("mcp-servers/everything"), "{begun:?}");
    let session = begun.header("Mcp-Session-Id").unwrap_or_default();
    let call = calling("echo", &json!({ "message": "at the port" }));
    let call = Request::mcp(port, &call).header("Mcp-Session-Id", session);
    refused(&call)?;
    let called = call.key(key).send()?;
    ensure!(called.status == 200 && called.text().contains("at the port"), "{called:?}");
    Ok(())
}

fn sse_port(port: u16, key: &str) -> Result {
    let stream = Request::new("GET", "/sse", port).header("Accept", "text/event-stream");
    refused(&stream)?;
    let mut events = Http::open(port)?;
    events.send(&stream.key(key).bytes());
    let first = events.read_through("\n\n")?;
    let first = String::from_utf8_lossy(&first).into_owned();
    ensure!(first.starts_with("HTTP/1.1 200 ") && first.contains("event: endpoint"), "{first}");
    let endpoint = first.lines().find_map(|line| line.strip_prefix("data: ")).unwrap_or_default();
    ensure!(endpoint.starts_with("/message?sessionId="), "{endpoint}");
    let post = |message: &Value| {
        let post = Request::new("POST", endpoint, port).header("Content-Type", "application/json");
        post.body(message.to_string())
    };
    refused(&post(&initializing()))?;
    assert_eq!(post(&initializing()).key(key).send()?.status, 202);
    let answer = events.read_through("\n\n")?;
    ensure!(String::from_utf8_lossy(&answer).contains("mcp-servers/everything"), "{answer:?}");
    Ok(())
}

#[test]
fn a_server_is_told_its_port_in_all_the_variables_unless_the_user_said_otherwise() -> Result {
    let (python, node) = (need_part!(Python), need_part!(Node));
    Home::with(|home| {
        for kind in [STREAMABLE, SSE] {
            kind.run(home, &node, &["-e", "FASTMCP_PORT=1", "-e", "EXTRA=x"])?;
            let environment = Kind::environment(home)?;
            let value = |name: &str| environment.get(name).map(String::as_str).unwrap_or_default();
            let port: u16 = value("PORT").parse().map_err(|_| Failure::new(value("PORT")))?;
            assert_eq!(value("MCP_PORT"), port.to_string());
            assert_eq!(value("FASTMCP_PORT"), "1");
            assert_eq!((value("MCP_HOST"), value("MCP_TRANSPORT")), ("127.0.0.1", kind.transport));
            assert_eq!((value("EXTRA"), value("TOOLHIVE_SHARED_KEY").len()), ("x", 44));
            assert_ne!(u64::from(port), only_row(home)?["port"].as_u64().unwrap_or_default());
            // It is there, at its own port.
            assert_eq!(Request::new("GET", "/nowhere", port).send()?.status, 404);
            home.thv(["rm", NAME]).output()?.expect(0)?;
        }
        let given = ["-e", "MCP_HOST=::1", "-e", "MCP_TRANSPORT=x", "-e", "MCP_PORT=2"];
        STREAMABLE.run(home, &node, &given)?;
        let environment = Kind::environment(home)?;
        for (name, value) in [("MCP_HOST", "::1"), ("MCP_TRANSPORT", "x"), ("MCP_PORT", "2")] {
            assert_eq!(environment.get(name).map(String::as_str), Some(value), "{name}");
        }
        home.thv(["rm", NAME]).output()?.expect(0)?;
        nothing_left(home, &python)
    })
}

#[test]
fn a_port_that_was_asked_for_is_the_server_s_at_each_start() -> Result {
    let (python, node) = (need_part!(Python), need_part!(Node));
    Home::with(|home| {
        let port = free_port()?;
        STREAMABLE.run(home, &node, &["--target-port", &port.to_string()])?;
        for _ in 0..2 {
            let environment = Kind::environment(home)?;
            for name in ["PORT", "MCP_PORT", "FASTMCP_PORT"] {
                assert_eq!(environment.get(name), Some(&port.to_string()), "{name}");
            }
            assert_eq!(Request::new("GET", "/nowhere", port).send()?.status, 404);
            let mut session = bridge(home)?;
            echoes(&mut session)?;
            end(session)?;
            home.thv(["restart", NAME]).output()?.expect(0)?;
        }
        home.thv(["rm", NAME]).output()?.expect(0)?;
        nothing_left(home, &python)
    })
}

#[test]
fn what_a_server_writes_is_in_its_log_and_nowhere_else() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let record = Record::new(home);
        let run = guarding(home, &python, &[], &["--record", &record.path()]).output()?;
        let said = format!("{}{}", run.stdout, run.stderr);
        Detached::of(run)?;
        let log = home.thv(["logs", NAME]).output()?.expect(0)?.stdout;
        ensure!(log.contains("port ") && log.contains("this is on standard error"), "{log}");
        ensure!(!said.contains("standard error"), "{said}");
        // A server whose transport is not the one that was said does not pass its trial.
        home.thv(["rm", NAME]).output()?.expect(0)?;
        let wrong = home.thv(["run", "--name", NAME, "--transport", "sse", "--ready-timeout", "2s", "--"]);
        let wrong = wrong.args(super::server(&python, &[])).output()?.expect(1)?;
        ensure!(
            wrong.stderr.contains("404") && wrong.stderr.contains("this is on standard error"),
            "{wrong:?}"
        );
        nothing_left(home, &python)
    })
}

#[test]
fn a_supervisor_that_is_killed_takes_its_server_along_and_a_bridge_brings_both_back() -> Result {
    let (python, node) = (need_part!(Python), need_part!(Node));
    Home::with(|home| {
        for kind in [STREAMABLE, SSE] {
            let first = kind.run(home, &node, &[])?;
            crash(home)?;
            wait_until("nothing runs", STOP_BOUND, || Ok(home.processes().is_empty()))?;
            let mut session = bridge(home)?;
            echoes(&mut session)?;
            assert_eq!(only_row(home)?["port"], first.port);
            end(session)?;
            home.thv(["rm", NAME]).output()?.expect(0)?;
        }
        nothing_left(home, &python)
    })
}
