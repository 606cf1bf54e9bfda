//! A keychain that fails after it was chosen. Whatever the fault: what needs no key goes on, what needs one is refused
//! in time and with advice, nothing is half made, the store stays the one that was chosen, and when the keychain is
//! back everything is as before, for the same bridges too.

use super::bus::{Bus, Monitor};
use super::{add, demo, end, entries, no_key, refused_soon, settings};
use crate::DEMO_SERVER;
use crate::fixture::{list, wait_until};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use thv_e2e::http::Request;
use thv_e2e::{Desktop, Home, Keyring, Result, STOP_BOUND, Signal, ensure, need_keyring};

/// A way in which a keychain fails.
struct Fault {
    /// Makes it fail. What is returned is kept until it ends.
    begin: fn(&mut Desktop) -> Result<Option<Monitor>>,
    /// Mends it.
    end: fn(&mut Desktop) -> Result,
    /// What commands say, the advice included.
    words: &'static [&'static str],
    /// What bridges say.
    reason: &'static str,
}

/// What a command that is refused must leave as it is.
#[derive(Debug, PartialEq, Eq)]
struct Scene {
    settings: String,
    files: BTreeSet<PathBuf>,
    processes: BTreeSet<u32>,
}

impl Scene {
    fn of(home: &Home) -> Result<Self> {
        fn walk(folder: &Path, files: &mut BTreeSet<PathBuf>) -> Result {
            for entry in std::fs::read_dir(folder)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    walk(&entry.path(), files)?;
                }
                files.insert(entry.path());
            }
            Ok(())
        }
        let mut files = BTreeSet::new();
        walk(&home.path(), &mut files)?;
        // Locks are never deleted, and the name of a workload that was never made is no secret.
        files.retain(|path| path.extension().is_none_or(|extension| extension != "lock"));
        let processes = home.processes().iter().map(|process| process.pid).collect();
        Ok(Self { settings: settings(home)?, files, processes })
    }
}

/// The name and state of each workload.
fn states(home: &Home) -> Result<Vec<(Value, Value)>> {
    Ok(list(home)?.iter().map(|row| (row["name"].clone(), row["status"].clone())).collect())
}

fn outage(fault: &Fault) -> Result {
    outage_of(Desktop::without_keyring()?, fault)
}

fn outage_of(mut desktop: Desktop, fault: &Fault) -> Result {
    desktop.start(Keyring::Unlocked)?;
    let address = desktop.address();
    Home::with_bus(&address, |home| {
        let first = demo(home, "demo")?;
        for name in ["idle", "old"] {
            demo(home, name)?;
            home.thv(["stop", name]).output()?.expect(0)?;
        }
        home.thv(["secret", "set", "token"]).stdin("hush\n").output()?.expect(0)?;
        let (key, idle) = (home.key("demo")?, home.key("idle")?);
        let mut live = home.bridge("demo")?;
        live.initialize()?;
        add(&mut live)?;
        let (before, kept, rows) = (Scene::of(home)?, entries(home)?, states(home)?);

        let held = (fault.begin)(&mut desktop)?;
        // What needs no key, or has it.
        assert_eq!(states(home)?, rows);
        home.thv(["status", "demo"]).output()?.expect(0)?;
        home.thv(["logs", "demo"]).output()?.expect(0)?;
        let ping = json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" });
        let knock =
            |key: &str| Ok::<_, thv_e2e::Failure>(Request::mcp(first.port, &ping).key(key).send()?.status);
        assert_eq!((knock(&key)?, knock(&idle)?), (400, 401));
        add(&mut live)?;
        // What needs one.
        for args in [
            &["start", "idle"][..],
            &["restart", "demo"],
            &["run", "--name", "new", "--shared-key-auth", "--", DEMO_SERVER],
            &["key", "show", "demo", "--yes"],
            &["key", "disable", "demo"],
            &["rm", "demo"],
            &["rm", "old"],
            // For all of them together it takes no longer.
            &["rm", "--all"],
            &["secret", "get", "token", "--yes"],
            &["secret", "list"],
            &["secret", "delete", "token"],
            &["secret", "provider", "file"],
        ] {
            let output = refused_soon(home.thv(args), fault.words)?;
            ensure!(!output.stderr.contains("hush"), "{output:?}");
            let now = Scene::of(home).map_err(|failure| failure.during(&output.label))?;
            ensure!(now == before, "{} has changed\n{before:?}\nto\n{now:?}", output.label);
        }
        refused_soon(home.thv(["secret", "set", "other"]).stdin("hush too\n"), fault.words)?;
        assert_eq!(states(home)?, rows);
        add(&mut live)?;

        // A bridge that comes now says why it cannot help, each time.
        let mut late = home.bridge("demo")?;
        for _ in 0..2 {
            no_key(&mut late, fault.reason)?;
        }
        // Nor is a server started behind a door that nobody can open.
        let supervisor = home.supervisor("demo").ok_or_else(|| thv_e2e::Failure::new("no supervisor"))?;
        supervisor.kill();
        wait_until("it is dead", STOP_BOUND, || Ok(!supervisor.is_alive()))?;
        no_key(&mut late, fault.reason)?;
        no_key(&mut live, fault.reason)?;
        assert_eq!(home.supervisor("demo"), None);
        refused_soon(home.thv(["start", "demo"]), fault.words)?;
        assert_eq!(settings(home)?, before.settings);

        (fault.end)(&mut desktop)?;
        drop(held);
        late.initialize()?;
        add(&mut late)?;
        add(&mut live)?;
        assert_eq!(entries(home)?, kept);
        assert_eq!(home.thv(["secret", "get", "token", "--yes"]).output()?.expect(0)?.stdout, "hush\n");
        home.thv(["start", "idle"]).output()?.expect(0)?;
        assert_eq!((home.key("demo")?, home.key("idle")?), (key, idle));
        assert_eq!(settings(home)?, before.settings);
        end(late)?;
        end(live)?;
        home.thv(["rm", "--all"]).output()?.expect(0)?;
        home.thv(["secret", "delete", "token"]).output()?.expect(0)?;
        assert_eq!(entries(home)?, json!({}));
        Ok(())
    })
}

/// Relaunched as a login does it.
fn back(desktop: &mut Desktop) -> Result {
    desktop.start(Keyring::Unlocked)
}

#[test]
fn locked_by_the_desktop() -> Result {
    need_keyring!();
    outage(&Fault {
        begin: |desktop| Bus::open(&desktop.address())?.lock().map(|()| None),
        end: back,
        words: &["locked", "unlock it"],
        reason: "keychain_locked",
    })
}

#[test]
fn locked_since_the_login() -> Result {
    need_keyring!();
    outage(&Fault {
        begin: |desktop| desktop.start(Keyring::Locked).map(|()| None),
        end: back,
        words: &["locked", "unlock it"],
        reason: "keychain_locked",
    })
}

#[test]
fn a_prompt_that_nobody_answers() -> Result {
    need_keyring!();
    outage(&Fault {
        begin: |desktop| {
            let prompter = Bus::open(&desktop.address())?.prompter()?;
            desktop.start(Keyring::Locked)?;
            Ok(Some(prompter))
        },
        end: back,
        words: &["locked", "unlock it"],
        reason: "keychain_locked",
    })
}

#[test]
fn a_collection_that_is_gone() -> Result {
    need_keyring!();
    outage(&Fault {
        begin: |desktop| {
            desktop.kill()?;
            desktop.hide_collections(true)?;
            desktop.start(Keyring::Locked)?;
            Ok(None)
        },
        end: |desktop| {
            desktop.kill()?;
            desktop.hide_collections(false)?;
            desktop.start(Keyring::Unlocked)
        },
        words: &["no default collection", "make a default keyring"],
        reason: "keychain_unavailable",
    })
}

#[test]
fn a_daemon_that_was_killed() -> Result {
    need_keyring!();
    outage(&Fault {
        begin: |desktop| desktop.kill().map(|()| None),
        end: back,
        words: &["not available", "thv doctor"],
        reason: "keychain_unavailable",
    })
}

/// The bus starts another one for whoever asks next, and that one is locked.
#[test]
fn a_daemon_that_was_killed_and_is_started_again_by_the_bus() -> Result {
    need_keyring!();
    outage_of(
        Desktop::activating()?,
        &Fault {
            begin: |desktop| desktop.kill().map(|()| None),
            end: |desktop| {
                desktop.kill_bus();
                desktop.start_bus()?;
                desktop.start(Keyring::Unlocked)
            },
            words: &["locked", "unlock it"],
            reason: "keychain_locked",
        },
    )
}

#[test]
fn a_daemon_that_is_stopped() -> Result {
    need_keyring!();
    outage(&Fault {
        begin: |desktop| desktop.signal(Signal::STOP).map(|()| None),
        end: |desktop| desktop.signal(Signal::CONT),
        words: &["did not answer"],
        reason: "keychain_unavailable",
    })
}

#[test]
fn a_bus_that_is_gone() -> Result {
    need_keyring!();
    outage(&Fault {
        begin: |desktop| {
            desktop.kill_bus();
            Ok(None)
        },
        end: |desktop| {
            desktop.start_bus()?;
            desktop.start(Keyring::Unlocked)
        },
        words: &["not available", "thv doctor"],
        reason: "keychain_unavailable",
    })
}

/// The desktop's own prompt is opened by the one command that is for it, and by no other.
#[test]
fn no_command_opens_a_window_but_unlock() -> Result {
    need_keyring!();
    let mut desktop = Desktop::unlocked()?;
    Home::with_bus(&desktop.address(), |home| {
        demo(home, "demo")?;
        let prompter = Bus::open(home.bus())?.prompter()?;
        desktop.start(Keyring::Locked)?;
        let mut bridge = home.bridge("demo")?;
        no_key(&mut bridge, "keychain_locked")?;
        for args in [&["key", "show", "demo", "--yes"][..], &["restart", "demo"], &["secret", "list"]] {
            refused_soon(home.thv(args), &["locked"])?;
        }
        ensure!(!prompter.was_called("BeginPrompting")?, "a window was opened");
        let mut unlock = home.thv(["secret", "unlock"]).start()?;
        prompter.await_call("BeginPrompting")?;
        // Nobody is there; whoever waits for the prompt can end it, and has changed nothing.
        unlock.stop()?;
        no_key(&mut bridge, "keychain_locked")?;
        desktop.start(Keyring::Unlocked)?;
        let output = home.thv(["secret", "unlock"]).output()?.expect(0)?;
        ensure!(output.stderr.contains("unlocked"), "{output:?}");
        bridge.initialize()?;
        end(bridge)?;
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}
