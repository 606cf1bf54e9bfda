//! Processes named so that no other can be taken for them.

use std::io;

use serde::{Deserialize, Serialize};

use crate::sys;

/// One process: its pid and when it was started. A pid alone is given to another process sooner or later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRef {
    /// The process id.
    pub pid: u32,
    /// Its start time, in the operating system's own units; from another boot it is never the same.
    pub start_time: u64,
}

impl ProcessRef {
    /// This process.
    ///
    /// # Errors
    /// The operating system does not tell when it was started.
    pub fn current() -> io::Result<Self> {
        Self::of(std::process::id())
            .ok_or_else(|| io::Error::other("the start time of this process cannot be read"))
    }

    /// The process that has this pid now.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        sys::start_time(pid).map(|start_time| Self { pid, start_time })
    }

    /// Whether this very process still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        sys::start_time(self.pid) == Some(self.start_time)
    }

    /// Asks it to end; nothing happens when it is gone.
    ///
    /// # Errors
    /// It runs and may not be signalled by us.
    pub fn terminate(&self) -> io::Result<()> {
        gone_is_fine(sys::terminate(*self))
    }

    /// Ends it at once; nothing happens when it is gone.
    ///
    /// # Errors
    /// It runs and may not be signalled by us.
    pub fn kill(&self) -> io::Result<()> {
        gone_is_fine(sys::kill(*self))
    }
}

/// Keeps descriptors that this process inherited by mistake from the processes that it starts. AI clients leak theirs.
pub fn keep_descriptors() {
    #[cfg(unix)]
    close_fds::set_fds_cloexec(3, &[]);
}

/// Names this process in process lists, where one that was started through `/proc/self/exe` would be `exe`.
pub fn show_as(name: &str) {
    sys::show_as(name);
}

/// Keeps this process's memory from core dumps and from other processes of the user, since keys are in it.
///
/// # Errors
/// The operating system refused.
pub fn harden() -> io::Result<()> {
    sys::harden()
}

/// Leaves the session that this process was started in, so that no terminal's signals reach it.
///
/// # Errors
/// The operating system refused.
#[cfg(unix)]
pub fn leave_session() -> io::Result<()> {
    rustix::process::setsid()?;
    Ok(())
}

/// Lets go of the standard input and output that this process was started with.
///
/// # Errors
/// The operating system refused.
pub fn detach_stdio() -> io::Result<()> {
    sys::detach_stdio()
}

/// A process that ended between the look and the signal is what was wanted.
fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(3) => Ok(()),
        other => other,
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_reused_pid_is_another_process() {
        let us = ProcessRef::current().unwrap();
        assert!(us.is_alive());
        let earlier = ProcessRef { start_time: us.start_time - 1, ..us };
        assert!(!earlier.is_alive());
        // Were it to signal by pid alone, this test would end here.
        earlier.kill().unwrap();
        earlier.terminate().unwrap();
    }

    #[test]
    fn an_ended_process_is_not_alive_even_before_it_is_reaped() {
        use std::io::Read as _;
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let process = ProcessRef::of(child.id()).unwrap();
        assert!(process.is_alive());
        process.kill().unwrap();
        child.stdout.take().unwrap().read_to_end(&mut Vec::new()).unwrap();
        child.wait().unwrap();
        assert!(!process.is_alive());
        process.kill().unwrap();
    }
}
