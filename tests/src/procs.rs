//! Which processes belong to a test: those whose environment, arguments or working directory name its home.
//!
//! The home is a directory with a random name, handed down as `HOME`, `TMPDIR` and `THV_HOME`, so whatever was
//! started from it, however indirectly, carries its name. Only Linux shows it; elsewhere nothing is found. A process
//! that is not dumpable shows it to root alone.

use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;

/// A process that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proc {
    /// Its process id.
    pub pid: u32,
    /// Its arguments, joined by spaces.
    pub command: String,
    /// Start time in ticks since boot: with the pid, it names one process for good.
    started: String,
}

impl Proc {
    fn read(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the command's name in parentheses and may itself hold spaces and parentheses.
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        if matches!(*fields.first()?, "Z" | "X") {
            return None;
        }
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ").trim_end().to_owned();
        Some(Self { pid, command, started: (*fields.get(19)?).to_owned() })
    }

    fn names(&self, dir: &Path) -> bool {
        let needle = dir.as_os_str().as_encoded_bytes();
        let has = |bytes: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
        has(self.command.as_bytes())
            || std::fs::read(format!("/proc/{}/environ", self.pid)).is_ok_and(|bytes| has(&bytes))
            || std::fs::read_link(format!("/proc/{}/cwd", self.pid)).is_ok_and(|cwd| cwd.starts_with(dir))
    }

    /// Whether this very process still runs.
    pub fn is_alive(&self) -> bool {
        Self::read(self.pid).is_some_and(|now| now.started == self.started)
    }

    /// SIGKILL, if the pid still belongs to it.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Any signal, if the pid still belongs to it.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|_| self.is_alive()) {
            // It may have ended by itself just now, which is what is wanted.
            let _ = kill_process(pid, signal);
        }
    }

    /// Its parent, while it runs.
    pub fn parent(&self) -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    }
}

/// The process with this pid and start time, if it runs.
pub(crate) fn named(pid: u32, started: u64) -> Option<Proc> {
    Proc::read(pid).filter(|process| process.started == started.to_string())
}

/// All processes but this one that belong to the home `dir`.
pub(crate) fn of_home(dir: &Path) -> Vec<Proc> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id())
        .filter_map(Proc::read)
        .filter(|process| process.names(dir))
        .collect()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::{Captured, Running, STOP_BOUND};
    use std::process::Command;

    /// A shell that waits for its stdin to close, after `change`; it has come up when this returns.
    fn waiting(change: impl FnOnce(&mut Command)) -> Running {
        let mut command = Command::new("sh");
        change(command.args(["-c", "echo up; read line"]));
        let mut running = Running::start(command, "sh", &Captured::default(), false).unwrap();
        running.line(STOP_BOUND).unwrap();
        running
    }

    #[test]
    fn a_process_is_found_by_environment_arguments_or_directory() {
        let dir = tempfile::tempdir().unwrap();
        let ours = [
            waiting(|command| _ = command.env("HOME", dir.path().join("user"))),
            waiting(|command| _ = command.current_dir(dir.path())),
            waiting(|command| _ = command.arg(dir.path())),
        ];
        let _stranger = waiting(|_| {});

        let mut found: Vec<_> = of_home(dir.path()).into_iter().map(|process| process.pid).collect();
        let mut expected: Vec<_> = ours.iter().map(Running::pid).collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected);
        drop(ours);
        assert_eq!(of_home(dir.path()), []);
    }

    #[test]
    fn a_killed_process_is_known_to_be_gone() {
        let mut running = waiting(|_| {});
        let process = Proc::read(running.pid()).unwrap();
        assert!(process.is_alive());
        process.kill();
        assert_eq!(running.wait(STOP_BOUND).unwrap(), crate::Exit::Signal(Signal::KILL.as_raw()));
        assert!(!process.is_alive());
        process.kill();
    }
}
