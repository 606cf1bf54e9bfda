//! An MCP client that speaks lines over a process's stdio, as an AI client does.

use crate::running::{Exit, Running};
use crate::{Result, ensure};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::time::Duration;

/// The protocol revision that [`McpStdio::initialize`] asks for.
pub const PROTOCOL_VERSION: &str = "2025-11-25";

/// How long an answer may take before a test gives up on it.
pub const ANSWER_BOUND: Duration = Duration::from_secs(30);

/// How long a bridge may take to end after its stdin has: what AI clients grant before they kill.
pub const FINISH_BOUND: Duration = Duration::from_secs(2);

/// A conversation with a bridge, or with a stdio server itself.
pub struct McpStdio {
    running: Running,
    next_id: u64,
    /// Messages that came while the answer to a request was awaited.
    inbox: VecDeque<Value>,
}

impl McpStdio {
    /// Talks to a process that was started.
    pub fn new(running: Running) -> Self {
        Self { running, next_id: 1, inbox: VecDeque::new() }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// What it said on stderr so far.
    pub fn stderr(&self) -> String {
        self.running.stderr()
    }

    /// The process itself, to signal it or to wait for it.
    pub fn running(&mut self) -> &mut Running {
        &mut self.running
    }

    /// Sends bytes as they are; a line end is the caller's business.
    ///
    /// # Errors
    /// It does not read any more.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> Result {
        self.running.send(bytes)
    }

    /// Sends one message.
    ///
    /// # Errors
    /// It does not read any more.
    pub fn send(&mut self, message: &Value) -> Result {
        self.send_bytes(format!("{message}\n").as_bytes())
    }

    /// Sends a notification.
    ///
    /// # Errors
    /// It does not read any more.
    pub fn notify(&mut self, method: &str, params: &Value) -> Result {
        self.send(&json!({ "jsonrpc": "2.0", "method": method, "params": params }))
    }

    /// Sends a request without awaiting its answer, and returns its id.
    ///
    /// # Errors
    /// It does not read any more.
    pub fn ask(&mut self, method: &str, params: &Value) -> Result<u64> {
        let id = self.next_id;
        self.next_id += 1;
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }))?;
        Ok(id)
    }

    /// Sends a request and returns the message that answers it, result or error. Other messages that come
    /// first are kept for [`McpStdio::recv`].
    ///
    /// # Errors
    /// No answer came.
    pub fn request(&mut self, method: &str, params: &Value) -> Result<Value> {
        let id = self.ask(method, params)?;
        self.answer(id).map_err(|failure| failure.during(method))
    }

    /// The answer to the request with this id. Other messages that come first are kept for [`McpStdio::recv`].
    ///
    /// # Errors
    /// No answer came.
    pub fn answer(&mut self, id: u64) -> Result<Value> {
        let is_answer = |message: &Value| message["id"] == id && message.get("method").is_none();
        let kept = self.inbox.iter().position(is_answer);
        if let Some(message) = kept.and_then(|at| self.inbox.remove(at)) {
            return Ok(message);
        }
        loop {
            let message = self.read(ANSWER_BOUND)?;
            if is_answer(&message) {
                return Ok(message);
            }
            self.inbox.push_back(message);
        }
    }

    /// The handshake: `initialize`, its result, `notifications/initialized`.
    ///
    /// # Errors
    /// No result came.
    pub fn initialize(&mut self) -> Result<Value> {
        let params = json!({
            "protocolVersion": PROTOCOL_VERSION,
            "capabilities": {},
            "clientInfo": { "name": "thv-e2e", "version": env!("CARGO_PKG_VERSION") },
        });
        let mut answer = self.request("initialize", &params)?;
        ensure!(answer.get("result").is_some(), "initialize was refused: {answer}");
        self.notify("notifications/initialized", &json!({}))?;
        Ok(answer["result"].take())
    }

    /// The next message in the order of arrival.
    ///
    /// # Errors
    /// None came within `bound`, or a line was not JSON: stdout carries messages and nothing else.
    pub fn recv(&mut self, bound: Duration) -> Result<Value> {
        match self.inbox.pop_front() {
            Some(message) => Ok(message),
            None => self.read(bound),
        }
    }

    fn read(&mut self, bound: Duration) -> Result<Value> {
        let Some(line) = self.running.line(bound)? else {
            return Err(self.running.failure("closed its stdout"));
        };
        self.parse(&line)
    }

    fn parse(&self, line: &[u8]) -> Result<Value> {
        serde_json::from_slice(line).map_err(|error| {
            let line = String::from_utf8_lossy(line);
            self.running.failure(&format!("a line on stdout that is not a message: {line:?}: {error}"))
        })
    }

    /// Closes its stdin and waits for its end; returns how it ended and the messages that had not been read.
    ///
    /// # Errors
    /// It did not end in time, or a line was not JSON.
    pub fn finish(mut self) -> Result<(Exit, Vec<Value>)> {
        self.running.close_stdin();
        let exit = self.running.wait(FINISH_BOUND)?;
        let mut rest: Vec<_> = self.inbox.drain(..).collect();
        while let Some(line) = self.running.line(FINISH_BOUND)? {
            rest.push(self.parse(&line)?);
        }
        Ok((exit, rest))
    }
}
