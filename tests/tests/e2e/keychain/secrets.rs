//! Secrets that users keep for their servers: kept as they came, handed to the servers that ask for them, and shown
//! nowhere else.

use super::{end, entries, no_key, refused_soon, service};
use crate::DEMO_SERVER;
use crate::fixture::{call_text, list, refused, server, wait_until};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use thv_e2e::{
    Desktop, Exit, Failure, Home, Keyring, McpStdio, NO_BUS, Output, Result, STOP_BOUND, Thv, ensure,
    need_keyring, need_part,
};

/// A value that looks like a key, so that the search for leaks can look for it.
fn secret(seed: &str) -> String {
    STANDARD.encode(Sha256::digest(seed))
}

fn set(home: &Home, name: &str, value: impl Into<Vec<u8>>) -> Result<Output> {
    home.thv(["secret", "set", "--", name]).stdin(value).output()
}

fn get(home: &Home, name: &str) -> Result<String> {
    let output = home.thv(["secret", "get", "--yes", "--", name]).shows_key().output()?.expect(0)?;
    output
        .stdout
        .strip_suffix('\n')
        .map(str::to_owned)
        .ok_or_else(|| Failure::new("no line break at its end"))
}

fn names(home: &Home) -> Result<Vec<String>> {
    Ok(home.thv(["secret", "list"]).output()?.expect(0)?.stdout.lines().map(str::to_owned).collect())
}

/// `thv run` of the server that tells its environment.
fn run<'home>(home: &'home Home, python: &Path, secrets: &[&str]) -> Thv<'home> {
    let run = home.thv(["run", "--name", "demo", "--shared-key-auth"]);
    let run = secrets.iter().fold(run, |run, secret| run.args(["--secret", secret]));
    run.arg("--").args(server(python, "reports.py"))
}

/// A session whose answers hold secrets by design.
fn session(home: &Home) -> Result<McpStdio> {
    let mut session = home.thv(["proxy", "stdio", "demo"]).shows_key().bridge()?;
    session.initialize()?;
    Ok(session)
}

fn variables(session: &mut McpStdio) -> Result<BTreeMap<String, String>> {
    let report: Value = serde_json::from_str(&call_text(session, "report", &json!({}))?)?;
    let pairs: Vec<(String, String)> = serde_json::from_value(report["environment"].clone())?;
    Ok(pairs.into_iter().collect())
}

/// What the server was given, over a session of its own.
fn given(home: &Home) -> Result<BTreeMap<String, String>> {
    let mut session = session(home)?;
    let variables = variables(&mut session)?;
    end(session)?;
    Ok(variables)
}

/// Runs a test with the keychain, and with a file.
fn in_both(test: impl Fn(&Home) -> Result) -> Result {
    let desktop = Desktop::unlocked()?;
    for bus in [desktop.address(), NO_BUS.to_owned()] {
        Home::with_bus(&bus, &test).map_err(|failure| failure.during(&bus))?;
    }
    Ok(())
}

#[test]
fn values_come_back_as_they_were_kept() -> Result {
    need_keyring!();
    in_both(|home| {
        let long = "k".repeat(3 * 1024);
        let odd_name = "x".repeat(200);
        let kept = [
            ("plain", "hush"),
            ("with space", " spaces around "),
            ("größe/ü ✓", "zwölf ✓"),
            ("..", "two dots"),
            ("-dash", "--yes"),
            ("secret:x", "a prefix"),
            ("workload:demo:shared-key", "no key"),
            ("master-key", "no master key"),
            ("a,target=B", "comma"),
            ("lines", "one\ntwo\n"),
            ("base64", "base64:AAAA"),
            ("quotes", "'\"$(x)`"),
            ("long", long.as_str()),
            (&odd_name, "long name"),
        ];
        for (name, value) in kept {
            let output = set(home, name, format!("{value}\n"))?.expect(0)?;
            ensure!(!output.stderr.contains(value) && output.stdout.is_empty(), "{output:?}");
        }
        for (name, value) in kept {
            assert_eq!(get(home, name)?, value, "{name}");
        }
        let mut expected: Vec<_> = kept.iter().map(|(name, _)| name.to_string()).collect();
        expected.sort();
        assert_eq!(names(home)?, expected);
        let rows = home.thv(["secret", "list", "--format", "json"]).output()?.expect(0)?.json()?;
        let rows: Vec<_> =
            rows.as_array().into_iter().flatten().filter_map(|row| row["name"].as_str()).collect();
        assert_eq!(rows, expected);

        // One line break belongs to the pipe, any more to the value.
        for (given, value) in [("a\r\n", "a"), ("a\n\n", "a\n"), ("a", "a"), ("\n\n", "\n")] {
            set(home, "plain", given)?.expect(0)?;
            assert_eq!(get(home, "plain")?, value, "{given:?}");
        }
        let bytes = [0, 255, 254, b'\n', 0];
        set(home, "plain", bytes)?.expect(0)?;
        let command = home.thv(["secret", "get", "plain", "--yes"]).command().output()?;
        assert_eq!(command.stdout, [&bytes[..], b"\n"].concat());

        // What cannot be kept changes nothing.
        refused(home.thv(["secret", "set", "plain"]).stdin(""), 2, &["empty"])?;
        refused(home.thv(["secret", "set", "plain"]).stdin("\n"), 2, &["empty"])?;
        refused(home.thv(["secret", "set", "plain"]).stdin("x".repeat(65_537)), 6, &["65536"])?;
        refused(home.thv(["secret", "set", ""]).stdin("x"), 2, &["name"])?;
        refused(home.thv(["secret", "set", "a\nb"]).stdin("x"), 2, &["control"])?;
        refused(home.thv(["secret", "set", &"x".repeat(300)]).stdin("x"), 2, &["248 bytes"])?;
        let value_in_argv = home.thv(["secret", "set", "plain", "hush"]).output()?.expect(2)?;
        assert_eq!(value_in_argv.stdout, "");
        let command = home.thv(["secret", "get", "plain", "--yes"]).command().output()?;
        assert_eq!(command.stdout, [&bytes[..], b"\n"].concat());

        // Nobody is asked where there is no terminal.
        let output = refused(home.thv(["secret", "get", "lines"]).stdin("y\n"), 6, &["--yes", "terminal"])?;
        ensure!(!output.stderr.contains("two"), "{output:?}");
        for (name, _) in kept {
            home.thv(["secret", "delete", "--", name]).output()?.expect(0)?;
            refused(home.thv(["secret", "delete", "--", name]), 3, &["no secret"])?;
            refused(home.thv(["secret", "get", "--yes", "--", name]), 3, &["no secret", "thv secret set"])?;
        }
        assert_eq!(names(home)?, Vec::<String>::new());
        if home.bus() != NO_BUS {
            assert_eq!(entries(home)?, json!({}));
        }
        Ok(())
    })
}

#[test]
fn of_eight_writers_at_once_none_is_lost() -> Result {
    need_keyring!();
    in_both(|home| {
        let all = ["a", "b", "c", "d", "e", "f", "g", "h"];
        for round in 0..2 {
            let outputs: Vec<Result<Output>> = std::thread::scope(|scope| {
                let writers = all.map(|name| scope.spawn(move || set(home, name, format!("{name}{round}"))));
                let joined = writers.map(std::thread::ScopedJoinHandle::join).into_iter();
                joined.map(|output| output.unwrap_or_else(|_| Err(Failure::new("panic")))).collect()
            });
            for output in outputs {
                output?.expect(0)?;
            }
            assert_eq!(names(home)?, all);
            for name in all {
                assert_eq!(get(home, name)?, format!("{name}{round}"));
            }
        }
        for name in all {
            home.thv(["secret", "delete", name]).output()?.expect(0)?;
        }
        Ok(())
    })
}

#[test]
fn a_server_is_given_what_it_asks_for_and_nobody_else_is() -> Result {
    let python = need_part!(Python);
    need_keyring!();
    in_both(|home| {
        let [first, second] = ["one", "two"].map(secret);
        home.watch(&first)?;
        home.watch(&second)?;
        set(home, "api token/1", format!("{first}\n"))?.expect(0)?;
        set(home, "other", "not asked for")?.expect(0)?;
        run(home, &python, &["api token/1,target=API_TOKEN"]).output()?.expect(0)?;
        let key = home.key("demo")?;
        let mut session = session(home)?;
        let seen = variables(&mut session)?;
        assert_eq!(seen.get("API_TOKEN"), Some(&first));
        for (name, value) in &seen {
            ensure!(value != "not asked for" && !name.starts_with("TOOLHIVE_SECRET"), "{name}");
        }
        let row = home.thv(["status", "demo"]).output()?.expect(0)?;
        home.thv(["list", "--all", "--format", "json"]).output()?.expect(0)?;
        home.thv(["logs", "demo"]).output()?.expect(0)?;
        home.thv(["logs", "--proxy", "demo"]).output()?.expect(0)?;
        let exported = home.thv(["export", "demo", "-"]).output()?.expect(0)?;
        ensure!(exported.stdout.contains("api token/1,target=API_TOKEN"), "{exported:?} {row:?}");

        // Files, output, command lines, environments: the server's own is where it belongs.
        let servers: Vec<_> =
            home.processes().into_iter().filter(|one| one.command.contains("reports.py")).collect();
        for leak in home.leaks()? {
            let expected = servers.iter().any(|server| leak.place == format!("/proc/{}/environ", server.pid));
            ensure!(expected, "a secret leaked: {leak:?}");
        }

        // A new value is for the next start.
        set(home, "api token/1", format!("{second}\n"))?.expect(0)?;
        assert_eq!(variables(&mut session)?.get("API_TOKEN"), Some(&first));
        end(session)?;
        home.thv(["restart", "demo"]).output()?.expect(0)?;
        assert_eq!(given(home)?.get("API_TOKEN"), Some(&second));
        assert_eq!(home.key("demo")?, key);

        // One that is gone is missed at the next start, by name, and the workload is not harmed.
        home.thv(["secret", "delete", "api token/1"]).output()?.expect(0)?;
        home.thv(["stop", "demo"]).output()?.expect(0)?;
        refused(home.thv(["start", "demo"]), 3, &["api token/1", "thv secret set"])?;
        set(home, "api token/1", format!("{first}\n"))?.expect(0)?;
        home.thv(["start", "demo"]).output()?.expect(0)?;
        assert_eq!(given(home)?.get("API_TOKEN"), Some(&first));
        home.thv(["rm", "demo"]).output()?.expect(0)?;
        // It is the user's, and not the workload's.
        assert_eq!(names(home)?, ["api token/1", "other"]);
        for name in ["api token/1", "other"] {
            home.thv(["secret", "delete", name]).output()?.expect(0)?;
        }
        Ok(())
    })
}

#[test]
fn what_cannot_be_given_is_refused_before_anything_is_made() -> Result {
    let python = need_part!(Python);
    need_keyring!();
    in_both(|home| {
        let nothing_made = || -> Result {
            assert_eq!(list(home)?, Vec::<Value>::new());
            assert_eq!(home.processes(), []);
            ensure!(!home.path().join("state/workloads/demo").exists(), "a folder was made");
            Ok(())
        };
        refused(run(home, &python, &["missing,target=X"]), 3, &["missing", "thv secret set"])?;
        ensure!(!home.path().join("config/config.toml").exists(), "a store was chosen");
        nothing_made()?;
        set(home, "bytes", [0, 255])?.expect(0)?;
        set(home, "fine", "hush")?.expect(0)?;
        for (secrets, code, words) in [
            (&["bytes,target=X"][..], 6, &["bytes"][..]),
            (&["fine,target=X", "missing,target=Y"], 3, &["missing"]),
            (&["fine"], 2, &["NAME,target=VARIABLE"]),
            (&["fine,target="], 2, &["variable"]),
            (&[",target=X"], 2, &["NAME,target=VARIABLE"]),
            (&["fine,target=A=B"], 2, &["A=B"]),
            (&["fine,target=X", "bytes,target=X"], 2, &["X", "two values"]),
            (&["fine,target=THV_HOME"], 6, &["THV_HOME"]),
            (&["fine,target=TOOLHIVE_SHARED_KEY"], 6, &["TOOLHIVE_SHARED_KEY"]),
            (&["fine,target=DBUS_SESSION_BUS_ADDRESS"], 6, &["DBUS_SESSION_BUS_ADDRESS"]),
            // No spelling leads to a key.
            (&["workload:demo:shared-key,target=X"], 3, &["no secret"]),
            (&["master-key,target=X"], 3, &["no secret"]),
            (&["secrets:0,target=X"], 3, &["no secret"]),
        ] {
            let refusal = refused(run(home, &python, secrets), code, words);
            refusal.map_err(|failure| failure.during(format!("{secrets:?}")))?;
            nothing_made()?;
        }
        let twice =
            home.thv(["run", "--name", "demo", "-e", "X=1", "--secret", "fine,target=X", "--", DEMO_SERVER]);
        refused(twice, 2, &["X", "two values"])?;
        nothing_made()?;
        for name in ["bytes", "fine"] {
            home.thv(["secret", "delete", name]).output()?.expect(0)?;
        }
        Ok(())
    })
}

/// Whatever is written where a name goes, the keys of workloads are out of reach of `thv secret`.
#[test]
fn no_name_leads_to_a_key() -> Result {
    need_keyring!();
    in_both(|home| {
        super::demo(home, "demo")?;
        let key = home.key("demo")?;
        let entry = "workload:demo:shared-key";
        let all = ["", "secret:", "thv:", "../", "./"].map(|prefix| format!("{prefix}{entry}"));
        for name in all.iter().map(String::as_str).chain(["workload:demo:shared-key:set", "master-key"]) {
            refused(home.thv(["secret", "get", "--yes", name]), 3, &["no secret"])?;
            refused(home.thv(["secret", "delete", name]), 3, &["no secret"])?;
            set(home, name, "mine")?.expect(0)?;
            assert_eq!(home.key("demo")?, key, "{name}");
            home.thv(["secret", "delete", name]).output()?.expect(0)?;
            assert_eq!(home.key("demo")?, key, "{name}");
        }
        let variable = format!("TOOLHIVE_SECRET_{entry}");
        let run =
            home.thv(["run", "--name", "x", "--secret", &format!("{entry},target=X"), "--", DEMO_SERVER]);
        run.env(&variable, "not the key").output()?.expect(0)?;
        assert_eq!(home.key("demo")?, key);
        assert_eq!(names(home)?, Vec::<String>::new());
        let mut bridge = home.thv(["proxy", "stdio", "demo"]).env(variable, "not the key").bridge()?;
        bridge.initialize()?;
        end(bridge)?;
        home.thv(["rm", "--all"]).output()?.expect(0).map(drop)
    })
}

#[test]
fn secrets_of_the_callers_environment_are_taken_first() -> Result {
    let python = need_part!(Python);
    need_keyring!();
    in_both(|home| {
        let [kept, given_once] = ["kept", "given"].map(secret);
        home.watch(&kept)?;
        home.watch(&given_once)?;
        let wish = ["token,target=TOKEN"];
        run(home, &python, &wish).env("TOOLHIVE_SECRET_token", &given_once).output()?.expect(0)?;
        let seen = given(home)?;
        assert_eq!(seen.get("TOKEN"), Some(&given_once));
        ensure!(!seen.keys().any(|name| name.starts_with("TOOLHIVE_SECRET")), "{:?}", seen.keys());
        home.thv(["stop", "demo"]).output()?.expect(0)?;
        refused(home.thv(["start", "demo"]), 3, &["token"])?;
        home.thv(["start", "demo"]).env("TOOLHIVE_SECRET_token", &given_once).output()?.expect(0)?;
        assert_eq!(given(home)?.get("TOKEN"), Some(&given_once));

        set(home, "token", format!("{kept}\n"))?.expect(0)?;
        home.thv(["restart", "demo"]).env("TOOLHIVE_SECRET_token", &given_once).output()?.expect(0)?;
        assert_eq!(given(home)?.get("TOKEN"), Some(&given_once));
        home.thv(["restart", "demo"]).output()?.expect(0)?;
        assert_eq!(given(home)?.get("TOKEN"), Some(&kept));
        // It is for reading: what is kept is not what stands in the environment.
        let output = home.thv(["secret", "get", "token", "--yes"]).env("TOOLHIVE_SECRET_token", &given_once);
        assert_eq!(output.shows_key().output()?.expect(0)?.stdout.trim(), kept);
        home.thv(["rm", "demo"]).output()?.expect(0)?;
        home.thv(["secret", "delete", "token"]).output()?.expect(0).map(drop)
    })
}

/// A workload that anybody may use needs the keychain all the same if its server wants a secret.
#[test]
fn a_locked_keychain_keeps_a_server_from_starting_without_its_secret() -> Result {
    let python = need_part!(Python);
    need_keyring!();
    let mut desktop = Desktop::unlocked()?;
    Home::with_bus(&desktop.address(), |home| {
        set(home, "token", "hush")?.expect(0)?;
        run(home, &python, &["token,target=TOKEN"]).output()?.expect(0)?;
        let mut session = session(home)?;
        desktop.start(Keyring::Locked)?;
        // The running one has it.
        assert_eq!(variables(&mut session)?.get("TOKEN").map(String::as_str), Some("hush"));
        refused_soon(home.thv(["restart", "demo"]), &["locked"])?;
        assert_eq!(variables(&mut session)?.get("TOKEN").map(String::as_str), Some("hush"));
        let supervisor = home.supervisor("demo").ok_or_else(|| Failure::new("no supervisor"))?;
        supervisor.kill();
        wait_until("it is dead", STOP_BOUND, || Ok(!supervisor.is_alive()))?;
        no_key(&mut session, "keychain_locked")?;
        let new = home.thv(["run", "--name", "new", "--secret", "token,target=TOKEN", "--", DEMO_SERVER]);
        refused_soon(new, &["locked"])?;
        assert!(!home.path().join("state/workloads/new").exists());
        desktop.start(Keyring::Unlocked)?;
        assert_eq!(variables(&mut session)?.get("TOKEN").map(String::as_str), Some("hush"));
        assert_eq!(session.finish()?.0, Exit::Code(0));
        home.thv(["rm", "demo"]).output()?.expect(0)?;
        home.thv(["secret", "delete", "token"]).output()?.expect(0).map(drop)
    })
}

/// The text of a secret is what other programs see under its name.
#[test]
fn secrets_are_items_with_names_of_their_own() -> Result {
    need_keyring!();
    let desktop = Desktop::unlocked()?;
    desktop.with_home(|home| {
        set(home, "token", "hush\n")?.expect(0)?;
        let lookup = ["lookup", "service", &service(home), "username", "secret:token"];
        assert_eq!(desktop.secret_tool(&lookup, "")?, "hush");
        home.thv(["secret", "delete", "token"]).output()?.expect(0)?;
        assert_eq!(desktop.secret_tool(&lookup, "")?, "");
        assert_eq!(entries(home)?, json!({}));
        Ok(())
    })
}

/// Somebody who has the right to write and does nothing with it.
#[test]
fn a_writer_that_hangs_is_not_waited_for() -> Result {
    Home::with(|home| {
        set(home, "token", "hush\n")?.expect(0)?;
        let store = File::open(home.path().join("state/secrets.enc.lock"))?;
        store.lock()?;
        let words = ["another command holds", "secrets.enc", "try again"];
        refused_soon(home.thv(["secret", "set", "other"]).stdin("hush too"), &words)?;
        refused_soon(home.thv(["secret", "delete", "token"]), &words)?;
        // Who only reads waits for nobody.
        assert_eq!(home.thv(["secret", "list"]).output()?.expect(0)?.stdout, "token\n");
        drop(store);
        set(home, "other", "hush too\n")?.expect(0)?;
        assert_eq!(home.thv(["secret", "list"]).output()?.expect(0)?.stdout, "other\ntoken\n");
        Ok(())
    })
}
