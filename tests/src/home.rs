//! A home of its own for each test, and the proof at its end that nothing was left behind and nothing leaked.

use crate::captured::Captured;
use crate::desktop::{self, NO_BUS};
use crate::detached::{self, Detached};
use crate::procs::{self, Proc};
use crate::secret::{Leak, SecretForms};
use crate::{Failure, Foreground, McpStdio, Result, Running, Thv, ensure};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{DirBuilder, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Names the binary under test.
pub const BINARY_VARIABLE: &str = "THV_BIN";

/// How long descendants may take to vanish after their supervisor has.
const GONE_BOUND: Duration = Duration::from_secs(15);

/// A temporary `THV_HOME` and everything that was started in it.
///
/// Dropping it is a check: it panics if a process of this home still runs, after killing it, or if a key that
/// [`Home::key`] has seen stands in a file below it or in the output of its commands.
pub struct Home {
    dir: Option<TempDir>,
    root: PathBuf,
    binary: PathBuf,
    /// The address of the session bus.
    bus: String,
    captured: Captured,
    keys: Mutex<Vec<String>>,
}

impl Home {
    /// A new home for the binary named by [`BINARY_VARIABLE`], without a keychain, unless the test runs
    /// [within a desktop session](crate::Desktop::around).
    ///
    /// # Errors
    /// The variable is not set, or the directory could not be made.
    pub fn new() -> Result<Self> {
        let binary = std::env::var_os(BINARY_VARIABLE)
            .ok_or_else(|| Failure::new(format!("{BINARY_VARIABLE} is not set; run `cargo xtask e2e`")))?;
        Self::with_binary(binary.into())
    }

    /// A new home for this binary.
    ///
    /// # Errors
    /// The directory could not be made.
    pub fn with_binary(binary: PathBuf) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("thv-e2e-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir()?;
        let root = dir.path().to_owned();
        for below in ["thv", "user", "tmp"] {
            DirBuilder::new().mode(0o700).create(root.join(below))?;
        }
        let bus = desktop::around().unwrap_or_else(|| NO_BUS.to_owned());
        Ok(Self { dir: Some(dir), root, binary, bus, captured: Captured::default(), keys: Mutex::default() })
    }

    /// Runs a test in a new home and closes it. A failure of the test is not hidden by what it then leaves behind.
    ///
    /// # Errors
    /// The test failed, or what [`Home::close`] says.
    pub fn with(test: impl FnOnce(&Self) -> Result) -> Result {
        Self::new()?.through(test)
    }

    /// As [`Home::with`], in a home whose keychain is on the session bus with this address.
    ///
    /// # Errors
    /// As [`Home::with`].
    pub fn with_bus(address: &str, test: impl FnOnce(&Self) -> Result) -> Result {
        let mut home = Self::new()?;
        address.clone_into(&mut home.bus);
        home.through(test)
    }

    fn through(mut self, test: impl FnOnce(&Self) -> Result) -> Result {
        let home = &mut self;
        let outcome = test(home);
        let finished = home.finish();
        outcome.map_err(|failure| match &finished {
            Ok(()) => failure,
            Err(after) => Failure::new(format!("{failure}\nand afterwards: {after}")),
        })?;
        finished
    }

    /// `THV_HOME`.
    pub fn path(&self) -> PathBuf {
        self.root.join("thv")
    }

    /// `HOME`, for programs that are not `thv`, and a place for a test's own files.
    pub fn user(&self) -> PathBuf {
        self.root.join("user")
    }

    /// Puts a file of the test's own, such as a script, into [`Home::user`].
    ///
    /// # Errors
    /// It could not be written.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.user().join(name);
        File::create(&path)?.write_all(content.as_ref())?;
        Ok(path)
    }

    /// The address of the session bus that commands of this home are given.
    pub fn bus(&self) -> &str {
        &self.bus
    }

    pub(crate) fn binary(&self) -> &Path {
        &self.binary
    }

    /// Everything that the commands of this home wrote.
    pub fn captured(&self) -> &Captured {
        &self.captured
    }

    /// A program with the scrubbed environment of this home: little more than an AI client hands down.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.user())
            .env("TMPDIR", self.root.join("tmp"))
            .env("LANG", "C.UTF-8")
            .env("TERM", "dumb")
            .env("THV_HOME", self.path())
            // Nobody's real keychain is ever touched.
            .env("DBUS_SESSION_BUS_ADDRESS", &self.bus)
            .current_dir(self.user());
        command
    }

    /// Starts any other program, made with [`Home::command`], with its output captured like that of `thv`.
    ///
    /// # Errors
    /// It could not be started.
    pub fn start(&self, command: Command) -> Result<Running> {
        let words = [command.get_program()].into_iter().chain(command.get_args());
        let label = words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ");
        Running::start(command, &label, &self.captured, false)
    }

    /// `thv ARGS`.
    pub fn thv<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Thv<'_> {
        Thv::new(self).args(args)
    }

    /// `thv run -f ARGS`, waited for until it is ready.
    ///
    /// # Errors
    /// It did not become ready.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Foreground> {
        self.thv(["run", "-f"]).args(args).foreground()
    }

    /// `thv proxy stdio NAME`.
    ///
    /// # Errors
    /// It could not be started.
    pub fn bridge(&self, name: &str) -> Result<McpStdio> {
        self.thv(["proxy", "stdio", name]).bridge()
    }

    /// The text of a workload's current key. From now on it counts as a leak wherever it is found.
    ///
    /// # Errors
    /// `thv key show` failed.
    pub fn key(&self, name: &str) -> Result<String> {
        let output = self.thv(["key", "show", name, "--yes"]).shows_key().output()?.expect(0)?;
        let key = output.stdout.trim().to_owned();
        self.watch(&key)?;
        Ok(key)
    }

    /// From now on this text of 32 bytes counts as a leak wherever it is found, as if it were a key.
    ///
    /// # Errors
    /// It is not the padded standard base64 of 32 bytes.
    pub fn watch(&self, text: &str) -> Result {
        SecretForms::of(text)?;
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_owned());
        Ok(())
    }

    /// The processes of this home that run now.
    pub fn processes(&self) -> Vec<Proc> {
        let mut processes = procs::of_home(&self.root);
        // A detached supervisor works in `/` and shows its environment to root alone; its status file names it.
        for supervisor in detached::supervisors(&self.path()) {
            if !processes.contains(&supervisor) {
                processes.push(supervisor);
            }
        }
        processes
    }

    /// `thv run ARGS`, which returns when the workload is ready.
    ///
    /// # Errors
    /// It failed, or did not say that the workload runs.
    pub fn detached<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Detached> {
        Detached::of(self.thv(["run"]).args(args).output()?)
    }

    /// The supervisor that a workload's status file names, if that very process runs.
    pub fn supervisor(&self, name: &str) -> Option<Proc> {
        detached::supervisor(&self.path(), name)
    }

    /// Where any key that [`Home::key`] has seen stands now: files, captured output, and the command lines and
    /// environments of all processes of this home.
    ///
    /// # Errors
    /// Something could not be searched.
    pub fn leaks(&self) -> Result<Vec<Leak>> {
        let mut leaks = Vec::new();
        for key in &*self.keys.lock().unwrap_or_else(PoisonError::into_inner) {
            let forms = SecretForms::of(key)?;
            forms.search_dir(&self.root, &mut leaks)?;
            for (place, bytes) in self.captured.streams() {
                forms.search(place, &bytes, &mut leaks);
            }
            for process in self.processes() {
                forms.search_process(process.pid, &mut leaks)?;
            }
        }
        Ok(leaks)
    }

    /// Ends the home with its checks, and removes it.
    ///
    /// # Errors
    /// A process was left (and is killed now), a key leaked, or the directory could not be removed.
    pub fn close(mut self) -> Result {
        self.finish()
    }

    fn finish(&mut self) -> Result {
        let Some(dir) = self.dir.take() else { return Ok(()) };
        let left = self.leftovers();
        let leaks = self.leaks();
        let file = desktop::around().and_then(|_| desktop::file_store_below(&self.root));
        dir.close()?;
        let left = left.iter().fold(String::new(), |mut text, process| {
            let _ = write!(text, "\n  {} {}", process.pid, process.command);
            text
        });
        ensure!(left.is_empty(), "processes were left behind (and killed):{left}");
        let leaks = leaks?;
        ensure!(leaks.is_empty(), "a key leaked: {leaks:?}");
        ensure!(file.is_none(), "there is a keychain, and a file was used: {file:?}");
        Ok(())
    }

    /// Waits for the processes of this home to vanish, kills those that stay, and returns them.
    fn leftovers(&self) -> Vec<Proc> {
        let end = Instant::now() + GONE_BOUND;
        loop {
            let left = self.processes();
            if left.is_empty() || Instant::now() >= end {
                left.iter().for_each(Proc::kill);
                return left;
            }
            // They are not our children: nothing tells us of their end.
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Err(failure) = self.finish() {
            // A second panic would abort the run and hide the first one.
            if !std::thread::panicking() {
                panic!("{failure}");
            }
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    /// A stand-in for the command: what `script` does when it is called.
    fn home(script: &str) -> Home {
        let home = Home::with_binary("/bin/sh".into()).unwrap();
        home.file("thv", script).unwrap();
        home
    }

    fn call<'home>(home: &'home Home, args: &[&str]) -> Thv<'home> {
        home.thv([home.user().join("thv")]).args(args)
    }

    #[test]
    fn the_environment_is_scrubbed() {
        let home = home("env");
        let output =
            call(&home, &[]).env("EXTRA", "1").env_remove("LANG").output().unwrap().expect(0).unwrap();
        let mut names: Vec<_> =
            output.stdout.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        names.sort_unstable();
        // The shell adds PWD and perhaps more of its own.
        names.retain(|name| !matches!(*name, "PWD" | "OLDPWD" | "SHLVL" | "_"));
        assert_eq!(
            names,
            ["DBUS_SESSION_BUS_ADDRESS", "EXTRA", "HOME", "PATH", "TERM", "THV_HOME", "TMPDIR"]
        );
        home.close().unwrap();
    }

    #[test]
    fn a_wrong_exit_code_shows_what_was_said() {
        let home = home("echo data; echo talk >&2; exit 3");
        let failure = call(&home, &[]).output().unwrap().expect(0).unwrap_err().to_string();
        assert!(
            failure.contains("data") && failure.contains("talk") && failure.contains("Code(3)"),
            "{failure}"
        );
        home.close().unwrap();
    }

    #[test]
    fn a_process_left_behind_fails_the_test_and_is_killed() {
        let home = home("sleep 600 >/dev/null 2>&1 </dev/null &");
        call(&home, &[]).output().unwrap().expect(0).unwrap();
        let left = home.processes();
        let failure = home.close().unwrap_err().to_string();
        assert!(failure.contains("sleep 600"), "{failure}");
        assert!(!left.is_empty() && left.iter().all(|process| !process.is_alive()));
    }

    #[test]
    fn a_key_in_a_file_or_in_output_fails_the_test() {
        for (script, place) in
            [("echo $KEY", "stdout"), ("echo $KEY >&2", "stderr"), ("echo $KEY >log", "/user/log")]
        {
            let home = home(script);
            home.keys.lock().unwrap().push(KEY.into());
            call(&home, &[]).env("KEY", KEY).output().unwrap();
            let failure = home.close().unwrap_err().to_string();
            assert!(failure.contains(place), "{failure}");
        }
    }

    #[test]
    fn what_shows_a_key_by_design_is_no_leak() {
        let home = home("echo $KEY");
        home.keys.lock().unwrap().push(KEY.into());
        call(&home, &[]).env("KEY", KEY).shows_key().output().unwrap();
        home.close().unwrap();
    }

    #[test]
    fn a_server_that_ends_before_it_is_ready_is_reported_with_its_last_words() {
        let home = home("echo 'no such program' >&2; exit 1");
        let failure = call(&home, &["run", "-f"]).foreground().err().unwrap().to_string();
        assert!(failure.contains("no such program") && failure.contains("Code(1)"), "{failure}");
        home.close().unwrap();
    }
}
