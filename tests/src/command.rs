//! The `thv` command as tests start it: in a home of its own, with an environment that holds nothing else.

use crate::running::{Exit, Running};
use crate::{Failure, Foreground, Home, McpStdio, Result, Terminal};
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::process::Command;
use std::time::Duration;

/// How long a command that is not meant to stay may run.
const COMMAND_BOUND: Duration = Duration::from_secs(120);

/// One call of `thv`, made by [`Home::thv`].
#[must_use]
pub struct Thv<'home> {
    home: &'home Home,
    args: Vec<OsString>,
    env: Vec<(OsString, Option<OsString>)>,
    stdin: Vec<u8>,
    shows_key: bool,
}

impl<'home> Thv<'home> {
    pub(crate) fn new(home: &'home Home) -> Self {
        Self { home, args: Vec::new(), env: Vec::new(), stdin: Vec::new(), shows_key: false }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable on top of the scrubbed environment.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), Some(value.as_ref().to_owned())));
        self
    }

    /// Takes a variable out of the scrubbed environment.
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), None));
        self
    }

    /// What [`Thv::output`] writes to its stdin before it closes it; nothing otherwise.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// This call prints a key by design: its output is left out of the search for leaks.
    pub fn shows_key(mut self) -> Self {
        self.shows_key = true;
        self
    }

    /// The same call as a plain [`Command`], for a test that needs its own hands on it. Its output is not
    /// captured.
    pub fn command(&self) -> Command {
        let mut command = self.home.command(self.home.binary());
        command.args(&self.args);
        for (name, value) in &self.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// It could not be started or did not end within a minute.
    pub fn output(self) -> Result<Output> {
        let mut running = self.start()?;
        // A command that does not read its stdin may be gone before all is written.
        let _ = running.send(&self.stdin);
        running.close_stdin();
        let exit = running.wait(COMMAND_BOUND)?;
        Ok(Output {
            label: running.label().to_owned(),
            exit,
            stdout: running.stdout(),
            stderr: running.stderr(),
        })
    }

    /// Starts it and hands over the running process.
    ///
    /// # Errors
    /// It could not be started.
    pub fn start(&self) -> Result<Running> {
        Running::start(self.command(), &self.label(), self.home.captured(), self.shows_key)
    }

    /// Starts it at a terminal, with a person before it.
    ///
    /// # Errors
    /// It could not be started.
    pub fn terminal(&self) -> Result<Terminal> {
        Terminal::start(&self.command(), &self.label(), self.home.captured(), self.shows_key)
    }

    /// Starts it as a supervisor in the foreground and waits for its ready line.
    ///
    /// # Errors
    /// It ended or said something else instead, or said nothing for a minute.
    pub fn foreground(self) -> Result<Foreground> {
        Foreground::wait_ready(self.start()?)
    }

    /// Starts it as a bridge, to talk MCP with.
    ///
    /// # Errors
    /// It could not be started.
    pub fn bridge(self) -> Result<McpStdio> {
        Ok(McpStdio::new(self.start()?))
    }

    fn label(&self) -> String {
        let args = self.args.iter().map(|arg| arg.to_string_lossy());
        ["thv".into()].into_iter().chain(args).collect::<Vec<_>>().join(" ")
    }
}

/// What a finished command left behind.
#[derive(Debug)]
pub struct Output {
    /// The command as a person would type it.
    pub label: String,
    /// How it ended.
    pub exit: Exit,
    /// Its data.
    pub stdout: String,
    /// Its talk.
    pub stderr: String,
}

impl Output {
    /// Passes the output on if the command exited with `code`.
    ///
    /// # Errors
    /// It ended otherwise; the text shows everything it said.
    pub fn expect(self, code: i32) -> Result<Self> {
        if self.exit == Exit::Code(code) {
            return Ok(self);
        }
        let Self { label, exit, stdout, stderr } = &self;
        Err(Failure::new(format!(
            "`{label}` ended with {exit:?} instead of exit code {code}\nstdout:\n{stdout}\nstderr:\n{stderr}"
        )))
    }

    /// Its data as JSON.
    ///
    /// # Errors
    /// It is not JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout)
            .map_err(|error| Failure::from(error).during(format!("`{}`, {:?}", self.label, self.stdout)))
    }
}
