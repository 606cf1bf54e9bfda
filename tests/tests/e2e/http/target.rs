//! `thv proxy NAME --target-uri`: a lock in front of a URL, in the foreground, with a key from the store or handed in.

use super::{Elsewhere, NAME, NOT_RUNNING, bridge, calling, end, posting, reason};
use crate::DEMO_SERVER;
use crate::fixture::{call_text, only_row, refused, store_entries, wait_until};
use serde_json::{Value, json};
use thv_e2e::http::Request;
use thv_e2e::{Exit, Foreground, Home, Output, Result, STOP_BOUND, Signal, Thv, ensure, need_part};

fn proxy<'home>(home: &'home Home, url: &str) -> Thv<'home> {
    home.thv(["proxy", NAME, "--target-uri", url, "--shared-key-auth"])
}

/// Ctrl-C, and the stopped workload that it leaves.
fn interrupt(home: &Home, mut guarded: Foreground) -> Result {
    guarded.signal(Signal::INT)?;
    assert_eq!(guarded.wait(STOP_BOUND)?, Exit::Code(0));
    let row = only_row(home)?;
    assert_eq!((&row["status"], &row["pid"]), (&json!("stopped"), &Value::Null));
    Ok(())
}

/// A key from the system's generator, which counts as a leak wherever it is found.
fn generated(home: &Home) -> Result<String> {
    home.thv(["run", "--name", "maker", "--shared-key-auth", "--", DEMO_SERVER]).output()?.expect(0)?;
    let key = home.key("maker")?;
    home.thv(["rm", "maker"]).output()?.expect(0)?;
    Ok(key)
}

#[test]
fn it_serves_until_ctrl_c_and_keeps_key_and_port() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let elsewhere = Elsewhere::start(home, &python, &[])?;
        let first = proxy(home, &elsewhere.url()).foreground()?;
        let (port, key_id) = (first.port(), first.key_id().map(str::to_owned));
        let key = home.key(NAME)?;
        let row = only_row(home)?;
        assert_eq!((&row["status"], &row["remote"]), (&json!("running"), &json!(true)));
        assert_eq!((&row["pid"], &row["shared_key_auth"]["key_id"]), (&json!(first.pid()), &json!(key_id)));
        let mut session = bridge(home)?;
        assert_eq!(call_text(&mut session, "echo", &json!({ "text": "one" }))?, "one");
        assert_eq!(Request::mcp(port, &calling("echo", &json!({}))).send()?.status, 401);
        assert_eq!(posting(port, &key, "echo", &json!({ "text": "x" })).send()?.status, 200);
        // While it runs the name is taken, and so is the workload.
        refused(proxy(home, &elsewhere.url()), 4, &["running", "thv stop"])?;
        interrupt(home, first)?;
        let answer = session.request("tools/list", &json!({}))?;
        assert_eq!(reason(&answer), NOT_RUNNING, "{answer}");

        let second = proxy(home, &elsewhere.url()).foreground()?;
        assert_eq!((second.port(), second.key_id()), (port, key_id.as_deref()));
        assert_eq!(home.key(NAME)?, key);
        assert_eq!(call_text(&mut session, "echo", &json!({ "text": "two" }))?, "two");
        end(session)?;
        interrupt(home, second)?;
        // It is a workload like any other: started in the background, stopped, removed.
        home.thv(["start", NAME]).output()?.expect(0)?;
        let mut session = bridge(home)?;
        assert_eq!(call_text(&mut session, "echo", &json!({ "text": "three" }))?, "three");
        end(session)?;
        home.thv(["rm", NAME]).output()?.expect(0)?;
        drop(elsewhere);
        super::nothing_left(home, &python)
    })
}

#[test]
fn it_can_stand_open_and_on_a_port_of_choice() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let elsewhere = Elsewhere::start(home, &python, &[])?;
        let port = super::free_port()?;
        let args = ["proxy", NAME, "--target-uri", &elsewhere.url(), "--port", &port.to_string()];
        let open = home.thv(args).foreground()?;
        assert_eq!((open.port(), open.key_id()), (port, None));
        let call = calling("echo", &json!({ "text": "x" }));
        assert_eq!(Request::mcp(port, &call).send()?.status, 200);
        let foreign = Request::mcp(port, &call).header("Origin", "https://evil.example").send()?;
        assert_eq!(foreign.status, 403);
        let mut session = bridge(home)?;
        assert_eq!(call_text(&mut session, "echo", &json!({ "text": "open" }))?, "open");
        end(session)?;
        interrupt(home, open)?;
        // A lock is not put on by the way.
        refused(proxy(home, &elsewhere.url()), 4, &["thv key enable|disable"])?;
        Ok(())
    })
}

#[test]
fn a_start_that_fails_leaves_nothing() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let elsewhere = Elsewhere::start(home, &python, &[])?;
        let url = elsewhere.url();
        drop(elsewhere);
        let output = proxy(home, &url).args(["--ready-timeout", "1s"]).output()?.expect(1)?;
        ensure!(output.stderr.contains(&url) && output.stdout.is_empty(), "{output:?}");
        super::nothing_left(home, &python)?;
        // An interrupt in the middle of the wait is as good.
        let mut waiting = proxy(home, &url).start()?;
        let folders = home.path().join("state/workloads");
        wait_until("it waits", STOP_BOUND, || Ok(folders.read_dir()?.next().is_some()))?;
        waiting.signal(Signal::INT)?;
        ensure!(waiting.wait(STOP_BOUND)? != Exit::Code(0), "{}", waiting.stderr());
        super::nothing_left(home, &python)
    })
}

#[test]
fn a_name_of_another_kind_is_not_taken_over() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let elsewhere = Elsewhere::start(home, &python, &[])?;
        home.detached(["--name", NAME, "--shared-key-auth", "--", DEMO_SERVER])?;
        let key = home.key(NAME)?;
        refused(proxy(home, &elsewhere.url()), 4, &[NAME])?;
        home.thv(["stop", NAME]).output()?.expect(0)?;
        refused(proxy(home, &elsewhere.url()), 4, &["another workload", NAME])?;
        assert_eq!(only_row(home)?["remote"], false);
        home.thv(["start", NAME]).output()?.expect(0)?;
        assert_eq!(home.key(NAME)?, key);
        crate::fixture::answers(home, NAME)?;
        home.thv(["rm", NAME]).output()?.expect(0).map(drop)
    })
}

/// `--key-fd 0` with these bytes on it, run to its end.
fn with_key(home: &Home, url: &str, key: &str) -> Result<Output> {
    proxy(home, url).args(["--key-fd", "0"]).stdin(key).output()
}

#[test]
fn a_key_on_a_descriptor_is_used_and_not_kept() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let elsewhere = Elsewhere::start(home, &python, &[])?;
        let url = elsewhere.url();
        let key = generated(home)?;
        for _ in 0..2 {
            let mut running = proxy(home, &url).args(["--key-fd", "0"]).start()?;
            running.send(format!("{key}\n").as_bytes())?;
            running.close_stdin();
            let ready = running.line(STOP_BOUND)?.unwrap_or_default();
            let ready = String::from_utf8_lossy(&ready).into_owned();
            ensure!(ready.starts_with(&format!("{NAME}  running  ")), "{ready}\n{}", running.stderr());
            let row = only_row(home)?;
            let port = row["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or_default();
            assert_eq!(posting(port, &key, "echo", &json!({ "text": "x" })).send()?.status, 200);
            assert_eq!(Request::mcp(port, &calling("echo", &json!({}))).send()?.status, 401);
            ensure!(
                ready.trim_end().ends_with(row["shared_key_auth"]["key_id"].as_str().unwrap_or("?")),
                "{row}"
            );
            assert_eq!(store_entries(home, &python)?, json!({}));
            let leaks = home.leaks()?;
            ensure!(leaks.is_empty(), "{leaks:?}");
            // A bridge has no key to show, and says so.
            let mut session = home.bridge(NAME)?;
            let answer = session.request("tools/list", &json!({}))?;
            assert_eq!(reason(&answer), (-33001, "key_missing"), "{answer}");
            end(session)?;
            running.signal(Signal::INT)?;
            assert_eq!(running.wait(STOP_BOUND)?, Exit::Code(0));
        }
        home.thv(["rm", NAME]).output()?.expect(0)?;

        for bad in [
            "",
            "hunter2",
            "correct horse battery staple",
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHg==",
            "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8= AAEC",
        ] {
            let output = with_key(home, &url, bad)?;
            ensure!(
                matches!(output.exit, Exit::Code(2 | 6)) && output.stdout.is_empty(),
                "{bad}: {output:?}"
            );
            ensure!(bad.is_empty() || !output.stderr.contains(bad), "{output:?}");
        }
        let output = with_key(home, &url, "correct horse battery staple")?.expect(6)?;
        ensure!(output.stderr.contains("generator"), "{output:?}");
        refused(proxy(home, &url).args(["--key-fd", "97"]), 2, &["97"])?;
        home.thv(["proxy", NAME, "--target-uri", &url, "--key-fd", "0"]).output()?.expect(2)?;
        drop(elsewhere);
        super::nothing_left(home, &python)
    })
}

#[test]
fn a_key_in_a_variable_is_taken_over_and_out_of_the_environment() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let elsewhere = Elsewhere::start(home, &python, &[])?;
        let url = elsewhere.url();
        let key = generated(home)?;
        let guarded = proxy(home, &url).env("TOOLHIVE_SHARED_KEY", &key).foreground()?;
        assert_eq!(posting(guarded.port(), &key, "echo", &json!({ "text": "x" })).send()?.status, 200);
        let environment = std::fs::read(format!("/proc/{}/environ", guarded.pid()));
        if let Ok(environment) = &environment {
            let environment = String::from_utf8_lossy(environment);
            ensure!(environment.contains("THV_HOME") && !environment.contains("TOOLHIVE"), "{environment}");
        }
        // That it can be read at all takes root, since the process is not dumpable.
        assert_eq!(environment.is_ok(), rustix::process::geteuid().is_root());
        let command = std::fs::read(format!("/proc/{}/cmdline", guarded.pid()))?;
        ensure!(command.starts_with(b"/") || command.starts_with(b"thv"), "{command:?}");
        let leaks = home.leaks()?;
        ensure!(leaks.is_empty(), "{leaks:?}");
        assert_eq!(store_entries(home, &python)?, json!({}));
        interrupt(home, guarded)?;

        for bad in ["hunter2", &"A".repeat(5000)] {
            let output = proxy(home, &url).env("TOOLHIVE_SHARED_KEY", bad).output()?.expect(6)?;
            ensure!(!output.stderr.contains(bad) && output.stdout.is_empty(), "{output:?}");
        }
        // An empty one is none: the key is made and kept.
        home.thv(["rm", NAME]).output()?.expect(0)?;
        let own = proxy(home, &url).env("TOOLHIVE_SHARED_KEY", "").foreground()?;
        assert_ne!(home.key(NAME)?, key);
        interrupt(home, own)?;
        home.thv(["rm", NAME]).output()?.expect(0)?;
        drop(elsewhere);
        super::nothing_left(home, &python)
    })
}
