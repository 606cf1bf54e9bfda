//! A session of a desktop: its own bus and a real gnome-keyring on it, in folders of its own, ended by pid.
//!
//! The C library reads the address of the bus from the environment of its process, so each test drives stores in a
//! second process: this binary again, running [`driver`], which takes orders from stdin.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use dbus::blocking::Connection;
use dbus::channel::Channel;
use thv_keychain::vault::Nobody;
use thv_keychain::{
    Entry, FileStore, KeptKey, KeychainFault, OsOptions, OsStore, Secret, Secrets, Store, StoreError, Vault,
};
use thv_keygen::Name;

/// How long a test waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(20);

const KEYRING: &str = "gnome-keyring-daemon";
const PROGRAMS: [&str; 3] = ["dbus-daemon", KEYRING, "secret-tool"];

/// Whether the programs are here. Fails if not, unless the machine is allowed to lack them.
pub(crate) fn present() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let here = |name: &&str| std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
    let missing: Vec<_> = PROGRAMS.into_iter().filter(|name| !here(name)).collect();
    if missing.is_empty() {
        return true;
    }
    let text = format!(
        "{} missing; apt-get install --no-install-recommends gnome-keyring dbus dbus-bin dbus-daemon libsecret-tools",
        missing.join(", ")
    );
    assert!(std::env::var_os("THV_ALLOW_MISSING").is_some_and(|value| value == "1"), "{text}");
    not_run(&text);
    false
}

#[allow(clippy::print_stderr, reason = "a test that did not run says so")]
pub(crate) fn not_run(why: &str) {
    eprintln!("NOT RUN: {why}");
}

/// A child that is ended with its test.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) struct Desktop {
    dir: tempfile::TempDir,
    address: String,
    keyring: Option<Owned>,
    // Dropped after the keyring.
    _bus: Owned,
}

/// How gnome-keyring is started.
#[derive(Clone, Copy)]
pub(crate) enum Start {
    /// Unlocked, and with a collection made if there is none.
    Unlocked,
    /// Without a word, as the bus starts it.
    Locked,
}

impl Desktop {
    /// A session with an unlocked keyring.
    pub(crate) fn unlocked() -> Self {
        let mut desktop = Self::without_keyring();
        desktop.start(Start::Unlocked);
        desktop
    }

    /// A bus that nobody offers secrets on, nor can be started to.
    pub(crate) fn without_keyring() -> Self {
        Self::new("")
    }

    /// A bus that starts a keyring when it is asked for.
    pub(crate) fn activating() -> Self {
        Self::new("<servicedir>/usr/share/dbus-1/services</servicedir>")
    }

    fn new(services: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["home", "data", "run"] {
            std::fs::DirBuilder::new().mode(0o700).create(dir.path().join(folder)).unwrap();
        }
        let config = dir.path().join("bus.conf");
        let listen = dir.path().join("run/bus");
        let text = format!(
            "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\" \
             \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n<busconfig><type>session</type>\
             <listen>unix:path={}</listen><auth>EXTERNAL</auth>{services}<policy context=\"default\">\
             <allow send_destination=\"*\"/><allow receive_sender=\"*\"/><allow own=\"*\"/></policy></busconfig>",
            listen.display()
        );
        plant(&config, &text);
        let mut bus = Command::new("dbus-daemon");
        bus.arg("--config-file").arg(&config).args(["--nofork", "--nopidfile", "--print-address=1"]);
        environment(&mut bus, dir.path());
        let mut bus = Owned(bus.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
        let mut address = String::new();
        BufReader::new(bus.0.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Self { dir, address: address.trim().to_owned(), keyring: None, _bus: bus }
    }

    /// Starts the keyring and waits until it offers secrets.
    pub(crate) fn start(&mut self, how: Start) {
        let mut keyring = Command::new(KEYRING);
        keyring.args(["--foreground", "--components=secrets"]);
        if let Start::Unlocked = how {
            keyring.arg("--unlock");
        }
        environment(&mut keyring, self.dir.path()).env("DBUS_SESSION_BUS_ADDRESS", &self.address);
        let keyring = keyring.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut keyring = Owned(keyring.spawn().unwrap());
        let mut stdin = keyring.0.stdin.take().unwrap();
        if let Start::Unlocked = how {
            stdin.write_all(b"pw\n").unwrap();
        }
        drop(stdin);
        self.keyring = Some(keyring);
        self.wait_until("the keyring is on the bus", true);
    }

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.keyring.as_ref().unwrap().0.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Kills the keyring and waits until the bus has noticed.
    pub(crate) fn kill(&mut self) {
        self.keyring = None;
        self.wait_until("the keyring is off the bus", false);
    }

    fn wait_until(&self, what: &str, owned: bool) {
        let (bus, start) = (self.connect(), Instant::now());
        let proxy = bus.with_proxy("org.freedesktop.DBus", "/", PATIENCE);
        loop {
            let (there,): (bool,) = proxy
                .method_call("org.freedesktop.DBus", "NameHasOwner", ("org.freedesktop.secrets",))
                .unwrap();
            if there == owned {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "not seen: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A connection of the test's own.
    pub(crate) fn connect(&self) -> Connection {
        let mut channel = Channel::open_private(&self.address).unwrap();
        channel.register().unwrap();
        Connection::from(channel)
    }

    /// A connection that sees every message on the bus.
    pub(crate) fn monitor(&self) -> Connection {
        let connection = self.connect();
        let proxy = connection.with_proxy("org.freedesktop.DBus", "/org/freedesktop/DBus", PATIENCE);
        let everything = (Vec::<String>::new(), 0_u32);
        let (): () =
            proxy.method_call("org.freedesktop.DBus.Monitoring", "BecomeMonitor", everything).unwrap();
        connection
    }

    /// Another program with its hands on the same keyring.
    pub(crate) fn secret_tool(&self, args: &[&str], input: &str) -> String {
        let mut tool = Command::new("secret-tool");
        environment(tool.args(args), self.dir.path()).env("DBUS_SESSION_BUS_ADDRESS", &self.address);
        let mut tool =
            tool.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        tool.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        String::from_utf8(tool.wait_with_output().unwrap().stdout).unwrap()
    }

    /// A process with a store on this bus.
    pub(crate) fn driver(&self, service: &str) -> Driver {
        Driver::start(Some(&self.address), service)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// Waits until a connection gets a call of this method, and never answers it.
pub(crate) fn await_call(connection: &Connection, method: &str) {
    let start = Instant::now();
    loop {
        let message = connection.channel().blocking_pop_message(PATIENCE).unwrap();
        let member = message.as_ref().and_then(dbus::Message::member);
        if member.is_some_and(|member| &*member == method) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{method} was not called");
    }
}

fn environment<'a>(command: &'a mut Command, dir: &Path) -> &'a mut Command {
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", dir.join("home"))
        .env("XDG_DATA_HOME", dir.join("data"))
        .env("XDG_RUNTIME_DIR", dir.join("run"))
}

#[allow(clippy::disallowed_methods, reason = "a file of the test's own")]
pub(crate) fn plant(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

/// A process with one store, driven line by line.
pub(crate) struct Driver {
    child: Owned,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

/// What begins a line of the driver's, to be told from the test runner's own.
const MARK: &str = "driver: ";
const SERVICE: &str = "THV_TEST_SERVICE";

impl Driver {
    /// With the environment of a server that an AI client starts: next to nothing.
    pub(crate) fn start(bus: Option<&str>, service: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "desktop::driver", "--nocapture", "--test-threads=1"]);
        command.env_clear().env(SERVICE, service).envs(bus.map(|bus| ("DBUS_SESSION_BUS_ADDRESS", bus)));
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Self { child: Owned(child), stdin, stdout }
    }

    /// Gives an order and does not wait.
    pub(crate) fn tell(&mut self, order: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{order}").unwrap();
    }

    /// The next answer, and how long the store took for it.
    pub(crate) fn answer(&mut self) -> (String, Duration) {
        loop {
            let mut line = String::new();
            assert_ne!(self.stdout.read_line(&mut line).unwrap(), 0, "the driver ended");
            if let Some((_, answer)) = line.split_once(MARK) {
                let (micros, text) = answer.trim_end().split_once(' ').unwrap();
                return (text.to_owned(), Duration::from_micros(micros.parse().unwrap()));
            }
        }
    }

    pub(crate) fn ask(&mut self, order: &str) -> String {
        self.ask_timed(order).0
    }

    pub(crate) fn ask_timed(&mut self, order: &str) -> (String, Duration) {
        self.tell(order);
        self.answer()
    }

    /// Ends the driver's input and tells how long the process took to end.
    pub(crate) fn end(mut self) -> Duration {
        let start = Instant::now();
        self.stdin = None;
        while self.child.0.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < PATIENCE, "a hung call keeps the process alive");
            std::thread::sleep(Duration::from_millis(5));
        }
        start.elapsed()
    }
}

/// Not a test but the second process of others; alone it does nothing.
#[test]
fn driver() {
    let Ok(service) = std::env::var(SERVICE) else {
        return;
    };
    let store = OsStore::new(OsOptions::new(service.as_str()));
    for order in std::io::stdin().lines() {
        let order = order.unwrap();
        let start = Instant::now();
        let answer = obey(&store, &service, &order).unwrap_or_else(|error| tell(error.as_ref()));
        println!("\n{MARK}{} {answer}", start.elapsed().as_micros());
    }
}

fn obey(store: &OsStore, service: &str, order: &str) -> Result<String, Box<dyn std::error::Error>> {
    let words: Vec<&str> = order.split(' ').collect();
    Ok(match words[..] {
        ["get", name] => match store.get(&Entry::secret(name)?)? {
            None => "none".to_owned(),
            Some(value) => format!("value {:?}", String::from_utf8_lossy(value.expose())),
        },
        ["set", name, value] => {
            store.set(&Entry::secret(name)?, &Secret::from_text(value))?;
            "done".to_owned()
        }
        ["set-bytes", name] => {
            store.set(&Entry::secret(name)?, &Secret::new(vec![0, 255, b'a']))?;
            assert_eq!(store.get(&Entry::secret(name)?)?.unwrap().expose(), [0, 255, b'a']);
            "done".to_owned()
        }
        ["delete", name] => store.delete(&Entry::secret(name)?)?.to_string(),
        ["entries"] => {
            let entries = store.entries()?.expect("this keychain can be searched");
            let names: Vec<&str> = entries.iter().map(Entry::as_str).collect();
            if names.is_empty() { "none".to_owned() } else { names.join(" ") }
        }
        // Many entries, which are then read with a bound that is too short for all of them at once.
        ["many", count, millis] => {
            let entries = (0..count.parse()?)
                .map(|n: usize| Entry::secret(&format!("many{n:04}")))
                .collect::<Result<Vec<_>, _>>()?;
            for entry in &entries {
                store.set(entry, &Secret::from_text(entry.as_str()))?;
            }
            let hasty = OsStore::new(OsOptions {
                timeout: Duration::from_millis(millis.parse()?),
                ..OsOptions::new(service)
            });
            let start = Instant::now();
            let values = hasty.get_many(&entries)?;
            let read = start.elapsed();
            let right = entries.iter().zip(&values).all(|(entry, value)| {
                value.as_ref().is_some_and(|value| value.expose() == entry.as_str().as_bytes())
            });
            let listed = hasty.entries()? == Some(entries);
            format!("{right} {listed} {}", read.as_millis())
        }
        ["probe"] => {
            let probe = store.probe();
            format!("{} {:?}", probe.state.as_str(), probe.state)
        }
        ["unlock", seconds] => {
            store.unlock(Duration::from_secs(seconds.parse()?))?;
            "done".to_owned()
        }
        ["vault"] => whole_life(&Vault::new(store)),
        ["secrets"] => {
            let secrets = Secrets::new(store);
            secrets.set("b", &Secret::from_text("1"))?;
            secrets.set("a", &Secret::from_text("2"))?;
            secrets.list()?.join(" ")
        }
        // The encrypted file whose master key rests in the keychain.
        ["file", path, name] => {
            let store = FileStore::new(path, KeptKey::new(OsStore::new(OsOptions::new(service))));
            store.set(&Entry::secret(name)?, &Secret::from_text("kept"))?;
            String::from_utf8(store.get(&Entry::secret(name)?)?.unwrap().expose().to_vec())?
        }
        ["file-names", path] => {
            let store = FileStore::new(path, KeptKey::new(OsStore::new(OsOptions::new(service))));
            let names = store.entries()?.unwrap();
            names.iter().filter_map(Entry::secret_name).collect::<Vec<_>>().join(" ")
        }
        ["master", service] => {
            OsStore::new(OsOptions::new(service)).get(&Entry::master_key())?.is_some().to_string()
        }
        _ => panic!("an unknown order: {order}"),
    })
}

/// The sort of an error, and that of its message which a person sees.
fn tell(error: &(dyn std::error::Error + 'static)) -> String {
    let Some(StoreError::Keychain(fault)) = error.downcast_ref::<StoreError>() else {
        return format!("other {error}");
    };
    let sort = match fault {
        KeychainFault::Unavailable { .. } => "unavailable",
        KeychainFault::Locked => "locked",
        KeychainFault::NoCollection => "no-collection",
        KeychainFault::Denied { .. } => "denied",
        KeychainFault::Ambiguous { .. } => "ambiguous",
        KeychainFault::TimedOut { .. } => "timed-out",
        _ => "failed",
    };
    format!("{sort}: {fault}; {}", fault.advice().unwrap_or_default())
}

/// Everything that happens to a workload's keys, from making to removing.
fn whole_life(vault: &Vault<&OsStore>) -> String {
    let (name, cursor) = (Name::parse("time").unwrap(), Name::parse("cursor").unwrap());
    let now = SystemTime::now();
    let first = vault.create(&name, now).unwrap();
    let key = vault.current(&name).unwrap().unwrap();
    assert!(first.check(&key, now).is_some());
    let issued = vault.issue(&name, &cursor, now, &mut Nobody).unwrap();
    let _ = vault.rotate(&name, Duration::from_secs(60), now, &mut Nobody).unwrap();
    let live = vault.load(&name, now).unwrap();
    assert_eq!(live.len(), 3, "current, previous, client");
    assert!(live.check(&key, now).is_some() && live.check(&issued, now).is_some());
    let rotated = vault.current(&name).unwrap().unwrap();
    assert!(!rotated.ct_eq(&key));
    vault.revoke(&name, &cursor, now, &mut Nobody).unwrap();
    vault.remove(&name).unwrap();
    assert!(vault.current(&name).unwrap().is_none());
    let again = vault.create(&name, now).unwrap();
    assert_eq!(again.len(), 1);
    vault.current(&name).unwrap().unwrap().expose_text().to_string()
}
