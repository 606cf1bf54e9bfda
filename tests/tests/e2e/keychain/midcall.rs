//! A keychain that dies while a call waits for its answer, and one that dies again and again.

use super::bus::Bus;
use super::{SOON, add, demo, end, entries, no_key, settings};
use serde_json::json;
use std::time::Instant;
use thv_e2e::{Desktop, Exit, Home, Keyring, Result, Signal, ensure, need_keyring};

/// The first call of a process that comes anew. It is not answered when the next is made.
const CALL: &str = "OpenSession";

#[test]
fn a_daemon_killed_in_the_middle_of_a_call() -> Result {
    need_keyring!();
    let mut desktop = Desktop::unlocked()?;
    Home::with_bus(&desktop.address(), |home| {
        demo(home, "demo")?;
        let (key, before, kept) = (home.key("demo")?, settings(home)?, entries(home)?);
        let monitor = Bus::open(home.bus())?.monitor()?;

        for args in [&["key", "show", "demo", "--yes"][..], &["restart", "demo"], &["secret", "list"]] {
            desktop.signal(Signal::STOP)?;
            monitor.was_called(CALL)?;
            let begun = Instant::now();
            let mut command = home.thv(args).start()?;
            monitor.await_call(CALL)?;
            desktop.kill()?;
            assert_eq!(command.wait(SOON)?, Exit::Code(5), "{args:?}");
            ensure!(begun.elapsed() < SOON, "{args:?} took {:?}", begun.elapsed());
            ensure!(command.stderr().contains("the keychain"), "{}", command.stderr());
            assert_eq!(command.stdout(), "");
            desktop.start(Keyring::Unlocked)?;
        }

        let mut bridge = home.bridge("demo")?;
        for _ in 0..2 {
            desktop.signal(Signal::STOP)?;
            monitor.was_called(CALL)?;
            let begun = Instant::now();
            let id = bridge.ask("server/discover", &json!({}))?;
            monitor.await_call(CALL)?;
            desktop.kill()?;
            let answer = bridge.answer(id)?;
            ensure!(begun.elapsed() < SOON, "it took {:?}", begun.elapsed());
            let error = &answer["error"];
            assert_eq!(
                (&error["code"], &error["data"]["reason"]),
                (&json!(-33001), &json!("keychain_unavailable"))
            );
            // The next one does not wait for a dead call.
            no_key(&mut bridge, "keychain_unavailable")?;
            desktop.start(Keyring::Unlocked)?;
        }
        bridge.initialize()?;
        add(&mut bridge)?;
        end(bridge)?;
        assert_eq!((home.key("demo")?, settings(home)?, entries(home)?), (key, before, kept));
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}

/// A workload that is being made when the keychain dies is not made at all.
#[test]
fn a_daemon_killed_in_the_middle_of_a_run() -> Result {
    need_keyring!();
    let mut desktop = Desktop::unlocked()?;
    Home::with_bus(&desktop.address(), |home| {
        demo(home, "demo")?;
        let (before, kept) = (settings(home)?, entries(home)?);
        let monitor = Bus::open(home.bus())?.monitor()?;
        desktop.signal(Signal::STOP)?;
        let run = home.thv(["run", "--name", "new", "--shared-key-auth", "--", crate::DEMO_SERVER]);
        let mut run = run.start()?;
        monitor.await_call(CALL)?;
        desktop.kill()?;
        assert_eq!(run.wait(SOON)?, Exit::Code(5));
        ensure!(run.stderr().contains("the keychain"), "{}", run.stderr());
        assert!(!home.path().join("state/workloads/new").exists());
        desktop.start(Keyring::Unlocked)?;
        assert_eq!((settings(home)?, entries(home)?), (before, kept));
        demo(home, "new")?;
        home.thv(["rm", "--all"]).output()?.expect(0)?;
        assert_eq!(entries(home)?, json!({}));
        Ok(())
    })
}

#[test]
fn a_daemon_that_is_killed_and_relaunched_under_a_live_bridge() -> Result {
    need_keyring!();
    let mut desktop = Desktop::unlocked()?;
    Home::with_bus(&desktop.address(), |home| {
        demo(home, "demo")?;
        let key = home.key("demo")?;
        let mut bridge = home.bridge("demo")?;
        bridge.initialize()?;
        for _ in 0..3 {
            desktop.kill()?;
            add(&mut bridge)?;
            desktop.start(Keyring::Unlocked)?;
            home.thv(["restart", "demo"]).output()?.expect(0)?;
            add(&mut bridge)?;
            assert_eq!(home.key("demo")?, key);
        }
        end(bridge)?;
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}
