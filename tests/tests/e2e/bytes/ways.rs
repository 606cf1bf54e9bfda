//! The ways from a client to the server, and the server at their end.

use super::corpus::Exchange;
use crate::fixture::{fixture, listening};
use serde_json::json;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use thv_e2e::http::Request;
use thv_e2e::{ANSWER_BOUND, Exit, Failure, Foreground, Home, McpStdio, Result, Running, ensure};

/// The workload's name.
const NAME: &str = "bytes";

/// Whether the client has a session.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Era {
    Legacy,
    Modern,
}

/// What the server speaks on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    Stdio,
    Http,
    Sse,
}

/// The server, and what it has heard.
pub(super) struct Server<'a> {
    home: &'a Home,
    python: &'a Path,
    wire: Wire,
    era: Era,
    script: PathBuf,
    record: PathBuf,
    /// What was started for it.
    running: RefCell<(Option<Running>, Option<Foreground>)>,
}

impl<'a> Server<'a> {
    pub(super) fn new(home: &'a Home, python: &'a Path, wire: Wire, corpus: &[Exchange]) -> Result<Self> {
        let script: BTreeMap<_, _> =
            corpus.iter().map(|exchange| (&*exchange.method, &exchange.script)).collect();
        let script = home.file("script.json", json!(script).to_string())?;
        let record = home.file("record", "")?;
        let has_session = corpus.iter().all(|exchange| !exchange.request.contains("protocolVersion"));
        let era = if has_session { Era::Legacy } else { Era::Modern };
        Ok(Self { home, python, wire, era, script, record, running: RefCell::default() })
    }

    fn command(&self) -> Vec<String> {
        let transport = match self.wire {
            Wire::Stdio => "stdio",
            Wire::Http => "http",
            Wire::Sse => "sse",
        };
        let words = [
            self.python.join("python3"),
            "-SB".into(),
            fixture("bytes/echo.py"),
            transport.into(),
            self.script.clone(),
            self.record.clone(),
        ];
        words.map(|word| word.to_string_lossy().into_owned()).into()
    }

    /// Puts the server behind a lock, and gives the port.
    fn guarded(&self) -> Result<u16> {
        let command = self.command();
        let options = ["--name", NAME, "--shared-key-auth"];
        let (server, guarded) = match self.wire {
            Wire::Stdio => {
                let words = options.into_iter().chain(["--"]).chain(command.iter().map(String::as_str));
                (None, self.home.run(words)?)
            }
            Wire::Http | Wire::Sse => {
                let (server, port) = listening(self.home, &command)?;
                let (transport, path) =
                    if self.wire == Wire::Sse { ("sse", "sse") } else { ("streamable-http", "mcp") };
                let url = format!("http://127.0.0.1:{port}/{path}");
                let words = options.into_iter().chain(["--transport", transport, &url]);
                (Some(server), self.home.run(words)?)
            }
        };
        let port = guarded.port();
        *self.running.borrow_mut() = (server, Some(guarded));
        Ok(port)
    }

    pub(super) fn directly(&self) -> Result<Way> {
        let command = self.command();
        let mut program = self.home.command(&command[0]);
        program.args(&command[1..]);
        self.greeted(McpStdio::new(self.home.start(program)?)).map(Way::Direct)
    }

    pub(super) fn bridge(&self) -> Result<Way> {
        self.guarded()?;
        self.greeted(self.home.bridge(NAME)?).map(Way::Bridge)
    }

    fn greeted(&self, mut session: McpStdio) -> Result<McpStdio> {
        if self.era == Era::Legacy {
            session.initialize()?;
        }
        Ok(session)
    }

    pub(super) fn port(&self) -> Result<Way> {
        let port = self.guarded()?;
        let base = |body: &str, key: &str| Request::mcp(port, body).key(key);
        let key = self.home.key(NAME)?;
        let mut headers = vec![("Mcp-Protocol-Version".to_owned(), crate::sdk::NEWEST.to_owned())];
        if self.era == Era::Legacy {
            let version = thv_e2e::PROTOCOL_VERSION;
            let params = json!({
                "protocolVersion": version, "capabilities": {}, "clientInfo": { "name": "bytes", "version": "1" },
            });
            let hello = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params });
            let answer = base(&hello.to_string(), &key).send()?;
            ensure!(answer.status == 200, "{answer:?}");
            headers = vec![("Mcp-Protocol-Version".to_owned(), version.to_owned())];
            headers.extend(
                answer.header("mcp-session-id").map(|id| ("Mcp-Session-Id".to_owned(), id.to_owned())),
            );
            let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
            let told = headers.iter().fold(base(&initialized.to_string(), &key), |request, (name, value)| {
                request.header(name, value)
            });
            ensure!(told.send()?.status == 202, "initialized was refused");
        }
        Ok(Way::Port { port, key, headers, era: self.era, hosted: self.wire == Wire::Stdio })
    }

    /// What the server has heard, once all that lead to it are gone.
    pub(super) fn heard(&self) -> Result<Vec<String>> {
        let (server, guarded) = self.running.take();
        if let Some(guarded) = guarded {
            ensure!(guarded.stop()? == Exit::Code(0), "the supervisor did not end in order");
        }
        drop(server);
        let record = String::from_utf8(std::fs::read(&self.record)?)
            .map_err(|error| Failure::new(error.to_string()))?;
        Ok(record.split_terminator('\n').map(str::to_owned).collect())
    }
}

/// A client, connected.
pub(super) enum Way {
    Direct(McpStdio),
    Bridge(McpStdio),
    Port { port: u16, key: String, headers: Vec<(String, String)>, era: Era, hosted: bool },
}

impl Way {
    /// Whether what belongs to no request stays with the host, since no stream is open for it.
    pub(super) const fn keeps_news_apart(&self) -> bool {
        matches!(self, Self::Port { hosted: true, .. })
    }

    /// Says the lines of an exchange, and returns what is heard, sorted.
    pub(super) fn exchange(&mut self, exchange: &Exchange) -> Result<Vec<String>> {
        let mut heard = match self {
            Self::Direct(session) | Self::Bridge(session) => {
                for line in exchange.lines() {
                    session.send_bytes(format!("{line}\n").as_bytes())?;
                }
                let lines = exchange.answers.iter().map(|_| {
                    let line = session.running().line(ANSWER_BOUND)?;
                    let line = line.ok_or_else(|| Failure::new("its stdout is closed"))?;
                    String::from_utf8(line).map_err(|error| Failure::new(error.to_string()))
                });
                lines.collect::<Result<Vec<_>>>()?
            }
            Self::Port { port, key, headers, era, .. } => {
                let mut heard = Vec::new();
                for line in exchange.lines() {
                    let mut request = Request::mcp(*port, line).key(key);
                    for (name, value) in &*headers {
                        request = request.header(name, value);
                    }
                    if *era == Era::Modern {
                        request = request.header("Mcp-Method", &exchange.method);
                    }
                    let response = request.send()?;
                    ensure!(matches!(response.status, 200 | 202) && response.whole, "{line}: {response:?}");
                    heard.extend(messages(&response)?);
                }
                heard
            }
        };
        heard.sort_unstable();
        Ok(heard)
    }

    /// Ends the client.
    pub(super) fn end(&mut self) -> Result {
        if let Self::Direct(session) | Self::Bridge(session) = self {
            session.running().close_stdin();
            let exit = session.running().wait(ANSWER_BOUND)?;
            ensure!(exit == Exit::Code(0), "{exit:?}");
            let rest = session.running().line(ANSWER_BOUND)?;
            ensure!(rest.is_none(), "one line too many: {rest:?}");
        }
        Ok(())
    }
}

/// The messages in a response, as they stand there.
fn messages(response: &thv_e2e::http::Response) -> Result<Vec<String>> {
    let text = String::from_utf8(response.body.clone()).map_err(|error| Failure::new(error.to_string()))?;
    if response.header("content-type") != Some("text/event-stream") {
        return Ok(Some(text).filter(|text| !text.is_empty()).into_iter().collect());
    }
    // Priming events have no data.
    let data = text.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| !data.is_empty());
    Ok(data.map(str::to_owned).collect())
}
