//! Which key goes where: the front door's ends at the front door, and a server of ours has one of its own.

use super::restart::{kill, pid, works_again};
use super::{Elsewhere, NAME, Record, bridge, end, guarding, posting, server};
use crate::fixture::call_text;
use serde_json::{Value, json};
use thv_e2e::http::Request;
use thv_e2e::{Detached, Home, Result, SecretForms, ensure, need_part};

/// The port on which the server of a record listens.
fn own_port(record: &Record) -> Result<u16> {
    let requests = record.requests()?;
    let host = requests.first().map(|one| one.values("host").concat()).unwrap_or_default();
    let port = host.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    port.ok_or_else(|| thv_e2e::Failure::new(format!("no port in {host:?}")))
}

#[test]
pub(crate) fn a_server_that_checks_its_key_is_reached_through_the_lock_alone() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let record = Record::new(home);
        let options = ["--demand-key", "--record", &record.path()];
        let mut keys = Vec::new();
        let run = guarding(home, &python, &[], &options).output()?;
        ensure!(
            run.stderr.contains("keeps its own port") && run.stderr.contains("TOOLHIVE_SHARED_KEY"),
            "{run:?}"
        );
        Detached::of(run)?;
        for round in 0..2 {
            if round > 0 {
                home.thv(["restart", NAME]).output()?.expect(0)?;
            }
            let front = crate::fixture::only_row(home)?["port"].as_u64().unwrap_or_default();
            let front = u16::try_from(front).unwrap_or_default();
            let key = home.key(NAME)?;
            let mut session = bridge(home)?;
            let report: Value = serde_json::from_str(&call_text(&mut session, "report", &json!({}))?)?;
            let pairs: Vec<(String, String)> = serde_json::from_value(report["environment"].clone())?;
            let own = pairs.into_iter().find(|(name, _)| name == "TOOLHIVE_SHARED_KEY");
            let own = own.map(|(_, value)| value).unwrap_or_default();
            end(session)?;
            assert_eq!(posting(front, &key, "echo", &json!({ "text": "x" })).send()?.status, 200);

            // Its own port is closed to everybody else, the holder of the front door's key among them.
            let requests = record.requests()?;
            ensure!(requests.len() > 3, "{} requests", requests.len());
            let port = own_port(&record)?;
            let straight = Request::mcp(port, &json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }));
            assert_eq!(straight.send()?.status, 403);
            let other = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
            assert_eq!(straight.clone().key(other).send()?.status, 403);
            assert_eq!(straight.key(&own).send()?.status, 200);
            // And its key opens nothing of ours.
            assert_eq!(posting(front, &own, "echo", &json!({ "text": "x" })).send()?.status, 401);

            for request in &requests {
                assert_eq!(request.values("x-toolhive-auth"), [&*own], "{} {}", request.method, request.path);
            }
            let mut leaks = Vec::new();
            SecretForms::of(&own)?.search_dir(&home.path(), &mut leaks)?;
            ensure!(leaks.is_empty(), "{leaks:?}");
            assert_ne!(own, key);
            keys.push(own);
            std::fs::remove_file(&record.0)?;
        }
        assert_ne!(keys[0], keys[1]);
        // That the front door's key is in no record is what the home checks in the end.
        home.thv(["rm", NAME]).output()?.expect(0).map(drop)
    })
}

#[test]
fn a_server_that_is_started_again_has_another_key() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        Detached::of(guarding(home, &python, &[], &["--demand-key"]).output()?)?;
        let mut session = bridge(home)?;
        let mut keys = Vec::new();
        for _ in 0..3 {
            works_again(&mut session, "echo", &json!({ "text": "let in" }))?;
            let report: Value = serde_json::from_str(&call_text(&mut session, "report", &json!({}))?)?;
            let pairs: Vec<(String, String)> = serde_json::from_value(report["environment"].clone())?;
            let own = pairs.into_iter().find(|(name, _)| name == "TOOLHIVE_SHARED_KEY");
            keys.push(own.map(|(_, value)| value).unwrap_or_default());
            kill(home, pid(&mut session)?)?;
        }
        works_again(&mut session, "echo", &json!({ "text": "let in" }))?;
        end(session)?;
        keys.sort();
        keys.dedup();
        ensure!(keys.len() == 3 && keys.iter().all(|key| key.len() == 44), "a key was used again");
        home.thv(["rm", NAME]).output()?.expect(0).map(drop)
    })
}

#[test]
fn without_a_key_of_its_own_a_server_is_sent_none() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let record = Record::new(home);
        let options = ["--record", &record.path()];
        let locked = ["--shared-key-auth", "--no-upstream-key"];
        for lock in [&locked[..], &[]] {
            let run = home.thv(["run", "--name", NAME, "--transport", "streamable-http"]).args(lock);
            let run = run.arg("--").args(server(&python, &options)).output()?;
            ensure!(run.stderr.contains("keeps its own port beside the proxy, which any program"), "{run:?}");
            let guarded = Detached::of(run)?;
            let key = if lock.is_empty() { None } else { Some(home.key(NAME)?) };
            let mut session = bridge(home)?;
            let report = call_text(&mut session, "report", &json!({}))?;
            ensure!(!report.contains("TOOLHIVE"), "{report}");
            end(session)?;
            // What a client makes up is not passed on either.
            let made_up = key.as_deref().unwrap_or("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
            assert_eq!(posting(guarded.port, made_up, "echo", &json!({ "text": "x" })).send()?.status, 200);
            let requests = record.requests()?;
            ensure!(requests.len() > 3, "{} requests", requests.len());
            for request in &requests {
                assert_eq!(request.values("x-toolhive-auth"), Vec::<&str>::new(), "{}", request.path);
            }
            std::fs::remove_file(&record.0)?;
            home.thv(["rm", NAME]).output()?.expect(0)?;
        }
        // One that demands what it was not given lets nobody in.
        let run = guarding(home, &python, &["--no-upstream-key", "--ready-timeout", "2s"], &["--demand-key"]);
        let output = run.output()?.expect(1)?;
        ensure!(output.stderr.contains("403"), "{output:?}");
        Ok(())
    })
}

#[test]
fn somebody_else_s_server_is_sent_no_key_at_all() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let record = Record::new(home);
        let elsewhere = Elsewhere::start(home, &python, &["--record", &record.path()])?;
        let run = ["--name", NAME, "--shared-key-auth", &elsewhere.url()];
        let run = home.thv(["run"]).args(run).output()?;
        ensure!(!run.stderr.contains("own port"), "{run:?}");
        let guarded = Detached::of(run)?;
        let key = home.key(NAME)?;
        let mut session = bridge(home)?;
        assert_eq!(call_text(&mut session, "echo", &json!({ "text": "over there" }))?, "over there");
        end(session)?;
        let post = posting(guarded.port, &key, "echo", &json!({ "text": "x" }));
        let post = post.header("X-Client", "kept").header("Proxy-Authorization", "Basic eDp5");
        assert_eq!(post.send()?.status, 200);
        let requests = record.requests()?;
        ensure!(requests.len() > 3, "{} requests", requests.len());
        for request in &requests {
            for name in
                ["x-toolhive-auth", "x-toolhive-challenge", "x-toolhive-key-id", "proxy-authorization"]
            {
                assert_eq!(request.values(name), Vec::<&str>::new(), "{name}");
            }
            assert_eq!(request.values("host"), [format!("127.0.0.1:{}", elsewhere.port)]);
        }
        assert_eq!(requests.last().map(|last| last.values("x-client")), Some(vec!["kept"]));
        home.thv(["rm", NAME]).output()?.expect(0).map(drop)
    })
}
