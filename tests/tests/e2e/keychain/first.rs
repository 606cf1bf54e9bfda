//! The first use of a home: which store is chosen, what is said of it, and what is not made when none can be.

use super::bus::Bus;
use super::{add, demo, end, entries, provider, refused_soon, settings};
use crate::DEMO_SERVER;
use crate::fixture::{answers, list, store_entries};
use serde_json::{Value, json};
use std::path::Path;
use thv_e2e::{
    ANSWER_BOUND, Desktop, Detached, Exit, Failure, Home, Keyring, NO_BUS, Output, Result, Signal, ensure,
    need_keyring, need_part,
};

const RUN: [&str; 6] = ["run", "--name", "demo", "--shared-key-auth", "--", DEMO_SERVER];

/// What stands in `config.toml` as seen.
fn seen(home: &Home) -> Result<String> {
    let settings = settings(home)?;
    let line = settings.lines().find_map(|line| line.strip_prefix("seen = "));
    Ok(line.unwrap_or_default().trim_matches('"').to_owned())
}

fn kept_in_a_file(home: &Home, output: Output, python: &Path) -> Result {
    let master = home.path().join("config/master.key");
    for word in ["not available", "encrypted file", &master.display().to_string()] {
        ensure!(output.stderr.contains(word), "{word:?} is missing in {output:?}");
    }
    let id = Detached::of(output)?.key_id;
    assert_eq!(provider(home)?, "file");
    ensure!(seen(home)?.contains("not available"), "{}", settings(home)?);
    let path = home.path().to_string_lossy().into_owned();
    let kept = crate::fixture::scenario(home, python, "store_entries.py", &path)?;
    assert_eq!(kept["workload:demo:shared-key"], json!(id));
    Ok(())
}

#[test]
fn a_keychain_that_answers_is_chosen_and_said_aloud() -> Result {
    need_keyring!();
    Desktop::unlocked()?.with_home(|home| {
        // Looking chooses nothing.
        home.thv(["list"]).output()?.expect(0)?;
        home.thv(["secret", "list"]).output()?.expect(0)?;
        home.thv(["secret", "provider"]).output()?.expect(0)?;
        home.thv(["key", "show", "demo", "--yes"]).output()?.expect(3)?;
        home.thv(["run", "--name", "open", "--", DEMO_SERVER]).output()?.expect(0)?;
        home.thv(["rm", "open"]).output()?.expect(0)?;
        assert!(!home.path().join("config/config.toml").exists());

        let output = home.thv(RUN).output()?;
        ensure!(output.stderr.contains("keychain of the operating system"), "{output:?}");
        let first = Detached::of(output)?;
        assert_eq!(provider(home)?, "keychain");
        let seen = seen(home)?;
        ensure!(seen.contains("answered in") && seen.contains("ms"), "{seen}");
        let chosen = settings(home)?;
        ensure!(chosen.contains("chosen_at = \"20"), "{chosen}");
        assert_eq!(entries(home)?["workload:demo:shared-key"], json!(first.key_id));

        // Said once.
        let again = home.thv(["secret", "set", "a"]).stdin("1").output()?.expect(0)?;
        ensure!(!again.stderr.contains("rest in"), "{again:?}");
        assert_eq!(settings(home)?, chosen);
        home.thv(["secret", "delete", "a"]).output()?.expect(0)?;
        home.thv(["rm", "demo"]).output()?.expect(0)?;
        for left in ["config/master.key", "state/secrets.enc"] {
            assert!(!home.path().join(left).exists(), "{left}");
        }
        Ok(())
    })
}

#[test]
fn without_a_keychain_a_file_is_chosen_and_said_aloud() -> Result {
    let python = need_part!(Python);
    need_keyring!();
    let nowhere = Desktop::without_keyring()?;
    // Nobody offers secrets on the bus; there is no bus.
    for bus in [nowhere.address(), NO_BUS.to_owned()] {
        Home::with_bus(&bus, |home| {
            kept_in_a_file(home, home.thv(RUN).output()?, &python)?;
            answers(home, "demo")?;
            home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
        })?;
    }
    Ok(())
}

#[test]
fn a_keychain_that_comes_later_changes_nothing() -> Result {
    need_keyring!();
    let mut desktop = Desktop::without_keyring()?;
    Home::with_bus(&desktop.address(), |home| {
        demo(home, "demo")?;
        let (chosen, key) = (settings(home)?, home.key("demo")?);
        desktop.start(Keyring::Unlocked)?;
        demo(home, "other")?;
        home.thv(["restart", "demo"]).output()?.expect(0)?;
        assert_eq!((settings(home)?, home.key("demo")?), (chosen, key));
        assert_eq!(entries(home)?, json!({}));
        home.thv(["rm", "--all"]).output()?.expect(0).map(drop)
    })
}

/// A home from before stores were chosen stays with its file.
#[test]
fn an_older_home_keeps_its_file() -> Result {
    need_keyring!();
    let mut desktop = Desktop::without_keyring()?;
    Home::with_bus(&desktop.address(), |home| {
        demo(home, "demo")?;
        let key = home.key("demo")?;
        std::fs::remove_file(home.path().join("config/config.toml"))?;
        desktop.start(Keyring::Unlocked)?;
        assert_eq!(home.key("demo")?, key);
        home.thv(["restart", "demo"]).output()?.expect(0)?;
        answers(home, "demo")?;
        demo(home, "other")?;
        assert_eq!(provider(home)?, "file");
        assert_eq!(home.key("demo")?, key);
        assert_eq!(entries(home)?, json!({}));
        home.thv(["rm", "--all"]).output()?.expect(0).map(drop)
    })
}

/// Whether anything was made that a choice or a run would make.
fn untouched(home: &Home) -> Result {
    for left in ["config/config.toml", "config/master.key", "state/secrets.enc", "state/workloads/demo"] {
        ensure!(!home.path().join(left).exists(), "{left} was made");
    }
    assert_eq!(list(home)?, Vec::<Value>::new());
    assert_eq!(home.processes(), []);
    Ok(())
}

fn chooses_none(
    begin: fn(&mut Desktop) -> Result,
    words: &[&str],
    end: fn(&mut Desktop) -> Result,
) -> Result {
    let mut desktop = Desktop::unlocked()?;
    Home::with_bus(&desktop.address(), |home| {
        begin(&mut desktop)?;
        let words: Vec<_> = words.iter().copied().chain(["thv secret provider file"]).collect();
        refused_soon(home.thv(RUN), &words)?;
        refused_soon(home.thv(["run", "-f"]).args(&RUN[1..]), &words)?;
        refused_soon(home.thv(["secret", "set", "token"]).stdin("hush"), &words)?;
        untouched(home)?;
        // Who needs no key needs no store.
        home.detached(["--name", "open", "--", DEMO_SERVER])?;
        refused_soon(home.thv(["key", "enable", "open"]), &words)?;
        answers(home, "open")?;
        home.thv(["rm", "open"]).output()?.expect(0)?;
        untouched(home)?;

        end(&mut desktop)?;
        let first = demo(home, "demo")?;
        assert_eq!(provider(home)?, "keychain");
        assert_eq!(entries(home)?["workload:demo:shared-key"], json!(first.key_id));
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}

#[test]
fn a_locked_keychain_is_not_passed_over() -> Result {
    need_keyring!();
    let unlock = |desktop: &mut Desktop| desktop.start(Keyring::Unlocked);
    chooses_none(|desktop| Bus::open(&desktop.address())?.lock(), &["locked", "unlock"], unlock)
}

#[test]
fn a_keychain_that_does_not_answer_is_not_passed_over() -> Result {
    need_keyring!();
    let go_on = |desktop: &mut Desktop| desktop.signal(Signal::CONT);
    chooses_none(|desktop| desktop.signal(Signal::STOP), &["does not answer", "thv doctor"], go_on)
}

/// The advice of the refusal helps.
#[test]
fn the_way_around_a_locked_keychain() -> Result {
    let python = need_part!(Python);
    need_keyring!();
    let desktop = Desktop::unlocked()?;
    desktop.with_home(|home| {
        Bus::open(home.bus())?.lock()?;
        refused_soon(home.thv(RUN), &["thv secret provider file"])?;
        home.thv(["secret", "provider", "file"]).output()?.expect(0)?;
        let first = demo(home, "demo")?;
        assert_eq!(provider(home)?, "file");
        let path = home.path().to_string_lossy().into_owned();
        let kept = crate::fixture::scenario(home, &python, "store_entries.py", &path)?;
        assert_eq!(kept["workload:demo:shared-key"], json!(first.key_id));
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}

#[test]
fn a_login_without_a_collection_has_no_keychain() -> Result {
    need_keyring!();
    let mut desktop = Desktop::without_keyring()?;
    desktop.start(Keyring::Locked)?;
    desktop.with_home(|home| {
        let output = home.thv(RUN).output()?.expect(0)?;
        ensure!(output.stderr.contains("no default collection"), "{output:?}");
        ensure!(output.stderr.contains("master.key"), "{output:?}");
        assert_eq!(provider(home)?, "file");
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}

/// Many begin at once in a home that is not there yet: one choice, and every key in it.
#[test]
fn all_who_begin_at_once_choose_one_store() -> Result {
    let python = need_part!(Python);
    need_keyring!();
    let desktop = Desktop::unlocked()?;
    for (bus, expected) in [(desktop.address(), "keychain"), (NO_BUS.to_owned(), "file")] {
        Home::with_bus(&bus, |home| {
            std::fs::remove_dir(home.path())?;
            let names = ["a", "b", "c", "d"];
            let outputs: Vec<Result<Output>> = std::thread::scope(|scope| {
                let run =
                    |name| home.thv(["run", "--name", name, "--shared-key-auth", "--", DEMO_SERVER]).output();
                let secret = |name| home.thv(["secret", "set", name]).stdin(name).output();
                let runs = names.map(|name| scope.spawn(move || run(name)));
                let sets = names.map(|name| scope.spawn(move || secret(name)));
                let all = runs.into_iter().chain(sets);
                all.map(|thread| thread.join().unwrap_or_else(|_| Err(Failure::new("panic")))).collect()
            });
            let mut told = 0;
            for output in outputs {
                let output = output?.expect(0)?;
                told += output.stderr.lines().filter(|line| line.contains("keys rest in")).count();
            }
            assert_eq!(told, 1, "one of them chooses, and says so");
            assert_eq!(provider(home)?, expected);
            let kept = if bus == NO_BUS { store_entries(home, &python)? } else { entries(home)? };
            let listed = home.thv(["secret", "list"]).output()?.expect(0)?.stdout;
            assert_eq!(listed.lines().collect::<Vec<_>>(), names);
            for row in list(home)? {
                let name = row["name"].as_str().unwrap_or_default();
                assert_eq!(kept[format!("workload:{name}:shared-key")], row["shared_key_auth"]["key_id"]);
                let mut bridge = home.bridge(name)?;
                bridge.initialize()?;
                add(&mut bridge)?;
                end(bridge)?;
            }
            home.thv(["rm", "--all"]).output()?.expect(0).map(drop)
        })?;
    }
    Ok(())
}

/// A run that was killed while it asked the keychain has chosen nothing, and does not keep the next one from choosing.
#[test]
fn a_choice_that_was_cut_off_is_made_by_the_next_command() -> Result {
    need_keyring!();
    let desktop = Desktop::unlocked()?;
    desktop.with_home(|home| {
        let monitor = Bus::open(home.bus())?.monitor()?;
        desktop.signal(Signal::STOP)?;
        let mut run = home.thv(RUN).start()?;
        monitor.await_call("OpenSession")?;
        run.signal(Signal::KILL)?;
        assert_eq!(run.wait(ANSWER_BOUND)?, Exit::Signal(Signal::KILL.as_raw()));
        desktop.signal(Signal::CONT)?;
        untouched(home)?;
        demo(home, "demo")?;
        assert_eq!(provider(home)?, "keychain");
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}
