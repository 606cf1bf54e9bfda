//! Clients that are timed: as little as possible stands between the clock and the wire, so they check nothing and
//! hand the bytes over as they came.

use super::message;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use thv_e2e::http::{Http, Request};
use thv_e2e::{Failure, Home, PROTOCOL_VERSION, Result, ensure};

/// How long anything may take before the run is given up.
const BOUND: Duration = Duration::from_secs(10);

/// A client that has one call under way at a time.
pub(super) trait Caller {
    /// The bytes that carry a message.
    fn prepare(&self, message: &str) -> Vec<u8>;
    /// Sends prepared bytes and returns the answer.
    fn exchange(&mut self, prepared: &[u8]) -> Result<Vec<u8>>;
}

/// A client of a program's standard input and output. Both are socket pairs, as Node's `child_process` makes them
/// and with it most AI clients. Dropping it ends the program.
pub(super) struct Stdio {
    child: Child,
    stdin: UnixStream,
    stdout: UnixStream,
    stderr: PathBuf,
    unread: Vec<u8>,
}

impl Stdio {
    /// Starts a program made with [`Home::command`].
    pub(super) fn start(home: &Home, mut command: Command) -> Result<Self> {
        let (stdin, its_stdin) = UnixStream::pair()?;
        let (stdout, its_stdout) = UnixStream::pair()?;
        stdin.set_write_timeout(Some(BOUND))?;
        stdout.set_read_timeout(Some(BOUND))?;
        let stderr = home.user().join("stderr");
        let its_stderr = File::options().create(true).append(true).open(&stderr)?;
        command.stdin(OwnedFd::from(its_stdin)).stdout(OwnedFd::from(its_stdout)).stderr(its_stderr);
        let child = command.spawn()?;
        Ok(Self { child, stdin, stdout, stderr, unread: Vec::new() })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> Result {
        self.stdin.write_all(bytes).map_err(|error| self.failure(&format!("writing: {error}")))
    }

    /// The next line, with its end.
    pub(super) fn line(&mut self) -> Result<Vec<u8>> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.unread[searched..].iter().position(|byte| *byte == b'\n') {
                return Ok(self.unread.drain(..=searched + at).collect());
            }
            searched = self.unread.len();
            if !self.fill()? {
                return Err(self.failure("it closed its output"));
            }
        }
    }

    /// The handshake, its first half within the time of the caller.
    pub(super) fn initialize(&mut self) -> Result<Vec<u8>> {
        self.send(&self.prepare(&message::initialize()))?;
        self.line()
    }

    /// Sends messages with `window` of them under way at a time, and returns the answers.
    pub(super) fn flood(&mut self, messages: &[Vec<u8>], window: usize) -> Result<Vec<Vec<u8>>> {
        let (first, rest) = messages.split_at(window.min(messages.len()));
        for message in first {
            self.send(message)?;
        }
        let mut answers = Vec::with_capacity(messages.len());
        for message in rest {
            answers.push(self.line()?);
            self.send(message)?;
        }
        for _ in first {
            answers.push(self.line()?);
        }
        Ok(answers)
    }

    /// Ends its input and waits for its end; returns what it still had to say.
    pub(super) fn finish(mut self) -> Result<Vec<u8>> {
        self.stdin.shutdown(Shutdown::Write)?;
        while self.fill()? {}
        let end = Instant::now() + BOUND;
        loop {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "{}", self.failure(&status.to_string()));
                return Ok(std::mem::take(&mut self.unread));
            }
            if Instant::now() > end {
                return Err(self.failure("it does not end"));
            }
            // Its output is closed, so it is as good as gone; the standard library has no bounded wait.
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    /// Reads what there is, or waits for it; false at the end.
    fn fill(&mut self) -> Result<bool> {
        let mut block = [0; 4 * 1024];
        match self.stdout.read(&mut block) {
            Ok(count) => {
                self.unread.extend_from_slice(&block[..count]);
                Ok(count > 0)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(self.failure(&format!("reading: {error}"))),
        }
    }

    fn failure(&self, what: &str) -> Failure {
        let said = std::fs::read_to_string(&self.stderr).unwrap_or_default();
        Failure::new(format!("pid {}: {what}; the programs said on stderr: {said:?}", self.pid()))
    }
}

impl Caller for Stdio {
    fn prepare(&self, message: &str) -> Vec<u8> {
        format!("{message}\n").into_bytes()
    }

    fn exchange(&mut self, prepared: &[u8]) -> Result<Vec<u8>> {
        self.send(prepared)?;
        self.line()
    }
}

impl Drop for Stdio {
    fn drop(&mut self) {
        // One that has been waited for is not signalled any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client of the guarded port, with the key, on one connection that is kept.
pub(super) struct Keyed {
    http: Http,
    template: Request,
}

impl Keyed {
    /// Connects and shakes hands.
    pub(super) fn open(port: u16, key: &str) -> Result<Self> {
        let template = Request::mcp(port, "").key(key);
        let mut http = Http::open(port)?;
        http.send(&template.clone().body(message::initialize()).bytes());
        let hello = http.response()?;
        message::check_initialized(&hello.body)?;
        let session = hello.header("mcp-session-id").unwrap_or_default();
        let template =
            template.header("Mcp-Session-Id", session).header("MCP-Protocol-Version", PROTOCOL_VERSION);
        http.send(&template.clone().body(message::INITIALIZED).bytes());
        let accepted = http.response()?;
        ensure!(accepted.status == 202, "a notification was not accepted: {}", accepted.line);
        Ok(Self { http, template })
    }
}

impl Caller for Keyed {
    fn prepare(&self, message: &str) -> Vec<u8> {
        self.template.clone().body(message).bytes()
    }

    fn exchange(&mut self, prepared: &[u8]) -> Result<Vec<u8>> {
        self.http.send(prepared);
        Ok(self.http.response()?.body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(script: &str) -> (Home, Stdio) {
        let home = Home::with_binary("/bin/sh".into()).unwrap();
        let mut command = home.command("/bin/sh");
        command.args(["-c", script]);
        let stdio = Stdio::start(&home, command).unwrap();
        (home, stdio)
    }

    #[test]
    fn a_flood_brings_one_answer_for_each_message() {
        let (home, mut stdio) = start("exec cat");
        for (count, window) in [(100, 8), (3, 8), (0, 8), (8, 8)] {
            let messages: Vec<_> = (0..count).map(|at| stdio.prepare(&at.to_string())).collect();
            assert_eq!(stdio.flood(&messages, window).unwrap(), messages, "{count} {window}");
        }
        assert_eq!(stdio.exchange(b"last\n").unwrap(), b"last\n");
        assert_eq!(stdio.finish().unwrap(), b"");
        home.close().unwrap();
    }

    #[test]
    fn what_is_left_and_how_it_ended_is_told() {
        let (home, mut stdio) = start("echo one; printf two");
        assert_eq!(stdio.line().unwrap(), b"one\n");
        assert_eq!(stdio.finish().unwrap(), b"two");
        home.close().unwrap();
        let (home, stdio) = start("echo why >&2; exit 3");
        let failure = stdio.finish().unwrap_err().to_string();
        assert!(failure.contains("exit status: 3") && failure.contains("why"), "{failure}");
        home.close().unwrap();
    }

    #[test]
    fn a_dropped_client_ends_its_program() {
        let (home, stdio) = start("exec sleep 600");
        drop(stdio);
        home.close().unwrap();
    }
}
