//! A server as a process: started under a guardian, spoken to through pipes, ended with all that it started.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;

use crate::files;
use crate::groups::GroupRecord;
use crate::guardian::{Launcher, StopTimes};
use crate::orphans;
use crate::process::ProcessRef;

/// Variables of the user that every server gets, as they were at `run`.
pub const BASE_ENV: [&str; 8] = ["HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER", "LANG", "TMPDIR"];

/// A log larger than this, in bytes, is put aside.
const LOG_BYTES: u64 = 16 << 20;

/// How often the size of a log is looked at.
const LOG_LOOK: Duration = Duration::from_secs(10);

/// What it takes to start a server.
#[derive(Clone)]
pub struct ServerSpec {
    /// The program, as an absolute path.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Where it is started.
    pub cwd: PathBuf,
    /// Its whole environment.
    pub env: BTreeMap<String, String>,
    /// Where its standard error goes.
    pub log: PathBuf,
    /// Where its process group is written down while it runs.
    pub groups: PathBuf,
    /// How to start the guardian.
    pub launcher: Launcher,
    /// How patient the guardian is.
    pub stop: StopTimes,
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// Its standard input. Closing it is the first step of a stop.
    pub stdin: ChildStdin,
    /// Its standard output.
    pub stdout: ChildStdout,
    /// The rest of it.
    pub handle: ServerHandle,
}

/// The handle by which a server is ended.
#[derive(Debug)]
pub struct ServerHandle {
    guardian: ProcessRef,
    patience: Duration,
    /// Done when the whole tree is gone.
    watch: JoinHandle<()>,
    ended: bool,
}

/// Whether a server may be given this variable. Those that open doors of ours, or lead to a keychain, stay here.
#[must_use]
pub fn may_pass(variable: &str) -> bool {
    let upper = variable.to_ascii_uppercase();
    !upper.starts_with("THV_") && !upper.starts_with("TOOLHIVE_") && !upper.starts_with("DBUS_")
}

/// Keeps a server's log from filling the disk, for as long as the future is polled: what was written goes to
/// `<log>.1` and the log begins anew. Servers have it open for appending, so it is emptied and not replaced.
pub async fn bound_log(log: PathBuf) {
    loop {
        tokio::time::sleep(LOG_LOOK).await;
        let log = log.clone();
        let trimmed = tokio::task::spawn_blocking(move || trim(&log, LOG_BYTES)).await;
        if let Ok(Err(error)) = trimmed {
            tracing::warn!(%error, "the server's log cannot be put aside");
        }
    }
}

fn trim(log: &Path, max: u64) -> io::Result<()> {
    let Some(mut file) = files::open_read(log).map_err(io::Error::other)? else { return Ok(()) };
    if file.metadata()?.len() <= max {
        return Ok(());
    }
    let aside = log.with_extension("log.1");
    match std::fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    io::copy(&mut file, &mut files::open_append(&aside).map_err(io::Error::other)?)?;
    files::open_append(log).map_err(io::Error::other)?.set_len(0)
}

impl ServerSpec {
    /// Starts the server. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The log cannot be opened, the folder does not exist, or no process can be made. A program that cannot be
    /// executed shows as one that ends at once, with the reason in its log.
    pub fn spawn(&self) -> io::Result<Server> {
        let (stdout, stdin, handle) = self.spawn_with(Stdio::piped())?;
        let stdout = stdout.ok_or_else(|| io::Error::other("the process has no pipes"))?;
        Ok(Server { stdin, stdout, handle })
    }

    /// Starts a server that does not speak on standard output: what it writes there goes to the log. Its standard
    /// input stays open for as long as it is to live.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn).
    pub fn spawn_logged(&self) -> io::Result<(ChildStdin, ServerHandle)> {
        let log = files::open_append(&self.log).map_err(io::Error::other)?;
        let (_, stdin, handle) = self.spawn_with(log.into())?;
        Ok((stdin, handle))
    }

    fn spawn_with(&self, stdout: Stdio) -> io::Result<(Option<ChildStdout>, ChildStdin, ServerHandle)> {
        let log = files::open_append(&self.log).map_err(io::Error::other)?;
        let mut command = self.command();
        command
            .env_clear()
            .envs(&self.env)
            .current_dir(&self.cwd)
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(log);
        let mut child = orphans::spawn(&mut command).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot start a process in {}: {error}", self.cwd.display()))
        })?;
        let (Some(stdin), Some(pid)) = (child.stdin.take(), child.id()) else {
            return Err(io::Error::other("the process has no pipes"));
        };
        let stdout = child.stdout.take();
        let record = GroupRecord::write(&self.groups, pid)?;
        let guardian = record.guardian();
        // As long as the guardian may take in full, and a little for its own end.
        let patience = self.stop.after_close + self.stop.after_term + Duration::from_secs(1);
        let watch = tokio::spawn(watch(child, record));
        Ok((stdout, stdin, ServerHandle { guardian, patience, watch, ended: false }))
    }

    #[cfg(unix)]
    fn command(&self) -> Command {
        let mut command = Command::new(&self.launcher.program);
        command.arg0("thv").args(self.launcher.guard_args(self.stop)).arg(&self.program).args(&self.args);
        command
    }

    #[cfg(not(unix))]
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).kill_on_drop(true);
        command
    }
}

/// Waits for the end of a guardian. One that was killed leaves its work to us, at once: the server is gone with it,
/// but what the server started may hold the pipes, and its client would wait for ever.
async fn watch(mut guardian: Child, record: GroupRecord) {
    let status = guardian.wait().await;
    orphans::forget(record.guardian().pid);
    if !matches!(status, Ok(status) if status.code().is_some()) {
        tracing::warn!(pid = record.guardian().pid, "a guardian was killed; what it guarded is ended");
        record.end_rest();
        orphans::end().await;
    }
}

impl ServerHandle {
    /// Ends the server and all that it started: the caller has closed its standard input, the guardian does the
    /// rest. Returns when the tree is gone.
    pub async fn stop(mut self) {
        if !self.ended && tokio::time::timeout(self.patience, &mut self.watch).await.is_err() {
            tracing::warn!(pid = self.guardian.pid, "a guardian did not end in time and is killed");
            let _ = self.guardian.kill();
            let _ = (&mut self.watch).await;
        }
        self.ended = true;
    }

    /// Resolves when the server and all that it started are gone.
    pub async fn ended(&mut self) {
        if !self.ended {
            let _ = (&mut self.watch).await;
            self.ended = true;
        }
    }

    /// The process that leads the server's session.
    #[must_use]
    pub fn guardian(&self) -> ProcessRef {
        self.guardian
    }

    /// Asks the tree to end now, without waiting for it to notice the end of its input.
    pub fn hurry(&self) {
        let _ = self.guardian.terminate();
    }
}

impl Drop for ServerHandle {
    /// A server that nobody waits for any more is at least told to end.
    fn drop(&mut self) {
        if !self.ended {
            self.hurry();
            // Where there are no guardians the server itself is the child, which goes with the task that holds it.
            #[cfg(not(unix))]
            self.watch.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_is_emptied_under_its_writer() {
        use std::io::Write as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("server.log");
        let mut writer = files::open_append(&path).unwrap();
        writer.write_all(b"12345").unwrap();
        trim(&path, 5).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"12345");
        writer.write_all(b"6").unwrap();
        trim(&path, 5).unwrap();
        writer.write_all(b"7").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"7");
        assert_eq!(std::fs::read(path.with_extension("log.1")).unwrap(), b"123456");
    }

    #[test]
    fn doors_and_keychains_are_not_handed_on() {
        for variable in ["THV_HOME", "TOOLHIVE_SHARED_KEY", "toolhive_secret_x", "DBUS_SESSION_BUS_ADDRESS"] {
            assert!(!may_pass(variable), "{variable}");
        }
        for variable in ["PATH", "GITHUB_TOKEN", "THVX"] {
            assert!(may_pass(variable), "{variable}");
        }
    }
}
