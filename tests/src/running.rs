//! A child process whose output is read all the time and whose end is always waited for, within a bound.

use crate::captured::{Captured, Sink};
use crate::{Failure, Result};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// How long a process may take to end after SIGTERM before it is killed.
pub const STOP_BOUND: Duration = Duration::from_secs(30);

/// How long to wait for the end of output once a process has exited.
const DRAIN_BOUND: Duration = Duration::from_secs(10);

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited by itself with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        // A status of `wait` is always one of the two.
        status.code().map_or_else(|| Self::Signal(status.signal().unwrap_or_default()), Self::Code)
    }
}

/// A running child. Dropping it ends it: SIGTERM, a bounded wait, SIGKILL.
pub struct Running {
    label: String,
    child: Child,
    exit: Option<Exit>,
    stdin: Option<ChildStdin>,
    lines: Receiver<Vec<u8>>,
    stdout: Sink,
    stderr: Sink,
}

impl Running {
    /// Starts `command` with pipes on all three streams.
    pub(crate) fn start(
        mut command: Command,
        label: &str,
        captured: &Captured,
        exempt: bool,
    ) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| Failure::from(error).during(label))?;
        let stdout = captured.open(format!("{label}: stdout"), exempt);
        let stderr = captured.open(format!("{label}: stderr"), exempt);
        let (sender, lines) = channel();
        if let Some(pipe) = child.stdout.take() {
            read_on_thread(pipe, stdout.clone(), Some(sender));
        }
        if let Some(pipe) = child.stderr.take() {
            read_on_thread(pipe, stderr.clone(), None);
        }
        let stdin = child.stdin.take();
        Ok(Self { label: label.to_owned(), child, exit: None, stdin, lines, stdout, stderr })
    }

    /// The command as a person would type it.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to stdout so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it wrote to stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// The next line of stdout without its line end, or `None` once stdout is closed.
    ///
    /// # Errors
    /// No line came within `bound`.
    pub fn line(&mut self, bound: Duration) -> Result<Option<Vec<u8>>> {
        match self.lines.recv_timeout(bound) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => Err(self.failure(&format!("no line within {bound:?}"))),
        }
    }

    /// Writes to its stdin.
    ///
    /// # Errors
    /// Its stdin is closed, on either side.
    pub fn send(&mut self, bytes: &[u8]) -> Result {
        let written = match &mut self.stdin {
            Some(stdin) => stdin.write_all(bytes).and_then(|()| stdin.flush()),
            None => return Err(self.failure("its stdin was closed before")),
        };
        written.map_err(|error| self.failure(&format!("writing to its stdin: {error}")))
    }

    /// Closes its stdin, which is how an MCP client says goodbye.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Sends a signal; a process that has ended already gets none.
    ///
    /// # Errors
    /// The signal could not be sent.
    pub fn signal(&mut self, signal: Signal) -> Result {
        // Only a child that has not been waited for still owns its pid.
        if self.poll()?.is_none() {
            let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
            let pid = pid.ok_or_else(|| self.failure("its pid is out of range"))?;
            kill_process(pid, signal).map_err(|error| self.failure(&format!("signal: {error}")))?;
        }
        Ok(())
    }

    /// How it ended, or `None` while it runs.
    ///
    /// # Errors
    /// The system would not say.
    pub fn poll(&mut self) -> Result<Option<Exit>> {
        if self.exit.is_none() {
            self.exit = self.child.try_wait()?.map(Exit::from);
        }
        Ok(self.exit)
    }

    /// Waits for its end and for the end of its output.
    ///
    /// # Errors
    /// It still runs after `bound`, or a descendant still holds its output open a while after its end.
    pub fn wait(&mut self, bound: Duration) -> Result<Exit> {
        let exit = self.wait_exit(bound)?;
        for (name, sink) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !sink.wait_closed(DRAIN_BOUND) {
                return Err(self.failure(&format!("it has ended, but something still holds its {name}")));
            }
        }
        Ok(exit)
    }

    fn wait_exit(&mut self, bound: Duration) -> Result<Exit> {
        let end = Instant::now() + bound;
        loop {
            if let Some(exit) = self.poll()? {
                return Ok(exit);
            }
            if Instant::now() >= end {
                return Err(self.failure(&format!("still running after {bound:?}")));
            }
            // The portable standard library has no bounded wait for a child.
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends it gently: SIGTERM, then a bounded wait. What still runs then is killed and reported.
    ///
    /// # Errors
    /// It did not end by itself within [`STOP_BOUND`].
    pub fn stop(&mut self) -> Result<Exit> {
        self.signal(Signal::TERM)?;
        let gentle = self.wait(STOP_BOUND);
        if gentle.is_err() {
            self.kill();
        }
        gentle
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        if matches!(self.poll(), Ok(None)) && self.child.kill().is_ok() {
            self.exit = self.child.wait().ok().map(Exit::from);
        }
    }

    /// A failure that names the command and shows what it said on stderr.
    pub(crate) fn failure(&self, what: &str) -> Failure {
        let stderr = self.stderr();
        let said = if stderr.trim().is_empty() { String::new() } else { format!("\nits stderr:\n{stderr}") };
        Failure::new(format!("`{}` (pid {}): {what}{said}", self.label, self.pid()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.close_stdin();
        if self.signal(Signal::TERM).is_err() || self.wait_exit(STOP_BOUND).is_err() {
            self.kill();
        }
    }
}

fn read_on_thread(mut pipe: impl Read + Send + 'static, sink: Sink, lines: Option<Sender<Vec<u8>>>) {
    std::thread::spawn(move || {
        let mut block = [0; 16 * 1024];
        let mut line = Vec::new();
        while let Ok(count @ 1..) = pipe.read(&mut block) {
            sink.push(&block[..count]);
            let Some(lines) = &lines else { continue };
            for part in block[..count].split_inclusive(|byte| *byte == b'\n') {
                line.extend_from_slice(part);
                if line.ends_with(b"\n") {
                    line.pop();
                    // Nobody may be listening any more; the sink has the bytes.
                    let _ = lines.send(std::mem::take(&mut line));
                }
            }
        }
        if let Some(lines) = lines.filter(|_| !line.is_empty()) {
            let _ = lines.send(line);
        }
        sink.close();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_secs(10);

    fn sh(script: &str) -> (Running, Captured) {
        let captured = Captured::default();
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        (Running::start(command, script, &captured, false).unwrap(), captured)
    }

    #[test]
    fn lines_exit_and_capture() {
        let (mut child, captured) = sh("echo one; printf 'two'; echo talk >&2; exit 7");
        assert_eq!(child.line(BOUND).unwrap().as_deref(), Some(&b"one"[..]));
        assert_eq!(child.line(BOUND).unwrap().as_deref(), Some(&b"two"[..]));
        assert_eq!(child.line(BOUND).unwrap(), None);
        assert_eq!(child.wait(BOUND).unwrap(), Exit::Code(7));
        let streams: Vec<_> = captured.streams().into_iter().map(|(_, bytes)| bytes).collect();
        assert_eq!(streams, [b"one\ntwo".to_vec(), b"talk\n".to_vec()]);
    }

    #[test]
    fn stdin_is_a_pipe_that_can_be_closed() {
        let (mut child, _) = sh("cat");
        child.send(b"through\n").unwrap();
        assert_eq!(child.line(BOUND).unwrap().as_deref(), Some(&b"through"[..]));
        child.close_stdin();
        assert_eq!(child.wait(BOUND).unwrap(), Exit::Code(0));
        assert!(child.send(b"late").is_err());
    }

    #[test]
    fn a_child_that_stays_is_ended_and_reported() {
        let (mut child, _) = sh("exec sleep 600");
        assert!(child.wait(Duration::ZERO).unwrap_err().to_string().contains("still running"));
        assert_eq!(child.stop().unwrap(), Exit::Signal(Signal::TERM.as_raw()));
    }

    #[test]
    fn a_descendant_that_keeps_the_output_open_is_noticed() {
        let (mut child, _) = sh("sleep 600 & echo $!");
        let line = child.line(BOUND).unwrap().unwrap();
        let error = child.wait(BOUND).unwrap_err().to_string();
        let pid = std::str::from_utf8(&line).unwrap().parse().ok().and_then(Pid::from_raw).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
        assert!(error.contains("still holds its stdout"), "{error}");
    }
}
