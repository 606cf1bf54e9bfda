//! One store exchanged for another: everything moves or nothing does, whoever uses it meanwhile.

use super::bus::Bus;
use super::{add, demo, end, entries, entries_of, provider, refused_soon, service, service_of, settings};
use crate::fixture::{answers, list, refused};
use crate::state::SmallDisk;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;
use thv_e2e::{
    ANSWER_BOUND, Desktop, Exit, Failure, Home, Keyring, Output, Result, Signal, ensure, need_keyring, parts,
};

const PASSPHRASE: &str = "correct horse battery staple";

/// `thv secret provider TO`.
pub(super) fn exchange(home: &Home, to: &str) -> Result<Output> {
    let exchange = home.thv(["secret", "provider", to]);
    match to {
        "passphrase" => exchange.args(["--passphrase-fd", "0"]).stdin(format!("{PASSPHRASE}\n")).output(),
        _ => exchange.output(),
    }
}

/// What the home keeps on disk of any store: encrypted files and a master key.
fn on_disk(home: &Home) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for folder in ["config", "state"] {
        for entry in std::fs::read_dir(home.path().join(folder))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            // Locks are never deleted.
            if (name.contains(".enc") || name.contains("master")) && !name.ends_with(".lock") {
                names.insert(name);
            }
        }
    }
    Ok(names)
}

fn names_in_keychain(home: &Home) -> Result<BTreeSet<String>> {
    Ok(entries(home)?.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect())
}

/// Whether everything rests in one store, and nothing in any other.
fn rests_in(home: &Home, expected: &str, names: &BTreeSet<String>) -> Result {
    assert_eq!(provider(home)?, expected);
    let (disk, keychain) = (on_disk(home)?, names_in_keychain(home)?);
    let files = disk.iter().filter(|name| name.ends_with(".enc")).count();
    let master = disk.contains("master.key");
    let of_file = BTreeSet::from(["master-key".to_owned()]);
    let fine = match expected {
        "keychain" => disk.is_empty() && keychain == *names,
        "file-keychain" => disk.len() == 1 && files == 1 && keychain == of_file,
        "file" => disk.len() == 2 && files == 1 && master && keychain.is_empty(),
        _ => disk.len() == 1 && files == 1 && keychain.is_empty(),
    };
    ensure!(fine, "{expected}: on disk {disk:?}, in the keychain {keychain:?}");
    Ok(())
}

/// Moves through stores with a workload that runs, one that does not, a secret, and a client that stays.
fn tour(stops: &[&str]) -> Result {
    need_keyring!();
    super::passphrase::need_kernel_keyring!();
    let desktop = Desktop::unlocked()?;
    desktop.with_home(|home| {
        let outcome = tour_of(home, stops);
        outcome.and(super::passphrase::forget(home))
    })
}

fn tour_of(home: &Home, stops: &[&str]) -> Result {
    demo(home, "demo")?;
    demo(home, "idle")?;
    home.thv(["stop", "idle"]).output()?.expect(0)?;
    home.thv(["secret", "set", "token"]).stdin("hush").output()?.expect(0)?;
    let keys = [home.key("demo")?, home.key("idle")?];
    let names = names_in_keychain(home)?;
    rests_in(home, "keychain", &names)?;
    let mut live = home.bridge("demo")?;
    live.initialize()?;
    for stop in stops {
        let tried = || -> Result {
            let output = exchange(home, stop)?.expect(0)?;
            ensure!(output.stderr.contains("moved"), "{output:?}");
            ensure!((*stop == "file") == output.stderr.contains("master.key"), "{output:?}");
            rests_in(home, stop, &names)?;
            assert_eq!([home.key("demo")?, home.key("idle")?], keys);
            let token = home.thv(["secret", "get", "token", "--yes"]).output()?.expect(0)?.stdout;
            assert_eq!(token, "hush\n");
            // There already: nothing to do, unless a passphrase is to be another.
            if *stop != "passphrase" {
                let chosen = settings(home)?;
                let output = exchange(home, stop)?.expect(0)?;
                ensure!(output.stderr.contains("already") && settings(home)? == chosen, "{output:?}");
            }
            Ok(())
        };
        tried().map_err(|failure| failure.during(format!("to {stop}")))?;
        add(&mut live)?;
        answers(home, "demo")?;
        home.thv(["restart", "demo"]).output()?.expect(0)?;
        add(&mut live)?;
        home.thv(["start", "idle"]).output()?.expect(0)?;
        answers(home, "idle")?;
        home.thv(["stop", "idle"]).output()?.expect(0)?;
    }
    end(live)?;
    assert_eq!([home.key("demo")?, home.key("idle")?], keys);
    home.thv(["rm", "--all"]).output()?.expect(0)?;
    home.thv(["secret", "delete", "token"]).output()?.expect(0).map(drop)
}

#[test]
fn from_the_keychain_through_every_store_and_back() -> Result {
    tour(&["file", "file-keychain", "passphrase", "keychain"])
}

#[test]
fn through_every_store_the_other_way_round() -> Result {
    tour(&["passphrase", "file-keychain", "file", "keychain", "file-keychain", "keychain"])
}

/// Between files, each of which is the other's neighbour for a moment.
#[test]
fn from_file_to_file_again_and_again() -> Result {
    tour(&["file", "passphrase", "file", "passphrase", "passphrase", "file-keychain", "file"])
}

/// A home with a few entries in a file, and its keys.
fn filled(home: &Home) -> Result<[String; 2]> {
    exchange(home, "file")?.expect(0)?;
    demo(home, "demo")?;
    demo(home, "idle")?;
    home.thv(["stop", "idle"]).output()?.expect(0)?;
    home.thv(["secret", "set", "token"]).stdin("hush").output()?.expect(0)?;
    Ok([home.key("demo")?, home.key("idle")?])
}

/// A way in which the target fails: its name, how it comes about, and what is said of it.
type Fault = (&'static str, fn(&mut Desktop) -> Result, &'static [&'static str]);

#[test]
fn a_move_to_a_keychain_that_is_locked_or_away_changes_nothing() -> Result {
    need_keyring!();
    let mut desktop = Desktop::unlocked()?;
    Home::with_bus(&desktop.address(), |home| {
        let keys = filled(home)?;
        let seen = || -> Result<_> {
            let store = std::fs::read(home.path().join("state/secrets.enc"))?;
            Ok((settings(home)?, on_disk(home)?, store))
        };
        let before = seen()?;
        let faults: [Fault; 4] = [
            ("locked", |desktop| Bus::open(&desktop.address())?.lock(), &["locked", "unlock"]),
            ("killed", Desktop::kill, &["not available"]),
            ("stopped", |desktop| desktop.signal(Signal::STOP), &["did not answer"]),
            (
                "no collection",
                |desktop| {
                    desktop.kill()?;
                    desktop.hide_collections(true)?;
                    desktop.start(Keyring::Locked)
                },
                &["no default collection"],
            ),
        ];
        for (fault, begin, words) in faults {
            desktop.start(Keyring::Unlocked)?;
            begin(&mut desktop)?;
            for to in ["keychain", "file-keychain"] {
                let words: Vec<_> = words.iter().copied().chain(["nothing was moved"]).collect();
                let refusal = refused_soon(home.thv(["secret", "provider", to]), &words);
                refusal.map_err(|failure| failure.during(format!("{fault}, to {to}")))?;
                let now = seen()?;
                ensure!(now == before, "{fault}, to {to}: {:?} instead of {:?}", now.1, before.1);
            }
            assert_eq!([home.key("demo")?, home.key("idle")?], keys);
            answers(home, "demo")?;
        }
        desktop.kill()?;
        desktop.hide_collections(false)?;
        desktop.start(Keyring::Unlocked)?;
        assert_eq!(entries(home)?, json!({}));
        exchange(home, "keychain")?.expect(0)?;
        assert_eq!([home.key("demo")?, home.key("idle")?], keys);
        home.thv(["secret", "delete", "token"]).output()?.expect(0)?;
        home.thv(["rm", "--all"]).output()?.expect(0).map(drop)
    })
}

#[test]
fn a_move_to_a_full_disk_changes_nothing() -> Result {
    need_keyring!();
    let desktop = Desktop::unlocked()?;
    desktop.with_home(|home| {
        let Some(disk) = SmallDisk::mount(home.user().join("disk"))? else {
            let test = parts::test_name(file!(), line!());
            return parts::missing("mount", "run the tests as root, in a container", &test)
                .map(Into::into)?;
        };
        let full = disk.0.join("thv");
        let thv = |args: &[&str]| home.thv(args).env("THV_HOME", &full);
        thv(&["run", "--name", "demo", "--shared-key-auth", "--", crate::DEMO_SERVER]).output()?.expect(0)?;
        // More than the last block of any file on the disk has room for.
        let large = "x".repeat(16 << 10);
        thv(&["secret", "set", "large"]).stdin(large.clone()).output()?.expect(0)?;
        let show = || {
            Ok::<_, Failure>(thv(&["key", "show", "demo", "--yes"]).shows_key().output()?.expect(0)?.stdout)
        };
        let kept = || -> Result<Value> {
            let mut entries = entries_of(home.bus(), &service_of(&full))?;
            // One that was made for a file that could not be, and that the next attempt takes.
            entries.as_object_mut().map(|entries| entries.remove("master-key"));
            Ok(entries)
        };
        let chosen = || std::fs::read(full.join("config/config.toml"));
        let (key, before, settings) = (show()?, kept()?, chosen()?);
        let filler = disk.fill()?;
        for to in ["file", "file-keychain"] {
            let output = thv(&["secret", "provider", to]).output()?;
            ensure!(matches!(output.exit, Exit::Code(1 | 5)), "{output:?}");
            ensure!(output.stderr.contains("space"), "{output:?}");
            assert_eq!(
                (show()?, kept()?, chosen()?),
                (key.clone(), before.clone(), settings.clone()),
                "{to}"
            );
        }
        std::fs::remove_file(filler)?;
        thv(&["secret", "provider", "file"]).output()?.expect(0)?;
        assert_eq!((show()?, kept()?), (key, json!({})));
        let get = thv(&["secret", "get", "large", "--yes"]).output()?.expect(0)?;
        assert_eq!(get.stdout.trim_end(), large);
        thv(&["rm", "demo"]).output()?.expect(0).map(drop)
    })
}

/// Enough entries that a move takes a while.
const MANY: usize = 40;

fn many(home: &Home) -> Result<Vec<String>> {
    let names: Vec<_> = (0..MANY).map(|number| format!("s{number:02}")).collect();
    for name in &names {
        home.thv(["secret", "set", name]).stdin(format!("value of {name}")).output()?.expect(0)?;
    }
    Ok(names)
}

fn all_there(home: &Home, names: &[String], keys: &[String; 2]) -> Result {
    assert_eq!(&[home.key("demo")?, home.key("idle")?], keys);
    let listed = home.thv(["secret", "list"]).output()?.expect(0)?.stdout;
    let expected: Vec<_> = names.iter().map(String::as_str).chain(["token"]).collect();
    assert_eq!(listed.lines().collect::<Vec<_>>(), expected);
    for name in [&names[0], &names[MANY - 1]] {
        let value = home.thv(["secret", "get", name, "--yes"]).output()?.expect(0)?.stdout;
        assert_eq!(value, format!("value of {name}\n"));
    }
    Ok(())
}

/// A keychain that stops, and a command that is killed, in the middle of a move: the old store or the new one counts,
/// and whichever does holds everything.
#[test]
fn a_move_that_breaks_off_loses_nothing() -> Result {
    need_keyring!();
    let desktop = Desktop::unlocked()?;
    desktop.with_home(|home| {
        let keys = filled(home)?;
        let names = many(home)?;
        // In either direction, at the first write of an entry and at the first deletion.
        for (to, call, kill) in [
            ("keychain", "CreateItem", false),
            ("keychain", "CreateItem", true),
            ("file", "Delete", false),
            ("file", "Delete", true),
        ] {
            let tried = || -> Result {
                let from = if to == "file" { "keychain" } else { "file" };
                exchange(home, from)?.expect(0)?;
                let monitor = Bus::open(home.bus())?.monitor()?;
                let mut command = home.thv(["secret", "provider", to]).start()?;
                monitor.await_call(call)?;
                let how = if kill {
                    command.signal(Signal::KILL)?;
                    command.wait(ANSWER_BOUND)?
                } else {
                    desktop.signal(Signal::STOP)?;
                    let how = command.wait(ANSWER_BOUND)?;
                    desktop.signal(Signal::CONT)?;
                    how
                };
                let now = provider(home)?;
                // Copied and recorded first, deleted last: a store that cannot be emptied is no failure of the move.
                let expected = match (kill, to) {
                    (true, _) => how != Exit::Code(0) || now == to,
                    (false, "keychain") => {
                        how == Exit::Code(5) && now == from || how == Exit::Code(0) && now == to
                    }
                    (false, _) => how == Exit::Code(0) && now == to,
                };
                ensure!(expected, "{how:?}, and the store is {now}\n{}", command.stderr());
                all_there(home, &names, &keys)?;
                // What changes afterwards differs from the copies that were left, and they are in nobody's way.
                let last = &names[MANY - 1];
                home.thv(["secret", "delete", last]).output()?.expect(0)?;
                home.thv(["secret", "set", last]).stdin(format!("value of {last}")).output()?.expect(0)?;
                home.thv(["secret", "set", "token"]).stdin(format!("{how:?} {to}")).output()?.expect(0)?;
                exchange(home, to)?.expect(0)?;
                let value = home.thv(["secret", "get", "token", "--yes"]).output()?.expect(0)?.stdout;
                assert_eq!(value, format!("{how:?} {to}\n"));
                assert_eq!(provider(home)?, to);
                all_there(home, &names, &keys)
            };
            tried().map_err(|failure| failure.during(format!("to {to}, killed {kill}")))?;
        }
        answers(home, "demo")?;
        for name in names.iter().map(String::as_str).chain(["token"]) {
            home.thv(["secret", "delete", name]).output()?.expect(0)?;
        }
        home.thv(["rm", "--all"]).output()?.expect(0).map(drop)
    })
}

/// Who writes while the store is exchanged writes to the one that counts.
#[test]
fn nothing_is_lost_that_is_written_during_moves() -> Result {
    need_keyring!();
    let desktop = Desktop::unlocked()?;
    desktop.with_home(|home| {
        demo(home, "demo")?;
        let key = home.key("demo")?;
        let (runs, secrets) = (["a", "b", "c"], ["x", "y", "z"]);
        let outputs: Vec<Result<Output>> = std::thread::scope(|scope| {
            let mover = scope.spawn(|| -> Result<Output> {
                for to in ["file", "keychain", "file-keychain"] {
                    exchange(home, to)?.expect(0)?;
                }
                exchange(home, "keychain")
            });
            let runs = runs.map(|name| {
                let run = ["run", "--name", name, "--shared-key-auth", "--", crate::DEMO_SERVER];
                scope.spawn(move || home.thv(run).output())
            });
            let sets = secrets
                .map(|name| scope.spawn(move || home.thv(["secret", "set", name]).stdin(name).output()));
            let readers = [0; 2].map(|_| {
                scope.spawn(|| {
                    let mut last =
                        home.thv(["key", "show", "demo", "--yes"]).shows_key().output()?.expect(0)?;
                    for _ in 0..5 {
                        last = home.thv(["key", "show", "demo", "--yes"]).shows_key().output()?.expect(0)?;
                        answers(home, "demo")?;
                    }
                    Ok(last)
                })
            });
            let all = [mover].into_iter().chain(runs).chain(sets).chain(readers);
            all.map(|thread| thread.join().unwrap_or_else(|_| Err(Failure::new("panic")))).collect()
        });
        for output in outputs {
            output?.expect(0)?;
        }
        assert_eq!(provider(home)?, "keychain");
        assert_eq!(home.key("demo")?, key);
        for row in list(home)? {
            let name = row["name"].as_str().unwrap_or_default();
            answers(home, name)?;
            assert_eq!(
                entries(home)?[format!("workload:{name}:shared-key")],
                row["shared_key_auth"]["key_id"]
            );
        }
        for name in secrets {
            let value = home.thv(["secret", "get", name, "--yes"]).output()?.expect(0)?.stdout;
            assert_eq!(value, format!("{name}\n"));
            home.thv(["secret", "delete", name]).output()?.expect(0)?;
        }
        home.thv(["rm", "--all"]).output()?.expect(0)?;
        assert_eq!(entries(home)?, json!({}));
        assert_eq!(on_disk(home)?, BTreeSet::new());
        Ok(())
    })
}

/// The master key of a file that is in the keychain fails as the keychain does.
#[test]
fn a_file_whose_master_key_is_locked_away_is_not_opened_and_not_made_anew() -> Result {
    need_keyring!();
    let mut desktop = Desktop::unlocked()?;
    Home::with_bus(&desktop.address(), |home| {
        exchange(home, "file-keychain")?.expect(0)?;
        demo(home, "demo")?;
        let (key, chosen) = (home.key("demo")?, settings(home)?);
        let files = || -> Result<Vec<(PathBuf, Vec<u8>)>> {
            let names = on_disk(home)?.into_iter();
            names
                .map(|name| home.path().join("state").join(name))
                .map(|path| Ok((path.clone(), std::fs::read(path)?)))
                .collect()
        };
        let before = files()?;
        let refuses = |words: &[&str]| -> Result {
            for args in [
                &["key", "show", "demo", "--yes"][..],
                &["restart", "demo"],
                &["secret", "list"],
                &["run", "--name", "new", "--shared-key-auth", "--", crate::DEMO_SERVER],
                &["secret", "provider", "file"],
            ] {
                refused_soon(home.thv(args), words)?;
            }
            assert_eq!((files()?, settings(home)?), (before.clone(), chosen.clone()));
            Ok(())
        };
        Bus::open(home.bus())?.lock()?;
        refuses(&["locked", "unlock"])?;
        desktop.kill()?;
        refuses(&["not available"])?;
        desktop.start(Keyring::Unlocked)?;
        // Somebody has deleted it: the file is not taken for an empty one.
        let item = ["service", &service(home), "username", "master-key"];
        let master = desktop.secret_tool(&[&["lookup"], &item[..]].concat(), "")?;
        desktop.secret_tool(&[&["clear"], &item[..]].concat(), "")?;
        refuses(&["master"])?;
        desktop.secret_tool(&[&["store", "--label", "x"], &item[..]].concat(), &master)?;
        assert_eq!(home.key("demo")?, key);
        answers(home, "demo")?;
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}

#[test]
fn a_store_that_is_unknown_or_asked_for_wrongly_is_refused() -> Result {
    Home::with(|home| {
        demo(home, "demo")?;
        let chosen = settings(home)?;
        let output = home.thv(["secret", "provider", "vault"]).output()?.expect(2)?;
        ensure!(output.stderr.contains("file-keychain"), "{output:?}");
        refused(
            home.thv(["secret", "provider", "file-keychain", "--passphrase-fd", "0"]),
            2,
            &["--passphrase-fd"],
        )?;
        refused(home.thv(["secret", "provider", "passphrase"]), 6, &["terminal", "--passphrase-fd"])?;
        refused(home.thv(["secret", "provider", "passphrase", "--passphrase-fd", "0"]), 2, &["empty"])?;
        refused(home.thv(["secret", "provider", "passphrase", "--passphrase-fd", "99"]), 2, &["99"])?;
        assert_eq!(settings(home)?, chosen);
        // Settings that cannot be understood are nobody's to guess.
        let path = home.path().join("config/config.toml");
        let write =
            |text: &str| std::io::Write::write_all(&mut std::fs::File::create(&path)?, text.as_bytes());
        for text in ["[store]\nprovider = \"vault\"\n", "[store\n", "store = 1\n[store]\n"] {
            write(text)?;
            for args in [&["key", "show", "demo", "--yes"][..], &["restart", "demo"], &["secret", "list"]] {
                let output = home.thv(args).output()?;
                ensure!(output.exit != Exit::Code(0) && output.stderr.contains("config.toml"), "{output:?}");
            }
            assert_eq!(settings(home)?, text);
        }
        write(&chosen)?;
        answers(home, "demo")?;
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}
