//! A supervisor that runs in the foreground, known by the line that it prints when it is ready.

use crate::running::{Exit, Running};
use crate::{Failure, Result};
use rustix::process::Signal;
use std::time::Duration;

/// How long a server may take to be ready.
const READY_BOUND: Duration = Duration::from_secs(60);

/// What the ready line says: `NAME  running  URL  key ID`, or `open` in place of the key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ready {
    pub(crate) name: String,
    pub(crate) url: String,
    pub(crate) port: u16,
    pub(crate) key_id: Option<String>,
}

impl Ready {
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let words: Vec<_> = line.split_whitespace().collect();
        let (name, url, key_id) = match words[..] {
            [name, "running", url, "key", id] if is_key_id(id) => (name, url, Some(id.to_owned())),
            [name, "running", url, "open"] => (name, url, None),
            _ => return None,
        };
        let (authority, _path) = url.strip_prefix("http://")?.split_once('/')?;
        let port = authority.rsplit_once(':')?.1.parse().ok()?;
        Some(Self { name: name.to_owned(), url: url.to_owned(), port, key_id })
    }
}

fn is_key_id(word: &str) -> bool {
    word.len() == 16 && word.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A workload whose supervisor is a child of this test. Dropping it ends it.
pub struct Foreground {
    running: Running,
    ready: Ready,
    line: String,
}

impl Foreground {
    pub(crate) fn wait_ready(mut running: Running) -> Result<Self> {
        let Some(line) = running.line(READY_BOUND)? else {
            let how = running.wait(READY_BOUND)?;
            return Err(running.failure(&format!("ended with {how:?} before it was ready")));
        };
        let line = String::from_utf8_lossy(&line).into_owned();
        match Ready::parse(&line) {
            Some(ready) => Ok(Self { running, ready, line }),
            None => Err(Failure::new(format!("`{}`: this is no ready line: {line:?}", running.label()))),
        }
    }

    /// The ready line as printed.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// The workload's name.
    pub fn name(&self) -> &str {
        &self.ready.name
    }

    /// The endpoint, as printed.
    pub fn url(&self) -> &str {
        &self.ready.url
    }

    /// The port of the endpoint.
    pub fn port(&self) -> u16 {
        self.ready.port
    }

    /// The id of the current key; `None` for an open workload.
    pub fn key_id(&self) -> Option<&str> {
        self.ready.key_id.as_deref()
    }

    /// The supervisor's process id.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// What the supervisor said on stderr so far.
    pub fn stderr(&self) -> String {
        self.running.stderr()
    }

    /// Sends the supervisor a signal.
    ///
    /// # Errors
    /// The signal could not be sent.
    pub fn signal(&mut self, signal: Signal) -> Result {
        self.running.signal(signal)
    }

    /// Waits for the supervisor's end.
    ///
    /// # Errors
    /// It still runs after `bound`, or left something behind that holds its output open.
    pub fn wait(&mut self, bound: Duration) -> Result<Exit> {
        self.running.wait(bound)
    }

    /// SIGTERM and a bounded wait.
    ///
    /// # Errors
    /// It had to be killed, or left something behind that holds its output open.
    pub fn stop(mut self) -> Result<Exit> {
        self.running.stop()
    }

    /// SIGKILL, as a crash would be.
    pub fn kill(mut self) {
        self.running.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_lines() {
        let check = |line: &str, expect: Option<(&str, u16, Option<&str>)>| {
            let ready = Ready::parse(line);
            let seen = ready.as_ref().map(|ready| (ready.name.as_str(), ready.port, ready.key_id.as_deref()));
            assert_eq!(seen, expect, "{line}");
        };
        check(
            "time  running  http://127.0.0.1:41873/mcp  key 9f2c41d07b3e5a18",
            Some(("time", 41873, Some("9f2c41d07b3e5a18"))),
        );
        check("time  running  http://127.0.0.1:80/mcp  open", Some(("time", 80, None)));
        check("time  running  http://[::1]:8080/mcp  open", Some(("time", 8080, None)));
        check("time  running  http://127.0.0.1:41873/mcp", None);
        check("time  running  http://127.0.0.1:41873/mcp  key 9F2C41D07B3E5A18", None);
        check("time  running  http://127.0.0.1:41873/mcp  key 9f2c", None);
        check("time  starting  http://127.0.0.1:41873/mcp  open", None);
        check("time  running  http://127.0.0.1:99999/mcp  open", None);
        check("", None);
    }
}
