//! Run configs of HTTP servers and URLs, taken out and brought back.

use super::{Elsewhere, NAME, Record, bridge, end, free_port, guarding, nothing_left, posting};
use crate::fixture::{call_text, only_row, refused};
use serde_json::{Value, json};
use thv_e2e::{Detached, Home, Result, ensure, need_part};

/// Exports the workload, removes it, and returns what was exported.
fn taken_out(home: &Home, file: &str) -> Result<Value> {
    home.thv(["export", NAME, file]).output()?.expect(0)?;
    home.thv(["rm", NAME]).output()?.expect(0)?;
    Ok(serde_json::from_slice(&std::fs::read(home.user().join(file))?)?)
}

#[test]
fn a_process_comes_back_as_it_was() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let port = free_port()?.to_string();
        let run = ["--target-port", &port, "--no-upstream-key", "-e", "MODE=quiet", "-l", "team=blue"];
        let run = [&run[..], &["--allowed-origins", "https://app.example.org"]].concat();
        Detached::of(guarding(home, &python, &run, &["--sessions"]).output()?)?;
        let old = home.key(NAME)?;
        let exported = taken_out(home, "web.json")?;
        assert_eq!(
            (&exported["transport"], exported["target_port"].to_string()),
            (&json!("streamable-http"), port.clone())
        );
        assert_eq!(exported["sharedKeyAuth"]["enabled"], true);

        let run = ["run", "--from-config", "web.json"];
        refused(home.thv(run).stdin(""), 6, &["--yes"])?;
        let back = home.thv(run).arg("--yes").output()?;
        for words in ["server.py", "MODE=quiet", "shared key"] {
            ensure!(back.stderr.contains(words), "{words:?} is missing in {back:?}");
        }
        let guarded = Detached::of(back)?;
        let row = only_row(home)?;
        assert_eq!(
            (&row["transport_type"], &row["labels"]),
            (&json!("streamable-http"), &json!({ "team": "blue" }))
        );
        let mut session = bridge(home)?;
        let report: Value = serde_json::from_str(&call_text(&mut session, "report", &json!({}))?)?;
        let pairs: Vec<(String, String)> = serde_json::from_value(report["environment"].clone())?;
        let has = |name: &str, value: &str| pairs.contains(&(name.to_owned(), value.to_owned()));
        ensure!(has("MODE", "quiet") && has("PORT", &port), "{pairs:?}");
        ensure!(pairs.iter().all(|(name, _)| name != "TOOLHIVE_SHARED_KEY"), "{pairs:?}");
        end(session)?;
        assert_ne!(home.key(NAME)?, old, "a workload that is made anew has a new key");
        assert_eq!(posting(guarded.port, &old, "echo", &json!({ "text": "x" })).send()?.status, 401);
        assert_eq!(taken_out(home, "again.json")?, exported);
        nothing_left(home, &python)
    })
}

#[test]
fn a_url_comes_back_with_its_fields_and_without_their_secrets() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let secret = "dGhpcyB2YWx1ZSBpcyBleGFjdGx5IDMyIGJ5dGVzISE=";
        home.watch(secret)?;
        home.thv(["secret", "set", "api"]).stdin(secret).output()?.expect(0)?;
        let record = Record::new(home);
        let options = ["--record", &record.path(), "--digest", "X-Api-Key"];
        let elsewhere = Elsewhere::start(home, &python, &options)?;
        let url = elsewhere.url();
        let run = ["--remote-header", "X-Team=blue", "--remote-header-secret", "X-Api-Key=api", &url];
        home.detached([&["--name", NAME, "--shared-key-auth"], &run[..]].concat())?;
        let exported = taken_out(home, "web.json")?;
        assert_eq!((&exported["remote_url"], &exported["command"]), (&json!(url), &Value::Null));

        std::fs::remove_file(&record.0)?;
        let back = home.thv(["run", "--from-config", "web.json", "--yes"]).output()?;
        for words in [&*url, "X-Team", "X-Api-Key from the secret api", "shared key"] {
            ensure!(back.stderr.contains(words), "{words:?} is missing in {back:?}");
        }
        Detached::of(back)?;
        let mut session = bridge(home)?;
        assert_eq!(call_text(&mut session, "echo", &json!({ "text": "back" }))?, "back");
        end(session)?;
        for request in record.requests()? {
            assert_eq!(request.values("x-team"), ["blue"]);
            assert_eq!(request.values("x-api-key").len(), 1);
        }
        assert_eq!(taken_out(home, "again.json")?, exported);

        // What the command line refuses is refused in a file as well.
        for (pointer, value, words) in [
            ("remote_url", json!("http://me:hunter2@127.0.0.1:1/mcp"), "user name or password"),
            ("remote_url", json!("http://10.0.0.1/mcp"), "without encryption"),
            ("target_port", json!(4000), "--target-port"),
            ("command", json!("/bin/true"), "two servers"),
            ("env_vars", json!({ "A": "b" }), "variables"),
            ("max_sessions", json!(3), "max_sessions"),
            ("session_ttl", json!("1m0s"), "session_ttl"),
            ("cmd_args", json!(["-v"]), "arguments"),
            ("header_forward", json!({ "add_plaintext_headers": { "Host": "x" } }), "Host"),
        ] {
            let mut changed = exported.clone();
            changed[pointer] = value;
            home.file("changed.json", changed.to_string())?;
            let output = refused(home.thv(["run", "--from-config", "changed.json", "--yes"]), 6, &[words])?;
            ensure!(!output.stderr.contains("hunter2"), "{output:?}");
        }
        // A file of another program, which leaves out what goes without saying.
        home.file("short.json", json!({ "name": NAME, "remote_url": url }).to_string())?;
        home.thv(["run", "--from-config", "short.json", "--yes"]).output()?.expect(0)?;
        let row = only_row(home)?;
        assert_eq!(
            (&row["transport_type"], &row["shared_key_auth"]),
            (&json!("streamable-http"), &Value::Null)
        );
        home.thv(["rm", NAME]).output()?.expect(0)?;
        home.thv(["secret", "delete", "api"]).output()?.expect(0)?;
        drop(elsewhere);
        nothing_left(home, &python)
    })
}
