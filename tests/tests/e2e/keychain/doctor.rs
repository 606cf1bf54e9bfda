//! `thv doctor` on the keychain: which it is, how it answers, and what brings it back.

use super::bus::Bus;
use super::{SOON, demo, entries, service, settings};
use serde_json::{Value, json};
use std::time::Instant;
use thv_e2e::{Desktop, Exit, Failure, Home, Keyring, Result, Signal, ensure, need_keyring};

/// The findings of one kind, and whether there was a problem of any.
fn findings(home: &Home, check: &str) -> Result<(Vec<Value>, bool)> {
    let begun = Instant::now();
    let output = home.thv(["doctor", "--format", "json"]).output()?;
    ensure!(begun.elapsed() < SOON, "it took {:?}", begun.elapsed());
    let rows: Vec<Value> = serde_json::from_value(output.json()?)?;
    let found = rows.iter().filter(|row| row["check"] == check).cloned().collect();
    match output.exit {
        Exit::Code(0) => Ok((found, false)),
        Exit::Code(1) => Ok((found, true)),
        _ => Err(Failure::new(format!("{output:?}"))),
    }
}

/// The only finding about the keychain: its weight, and all these words in what it says and advises.
fn keychain(home: &Home, weight: &str, words: &[&str]) -> Result {
    let (found, problem) = findings(home, "keychain")?;
    let [row] = &found[..] else { return Err(Failure::new(format!("one finding was expected: {found:?}"))) };
    ensure!(row["weight"] == weight && problem == (weight == "problem"), "{row}");
    let text = row.to_string();
    for word in words {
        ensure!(text.contains(word), "{word:?} is missing in {row}");
    }
    Ok(())
}

#[test]
fn the_keychain_is_named_with_its_state_and_what_mends_it() -> Result {
    need_keyring!();
    let mut desktop = Desktop::unlocked()?;
    Home::with_bus(&desktop.address(), |home| {
        let prompter = Bus::open(home.bus())?.prompter()?;
        keychain(home, "fine", &["no store was chosen yet", "answered in", "ms"])?;
        Bus::open(home.bus())?.lock()?;
        keychain(home, "note", &["no store was chosen yet", "locked", "thv secret unlock"])?;
        assert!(!home.path().join("config/config.toml").exists(), "looking chooses nothing");
        desktop.start(Keyring::Unlocked)?;

        demo(home, "demo")?;
        let (chosen, kept) = (settings(home)?, entries(home)?);
        keychain(home, "fine", &["answered in", "ms", &service(home)])?;
        let (store, _) = findings(home, "store")?;
        ensure!(store.len() == 1 && store[0]["what"].to_string().contains("were read in"), "{store:?}");
        desktop.signal(Signal::STOP)?;
        keychain(home, "problem", &["no answer in", "no locked workload starts"])?;
        desktop.signal(Signal::CONT)?;
        Bus::open(home.bus())?.lock()?;
        keychain(home, "problem", &["locked", "thv secret unlock"])?;
        desktop.kill()?;
        keychain(home, "problem", &["not available", "log in to the desktop"])?;
        desktop.hide_collections(true)?;
        desktop.start(Keyring::Locked)?;
        keychain(home, "problem", &["no default collection", "make a default keyring"])?;
        desktop.kill()?;
        desktop.hide_collections(false)?;
        desktop.kill_bus();
        keychain(home, "problem", &["not available", "session bus"])?;
        // Text for people says the same.
        let text = home.thv(["doctor"]).output()?.expect(1)?.stdout;
        ensure!(text.contains("not available"), "{text}");
        desktop.start_bus()?;
        desktop.start(Keyring::Unlocked)?;
        keychain(home, "fine", &["answered in"])?;
        assert_eq!((settings(home)?, entries(home)?), (chosen, kept));
        drop(prompter);
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}

#[test]
fn a_file_is_told_that_there_is_a_keychain() -> Result {
    need_keyring!();
    Desktop::unlocked()?.with_home(|home| {
        home.thv(["secret", "provider", "file"]).output()?.expect(0)?;
        demo(home, "demo")?;
        keychain(home, "note", &["keys do not rest there", "thv secret provider keychain"])?;
        home.thv(["secret", "provider", "keychain"]).output()?.expect(0)?;
        keychain(home, "fine", &["answered in"])?;
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}

#[test]
fn keys_of_workloads_that_are_gone_are_found_and_deleted() -> Result {
    need_keyring!();
    Desktop::unlocked()?.with_home(|home| {
        demo(home, "demo")?;
        demo(home, "gone")?;
        home.thv(["stop", "gone"]).output()?.expect(0)?;
        std::fs::remove_dir_all(home.path().join("state/workloads/gone"))?;
        let key = home.key("demo")?;
        let (found, problem) = findings(home, "orphan-key")?;
        ensure!(problem && found.len() == 1 && found[0].to_string().contains("gone"), "{found:?}");
        ensure!(entries(home)?["workload:gone:shared-key"].is_string(), "it was deleted unasked");
        home.thv(["doctor", "--fix"]).output()?.expect(0)?;
        let names: Vec<_> =
            entries(home)?.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
        ensure!(names.iter().all(|name| name.starts_with("workload:demo:")), "{names:?}");
        assert_eq!(findings(home, "orphan-key")?, (Vec::new(), false));
        assert_eq!(home.key("demo")?, key);
        home.thv(["rm", "demo"]).output()?.expect(0)?;
        assert_eq!(entries(home)?, json!({}));
        Ok(())
    })
}
