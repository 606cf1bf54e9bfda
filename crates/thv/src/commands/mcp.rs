//! `thv mcp`: tries a workload from the shell, by the same way that an AI client takes: the bridge, key and proof.

use std::collections::HashSet;
use std::io;

use serde_json::{Value, json};
use thv_bridge::Options;
use thv_keygen::Name;
use thv_wire::code::Reason;
use thv_workload::registry;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, Lines};

use super::not_found;
use crate::args::{Format, Mcp, McpCall, McpList, McpWhat};
use crate::environment::Environment;
use crate::failure::{Exit, Failure, Outcome};
use crate::locate::HomeLocator;
use crate::logs;
use crate::say;
use crate::supervise;

/// How much may wait between the bridge and this client, in bytes.
const PIPE: usize = 64 << 10;

/// How many pages of a list are asked for before a server is taken to repeat itself.
const PAGES: usize = 1_000;

/// Lists or calls.
pub fn mcp(environment: &Environment, command: &Mcp, debug: bool) -> Outcome {
    match command {
        Mcp::List(args) => with(environment, &args.name, debug, async |session| list(session, args).await),
        Mcp::Call(args) => {
            // What cannot be sent is told of before a server is started for it.
            let arguments = arguments(&args.args)?;
            with(environment, &args.name, debug, async |session| call(session, args, arguments).await)
        }
    }
}

fn arguments(text: &str) -> Outcome<Value> {
    let wrong = || {
        Failure::new(Exit::Usage, "--args is not a JSON object")
            .hint("write it as one, quoted for the shell: --args '{\"name\": \"value\"}'")
    };
    let value: Value = serde_json::from_str(text).map_err(|error| wrong().because(&error))?;
    if value.is_object() { Ok(value) } else { Err(wrong()) }
}

async fn list(session: &mut Session, args: &McpList) -> Outcome {
    let (method, member) = match args.what {
        McpWhat::Tools => ("tools/list", "tools"),
        McpWhat::Resources => ("resources/list", "resources"),
        McpWhat::Prompts => ("prompts/list", "prompts"),
    };
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    let mut params = json!({});
    for _ in 0..PAGES {
        let mut page = session.ask(method, params).await?;
        if let Some(Value::Array(items)) = page.get_mut(member).map(Value::take) {
            found.extend(items);
        }
        match page.get("nextCursor").and_then(Value::as_str) {
            // A cursor that comes back would lead round for ever.
            Some(cursor) if seen.insert(cursor.to_owned()) => params = json!({ "cursor": cursor }),
            _ => break,
        }
    }
    match args.format {
        Format::Json => data(&Value::Array(found)),
        Format::Text => {
            for item in &found {
                say::data(&line(item));
            }
            Ok(())
        }
    }
}

/// `name  first line of the description`, or the URI of a resource in the name's place.
fn line(item: &Value) -> String {
    let text = |key: &str| item.get(key).and_then(Value::as_str);
    let name = text("uri").or_else(|| text("name")).unwrap_or("?");
    let about = text("description").or_else(|| text("title")).unwrap_or_default();
    let about = about.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let shown = |text: &str| text.chars().filter(|c| !c.is_control()).collect::<String>();
    format!("{}  {}", shown(name), shown(about)).trim_end().to_owned() + "\n"
}

async fn call(session: &mut Session, args: &McpCall, arguments: Value) -> Outcome {
    let result = session.ask("tools/call", json!({ "name": args.tool, "arguments": arguments })).await?;
    match args.format {
        Format::Json => data(&result)?,
        Format::Text => {
            let content = result.get("content").and_then(Value::as_array).cloned().unwrap_or_default();
            for block in &content {
                match block.get("text").and_then(Value::as_str) {
                    Some(text) => say::data(&format!("{}\n", text.trim_end_matches('\n'))),
                    // Pictures, sounds and links, as they came.
                    None => data(block)?,
                }
            }
        }
    }
    if result.get("isError").and_then(Value::as_bool) == Some(true) {
        return Err(Failure::new(Exit::Failed, format!("the tool {} reports an error", args.tool)));
    }
    Ok(())
}

fn data(value: &Value) -> Outcome {
    let json = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(Exit::Failed, "cannot write the answer as JSON").because(&error))?;
    say::data(&format!("{json}\n"));
    Ok(())
}

/// Runs a bridge within this process, and `work` over it.
fn with(
    environment: &Environment,
    name: &Name,
    debug: bool,
    work: impl AsyncFnOnce(&mut Session) -> Outcome,
) -> Outcome {
    logs::to_stderr(debug);
    let home = environment.checked_home()?;
    if matches!(registry::load(home, name), Ok(None)) {
        return Err(not_found(home, name));
    }
    let locator = HomeLocator::new(home.clone(), name.clone(), true, debug);
    let (runtime, interrupt) = supervise::runtime()?;
    let outcome = runtime.block_on(async {
        let (ours, theirs) = tokio::io::duplex(PIPE);
        let (input, output) = tokio::io::split(theirs);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let bridge = thv_bridge::run(input, output, locator, Options::default(), async {
            let _ = stopped.await;
        });
        let work = async {
            let mut session = Session::new(ours);
            let done = async {
                session.begin().await?;
                work(&mut session).await
            };
            let outcome = tokio::select! {
                biased;
                () = interrupt => Err(Failure::new(Exit::Failed, "interrupted")),
                outcome = done => outcome,
            };
            // What still waits need not be waited for.
            drop(session);
            let _ = stop.send(());
            outcome
        };
        tokio::join!(work, bridge).0
    });
    runtime.shutdown_background();
    outcome
}

/// What became of a request.
enum Answer {
    Result(Value),
    Error(Value),
}

/// One MCP session over the bridge, a request at a time.
struct Session {
    lines: Lines<BufReader<tokio::io::ReadHalf<DuplexStream>>>,
    input: tokio::io::WriteHalf<DuplexStream>,
    last: u64,
    /// What the era without sessions wants beside the parameters of each request.
    meta: Option<Value>,
}

impl Session {
    fn new(stream: DuplexStream) -> Self {
        let (output, input) = tokio::io::split(stream);
        Self { lines: BufReader::new(output).lines(), input, last: 0, meta: None }
    }

    /// Begins a session. A server that declines may be of the era that has none; if it is not, what it said first is
    /// what a person should hear.
    async fn begin(&mut self) -> Outcome {
        let client = json!({ "name": "thv", "version": env!("CARGO_PKG_VERSION") });
        let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client });
        let Answer::Error(error) = self.exchange("initialize", params).await? else {
            return self.say(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })).await;
        };
        // Most of the bridge's own errors say that no server has answered.
        let code = error.get("code").and_then(Value::as_i64);
        if code.is_some_and(|code| (-33007..=-33001).contains(&code) && code != Reason::UpstreamHttp.code()) {
            return Err(refused("initialize", &error));
        }
        self.meta = Some(json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": client,
            "io.modelcontextprotocol/clientCapabilities": {},
        }));
        match self.exchange("server/discover", json!({})).await? {
            Answer::Result(_) => Ok(()),
            Answer::Error(_) => Err(refused("initialize", &error)),
        }
    }

    /// Sends a request and waits for its result.
    async fn ask(&mut self, method: &str, params: Value) -> Outcome<Value> {
        match self.exchange(method, params).await? {
            Answer::Result(result) if result.get("resultType") == Some(&json!("input_required")) => Err(
                Failure::new(Exit::Failed, format!("{method} asks for input, which nobody here can give"))
                    .hint("call it from an AI client"),
            ),
            Answer::Result(result) => Ok(result),
            Answer::Error(error) => Err(refused(method, &error)),
        }
    }

    async fn exchange(&mut self, method: &str, mut params: Value) -> Outcome<Answer> {
        self.last += 1;
        let id = self.last;
        if let Some(meta) = &self.meta {
            params["_meta"] = meta.clone();
        }
        self.say(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })).await?;
        loop {
            let line = self.lines.next_line().await.map_err(|error| broken(&error))?;
            let line = line.ok_or_else(|| broken(&io::ErrorKind::UnexpectedEof.into()))?;
            let mut message: Value = serde_json::from_str(&line).map_err(|error| broken(&error.into()))?;
            if message.get("method").is_some() {
                self.decline(&message).await?;
            } else if message.get("id") == Some(&json!(id)) {
                return Ok(match message.get("error") {
                    Some(error) => Answer::Error(error.clone()),
                    None => Answer::Result(message.get_mut("result").map(Value::take).unwrap_or_default()),
                });
            }
        }
    }

    /// Answers what the server asks of a client that can do nothing for it.
    async fn decline(&mut self, request: &Value) -> Outcome {
        let Some(id) = request.get("id") else { return Ok(()) };
        let answer = if request.get("method") == Some(&json!("ping")) {
            json!({ "jsonrpc": "2.0", "id": id, "result": {} })
        } else {
            let error = json!({ "code": -32601, "message": "this client offers no such thing" });
            json!({ "jsonrpc": "2.0", "id": id, "error": error })
        };
        self.say(&answer).await
    }

    async fn say(&mut self, message: &Value) -> Outcome {
        let line = format!("{message}\n");
        self.input.write_all(line.as_bytes()).await.map_err(|error| broken(&error))
    }
}

fn broken(error: &io::Error) -> Failure {
    Failure::new(Exit::Failed, "the bridge broke off").because(error)
}

/// An error of the server, or of the bridge, whose reasons have exit codes of their own.
fn refused(method: &str, error: &Value) -> Failure {
    let reason = error.pointer("/data/reason").and_then(Value::as_str);
    let exit = match (error.get("code").and_then(Value::as_i64), reason) {
        (Some(-33001), Some("keychain_locked" | "keychain_unavailable")) => Exit::Keychain,
        (Some(-33001 | -33003), _) => Exit::Refused,
        _ => Exit::Failed,
    };
    let message = error.get("message").and_then(Value::as_str).unwrap_or("without a message");
    let code = error.get("code").map(Value::to_string).unwrap_or_default();
    Failure::new(exit, format!("{method} failed with error {code}"))
        .because(&io::Error::other(message.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_an_object() {
        assert_eq!(arguments("{\"a\": 1}").unwrap(), json!({ "a": 1 }));
        for wrong in ["", "1", "[]", "{'a': 1}"] {
            assert_eq!(arguments(wrong).unwrap_err().exit(), Exit::Usage, "{wrong}");
        }
    }

    #[test]
    fn a_line_shows_text_that_a_terminal_does_not_obey() {
        let item = json!({ "name": "add\u{1b}[2J", "description": "\n  Adds.\nAt length." });
        assert_eq!(line(&item), "add[2J  Adds.\n");
        assert_eq!(line(&json!({ "uri": "file:///a", "name": "a" })), "file:///a\n");
    }

    #[test]
    fn reasons_of_the_bridge_have_exit_codes() {
        let locked = json!({ "code": -33001, "message": "m", "data": { "reason": "keychain_locked" } });
        assert_eq!(refused("x", &locked).exit(), Exit::Keychain);
        assert_eq!(refused("x", &json!({ "code": -33003, "message": "m" })).exit(), Exit::Refused);
        assert_eq!(refused("x", &json!({ "code": -32602 })).exit(), Exit::Failed);
    }
}
