//! A session of a desktop: a bus of its own with a real gnome-keyring on it, in folders of its own, ended by pid.
//!
//! The keyring is unlocked from a pipe, so it takes no display. What a test does to it — kill it, stop it, lock it —
//! happens to this session alone; the keychain of whoever runs the tests is never touched.

use crate::{Failure, Home, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::cell::RefCell;
use std::fs::{DirBuilder, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The address of a bus that nobody can reach, for a [`Home`] without a keychain.
pub const NO_BUS: &str = "disabled:";

/// The name under which a keyring offers secrets.
const SECRETS: &str = "org.freedesktop.secrets";

const KEYRING: &str = "gnome-keyring-daemon";
const PROGRAMS: [&str; 4] = ["dbus-daemon", "dbus-send", KEYRING, "secret-tool"];

/// How long something on the bus may take to show.
const BOUND: Duration = Duration::from_secs(30);

/// The passphrase of the keyring.
const PASSPHRASE: &[u8] = b"pw\n";

thread_local! {
    static AROUND: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// The bus that tests of this thread work on, if they run within a desktop session.
pub(crate) fn around() -> Option<String> {
    AROUND.with_borrow(Clone::clone)
}

/// How gnome-keyring is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keyring {
    /// Unlocked; its collection is made if there is none.
    Unlocked,
    /// As a login without a password starts it: locked, and without a collection if there was none.
    Locked,
}

/// A bus, and the keyring on it if there is one. Dropping it ends both.
pub struct Desktop {
    keyring: Option<Owned>,
    bus: Option<Owned>,
    dir: TempDir,
}

impl Desktop {
    /// What this machine lacks for a desktop session; empty if nothing.
    pub fn missing() -> String {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let here = |name: &&str| std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
        PROGRAMS.into_iter().filter(|name| !here(name)).collect::<Vec<_>>().join(", ")
    }

    /// A session with an unlocked keyring.
    ///
    /// # Errors
    /// It could not be started.
    pub fn unlocked() -> Result<Self> {
        let mut desktop = Self::without_keyring()?;
        desktop.start(Keyring::Unlocked)?;
        Ok(desktop)
    }

    /// A bus that nobody offers secrets on, nor can be started to.
    ///
    /// # Errors
    /// It could not be started.
    pub fn without_keyring() -> Result<Self> {
        Self::with_services("")
    }

    /// A bus that starts a keyring, locked, whenever somebody asks for secrets and none is there. That one ends with
    /// the bus.
    ///
    /// # Errors
    /// It could not be started.
    pub fn activating() -> Result<Self> {
        Self::with_services("<servicedir>/usr/share/dbus-1/services</servicedir>")
    }

    fn with_services(services: &str) -> Result<Self> {
        // In memory where there is such a folder: a keyring flushes each item to the disk and answers nobody meanwhile,
        // and a busy disk is not what these tests are about.
        let folder = Some(PathBuf::from("/dev/shm")).filter(|folder| folder.is_dir());
        let dir = tempfile::Builder::new()
            .prefix("thv-desktop-")
            .tempdir_in(folder.unwrap_or_else(std::env::temp_dir))?;
        for folder in ["home", "data", "run"] {
            DirBuilder::new().mode(0o700).create(dir.path().join(folder))?;
        }
        let mut desktop = Self { keyring: None, bus: None, dir };
        let config = format!(
            "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\" \
             \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n<busconfig><type>session</type>\
             <listen>unix:path={}</listen><auth>EXTERNAL</auth>{services}<policy context=\"default\">\
             <allow send_destination=\"*\"/><allow receive_sender=\"*\"/><allow own=\"*\"/></policy></busconfig>",
            desktop.socket().display()
        );
        File::create(desktop.config())?.write_all(config.as_bytes())?;
        desktop.start_bus()?;
        Ok(desktop)
    }

    /// Starts the bus, at the address that it always has.
    ///
    /// # Errors
    /// It could not be started.
    pub fn start_bus(&mut self) -> Result {
        let mut bus = self.command("dbus-daemon");
        bus.arg("--config-file").arg(self.config()).args(["--nofork", "--nopidfile", "--print-address=1"]);
        let mut bus = Owned(bus.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?);
        let mut address = String::new();
        if let Some(stdout) = bus.0.stdout.take() {
            // It ends the line when it listens, or closes its end when it fails.
            BufReader::new(stdout).read_line(&mut address)?;
        }
        ensure!(address.starts_with("unix:"), "the bus did not start: {address:?}");
        self.bus = Some(bus);
        Ok(())
    }

    /// Kills the keyring and the bus. The socket of the bus stays, and nobody answers there.
    pub fn kill_bus(&mut self) {
        self.keyring = None;
        self.bus = None;
    }

    /// Starts the keyring in place of the one that runs, and waits until it offers secrets.
    ///
    /// # Errors
    /// It did not come up.
    pub fn start(&mut self, how: Keyring) -> Result {
        self.kill()?;
        let mut keyring = self.command(KEYRING);
        keyring.args(["--foreground", "--components=secrets"]);
        if how == Keyring::Unlocked {
            keyring.arg("--unlock");
        }
        let keyring = keyring.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut keyring = Owned(keyring.spawn()?);
        if let Some(mut stdin) = keyring.0.stdin.take()
            && how == Keyring::Unlocked
        {
            stdin.write_all(PASSPHRASE)?;
        }
        self.keyring = Some(keyring);
        self.wait_until_offered(true)
    }

    /// Kills the keyring, if one was started here, and waits until the bus has noticed.
    ///
    /// # Errors
    /// The bus does not answer.
    pub fn kill(&mut self) -> Result {
        if self.keyring.take().is_some() {
            self.wait_until_offered(false)?;
        }
        Ok(())
    }

    /// Signals the keyring.
    ///
    /// # Errors
    /// There is none.
    pub fn signal(&self, signal: Signal) -> Result {
        let pid =
            self.keyring.as_ref().and_then(|keyring| Pid::from_raw(i32::try_from(keyring.0.id()).ok()?));
        let pid = pid.ok_or_else(|| Failure::new("no keyring runs"))?;
        kill_process(pid, signal).map_err(|error| Failure::new(format!("signal: {error}")))
    }

    /// Takes the keyring's collections away, or brings them back. None must run meanwhile.
    ///
    /// # Errors
    /// There is nothing to take or to bring.
    pub fn hide_collections(&self, hidden: bool) -> Result {
        let [here, away] = ["data/keyrings", "data/away"].map(|folder| self.dir.path().join(folder));
        if hidden {
            return Ok(std::fs::rename(here, away)?);
        }
        // What a keyring made meanwhile is of no interest.
        let _ = std::fs::remove_dir_all(&here);
        Ok(std::fs::rename(away, here)?)
    }

    /// The address of the bus.
    pub fn address(&self) -> String {
        format!("unix:path={}", self.socket().display())
    }

    /// The folder that holds nothing but the socket of the bus, named `bus`: what a login manager makes.
    pub fn runtime_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    fn socket(&self) -> PathBuf {
        self.runtime_dir().join("bus")
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("bus.conf")
    }

    /// A program of this session, and of no home.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.path().join("home"))
            .env("XDG_DATA_HOME", self.dir.path().join("data"))
            .env("XDG_RUNTIME_DIR", self.runtime_dir())
            .env("DBUS_SESSION_BUS_ADDRESS", self.address())
            .current_dir(self.dir.path());
        command
    }

    /// `secret-tool ARGS` with this input: another program with its hands on the same keyring. Returns what it said.
    ///
    /// # Errors
    /// It could not be run.
    pub fn secret_tool(&self, args: &[&str], input: &str) -> Result<String> {
        let mut tool = self.command("secret-tool");
        let tool = tool.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut tool = tool.spawn()?;
        if let Some(mut stdin) = tool.stdin.take() {
            // One that reads nothing may be gone already.
            let _ = stdin.write_all(input.as_bytes());
        }
        Ok(String::from_utf8_lossy(&tool.wait_with_output()?.stdout).into_owned())
    }

    /// Runs a test in a new home on this session, as [`Home::with`] does.
    ///
    /// # Errors
    /// As [`Home::with`].
    pub fn with_home(&self, test: impl FnOnce(&Home) -> Result) -> Result {
        Home::with_bus(&self.address(), test)
    }

    /// Runs a test whose homes, wherever it makes them, are on this session. Each of them then fails its test if it
    /// leaves an encrypted file or a master key on disk: everything was to rest in the keychain.
    ///
    /// # Errors
    /// What the test says.
    pub fn around(&self, test: impl FnOnce() -> Result) -> Result {
        /// Ends it on a panic, too: the thread may go on with another test.
        struct Within;
        impl Drop for Within {
            fn drop(&mut self) {
                AROUND.set(None);
            }
        }
        AROUND.set(Some(self.address()));
        let _within = Within;
        test()
    }

    fn wait_until_offered(&self, offered: bool) -> Result {
        let end = Instant::now() + BOUND;
        loop {
            let mut ask = self.command("dbus-send");
            ask.args(["--session", "--print-reply=literal", "--dest=org.freedesktop.DBus", "/"]);
            ask.args(["org.freedesktop.DBus.NameHasOwner", &format!("string:{SECRETS}")]);
            let answer = ask.stdin(Stdio::null()).output()?;
            let answer = String::from_utf8_lossy(&answer.stdout).into_owned();
            if answer.contains(if offered { "true" } else { "false" }) {
                return Ok(());
            }
            let what = if offered { "on" } else { "off" };
            ensure!(Instant::now() < end, "the keyring is not {what} the bus: {answer:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Whether a folder holds an encrypted file or a master key, at whatever depth. Links are not followed.
pub(crate) fn file_store_below(folder: &Path) -> Option<PathBuf> {
    std::fs::read_dir(folder).ok()?.flatten().find_map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            return file_store_below(&entry.path());
        }
        let is_store = name == "master.key" || name.starts_with("secrets") && name.ends_with(".enc");
        is_store.then(|| entry.path())
    })
}

/// A child that is ended with its owner.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns from the test where a desktop session cannot be had and need not be.
///
/// For test functions that return nothing or a [`Result`](crate::Result) of nothing.
#[macro_export]
macro_rules! need_keyring {
    () => {
        let missing = $crate::Desktop::missing();
        if !missing.is_empty() {
            let advice = format!(
                "{missing}: apt-get install --no-install-recommends gnome-keyring dbus dbus-bin dbus-daemon \
                 libsecret-tools"
            );
            match $crate::parts::missing("keyring", &advice, &$crate::parts::test_name(file!(), line!())) {
                Ok(not_run) => return not_run.into(),
                Err(missing) => panic!("{missing}"),
            }
        }
    };
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    const ATTRIBUTES: [&str; 2] = ["service", "test"];

    #[test]
    fn what_is_kept_outlives_the_keyring_and_hides_with_its_collection() -> Result {
        need_keyring!();
        let mut desktop = Desktop::unlocked()?;
        let lookup = |desktop: &Desktop| desktop.secret_tool(&["lookup", "service", "test"], "");
        desktop.secret_tool(&[&["store", "--label", "x"], &ATTRIBUTES[..]].concat(), "kept")?;
        assert_eq!(lookup(&desktop)?, "kept");
        desktop.kill()?;
        desktop.hide_collections(true)?;
        desktop.start(Keyring::Locked)?;
        assert_eq!(lookup(&desktop)?, "");
        desktop.kill_bus();
        desktop.hide_collections(false)?;
        desktop.start_bus()?;
        desktop.start(Keyring::Unlocked)?;
        assert_eq!(lookup(&desktop)?, "kept");
        Ok(())
    }

    #[test]
    fn homes_within_a_session_may_not_keep_keys_in_files() -> Result {
        need_keyring!();
        let desktop = Desktop::without_keyring()?;
        let run = |name: &str| {
            desktop.around(|| {
                let home = Home::with_binary("/bin/sh".into())?;
                assert_eq!(home.bus(), desktop.address());
                File::create(home.path().join(name))?;
                home.close()
            })
        };
        run("config.toml")?;
        let failure = run("secrets-2.enc").err().map(|failure| failure.to_string()).unwrap_or_default();
        assert!(failure.contains("secrets-2.enc"), "{failure}");
        assert_eq!(around(), None);
        Ok(())
    }
}
