//! A command at a terminal: what a person sees and types. A pseudo-terminal, with the command in a session of its own
//! that the terminal controls, as in a window of a desktop.

use crate::captured::{Captured, Sink};
use crate::running::Exit;
use crate::{Failure, Result, ensure};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// How long something may take to show.
const BOUND: Duration = Duration::from_secs(30);

/// A command that talks to a person.
pub struct Terminal {
    label: String,
    child: Child,
    keyboard: File,
    screen: Sink,
    /// What has been read of the screen so far, in bytes.
    read: usize,
}

impl Terminal {
    /// Starts `command` in a terminal. `setsid` of util-linux makes that its controlling one, which is where programs
    /// ask for what nobody shall see.
    pub(crate) fn start(command: &Command, label: &str, captured: &Captured, exempt: bool) -> Result<Self> {
        let failed = |what: &str, error: rustix::io::Errno| Failure::new(format!("{what}: {error}"));
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).map_err(|error| failed("openpt", error))?;
        grantpt(&master).and_then(|()| unlockpt(&master)).map_err(|error| failed("unlockpt", error))?;
        let name = ptsname(&master, Vec::new()).map_err(|error| failed("ptsname", error))?;
        let end = File::options().read(true).write(true).open(OsStr::from_bytes(name.as_bytes()))?;

        let mut within = Command::new("setsid");
        within.arg("--ctty").arg(command.get_program()).args(command.get_args()).env_clear();
        within.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(folder) = command.get_current_dir() {
            within.current_dir(folder);
        }
        let child = within.stdin(end.try_clone()?).stdout(end.try_clone()?).stderr(end).spawn();
        let child = child.map_err(|error| Failure::from(error).during(label))?;
        // Ours is the only copy of the far end that could keep the screen open.
        drop(within);

        let keyboard = File::from(master);
        let screen = captured.open(format!("{label}: terminal"), exempt);
        let (mut output, sink) = (keyboard.try_clone()?, screen.clone());
        std::thread::spawn(move || {
            let mut block = [0; 4096];
            // An error says that nobody has the terminal open any more.
            while let Ok(count @ 1..) = output.read(&mut block) {
                sink.push(&block[..count]);
            }
            sink.close();
        });
        Ok(Self { label: label.to_owned(), child, keyboard, screen, read: 0 })
    }

    /// Waits until this stands on the screen, after what was awaited before.
    ///
    /// # Errors
    /// It did not come.
    pub fn await_text(&mut self, text: &str) -> Result {
        let end = Instant::now() + BOUND;
        loop {
            let bytes = self.screen.bytes();
            let news = String::from_utf8_lossy(&bytes[self.read..]).into_owned();
            if let Some(at) = news.find(text) {
                self.read += at + text.len();
                return Ok(());
            }
            ensure!(Instant::now() < end, "{}: {text:?} is not in {news:?}", self.label);
            // The screen has no event for a part of a line.
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Types a line that shall not be seen, once the terminal has stopped showing what is typed.
    ///
    /// # Errors
    /// It goes on showing it, or is gone.
    pub fn enter_unseen(&mut self, line: &str) -> Result {
        let end = Instant::now() + BOUND;
        let shows = |terminal: &File| {
            let modes = tcgetattr(terminal).map_err(|error| Failure::new(format!("tcgetattr: {error}")))?;
            Ok::<_, Failure>(modes.local_modes.contains(LocalModes::ECHO))
        };
        while shows(&self.keyboard)? {
            ensure!(Instant::now() < end, "{}: what is typed would be seen", self.label);
            std::thread::sleep(Duration::from_millis(2));
        }
        self.enter(line)
    }

    /// Types a line.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn enter(&mut self, line: &str) -> Result {
        Ok(self.keyboard.write_all(format!("{line}\n").as_bytes())?)
    }

    /// Waits for the end, and gives how it ended and all that stood on the screen.
    ///
    /// # Errors
    /// It did not end.
    pub fn finish(mut self) -> Result<(Exit, String)> {
        let end = Instant::now() + BOUND;
        let exit = loop {
            if let Some(status) = self.child.try_wait()? {
                break Exit::from(status);
            }
            ensure!(Instant::now() < end, "{} waits still: {:?}", self.label, self.screen.text());
            std::thread::sleep(Duration::from_millis(5));
        };
        ensure!(self.screen.wait_closed(BOUND), "{}: somebody holds its terminal", self.label);
        Ok((exit, self.screen.text()))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_arrives_and_what_is_said_is_seen() {
        let mut command = Command::new("/bin/sh");
        let script = "test -t 0 && printf 'Name? ' >/dev/tty; read name; echo hello $name; \
                      stty -echo; read word; stty echo; echo ${#word}; exit 3";
        command.args(["-c", script]);
        let mut terminal = Terminal::start(&command, "sh", &Captured::default(), false).unwrap();
        terminal.await_text("Name? ").unwrap();
        terminal.enter("you").unwrap();
        terminal.await_text("hello you").unwrap();
        terminal.enter_unseen("hush").unwrap();
        let (exit, screen) = terminal.finish().unwrap();
        assert_eq!((exit, screen.as_str()), (Exit::Code(3), "Name? you\r\nhello you\r\n4\r\n"));
    }
}
